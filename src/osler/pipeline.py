"""Recipe -> run: names are checked, data is read and looked through, and only then is anything heavy loaded.

train        one recipe -> a train run
evaluate     a model, a data set, a strategy -> an eval run
run_chain    stages one after the other, the base and each stage evaluated on the same test rows -> a study run
"""

import json
import re
import time
from dataclasses import dataclass, field, replace
from itertools import chain as joined
from pathlib import Path
from typing import Any

import numpy as np

from osler.check import verify_images
from osler.config import Chain, ImageSettings, Recipe, Spec
from osler.datasets.splits import Splits, load_part, load_splits
from osler.errors import RecipeError, RunError, unknown
from osler.floor import OptionPrior
from osler.grading import grader
from osler.progress import console
from osler.report import write_report
from osler.rewards import reward_of
from osler.runs import Run, default_path, require_free
from osler.strategies import STRATEGIES, AnswerForm, strategy_of

STAGE = re.compile(r"stage:(?P<name>.+)")


@dataclass(frozen=True)
class Trial:
    """How a model is asked: everything of an evaluation but the model and the rows."""

    strategy: str = "think"
    answer_form: AnswerForm = "letter"
    max_tokens: int = 256
    images: ImageSettings = field(default_factory=ImageSettings)
    dtype: str = "auto"
    threads: int = 1

    @classmethod
    def of(cls, recipe: Recipe) -> "Trial":
        """How a model that `recipe` trained was asked in training."""
        longest = recipe.eval_max_tokens or recipe.rollout.max_tokens
        return cls(recipe.strategy, recipe.answer_form, longest, recipe.images, recipe.dtype, recipe.threads)

    @classmethod
    def of_model(cls, model: str) -> "Trial":
        """How `model` was asked in training; the defaults for a model that osler did not train."""
        from osler.lineage import recipe_of

        recipe = recipe_of(model)
        return cls.of(recipe) if recipe else cls()

    def with_changes(self, **changes: Any) -> "Trial":
        """This trial with what is given (not None) changed. Errors: RecipeError for an answer form that is none."""
        if changes.get("answer_form") not in (None, "letter", "text"):
            raise RecipeError(unknown("answer form", changes["answer_form"], ("letter", "text")))
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def check(recipe: Recipe) -> None:
    """Errors: RecipeError for a name that nothing answers to, or a combination that cannot work."""
    strategy = strategy_of(recipe.strategy)
    for reward in recipe.rewards:
        reward_of(reward.name)
    if not strategy.tagged and any(reward.name == "format" and reward.weight for reward in recipe.rewards):
        tagged = ", ".join(name for name, one in STRATEGIES.items() if one.tagged)
        raise RecipeError(f"strategy {recipe.strategy!r} has no tags, so a format reward has nothing to pay for. "
                          f"Drop it, or use a tagged strategy: {tagged}.")  # fmt: skip
    rollout = recipe.rollout
    completions = rollout.G * rollout.prompts_per_step
    if rollout.micro_batch and completions % rollout.micro_batch:
        raise RecipeError(f"rollout.micro_batch={rollout.micro_batch} does not divide G x prompts_per_step = {completions}.")
    if recipe.sft.micro_batch and recipe.sft.batch_size % recipe.sft.micro_batch:
        raise RecipeError(f"sft.micro_batch={recipe.sft.micro_batch} does not divide sft.batch_size={recipe.sft.batch_size}.")
    if recipe.init and not recipe.init.startswith(("run:", "stage:")):
        raise RecipeError(f"init {recipe.init!r} is no run: write run:DIR, or set model instead to start from a checkpoint.")
    longest = recipe.sft.max_seconds
    if isinstance(longest, str) and not STAGE.fullmatch(longest):
        raise RecipeError(f"sft.max_seconds is {longest!r}: give seconds, or stage:NAME.")


def check_chain(chain: Chain) -> None:
    """Errors: any OslerError for a stage whose names, rows or earlier stages are not there."""
    earlier: list[str] = []
    for name, recipe in chain.stages.items():
        check(recipe)
        for reference in _stage_references(recipe):
            if reference not in earlier:
                raise RecipeError(f"stage {name}: stage:{reference} is no earlier stage; there are {earlier or 'none'}.")
        earlier.append(name)
    all_splits = [load_splits(recipe.data, recipe.seed) for recipe in chain.stages.values()]
    tested = [load_part(_test_spec(recipe), "test") for recipe in chain.stages.values()]
    verify_images(joined(*(joined(s.train, s.val) for s in all_splits), *tested))


def _stage_references(recipe: Recipe) -> list[str]:
    """The names of the stages that `recipe` needs the results of."""
    found = [STAGE.fullmatch(value) for value in (recipe.init, recipe.sft.max_seconds) if isinstance(value, str)]
    return [match["name"] for match in found if match]


def train(recipe: Recipe, out: str | Path | None = None, images_verified: bool = False) -> Run:
    """The finished run of `recipe`. Errors: any OslerError, before the run folder is made."""
    check(recipe)
    if missing := _stage_references(recipe):
        raise RecipeError(f"stage:{missing[0]} is known only inside a chain. Write run:DIR, or seconds as a number.")
    path = require_free(out or default_path(recipe.method))
    recipe = recipe.model_copy(update={"init": _absolute(recipe.init)})
    splits = load_splits(recipe.data, recipe.seed)
    if not images_verified:
        verify_images(joined(splits.train, splits.val if recipe.method == "sft" else ()))

    from osler.lineage import trained_on  # torch is loaded only once names and data have been found good
    from osler.model.load import load_policy, set_threads

    set_threads(recipe.threads)
    vlm = load_policy(recipe.init or recipe.model, recipe.images, recipe.dtype)
    run = Run.create(path, "train", recipe=recipe.model_dump(mode="json"), trained_on=trained_on(splits.train, recipe.init))
    with run.recording():
        started = time.perf_counter()
        _train(recipe, vlm, splits, run)
        run.finish(training_summary(run, time.perf_counter() - started))
    return run


def _train(recipe: Recipe, vlm: Any, splits: Splits, run: Run) -> None:
    from osler.baselines import train_sft
    from osler.rl.trl_engine import train_grpo

    strategy = strategy_of(recipe.strategy)
    if recipe.method == "sft":
        train_sft(recipe, vlm, splits.train, splits.val, strategy, run)
    else:
        train_grpo(recipe, vlm, splits.train, strategy, grader(recipe.answer_form), run)


def evaluate(
    model: str,
    data: Spec,
    trial: Trial | None = None,
    split: str = "test",
    out: str | Path | None = None,
    label: str | None = None,
    resume: bool = False,
    images_verified: bool = False,
) -> Run:
    """The finished evaluation of `model` on a split of `data`, asked as it was trained unless `trial` says otherwise.

    Errors: any OslerError, before the run folder is made.
    """
    trial = trial or Trial.of_model(model)
    strategy = strategy_of(trial.strategy)
    path = Path(out or default_path("eval")) if resume else require_free(out or default_path("eval"))
    samples = load_part(data, split)
    if not images_verified:
        verify_images(samples)

    from osler.evaluation import evaluate as record
    from osler.lineage import model_hash, model_label, row_hash, training_of
    from osler.model.load import load_policy, set_threads

    set_threads(trial.threads)
    vlm = load_policy(model, trial.images, trial.dtype)
    training = training_of(model)
    facts = {
        "model": {"label": label or model_label(model), "spec": model, "sha256": model_hash(model)},
        "trained_on": training,
        "data": {"spec": data, "split": split, "n": len(samples), "row_hash": row_hash(samples)},
        "trial": {"strategy": trial.strategy, "answer_form": trial.answer_form, "max_tokens": trial.max_tokens},
    }
    run = _resumed(path, facts) if resume and path.exists() else Run.create(path, "eval", **facts)
    prior = OptionPrior.from_json(training["option_prior"]) if training else None
    with run.recording():
        record(vlm, samples, strategy, trial.answer_form, grader(trial.answer_form), run, trial.max_tokens, prior)
    return run


@dataclass(frozen=True)
class ChainResult:
    """What a chain left: its own run, and of each stage the train run and the eval run; `base` has only the latter."""

    run: Run
    trained: dict[str, Run]
    evaluated: dict[str, Run]


def run_chain(chain: Chain, out: str | Path | None = None) -> ChainResult:
    """Train the stages in order, evaluate base and stages on the same test rows.

    Errors: any OslerError; before the run folder is made where names, rows or stages are not there.
    """
    check_chain(chain)
    study = Run.create(require_free(out or default_path(chain.name)), "study", chain=chain.model_dump(mode="json"))
    trained: dict[str, Run] = {}
    evaluated: dict[str, Run] = {}
    with study.recording():
        first = next(iter(chain.stages.values()))
        evaluated["base"] = _evaluate_stage(study, "base", first.model, first)
        for name, recipe in chain.stages.items():
            console.print(f"[bold]{name}[/]: {recipe.method} from {recipe.init or recipe.model}")
            trained[name] = train(_resolve(recipe, study, trained), study.path / name, images_verified=True)
            evaluated[name] = _evaluate_stage(study, name, f"run:{trained[name].path}", recipe)
    return ChainResult(study, trained, evaluated)


def finish_chain(result: ChainResult) -> Path:
    """The report of a chain, written beside its summary.json: every evaluation's numbers by stage."""
    result.run.finish({name: run.summary for name, run in result.evaluated.items()})
    return write_report([*result.trained.values(), *result.evaluated.values()], result.run.path / "report.html")


def _evaluate_stage(study: Run, name: str, model: str, recipe: Recipe) -> Run:
    out = study.path / f"{name}-test"
    return evaluate(model, _test_spec(recipe), Trial.of(recipe), out=out, label=name, images_verified=True)


def _test_spec(recipe: Recipe) -> Spec:
    return recipe.data.test if recipe.data.test is not None else recipe.data.train


def _resolve(recipe: Recipe, study: Run, trained: dict[str, Run]) -> Recipe:
    """`recipe` with every `stage:NAME` replaced by what that stage left."""
    update: dict[str, Any] = {}
    if recipe.init and (found := STAGE.fullmatch(recipe.init)):
        update["init"] = f"run:{trained[found['name']].path}"
    if isinstance(recipe.sft.max_seconds, str) and (found := STAGE.fullmatch(recipe.sft.max_seconds)):
        update["sft"] = recipe.sft.model_copy(update={"max_seconds": trained[found["name"]].summary["seconds"]})
    return recipe.model_copy(update=update)


def training_summary(run: Run, seconds: float) -> dict[str, Any]:
    """Where training began and ended: the mean over the first and the last five steps of reward or loss, and the seconds."""
    metrics = run.rows("metrics")
    summary: dict[str, Any] = {"seconds": round(seconds, 1), "steps": metrics[-1]["step"] if metrics else 0}
    for name in ("reward", "loss"):
        values = [float(row[name]) for row in metrics if row.get(name) is not None]
        if values:
            summary[name] = {"first": float(np.mean(values[:5])), "last": float(np.mean(values[-5:]))}
    if run.manifest.get("best_step"):
        summary["best_step"] = run.manifest["best_step"]
    return summary


def _absolute(init: str | None) -> str | None:
    return f"run:{Path(init.removeprefix('run:')).resolve()}" if init else None


def _resumed(path: Path, facts: dict[str, Any]) -> Run:
    """The run at `path`, if it evaluates the same model on the same rows in the same way. Errors: RunError."""
    run = Run.open(path)
    for name in ("model", "data", "trial"):
        if run.manifest.get(name) != json.loads(json.dumps(facts[name])):
            raise RunError(f"{path} cannot be resumed: its {name} was {run.manifest.get(name)}, now it is {facts[name]}.")
    run.save(state="running")
    return run
