"""What is trained: a fresh LoRA or all weights; and both on disk, found, checked, merged."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError

from osler.config import LoraSettings
from osler.errors import ModelError, RunError, unknown
from osler.model.attention import base_model
from osler.model.family import VLM
from osler.runs import Run

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SafetensorError)
"""What files that are absent, cut short or of another model raise in safetensors, torch, transformers and PEFT."""


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


def unfreeze(model: Any, train_vision: str) -> Any:
    """`model` with all of its language model open to training, and of the tower what `train_vision` says: none, merger, all."""
    visual = base_model(model).model.visual
    model.requires_grad_(True)
    visual.requires_grad_(train_vision == "all")
    if train_vision == "merger":
        visual.merger.requires_grad_(True)
    return model


def save_adapter(model: Any, folder: Path, start: str) -> None:
    """Write the adapter of the PEFT model `model` to `folder`, naming `start`, what it was trained on top of, as its base.

    PEFT itself would name the checkpoint even where earlier runs were merged into it, and the adapter on the bare checkpoint is
    another model. With a start of `run:...` plain PEFT then fails aloud, and `peft:` of osler finds the right one.
    """
    model.peft_config["default"].base_model_name_or_path = start
    model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub


def save_model(vlm: VLM, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the whole model and its processor to `folder`, a checkpoint in transformers' layout; its weights as `dtype`."""
    with _rounded(vlm.model, dtype or vlm.model.dtype):
        vlm.model.save_pretrained(str(folder), safe_serialization=True)
    vlm.processor.save_pretrained(str(folder))


@contextmanager
def _rounded(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the floating parameters are of `dtype`; afterwards each is what it was, to the bit."""
    own = [(parameter, parameter.data) for parameter in model.parameters() if parameter.is_floating_point()]
    try:
        for parameter, data in own:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


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
    if not (adapter / "adapter_model.safetensors").is_file():  # never an adapter_model.bin: that is a pickle
        raise ModelError(f"{adapter} has no weights: there is no adapter_model.safetensors. Copy or train the adapter again.")
    try:
        adapted = PeftModel(model, config)  # from_pretrained would only warn of missing weights
        found = adapted.load_adapter(str(adapter), "default", torch_device="cpu")
    except UNREADABLE as error:
        raise ModelError(f"{adapter}: the adapter is damaged or of another base ({reason(error)}).") from error
    for what, keys in (("lacks", found.missing_keys), ("has, but its base does not take,", found.unexpected_keys)):
        if keys:
            raise ModelError(f"{adapter}: the adapter is damaged or of another base: it {what} {some(keys)}.")
    return adapted


def weights_of(folder: Path, step: str | None = None) -> Path:
    """What the run at `folder` trained: the folder of its adapter, or of its whole model after full tuning.

    `step` chooses a checkpoint: a number, last or best. Errors: RunError where there is none, or no step is known to be the
    best.
    """
    steps = sorted((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), reverse=True)
    if step == "best":
        best = Run.open(folder).summary.get("best_step")
        if best is None:
            raise RunError(f"{folder} has no best checkpoint (only SFT with validation rows has one). Use @last or @STEP.")
        step = str(best)
    if step == "last" and steps:
        step = str(steps[0])
    chosen = folder / ("model" if (folder / "model").is_dir() else "adapter")
    path = chosen if step in (None, "last") else folder / "checkpoints" / str(step)
    if not (is_adapter(path) or is_model(path)):
        raise RunError(f"{folder} has no adapter and no model at {path.name}. Its checkpoints: {steps or 'none'}.")
    return path


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def is_model(folder: Path) -> bool:
    """Whether `folder` holds a whole model in transformers' layout."""
    return (folder / "config.json").is_file()


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
    if not is_adapter(folder):
        raise ModelError(f"{folder} is no PEFT adapter: it has no adapter_config.json.")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: its adapter_config.json cannot be used ({reason(error)}).") from error


def reason(error: BaseException) -> str:
    """The kind of `error` and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def some(keys: Iterable[str]) -> str:
    """The first three of `keys`, and how many more there are."""
    names = sorted(keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
