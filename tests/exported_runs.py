"""Train runs on disk as osler leaves them, without the training: a LoRA (or whole model) with random weights of a seed."""

import torch
from peft import get_peft_model

from osler.config import Recipe
from osler.datasets.samples import Samples
from osler.datasets.splits import load_part
from osler.lineage import keep_floor, start_of, trained_on
from osler.model.adapters import lora_config, save_adapter, save_model
from osler.model.load import load_policy
from osler.runs import Run

TRAIN = {"name": "phantoms", "seed": 7, "train": 4, "val": 2, "test": 2}
TEST = {"name": "phantoms", "seed": 7, "train": 0, "val": 0, "test": 2}


def made_run(folder, seed=1, steps=(), **recipe) -> Run:
    """A finished train run at `folder`; `steps` are checkpoints with weights of their own seeds."""
    settings = {"model": "tiny", "data": {"train": TRAIN}, "strategy": "nothink", "answer_form": "text"}
    settings |= {"rollout": {"max_tokens": 12}, "controls": {"names": "none"}, **recipe}
    made = Recipe.model_validate(settings)
    rows = Samples.of(load_part(made.data.train, "train"))
    about = {"start": start_of(made), "trained_on": trained_on(rows, made.init), "device": "cpu"}
    run = Run.create(folder, "train", recipe=made.model_dump(mode="json"), **about)
    keep_floor(run, rows, made.init)
    for name, one in {"": seed, **{str(step): seed + step for step in steps}}.items():
        _write(made, run.path / ("checkpoints" if name else "") / (name or ("model" if made.full else "adapter")), one)
    with run.recording():
        run.finish({"seconds": 1.0, "steps": 2})
    return run


def _write(recipe, folder, seed):
    vlm = load_policy(recipe.init or recipe.model, recipe.images, "float32", "cpu")
    torch.manual_seed(seed)
    if recipe.full:
        for weight in vlm.model.model.language_model.parameters():
            weight.data += 0.02 * torch.randn_like(weight)
        save_model(vlm, folder)
        return
    worn = get_peft_model(vlm.model, lora_config(vlm, recipe.lora))
    for name, weight in worn.named_parameters():
        if "lora_B" in name:
            weight.data = 0.03 * torch.randn_like(weight)
    save_adapter(worn, folder, recipe.init or recipe.model)
