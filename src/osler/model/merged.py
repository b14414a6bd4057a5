"""LoRA folded into a copy of the weights that it touches, for rollouts: one matrix product a linear instead of three.

The policy's own weights are never written: merging into bf16 and taking the sum apart again would make them drift.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor


class SideCopy:
    """Weights of the linears that LoRA adapts in `model`, with the adapter folded in. Their memory is made once and stays,
    so that a captured graph which reads it remains right. Without LoRA there is nothing to fold and nothing is copied."""

    def __init__(self, model: Any) -> None:
        self.linears = [module for module in model.modules() if isinstance(module, LoraLinear)]
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the adapter as it is now; the sum is made in float32 at least and rounded once."""
        if not self.copies:
            self.copies = [torch.empty_like(linear.base_layer.weight) for linear in self.linears]
        for linear, copy in zip(self.linears, self.copies, strict=True):
            delta = linear.get_delta_weight("default")
            copy.copy_(linear.base_layer.weight.to(torch.promote_types(delta.dtype, torch.float32)) + delta)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Inside, the model computes with the copies and without its adapters."""
        own = [linear.base_layer.weight.data for linear in self.linears]
        try:
            for linear, copy in zip(self.linears, self.copies, strict=True):
                linear.base_layer.weight.data = copy
                linear.enable_adapters(False)
            yield
        finally:
            for linear, weight in zip(self.linears, own, strict=True):
                linear.base_layer.weight.data = weight
                linear.enable_adapters(True)
