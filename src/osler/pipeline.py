"""Recipe -> run: names are checked, data is read and looked through, and only then is anything heavy loaded.

train        one recipe -> a train run
evaluate     a model, a data set, a strategy -> an eval run
evaluate_rows   the same on rows that were read already
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from osler.check import check, check_machine, check_rows, stage_references, verify_images
from osler.config import Recipe, ShortcutSettings, Spec
from osler.controls import TWIN, blanked
from osler.datasets.load import load_data
from osler.datasets.manifests import row_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits, load_part, load_splits
from osler.errors import DataError, RecipeError
from osler.floor import Floor
from osler.grading import grader
from osler.memory import peak_memory
from osler.policies import check_model, load_answers, losses_of, text_model_of
from osler.progress import console
from osler.resuming import cut_off, resumed
from osler.runs import Run, default_path, require_free
from osler.trial import Trial
from osler.wordings import strategy_for


def train(recipe: Recipe, out: str | Path | None = None, splits: Splits | None = None, resume: bool = False) -> Run:
    """The finished run of `recipe`. Errors: any OslerError, before the run folder is made.

    `splits` are its rows where a chain has read and verified them already. With `resume` a run that was cut off in `out`
    goes on from its last checkpoint; one that is done is returned as it is, and one that is not there is begun.
    """
    check(recipe)
    if resume and (recipe.method, recipe.engine) != ("grpo", "packed"):
        raise RecipeError("only method=grpo on engine=packed can be resumed so far; SFT, DPO and engine=trl are trained by TRL "
                          "from the beginning. Train again into another folder.")  # fmt: skip
    if missing := stage_references(recipe):
        raise RecipeError(f"stage:{missing[0]} is known only inside a chain. Write run:DIR, or seconds as a number.")
    path = Path(out or default_path(recipe.method)) if resume else require_free(out or default_path(recipe.method))
    model = str(Path(recipe.model).resolve()) if Path(recipe.model).is_dir() else recipe.model
    named = "model" in recipe.model_fields_set
    recipe = recipe.model_copy(update={"init": _absolute(recipe.init), "model": model})
    if splits is None:
        splits = load_splits(recipe.data, recipe.seed, with_test=False)
        check_rows(recipe, splits)
    check_machine(recipe)
    recipe = _rooted(recipe, named)
    splits = _usable(recipe, splits)
    start = _blind_start(recipe)
    given, (splits, about) = splits.train, selected(recipe, splits)
    run = _train(recipe, path, splits, resume, given, **about)
    if recipe.controls.blind_twin:
        console.print("[bold]blind twin[/]: the same recipe on blank images")
        from osler.training.pass_rates import kept_rows

        blind = Splits(blanked(kept_rows(recipe, splits.train, run)), blanked(splits.val), splits.test)
        controls = recipe.controls.model_copy(update={"blind_twin": False})
        against = recipe.against_shortcuts.model_copy(update={"pass_rate": None})  # the twin learns from the same rows
        alone = recipe.model_copy(update={"init": start, "controls": controls, "against_shortcuts": against})
        _train(alone, run.path / TWIN, blind, resume, given, blind=True, **about)
    return run


def _usable(recipe: Recipe, splits: Splits) -> Splits:
    """`splits`, looked through row by row as training will ask them. Errors: DataError above data.max_problems."""
    from osler.checking.training import usable

    splits = usable(splits, recipe, recipe.data.max_problems)
    check_rows(recipe, splits)
    return splits


def _rooted(recipe: Recipe, named: bool) -> Recipe:
    """`recipe` with the checkpoint that its start goes back to as its model. Errors: RecipeError where it `named` another."""
    from osler.lineage import start_of

    root = start_of(recipe)[0]["model"]
    if named and recipe.model != root:
        raise RecipeError(
            f"model={recipe.model} does nothing where init names a run, which began from {root}. Leave model out."
        )
    return recipe.model_copy(update={"model": root})


def selected(recipe: Recipe, splits: Splits) -> tuple[Splits, dict[str, Any]]:
    """`splits` with the rows that are trained on, and what the manifest says of them where `against_shortcuts` is not off."""
    if recipe.against_shortcuts == ShortcutSettings() and recipe.strategy != "diverse":
        return splits, {}
    from osler.training.rows import select, tell

    rows = select(recipe, splits.train)
    tell(recipe, rows)
    return replace(splits, train=rows.samples), {"training_rows": rows.to_json()}


def _blind_start(recipe: Recipe) -> str | None:
    """What the blind twin of `recipe` starts from: the blind twin of its start. Errors: RecipeError where that has none."""
    from osler.lineage import training_of, twin_of

    seen = recipe.init or (recipe.model if training_of(recipe.model) else None)  # an export has seen images as its run has
    start = twin_of(seen) if seen and recipe.controls.blind_twin else None
    if seen and recipe.controls.blind_twin and start is None:
        raise RecipeError(f"controls.blind_twin: {seen} has seen images and has no blind twin to start from. "
                          "Train it with controls.blind_twin as well.")  # fmt: skip
    return start


def _train(recipe: Recipe, path: Path, splits: Splits, resume: bool, given: Samples, **about: Any) -> Run:
    """The finished run of `recipe` at `path`, with `about` in its manifest. Its floor is that of the rows as they were `given`:
    what text could win with all of them."""
    # torch is loaded only once names and data have been found good
    from osler.lineage import keep_floor, start_of, trained_on, training_facts
    from osler.model.family import set_threads
    from osler.model.load import load_policy

    data = trained_on(splits.train, recipe.init or recipe.model)
    begun = cut_off(path, recipe, data) if resume and (path / "manifest.json").exists() else None
    if begun and begun.manifest["state"] == "done":
        return begun
    set_threads(recipe.threads)
    vlm = load_policy(recipe.init or recipe.model, recipe.images, recipe.dtype)
    facts = {
        "device": vlm.hardware,
        "start": start_of(recipe),
        "trained_on": data,
        "training": training_facts(recipe, given),
        **about,
    }
    started = time.perf_counter()
    filters = recipe.against_shortcuts.pass_rate is not None
    trainer = None if filters else _trainer(recipe, vlm, splits, begun)
    earlier = sum(row["step_time"] for row in begun.rows("metrics")) if begun else 0.0
    earlier += sum(row["seconds"] for row in begun.rows("pass_rates")) if begun else 0.0
    run = begun or Run.create(path, "train", recipe=recipe.model_dump(mode="json"), **facts)
    keep_floor(run, given, recipe.init or recipe.model)
    with run.recording():
        trainer = trainer or _trainer(recipe, vlm, _solvable(recipe, vlm, splits, run), begun)
        with peak_memory(vlm.device.type) as memory:
            trainer(run)
        run.save(memory=memory)
        run.finish(training_summary(run, earlier + time.perf_counter() - started))
    return run


def _solvable(recipe: Recipe, vlm: Any, splits: Splits, run: Run) -> Splits:
    """`splits` with the training rows that the start solves neither always nor never. Errors: RunError where none are left."""
    from osler.training.pass_rates import solvable

    run.save(state="running")
    strategy, judge = strategy_for(recipe.strategy, recipe.wording, "training"), grader(recipe.answer_form)
    return replace(splits, train=solvable(recipe, vlm, splits.train, strategy, judge, run))


def _trainer(recipe: Recipe, vlm: Any, splits: Splits, begun: Run | None = None) -> Callable[[Run], None]:
    """What trains `recipe` into a run folder, from where `begun` stopped. Errors: any OslerError, before it writes."""
    strategy, judge = strategy_for(recipe.strategy, recipe.wording, "training"), grader(recipe.answer_form)
    if recipe.method != "grpo" or recipe.engine != "packed":
        from osler.training.rows import drawn_once

        splits = replace(splits, train=drawn_once(recipe, splits.train))
    if recipe.method == "sft":
        from osler.baselines.sft import train_sft

        return lambda run: train_sft(recipe, vlm, splits.train, splits.val, strategy, run)
    if recipe.method == "dpo":
        from osler.baselines.dpo import train_dpo

        return lambda run: train_dpo(recipe, vlm, splits.train, strategy, judge, run)
    if recipe.engine == "trl":
        from osler.rl.trl_engine import train_grpo

        return lambda run: train_grpo(recipe, vlm, splits.train, strategy, judge, run)
    from osler.rl.engine import Engine

    engine = Engine(recipe, vlm, splits.train, strategy, judge)
    if begun:
        engine.resume(begun)
    return engine.train


def evaluate(
    model: str,
    data: Spec,
    trial: Trial | None = None,
    split: str = "test",
    out: str | Path | None = None,
    resume: bool = False,
    train: Spec | None = None,
) -> Run:
    """The finished evaluation of `model` on a split of `data`, asked as it was trained unless `trial` says otherwise.

    The floor is that of the rows that the model was trained on; for a model that osler did not train, of the training rows of
    `train`, or of those that `data` itself has. Errors: any OslerError, before the run folder is made.
    """
    trial = trial or Trial.of_model(model)
    trial.check()
    if resume and out is None:
        raise RecipeError("--resume goes on with an evaluation: name its folder with --out.")
    if train is not None and model.startswith("run:"):
        raise RecipeError(
            "--train is for models that osler did not train; a run's floor is that of its own rows. Leave it out."
        )
    path = Path(out or default_path("eval")) if resume else require_free(out or default_path("eval"))
    samples = load_part(data, split)

    from osler.lineage import floor_of

    check_model(model, with_images=any(sample.images for sample in samples))
    _require_unseen(model, data, split, samples)
    verify_images(samples)
    seen = None if floor_of(model) else _floor_of_data(data, split, train)
    return evaluate_rows(model, samples, trial, path, {"spec": data, "split": split}, seen=seen, resume=resume)


def _require_unseen(model: str, data: Spec, split: str, samples: Samples) -> None:
    """Errors: DataError where rows without splits, which any split stands for, are those that `model` was trained on."""
    from osler.lineage import has_trained_on

    without_splits = all(sample.split is None for sample in samples)
    if split != "train" and without_splits and has_trained_on(model, data, samples):
        raise DataError(f"{data!r} has no splits, and {model} was trained on it: an accuracy there would be no test. "
                        "Give other rows, or say --split train.")  # fmt: skip


def _floor_of_data(data: Spec, split: str, train: Spec | None) -> Floor | None:
    """The blind attackers of the training rows of `train`, or of `data`; None where there are none, or they are evaluated."""
    if train is not None:
        return Floor.fit(load_part(train, "train"))
    rows = load_data(data).where(split="train")
    return Floor.fit(rows) if len(rows) and split != "train" else None


def evaluate_rows(
    model: str,
    samples: Samples,
    trial: Trial,
    path: Path,
    data: dict[str, Any],
    label: str | None = None,
    seen: Floor | None = None,
    resume: bool = False,
) -> Run:
    """The evaluation of `model` on `samples`; `seen` are the blind attackers where the model itself was trained on nothing."""
    from osler.evaluation import evaluate as record
    from osler.lineage import floor_of, known_judges_of, model_hash, model_label, training_of, twin_of

    floor = floor_of(model) or seen
    losses = losses_of(trial)
    policy = load_answers(model, trial)
    training = training_of(model)
    facts = {
        "device": policy.hardware,
        "model": {"label": label or model_label(model), "spec": model, "sha256": model_hash(model)},
        "trained_on": training,
        **known_judges_of(model),
        "data": {**data, "n": len(samples), "row_hash": row_hash(samples)},
        "trial": trial.to_json(),
        "text_model": text_model_of(trial),
        "floor": sha256(json.dumps(floor.to_json(), sort_keys=True).encode()).hexdigest() if floor else None,
    }
    run = resumed(path, facts) if resume and path.exists() else Run.create(path, "eval", **facts)
    twin, asking = twin_of(model), trial.asking(floor)
    with run.recording():
        blind = (lambda: load_answers(twin, trial).greedy) if twin else None
        with peak_memory(policy.device) if policy.device else nullcontext() as memory:
            record(policy.greedy, samples, asking, run, blind, policy.sampled, policy.continues, losses)
        run.save(memory=memory)
    return run


def training_summary(run: Run, seconds: float) -> dict[str, Any]:
    """Where training began and ended: the mean over the first and the last five steps of reward, loss or margin; the seconds;
    and where a judge was asked, what that took in all.

    `margin` is DPO's: beta times how much further the right completion is ahead of the wrong one than it was at the start.
    """
    metrics = run.rows("metrics")
    summary: dict[str, Any] = {"seconds": round(seconds, 1), "steps": metrics[-1]["step"] if metrics else 0}
    for name, key in (("reward", "reward"), ("loss", "loss"), ("margin", "rewards/margins")):
        values = [float(row[key]) for row in metrics if row.get(key) is not None]
        if values:
            summary[name] = {"first": float(np.mean(values[:5])), "last": float(np.mean(values[-5:]))}
    if judged := [row for row in metrics if "judge/items" in row]:
        names = ("items", "asked", "cached", "unscored", "seconds", "pauses", "paused_s", "tokens_in", "tokens_out")
        summary["judge"] = {name: sum(row[f"judge/{name}"] for row in judged) for name in names}
        summary["dropped_groups"] = sum(row["dropped_groups"] for row in metrics)
    if run.manifest.get("best_step"):
        summary["best_step"] = run.manifest["best_step"]
    return summary


def _absolute(init: str | None) -> str | None:
    return f"run:{Path(init.removeprefix('run:')).resolve()}" if init else None
