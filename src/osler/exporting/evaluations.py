"""The evaluations of a run: those at the checkpoint that is exported, in whatever type, found beside it or named."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from osler.config import Spec
from osler.datasets.load import parse_spec
from osler.errors import RunError
from osler.runs import Run


def evaluations_of(run: Path, weights: str | None, named: Iterable[Path] = ()) -> list[dict[str, Any]]:
    """A fact sheet of each finished evaluation of the `weights` (their hash) that the train run at `run` holds.

    Looked for among its neighbours, as `osler train` and `osler study` lay them, and at the `named` folders. Errors: RunError
    where a named one is no finished evaluation of these weights.
    """
    runs = [_required(path, weights) for path in named]
    found = {one.path.resolve(): one for one in (*runs, *_neighbours(run, weights))}
    return [_facts(one) for one in found.values()]


def _required(path: Path, weights: str | None) -> Run:
    run = Run.open(path, "eval")
    if not _is_of(run, weights):
        raise RunError(f"{path} is no finished evaluation of these weights. Evaluate the run at this step, or leave it out.")
    return run


def _neighbours(run: Path, weights: str | None) -> Iterator[Run]:
    around = run.resolve().parent
    for manifest in sorted((*around.glob("*/manifest.json"), *around.parent.glob("eval/*/manifest.json"))):
        other = Run.open(manifest.parent)
        if other.manifest.get("kind") == "eval" and _is_of(other, weights):
            yield other


def _is_of(run: Run, weights: str | None) -> bool:
    return run.manifest.get("state") == "done" and (run.manifest.get("model") or {}).get("sha256") == weights


def _facts(run: Run) -> dict[str, Any]:
    """What was asked and what came out: estimates with n and interval, the floor, counts."""
    data, trial, summary = run.manifest["data"], run.manifest.get("trial") or {}, run.summary
    return {
        "run": run.name,
        "data": data_label(data["spec"]) if "spec" in data else "unknown",
        "split": data.get("split"),
        "row_hash": data.get("row_hash"),
        "strategy": trial.get("strategy"),
        "max_tokens": trial.get("max_tokens"),
        "dtype": _dtype(trial.get("dtype"), run.manifest.get("device")),
        "device": run.manifest.get("device"),
        **{name: summary.get(name) for name in ("accuracy", "lenient", "floor", "attacker", "unparseable", "unjudged")},
    }


def _dtype(asked: str | None, device: str | None) -> str | None:
    """The type that an evaluation computed in: bf16, fp32, or None where it is not known. auto is fp32 but on a GPU, where it
    is bf16 on those that compute in it."""
    named = {"float32": "fp32", "bfloat16": "bf16"}.get(asked or "")
    return named or (("fp32" if device in ("cpu", "mps") else "bf16") if asked and device else None)


def data_label(spec: Spec) -> str:
    """The data set that `spec` names, and of its path the last part: where it lies is nobody's business."""
    parsed = parse_spec(spec)
    if parsed.path is None:
        return parsed.name if parsed.name != "phantoms" else f"phantoms:{parsed.seed}"
    return f"{parsed.name}:{Path(parsed.path.rstrip('/')).name}"
