"""Recipe -> run: names are checked, data is read and looked through, and only then is anything heavy loaded.

train        one recipe -> a train run
evaluate     a model, a data set, a strategy -> an eval run
run_chain    stages one after the other, the base and each stage evaluated on the same test rows -> a study run
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain as joined
from pathlib import Path
from typing import Any

import numpy as np

from osler.check import STAGE, check, check_machine, check_rows, check_stages, stage_references, verify_images
from osler.config import Chain, FeatureSettings, ImageSettings, Recipe, Spec
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits, load_part, load_splits
from osler.errors import DataError, RecipeError, RunError, unknown
from osler.floor import OptionPrior
from osler.grading import grader
from osler.progress import console
from osler.report import write_report
from osler.runs import Run, default_path, require_free
from osler.strategies import AnswerForm, strategy_of


@dataclass(frozen=True)
class Trial:
    """How a model is asked: everything of an evaluation but the model and the rows."""

    strategy: str = "think"
    answer_form: AnswerForm = "letter"
    max_tokens: int = 256
    images: ImageSettings = field(default_factory=ImageSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    dtype: str = "auto"
    threads: int = 1
    batch_size: int = 64

    @classmethod
    def of(cls, recipe: Recipe) -> "Trial":
        """How a model that `recipe` trained was asked in training."""
        longest = recipe.eval_max_tokens or recipe.rollout.max_tokens
        settings = (recipe.images, recipe.features, recipe.dtype, recipe.threads, recipe.eval_batch_size)
        return cls(recipe.strategy, recipe.answer_form, longest, *settings)

    @classmethod
    def of_model(cls, model: str) -> "Trial":
        """How `model` was asked in training; the defaults for a model that osler did not train."""
        from osler.lineage import recipe_of

        recipe = recipe_of(model)
        return cls.of(recipe) if recipe else cls()

    def to_json(self) -> dict[str, Any]:
        """What decides the completions, for the manifest."""
        settings = {name: getattr(self, name) for name in ("strategy", "answer_form", "max_tokens", "dtype")}
        return {**settings, "images": self.images.model_dump()}

    def with_changes(self, **changes: Any) -> "Trial":
        """This trial with what is given (not None) changed. Errors: RecipeError for an answer form that is none."""
        if changes.get("answer_form") not in (None, "letter", "text"):
            raise RecipeError(unknown("answer form", changes["answer_form"], ("letter", "text")))
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def train(recipe: Recipe, out: str | Path | None = None, splits: Splits | None = None, resume: bool = False) -> Run:
    """The finished run of `recipe`. Errors: any OslerError, before the run folder is made.

    `splits` are its rows where a chain has read and verified them already. With `resume` a run that was cut off in `out`
    goes on from its last checkpoint; one that is done is returned as it is, and one that is not there is begun.
    """
    check(recipe)
    if resume and (recipe.method, recipe.engine) != ("grpo", "packed"):
        raise RecipeError("only GRPO on engine=packed can be resumed so far. Train again into another folder.")
    if missing := stage_references(recipe):
        raise RecipeError(f"stage:{missing[0]} is known only inside a chain. Write run:DIR, or seconds as a number.")
    known = resume and out is not None and (Path(out) / "manifest.json").exists()
    path = Path(str(out)) if known else require_free(out or default_path(recipe.method))
    model = str(Path(recipe.model).resolve()) if Path(recipe.model).is_dir() else recipe.model
    recipe = recipe.model_copy(update={"init": _absolute(recipe.init), "model": model})
    if splits is None:
        splits = load_splits(recipe.data, recipe.seed, with_test=False)
        check_rows(recipe, splits)
        verify_images(joined(splits.train, splits.val))
    check_machine(recipe)

    from osler.lineage import start_of, trained_on  # torch is loaded only once names and data have been found good
    from osler.model.family import set_threads
    from osler.model.load import load_policy

    data = trained_on(splits.train, recipe.init)
    cut_off = _cut_off(path, recipe, data) if known else None
    if cut_off and cut_off.manifest["state"] == "done":
        return cut_off
    set_threads(recipe.threads)
    vlm = load_policy(recipe.init or recipe.model, recipe.images, recipe.dtype)
    facts = {"device": vlm.hardware, "start": start_of(recipe), "trained_on": data}
    started = time.perf_counter()
    trainer = _trainer(recipe, vlm, splits, cut_off)
    earlier = sum(row["step_time"] for row in cut_off.rows("metrics")) if cut_off else 0.0
    run = cut_off or Run.create(path, "train", recipe=recipe.model_dump(mode="json"), **facts)
    with run.recording():
        trainer(run)
        run.finish(training_summary(run, earlier + time.perf_counter() - started))
    return run


def _trainer(recipe: Recipe, vlm: Any, splits: Splits, cut_off: Run | None = None) -> Callable[[Run], None]:
    """What trains `recipe` into a run folder, from where `cut_off` stopped. Errors: any OslerError, before it writes."""
    strategy, judge = strategy_of(recipe.strategy), grader(recipe.answer_form)
    if recipe.method == "sft":
        from osler.baselines import train_sft

        return lambda run: train_sft(recipe, vlm, splits.train, splits.val, strategy, run)
    if recipe.engine == "trl":
        from osler.rl.trl_engine import train_grpo

        return lambda run: train_grpo(recipe, vlm, splits.train, strategy, judge, run)
    from osler.rl.engine import Engine

    engine = Engine(recipe, vlm, splits.train, strategy, judge)
    if cut_off:
        engine.resume(cut_off)
    return engine.train


def evaluate(
    model: str,
    data: Spec,
    trial: Trial | None = None,
    split: str = "test",
    out: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """The finished evaluation of `model` on a split of `data`, asked as it was trained unless `trial` says otherwise.

    Errors: any OslerError, before the run folder is made.
    """
    trial = trial or Trial.of_model(model)
    strategy_of(trial.strategy)
    path = Path(out or default_path("eval")) if resume else require_free(out or default_path("eval"))
    samples = load_part(data, split)

    from osler.lineage import recipe_of
    from osler.model.preflight import check_policy

    check_policy(model)
    recipe = recipe_of(model)
    if recipe and recipe.data.train == data and split != "train" and all(sample.split is None for sample in samples):
        raise DataError(f"{data!r} has no splits, and {model} was trained on it: an accuracy there would be no test. "
                        "Give other rows, or say --split train.")  # fmt: skip
    verify_images(samples)
    return _evaluate(model, samples, trial, path, {"spec": data, "split": split}, resume=resume)


def _evaluate(
    model: str,
    samples: Samples,
    trial: Trial,
    path: Path,
    data: dict[str, Any],
    label: str | None = None,
    seen: OptionPrior | None = None,
    resume: bool = False,
) -> Run:
    """The evaluation of `model` on `samples`; `seen` is the blind attacker where the model itself was trained on nothing."""
    from osler.evaluation import evaluate as record
    from osler.lineage import model_hash, model_label, row_hash, training_of
    from osler.model.family import set_threads
    from osler.model.features import FeatureStore
    from osler.model.load import load_policy

    set_threads(trial.threads)
    vlm = load_policy(model, trial.images, trial.dtype)
    training = training_of(model)
    facts = {
        "device": vlm.hardware,
        "model": {"label": label or model_label(model), "spec": model, "sha256": model_hash(model)},
        "trained_on": training,
        "data": {**data, "n": len(samples), "row_hash": row_hash(samples)},
        "trial": trial.to_json(),
    }
    run = _resumed(path, facts) if resume and path.exists() else Run.create(path, "eval", **facts)
    prior = OptionPrior.from_json(training["option_prior"]) if training else seen
    judge, store = grader(trial.answer_form), FeatureStore(vlm, trial.features)
    with run.recording():
        record(
            vlm,
            store,
            samples,
            strategy_of(trial.strategy),
            trial.answer_form,
            judge,
            run,
            trial.max_tokens,
            prior,
            trial.batch_size,
        )
    return run


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
        blind = OptionPrior.fit(joined(*(part.train for part in splits.values())))
        test = next(iter(splits.values())).test
        result.evaluated["base"] = _evaluate_stage(study, "base", first.init or first.model, first, test, blind)
        for name, recipe in chain.stages.items():
            console.print(f"[bold]{name}[/]: {recipe.method} from {recipe.init or recipe.model}")
            run = result.trained[name] = train(_resolve(recipe, result.trained), study.path / name, splits[name])
            result.evaluated[name] = _evaluate_stage(study, name, f"run:{run.path}", recipe, test)
        study.finish((conclude or conclude_chain)(result))
    return result


def load_chain(chain: Chain) -> dict[str, Splits]:
    """The rows of each stage, read and looked through. Errors: any OslerError, RecipeError where test rows differ."""
    from osler.lineage import row_hash

    splits = {name: load_splits(recipe.data, recipe.seed) for name, recipe in chain.stages.items()}
    for name, part in splits.items():
        check_rows(chain.stages[name], part)
        if not len(part.test):
            raise RecipeError(f"stage {name} has no test rows. Give data.test, or rows with split=test in data.train.")
    if len({row_hash(part.test) for part in splits.values()}) > 1:
        raise RecipeError("the stages have different test rows, so their accuracies cannot be compared. Give one data.test.")
    verify_images(joined(*(joined(part.train, part.val, part.test) for part in splits.values())))
    return splits


def conclude_chain(result: ChainResult) -> dict[str, Any]:
    """Every evaluation's summary by stage, and where the report that was written is."""
    report = write_report([*result.trained.values(), *result.evaluated.values()], result.run.path / "report.html")
    return {**{name: run.summary for name, run in result.evaluated.items()}, "report": str(report)}


def _evaluate_stage(study: Run, name: str, model: str, recipe: Recipe, test: Samples, seen: OptionPrior | None = None) -> Run:
    spec = recipe.data.test if recipe.data.test is not None else recipe.data.train
    data = {"spec": spec, "split": "test"}
    return _evaluate(model, test, Trial.of(recipe), study.path / f"{name}-test", data, label=name, seen=seen)


def _resolve(recipe: Recipe, trained: dict[str, Run]) -> Recipe:
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


def _cut_off(path: Path, recipe: Recipe, data: dict[str, Any]) -> Run:
    """The run at `path`, if it trains this very recipe on these rows. Errors: RunError that names what differs."""
    run = Run.open(path, "train")
    was, now = run.manifest["recipe"], recipe.model_dump(mode="json")
    for key in now:
        if was.get(key) != now[key]:
            raise RunError(f"{path} cannot be resumed: its {key} was {was.get(key)!r}, now it is {now[key]!r}.")
    if run.manifest["trained_on"]["row_hash"] != data["row_hash"]:
        raise RunError(f"{path} cannot be resumed: its training rows were others. Restore them, or train into another folder.")
    return run


def _resumed(path: Path, facts: dict[str, Any]) -> Run:
    """The run at `path`, if it evaluates the same model on the same rows in the same way. Errors: RunError."""
    run = Run.open(path)
    for name in ("model", "data", "trial"):
        if run.manifest.get(name) != json.loads(json.dumps(facts[name])):
            raise RunError(f"{path} cannot be resumed: its {name} was {run.manifest.get(name)}, now it is {facts[name]}.")
    run.save(state="running")
    return run
