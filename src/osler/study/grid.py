"""A study's grid: which runs it takes, each resolved to recipes and known by what decides it, before anything is loaded.

Two rows that share a stage, such as the SFT that both start from, share its run: a stage is known by a digest of the
settings that decide its weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osler.check import STAGE, check, check_stages, stage_references
from osler.config import ASKING, Chain, Recipe, Spec
from osler.datasets.load import find_adapter, parse_spec
from osler.datasets.manifests import rows_and_images_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import load_part, load_splits
from osler.errors import DataError, RecipeError
from osler.recipe_files import load_recipe
from osler.study.files import RowSettings, StudySettings, as_overrides, recipe_file
from osler.trial import Trial

OF_METHOD = {
    "sft": ("rewards", "judge", "embedder", "objective", "rollout", "dpo", "engine", "micro_tokens", "features"),
    "dpo": ("rewards", "judge", "embedder", "objective", "engine", "micro_tokens"),
    "grpo": ("sft", "dpo"),
}
"""Settings that a method does not heed."""
BASE, START = "base", "start"
"""As a row's `model`: the checkpoint of its recipe; what its reported stage starts from, be it that or an earlier stage."""
TUNING = 3.0
"""Neighbouring learning rates that are tried differ by this factor."""


@dataclass(frozen=True)
class Stage:
    """A stage to train: its recipe, as written, and the digests of the stages that it needs, by name."""

    name: str
    recipe: Recipe
    needs: Mapping[str, str]
    digest: str


@dataclass(frozen=True)
class Entry:
    """A run of the table: row `name` (of the `group` of rows that differ in `values` only) at `seed`.

    `stages` are what is trained for it, in order, the last one reported; none where `model` is evaluated as it is.
    `trial` is how it is asked. `tuning` names what learning rates are tried for, the same for all seeds and for rows that
    only ask otherwise; None where nothing is tuned.
    """

    name: str
    group: str
    values: Mapping[str, Any]
    source: str
    seed: int
    recipe: Recipe
    trial: Trial
    stages: tuple[Stage, ...]
    model: str | None
    tuning: str | None = None


def entries_of(study: StudySettings, file: Path) -> list[Entry]:
    """The runs of `study`, all rows of the first seed first. A row that is not trained has only the first seed.

    Errors: RecipeError for a recipe, stage or combination that cannot be run; no data is read.
    """
    rows = [(row, one, values) for row in study.rows for one, values in row.expanded()]
    found = [
        (number, _entry(study, file, row.name, one, values, seed))
        for number, seed in enumerate(study.seeds)
        for row, one, values in rows
    ]
    kept = [entry for number, entry in found if entry.stages or not number]
    return [replace(entry, tuning=_tuning(study, entry, kept)) for entry in kept]


def _tuning(study: StudySettings, entry: Entry, entries: list[Entry]) -> str | None:
    """The digest of what the row trains on the first seed, where its learning rate is to be chosen."""
    if study.tune < 2 or not entry.stages or entry.stages[-1].recipe != entry.recipe:
        return None
    if len(entry.stages) > 1 and any(isinstance(stage.recipe.sft.max_seconds, str) for stage in entry.stages):
        raise RecipeError(f"row {entry.name!r}: learning rates cannot be tried for a stage whose seconds are another's. Leave "
                          "out tune, or the row.")  # fmt: skip
    return next(one.stages[-1].digest for one in entries if one.name == entry.name)


def _entry(study: StudySettings, file: Path, group: str, row: RowSettings, values: Mapping[str, Any], seed: int) -> Entry:
    path = recipe_file(row, study, file)
    settings = {"seed": seed, **study.scales.get(study.scale, {}), **study.set, **row.set}
    stages_last = sorted(settings, key=lambda key: key.partition(".")[0] not in Recipe.model_fields)
    loaded = load_recipe(path, as_overrides({key: settings[key] for key in stages_last}))
    stages = loaded.stages if isinstance(loaded, Chain) else {path.stem: loaded}
    chosen = row.stage or list(stages)[-1]
    if chosen not in stages:
        raise RecipeError(f"row {row.name!r}: {path} has no stage {chosen!r}; its stages are {', '.join(stages)}.")
    if isinstance(loaded, Chain):
        check_stages(loaded)
    else:
        check(loaded)
    trained, model = _trained(stages, chosen, row.model)
    return Entry(row.name, group, values, row.recipe, seed, stages[chosen], _trial(row, stages[chosen]), trained, model)


def _trained(stages: Mapping[str, Recipe], chosen: str, model: str | None) -> tuple[tuple[Stage, ...], str | None]:
    """What is trained for a row, and the model that is evaluated where nothing is."""
    recipe = stages[chosen]
    before = STAGE.fullmatch(recipe.init or "") if model == START else None
    if model is None or before:
        return _needed(stages, before["name"] if before else chosen), None
    return (), (recipe.init or recipe.model) if model == START else recipe.model if model == BASE else model


def _trial(row: RowSettings, recipe: Recipe) -> Trial:
    """How the row is asked. Errors: RecipeError for a name in `ask` that nothing answers to."""
    trial = Trial.of(recipe).with_changes(**row.ask.model_dump())
    trial.check()
    return trial


def _needed(stages: Mapping[str, Recipe], chosen: str) -> tuple[Stage, ...]:
    """The stage `chosen` and those that it needs, directly or not, in order."""
    wanted, todo = {chosen}, [chosen]
    while todo:
        more = [name for name in stage_references(stages[todo.pop()]) if name not in wanted]
        wanted.update(more)
        todo += more
    made: dict[str, Stage] = {}
    for name, recipe in stages.items():
        if name in wanted:
            needs = {other: made[other].digest for other in stage_references(recipe)}
            made[name] = Stage(name, recipe, needs, digest_of(recipe, needs))
    return tuple(made.values())


def digest_of(recipe: Recipe, needs: Mapping[str, str]) -> str:
    """A name for what `recipe` makes of the stages that it `needs`: the same where nothing that decides the weights differs."""
    left_out = {*ASKING, *OF_METHOD[recipe.method]}
    if recipe.against_shortcuts.pass_rate:
        left_out.discard("rollout")  # rows are chosen by how often they are solved when sampled so
    decides = {key: value for key, value in recipe.model_dump(mode="json").items() if key not in left_out}
    decides["data"] = {key: value for key, value in decides["data"].items() if key != "test"}
    if recipe.controls.blind_twin:
        decides["blind_twin"] = True
    if recipe.init and (found := STAGE.fullmatch(recipe.init)):
        decides["init"] = needs[found["name"]]
    if recipe.method in ("sft", "dpo"):
        longest = recipe.sft.max_seconds
        found = STAGE.fullmatch(longest) if isinstance(longest, str) else None
        decides["sft"]["max_seconds"] = needs[found["name"]] if found else longest
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def test_specs(study: StudySettings, entry: Entry) -> dict[str, Spec]:
    """The test rows of `entry` by name: those of the study, or else those of its recipe."""
    data = entry.recipe.data
    return dict(study.tests) or {"test": data.test if data.test is not None else data.train}


def check_tests(study: StudySettings, entries: list[Entry]) -> None:
    """Errors: RecipeError where two rows are tested on different rows, so that no row of the table could be compared.

    Equal specs are equal rows; where specs differ, the rows are read. DataError for a spec that names no data set.
    """
    for entry in entries:
        for spec in (*test_specs(study, entry).values(), entry.recipe.data.train):
            find_adapter(parse_spec(spec).name)
    if study.tests:
        return
    by_spec: dict[str, Entry] = {}
    for entry in entries:
        by_spec.setdefault(json.dumps(test_specs(study, entry)["test"], sort_keys=True), entry)
    by_rows: dict[str, Entry] = {}
    for entry in by_spec.values() if len(by_spec) > 1 else ():
        by_rows.setdefault(_test_hash(entry.recipe), entry)
    if len(by_rows) > 1:
        first, other, *_ = by_rows.values()
        raise RecipeError(f"the rows {first.name!r} and {other.name!r} are tested on different rows, so that they cannot be "
                          "compared. Give one data.test in the study's `set`, or `tests`.")  # fmt: skip


def _test_hash(recipe: Recipe) -> str:
    return rows_and_images_hash(test_rows(recipe))


def test_rows(recipe: Recipe) -> Samples:
    """The test rows of `recipe`: never those that it trains on. Errors: DataError where it has none."""
    data = recipe.data
    if data.test is not None:
        return load_part(data.test, "test")
    rows = load_splits(data, recipe.seed).test
    if not len(rows):
        raise DataError(f"{data.train!r} has no test rows. Give data.test, or rows with split=test in data.train.")
    return rows


def rates(recipe: Recipe, trials: int) -> list[float]:
    """The learning rates that are tried: that of `recipe` in the middle, its neighbours `TUNING` times smaller or larger."""
    return [recipe.lr * TUNING**power for power in range(-((trials - 1) // 2), trials // 2 + 1)]


def with_rate(entry: Entry, lr: float) -> Entry:
    """`entry` with its last stage trained at `lr`."""
    *before, last = entry.stages
    recipe = last.recipe.model_copy(update={"lr": lr})
    stage = Stage(last.name, recipe, last.needs, digest_of(recipe, last.needs))
    return replace(entry, recipe=recipe, stages=(*before, stage))
