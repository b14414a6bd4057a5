"""GRPO through TRL's GRPOTrainer, on one GPU so far: the road to many machines, and the oracle of the packed engine.

TRL 1.16's defaults are neither GRPO nor Dr. GRPO (`loss_type="dapo"`, `beta=0`, a KL bias correction), so every field of the
objective is set here, and naming one under a recipe's `trl:` is an error.

    GRPO (Shao et al. 2024, as Med-R1 ran it)    scale_rewards=group   loss_type=grpo
        A_i = (r_i - mean r) / (std r + 1e-4);   L = -mean_i 1/|o_i| sum_t [min(rho A_i, clip(rho) A_i) - beta KL_t]
    Dr. GRPO (Liu et al. 2025, in Zhu et al.)    scale_rewards=none    loss_type=dr_grpo
        A_i = r_i - mean r;                      L = -1/(B max_tokens) sum_i sum_t [...]

    GDPO (arXiv 2601.05242)                      multi_objective_aggregation=normalize_then_sum
        A_i = sum_k w_k (r_ik - mean r_k) / (std r_k + 1e-4), normalised once more over the batch

One total reward is handed over, None where a weighted part is None: such a completion leaves its group's mean and std, its
advantage is 0, and it still counts in the loss's denominator, as it has tokens. For GDPO each weighted part is handed over by
itself, all of them None where one is: TRL would count the missing one as 0.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from osler.config import Recipe
from osler.errors import JudgeError
from osler.model.adapters import lora_config, save_adapter
from osler.model.family import VLM
from osler.progress import bar
from osler.rl.scoring import Scorer, on_grid
from osler.rl.trl_trainer import (
    RunCallback,
    build_config,
    check_passthrough,
    diverged,
    machine_fields,
    rows_of,
    trainer_fields,
    unless_refused,
)
from osler.runs import Run
from osler.schema import Completion, Grader, Sample
from osler.strategies import Strategy

SCALE_REWARDS = {"group": "group", "batch": "batch", "none": "none"}
LOSS_TYPE = {"sequence": "grpo", "constant": "dr_grpo", "token": "dapo"}


def train_grpo(recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, run: Run) -> None:
    """Train a fresh LoRA on `vlm`; write metrics, rollouts, checkpoints and the adapter to `run`."""
    scorer = TotalReward(recipe, samples, strategy, grader, vlm.end_ids)
    with scorer.experts, bar("GRPO", recipe.max_steps) as tick:
        trainer = unless_refused(
            RecordingTrainer,
            model=vlm.model,
            processing_class=vlm.processor,
            reward_funcs=scorer.functions(),
            args=grpo_config(recipe, vlm, run.path),
            train_dataset=prompt_rows(recipe, samples, strategy),
            peft_config=lora_config(vlm, recipe.lora),
            callbacks=[RunCallback(run, recipe, tick, "reward")],
        )
        trainer.remove_callback(PrinterCallback)  # it would print every step to stdout, which belongs to results
        trainer.on_rollouts = lambda advantages, step: run.append("rollouts", *scorer.rollouts(advantages, step))
        try:
            trainer.train()
        except JudgeError as error:
            step = trainer.state.global_step
            save_adapter(trainer.model, run.path / "checkpoints" / str(step), recipe.init or recipe.model)
            raise JudgeError(f"{error} engine=trl cannot be resumed; the weights of step {step} are kept in "
                             f"{run.path / 'checkpoints' / str(step)}.") from error  # fmt: skip
    save_adapter(trainer.model, run.path / "adapter", recipe.init or recipe.model)


def grpo_config(recipe: Recipe, vlm: VLM, folder: Path) -> GRPOConfig:
    """TRL's configuration of `recipe`, with every field of objective and sampling set. Errors: RecipeError."""
    fields = grpo_fields(recipe)
    check_passthrough(recipe, GRPOConfig, fields)
    banned = {"generation_kwargs": {"suppress_tokens": vlm.banned_ids}}
    return build_config(GRPOConfig, recipe, fields | banned | machine_fields(vlm, folder))


def grpo_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of GRPOConfig that the recipe decides: groups, sampling, objective, and what all trainers share."""
    rollout, objective = recipe.rollout, recipe.objective
    micro, gdpo = rollout.micro_batch or rollout.G, objective.aggregation == "gdpo"
    return {
        "num_generations": rollout.G,
        "num_generations_eval": None,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rollout.G * rollout.prompts_per_step // micro,
        "generation_batch_size": None,
        "steps_per_generation": None,  # with the line above: as many as are accumulated, so that every update is on policy
        "num_iterations": objective.num_iterations,
        "max_completion_length": rollout.max_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "min_p": rollout.min_p or None,
        "repetition_penalty": 1.0,
        "reward_weights": [one.weight for one in recipe.rewards if one.weight] if gdpo else None,
        "scale_rewards": SCALE_REWARDS[objective.std_norm],
        "multi_objective_aggregation": "normalize_then_sum" if gdpo else "sum_then_normalize",
        "loss_type": LOSS_TYPE[objective.length_norm],
        "importance_sampling_level": objective.ratio,
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "delta": None,
        "beta": objective.beta,
        "use_bias_correction_kl": False,
        "sync_ref_model": False,
        "mask_truncated_completions": False,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "off_policy_mask_threshold": None,
        "disable_dropout": False,
        "vllm_importance_sampling_correction": True,  # acts with vLLM only, whose log-probs are not the trainer's
        **trainer_fields(recipe),
    }


def prompt_rows(recipe: Recipe, samples: Sequence[Sample], strategy: Strategy) -> Dataset:
    """The rows that TRL samples completions for."""

    def columns(sample: Sample) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": strategy.question(sample, recipe.answer_form)}]}

    return rows_of(samples, columns)


class TotalReward(Scorer):
    """TRL's reward function: completions in, one total reward each out, None where it could not be scored.

    It keeps what it scored last, so that rollouts can be written once their advantages are known. `end_ids` are the tokens
    that end a completion: one of the greatest length that ends otherwise was cut off.
    """

    __name__ = "total"

    def __init__(
        self, recipe: Recipe, samples: Sequence[Sample], strategy: Strategy, grader: Grader, end_ids: Sequence[int] = ()
    ) -> None:
        super().__init__(recipe, strategy, grader)
        self.samples, self.rollout, self.end_ids = samples, recipe.rollout, end_ids
        self.scored: list[dict[str, Any]] = []

    def __call__(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        row: list[int],
        log_metric: Callable[[str, float], None],
        trainer_state: Any = None,
        **_: Any,
    ) -> list[float | None]:
        self.state = trainer_state or self.state
        groups = [slice(first, first + self.rollout.G) for first in range(0, len(row), self.rollout.G)]
        made = [self._completion(one[0]["content"], ids) for one, ids in zip(completions, completion_ids, strict=True)]
        samples = [self.samples[row[group.start]] for group in groups]
        scored = self.score(samples, [made[group] for group in groups], [completion_ids[group] for group in groups])
        self.scored = [one for group in scored for one in group]
        for name, value in self.metrics(scored).items():
            log_metric(name, value)
        return [one["reward"] for one in self.scored]

    def _completion(self, text: str, ids: Sequence[int]) -> Completion:
        return Completion(text, len(ids), len(ids) >= self.rollout.max_tokens and ids[-1] not in self.end_ids)

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """What TRL is to call: this, or a function for each reward that is normalised by itself, the first of which scores."""
        return [PartReward(self, name, place == 0) for place, name in enumerate(self.apart)] or [self]

    def rollouts(self, advantages: Sequence[float], step: int) -> list[dict[str, Any]]:
        """The completions scored last, with the advantages that TRL gave them."""
        return [{"step": step, **scored, "advantage": a} for scored, a in zip(self.scored, advantages, strict=True)]


class PartReward:
    """One part of a scorer's reward as a reward function of TRL's; None where the total is."""

    def __init__(self, scorer: TotalReward, name: str, first: bool) -> None:
        self.scorer, self.name, self.first = scorer, name, first
        self.__name__ = f"scored/{name}"  # TRL reports it as rewards/scored/NAME/mean: of what has a total, unlike rewards/NAME

    def __call__(self, **given: Any) -> list[float | None]:
        if self.first:
            self.scorer(**given)
        return [None if one["reward"] is None else on_grid(one["rewards"][self.name]) for one in self.scorer.scored]


class RecordingTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, telling what it rolled out, and that it diverged; nothing of the algorithm is changed."""

    on_rollouts: Callable[[list[float], int], None]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):  # torch's words where it is to draw from what is not finite
                raise
            raise diverged("the policy's probabilities are not finite") from error
        self.on_rollouts(output["advantages"].tolist(), self.state.global_step + 1)
        return output
