"""Where a model comes from: what it was trained on, and hashes by which rows and weights are known again."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osler.config import Recipe, Spec
from osler.controls import TWIN
from osler.datasets.load import parse_spec
from osler.datasets.manifests import row_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import hold_out
from osler.errors import DataError, RunError
from osler.floor import Floor, Floors
from osler.model.adapters import split_step, weights_of
from osler.model.endpoint import ENDPOINT, parse_endpoint
from osler.model.load import TINY
from osler.provenance import floor_beside, provenance_of
from osler.runs import Run, read_json, write_json
from osler.schema import Sample


def trained_on(samples: Sequence[Sample], init: str | None) -> dict[str, Any]:
    """The domains that a model has seen after training on `samples` from `init`."""
    before = training_of(init) if init else None
    axes: dict[str, Any] = {
        axis: sorted({str(getattr(s, axis)) for s in samples} | set(before.get(axis, []) if before else []))
        for axis in ("modality", "question_type", "source", "language")
    }
    return {**axes, "n": len(samples), "row_hash": row_hash(samples)}


def keep_floor(run: Run, samples: Iterable[Sample], init: str | None) -> None:
    """Fit the blind attackers on the training rows of `run`; keep them, with those of `init`, beside its model (floor.json)."""
    before = floor_of(init) if init else None
    write_json(run.path / "floor.json", Floors((Floor.fit(samples), *(before.stages if before else ()))).to_json())


def floor_of(model: str) -> Floors | None:
    """The blind attackers of the rows that `model` was trained on, stage by stage; None where osler did not train it.

    An export has those that were left beside it. Errors: RunError where the run has none.
    """
    if not model.startswith("run:"):
        return floor_beside(model)
    file = _run_of(model).path / "floor.json"
    if not file.is_file():
        raise RunError(f"{file} is missing: the run was cut off at its beginning. Train it again.")
    kept = read_json(file)
    if "stages" not in kept:
        raise RunError(f"{file} holds no stages: another version of osler wrote it. Train again.")
    return Floors.from_json(kept)


def start_of(recipe: Recipe) -> list[dict[str, Any]]:
    """What `recipe` starts from, the checkpoint first and then every run that was trained on the way, each with its hash."""
    if recipe.init is None:
        exported = provenance_of(recipe.model)
        known = {"judges": exported.judges, "trainings": trainings_of(recipe.model)} if exported else {}  # it may go one day
        return [{"model": recipe.model, "sha256": model_hash(recipe.model), **known}]
    before = _run_of(recipe.init).manifest["start"]
    return [*before, {"model": recipe.init, "sha256": model_hash(recipe.init)}]


def training_of(model: str) -> dict[str, Any] | None:
    """What `model` was trained on, as its run recorded it; None for a model that osler did not train."""
    if model.startswith("run:"):
        found: dict[str, Any] = _run_of(model).manifest["trained_on"]
        return found
    exported = provenance_of(model)
    return exported.trained_on if exported else None


def training_facts(recipe: Recipe, given: Sequence[Sample]) -> dict[str, Any]:
    """By what the training rows of `recipe` are known again: where they lie, as a hash, and their own hash as they were
    `given`, before any were left out or changed against shortcuts."""
    return {"data_sha256": data_hash(recipe.data.train), "row_hashes": [row_hash(given)]}


def data_hash(data: Spec) -> str:
    """A hash of what `data` names, however that is written; its path is absolute, and its images do not count."""
    spec = asdict(parse_spec(data))
    tried = [spec["path"], os.path.join(os.environ.get("OSLER_DATA", ""), spec["path"])] if spec["path"] else []
    place = next((path for path in tried if os.path.exists(path)), None)
    named = {**spec, "images": None, "path": os.path.realpath(place) if place else spec["path"]}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def trainings_of(model: str) -> list[dict[str, Any]]:
    """Each training that `model` goes back to, its own last: data_sha256, row_hashes (of the rows it was given and of those it
    took), and by which val_share and seed rows were held out. A run on the way that is gone is left out."""
    if exported := provenance_of(model):
        return exported.trainings or [_training(exported.recipe, exported.trained_on, {"data_sha256": None})]
    run = _run_around(model)
    return [*_trainings_before(run), _training_of_run(run)] if run else []


def _trainings_before(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in run.manifest.get("start") or []:
        found += one.get("trainings", ())
        folder = split_step(one["model"].removeprefix("run:"))[0] if one["model"].startswith("run:") else None
        if folder and (folder / "manifest.json").is_file():
            found.append(_training_of_run(Run.open(folder, "train")))
    return found


def _training_of_run(run: Run) -> dict[str, Any]:
    recipe = run.manifest["recipe"]
    given = run.manifest.get("training") or {"data_sha256": data_hash(recipe["data"]["train"])}
    return _training(recipe, run.manifest["trained_on"], given)


def _training(recipe: dict[str, Any], seen: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    hashes = dict.fromkeys([*given.get("row_hashes", ()), seen["row_hash"]])
    return {**given, "row_hashes": list(hashes), "val_share": recipe["data"]["val_share"], "seed": recipe["seed"]}


def has_trained_on(model: str, data: Spec, samples: Samples) -> bool:
    """Whether `samples`, all rows of `data`, are what `model`, or a run that it goes back to, was given to train on: by where
    they lie, or by their hash, whole or without those that training holds out. A part of them is not known again."""
    trainings = trainings_of(model)
    if not trainings:
        return False
    if data_hash(data) in [one["data_sha256"] for one in trainings]:
        return True
    whole = row_hash(samples)
    return any({whole, _hash_without_held_out(samples, one)} & set(one["row_hashes"]) for one in trainings)


def _hash_without_held_out(samples: Samples, training: dict[str, Any]) -> str | None:
    """The hash of the rows of `samples` that `training` would take; None where it would hold out all or none."""
    if not training["val_share"]:
        return None
    try:
        return row_hash(hold_out(samples, training["val_share"], training["seed"])[0])
    except DataError:
        return None


def twin_of(model: str) -> str | None:
    """The blind twin of `model`, at the same step where one is named; None where none was trained."""
    if not model.startswith("run:"):
        return None
    folder, step = split_step(model.removeprefix("run:"))
    return f"run:{folder / TWIN}{f'@{step}' if step else ''}" if (folder / TWIN / "manifest.json").is_file() else None


def check_twin(model: str) -> None:
    """Nothing, where `model` has the blind twin that its recipe asks for, or asks for none, and is none itself.

    Errors: RunError.
    """
    recipe = recipe_of(model) if model.startswith("run:") else None
    if recipe and _run_of(model).manifest.get("blind"):
        raise RunError(f"{model} is a blind twin: it is evaluated with the run that it belongs to. Name that run.")
    if recipe is None or not recipe.controls.blind_twin:
        return
    twin = twin_of(model)
    if twin is None or _run_of(twin).manifest["state"] != "done":
        raise RunError(
            f"{model}: its blind twin was cut off, or never trained. Finish it with osler train --resume, or train again."
        )
    weights_of(*split_step(twin.removeprefix("run:")))


def model_label(model: str) -> str:
    """A short name to show: the run's, the name that an endpoint serves, or the last part of a path or hub name."""
    if model.startswith(ENDPOINT):
        return parse_endpoint(model).name
    return _run_of(model).name if model.startswith("run:") else model.rstrip("/").rpartition("/")[2]


def model_hash(model: str) -> str | None:
    """The hash of the weights that `model` adds (a run's adapter or model) or is (a folder); None for others."""
    if model.startswith("run:"):
        folder = weights_of(*split_step(model.removeprefix("run:")))
    else:
        folder = TINY if model == "tiny" else Path(model.removeprefix("peft:"))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(_file_hash(file) for file in files) if files else None


def recipe_of(model: str) -> Recipe | None:
    """The recipe that trained `model`; None for a model that osler did not train."""
    if model.startswith("run:"):
        return Recipe.model_validate(_run_of(model).manifest["recipe"])
    exported = provenance_of(model)
    return Recipe.model_validate(exported.recipe) if exported else None


def judges_of(model: str) -> list[str]:
    """The judges on whose scores `model`, or a run that it goes back to, was trained; none of a model that osler did not."""
    if exported := provenance_of(model):
        return exported.judges
    run = _run_around(model)
    if run is None:
        return []
    kept = run.manifest.get("start") or []
    starts, before = [str(one["model"]) for one in kept], [judge for one in kept for judge in one.get("judges", ())]
    recipes = [_run_of(start).manifest["recipe"] for start in starts if start.startswith("run:")]
    asked = [recipe.get("judge") for recipe in (*recipes, run.manifest["recipe"]) if recipe.get("method", "grpo") == "grpo"]
    return list(dict.fromkeys([*before, *(judge["model"] for judge in asked if judge)]))


def known_judges_of(model: str) -> dict[str, list[str]]:
    """`judges_of` as the fact `judges` of a manifest, as the model may be moved or removed; empty where a run is gone."""
    try:
        return {"judges": judges_of(model)}
    except RunError:
        return {}


def _run_around(model: str) -> Run | None:
    """The run that `model` is, or in whose folder its weights lie (`peft:RUN/adapter`, RUN/model); None where there is none."""
    if model.startswith("run:"):
        return _run_of(model)
    folder = Path(model.removeprefix("peft:")).resolve()
    near = [folder, *folder.parents][:3] if folder.is_dir() else []
    found = next((one for one in near if (one / "manifest.json").is_file()), None)
    run = Run.open(found) if found else None
    return run if run and run.manifest.get("kind") == "train" else None


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
