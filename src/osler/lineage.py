"""Where a model comes from: what it was trained on, and hashes by which rows and weights are known again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from osler.config import Recipe
from osler.floor import OptionPrior
from osler.model.adapters import split_step, weights_of
from osler.model.load import TINY
from osler.runs import Run
from osler.schema import Sample


def trained_on(samples: Sequence[Sample], init: str | None) -> dict[str, Any]:
    """The domains that a model has seen after training on `samples` from `init`, and the blind attacker of these rows."""
    before = training_of(init) if init else None
    axes: dict[str, Any] = {
        axis: sorted({str(getattr(s, axis)) for s in samples} | set(before[axis] if before else []))
        for axis in ("modality", "question_type", "source")
    }
    return {**axes, "n": len(samples), "row_hash": row_hash(samples), "option_prior": OptionPrior.fit(samples).to_json()}


def start_of(recipe: Recipe) -> list[dict[str, Any]]:
    """What `recipe` starts from, the checkpoint first and then every run that was trained on the way, each with its hash."""
    if recipe.init is None:
        return [{"model": recipe.model, "sha256": model_hash(recipe.model)}]
    before = _run_of(recipe.init).manifest["start"]
    return [*before, {"model": recipe.init, "sha256": model_hash(recipe.init)}]


def training_of(model: str) -> dict[str, Any] | None:
    """What `model` was trained on, as its run recorded it; None for a model that osler did not train."""
    found: dict[str, Any] | None = _run_of(model).manifest["trained_on"] if model.startswith("run:") else None
    return found


def model_label(model: str) -> str:
    """A short name to show: the run's, or the last part of a path or hub name."""
    return _run_of(model).name if model.startswith("run:") else model.rstrip("/").rpartition("/")[2]


def model_hash(model: str) -> str | None:
    """The hash of the weights that `model` adds (a run's adapter or model) or is (a folder); None for a hub name."""
    if model.startswith("run:"):
        folder = weights_of(*split_step(model.removeprefix("run:")))
    else:
        folder = TINY if model == "tiny" else Path(model.removeprefix("peft:"))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(_file_hash(file) for file in files) if files else None


def row_hash(samples: Iterable[Sample]) -> str:
    """A hash of what is asked and what is right, row by row."""
    return _digest(json.dumps([s.id, s.question, s.options, s.golds], ensure_ascii=False) for s in samples)


def recipe_of(model: str) -> Recipe | None:
    """The recipe that trained `model`; None for a model that osler did not train."""
    return Recipe.model_validate(_run_of(model).manifest["recipe"]) if model.startswith("run:") else None


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def _run_of(model: str) -> Run:
    return Run.open(split_step(model.removeprefix("run:"))[0], "train")
