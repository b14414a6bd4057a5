"""The policy in training: a fresh LoRA or all weights, its reference, its optimizer, and its state."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from peft import get_peft_model
from torch import Tensor, nn
from transformers import get_scheduler

from osler.config import Recipe
from osler.errors import RunError
from osler.model.adapters import lora_config, save_adapter, save_model, unfreeze
from osler.model.attention import base_model
from osler.model.family import VLM
from osler.model.merged import SideCopy
from osler.model.packing import Packed, PackedPolicy


class Learner:
    """A policy that learns. `vlm` is the model in training, for rollouts; `side` its LoRA folded into a copy."""

    def __init__(self, recipe: Recipe, vlm: VLM) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)  # a LoRA begins at random
        frozen = copy.deepcopy(vlm.model) if recipe.full and recipe.objective.beta else None
        model = (
            unfreeze(vlm.model, recipe.train_vision)
            if recipe.full
            else get_peft_model(vlm.model, lora_config(vlm, recipe.lora))
        )
        self.vlm = VLM(vlm.name, model, vlm.processor, vlm.family)
        self.side = SideCopy(model)
        self.accelerator = _accelerator(vlm)
        policy = PackedPolicy(model, recipe.rollout.temperature)
        if recipe.checkpointing:
            _checkpoint_activations(model, recipe)
        self.masters = Masters(model.parameters())
        on_gpu = vlm.device.type == "cuda"  # there the fused step needs no copies of all weights
        optimizer = torch.optim.AdamW(
            self.masters.weights, lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=on_gpu
        )
        schedule = get_scheduler(recipe.lr_schedule, optimizer, recipe.warmup_steps, recipe.max_steps)
        self.policy, self.optimizer, self.schedule = self.accelerator.prepare(policy, optimizer, schedule)
        self.reference = self._prepared(frozen) if frozen is not None else None

    def _prepared(self, frozen: Any) -> Any:
        """A frozen copy of the start as a policy, in the same precision as the one in training."""
        reference = PackedPolicy(frozen.requires_grad_(False), self.recipe.rollout.temperature)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def let_reference_tower_go(self) -> None:
        """Move the frozen copy's vision tower off the GPU: features come from the store."""
        if self.reference is not None:
            base_model(self.reference.model).model.visual.to("cpu")

    @torch.no_grad()
    def reference_logps(self, packed: Packed) -> Tensor:
        """Log-probs under the start of training, shape (R, T): the adapter switched off, or a frozen copy."""
        self.vlm.model.eval()
        if self.reference is not None:
            logps_RT, _ = self.reference(packed)
        else:
            with self.vlm.model.disable_adapter():
                logps_RT, _ = self.policy(packed)
        return logps_RT  # type: ignore[no-any-return]

    @contextmanager
    def sampling(self) -> Iterator[VLM]:
        """The policy as it samples: in evaluation mode, its LoRA folded into the side copy."""
        self.vlm.model.eval()
        self.side.refresh()
        with self.side.worn():
            yield self.vlm

    def update(self) -> tuple[float, float]:
        """One optimizer step on the gradients that have come together; their norm before clipping, and the learning rate.

        Where no group had anything to teach the gradients are 0, and Adam goes on by its momentum, as it would have.
        Errors: RunError where the gradient is not finite, before any weight has changed.
        """
        for weight in self.masters.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        norm = float(self.accelerator.clip_grad_norm_(self.masters.weights, self.recipe.max_grad_norm))
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient's norm is {norm}: training has diverged. Lower lr, and go on from the last checkpoint."
            )
        lr = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.masters.publish()
        return norm, lr

    def save(self, folder: Path) -> None:
        """What inference needs, in `folder`: the adapter in PEFT's layout, or the whole model with its processor."""
        if self.recipe.full:
            save_model(self.vlm, folder)
        else:
            save_adapter(self.vlm.model, folder, self.recipe.init or self.recipe.model)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and optimizer as tensors by name, and the rest of them as JSON."""
        state = self.optimizer.state_dict()
        tensors = {f"weight.{k}": weight.detach() for k, weight in enumerate(self.masters.weights)}
        for k, moments in state["state"].items():
            tensors |= {f"optimizer.{k}.{name}": value for name, value in moments.items()}
        schedule = {name: value for name, value in self.schedule.state_dict().items() if _is_plain(value)}
        return tensors, {"param_groups": state["param_groups"], "schedule": schedule}

    def load_state_dict(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Errors: RunError where weights are missing."""
        weights = sum(key.startswith("weight.") for key in tensors)
        if weights != len(self.masters.weights):
            raise RunError(f"the checkpoint holds {weights} trained weights, and the model has {len(self.masters.weights)}. "
                           "Train again into another folder.")  # fmt: skip
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, number, *name = key.split(".", 2)
            if kind == "weight":
                self.masters.weights[int(number)].data.copy_(value)
            elif kind == "optimizer":
                moments.setdefault(int(number), {})[name[0]] = value
        self.masters.publish()
        self.optimizer.load_state_dict({"state": moments, "param_groups": rest["param_groups"]})
        self.schedule.load_state_dict(rest["schedule"])


class Masters:
    """The trainable `weights` as the optimizer sees them, in float32 at least.

    A weight that the model keeps in less, all of them in full tuning in bf16, has a float32 master here: at a learning rate of
    1e-6 an update is smaller than half the distance between two bf16 numbers, and the weight itself would never move.
    """

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.weights: list[nn.Parameter] = []
        self._stored: list[tuple[nn.Parameter, nn.Parameter]] = []
        for parameter in parameters:
            if not parameter.requires_grad:
                continue
            if parameter.dtype in (torch.float32, torch.float64):
                self.weights.append(parameter)
                continue
            master = nn.Parameter(parameter.detach().float())
            self.weights.append(master)
            self._stored.append((parameter, master))
            parameter.register_post_accumulate_grad_hook(_hand_over(master))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for parameter, master in self._stored:
            parameter.copy_(master)


def _hand_over(master: nn.Parameter) -> Any:
    """A hook that adds a parameter's gradient to its master's, in float32, and frees it."""

    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            parameter.grad = None

    return hook


def _checkpoint_activations(model: Any, recipe: Recipe) -> None:
    inner = base_model(model).model
    for module in (inner.language_model, inner.visual)[: 2 if recipe.train_vision == "all" else 1]:
        enable = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)  # since 5.20 or so
        enable({"use_reentrant": False})


def _accelerator(vlm: VLM) -> Accelerator:
    """A fresh accelerator on the model's device, in bf16 where the model is."""
    AcceleratorState._reset_state(reset_partial_state=True)  # another trainer of this process may have left its own
    GradientState._reset_state()  # one that broke off amid its micro-batches would let every optimizer skip its steps
    precision = "bf16" if vlm.model.dtype == torch.bfloat16 else "no"
    whole = GradientAccumulationPlugin(num_steps=1)  # losses are scaled already: an environment variable must not do it again
    return Accelerator(mixed_precision=precision, cpu=vlm.device.type == "cpu", gradient_accumulation_plugin=whole)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bool | list | None)
