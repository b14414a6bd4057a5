"""Recipe -> run: names are checked, data is read and looked through, and only then is anything heavy loaded.

train        one recipe -> a train run
evaluate     a model, a data set, a strategy -> an eval run
run_chain    stages one after the other, the base and each stage evaluated on the same test rows -> a study run
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from osler.config import Chain, DataSettings, ImageSettings, Recipe, Spec
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.errors import DataError, RecipeError, RunError, unknown
from osler.floor import OptionPrior, clusters_of
from osler.grading import grader
from osler.images import open_image
from osler.progress import bar, console
from osler.report import write_report
from osler.rewards import reward_of
from osler.runs import Run, default_path, require_free
from osler.schema import Sample
from osler.strategies import STRATEGIES, AnswerForm, strategy_of

STAGE = re.compile(r"stage:(?P<name>.+)")


@dataclass(frozen=True)
class Splits:
    """The rows of one recipe: to train on, to stop on, to report on."""

    train: Samples
    val: Samples
    test: Samples


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
        load_splits(recipe.data, recipe.seed)
        earlier.append(name)


def _stage_references(recipe: Recipe) -> list[str]:
    """The names of the stages that `recipe` needs the results of."""
    found = [STAGE.fullmatch(value) for value in (recipe.init, recipe.sft.max_seconds) if isinstance(value, str)]
    return [match["name"] for match in found if match]


def load_splits(data: DataSettings, seed: int) -> Splits:
    """The rows of each split. Errors: DataError where there are none to train on.

    Where no validation rows are given or shipped, `val_share` of the training groups (patients, images) are held out.
    """
    source = load_data(data.train)
    train = _part(source, "train")
    if not len(train):
        raise DataError(f"no training rows in {data.train!r}; its splits are {source.counts()['by_split']}.")
    test = _part(load_data(data.test), "test") if data.test is not None else source.where(split="test")
    val = _part(load_data(data.val), "val") if data.val is not None else source.where(split="val")
    if not len(val) and data.val_share:
        train, val = hold_out(train, data.val_share, seed)
    return Splits(train, val, test)


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """`samples` parted by group, `share` of the groups (at least one) in the second part. Seeded; order is kept."""
    groups = clusters_of(samples)
    names = sorted(set(groups))
    chosen = np.random.default_rng(seed).permutation(len(names))[: max(1, round(share * len(names)))]
    held = {names[index] for index in chosen}
    rows = range(len(samples))
    return samples.take(r for r in rows if groups[r] not in held), samples.take(r for r in rows if groups[r] in held)


def verify_images(samples: Sequence[Sample]) -> None:
    """Decode every image once, so that a broken one is found now and not at step 3000.

    Errors: DataError that names sample, row and file; or says that the data set was read without its images.
    """
    first: dict[str, tuple[int, str]] = {}
    for row, sample in enumerate(samples, 1):
        if not sample.images:
            raise DataError(f"sample {sample.id!r} has no image. Give the images' root: NAME:PATH?images=ROOT.")
        for reference in sample.images:
            first.setdefault(reference, (row, sample.id))
    files = {reference: where for reference, where in first.items() if not reference.startswith("phantom:")}
    if not files:
        return

    def decode(reference: str) -> None:
        try:
            open_image(reference)
        except DataError as error:
            row, name = files[reference]
            raise DataError(f"row {row} (sample {name}): {error}") from error

    with bar("Check images", len(files)) as tick, ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, files):
            tick("")


def train(recipe: Recipe, out: str | Path | None = None) -> Run:
    """The finished run of `recipe`. Errors: any OslerError, before the run folder is made."""
    from osler.model.load import load_policy  # torch is loaded only once names and data have been found good

    check(recipe)
    if missing := _stage_references(recipe):
        raise RecipeError(f"stage:{missing[0]} is known only inside a chain. Write run:DIR, or seconds as a number.")
    path = require_free(out or default_path(recipe.method))
    recipe = recipe.model_copy(update={"init": _absolute(recipe.init)})
    splits = load_splits(recipe.data, recipe.seed)
    validation = splits.val if recipe.method == "sft" else []
    verify_images([*splits.train, *validation])
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
) -> Run:
    """The finished evaluation of `model` on a split of `data`, asked as it was trained unless `trial` says otherwise.

    Errors: any OslerError, before the run folder is made.
    """
    trial = trial or trial_of(model)
    strategy = strategy_of(trial.strategy)
    path = Path(out or default_path("eval")) if resume else require_free(out or default_path("eval"))
    samples = _part(load_data(data), split)
    if not len(samples):
        raise DataError(f"no {split} rows in {data!r}; its splits are {load_data(data).counts()['by_split']}.")
    verify_images(samples)
    set_threads(trial.threads)
    from osler.evaluation import evaluate as record
    from osler.model.load import load_policy

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
            trained[name] = train(_resolve(recipe, study, trained), study.path / name)
            evaluated[name] = _evaluate_stage(study, name, f"run:{trained[name].path}", recipe)
    return ChainResult(study, trained, evaluated)


def finish_chain(result: ChainResult) -> Path:
    """The report of a chain, written beside its summary.json: every evaluation's numbers by stage."""
    result.run.finish({name: run.summary for name, run in result.evaluated.items()})
    return write_report([*result.trained.values(), *result.evaluated.values()], result.run.path / "report.html")


def _evaluate_stage(study: Run, name: str, model: str, recipe: Recipe) -> Run:
    data = recipe.data.test if recipe.data.test is not None else recipe.data.train
    return evaluate(model, data, Trial.of(recipe), out=study.path / f"{name}-test", label=name)


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


def trained_on(samples: Sequence[Sample], init: str | None) -> dict[str, Any]:
    """The domains that a model has seen after training on `samples` from `init`, and the blind attacker of these rows."""
    before = training_of(init) if init else None
    axes: dict[str, Any] = {
        axis: sorted({str(getattr(s, axis)) for s in samples} | set(before[axis] if before else []))
        for axis in ("modality", "question_type", "source")
    }
    return {**axes, "n": len(samples), "row_hash": row_hash(samples), "option_prior": OptionPrior.fit(samples).to_json()}


def training_of(model: str) -> dict[str, Any] | None:
    """What `model` was trained on, as its run recorded it; None for a model that osler did not train."""
    found: dict[str, Any] | None = _run_of(model).manifest["trained_on"] if model.startswith("run:") else None
    return found


def trial_of(model: str) -> Trial:
    """How `model` was asked in training; the defaults for a model that osler did not train."""
    return Trial.of(Recipe.model_validate(_run_of(model).manifest["recipe"])) if model.startswith("run:") else Trial()


def model_label(model: str) -> str:
    """A short name to show: the run's, or the last part of a path or hub name."""
    return _run_of(model).name if model.startswith("run:") else model.rstrip("/").rpartition("/")[2]


def model_hash(model: str) -> str | None:
    """The hash of the weights that `model` adds (a run's adapter) or is (a folder); None for a hub name."""
    from osler.model.load import TINY, adapter_of, split_step

    if model.startswith("run:"):
        folder = adapter_of(*split_step(model.removeprefix("run:")))
    else:
        folder = TINY if model == "tiny" else Path(model.removeprefix("peft:"))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(_file_hash(file) for file in files) if files else None


def row_hash(samples: Iterable[Sample]) -> str:
    """A hash of what is asked and what is right, row by row."""
    return _digest(json.dumps([s.id, s.question, s.options, s.golds], ensure_ascii=False) for s in samples)


def set_threads(threads: int) -> None:
    """Threads for this process's tensors; two on a shared core can be ten times slower than one."""
    import torch

    torch.set_num_threads(threads)


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def _part(samples: Samples, split: str) -> Samples:
    """The rows of `split`, or all of them where the data set has no splits at all."""
    return samples if set(samples.counts()["by_split"]) == {"none"} else samples.where(split=split)


def _run_of(model: str) -> Run:
    from osler.model.load import split_step

    return Run.open(split_step(model.removeprefix("run:"))[0], "train")


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
