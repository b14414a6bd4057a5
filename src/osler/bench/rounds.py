"""The rounds of a benchmark: the engines in turn, step by step, and how near the packed one comes to what the card can do."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import torch

from osler.bench.engines import ForcedGenerator, LengthsPG, Packed, Phases, Trl, made_engine, now
from osler.bench.limits import copy_rate, decode_bytes, matmul_rate, packed_tokens, size_of, update_flops
from osler.bench.worker import OUT_OF_MEMORY, OutOfMemory
from osler.bench.workload import BenchSettings, Workload
from osler.model.generate import Request
from osler.model.prompts import encode
from osler.progress import Tick

PHASES = ("step_s", "rollout_s", "reference_s", "update_s", "other_s")


def rows_a_forward(settings: BenchSettings, engine: str) -> list[int]:
    """Completions a forward that `engine` may take, the most first: whole groups, and for TRL parts of one."""
    whole = [settings.G * groups for groups in range(settings.groups, 0, -1) if settings.groups % groups == 0]
    return whole + (cuts(settings.G) if engine == "trl" else [])


def cuts(G: int) -> list[int]:
    """The parts of a group that go into it without a rest, the largest first."""
    return [rows for rows in range(G - 1, 0, -1) if G % rows == 0]


def worth_trying(rows: int, tried: Mapping[int, float | str], G: int) -> bool:
    """Whether `rows` a forward could be the fastest, after those `tried`, which were more.

    One group always; of several groups the most that fit; parts of a group as long as fewer rows were faster.
    """
    fits = _fits(tried)
    if rows == G or not fits:
        return True
    return rows < G and list(tried)[-1] == min(fits, key=lambda one: fits[one])


def _fits(tried: Mapping[int, float | str]) -> dict[int, float]:
    return {rows: seconds for rows, seconds in tried.items() if not isinstance(seconds, str)}


def trial_seconds(made: Packed | Trl, lengths_PG: LengthsPG, threads: int) -> float:
    """Seconds of a step of `made`. With one thread on a CPU in processor time: trials are not made in turn, and what else runs
    on the machine must not choose the setting."""
    phases = made.step(lengths_PG)
    return phases.step_s if threads > 1 or torch.cuda.is_available() else phases.processor_s


@contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """Inside, that torch runs out of memory is an OutOfMemory that says `otherwise`."""
    try:
        yield
    except RuntimeError as error:
        if not _ran_out(error):
            raise
        raise OutOfMemory(otherwise) from error


def _ran_out(error: BaseException | None) -> bool:
    """Whether `error` is torch's for memory, or came of one: a capture that runs out of it fails once more as it is ended."""
    while error and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


class Rounds:
    """The rounds, made: `engines` has the medians of each engine, `lengths` what was generated, `notes` what went wrong."""

    def __init__(self, work: Workload, engines: Sequence[str], prompt_tokens: int, tick: Tick) -> None:
        self.work, self.settings, self.prompt_tokens, self.tick = work, work.settings, prompt_tokens, tick
        self.engines: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.lengths = [self._draw(number) for number in range(1, work.settings.rounds + 1)]
        packed = self._timed({name: self._fastest(name) for name in engines})
        free_memory()
        if packed:
            self.engines["packed"]["limits"] = self._limits(packed) if torch.cuda.is_available() else None

    def _timed(self, fastest: Mapping[str, int]) -> Packed | None:
        """Go through the rounds. The packed engine as it stands then; TRL's is gone."""
        alone = f"{', '.join(fastest)} does not fit any more in the rounds. Lower groups, G or image_px."
        together = "both engines together do not fit. Name one with --engines, or lower groups."
        with enough_memory(together if len(fastest) > 1 else alone), ExitStack() as stack:
            packed = stack.enter_context(Packed(self.work, fastest["packed"])) if "packed" in fastest else None
            trl = stack.enter_context(Trl(self.work, fastest["trl"])) if "trl" in fastest else None
            self._warm(packed, trl)
            self._rounds(packed, trl)
        return packed

    def _limits(self, packed: Packed) -> dict[str, Any] | None:
        """How near `packed` comes to what the card can do; None, with a note, where there is no memory to find out."""
        try:
            with enough_memory("The share of the card's limits is not measured: it ran out of memory. Lower groups."):
                found = limits(packed, self)
        except OutOfMemory as error:
            self.notes.append(str(error))
            return None
        return found

    def _draw(self, number: int) -> LengthsPG:
        return self.settings.lengths.draw(self.settings.groups, self.settings.G, self.settings.seed + number)

    def _fastest(self, engine: str) -> int:
        """The rows a forward with which `engine` is the fastest, of those that are worth trying."""
        tried: dict[int, float | str] = {}
        for rows in rows_a_forward(self.settings, engine):
            if worth_trying(rows, tried, self.settings.G):
                tried[rows] = self._try(engine, rows)
                free_memory()
                self.tick(f"{engine}, {rows} rows a forward: {tried[rows]}")
        fits = _fits(tried)
        if not fits:
            raise OutOfMemory(
                f"{engine} ran out of memory with {min(tried)} rows a forward. Choose a smaller G or image_px, or leave it out "
                "of --engines."
            )
        best = min(fits, key=lambda rows: fits[rows])
        self.engines[engine] = {"rows_a_forward": best, "step_s_by_rows_a_forward": {str(k): v for k, v in tried.items()}}
        return best

    def _try(self, engine: str, rows: int) -> float | str:
        """Seconds of the quicker of two steps after the first; or that it does not fit."""
        try:
            with enough_memory(OUT_OF_MEMORY), made_engine(engine, self.work, rows) as made:
                made.step(self._draw(0))
                seconds = min(trial_seconds(made, self._draw(0), self.settings.threads) for _ in range(2))
        except OutOfMemory as error:
            return str(error)
        return seconds

    def _warm(self, packed: Packed | None, trl: Trl | None) -> None:
        """The first step of each engine."""
        if packed:
            self.engines["packed"]["first_step_s"] = packed.prepare_s + packed.step(self._draw(0)).step_s
        if trl:
            self.engines["trl"]["first_step_s"] = trl.step(self._draw(0)).step_s

    def _rounds(self, packed: Packed | None, trl: Trl | None) -> None:
        rows: dict[str, list[Phases]] = {name: [] for name in ("packed", "uncached", "trl", "scored_head")}
        for number, lengths_PG in enumerate(self.lengths, 1):
            if packed:
                rows["packed"].append(packed.step(lengths_PG))
            if trl:
                rows["trl"].append(trl.step(lengths_PG))
            if packed:
                rows["uncached"].append(packed.step(lengths_PG, cached=False))
            if trl and not torch.cuda.is_available():
                rows["scored_head"].append(trl.step(lengths_PG, scored_head=True))
            self.tick(f"round {number} of {len(self.lengths)} done")
        tokens = fmean(sum(map(sum, lengths_PG)) for lengths_PG in self.lengths)
        for name in self.engines:
            self.engines[name] = {**_medians(rows[name], tokens), **self.engines[name]}
        if packed:
            self.engines["packed"]["tower_every_step"] = _medians(rows["uncached"], tokens)
        if rows["scored_head"]:
            self.engines["trl"]["head_on_completions_only"] = _medians(rows["scored_head"], tokens)


def free_memory() -> None:
    """Give back what a trainer left on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _medians(rows: Sequence[Phases], tokens: float) -> dict[str, Any]:
    """Medians over the rounds, the phases' shares of the step, and every round's seconds; `tokens` completion tokens a step."""
    found: dict[str, Any] = {name: median(getattr(row, name) for row in rows) for name in (*PHASES, "processor_s")}
    total = sum(found[name] for name in PHASES[1:])
    shares = {name.removesuffix("_s"): found[name] / total for name in PHASES[1:]}
    decode = [row.decode_s for row in rows if row.decode_s is not None]
    if decode:
        found["decode_s"] = median(decode)
    return {**found, "tokens_per_s": tokens / found["step_s"], "share": shares, "rounds": [asdict(row) for row in rows]}


def limits(packed: Packed, timed: Rounds) -> dict[str, Any]:
    """How near the packed engine comes to what the card can do, over the rounds."""
    settings, prompt_tokens = timed.settings, timed.prompt_tokens
    weights = packed.engine.learner.vlm.model.get_input_embeddings().weight
    size, found = size_of(settings.model), timed.engines["packed"]
    copied, multiplied = copy_rate(weights.device), matmul_rate(weights.device, weights.dtype)
    flat = [[length for lengths_G in lengths_PG for length in lengths_G] for lengths_PG in timed.lengths]
    read = fmean(decode_bytes(size, prompt_tokens, lengths, weights.element_size()) for lengths in flat)
    flops = fmean(
        update_flops(size, packed_tokens(prompt_tokens, lengths_PG), sum(map(sum, lengths_PG))) for lengths_PG in timed.lengths
    )
    return {
        "copy_bytes_per_s": copied,
        "matmul_flops_per_s": multiplied,
        "decode_floor_s": read / copied,
        "decode_share": read / copied / found["decode_s"] if read else None,  # of one token each, nothing is decoded
        "rollout_share": read / copied / found["rollout_s"],
        "update_flops": flops,
        "update_mfu": flops / found["update_s"] / multiplied,
        "captured_equals_eager": captured_equals_eager(packed, timed.lengths[-1]),
    }


def captured_equals_eager(packed: Packed, lengths_PG: LengthsPG) -> dict[str, Any]:
    """Whether captured and eager decode give the same tokens to the same prompts; the seconds of both."""
    engine, roller = packed.engine, packed.engine.roller
    prompts = [encode(roller.vlm, roller.store, roller.prompt(sample)) for sample in roller.samples]
    requests = [Request(prompt, roller.seeds(place)) for place, prompt in enumerate(prompts)]
    sampled: list[dict[tuple[int, int], list[int]]] = []
    seconds = []
    for captured in (True, False):
        generator = ForcedGenerator.like(packed.generator, captured)
        generator.lengths_PG = lengths_PG
        with engine.learner.sampling():
            list(generator.run(requests))  # captures its graphs
            started = now()
            sampled.append({(request, row): one.ids for request, row, one in generator.run(requests)})
            seconds.append(now() - started)
    pairs = [(sampled[0][key], sampled[1][key]) for key in sampled[0]]
    same = sum(ours == theirs for ours, theirs in pairs)
    return {
        "equal": same == len(pairs),
        "rows_alike": same,
        "rows": len(pairs),
        "captured_s": seconds[0],
        "eager_s": seconds[1],
    }
