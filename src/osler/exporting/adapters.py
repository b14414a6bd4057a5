"""The LoRA of a run as one PEFT adapter on a checkpoint that anybody has, whatever runs it was trained on top of.

A run that starts from another trains a fresh LoRA on top of weights into which the earlier one was merged. Both change a
weight W by a sum, W + s1 B1 A1 + s2 B2 A2, which is one LoRA: the rows of A1 and A2 below each other, the columns of s1 B1 and
s2 B2 side by side. Its rank is the sum of the ranks. It is that sum exactly; a run that was trained in bf16 rounded its start
once more, when the earlier LoRA was merged.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from osler.errors import ModelError
from osler.model.adapters import is_model, peft_base, reason, split_step, weights_of
from osler.model.load import TINY
from osler.runs import Run

A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Stack:
    """A checkpoint (a hub name or a folder) and the adapters on top of it, in the order in which they were trained."""

    base: str
    adapters: tuple[Path, ...]


def stack_of(spec: str) -> Stack:
    """What the model `spec` is made of. Errors: RunError or ModelError where a run on the way is missing."""
    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        recipe, weights = Run.open(folder, "train").manifest["recipe"], weights_of(folder, step)
        if is_model(weights):
            return Stack(str(weights.resolve()), ())
        below = stack_of(recipe["init"] or recipe["model"])
        return Stack(below.base, (*below.adapters, weights))
    if spec.startswith("peft:"):
        below = stack_of(peft_base(spec))
        return Stack(below.base, (*below.adapters, Path(spec.removeprefix("peft:"))))
    path = TINY if spec == "tiny" else Path(spec)
    return Stack(str(path.resolve()) if path.is_dir() else spec, ())


def write_adapter(stack: Stack, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the adapters of `stack` to `folder` as one, naming the base; its weights as `dtype`, else as they are.

    Errors: ModelError where an adapter is damaged, or of a kind that is no plain LoRA.
    """
    configs = [_config(path) for path in stack.adapters]
    weights = [_weights(path) for path in stack.adapters]
    alone = len(weights) == 1
    merged = weights[0] if alone else _summed(configs, weights)
    rank = sum(config.r for config in configs)
    config = configs[-1]
    config.base_model_name_or_path, config.inference_mode = stack.base, True
    config.r, config.lora_alpha = rank, config.lora_alpha if alone else rank
    config.target_modules = _targets(configs)
    config.save_pretrained(str(folder))
    stored = {name: weight.to(dtype or weight.dtype).contiguous() for name, weight in merged.items()}
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _config(path: Path) -> LoraConfig:
    try:
        config = LoraConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: its adapter_config.json cannot be used ({reason(error)}).") from error
    special = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out")
    odd = [name for name in special if getattr(config, name, None)]
    if config.peft_type != "LORA" or config.bias != "none" or odd:
        what = ", ".join(odd) or f"{config.peft_type}, bias {config.bias}"
        raise ModelError(f"{path} is no plain LoRA ({what}). Export the merged model: leave out --adapter.")
    return config


def _weights(path: Path) -> dict[str, Tensor]:
    """The matrices of the LoRA at `path`. Errors: ModelError where they are damaged, or others are among them."""
    try:
        weights: dict[str, Tensor] = load_file(path / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: the adapter is damaged or absent ({reason(error)}). Copy or train it again.") from error
    if odd := [name for name in weights if not name.endswith((A, B))]:
        raise ModelError(f"{path} is no plain LoRA: it has {odd[0]}. Export the merged model: leave out --adapter.")
    return weights


def _summed(configs: list[LoraConfig], weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The one LoRA that does what all of them do; a linear that one of them leaves alone gets zeros of its rank."""
    linears = sorted({name.removesuffix(A) for one in weights for name in one if name.endswith(A)})
    summed: dict[str, Tensor] = {}
    for linear in linears:
        parts = [_part(one, linear, config, weights) for config, one in zip(configs, weights, strict=True)]
        summed[linear + A] = torch.cat([a for a, _ in parts], 0)
        summed[linear + B] = torch.cat([b for _, b in parts], 1)
    return summed


def _part(own: dict[str, Tensor], linear: str, config: LoraConfig, every: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """A (r x in) and s B (out x r) of `linear` in one adapter, in float32."""
    if linear + A in own:
        return own[linear + A].float(), own[linear + B].float() * (config.lora_alpha / config.r)
    like = next(one for one in every if linear + A in one)
    return torch.zeros(config.r, like[linear + A].shape[1]), torch.zeros(like[linear + B].shape[0], config.r)


def _targets(configs: list[LoraConfig]) -> Any:
    """The linears of all of them: one pattern, or the patterns joined, or the names together."""
    targets = [config.target_modules for config in configs]
    if all(isinstance(one, str) for one in targets):
        patterns = list(dict.fromkeys(map(str, targets)))
        return patterns[0] if len(patterns) == 1 else "|".join(f"(?:{one})" for one in patterns)
    if any(isinstance(one, str) for one in targets):
        raise ModelError("the adapters name their linears in different ways. Export the merged model: leave out --adapter.")
    return sorted({name for one in targets for name in one or ()})
