"""What SFT, DPO and GRPO through TRL share: settings, rows, full tuning, and what is written to the run folder."""

import dataclasses
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from datasets import Dataset
from transformers import TrainerCallback

from osler.config import Recipe
from osler.errors import RecipeError, RunError, unknown
from osler.images import open_image
from osler.model.adapters import save_adapter, save_model, unfreeze
from osler.model.family import VLM
from osler.model.load import dtype_of
from osler.progress import Tick
from osler.runs import Run


class Illustrated(Protocol):
    """Anything with images, as references: a sample, or a pair of completions."""

    @property
    def images(self) -> tuple[str, ...]: ...


Item = TypeVar("Item", bound=Illustrated)
Made = TypeVar("Made")

REFUSALS = (TypeError, ValueError, ImportError, OSError)
"""How TRL refuses: a value it cannot take, a package or a file that is not there."""


def trainer_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of any TRL config that the recipe decides, model and folder aside."""
    return {
        "learning_rate": recipe.lr,
        "lr_scheduler_type": recipe.lr_schedule,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": 0.0,
        "max_grad_norm": recipe.max_grad_norm,
        "max_steps": recipe.max_steps,
        "seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log a loss of 0 where there is none
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def machine_fields(vlm: VLM, folder: Path) -> dict[str, Any]:
    """The fields that follow from the model as it was loaded (before a WholeModel is made of it) and the run folder."""
    return _machine_fields(vlm.model.dtype, vlm.device.type, folder)


def _machine_fields(dtype: torch.dtype, device: str, folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder / "checkpoints"), "bf16": dtype == torch.bfloat16, "use_cpu": device == "cpu"}


def check_passthrough(recipe: Recipe, kind: Any, decided: dict[str, Any]) -> None:
    """Errors: RecipeError where `trl:` names a field that `kind` lacks, that the recipe decides, or that is osler's to set."""
    known = {field.name for field in dataclasses.fields(kind)}
    if strange := sorted(set(recipe.trl) - known):
        raise RecipeError(unknown("key", f"trl.{strange[0]}", (f"trl.{name}" for name in known)))
    ours = {*decided, "output_dir", "bf16", "use_cpu", "generation_kwargs"}
    clash = sorted(set(recipe.trl) & ours)
    if clash:
        raise RecipeError(f"trl.{clash[0]} is decided by the recipe itself. Set the recipe's own key instead.")


def build_config(kind: Callable[..., Any], recipe: Recipe, fields: dict[str, Any]) -> Any:
    """A TRL config of `kind` with `fields`, and the user's `trl:` beside them.

    Activation checkpointing is off unless the user asks for it: TRL's default would propagate through the frozen tower.
    Errors: RecipeError where TRL refuses.
    """
    return unless_refused(kind, **{"gradient_checkpointing": recipe.checkpointing, **recipe.trl}, **fields)


def unless_refused(kind: Callable[..., Made], **given: Any) -> Made:
    """`kind` of what is given: a config of TRL's, or a trainer. Errors: RecipeError where TRL refuses."""
    try:
        return kind(**given)
    except REFUSALS as error:
        raise RecipeError(f"TRL refuses these settings: {str(error).strip().rstrip('.')}.") from error


def check_config(recipe: Recipe, kind: Callable[..., Any], fields: dict[str, Any]) -> None:
    """Errors: RecipeError where `trl:` names what it may not, or TRL refuses the config; before a model is loaded."""
    check_passthrough(recipe, kind, fields)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        build_config(kind, recipe, fields | _machine_fields(dtype_of(recipe.dtype, device), device, Path(folder)))


def rows_of(items: Sequence[Item], columns: Callable[[Item], dict[str, Any]]) -> Dataset:
    """A data set of `columns` of each item, its row number and its images, made when asked for."""
    return Dataset.from_dict({"row": list(range(len(items)))}).with_transform(Batches(items, columns))


class Batches(Generic[Item]):
    """What makes a batch of the rows asked for. An image is opened once a batch, however often the batch holds it."""

    count = itertools.count()

    def __init__(self, items: Sequence[Item], columns: Callable[[Item], dict[str, Any]]) -> None:
        self.items, self.columns, self.number = items, columns, next(Batches.count)

    def __call__(self, asked: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [self.items[row] for row in asked["row"]]
        opened = {reference: open_image(reference) for reference in {r for one in chosen for r in one.images}}
        made = [self.columns(one) for one in chosen]
        return {
            "row": asked["row"],
            "images": [[opened[reference] for reference in one.images] for one in chosen],
            **{name: [one[name] for one in made] for name in made[0]},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """A number: datasets hashes a transform by its pickle, and one of all that rows are made of takes half a minute."""
        return int, (self.number,)

    def __deepcopy__(self, memo: Any) -> "Batches[Item]":
        return self  # by what its pickle says it would be a number


class WholeModel:
    """All weights of `vlm` in training: the trained ones in float32, written in the dtype in which they were loaded.

    In bf16 itself AdamW would round its small updates away. The forward computes in bf16 where the model was loaded so. On a
    GPU that takes 16 bytes a trained weight (itself, gradient, two moments) beside 2 a frozen one, and activations.
    """

    def __init__(self, recipe: Recipe, vlm: VLM) -> None:
        self.vlm, self.stored = vlm, vlm.model.dtype
        unfreeze(vlm.model, recipe.train_vision)
        for parameter in vlm.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def save(self, folder: Path) -> None:
        """Write the model as it is now."""
        save_model(self.vlm, folder, self.stored)


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Writes metrics and checkpoints to the run folder and moves the progress bar.

    A checkpoint holds the adapter, or the `whole` model, of which only the best and the last are kept: each takes as much disk
    as the start itself.
    """

    def __init__(self, run: Run, recipe: Recipe, tick: Tick, shown: str, whole: WholeModel | None = None) -> None:
        self.run, self.save_steps, self.tick, self.shown, self.whole = run, recipe.save_steps, tick, shown, whole
        self.start = recipe.init or recipe.model
        self.best_step, self.last_step, self.note = 0, 0, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One line in metrics.jsonl, null where TRL has no number; TRL's closing summary is left out.

        Errors: RunError where loss or gradient is not finite.
        """
        if logs and "train_runtime" not in logs:
            check_finite(logs, scaled=args.fp16)
            self.run.append("metrics", {"step": state.global_step, **{k: v if _finite(v) else None for k, v in logs.items()}})
            if self.shown in logs:
                self.note = f"{self.shown} {float(logs[self.shown]):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """A checkpoint every `save_steps`, and a tick."""
        if state.global_step % self.save_steps == 0:
            self.save(model, state.global_step)
        self.tick(self.note)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The last step is a checkpoint too, wherever it fell."""
        self.save(model, state.global_step)

    def save(self, model: Any, step: int) -> None:
        """The adapter, or the whole model, as the checkpoint of `step`, unless it is there already."""
        if step != self.last_step:
            self.last_step = step
            if self.whole is None:
                save_adapter(model, self._checkpoint(step), self.start)
            else:
                self.whole.save(self._checkpoint(step))
        if self.whole is not None:
            self._drop_others()

    def _drop_others(self) -> None:
        for folder in self._checkpoint(self.last_step).parent.iterdir():
            if folder.name not in (str(self.last_step), str(self.best_step)):
                shutil.rmtree(folder)

    def leave(self) -> None:
        """What the run is asked for: the checkpoint of the best step, or of the last one, as RUN/adapter or RUN/model."""
        kept = self._checkpoint(self.best_step or self.last_step)
        copy = shutil.copy2 if self.whole is None else _link
        shutil.copytree(kept, self.run.path / ("adapter" if self.whole is None else "model"), copy_function=copy)

    def _checkpoint(self, step: int) -> Path:
        return self.run.path / "checkpoints" / str(step)


def check_finite(logs: dict[str, float], scaled: bool = False) -> None:
    """Errors: RunError where a loss or the gradient's norm in `logs` is not finite.

    `scaled` is fp16 with a scaled loss, whose gradient overflows now and then by design; such an update is left out.
    """
    for name in ("loss", "eval_loss") if scaled else ("loss", "grad_norm", "eval_loss"):
        if name in logs and not _finite(logs[name]):
            raise diverged(f"{name} is {logs[name]}")


def diverged(sign: str) -> RunError:
    """The error of a training that has diverged, as `sign` tells."""
    return RunError(f"training has diverged ({sign}). Lower lr, or raise warmup_steps, and train in another folder.")


def _finite(value: Any) -> bool:
    """Whether `value`, a number or its text, is neither NaN nor infinite; text that is no number is neither."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return True


def _link(source: str, target: str) -> None:
    """One file under two names, so that a model does not lie on the disk twice; a copy where the disk knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
