"""Completions: one prefill a prompt, its keys and values shared by all its completions, finished rows replaced by waiting ones.

The same generator rolls out (G sampled completions a prompt, with their log-probs) and evaluates (one greedy completion).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor

from osler.config import FeatureSettings
from osler.model.attention import base_model, hidden_states, install
from osler.model.decoding import Decoder, Prefill, Slots, banned_mask
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.packing import Group, PackedPolicy, micro_batches, pack
from osler.model.prompts import Encoded, Prompt, encode
from osler.model.sampling import GREEDY, Sampling, choose, seed_of, uniforms
from osler.schema import Completion

PREFILL_TOKENS = 8192
"""Prompt tokens in one prefill, at most, unless a single prompt is longer."""

BURST = 8
"""Tokens that a captured decode adds before the host looks which rows are done."""

STRIDE = 256
"""Places of a slot are rounded up to a multiple of this, so that a longer prompt seldom asks for new memory."""


@dataclass(frozen=True)
class Request:
    """A prompt, and one seed for each completion that is wanted of it."""

    prompt: Encoded
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """A completion as sampled: token ids with the end, if it came; the log-prob of each; whether it was cut off."""

    ids: list[int]
    logps: list[float]
    truncated: bool


@dataclass
class _Row:
    """A completion that is being made: the `completion`-th of the `request`-th request."""

    request: int
    completion: int
    prompt_length: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


@dataclass
class _Waiting:
    """A prefilled prompt and its completions that have no slot yet; `first_G` are their first tokens."""

    request: int
    next_position: int
    kv_L2hSd: Tensor
    first_G: Tensor
    logps_G: Tensor
    uniform_GT: Tensor
    rows: deque[int]


class Generator:
    """Decodes up to `rows` completions of a model side by side. It keeps its memory, and on a GPU its captured graphs."""

    def __init__(self, vlm: VLM, sampling: Sampling, max_tokens: int, rows: int = 64, captured: bool | None = None) -> None:
        self.vlm, self.sampling, self.max_tokens, self.rows = vlm, sampling, max_tokens, rows
        self.text = install(vlm.model)
        self.policy = PackedPolicy(vlm.model)
        self.captured = vlm.device.type == "cuda" if captured is None else captured
        self.ends = frozenset(vlm.end_ids)
        self._decoder: Any = None  # made when the first row is placed
        self._live: list[_Row] = []
        self._waiting: deque[_Waiting] = deque()

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, int, Sampled]]:
        """(request, completion, sampled) of every completion, in the order in which they end.

        Requests are read as slots become free, so that they may be many and made when asked for.
        """
        self._live, self._waiting = [], deque()
        source = enumerate(requests)
        while True:
            yield from self._fill(source)
            if not self._live:
                return
            yield from self._decode()

    @torch.no_grad()
    def _fill(self, source: Iterator[tuple[int, Request]]) -> Iterator[tuple[int, int, Sampled]]:
        """Prefill and place waiting rows, once a quarter of the slots is free; what ended with its first token.

        Those are handed out as they come: where many do, many more are read before the slots are full.
        """
        if self._live and self.rows - len(self._live) < max(1, self.rows // 4):
            return
        while len(self._live) < self.rows:
            if not self._waiting:
                self._prefill(source)
            if not self._waiting:
                return
            ended = self._place(self._waiting[0])
            if not self._waiting[0].rows:
                self._waiting.popleft()
            yield from ended

    def _prefill(self, source: Iterator[tuple[int, Request]]) -> None:
        """Read as many requests as there is room for, and run their prompts."""
        asked: list[tuple[int, Request]] = []
        room = self.rows - len(self._live)
        while room > 0 and (more := list(islice(source, 1))):
            asked += more
            room -= len(more[0][1].seeds)
        for batch in micro_batches([request.prompt.length for _, request in asked], PREFILL_TOKENS):
            self._prefill_batch([asked[number] for number in batch])

    def _prefill_batch(self, asked: Sequence[tuple[int, Request]]) -> None:
        packed = pack([Group(request.prompt, ()) for _, request in asked], self.vlm.processor.image_token_id).to(
            self.vlm.device
        )
        layout = Prefill(packed.layout)
        states_SD = hidden_states(self.text, self.policy.embed(packed), packed.positions_31S, layout)[0]
        head = base_model(self.vlm.model).lm_head
        logits_NV = head(states_SD.index_select(0, packed.last_N))
        banned_V, kv_L2hSd, start = banned_mask(self.sampling, head), layout.kv_L2hSd, 0
        for (number, request), logits_V in zip(asked, logits_NV, strict=True):
            uniform_GT = uniforms(request.seeds, self.max_tokens).to(logits_V.device)
            first_G, logps_G = choose(logits_V.expand(len(request.seeds), -1), self.sampling, uniform_GT[:, 0], banned_V)
            kv = kv_L2hSd[:, :, :, start : start + request.prompt.length]
            start += request.prompt.length
            position, rows = request.prompt.next_position, deque(range(len(request.seeds)))
            self._waiting.append(_Waiting(number, position, kv, first_G, logps_G, uniform_GT, rows))

    def _place(self, waiting: _Waiting) -> list[tuple[int, int, Sampled]]:
        """Put the rows of `waiting` into free slots; those that ended with their first token are returned instead."""
        tokens, logps = waiting.first_G.tolist(), waiting.logps_G.tolist()
        ended: list[tuple[int, int, Sampled]] = []
        placed: list[_Row] = []
        while waiting.rows and len(self._live) + len(placed) < self.rows:
            completion = waiting.rows.popleft()
            row = _Row(waiting.request, completion, waiting.kv_L2hSd.shape[3])
            if self._add(row, tokens[completion], logps[completion]):
                ended.append(self._result(row))
            else:
                placed.append(row)
        if placed:
            slots, first = self._slots(waiting.kv_L2hSd.shape[3]), len(self._live)
            chosen = torch.tensor([row.completion for row in placed], device=waiting.first_G.device)
            first_B, uniform_BT = waiting.first_G[chosen], waiting.uniform_GT[chosen]
            at = slice(first, first + len(placed))
            slots.place(at, waiting.kv_L2hSd, first_B, waiting.next_position, uniform_BT)
            self._live += placed
        return ended

    @torch.inference_mode()
    def _decode(self) -> list[tuple[int, int, Sampled]]:
        """Add tokens to all live rows, free the slots of those that are done, and return these."""
        filled = max(row.prompt_length + len(row.ids) - 1 for row in self._live)
        left = self.max_tokens - min(len(row.ids) for row in self._live)
        tokens, logps, slots = [], [], self._decoder.slots
        for ahead in range(min(BURST, left) if self.captured else 1):
            self._decoder.step(len(self._live), filled + ahead)
            tokens.append(slots.tokens_B[: len(self._live)].clone())
            logps.append(slots.logps_B[: len(self._live)].clone())
        columns = zip(torch.stack(tokens, 1).tolist(), torch.stack(logps, 1).tolist(), strict=True)
        done = [slot for slot, (row, column) in enumerate(zip(self._live, columns, strict=True)) if self._extend(row, *column)]
        return [self._free(slot) for slot in reversed(done)]

    def _extend(self, row: _Row, tokens: list[int], logps: list[float]) -> bool:
        return any(self._add(row, token, logp) for token, logp in zip(tokens, logps, strict=True))

    def _add(self, row: _Row, token: int, logp: float) -> bool:
        """Give `row` its next token; whether that was its last."""
        row.ids.append(token)
        row.logps.append(logp)
        return token in self.ends or len(row.ids) == self.max_tokens

    def _free(self, slot: int) -> tuple[int, int, Sampled]:
        """Take the row out of `slot`, into which the last live one moves."""
        row, last = self._live[slot], len(self._live) - 1
        if slot != last:
            self._decoder.slots.move(last, slot)
            self._live[slot] = self._live[last]
        self._live.pop()
        return self._result(row)

    def _result(self, row: _Row) -> tuple[int, int, Sampled]:
        return row.request, row.completion, Sampled(row.ids, row.logps, row.ids[-1] not in self.ends)

    def _slots(self, prompt_length: int) -> Slots:
        """Slots that have places enough for such a prompt and its completion."""
        needed = -(-(prompt_length + self.max_tokens) // STRIDE) * STRIDE
        if self._decoder is None or self._decoder.slots.length < needed:
            if not self._live:
                self._decoder = None  # nothing to carry over: its memory goes before new is asked for
            old = self._decoder.slots if self._decoder else None
            slots = old.grown(needed, self.max_tokens) if old else Slots(self.text, self.rows, needed, self.max_tokens)
            self._decoder = Decoder(self.vlm.model, self.text, slots, self.sampling, self.captured)
        found: Slots = self._decoder.slots
        return found


def generate(
    vlm: VLM,
    prompts: Iterable[Prompt],
    max_tokens: int,
    rows: int = 64,
    store: FeatureStore | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> Iterator[Completion]:
    """One completion a prompt, in the order of `prompts`, which are read as they are needed; greedy without a `temperature`.

    Special tokens other than the ends are banned. Equal prompts in a row are prefilled once; each completion draws by a seed of
    its own, of `seed` and its place. Where a prompt says how its completion begins, the completion is what the model adds.
    Without a `store` of features they are kept in RAM for this call.
    """
    vlm.model.eval()
    store = store or FeatureStore(vlm, FeatureSettings(disk_gb=0))
    sampling = greedy(vlm) if temperature is None else replace(greedy(vlm), temperature=temperature)
    generator = Generator(vlm, sampling, max_tokens, rows)
    early: dict[int, Completion] = {}
    starts: list[int] = []
    following = 0

    def requests() -> Iterator[Request]:
        place = 0
        for prompt, same in groupby(prompts):
            seeds = tuple(seed_of(seed, at) for at, _ in enumerate(same, place))
            starts.append(place)
            place += len(seeds)
            yield Request(encode(vlm, store, prompt), seeds)

    for number, completion, sampled in generator.run(requests()):
        early[starts[number] + completion] = completion_of(vlm, sampled)
        while following in early:
            yield early.pop(following)
            following += 1


def greedy(vlm: VLM) -> Sampling:
    """Greedy decoding in which the special tokens of `vlm` are banned."""
    return Sampling(GREEDY.temperature, banned=tuple(vlm.banned_ids))


def completion_of(vlm: VLM, sampled: Sampled) -> Completion:
    """`sampled` as text."""
    ids = sampled.ids if sampled.truncated else sampled.ids[:-1]
    tokenizer: Any = vlm.processor.tokenizer
    return Completion(tokenizer.decode(ids, skip_special_tokens=True), len(sampled.ids), sampled.truncated)
