"""`osler bench`: one recipe on each engine, side by side in one run, with what the numbers mean printed beside them.

parity      in a process of its own: both engines on the same completions
time        rounds in turn (packed, trl, packed, trl, ...), so that a busy machine is busy for all; medians over the rounds
memory      in a process of its own for each engine and setting
"""

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from osler.bench.limits import DEFINITIONS
from osler.bench.rounds import PHASES, Rounds, cuts, free_memory
from osler.bench.worker import OUT_OF_MEMORY, OutOfMemory, run_job
from osler.bench.workload import BenchSettings, Workload
from osler.errors import RecipeError
from osler.model.family import set_threads
from osler.model.preflight import visible_gpus
from osler.progress import console
from osler.runs import environment
from osler.runs import now as today

NEEDS = {"trl-vllm": "vllm", "unsloth": "unsloth"}
"""Packages of engines that are not osler's own."""

Job = Callable[[dict[str, Any]], dict[str, Any]]


def bench(settings: BenchSettings, job: Job = run_job) -> dict[str, Any]:
    """Everything measured, as one JSON object; see DEFINITIONS. `job` does what needs a process of its own.

    Errors: RecipeError where no engine that was asked for can be measured, several GPUs are visible, or the prompt does not
    fit; OutOfMemory.
    """
    set_threads(settings.threads)
    engines = _measurable(settings)
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(settings, Path(folder))
        device, shape = _shape(work)  # refused here, before anything takes time
        free_memory()
        parity = _parity(settings, engines, job)
        timed = Rounds(work, engines, int(shape["prompt_tokens"]), _say)
    free_memory()
    for name, found in timed.engines.items():
        found |= _memory(settings, name, found["rows_a_forward"], job)
    lengths = [length for lengths_PG in timed.lengths for lengths_G in lengths_PG for length in lengths_G]
    shape |= {"mean_completion": fmean(lengths), "longest_completion": max(lengths)}
    return {
        "device": device,
        "date": today()[:10],
        **environment(),
        "torch_threads": torch.get_num_threads(),
        "config": {**settings.model_dump(mode="json"), **shape},
        "engines": timed.engines,
        "not_measured": not_measured(settings),
        "ratio": _ratio(timed.engines),
        **_ratios_beside(timed.engines, settings.G),
        "parity": parity,
        "definitions": DEFINITIONS,
        "notes": timed.notes + _notes(timed.engines, device),
    }


def _measurable(settings: BenchSettings) -> list[str]:
    """The engines that can be measured here. Errors: RecipeError where there are none, or several GPUs."""
    engines = [name for name in settings.engines if name not in NEEDS]
    if not engines:
        raise RecipeError(f"nothing to measure: {'; '.join(not_measured(settings).values())}. Name packed or trl in engines.")
    if visible_gpus() > 1:
        raise RecipeError(f"{visible_gpus()} GPUs are visible, and a benchmark uses one so far. Set CUDA_VISIBLE_DEVICES=0.")
    return engines


def _shape(work: Workload) -> tuple[str, dict[str, float]]:
    """The device, and the tokens of a prompt and of its image. Errors: RecipeError where the prompt does not fit."""
    vlm = work.load()
    return vlm.hardware, {"prompt_tokens": work.prompt_length(vlm), "image_tokens": work.image_tokens(vlm)}


PARITY = ("max_abs_dlogp", "lora_grad_rel_err", "loss_abs_diff")


def not_measured(settings: BenchSettings) -> dict[str, str]:
    """Why engines that there are, or that were asked for, have no numbers."""
    reasons = {}
    for engine, package in NEEDS.items():
        why = "osler bench cannot drive it yet" if find_spec(package) else f"{package} is not installed"
        reasons[engine] = f"not measured: {why}"
    return reasons


def _say(what: str) -> None:
    """Tell on stderr what is done; the engines show bars of their own, and not every terminal library can nest them."""
    console.print(f"[dim]bench: {what}[/]")


def _parity(settings: BenchSettings, engines: Sequence[str], job: Job) -> dict[str, Any]:
    """Parity of a step of at most two groups; None, with the reason, where it is not measured."""
    if not {"packed", "trl"} <= set(engines):
        return {**dict.fromkeys(PARITY), "not_measured": "it takes packed and trl"}
    small = settings.model_copy(update={"groups": min(settings.groups, 2)})
    try:
        found = job({"job": "parity", "settings": small.model_dump(mode="json"), "engine": "packed and trl"})
    except OutOfMemory:
        return {**dict.fromkeys(PARITY), "not_measured": "two models in float32 did not fit side by side"}
    _say("parity done")
    return {**found, "groups": small.groups}


AS_TIMED = "as timed"
LEAST = "the least of each, for which TRL may cut groups"


def _memory(settings: BenchSettings, engine: str, timed: int, job: Job) -> dict[str, Any]:
    """The peak of `engine` with the largest batch that fits, in each variant, and at the `timed` rows; and the least."""
    asked = variants(settings, engine) | {AS_TIMED: {"rows_a_forward": timed}}
    found: dict[str, dict[str, Any] | None] = {}
    for name, options in asked.items():
        before = next((earlier for earlier in found if asked[earlier] == options), None)
        found[name] = found[before] if before else _peaks(settings, engine, options, job)
        _say(f"memory of {engine}, {name}, done")
    fits = [one for one in found.values() if one]
    if not fits:
        raise OutOfMemory(f"{engine} ran out of memory in every setting. Choose fewer groups, or a smaller G or image_px.")
    peaks = {name: one["peak_mb"] if one else OUT_OF_MEMORY for name, one in found.items()}
    return {**fits[0], "peaks_mb": peaks | {LEAST: min(float(one["peak_mb"]) for one in fits)}}


def _peaks(settings: BenchSettings, engine: str, options: dict[str, Any], job: Job) -> dict[str, Any] | None:
    """What `engine` takes with `options`; None where that is too much."""
    try:
        return job({"job": "memory", "settings": settings.model_dump(mode="json"), "engine": engine, "options": options})
    except OutOfMemory:
        return None


def variants(settings: BenchSettings, engine: str) -> dict[str, dict[str, Any]]:
    """The settings in which the memory of `engine` is measured. TRL may cut groups, the packed engine never does."""
    whole = {
        "all rows a forward": {"rows_a_forward": settings.rows},
        "one group a forward": {"rows_a_forward": settings.G},
        "one group a forward, generated group by group": {"rows_a_forward": settings.G, "by_group": True},
    }
    cut = cuts(settings.G) if engine == "trl" else []
    parts = {f"{rows} of a group, generated group by group": {"rows_a_forward": rows, "by_group": True} for rows in cut}
    return whole | parts


def _over(theirs: Any, ours: Any) -> float | None:
    """theirs / ours; None where one is no number, as it was not measured or did not fit, or ours is 0."""
    numbers = isinstance(theirs, float | int) and isinstance(ours, float | int)
    return float(theirs / ours) if numbers and ours else None


def _ratio(engines: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    ours, theirs = (engines.get(name, {}) for name in ("packed", "trl"))
    return {name: _over(theirs.get(key), ours.get(key)) for name, key in RATIOS.items()}


RATIOS = {"step": "step_s", "rollout": "rollout_s", "update": "update_s", "memory": "peak_mb"}


def _ratios_beside(engines: dict[str, dict[str, Any]], G: int) -> dict[str, Any]:
    """The smallest and the largest ratio of a round, the ratio of the step under other conditions, and that of memory in each
    setting that both have."""
    if not {"packed", "trl"} <= engines.keys():
        return {"ratio_spread": {}, "ratio_of_the_step_if": {}, "ratio_of_memory": {}}
    pairs = list(zip(engines["trl"]["rounds"], engines["packed"]["rounds"], strict=True))
    spread = {}
    for name, key in RATIOS.items():
        if key in PHASES:
            found = [theirs[key] / ours[key] for theirs, ours in pairs]
            spread[name] = [min(found), max(found)]
    ours, theirs = engines["packed"], engines["trl"]
    uncached, head = ours["tower_every_step"]["step_s"], theirs.get("head_on_completions_only")
    others = {"packed ran the vision tower every step": theirs["step_s"] / uncached}
    if head:
        others["trl ran its LM head on completions only"] = head["step_s"] / ours["step_s"]
        others["both"] = head["step_s"] / uncached
        others["seconds are processor time"] = theirs["processor_s"] / ours["processor_s"]
    one_group = [found["step_s_by_rows_a_forward"].get(str(G)) for found in (theirs, ours)]
    if pair := _over(*one_group):
        others["packed and trl took one group a forward, in the trials"] = pair
    memory = {name: _over(peak, ours["peaks_mb"].get(name)) for name, peak in theirs["peaks_mb"].items()}
    known = {name: ratio for name, ratio in memory.items() if ratio}
    return {"ratio_spread": spread, "ratio_of_the_step_if": others, "ratio_of_memory": known}


def _notes(engines: dict[str, dict[str, Any]], device: str) -> list[str]:
    """What flatters whom."""
    notes = []
    if "packed" in engines:
        notes.append(
            "For packed: vision features are warm in the timed rounds, as from an image's second visit on. first_step_s has "
            "them cold; tower_every_step has the same rounds without a cache."
        )
        notes.append(
            "Against packed: rewards are scripted so that every group has spread; no group without an advantage is skipped."
        )
    if "trl" in engines:
        notes.append("For TRL: all prompts have the same length, so it pads none; for its least memory it may cut a group, "
                     "which packed may not. Seconds are those of each engine's fastest setting; memory is that of the largest "
                     "batch that fits, and beside it that of every setting.")  # fmt: skip
        notes.append("Against TRL: it generates with transformers. With vLLM its rollouts on a GPU would be faster.")
        if device == "cpu":
            notes.append(
                "For packed, on a CPU only: TRL 1.16 runs its LM head on every position there, on a GPU on completions only. "
                "head_on_completions_only has the same rounds without that."
            )
    return notes


COLUMNS = ("engine", "step s", "rollout", "ref.", "update", "other", "tok/s", "MB")
"""Narrow enough for a terminal of 80 columns."""


def table(result: dict[str, Any]) -> list[list[str]]:
    """A line for each engine, and one for the ratios."""
    lines = [_line(name, found) for name, found in result["engines"].items()]
    ratio, times = result["ratio"], "{:.1f} x".format
    if ratio["step"]:
        cells = [times(ratio[name]) if name in ratio else "" for name in ("step", "rollout", "", "update", "", "")]
        lines.append(["ratio", *cells, times(ratio["memory"])])
    return lines


def _line(name: str, found: dict[str, Any]) -> list[str]:
    shares = found["share"]
    cells = [f"{_short(found[key])} {shares[key.removesuffix('_s')]:.0%}" for key in PHASES[1:]]
    return [name, _short(found["step_s"]), *cells, f"{found['tokens_per_s']:.0f}", f"{found['peak_mb']:.0f}"]


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"


def notes(result: dict[str, Any]) -> list[str]:
    """Everything below the table: ratios under other conditions, parity, limits, what flatters whom, definitions."""
    lines = []
    if result["ratio_spread"]:
        low, high = result["ratio_spread"]["step"]
        lines.append(f"step ratio over the rounds: {low:.1f} to {high:.1f}")
        lines += [f"step ratio if {what}: {ratio:.1f}" for what, ratio in result["ratio_of_the_step_if"].items()]
        lines += [f"memory ratio, {what}: {ratio:.1f}" for what, ratio in result["ratio_of_memory"].items()]
    parity = result["parity"]
    known = parity["max_abs_dlogp"] is not None
    said = ", ".join(f"{name} {parity[name]:.1e}" for name in PARITY) if known else f"not measured: {parity['not_measured']}"
    lines.append(f"parity: {said}")
    if limits := result["engines"].get("packed", {}).get("limits"):
        lines.append(_limits_line(limits))
    lines += [f"{name}: {why}" for name, why in result["not_measured"].items()] + result["notes"]
    return lines + [f"{name}: {what}" for name, what in result["definitions"].items()]


def _limits_line(limits: dict[str, Any]) -> str:
    share, same = limits["decode_share"], limits["captured_equals_eager"]
    decode = f"decode takes {1 / share:.1f} x its floor" if share else "nothing was decoded"
    alike = f"captured decode equals eager: {same['equal']}, in {same['rows_alike']} of {same['rows']} rows"
    return f"packed: {decode}, update MFU {limits['update_mfu']:.0%}; {alike}"
