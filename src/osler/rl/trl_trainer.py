"""What GRPO and SFT through TRL share: settings, rows, and what is written to the run folder."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from osler.config import Recipe
from osler.errors import RecipeError, unknown
from osler.images import open_image
from osler.model.adapters import save_adapter
from osler.model.family import VLM
from osler.progress import Tick
from osler.runs import Run
from osler.schema import Sample


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
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def machine_fields(vlm: VLM, folder: Path) -> dict[str, Any]:
    """The fields that follow from the loaded model and the run folder."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "bf16": vlm.model.dtype == torch.bfloat16,
        "use_cpu": vlm.device.type == "cpu",
    }


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
    try:
        return kind(**{"gradient_checkpointing": recipe.checkpointing, **recipe.trl}, **fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses these settings: {error}.") from error


def rows_of(samples: Sequence[Sample], columns: Callable[[Sample], dict[str, Any]]) -> Dataset:
    """A data set of `columns` of each sample, its row number and its images, made when asked for.

    An image is opened once a batch, however often the batch holds it.
    """

    def batch(asked: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [samples[row] for row in asked["row"]]
        opened = {reference: open_image(reference) for reference in {r for s in chosen for r in s.images}}
        made = [columns(sample) for sample in chosen]
        return {
            "row": asked["row"],
            "images": [[opened[reference] for reference in sample.images] for sample in chosen],
            **{name: [one[name] for one in made] for name in made[0]},
        }

    return Dataset.from_dict({"row": list(range(len(samples)))}).with_transform(batch)


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Writes metrics and checkpoints to the run folder and moves the progress bar."""

    def __init__(self, run: Run, recipe: Recipe, tick: Tick, shown: str) -> None:
        self.run, self.save_steps, self.tick, self.shown = run, recipe.save_steps, tick, shown
        self.start = recipe.init or recipe.model
        self.note = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One line in metrics.jsonl; TRL's closing summary is left out."""
        if logs and "train_runtime" not in logs:
            self.run.append("metrics", {"step": state.global_step, **logs})
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
        """The adapter as a checkpoint."""
        save_adapter(model, self.run.path / "checkpoints" / str(step), self.start)
