"""A recipe: what one stage trains, on what, and how; `osler.recipe_files` reads it from YAML.

Shape only: names of strategies, rewards and data sets are checked where they are resolved, in `osler.check`, before anything
heavy is loaded.
"""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Spec = str | dict[str, Any]

_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class Settings(BaseModel):
    """A group of settings; it cannot be changed once made, and knows no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """Where the samples of each split come from. A spec without a split of its own is used whole."""

    train: Spec = Field("phantoms", description="Rows to train on.")
    val: Spec | None = Field(None, description="Rows to stop on; null holds out `val_share` of the training groups.")
    test: Spec | None = Field(None, description="Rows to report on; null takes the test split of `train`.")
    val_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training groups held out where no validation rows are given or shipped; by GRPO as well, "
        "which does not need them, so that both methods train on the same rows.",
    )
    max_problems: int = Field(
        0, ge=0, description="Training and validation rows that may have problems, and are then left out (osler data check)."
    )


class ImageSettings(Settings):
    """The pixel budget of an image; never above the checkpoint's own. Defaults: Med-R1's."""

    min_pixels: int = Field(3136, gt=0)
    max_pixels: int = Field(401_408, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "ImageSettings":
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class RewardSettings(Settings):
    """One term of the reward: the name of one of osler's, or the user's `package.module:function`."""

    name: str
    weight: float = Field(1.0, allow_inf_nan=False)
    gate: Literal["none", "correct", "format"] = Field(
        "none", description="Paid only for a correct answer, or for one in the strategy's form; else it is 0."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="The reward's own settings, as {max_tokens: 128}.")


class ObjectiveSettings(Settings):
    """The policy-gradient objective. Defaults: GRPO as Med-R1 ran it; Dr. GRPO is `{std_norm: none, length_norm: constant}`."""

    std_norm: Literal["group", "batch", "none"] = "group"
    length_norm: Literal["sequence", "constant", "token"] = "sequence"
    clip_low: float = Field(0.2, ge=0)
    clip_high: float = Field(0.2, ge=0)
    beta: float = Field(0.04, ge=0, description="Weight of the KL to the start (k3 estimator).")
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["sum", "gdpo"] = Field(
        "sum", description="gdpo: each reward normalised within its group before they are summed (needs std_norm: group)."
    )
    num_iterations: int = Field(1, gt=0, description="Updates a rollout is used for; above 1 the clipped ratio acts.")
    sampler_correction: Literal["none", "truncated"] = Field(
        "none", description="truncated: weigh tokens by the old policy's probability over the sampler's, at most sampler_cap."
    )
    sampler_cap: float = Field(2.0, gt=0)


class FeatureSettings(Settings):
    """Where the features of a frozen vision tower are kept, so that each image goes through it once."""

    cache: bool | None = Field(None, description="Keep features; null: wherever tower and merger are frozen.")
    folder: str | None = Field(None, description="Folder on disk; null: OSLER_CACHE, else ~/.cache/osler/features.")
    ram_mb: int = Field(4096, ge=0)
    disk_gb: float = Field(20.0, ge=0, description="Largest size of that folder; 0 keeps features in RAM only.")


class LoraSettings(Settings):
    """A LoRA on the language model; vision tower and merger stay frozen."""

    r: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str = "language"


class RolloutSettings(Settings):
    """How completions are sampled. All three of temperature, top-p and top-k are pinned."""

    G: int = Field(8, ge=2, description="Completions a prompt.")
    prompts_per_step: int = Field(8, gt=0)
    max_tokens: int = Field(256, gt=0)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    rows: int | None = Field(
        None, gt=0, description="Packed engine: completions decoded side by side; null: a step's, up to 256."
    )
    resample: int = Field(
        0, ge=0, description="Packed engine: how often a group without spread may be drawn anew, from the next rows (DAPO)."
    )
    min_scored: int = Field(2, ge=2, description="Groups of which fewer completions were scored are dropped, and counted.")
    micro_batch: int | None = Field(
        None, gt=0, description="TRL engine: completions a forward; null: one group. Divides G x prompts."
    )


class JudgeSettings(Settings):
    """Who scores answers and reasoning in training (osler.judging), and how long a step waits for it."""

    model: str = Field(description="openai:URL#NAME, chat:MODEL, causal:MODEL (folders or hub names), or phantoms.")
    see_images: bool = Field(False, description="Show it the images: a blind judge cannot see a hallucination.")
    max_tokens: int = Field(300, gt=0)
    concurrency: int = Field(8, gt=0, description="Requests at a time.")
    timeout_s: float = Field(60.0, gt=0, description="A request, with no answer by then, has failed.")
    retries: int = Field(4, ge=0, description="Further tries of a request.")
    deadline_s: float = Field(300.0, gt=0, description="A step's scores; what has none by then is masked.")
    max_unscored: float = Field(
        0.5, ge=0, lt=1, description="Training pauses where the judge leaves more than this share of a step without scores."
    )
    pause_s: float = Field(30.0, gt=0, description="Before a paused step asks again; twice as long each time.")
    patience_s: float = Field(1800.0, ge=0, description="All pauses of a step; then the run stops, to be resumed.")


class ControlSettings(Settings):
    """What else is asked of test rows once they have been answered as they are (osler.controls, osler.repeated)."""

    names: Literal["default", "all", "none"] | tuple[str, ...] = Field(
        "default", description="Names of controls; default: blank, shuffled, options-debiased."
    )
    max_rows_per_cell: int | None = Field(
        None, gt=0, description="Rows of each modality and question type that controls are run on; null: all."
    )
    samples: int = Field(
        0, ge=0, le=256, description="Completions of each row sampled beside the greedy one, for Pass@K and calibration."
    )
    temperature: float = Field(1.0, gt=0, description="At which they are sampled.")
    blind_twin: bool = Field(False, description="Train and test the same recipe on blanked images as well.")
    forced_answer: bool = Field(
        False, description="strategy think_after: begin rows with another answer, and see whether the rationale defends it."
    )
    perplexity: str | None = Field(None, description="Folder or hub name of the causal model that thoughts are scored under.")


class SftSettings(Settings):
    """Supervised fine-tuning only: rows an optimizer step, and when to stop."""

    batch_size: int = Field(32, gt=0)
    micro_batch: int = Field(4, gt=0, description="Rows a forward; divides batch_size.")
    eval_steps: int = Field(25, gt=0, description="Validation loss every so many steps.")
    patience: int | None = Field(None, gt=0, description="Stop after so many validations without a lower loss; null never.")
    max_seconds: float | str | None = Field(
        None, description="SFT and DPO: stop after so many seconds; stage:NAME: as long as that took."
    )


class DpoSettings(Settings):
    """Direct preference optimisation only: pairs of the start's own completions, a right one before a wrong one."""

    samples: int = Field(8, ge=2, description="Completions of each training row that its pair is chosen from.")
    beta: float = Field(0.1, gt=0)
    batch_size: int = Field(32, gt=0, description="Pairs an optimizer step.")
    micro_batch: int = Field(4, gt=0, description="Pairs a forward; divides batch_size.")


class PassRateSettings(Settings):
    """Which rows are neither too easy nor too hard for the start: those that it solves in a share [low, high] of `samples`."""

    samples: int = Field(8, ge=2)
    low: float = Field(0.1, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)


class ShortcutSettings(Settings):
    """Training against the text shortcut; all of it is off by default (osler.training.rows)."""

    shuffle_options: bool = Field(False, description="Another order of the options each time a row is drawn.")
    debias: bool = Field(False, description="Training rows rebuilt so that options say nothing of the answer.")
    pass_rate: PassRateSettings | None = Field(None, description="Drop rows that the start always or never solves.")
    curriculum: Literal["none", "closed_first"] = Field(
        "none", description="closed_first: choice and yes/no rows before open ones, in every epoch."
    )


class Recipe(Settings):
    """One stage of training."""

    method: Literal["grpo", "sft", "dpo"] = "grpo"
    engine: Literal["packed", "trl"] = "packed"
    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    init: str | None = Field(None, description="run:DIR[@last|best|STEP]: start from another run.")
    data: DataSettings = DataSettings()
    images: ImageSettings = ImageSettings()
    strategy: str = "think"
    wording: Literal["same", "medr1"] = Field(
        "same", description="medr1: one instruction in training and a shorter one in evaluation, as Med-R1's differ."
    )
    infer_prompt: Literal["plain", "reasoning", "dynamic"] | None = Field(
        None, description="The prompt in evaluation (osler.prompting); null: as in training, and reasoning after diverse."
    )
    answer_form: Literal["letter", "text"] = "letter"
    rewards: tuple[RewardSettings, ...] = Field((RewardSettings(name="accuracy"), RewardSettings(name="format")), min_length=1)
    judge: JudgeSettings | None = Field(None, description="Needed by the rewards that a judge gives.")
    embedder: str | None = Field(None, description="A sentence-transformers model, folder or hub name, for similarities.")
    objective: ObjectiveSettings = ObjectiveSettings()
    lora: LoraSettings = LoraSettings()
    full: bool = Field(False, description="Train all weights of the language model instead of a LoRA; masters are float32.")
    train_vision: Literal["none", "merger", "all"] = Field(
        "none", description="With full: also the merger, or the whole tower."
    )
    features: FeatureSettings = FeatureSettings()
    controls: ControlSettings = ControlSettings()
    micro_tokens: int | None = Field(
        None, gt=0, description="Packed engine: tokens a forward; groups stay whole. Null: 4096, or the largest group."
    )
    checkpointing: bool = Field(False, description="Compute activations again in the backward: slower, much less memory.")
    rollout: RolloutSettings = RolloutSettings()
    sft: SftSettings = SftSettings()
    dpo: DpoSettings = DpoSettings()
    against_shortcuts: ShortcutSettings = ShortcutSettings()
    lr: float = Field(1e-5, gt=0)
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_steps: int = Field(300, gt=0)
    save_steps: int = Field(50, gt=0)
    eval_max_tokens: int | None = Field(None, gt=0, description="Longest completion in evaluation; null: rollout.max_tokens.")
    eval_batch_size: int = Field(64, gt=0, description="Prompts a batch in evaluation; lower it where memory runs out.")
    threads: int = Field(1, gt=0, description="CPU threads; more than the machine's free cores is slower, not faster.")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**32)
    trl: dict[str, Any] = Field(default_factory=dict, description="Passed through to TRL's config.")

    @field_validator("trl")
    @classmethod
    def _numbers(cls, value: dict[str, Any]) -> dict[str, Any]:
        """YAML 1.1 takes 1e-6 for text; typed settings are put right by their type, these by this."""
        return {key: float(v) if isinstance(v, str) and _FLOAT.fullmatch(v) else v for key, v in value.items()}


ASKING = ("eval_max_tokens", "eval_batch_size", "infer_prompt", "controls", "threads")
"""Settings that decide how a model is asked, or how fast it is trained, and not what it learns."""


class Chain(Settings):
    """Stages that run one after the other, each evaluated on the test split; `init: stage:NAME` starts from an earlier one."""

    name: str
    stages: dict[str, Recipe]
