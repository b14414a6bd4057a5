"""A chain: stages one after the other, the base and each stage evaluated on the same test rows -> a study run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain as joined
from pathlib import Path
from typing import Any

from osler.check import STAGE, check_machine, check_rows, check_stages, verify_images
from osler.config import Chain, Recipe
from osler.datasets.manifests import rows_and_images_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits, load_splits
from osler.errors import RecipeError
from osler.floor import Floor
from osler.pipeline import evaluate_rows, train
from osler.progress import console
from osler.report import write_report
from osler.runs import Run, default_path, require_free
from osler.trial import Trial


@dataclass(frozen=True)
class ChainResult:
    """What a chain left: its own run, and of each stage the train run and the eval run; `base` has only the latter."""

    run: Run
    trained: dict[str, Run]
    evaluated: dict[str, Run]


def run_chain(
    chain: Chain, out: str | Path | None = None, conclude: Callable[[ChainResult], dict[str, Any]] | None = None
) -> ChainResult:
    """Train the stages in order; evaluate the base and each stage on the same test rows; report.

    `conclude` makes summary and report of what the stages left. Errors: any OslerError; before the run folder is made where
    names, rows, images, models or stages are not there.
    """
    check_stages(chain)
    path = require_free(out or default_path(chain.name))
    splits = load_chain(chain)
    for recipe in chain.stages.values():
        check_machine(recipe)
    study = Run.create(path, "study", chain=chain.model_dump(mode="json"))
    result = ChainResult(study, {}, {})
    with study.recording():
        first = next(iter(chain.stages.values()))
        blind = Floor.fit(joined(*(part.train for part in splits.values())))
        test = next(iter(splits.values())).test
        result.evaluated["base"] = _evaluate_stage(study, "base", first.init or first.model, first, test, blind)
        for name, recipe in chain.stages.items():
            console.print(f"[bold]{name}[/]: {recipe.method} from {recipe.init or recipe.model}")
            run = result.trained[name] = train(resolve(recipe, result.trained), study.path / name, splits[name])
            result.evaluated[name] = _evaluate_stage(study, name, f"run:{run.path}", recipe, test)
        study.finish((conclude or conclude_chain)(result))
    return result


def load_chain(chain: Chain) -> dict[str, Splits]:
    """The rows of each stage, read and looked through. Errors: any OslerError, RecipeError where test rows differ."""
    splits = {name: load_splits(recipe.data, recipe.seed) for name, recipe in chain.stages.items()}
    for name, part in splits.items():
        check_rows(chain.stages[name], part)
        if not len(part.test):
            raise RecipeError(f"stage {name} has no test rows. Give data.test, or rows with split=test in data.train.")
    if len({rows_and_images_hash(part.test) for part in splits.values()}) > 1:
        raise RecipeError("the stages have different test rows, so their accuracies cannot be compared. Give one data.test.")
    verify_images(joined(*(joined(part.train, part.val, part.test) for part in splits.values())))
    return splits


def conclude_chain(result: ChainResult) -> dict[str, Any]:
    """Every evaluation's summary by stage, and where the report that was written is."""
    report = write_report([*result.trained.values(), *result.evaluated.values()], result.run.path / "report.html")
    return {**{name: run.summary for name, run in result.evaluated.items()}, "report": str(report)}


def _evaluate_stage(study: Run, name: str, model: str, recipe: Recipe, test: Samples, seen: Floor | None = None) -> Run:
    spec = recipe.data.test if recipe.data.test is not None else recipe.data.train
    data = {"spec": spec, "split": "test"}
    return evaluate_rows(model, test, Trial.of(recipe), study.path / f"{name}-test", data, label=name, seen=seen)


def resolve(recipe: Recipe, trained: Mapping[str, Run]) -> Recipe:
    """`recipe` with every `stage:NAME` replaced by what that stage left."""
    update: dict[str, Any] = {}
    if recipe.init and (found := STAGE.fullmatch(recipe.init)):
        update["init"] = f"run:{trained[found['name']].path}"
    if isinstance(recipe.sft.max_seconds, str) and (found := STAGE.fullmatch(recipe.sft.max_seconds)):
        update["sft"] = recipe.sft.model_copy(update={"max_seconds": trained[found["name"]].summary["seconds"]})
    return recipe.model_copy(update=update)
