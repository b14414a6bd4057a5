"""Supervised fine-tuning on the same rows and prompts as GRPO, with a LoRA or of all weights, through TRL's SFTTrainer.

The loss is on the completion only, and the image stands before the text, as in RL and in evaluation. (Med-R1's own SFT put
the text first.) With validation rows the weights kept are those of the lowest validation loss.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from osler.config import Recipe
from osler.model.adapters import lora_config
from osler.model.family import VLM
from osler.progress import Tick, bar
from osler.rl.trl_trainer import (
    RunCallback,
    WholeModel,
    build_config,
    check_passthrough,
    machine_fields,
    rows_of,
    trainer_fields,
    unless_refused,
)
from osler.runs import Run
from osler.schema import Sample
from osler.strategies import Strategy


def train_sft(
    recipe: Recipe, vlm: VLM, samples: Sequence[Sample], validation: Sequence[Sample], strategy: Strategy, run: Run
) -> None:
    """Train a fresh LoRA on `vlm`, or all of it; write metrics, checkpoints and the weights of the lowest validation loss."""
    args = sft_config(recipe, vlm, run.path, bool(validation))
    whole = WholeModel(recipe, vlm) if recipe.full else None
    with bar("SFT", recipe.max_steps) as tick:
        callback = BaselineCallback(run, recipe, tick, whole)
        trainer = unless_refused(
            SFTTrainer,
            model=vlm.model,
            processing_class=vlm.processor,
            args=args,
            train_dataset=completion_rows(recipe, samples, strategy),
            eval_dataset=completion_rows(recipe, validation, strategy) if validation else None,
            peft_config=None if recipe.full else lora_config(vlm, recipe.lora),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    callback.leave()


def sft_config(recipe: Recipe, vlm: VLM, folder: Path, validates: bool) -> SFTConfig:
    """TRL's configuration of `recipe`. Errors: RecipeError as for GRPO."""
    fields = sft_fields(recipe, validates)
    check_passthrough(recipe, SFTConfig, fields)
    return build_config(SFTConfig, recipe, fields | machine_fields(vlm, folder))


def sft_fields(recipe: Recipe, validates: bool) -> dict[str, Any]:
    """The fields of SFTConfig that the recipe decides, and what all trainers share."""
    return {
        "per_device_train_batch_size": recipe.sft.micro_batch,
        "gradient_accumulation_steps": recipe.sft.batch_size // recipe.sft.micro_batch,
        "per_device_eval_batch_size": recipe.sft.micro_batch,
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": recipe.sft.eval_steps if validates else None,
        "completion_only_loss": True,
        "assistant_only_loss": False,
        "loss_type": "nll",
        "max_length": None,
        "packing": False,
        "eval_packing": False,
        "padding_free": False,
        **trainer_fields(recipe),
    }


def completion_rows(recipe: Recipe, samples: Sequence[Sample], strategy: Strategy) -> Dataset:
    """The rows that SFT learns from: prompt and completion."""

    def columns(sample: Sample) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": strategy.question(sample, recipe.answer_form)}],
            "completion": [{"role": "assistant", "content": strategy.completion(sample, recipe.answer_form)}],
        }

    return rows_of(samples, columns)


class BaselineCallback(RunCallback):
    """RunCallback that also keeps the best checkpoint, and stops at the plateau or when the time is up.

    `started` is when the time began to run, by time.perf_counter(); now, where it is not given.
    """

    def __init__(
        self, run: Run, recipe: Recipe, tick: Tick, whole: WholeModel | None = None, started: float | None = None
    ) -> None:
        super().__init__(run, recipe, tick, "loss", whole)
        self.patience, self.max_seconds = recipe.sft.patience, recipe.sft.max_seconds
        self.best_loss, self.worse = float("inf"), 0
        self.started = time.perf_counter() if started is None else started

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any) -> None:
        """Keep the weights if their validation loss is the lowest so far; stop after `patience` that are not."""
        if metrics["eval_loss"] < self.best_loss:
            self.best_loss, self.best_step, self.worse = metrics["eval_loss"], state.global_step, 0
            self.save(model, state.global_step)
            self.run.save(best_step=self.best_step)
        else:
            self.worse += 1
        control.should_training_stop |= self.patience is not None and self.worse >= self.patience

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, model=model, **kwargs)
        seconds = time.perf_counter() - self.started
        control.should_training_stop |= self.max_seconds is not None and seconds >= float(self.max_seconds)
