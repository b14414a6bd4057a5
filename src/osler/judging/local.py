"""A judge that is a model on this machine: items in, judgements out, in batches. What kind of model it is, its subclass says.

A model is the same as long as its files are: keys hold a hash of a folder's files, and the commit of a hub name. Decoding is
greedy, so that asking again (`repeat`) tells no more than whether the machine computes the same again.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from osler.errors import RecipeError
from osler.judging import prompts
from osler.judging.asking import Waiting, facts_of, in_order, key_of, once_each
from osler.judging.cache import ScoreCache
from osler.judging.client import Settings
from osler.judging.prompts import Item
from osler.judging.replies import Judgement, Odds, Reply, unscored
from osler.model.load import TINY, dtype_of

BATCH = 8
"""Items in a forward."""

SHORTEST = 50
"""Characters to which the texts of an item are cut, at least, before it counts as too long."""

PURPOSE = "judge: {name} cannot judge"
"""How messages about a model begin."""

_TELLING = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""The endings of files that decide what a model says: its weights, settings, tokenizer and chat template."""

Said = tuple[Judgement, Reply | Odds | None]
"""A judgement, and what is kept of it."""


@dataclass(frozen=True)
class Ready:
    """An `item` as its model reads it: `request` is the subclass's own, of so many `tokens`, with texts of `longest` signs."""

    key: str
    item: Item
    request: Any
    tokens: int
    longest: int


class LocalJudge(ABC):
    """A judge in memory, to be used in a `with` block; it is loaded by `check`, or when it is first asked."""

    kind: ClassVar[str]

    def __init__(self, model: str, settings: Settings | None = None, cache: ScoreCache | None = None) -> None:
        self.model, self.settings, self.cache = model, settings or Settings(), cache or ScoreCache()
        self.path = str(TINY) if model == "tiny" else model
        self.loaded: Any = None
        if self.settings.temperature:
            raise RecipeError(f"{self.name}: a local judge decodes greedily. Leave its temperature at 0.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.loaded = None

    @property
    def name(self) -> str:
        """The spec: its kind and its model."""
        return f"{self.kind}:{self.model}"

    def asked(self) -> dict[str, Any]:
        """How it is asked, by which files of the model, on what device and in which type of number."""
        asked = {"see_images": self.settings.see_images, "max_tokens": self.settings.max_tokens}
        return {**asked, "files": self._files, "arithmetic": self._arithmetic}

    def check(self) -> None:
        """Nothing, once the model is loaded. Errors: ModelError where it cannot be."""
        if self.loaded is None:
            self.loaded = self.load()

    def key(self, item: Item, repeat: int = 0) -> str:
        """64 hexadecimal digits that stand for all that the scores of `item` depend on. Errors: DataError for its images."""
        facts = {
            "judge": [self.kind, self._files, self._arithmetic],
            "prompt": [prompts.VERSION, prompts.LONGEST, SHORTEST],
            "item": facts_of(item, self.settings.see_images),
            "asked": self.facts(),
            "repeat": repeat,
        }
        return key_of(facts)

    def kept(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` that the cache holds under its `key`, None where it holds none."""
        found = self.read(item, key)
        if found is None:
            return None
        ready = self._ready(item, key)
        return replace(found, cached=True, shortened=ready is None or item.exceeds(ready.longest))

    def score(self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0) -> list[Judgement]:
        """The judgement of each of `items`, in order. Errors: as `as_scored`."""
        return in_order(self.as_scored(items, max_seconds, repeat))

    def as_scored(
        self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0
    ) -> Iterator[tuple[int, Judgement]]:
        """The place and the judgement of each of `items`, as they come; equal ones are asked once.

        After `max_seconds` no further batch is begun, and the rest comes unscored; loading is not bounded by it. The order of
        the batches has nothing to do with their length, so that a deadline leaves out long items as often as short ones.
        Errors: ModelError where the model cannot be loaded; DataError where an image cannot be opened.
        """
        keys = [self.key(item, repeat) for item in items]
        yield from once_each(items, keys, self.kept, partial(self._asked, max_seconds))

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """All that its scores depend on besides model, images and item, as plain JSON values."""

    @abstractmethod
    def load(self) -> Any:
        """The model, ready to be asked."""

    @abstractmethod
    def read(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` by what the cache holds under `key`."""

    @abstractmethod
    def request(self, item: Item, key: str, longest: int) -> tuple[Any, int]:
        """What is asked about `item`, of whose texts at most `longest` characters are shown, and its length in tokens."""

    @abstractmethod
    def room(self, item: Item) -> int:
        """The tokens that a request about `item` may have."""

    @abstractmethod
    def judged(self, batch: Sequence[Ready]) -> list[Said]:
        """What the model says of each of the `batch`."""

    def _asked(self, max_seconds: float | None, waiting: Waiting) -> Iterator[tuple[str, Judgement]]:
        self.check()
        ends = None if max_seconds is None else time.monotonic() + max_seconds
        readied = {key: self._ready(item, key) for key, item in waiting.items()}
        yield from ((key, unscored("too_long")) for key, one in readied.items() if one is None)
        for batch in _batches([one for one in readied.values() if one]):
            if ends is not None and time.monotonic() >= ends:
                yield from ((one.key, unscored("deadline")) for one in batch)
                continue
            started = time.perf_counter()
            said = self.judged(batch)
            seconds = round((time.perf_counter() - started) / len(batch), 4)
            for one, (judgement, scores) in zip(batch, said, strict=True):
                if scores and judgement.unscored is None:
                    self.cache.keep(one.key, scores)
                yield one.key, replace(judgement, seconds=seconds, shortened=one.item.exceeds(one.longest))

    def _ready(self, item: Item, key: str) -> Ready | None:
        """`item` with its texts cut in half until the model can read it; None where it cannot even then."""
        longest, room = prompts.LONGEST, self.room(item)
        while longest >= SHORTEST:
            request, tokens = self.request(item, key, longest)
            if tokens <= room:
                return Ready(key, item, request, tokens, longest)
            longest //= 2
        return None

    @cached_property
    def _files(self) -> list[str | None]:
        return _fingerprint(self.path)

    @cached_property
    def _arithmetic(self) -> list[str]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return [device, str(dtype_of("auto", device))]


def _batches(ready: Sequence[Ready]) -> list[list[Ready]]:
    """Batches of requests of about the same length, in an order that is drawn by their keys."""
    by_length = sorted(ready, key=lambda one: (one.tokens, one.key))
    batches = [by_length[at : at + BATCH] for at in range(0, len(by_length), BATCH)]
    return sorted(batches, key=lambda batch: batch[0].key)


def _fingerprint(model: str) -> list[str | None]:
    """What tells the model called `model` from another: a hash of its folder's files; of a hub name, the name and commit."""
    from transformers import AutoConfig

    folder = Path(model)
    if not folder.is_dir():
        return [model, getattr(AutoConfig.from_pretrained(model, trust_remote_code=False), "_commit_hash", None)]
    digest = sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in _TELLING):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return [digest.hexdigest()]
