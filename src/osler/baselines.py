"""Supervised fine-tuning on the same rows, prompts and LoRA as GRPO, through TRL's SFTTrainer.

The loss is on the completion only, and the image stands before the text, as in RL and in evaluation. (Med-R1's own SFT put
the text first.) With validation rows the adapter kept is the one of the lowest validation loss.
"""

import shutil
import time
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from osler.config import Recipe
from osler.images import open_image
from osler.model.load import VLM, lora_config
from osler.progress import Tick, bar
from osler.rl.trl_engine import RunCallback, merge_passthrough, trainer_settings
from osler.runs import Run
from osler.schema import Sample
from osler.strategies import Strategy


def train_sft(
    recipe: Recipe, vlm: VLM, samples: Sequence[Sample], validation: Sequence[Sample], strategy: Strategy, run: Run
) -> None:
    """Train a fresh LoRA on `vlm`; write metrics, checkpoints and the adapter of the lowest validation loss to `run`."""
    for sample in (*samples, *validation):
        strategy.completion(sample, recipe.answer_form)  # a row that cannot be taught is an error now, not at step 300
    with bar("SFT", recipe.max_steps) as tick:
        callback = SftCallback(run, recipe, tick)
        trainer = SFTTrainer(
            model=vlm.model,
            processing_class=vlm.processor,
            args=sft_config(recipe, vlm, run, bool(validation)),
            train_dataset=completion_dataset(recipe, samples, strategy),
            eval_dataset=completion_dataset(recipe, validation, strategy) if validation else None,
            peft_config=lora_config(vlm, recipe.lora),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    trainer.model.save_pretrained(str(run.path / "adapter"))
    if callback.best_step:
        shutil.copytree(run.path / "checkpoints" / str(callback.best_step), run.path / "adapter", dirs_exist_ok=True)


def sft_config(recipe: Recipe, vlm: VLM, run: Run, validates: bool) -> SFTConfig:
    """TRL's configuration of `recipe`. Errors: RecipeError as for GRPO."""
    torch.manual_seed(recipe.seed)
    decided = {
        "per_device_train_batch_size": recipe.sft.micro_batch or recipe.sft.batch_size,
        "gradient_accumulation_steps": recipe.sft.batch_size // (recipe.sft.micro_batch or recipe.sft.batch_size),
        "per_device_eval_batch_size": recipe.sft.micro_batch or recipe.sft.batch_size,
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": recipe.sft.eval_steps if validates else None,
        "completion_only_loss": True,
        "loss_type": "nll",
        "max_length": None,
        "packing": False,
        **trainer_settings(recipe, vlm, run),
    }
    return merge_passthrough(SFTConfig, decided, {"gradient_checkpointing": False}, recipe)


def completion_dataset(recipe: Recipe, samples: Sequence[Sample], strategy: Strategy) -> Dataset:
    """Rows of prompt, completion and images, made when they are asked for."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [samples[row] for row in batch["row"]]
        form = recipe.answer_form
        return {
            "prompt": [[{"role": "user", "content": strategy.question(s, form)}] for s in chosen],
            "completion": [[{"role": "assistant", "content": strategy.completion(s, form)}] for s in chosen],
            "images": [[open_image(reference) for reference in s.images] for s in chosen],
        }

    return Dataset.from_dict({"row": list(range(len(samples)))}).with_transform(rows)


class SftCallback(RunCallback):
    """RunCallback that also keeps the best checkpoint, and stops at the plateau or when the time is up."""

    def __init__(self, run: Run, recipe: Recipe, tick: Tick) -> None:
        super().__init__(run, recipe.save_steps, tick, "loss")
        self.patience, self.max_seconds = recipe.sft.patience, recipe.sft.max_seconds
        self.best_step, self.best_loss, self.worse = 0, float("inf"), 0
        self.started = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any) -> None:
        """Keep the adapter if its validation loss is the lowest so far; stop after `patience` that are not."""
        if metrics["eval_loss"] < self.best_loss:
            self.best_loss, self.best_step, self.worse = metrics["eval_loss"], state.global_step, 0
            model.save_pretrained(str(self.run.path / "checkpoints" / str(state.global_step)))
            self.run.save(best_step=self.best_step)
        else:
            self.worse += 1
        control.should_training_stop |= self.patience is not None and self.worse >= self.patience

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, model=model, **kwargs)
        seconds = time.perf_counter() - self.started
        control.should_training_stop |= self.max_seconds is not None and seconds >= float(self.max_seconds)
