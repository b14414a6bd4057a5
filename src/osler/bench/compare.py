"""`osler bench`: one recipe on each engine, side by side in one run, with what the numbers mean printed beside them.

parity      in a process of its own: both engines on the same completions
memory      in a process of its own for each engine and setting
time        rounds in turn (packed, trl, packed, trl, ...), so that a busy machine is busy for all; medians over the rounds
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from osler.bench.limits import DEFINITIONS
from osler.bench.rounds import PHASES, Rounds
from osler.bench.worker import OUT_OF_MEMORY, OutOfMemory, run_job
from osler.bench.workload import BenchSettings, Workload
from osler.errors import RecipeError
from osler.model.family import set_threads
from osler.progress import console
from osler.runs import environment
from osler.runs import now as today

NEEDS = {"trl-vllm": "vllm", "unsloth": "unsloth"}
"""Packages of engines that are not osler's own."""

Job = Callable[[dict[str, Any]], dict[str, Any]]


def bench(settings: BenchSettings, job: Job = run_job) -> dict[str, Any]:
    """Everything measured, as one JSON object; see DEFINITIONS. `job` does what needs a process of its own.

    Errors: RecipeError where no engine that was asked for can be measured, or the prompt does not fit; OutOfMemory.
    """
    set_threads(settings.threads)
    engines = [name for name in settings.engines if name not in NEEDS]
    if not engines:
        raise RecipeError(f"nothing to measure: {'; '.join(not_measured(settings).values())}. Name packed or trl in engines.")
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(settings, Path(folder))
        vlm = work.load()
        device, tokens = vlm.hardware, work.prompt_length(vlm)  # refused here, before anything takes time
        shape: dict[str, float] = {"prompt_tokens": tokens, "image_tokens": work.image_tokens(vlm)}
        del vlm
        parity = _parity(settings, job) if {"packed", "trl"} <= set(engines) else dict.fromkeys(PARITY)
        memory = {engine: _memory(settings, engine, job) for engine in engines}
        timed = Rounds(work, engines, tokens, _say)
    for engine in engines:
        timed.engines[engine] |= memory[engine]
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
        **_ratios_beside(timed.engines),
        "parity": parity,
        "definitions": DEFINITIONS,
        "notes": _notes(timed.engines, device),
    }


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


def _parity(settings: BenchSettings, job: Job) -> dict[str, Any]:
    """Parity of a step of at most two groups."""
    small = settings.model_copy(update={"groups": min(settings.groups, 2)})
    found = job({"job": "parity", "settings": small.model_dump(mode="json"), "engine": "packed and trl"})
    _say("parity done")
    return {**found, "groups": small.groups}


def _memory(settings: BenchSettings, engine: str, job: Job) -> dict[str, Any]:
    """The least peak of `engine`, and its peak in each of the variants."""
    peaks: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for name, options in variants(settings).items():
        try:
            one = job({"job": "memory", "settings": settings.model_dump(mode="json"), "engine": engine, "options": options})
            found.append(one)
            peaks[name] = one["peak_mb"]
        except OutOfMemory:
            peaks[name] = OUT_OF_MEMORY
        _say(f"memory of {engine}, {name}, done")
    if not found:
        raise OutOfMemory(f"{engine} ran out of memory in every setting. Choose fewer groups, or a smaller G or image_px.")
    return {**min(found, key=lambda one: float(one["peak_mb"])), "peaks_mb": peaks}


def variants(settings: BenchSettings) -> dict[str, dict[str, Any]]:
    """The settings in which the memory of both engines is measured."""
    return {
        "all rows a forward": {"rows_a_forward": settings.rows},
        "one group a forward": {"rows_a_forward": settings.G},
        "one group a forward, generated group by group": {"rows_a_forward": settings.G, "by_group": True},
    }


def _over(engines: dict[str, dict[str, Any]], name: str) -> float | None:
    """trl / packed of `name`; None where one was not measured."""
    if not {"packed", "trl"} <= engines.keys() or not engines["packed"][name]:
        return None
    return float(engines["trl"][name] / engines["packed"][name])


def _ratio(engines: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    return {name: _over(engines, key) for name, key in RATIOS.items()}


RATIOS = {"step": "step_s", "rollout": "rollout_s", "update": "update_s", "memory": "peak_mb"}


def _ratios_beside(engines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The smallest and the largest ratio of a round, the ratio of the step under conditions that are worse for packed, and that
    of memory in each variant."""
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
    worse = {"packed ran the vision tower every step": theirs["step_s"] / uncached}
    if head:
        worse["trl ran its LM head on completions only"] = head["step_s"] / ours["step_s"]
        worse["both"] = head["step_s"] / uncached
    memory = {
        name: peak / ours["peaks_mb"][name]
        for name, peak in theirs["peaks_mb"].items()
        if OUT_OF_MEMORY not in (peak, ours["peaks_mb"][name]) and ours["peaks_mb"][name]
    }
    return {"ratio_spread": spread, "ratio_of_the_step_if": worse, "ratio_of_memory": memory}


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
        notes.append("For TRL: all prompts have the same length, so it pads none; it enters with its fastest rows "
                     "a forward and with its least memory, which are other settings (so does packed).")  # fmt: skip
        notes.append("Against TRL: it generates with transformers. With vLLM its rollouts on a GPU would be faster.")
        if device == "cpu":
            notes.append(
                "For packed, on a CPU only: TRL 1.16 runs its LM head on every position there, on a GPU on completions only. "
                "head_on_completions_only has the same rounds without that."
            )
    return notes


COLUMNS = ("engine", "step", "rollout", "reference", "update", "other", "tokens/s", "peak MB")


def table(result: dict[str, Any]) -> list[list[str]]:
    """A line for each engine, and one for the ratios."""
    lines = [_line(name, found) for name, found in result["engines"].items()]
    ratio, times = result["ratio"], "{:.1f} x".format
    if ratio["step"]:
        cells = [times(ratio[name]) if name in ratio else "" for name in ("step", "rollout", "", "update", "", "")]
        lines.append(["trl / packed", *cells, times(ratio["memory"])])
    return lines


def _line(name: str, found: dict[str, Any]) -> list[str]:
    shares = found["share"]
    cells = [f"{found[key]:.2f} s ({shares[key.removesuffix('_s')]:.0%})" for key in PHASES[1:]]
    return [name, f"{found['step_s']:.2f} s", *cells, f"{found['tokens_per_s']:.0f}", f"{found['peak_mb']:.0f}"]


def notes(result: dict[str, Any]) -> list[str]:
    """Everything below the table: ratios under worse conditions, parity, limits, what flatters whom, definitions."""
    lines = []
    if result["ratio_spread"]:
        low, high = result["ratio_spread"]["step"]
        lines.append(f"step ratio over the rounds: {low:.1f} to {high:.1f}")
        lines += [f"step ratio if {what}: {ratio:.1f}" for what, ratio in result["ratio_of_the_step_if"].items()]
        lines += [f"memory ratio, {what}: {ratio:.1f}" for what, ratio in result["ratio_of_memory"].items()]
    if result["parity"]["max_abs_dlogp"] is not None:
        lines.append("parity: " + ", ".join(f"{name} {result['parity'][name]:.1e}" for name in PARITY))
    found = result["engines"].get("packed", {}).get("limits")
    if found:
        lines.append(
            f"packed: decode at {found['decode_share']:.0%} of its floor, update MFU {found['update_mfu']:.0%}; captured "
            f"decode equals eager: {found['captured_equals_eager']['equal']}"
        )
    lines += [f"{name}: {why}" for name, why in result["not_measured"].items()] + result["notes"]
    return lines + [f"{name}: {what}" for name, what in result["definitions"].items()]
