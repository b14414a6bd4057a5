"""A model behind an OpenAI-compatible server that writes rationales, whatever becomes of the server meanwhile.

It is asked as a judge is (`osler.judging.server`). What cannot be written, or is refused twice, comes back without a rationale
and with its reason.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

from osler.errors import DataError
from osler.judging.breaker import Breaker
from osler.judging.served import Failed
from osler.judging.server import Server, tell
from osler.model.endpoint import Endpoint, api_key, opened_url
from osler.rationales.refusals import REFUSALS, Bounds, refusal
from osler.rationales.wording import VERSION, request_text, rules
from osler.runs import now
from osler.schema import Sample

FAILURES = {
    "rejected": "the server rejects the request itself",
    "failed": "the server failed, or did not answer, after all further tries",
    "garbage": "the server answered with what is no completion, is no text, or holds the key",
    "another": "another model than the one that was asked answered",
    "down": "the server was left alone after several failures in a row",
    "deadline": "the time was over",
}
"""Why there is no reply."""

_DOWN = ("failed", "garbage", "another")
_AGAIN = (*REFUSALS, "garbage")


@dataclass(frozen=True)
class Settings:
    """How rationales are asked for; our defaults. A reply that is refused is asked for once more, with `seed` + 1.

    Images of more than `max_pixels` are scaled down to it before they are sent.
    """

    see_images: bool = False
    seed: int = 0
    temperature: float = 0.7
    max_tokens: int = 512
    max_pixels: int = 1_003_520
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 4
    bounds: Bounds = field(default_factory=Bounds)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Attempt:
    """What came of asking for one rationale: the text and who wrote it (`by`), or None and the `reason`.

    `refused` names what was wrong with each reply that was not taken; tokens are None where the server counted none. Further
    tries of a request that failed are not counted as requests.
    """

    rationale: str | None = None
    by: dict[str, Any] | None = None
    reason: str | None = None
    refused: tuple[str, ...] = ()
    requests: int = 0
    seconds: float = 0.0
    tokens_in: int | None = None
    tokens_out: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "refused": list(self.refused)}

    def after(self, first: "Attempt") -> "Attempt":
        """This attempt with what was spent and refused on the `first` one."""
        return replace(
            self,
            refused=(*first.refused, *self.refused),
            requests=first.requests + self.requests,
            seconds=round(first.seconds + self.seconds, 4),
            tokens_in=added(first.tokens_in, self.tokens_in),
            tokens_out=added(first.tokens_out, self.tokens_out),
        )


def added(*counts: int | None) -> int | None:
    """The sum of the `counts` that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


class Author:
    """Writes rationales, in a `with` block. Errors: ModelError where the server is not fit for use before the first row."""

    def __init__(self, endpoint: Endpoint, settings: Settings | None = None, breaker: Breaker | None = None) -> None:
        self.endpoint, self.settings = endpoint, settings or Settings()
        asked, breaker = self.settings, breaker or Breaker(say=partial(tell, endpoint))
        self._server = Server(endpoint, asked.timeout_s, asked.retries, asked.concurrency, breaker)

    def __enter__(self) -> "Author":
        with ExitStack() as opening:
            server = opening.enter_context(self._server)
            server.check(self.settings.see_images)
            opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    def as_written(self, samples: Mapping[str, Sample], max_seconds: float | None = None) -> Iterator[tuple[str, Attempt]]:
        """The key and the attempt of each of `samples`, as they come; after `max_seconds` the rest has the reason `deadline`.

        Errors: DataError, with its row, where an image cannot be opened.
        """
        ends = None if max_seconds is None else time.monotonic() + max_seconds
        works = {key: partial(self._tries, sample) for key, sample in samples.items()}
        for key, found in self._server.each(works, lambda attempt: attempt.reason in _DOWN, ends):
            yield key, Attempt(reason=found.reason) if isinstance(found, Failed) else found

    async def _tries(self, sample: Sample) -> Attempt:
        images = sample.images if self.settings.see_images else ()
        urls = [await asyncio.to_thread(self._opened, sample, image) for image in images]
        first = await self._ask(sample, urls, self.settings.seed)
        if first.reason not in _AGAIN:
            return first
        return (await self._ask(sample, urls, self.settings.seed + 1)).after(first)

    def _opened(self, sample: Sample, image: str) -> str:
        try:
            return opened_url(image, self.settings.max_pixels)
        except DataError as error:
            raise DataError(f"{sample.origin or f'sample {sample.id!r}'}: {error}") from error

    async def _ask(self, sample: Sample, urls: list[str], seed: int) -> Attempt:
        messages = _messages(sample, urls, self.settings.see_images)
        started, asked = time.perf_counter(), self.settings
        request = {"messages": messages, "max_tokens": asked.max_tokens, "temperature": asked.temperature, "seed": seed}
        said = await self._server.ask({"model": self.endpoint.name, **request})
        if isinstance(said, Failed):
            return _without("rejected" if said.reason == "refused" else said.reason, started)
        reply = said.completion
        why = refusal(sample, reply, asked.bounds) if _can_be_kept(reply.text) else "garbage"
        return replace(
            _without(why, started),
            rationale=None if why else reply.text.strip(),
            by=None if why else self._by(messages, seed),
            tokens_in=said.tokens_in,
            tokens_out=reply.tokens,
        )

    def _by(self, messages: Any, seed: int) -> dict[str, Any]:
        """Where a rationale comes from; the hash is of the messages as they were sent, with their images."""
        return {
            "endpoint": self.endpoint.url,
            "model": self.endpoint.name,
            "prompt_version": VERSION,
            "saw_images": self.settings.see_images,
            "seed": seed,
            "sha256": sha256(json.dumps(messages).encode()).hexdigest(),
            "time": now(),
        }


def _messages(sample: Sample, urls: list[str], sees_images: bool) -> Any:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    text = {"type": "text", "text": request_text(sample)}
    return [{"role": "system", "content": rules(sees_images)}, {"role": "user", "content": [*images, text]}]


def _can_be_kept(text: str) -> bool:
    """Whether `text` is Unicode (JSON may hold half of a character) and the key does not stand in it."""
    key = api_key()
    return not (key and key in text) and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _without(reason: str | None, started: float) -> Attempt:
    """One request, begun at `started`, from which nothing is taken for `reason`."""
    refused = (reason,) if reason in _AGAIN else ()
    return Attempt(reason=reason, refused=refused, requests=1, seconds=round(time.perf_counter() - started, 4))
