"""Checkpoint -> model and processor. The only place that knows a model family, a chat template or a LoRA target.

    tiny                        the embedded model (osler.model.tiny)
    FOLDER or HUB/NAME          a full checkpoint in transformers' layout
    run:DIR[@last|best|STEP]    a training run: its start with its adapter merged, or the whole model that it tuned
    peft:DIR                    a PEFT adapter merged into the base that it names

Processors are built without the video half, which is all that needs torchvision.

A base model, one that was never taught to converse, is asked in the same turns as an instruct model, so that two starts differ
in their weights alone. The published Qwen2-VL base needs two things for that, and gets them here: its chat template takes no
turns (it would make an empty prompt of them), and its configuration does not know the end of a turn as an end.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2VLImageProcessorPil, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from osler.config import ImageSettings
from osler.errors import ModelError, unknown
from osler.model.adapters import UNREADABLE, is_model, merge_adapter, peft_base, reason, some, split_step, weights_of
from osler.model.family import FAMILIES, TURN_END, TURNS, VLM, Family, chat
from osler.progress import console
from osler.runs import Run

torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a plan for each new shape, and here nearly every shape is new

TINY = Path(__file__).parent.parent / "assets" / "tiny"


class ImageOnlyProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2-VL's processor without its video half: same tokens, same pixels, no torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_policy(spec: str, images: ImageSettings | None = None, dtype: str = "auto", device: str = "auto") -> VLM:
    """The policy that `spec` names, ready for inference; adapters on the way are merged in fp32.

    Errors: ModelError for a checkpoint of another family, without an image processor, with weights that are missing or
    damaged, or not to be found; RunError for a run without an adapter.
    """
    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        recipe, weights = Run.open(folder, "train").manifest["recipe"], weights_of(folder, step)
        if is_model(weights):  # full tuning
            whole = _load_checkpoint(str(weights), images or ImageSettings(), dtype, device)
            return VLM(spec, whole.model, whole.processor, whole.family)
        start = load_policy(recipe["init"] or recipe["model"], images, dtype, device)
        return VLM(spec, merge_adapter(start, weights), start.processor, start.family)
    if spec.startswith("peft:"):
        folder = Path(spec.removeprefix("peft:"))
        start = load_policy(peft_base(spec), images, dtype, device)
        return VLM(spec, merge_adapter(start, folder), start.processor, start.family)
    return _load_checkpoint(spec, images or ImageSettings(), dtype, device)


def _load_checkpoint(name: str, images: ImageSettings, dtype: str, device: str) -> VLM:
    path = str(TINY) if name == "tiny" else name
    family = family_of(path)
    processor = load_processor(path, images)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = _load_weights(path, family, dtype_of(dtype, device))
    model.generation_config = _pinned_generation(model.generation_config, processor.tokenizer)
    return VLM(name, model.to(device).eval(), processor, family)


def _load_weights(path: str, family: Family, dtype: torch.dtype) -> Any:
    """The model, on the CPU. Errors: ModelError where a weight would be left random, or a file is absent or damaged."""
    try:
        model, info = getattr(transformers, family.model_class).from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them below
        )
    except UNREADABLE as error:
        raise ModelError(
            f"{path}: its weights cannot be read; a file is absent or damaged ({reason(error)}). Copy the checkpoint again."
        ) from error
    for what, keys in (("missing", info["missing_keys"]), ("of another shape", [key for key, *_ in info["mismatched_keys"]])):
        if keys:
            raise ModelError(
                f"{path}: weights that its config.json asks for are {what}: {some(keys)}. Copy the checkpoint again."
            )
    return model


def load_processor(path: str, images: ImageSettings) -> ImageOnlyProcessor:
    """The image-only processor of the checkpoint at `path`, its pixel budget no larger than `images` says.

    Errors: ModelError where the checkpoint has no image processor or no chat template.
    """
    try:
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    except OSError as error:
        family_of(path)  # a checkpoint that is not there at all says so
        raise ModelError(
            f"{path} has no image processor (preprocessor_config.json): without it the model would never see an image. "
            "Copy the file from the model's original checkpoint."
        ) from error
    tokenizer = _load_tokenizer(path)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _processors_template(path)
    if not _takes_turns(path, tokenizer):
        _say_other_turns(path)
        tokenizer.chat_template = TURNS
    largest = min(images.max_pixels, image_processor.size["longest_edge"])
    smallest = min(max(images.min_pixels, image_processor.size["shortest_edge"]), largest)
    image_processor.size = {"shortest_edge": smallest, "longest_edge": largest}
    return ImageOnlyProcessor(image_processor, tokenizer, tokenizer.chat_template)


def _load_tokenizer(path: str) -> Any:
    """The tokenizer at `path`. Errors: ModelError where there is none, or it knows no image token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(f"{path}: its tokenizer cannot be read ({reason(error)}). Copy tokenizer.json again.") from error
    if "<|image_pad|>" not in tokenizer.get_vocab():
        raise ModelError(
            f"{path}: its tokenizer is absent, or is not Qwen's: it has no <|image_pad|>. Copy tokenizer.json again."
        )
    return tokenizer


def _processors_template(path: str) -> str:
    """The template in chat_template.json, which Qwen2-VL's checkpoints carry and AutoTokenizer does not read."""
    try:
        template: str = json.loads(Path(cached_file(path, "chat_template.json")).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} has no chat template: there is none in tokenizer_config.json, chat_template.jinja or chat_template.json "
            f"({reason(error)}). Use an instruct checkpoint, or copy chat_template.json from one."
        ) from error
    return template


def _takes_turns(path: str, tokenizer: Any) -> bool:
    """Whether the chat template of `tokenizer` makes of a user's turn a prompt with its image and its text in their order.

    Errors: ModelError where it cannot be used at all.
    """
    probe = "What is shown?"
    try:
        text = tokenizer.apply_chat_template(chat(probe, ["image"]), add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise ModelError(f"{path}: its chat template cannot be used ({reason(error)}). Copy it again.") from error
    return text.count("<|image_pad|>") == 1 and probe in text.partition("<|image_pad|>")[2]


@cache
def _say_other_turns(path: str) -> None:
    """Once a process."""
    text = f"{path}: its chat template takes no turns, as a base model's; it is asked in those of Qwen's instruct models."
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def family_of(path: str) -> Family:
    """The family of the checkpoint at `path`, a folder or a hub name, told by its config.json alone.

    Errors: ModelError where there is no such checkpoint, its config.json cannot be used, or its family is unknown.
    """
    local = _is_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)  # None would ask on the terminal
    except (OSError, ValueError, StrictDataclassError) as error:
        if local:
            raise ModelError(f"{Path(path) / 'config.json'} cannot be used ({reason(error)}).") from error
        raise ModelError(
            f"no model at {path!r}: it is no checkpoint folder, and the hub did not give it ({reason(error)}). "
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
        raise ModelError(f"{folder / 'config.json'} cannot be parsed ({reason(error)}). Copy it again.") from error
    return True


def dtype_of(name: str, device: str) -> torch.dtype:
    """The type that `name` asks for on `device`. auto: bf16 on a GPU that computes in it; fp32 on others and on a CPU, where
    bf16 is slower. Errors: ModelError for a name that is none."""
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
    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    ends = end if isinstance(end, list) else [end]
    turn_end = tokenizer.get_vocab().get(TURN_END)
    if turn_end is not None and turn_end not in ends:
        ends = [turn_end, *ends]  # a base model's own ends are those of a text, and training teaches turns
    return GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=own.bos_token_id)
