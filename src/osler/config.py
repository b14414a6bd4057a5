"""A recipe: what one stage trains, on what, and how. YAML with dotted `key=value` overrides; an unknown key is an error.

Shape only: names of strategies, rewards and data sets are checked where they are resolved, in `osler.pipeline`, before
anything heavy is loaded. A chain is a file with `stages`, each a recipe over the file's common keys.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from osler.errors import RecipeError, unknown

Spec = str | dict[str, Any]
S = TypeVar("S", bound="Settings")


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
    """One term of the reward."""

    name: str
    weight: float = 1.0


class ObjectiveSettings(Settings):
    """The policy-gradient objective. Defaults: GRPO as Med-R1 ran it; Dr. GRPO is `{std_norm: none, length_norm: constant}`."""

    std_norm: Literal["group", "batch", "none"] = "group"
    length_norm: Literal["sequence", "constant", "token"] = "sequence"
    clip_low: float = Field(0.2, ge=0)
    clip_high: float = Field(0.2, ge=0)
    beta: float = Field(0.04, ge=0, description="Weight of the KL to the start (k3 estimator).")
    ratio: Literal["token", "sequence"] = "token"
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
    micro_batch: int | None = Field(
        None, gt=0, description="TRL engine: completions a forward; null: one group. Divides G x prompts."
    )


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


class SftSettings(Settings):
    """Supervised fine-tuning only: rows an optimizer step, and when to stop."""

    batch_size: int = Field(32, gt=0)
    micro_batch: int = Field(4, gt=0, description="Rows a forward; divides batch_size.")
    eval_steps: int = Field(25, gt=0, description="Validation loss every so many steps.")
    patience: int | None = Field(None, gt=0, description="Stop after so many validations without a lower loss; null never.")
    max_seconds: float | str | None = Field(None, description="Stop after so many seconds; stage:NAME: as long as that took.")


class Recipe(Settings):
    """One stage of training."""

    method: Literal["grpo", "sft"] = "grpo"
    engine: Literal["packed", "trl"] = "packed"
    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    init: str | None = Field(None, description="run:DIR[@last|best|STEP]: start from another run.")
    data: DataSettings = DataSettings()
    images: ImageSettings = ImageSettings()
    strategy: str = "think"
    answer_form: Literal["letter", "text"] = "letter"
    rewards: tuple[RewardSettings, ...] = Field((RewardSettings(name="accuracy"), RewardSettings(name="format")), min_length=1)
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


class Chain(Settings):
    """Stages that run one after the other, each evaluated on the test split; `init: stage:NAME` starts from an earlier one."""

    name: str
    stages: dict[str, Recipe]


def load_recipe(file: str | Path, overrides: Iterable[str] = ()) -> Recipe | Chain:
    """The recipe or chain in `file` with `key=value` overrides (dotted keys, YAML values).

    In a chain an override goes to every stage, or to one as `STAGE.key=value`. Errors: RecipeError that names the file and
    the key.
    """
    path = find_recipe(file)
    raw = _read_yaml(path)
    changes = [_split_override(override) for override in overrides]
    if "stages" not in raw:
        for key, value in changes:
            _set(raw, key.split("."), value)
        return _validate(Recipe, raw, str(path))
    return _load_chain(raw, changes, path)


def find_recipe(file: str | Path) -> Path:
    """`file` itself, or the recipe of that name that is shipped with osler. Errors: RecipeError."""
    shipped = next((p for p in (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes") if p.is_dir()), None)
    candidates = [Path(file)]
    if shipped:
        candidates += [shipped / file, shipped / f"{file}.yaml"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        known = [str(p.relative_to(shipped).with_suffix("")) for p in shipped.rglob("*.yaml")] if shipped else []
        raise RecipeError(f"no recipe at {file}. " + unknown("recipe", file, known))
    return found


def _load_chain(raw: dict[str, Any], changes: list[tuple[str, Any]], path: Path) -> Chain:
    stages = raw["stages"]
    if not (stages and isinstance(stages, dict) and all(isinstance(stage, dict | None) for stage in stages.values())):
        raise RecipeError(f"{path}: stages must be a mapping of a name to that stage's settings, one stage or more.")
    common = {key: value for key, value in raw.items() if key not in ("stages", "name")}
    merged: dict[str, Any] = {}
    for name, stage in stages.items():
        recipe = _merge(common, stage or {})
        for key, value in changes:
            head, _, tail = key.partition(".")
            if head in stages and tail.partition(".")[0] not in Recipe.model_fields:
                group = f" For the settings called {head}, write {head}.{key}." if head in Recipe.model_fields else ""
                raise RecipeError(f"{key}: {head} is a stage here, and {tail or 'nothing'} is no setting of a stage.{group}")
            if head not in stages:
                _set(recipe, key.split("."), value)
            elif head == name:
                _set(recipe, tail.split("."), value)
        merged[name] = recipe
    checked = {name: _validate(Recipe, recipe, f"{path}, stage {name}") for name, recipe in merged.items()}
    return _validate(Chain, {"name": raw.get("name", path.stem), "stages": checked}, str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} is no recipe: it must be a mapping of settings, as in recipes/quickstart.yaml.")
    return raw


def _split_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {text!r} is not of the form key=value, as in lr=1e-5 or lora.r=8.")
    try:
        loaded = yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value
    if isinstance(loaded, str | dict | list) and not value.lstrip().startswith(("{", "[", '"', "'")):
        return key, value  # a data spec may hold any character, and ` #` starts no comment in it
    return key, loaded


def _set(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = raw.get(key)
        raw[key] = dict(inner) if isinstance(inner, dict) else {}
        raw = raw[key]
    raw[keys[-1]] = value


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, settings groups key by key. Data specs are taken whole: half of one makes no sense."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _validate(kind: type[S], raw: Any, where: str) -> S:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {_explain(kind, e)}" for e in error.errors())) from error


def _explain(kind: type[BaseModel], error: Any) -> str:
    keys = [str(key) for key in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(keys) or 'recipe'}: {error['msg']} (got {error['input']!r})."
    return unknown("key", ".".join(keys), (".".join([*keys[:-1], name]) for name in _fields(kind, keys[:-1])))


def _fields(kind: type[BaseModel], keys: list[str]) -> list[str]:
    """The names of the settings below `keys`, for a suggestion."""
    for key in keys:
        if key.isdecimal():
            continue  # a place in a list, whose settings are known already
        annotation = kind.model_fields[key].annotation if key in kind.model_fields else None
        annotation = next(iter(get_args(annotation)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
