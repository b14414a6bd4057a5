"""An LLM judge behind an OpenAI-compatible server: items in, judgements out, whatever becomes of the server meanwhile.

Connection, key and further tries are those of `osler.model.endpoint`. A batch has a deadline; what is not judged by then, or
cannot be, comes back unscored with its reason.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal
from openai import APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError

from osler.errors import ModelError
from osler.judging import prompts
from osler.judging.asking import Waiting, facts_of, in_order, key_of, once_each
from osler.judging.breaker import Breaker
from osler.judging.cache import ScoreCache
from osler.judging.prompts import Item
from osler.judging.replies import DOWN, RESPONSE_FORMAT, Judgement, Reply, judgement_of, read_reply, scored, unscored
from osler.model.endpoint import (
    ENDPOINT,
    Endpoint,
    api_key,
    check_with,
    closing,
    completion,
    connected,
    failure,
    no_completion,
    opened_url,
)
from osler.progress import console

_OF_THE_REQUEST = (400, 413, 422)
"""The statuses by which a server refuses one request, and others not."""

_TRIES_OF_A_CHECK = 2

_SECONDS_OF_A_CHECK = 60.0
"""How long one try of a check may take: a server may have to load its model first."""

_BETWEEN_TRIES_S = 10.0
"""The longest pause between two tries of a request, as the client makes them."""

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
        self._breaker = breaker or Breaker(say=lambda text: _tell(f"{endpoint}: {text}"))
        self._free = asyncio.Semaphore(self.settings.concurrency)
        self._stack = ExitStack()
        self._portal: BlockingPortal
        self._client: AsyncOpenAI

    def __enter__(self) -> "Judge":
        stack = self._stack.enter_context(closing())
        self._portal, client = connected(stack, self.endpoint, self.settings.timeout_s)
        self._client = client.with_options(max_retries=self.settings.retries)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def name(self) -> str:
        """The spec: `openai:URL#NAME`."""
        return f"{ENDPOINT}{self.endpoint.url}#{self.endpoint.name}"

    def asked(self) -> dict[str, Any]:
        """How it is asked: whether by schema (None before `check`), and the settings."""
        return {"json_schema": self.by_schema, **self.settings.to_json()}

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
            quick = min(_SECONDS_OF_A_CHECK, self.settings.timeout_s)
            patient = self._client.with_options(max_retries=_TRIES_OF_A_CHECK, timeout=quick)
            self._portal.call(check_with, self.endpoint, patient, self.settings.see_images)
            self.by_schema = self._portal.call(self._takes_schema)

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
        self._breaker.rearm()
        tasks = {self._portal.start_task_soon(self._judge, item, key, repeat): key for key, item in waiting.items()}
        try:
            for task in _until(tasks, ends):
                key, (judgement, reply) = tasks.pop(task), task.result()
                if reply and judgement.unscored is None:
                    self.cache.keep(key, reply)
                yield key, judgement
            yield from ((key, unscored("deadline")) for key in tasks.values())
        finally:
            for task in tasks:
                task.cancel()

    async def _judge(self, item: Item, key: str, repeat: int) -> tuple[Judgement, Reply | None]:
        async with self._free:
            found = await self._breaker.run(lambda: self._ask(item, key, repeat), lambda pair: pair[0].unscored in DOWN)
        return found or (unscored("down"), None)

    async def _ask(self, item: Item, key: str, repeat: int) -> tuple[Judgement, Reply | None]:
        images = item.images if self.settings.see_images else ()
        urls = [await asyncio.to_thread(opened_url, one, None) for one in images]
        request = self._request(prompts.request_text(item, key), urls, self.settings.seed + repeat, bool(self.by_schema))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._longest_s):  # the client bounds each part of an answer, and not the whole
                said: Any = await self._client.chat.completions.create(**request)
            text = completion(self.endpoint, said)
        except TimeoutError:
            return unscored("failed", "timeout", _since(started)), None
        except OpenAIError as error:
            return unscored(*_reason(error), _since(started)), None
        except (json.JSONDecodeError, ModelError):
            return unscored("garbage", None, _since(started)), None
        reply = _without_key(read_reply(text.text))
        tokens_in = getattr(said.usage, "prompt_tokens", None)
        return replace(
            judgement_of(item, text, reply),
            seconds=_since(started),
            tokens_in=tokens_in if isinstance(tokens_in, int) else None,
            tokens_out=text.tokens,
        ), reply

    @property
    def _longest_s(self) -> float:
        """The seconds after which an item, with all its further tries, is given up."""
        return (self.settings.retries + 1) * self.settings.timeout_s + self.settings.retries * _BETWEEN_TRIES_S

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

    async def _takes_schema(self, by_schema: bool = True) -> bool:
        """Whether a schema may be asked for; the request is tried with one, and without where that is refused."""
        request = self._request(prompts.request_text(_PROBE, ""), (), self.settings.seed, by_schema)
        try:
            completion(self.endpoint, await self._client.chat.completions.create(**request))
        except OpenAIError as error:
            if by_schema and _reason(error)[0] == "refused":
                return await self._takes_schema(by_schema=False)
            raise failure(self.endpoint, error, self.settings.retries) from None  # its request holds the key
        except json.JSONDecodeError as error:
            raise no_completion(self.endpoint, error.doc) from None
        return by_schema


def _until(tasks: dict["Future[Any]", str], ends: float | None) -> Iterator["Future[Any]"]:
    """The tasks as they are done, until the time `ends`."""
    left = None if ends is None else max(0.0, ends - time.monotonic())
    try:
        yield from as_completed(list(tasks), left)
    except TimeoutError:
        return


def _reason(error: OpenAIError) -> tuple[str, str]:
    """Why there are no scores, and the failure in a word: none of the server's own, which may hold the key."""
    if isinstance(error, APIStatusError):
        return "refused" if error.status_code in _OF_THE_REQUEST else "failed", f"HTTP {error.status_code}"
    return "failed", "timeout" if isinstance(error, APITimeoutError) else "connection"


def _without_key(reply: Reply | None) -> Reply | None:
    """`reply`, in whose words the key does not stand: a server may say whatever it was sent."""
    key = api_key()
    return reply.model_copy(update={"why": reply.why.replace(key, "...")}) if reply and key else reply


def _tell(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 4)
