"""GRPO through TRL's GRPOTrainer: the engine for many machines, and the oracle of the packed one.

TRL 1.16's defaults are neither GRPO nor Dr. GRPO (`loss_type="dapo"`, `beta=0`, a KL bias correction), so every field of the
objective is set here, and naming one under a recipe's `trl:` is an error.

    GRPO (Shao et al. 2024, as Med-R1 ran it)    scale_rewards=group   loss_type=grpo
        A_i = (r_i - mean r) / (std r + 1e-4);   L = -mean_i 1/|o_i| sum_t [min(rho A_i, clip(rho) A_i) - beta KL_t]
    Dr. GRPO (Liu et al. 2025, in Zhu et al.)    scale_rewards=none    loss_type=dr_grpo
        A_i = r_i - mean r;                      L = -1/(B max_tokens) sum_i sum_t [...]

One total reward is handed over, None where a weighted part is None: such a completion leaves its group's mean and std, its
advantage is 0, and it still counts in the loss's denominator, as it has tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from osler.config import Recipe
from osler.errors import RecipeError
from osler.images import open_image
from osler.model.load import VLM, lora_config
from osler.progress import Tick, bar
from osler.rewards import reward_of, total
from osler.runs import Run
from osler.schema import Grader, Sample
from osler.strategies import Strategy

SCALE_REWARDS = {"group": "group", "batch": "batch", "none": "none"}
GRID = 2**16
"""Totals are rounded to 1/GRID: the float32 mean of equal ones is then exact, and a group without spread has none at all."""

LOSS_TYPE = {"sequence": "grpo", "constant": "dr_grpo", "token": "dapo"}


def train_grpo(recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, run: Run) -> None:
    """Train a fresh LoRA on `vlm`; write metrics, rollouts, checkpoints and the adapter to `run`."""
    scorer = Scorer(recipe, samples, strategy, grader)
    with bar("GRPO", recipe.max_steps) as tick:
        trainer = RecordingTrainer(
            model=vlm.model,
            processing_class=vlm.processor,
            reward_funcs=scorer,
            args=grpo_config(recipe, vlm, run),
            train_dataset=prompt_dataset(recipe, samples, strategy),
            peft_config=lora_config(vlm, recipe.lora),
            callbacks=[RunCallback(run, recipe.save_steps, tick, "reward")],
        )
        trainer.remove_callback(PrinterCallback)  # it would print every step to stdout, which belongs to results
        trainer.on_rollouts = lambda advantages, step: run.append("rollouts", *scorer.rollouts(advantages, step))
        trainer.train()
    trainer.model.save_pretrained(str(run.path / "adapter"))


def grpo_config(recipe: Recipe, vlm: VLM, run: Run) -> GRPOConfig:
    """TRL's configuration of `recipe`, with every field of objective and sampling set.

    Errors: RecipeError where `recipe.trl` names a field that the recipe itself decides, or one that TRL does not have.
    """
    rollout, objective = recipe.rollout, recipe.objective
    batch = rollout.G * rollout.prompts_per_step
    micro = rollout.micro_batch or batch
    decided = {
        "num_generations": rollout.G,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "max_completion_length": rollout.max_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "min_p": None,
        "repetition_penalty": 1.0,
        "scale_rewards": SCALE_REWARDS[objective.std_norm],
        "loss_type": LOSS_TYPE[objective.length_norm],
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "beta": objective.beta,
        "importance_sampling_level": objective.ratio,
        "num_iterations": 1,
        "delta": None,
        "use_bias_correction_kl": False,
        "multi_objective_aggregation": "sum_then_normalize",
        "mask_truncated_completions": False,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "off_policy_mask_threshold": None,
        "sync_ref_model": False,
        **trainer_settings(recipe, vlm, run),
    }
    ours = {"generation_kwargs": {"suppress_tokens": vlm.banned_ids}, "gradient_checkpointing": False}
    return merge_passthrough(GRPOConfig, decided, ours, recipe)


def trainer_settings(recipe: Recipe, vlm: VLM, run: Run) -> dict[str, Any]:
    """The fields that every TRL trainer shares."""
    return {
        "output_dir": str(run.path / "trl"),
        "learning_rate": recipe.lr,
        "lr_scheduler_type": recipe.lr_schedule,
        "warmup_steps": recipe.warmup_steps,
        "max_grad_norm": recipe.max_grad_norm,
        "max_steps": recipe.max_steps,
        "seed": recipe.seed,
        "bf16": vlm.model.dtype == torch.bfloat16,
        "use_cpu": vlm.device.type == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def merge_passthrough(kind: Callable[..., Any], decided: dict[str, Any], ours: dict[str, Any], recipe: Recipe) -> Any:
    """A TRL config of `kind` from what the recipe decides, our defaults, and the user's `trl:` over the latter only."""
    clash = sorted(set(recipe.trl) & set(decided))
    if clash:
        raise RecipeError(f"trl.{clash[0]} is decided by the recipe itself. Set the recipe's own key instead.")
    try:
        return kind(**{**ours, **recipe.trl}, **decided)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses these settings: {error}.") from error


def prompt_dataset(recipe: Recipe, samples: Sequence[Sample], strategy: Strategy) -> Dataset:
    """Rows of prompt, images and row number, made when they are asked for, so that images are opened one batch at a time."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [samples[row] for row in batch["row"]]
        return {
            "prompt": [[{"role": "user", "content": strategy.question(s, recipe.answer_form)}] for s in chosen],
            "images": [[open_image(reference) for reference in s.images] for s in chosen],
            "row": batch["row"],
        }

    return Dataset.from_dict({"row": list(range(len(samples)))}).with_transform(rows)


class Scorer:
    """TRL's reward function: completions in, one total reward each out, None where it could not be scored.

    It keeps what it scored last, so that rollouts can be written once their advantages are known.
    """

    __name__ = "total"

    def __init__(self, recipe: Recipe, samples: Sequence[Sample], strategy: Strategy, grader: Grader) -> None:
        self.samples, self.strategy, self.grader, self.answer_form = samples, strategy, grader, recipe.answer_form
        self.names = [reward.name for reward in recipe.rewards]
        self.rewards = [reward_of(name) for name in self.names]
        self.weights = [reward.weight for reward in recipe.rewards]
        self.scored: list[dict[str, Any]] = []

    def __call__(
        self, completions: list[Any], row: list[int], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float | None]:
        self.scored = [self._score(self.samples[r], c[0]["content"]) for c, r in zip(completions, row, strict=True)]
        for name in self.names:
            parts = [part for scored in self.scored if (part := scored["rewards"][name]) is not None]
            if parts:
                log_metric(f"rewards/{name}", sum(parts) / len(parts))
        log_metric("unscored", sum(scored["reward"] is None for scored in self.scored))
        return [scored["reward"] for scored in self.scored]

    def rollouts(self, advantages: Sequence[float], step: int) -> list[dict[str, Any]]:
        """The completions scored last, with the advantages that TRL gave them."""
        return [{"step": step, **scored, "advantage": a} for scored, a in zip(self.scored, advantages, strict=True)]

    def _score(self, sample: Sample, completion: str) -> dict[str, Any]:
        parsed = self.strategy.parse(completion)
        verdict = self.grader(sample, parsed)
        parts = [reward(sample, parsed, verdict, {}) for reward in self.rewards]
        reward = total(parts, self.weights)
        return {
            "sample_id": sample.id,
            "images": list(sample.images),
            "prompt": self.strategy.question(sample, self.answer_form),
            "gold": verdict.gold,
            "completion": completion,
            "rewards": dict(zip(self.names, parts, strict=True)),
            "reward": reward if reward is None else round(reward * GRID) / GRID,
        }


class RecordingTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, telling what it rolled out; nothing of the algorithm is changed."""

    on_rollouts: Callable[[list[float], int], None]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.on_rollouts(output["advantages"].tolist(), self.state.global_step + 1)
        return output


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Writes metrics and checkpoints to the run folder and moves the progress bar."""

    def __init__(self, run: Run, save_steps: int, tick: Tick, shown: str) -> None:
        self.run, self.save_steps, self.tick, self.shown = run, save_steps, tick, shown
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
            model.save_pretrained(str(self.run.path / "checkpoints" / str(state.global_step)))
        self.tick(self.note)
