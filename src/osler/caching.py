"""What `osler cache` does with vision features: compute those of a recipe's images ahead of time, list them, remove them."""

from dataclasses import dataclass, field
from itertools import chain as joined
from pathlib import Path
from typing import Any

from osler.chains import load_chain
from osler.check import STAGE, check, check_machine, check_rows, check_stages, stage_references, verify_images
from osler.config import Chain, FeatureSettings, ImageSettings, Recipe
from osler.datasets.splits import Splits, load_splits
from osler.errors import ModelError, RecipeError
from osler.model.feature_files import MB, Kept, cache_folder, clear, kept_in


@dataclass
class Job:
    """The images that one vision tower has to see. `model` brings the tower, with whatever language model is on top of it."""

    model: str
    settings: ImageSettings
    features: FeatureSettings
    dtype: str
    threads: int
    images: dict[str, None] = field(default_factory=dict)  # as a set that keeps its order


@dataclass(frozen=True)
class Built:
    """What became of a job: how many features were computed and how many found, and all that is kept of that tower now."""

    model: str
    computed: int
    found: int
    kept: Kept

    def to_json(self) -> dict[str, Any]:
        counts = {"images": self.computed + self.found, "computed": self.computed, "found": self.found}
        return {"model": self.model, **counts, "mb": megabytes(self.kept.size), "folder": str(self.kept.folder)}


def build(loaded: Recipe | Chain) -> list[Built]:
    """The features of every image of the train, val and test rows, computed and on disk; one entry a vision tower.

    Errors: any OslerError, before a model is loaded where it can be told; ModelError where features.disk_gb is too small.
    """
    stages = loaded.stages if isinstance(loaded, Chain) else {"": loaded}
    if isinstance(loaded, Chain):
        check_stages(loaded)
    for name, recipe in stages.items():
        _check_stage(name, recipe, inside=isinstance(loaded, Chain))
    splits = load_chain(loaded) if isinstance(loaded, Chain) else {"": _rows(loaded)}
    for recipe in stages.values():
        check_machine(recipe)
    return [_run(job) for job in _jobs(stages, splits)]


def info(folder: Path | None = None) -> dict[str, Any]:
    """What is kept of each vision tower and how much that is in all, beside the limit of a recipe that sets none.

    Errors: ModelError where the folder cannot be looked into.
    """
    folder = folder or cache_folder(FeatureSettings())
    kept = kept_in(folder)
    total, limit = sum(one.size for one in kept), FeatureSettings().disk_gb * 1024
    return {"folder": str(folder), "mb": megabytes(total), "limit_mb": limit, "towers": [_describe(one) for one in kept]}


def clear_all(folder: Path | None = None) -> dict[str, Any]:
    """How much was removed of what is kept, and which folders had to be left. Errors: ModelError where the disk refuses."""
    folder = folder or cache_folder(FeatureSettings())
    cleared = clear(folder)
    left = [str(path) for path in cleared.left]
    return {"folder": str(folder), "images": cleared.images, "mb": megabytes(cleared.size), "left": left}


def _describe(kept: Kept) -> dict[str, Any]:
    facts = {name: kept.about.get(name, "about.json is damaged") for name in ("model", "dtype", "device")}
    facts["dtype"] = str(facts["dtype"]).removeprefix("torch.")
    return {"folder": kept.folder.name, **facts, "images": kept.images, "mb": megabytes(kept.size)}


def megabytes(size: int) -> float:
    """`size` bytes in MB, to two decimals."""
    return round(size / MB, 2)


def _check_stage(name: str, recipe: Recipe, inside: bool) -> None:
    where = f"stage {name}: " if inside else ""
    check(recipe)
    if recipe.train_vision != "none":
        raise RecipeError(f"{where}train_vision={recipe.train_vision} changes the vision features every step, so that none can "
                          "be kept: there is nothing to build.")  # fmt: skip
    if recipe.features.cache is False or not recipe.features.disk_gb:
        off = "features.cache=false" if recipe.features.cache is False else "features.disk_gb=0"
        raise RecipeError(f"{where}{off} keeps nothing on disk, so there is nothing to build. Leave it out.")
    if not inside and (missing := stage_references(recipe)):
        raise RecipeError(f"stage:{missing[0]} is known only inside a chain. Write run:DIR, or seconds as a number.")


def _rows(recipe: Recipe) -> Splits:
    splits = load_splits(recipe.data, recipe.seed)
    check_rows(recipe, splits)
    verify_images(joined(splits.train, splits.val, splits.test))
    return splits


def _jobs(stages: dict[str, Recipe], splits: dict[str, Splits]) -> list[Job]:
    """One job for all stages that see their images with the same tower in the same way."""
    jobs: dict[tuple[Any, ...], Job] = {}
    for name, recipe in stages.items():
        key = (_start(recipe, stages), recipe.images, recipe.features, recipe.dtype)
        job = jobs.setdefault(key, Job(*key, threads=recipe.threads))
        for sample in joined(splits[name].train, splits[name].val, splits[name].test):
            job.images.update(dict.fromkeys(sample.images))
    return list(jobs.values())


def _start(recipe: Recipe, stages: dict[str, Recipe]) -> str:
    """The model whose tower `recipe` sees with: a stage leaves the tower as it found it."""
    found = STAGE.fullmatch(recipe.init or "")
    return _start(stages[found["name"]], stages) if found else recipe.init or recipe.model


def _run(job: Job) -> Built:
    from osler.model.family import set_threads
    from osler.model.features import FeatureStore
    from osler.model.load import load_policy

    set_threads(job.threads)
    vlm = load_policy(job.model, job.settings, job.dtype)
    store = FeatureStore(vlm, job.features.model_copy(update={"ram_mb": 0}))  # what is not on disk does not count
    computed = store.build(job.images)
    if not store.holds(job.images):
        raise ModelError(f"{store.folder.parent}: features.disk_gb={job.features.disk_gb:g} is too small for the features of "
                         f"{len(job.images)} images. Raise it, or make room with `osler cache clear`.")  # fmt: skip
    kept = next(kept for kept in kept_in(store.folder.parent) if kept.folder == store.folder)
    return Built(job.model, computed, len(job.images) - computed, kept)
