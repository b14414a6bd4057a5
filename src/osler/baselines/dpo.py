"""Direct preference optimisation on the start's own completions, through TRL's DPOTrainer.

    L = -log sigmoid(beta [(log p(right) - log ref(right)) - (log p(wrong) - log ref(wrong))])   (Rafailov et al. 2023, eq. 7)

ref is the start: the LoRA switched off, or a frozen copy in full tuning. What is scored is what was sampled: the prompt as
the sampler saw it, and each completion with its end, or without one where it was cut off. (TRL reads it as text; pairs are
made of completions only whose text gives the sampled tokens back.) Every field of TRL's objective is set
here; nothing is cut to a length.
"""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from osler.baselines.pairs import Pair, make_pairs
from osler.baselines.sft import BaselineCallback
from osler.config import Recipe
from osler.model.adapters import lora_config
from osler.model.attention import base_model
from osler.model.family import VLM, chat
from osler.progress import bar
from osler.rl.trl_trainer import (
    WholeModel,
    build_config,
    check_passthrough,
    machine_fields,
    rows_of,
    trainer_fields,
    unless_refused,
)
from osler.runs import Run
from osler.schema import Grader, Sample
from osler.strategies import Strategy


def train_dpo(recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, run: Run) -> None:
    """Sample pairs from `vlm`, then train a fresh LoRA on it, or all of it; write pairs, metrics, checkpoints and weights.

    `sft.max_seconds` bounds both together. Errors: RecipeError as for GRPO; RunError where no row has a pair.
    """
    started = time.perf_counter()
    args = dpo_config(recipe, vlm, run.path)
    pairs = make_pairs(recipe, vlm, samples, strategy, grader, run)
    whole = WholeModel(recipe, vlm) if recipe.full else None
    with bar("DPO", recipe.max_steps) as tick:
        callback = BaselineCallback(run, recipe, tick, whole, started)
        trainer = dpo_trainer(recipe, vlm, args, pairs, callbacks=[callback])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    callback.leave()


def dpo_trainer(recipe: Recipe, vlm: VLM, args: DPOConfig, pairs: Sequence[Pair], **more: Any) -> DPOTrainer:
    """TRL's trainer of `recipe` on `pairs`. Errors: RecipeError where TRL refuses."""
    return unless_refused(
        DPOTrainer,
        model=vlm.model,
        ref_model=_frozen(recipe, vlm) if recipe.full else None,
        processing_class=vlm.processor,
        args=args,
        train_dataset=pair_rows(vlm, pairs),
        peft_config=None if recipe.full else lora_config(vlm, recipe.lora),
        **more,
    )


def dpo_config(recipe: Recipe, vlm: VLM, folder: Path) -> DPOConfig:
    """TRL's configuration of `recipe`. Errors: RecipeError as for GRPO."""
    fields = dpo_fields(recipe)
    check_passthrough(recipe, DPOConfig, fields)
    return build_config(DPOConfig, recipe, fields | machine_fields(vlm, folder))


def dpo_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of DPOConfig that the recipe decides, and what all trainers share."""
    return {
        "per_device_train_batch_size": recipe.dpo.micro_batch,
        "gradient_accumulation_steps": recipe.dpo.batch_size // recipe.dpo.micro_batch,
        "beta": recipe.dpo.beta,
        "loss_type": ["sigmoid"],
        "loss_weights": None,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "precompute_ref_log_probs": False,  # TRL refuses it where there are images
        "sync_ref_model": False,
        "disable_dropout": False,  # or lora.dropout would do nothing
        "max_length": None,
        "padding_free": False,
        **trainer_fields(recipe),
    }


def pair_rows(vlm: VLM, pairs: Sequence[Pair]) -> Dataset:
    """The rows that DPO learns from: the prompt in the model's own turns, and both completions, as text."""
    tokenizer = vlm.processor.tokenizer

    def columns(pair: Pair) -> dict[str, Any]:
        turns = chat(pair.prompt, pair.images)
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}

    return rows_of(pairs, columns)


def _frozen(recipe: Recipe, vlm: VLM) -> Any:
    """The start as the reference: a copy of all but a tower that stays as it is, which both then share."""
    visual = base_model(vlm.model).model.visual
    shared = {id(visual): visual} if recipe.train_vision == "none" else {}
    reference = copy.deepcopy(vlm.model, shared)
    for parameter in base_model(reference).parameters():
        parameter.requires_grad_(False)
    return reference.eval()
