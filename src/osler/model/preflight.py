"""What can be told of a model before its weights are loaded: that its files are there and of a known family."""

import torch

from osler.config import ImageSettings, LoraSettings
from osler.errors import ModelError, unknown
from osler.model.adapters import is_model, peft_base, split_step, weights_of
from osler.model.endpoint import ENDPOINT
from osler.model.load import TINY, family_of, load_processor
from osler.runs import Run


def check_policy(spec: str, lora: LoraSettings | None = None) -> None:
    """Errors: ModelError or RunError where `spec` names no usable model, or has no linears that `lora` could adapt."""
    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        recipe = Run.open(folder, "train").manifest["recipe"]
        weights = weights_of(folder, step)
        if is_model(weights):
            return check_policy(str(weights), lora)
        return check_policy(recipe["init"] or recipe["model"], lora)
    if spec.startswith(ENDPOINT):
        raise ModelError(f"{spec}: an endpoint can be evaluated, not trained. Give a folder, a hub name, run:DIR or tiny.")
    if spec.startswith("peft:"):
        return check_policy(peft_base(spec), lora)
    path = str(TINY) if spec == "tiny" else spec
    targets = family_of(path).lora_targets
    load_processor(path, ImageSettings())
    if lora and lora.targets not in targets:
        raise ModelError(unknown("lora.targets", lora.targets, targets))
    return None


def visible_gpus() -> int:
    """How many GPUs this process could use."""
    return torch.cuda.device_count()
