"""An LLM judge behind an OpenAI-compatible server: items in, judgements out, whatever becomes of the server meanwhile.

A batch has a deadline; what is not judged by then, or cannot be, comes back unscored with its reason.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from osler.judging import prompts
from osler.judging.asking import Waiting, facts_of, in_order, key_of, once_each
from osler.judging.breaker import Breaker
from osler.judging.cache import ScoreCache
from osler.judging.prompts import Item
from osler.judging.replies import DOWN, RESPONSE_FORMAT, Judgement, Reply, judgement_of, read_reply, scored, unscored
from osler.judging.served import Failed, without_key
from osler.judging.server import Server, tell
from osler.model.endpoint import ENDPOINT, Endpoint, opened_url

_PROBE = Item("Is ice cold?", ("yes",), "yes", "Ice is frozen water, so it is cold.")


@dataclass(frozen=True)
class Settings:
    """How a judge is asked. All but the last three change the scores, and so belong to their key.

    A local judge is asked greedily and in batches of its own: `temperature` must be 0, and it needs the first two alone.
    """

    see_images: bool = False
    max_tokens: int = 300
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 4

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class Judge:
    """A judge to be used in a `with` block; its breaker stays open or closed from one batch to the next.

    The server is checked before the first item is sent: errors are ModelError there, and reasons in a judgement later.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings | None = None,
        cache: ScoreCache | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.endpoint, self.settings = endpoint, settings or Settings()
        self.cache = cache or ScoreCache()
        self.by_schema: bool | None = None
        breaker = breaker or Breaker(say=partial(tell, endpoint))
        self._server = Server(endpoint, self.settings.timeout_s, self.settings.retries, self.settings.concurrency, breaker)

    def __enter__(self) -> "Judge":
        self._server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    @property
    def name(self) -> str:
        """The spec: `openai:URL#NAME`."""
        return f"{ENDPOINT}{self.endpoint.url}#{self.endpoint.name}"

    def asked(self) -> dict[str, Any]:
        """How it is asked: whether by schema, and who answered the check (both None before it), and the settings."""
        return {"json_schema": self.by_schema, "answers_as": self._server.answers_as, **self.settings.to_json()}

    def key(self, item: Item, repeat: int = 0) -> str:
        """64 hexadecimal digits that stand for all that the scores of `item` depend on. Errors: DataError for its images."""
        asked, sees = self.settings, self.settings.see_images
        facts = {
            "judge": [self.endpoint.url, self.endpoint.name],
            "prompt": [prompts.VERSION, prompts.LONGEST, prompts.rules(sees)],
            "item": facts_of(item, sees),
            "asked": [asked.max_tokens, asked.temperature, asked.seed, repeat],
        }
        return key_of(facts)

    def kept(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` that the cache holds under its `key`, None where it holds none."""
        reply = self.cache.find(key)
        return replace(scored(item, reply), cached=True) if reply else None

    def check(self) -> None:
        """Nothing, where the server serves this model to this key; finds out whether it takes a schema. Errors: ModelError."""
        if self.by_schema is None:
            probes = [self._request(prompts.request_text(_PROBE, ""), (), self.settings.seed, by) for by in (True, False)]
            self.by_schema = self._server.check(self.settings.see_images, *probes) == 0

    def score(self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0) -> list[Judgement]:
        """The judgement of each of `items`, in order. Errors: as `as_scored`."""
        return in_order(self.as_scored(items, max_seconds, repeat))

    def as_scored(
        self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0
    ) -> Iterator[tuple[int, Judgement]]:
        """The place and the judgement of each of `items`, as they come; equal ones are asked once.

        After `max_seconds` the rest comes unscored; the check before the first batch is not bounded by it. `repeat` numbers
        askings of the same items that share no cache.
        Errors: ModelError where the server is not fit for use from the start; DataError where an image cannot be opened.
        """
        ends = None if max_seconds is None else time.monotonic() + max_seconds
        keys = [self.key(item, repeat) for item in items]
        yield from once_each(items, keys, self.kept, partial(self._asked, ends, repeat))

    def _asked(self, ends: float | None, repeat: int, waiting: Waiting) -> Iterator[tuple[str, Judgement]]:
        self.check()
        works = {key: partial(self._ask, item, key, repeat) for key, item in waiting.items()}
        for key, found in self._server.each(works, lambda pair: pair[0].unscored in DOWN, ends):
            if isinstance(found, Failed):
                yield key, unscored(found.reason)
                continue
            judgement, reply = found
            if reply and judgement.unscored is None:
                self.cache.keep(key, reply)
            yield key, judgement

    async def _ask(self, item: Item, key: str, repeat: int) -> tuple[Judgement, Reply | None]:
        images = item.images if self.settings.see_images else ()
        urls = [await asyncio.to_thread(opened_url, one, None) for one in images]
        request = self._request(prompts.request_text(item, key), urls, self.settings.seed + repeat, bool(self.by_schema))
        started = time.perf_counter()
        said = await self._server.ask(request)
        seconds = round(time.perf_counter() - started, 4)
        if isinstance(said, Failed):
            return unscored(said.reason, said.detail, seconds), None
        reply = _without_key(read_reply(said.completion.text))
        judgement = judgement_of(item, said.completion, reply)
        if said.thought_only and judgement.unscored == "unparseable":
            judgement = replace(judgement, detail="it thought, and said nothing")
        return replace(judgement, seconds=seconds, tokens_in=said.tokens_in, tokens_out=said.completion.tokens), reply

    def _request(self, text: str, urls: Sequence[str], seed: int, by_schema: bool) -> dict[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        rules = {"role": "system", "content": prompts.rules(self.settings.see_images)}
        asked = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
        return {
            "model": self.endpoint.name,
            "messages": [rules, asked],
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "seed": seed,
            **({"response_format": RESPONSE_FORMAT} if by_schema else {}),
        }


def _without_key(reply: Reply | None) -> Reply | None:
    return reply.model_copy(update={"why": without_key(reply.why)}) if reply else None
