"""Checkpoint -> model and processor. The only place that knows a model family, a chat template or a LoRA target.

    tiny                        the embedded model (osler.model.tiny)
    FOLDER or HUB/NAME          a full checkpoint in transformers' layout
    run:DIR[@last|best|STEP]    a training run: its start, with its adapter merged
    peft:DIR                    a PEFT adapter merged into the base that it names

A family is one entry of `FAMILIES`. Processors are built without the video half, which is all that needs torchvision.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2VLImageProcessorPil, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from osler.config import ImageSettings, LoraSettings
from osler.errors import ModelError, RunError, unknown
from osler.runs import Run

TINY = Path(__file__).parent.parent / "assets" / "tiny"

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, UnpicklingError, SafetensorError)
"""What files that are absent, cut short or of another model raise in safetensors, torch, transformers and PEFT."""


class ImageOnlyProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2-VL's processor without its video half: same tokens, same pixels, no torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


@dataclass(frozen=True)
class Family:
    """What differs between model families: the class, and the linears of the language model that LoRA adapts."""

    model_class: str
    lora_targets: dict[str, str]


_LANGUAGE = r".*language_model\.layers\.\d+\."
_QWEN_TARGETS = {
    "language": _LANGUAGE + r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    "attention": _LANGUAGE + r"self_attn\.(q|k|v|o)_proj",
}

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family("Qwen2VLForConditionalGeneration", _QWEN_TARGETS),
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", _QWEN_TARGETS),
}


@dataclass
class VLM:
    """A policy: model, processor and what is known of its family. `name` is the spec that it was loaded from."""

    name: str
    model: Any
    processor: Any
    family: Family

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        device: torch.device = self.model.device
        return device

    @property
    def banned_ids(self) -> list[int]:
        """Special tokens that no completion may hold: all but the ends of a turn. A sampled image token, say, would make
        the next forward look for an image that is not there."""
        ends = self.end_ids
        return sorted({token for token in _special_ids(self.processor.tokenizer) if token not in ends})

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a completion."""
        ends: list[int] = self.model.generation_config.eos_token_id
        return ends


def load_policy(spec: str, images: ImageSettings | None = None, dtype: str = "auto", device: str = "auto") -> VLM:
    """The policy that `spec` names, ready for inference; adapters on the way are merged in fp32.

    Errors: ModelError for a checkpoint of another family, without an image processor, with weights that are missing or
    damaged, or not to be found; RunError for a run without an adapter.
    """
    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        recipe = Run.open(folder, "train").manifest["recipe"]
        start = load_policy(recipe["init"] or recipe["model"], images, dtype, device)
        return VLM(spec, merge_adapter(start, adapter_of(folder, step)), start.processor, start.family)
    if spec.startswith("peft:"):
        folder = Path(spec.removeprefix("peft:"))
        start = load_policy(peft_base(spec), images, dtype, device)
        return VLM(spec, merge_adapter(start, folder), start.processor, start.family)
    return _load_checkpoint(spec, images or ImageSettings(), dtype, device)


def merge_adapter(vlm: VLM, adapter: Path) -> Any:
    """The model of `vlm`, which is used up, with the LoRA at `adapter` merged. The sum is made in fp32 and rounded once.

    Errors: ModelError where the adapter's files are absent or damaged, or its weights are not those of this model's LoRA.
    """
    stored = vlm.model.dtype
    _cast_parameters(vlm.model, torch.float32)
    merged = _adapted(vlm.model, adapter).merge_and_unload()
    _cast_parameters(merged, stored)
    return merged.eval()


def _cast_parameters(model: Any, dtype: torch.dtype) -> None:
    """Cast the floating parameters in place. Buffers stay: RoPE's frequencies, rounded to bf16, are wrong at far positions."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _adapted(model: Any, adapter: Path) -> Any:
    """`model` wearing the adapter, no weight of which is missing or left over. Errors: ModelError."""
    config = _peft_config(adapter)
    if not any((adapter / file).is_file() for file in ("adapter_model.safetensors", "adapter_model.bin")):
        raise ModelError(f"{adapter} has no weights: there is no adapter_model.safetensors. Copy or train the adapter again.")
    try:
        adapted = PeftModel(model, config)  # from_pretrained would only warn of missing weights
        found = adapted.load_adapter(str(adapter), "default", torch_device="cpu")
    except _UNREADABLE as error:
        raise ModelError(f"{adapter}: the adapter is damaged or of another base ({_reason(error)}).") from error
    for what, keys in (("lacks", found.missing_keys), ("has, but its base does not take,", found.unexpected_keys)):
        if keys:
            raise ModelError(f"{adapter}: the adapter is damaged or of another base: it {what} {_some(keys)}.")
    return adapted


def adapter_of(folder: Path, step: str | None = None) -> Path:
    """The adapter folder of the run at `folder`: the chosen one, or the one of a `step` (a number, last, best).

    Errors: RunError where there is none, or no step is known to be the best.
    """
    steps = sorted((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), reverse=True)
    if step == "best":
        best = Run.open(folder).summary.get("best_step")
        if best is None:
            raise RunError(f"{folder} has no best checkpoint (only SFT with validation rows has one). Use @last or @STEP.")
        step = str(best)
    if step == "last" and steps:
        step = str(steps[0])
    path = folder / "adapter" if step in (None, "last") else folder / "checkpoints" / str(step)
    if not (path / "adapter_config.json").is_file():
        raise RunError(f"{folder} has no adapter at {path.name}. Its checkpoints: {steps or 'none'}.")
    return path


def lora_config(vlm: VLM, lora: LoraSettings) -> LoraConfig:
    """PEFT's configuration of a fresh LoRA on the language model; vision tower and merger are never touched."""
    targets = vlm.family.lora_targets
    if lora.targets not in targets:
        raise ModelError(unknown("lora.targets", lora.targets, targets))
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets[lora.targets],
        task_type="CAUSAL_LM",
    )


def chat(question: str, images: Sequence[Any]) -> list[dict[str, Any]]:
    """The user's turn as messages: the images first, then `question`."""
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _load_checkpoint(name: str, images: ImageSettings, dtype: str, device: str) -> VLM:
    path = str(TINY) if name == "tiny" else name
    family = family_of(path)
    processor = load_processor(path, images)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = _load_weights(path, family, _dtype(dtype, device))
    model.generation_config = _pinned_generation(model.generation_config, processor.tokenizer)
    return VLM(name, model.to(device).eval(), processor, family)


def _load_weights(path: str, family: Family, dtype: torch.dtype) -> Any:
    """The model, on the CPU. Errors: ModelError where a weight would be left random, or a file is absent or damaged."""
    try:
        model, info = getattr(transformers, family.model_class).from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them below
        )
    except _UNREADABLE as error:
        raise ModelError(
            f"{path}: its weights cannot be read; a file is absent or damaged ({_reason(error)}). Copy the checkpoint again."
        ) from error
    for what, keys in (("missing", info["missing_keys"]), ("of another shape", [key for key, *_ in info["mismatched_keys"]])):
        if keys:
            raise ModelError(
                f"{path}: weights that its config.json asks for are {what}: {_some(keys)}. Copy the checkpoint again."
            )
    return model


def load_processor(path: str, images: ImageSettings) -> ImageOnlyProcessor:
    """The image-only processor of the checkpoint at `path`, its pixel budget no larger than `images` says.

    Errors: ModelError where the checkpoint has no image processor or no chat template.
    """
    try:
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    except OSError as error:
        raise ModelError(
            f"{path} has no image processor (preprocessor_config.json): without it the model would never see an image. "
            "Copy the file from the model's original checkpoint."
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _processors_template(path)
    largest = min(images.max_pixels, image_processor.size["longest_edge"])
    smallest = min(max(images.min_pixels, image_processor.size["shortest_edge"]), largest)
    image_processor.size = {"shortest_edge": smallest, "longest_edge": largest}
    return ImageOnlyProcessor(image_processor, tokenizer, tokenizer.chat_template)


def _processors_template(path: str) -> str:
    """The template in chat_template.json, which Qwen2-VL's checkpoints carry and AutoTokenizer does not read."""
    try:
        template: str = json.loads(Path(cached_file(path, "chat_template.json")).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} has no chat template: there is none in tokenizer_config.json, chat_template.jinja or chat_template.json "
            f"({_reason(error)}). Use an instruct checkpoint, or copy chat_template.json from one."
        ) from error
    return template


def family_of(path: str) -> Family:
    """The family of the checkpoint at `path`, a folder or a hub name, told by its config.json alone.

    Errors: ModelError where there is no such checkpoint, its config.json cannot be used, or its family is unknown.
    """
    local = _is_folder(path)
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, StrictDataclassError) as error:
        if local:
            raise ModelError(f"{Path(path) / 'config.json'} cannot be used ({_reason(error)}).") from error
        raise ModelError(
            f"no model at {path!r}: it is no checkpoint folder, and the hub did not give it ({_reason(error)}). "
            "Give a folder with config.json, a hub name (with network), run:DIR, peft:DIR or tiny."
        ) from error
    if config.model_type not in FAMILIES:
        raise ModelError(f"{path}: " + unknown("model family", config.model_type, FAMILIES))
    return FAMILIES[config.model_type]


def _is_folder(path: str) -> bool:
    """Whether `path` is a checkpoint folder; False where it may be a hub name.

    Errors: ModelError where it can only be meant as a folder, but is none or has no config.json that can be parsed.
    """
    folder = Path(path)
    if not (folder.is_absolute() or path.startswith((".", "~")) or folder.exists()):
        return False
    if not (folder / "config.json").is_file():
        lacks = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise ModelError(f"no model at {path!r}: it is no checkpoint folder ({lacks}).")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be parsed ({_reason(error)}). Copy it again.") from error
    return True


def _dtype(name: str, device: str) -> torch.dtype:
    """bf16 on a GPU that computes in it; fp32 on others and on a CPU, where bf16 is slower."""
    if name == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ModelError(unknown("dtype", name, known))
    return known[name]


def _pinned_generation(own: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """A generation config with token ids only. A checkpoint's own sampling defaults (Qwen2-VL's are all but greedy) would
    otherwise fill every field that a caller leaves open."""
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id or tokenizer.eos_token_id]
    return GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=own.bos_token_id)


def _special_ids(tokenizer: Any) -> list[int]:
    return [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]


def set_threads(threads: int) -> None:
    """Threads for this process's tensors; two on a shared core can be ten times slower than one."""
    torch.set_num_threads(threads)


def split_step(spec: str) -> tuple[Path, str | None]:
    """The run folder and the step of `DIR[@last|best|STEP]`."""
    folder, at, step = spec.rpartition("@")
    return (Path(folder), step) if at and (step in ("last", "best") or step.isdigit()) else (Path(spec), None)


def peft_base(spec: str) -> str:
    """The base that `peft:DIR` names. Errors: ModelError where DIR is no PEFT adapter, or names none."""
    folder = Path(spec.removeprefix("peft:"))
    base: str | None = _peft_config(folder).base_model_name_or_path
    if not base:
        raise ModelError(f"{folder}: its adapter_config.json names no base model.")
    return base


def _peft_config(folder: Path) -> Any:
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} is no PEFT adapter: it has no adapter_config.json.")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: its adapter_config.json cannot be used ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    """The kind of `error` and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _some(keys: Iterable[str]) -> str:
    """The first three of `keys`, and how many more there are."""
    names = sorted(keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
