"""The real configuration on a CPU: a bf16 base with its LoRA in fp32; and micro-batches, which must not change a step."""

import pytest
import torch
from safetensors.torch import load_file

from osler import pipeline
from osler.config import Recipe
from osler.runs import Run
from real_layout import save_real_layout

G, PROMPTS = 4, 2


def letters(completions, **_):
    """A reward that a random model's completions differ in: a group without spread would train nothing."""
    return [sum(character.isalpha() for character in completion[0]["content"]) / 100 for completion in completions]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def one_step(checkpoint, out, dtype, engine="packed", micro_batch=None, micro_tokens=None):
    """A GRPO run of one step with the objective's defaults, at an lr that shows."""
    recipe = Recipe.model_validate(
        {
            "model": checkpoint,
            "engine": engine,
            "micro_tokens": micro_tokens,
            "answer_form": "text",
            "data": {"train": {"name": "phantoms", "seed": 0, "train": 8, "val": 0, "test": 0}},
            "rewards": [{"name": f"{__name__}:letters"}],
            "rollout": {"G": G, "prompts_per_step": PROMPTS, "max_tokens": 6, "micro_batch": micro_batch},
            "lora": {"r": 2},
            "lr": 1e-2,
            "max_steps": 1,
            "save_steps": 1,
            "dtype": dtype,
        }
    )
    return pipeline.train(recipe, out)


def adapter(run: Run):
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_a_bf16_base_trains_its_lora_in_fp32(checkpoint, tmp_path, engine):
    run = one_step(checkpoint, tmp_path / "run", "bfloat16", engine)
    weights = adapter(run)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    moved = [weight for name, weight in weights.items() if "lora_B" in name]  # zeros before the first step
    assert len(moved) == 2 * 7
    assert all(weight.abs().max() > 1e-3 for weight in moved)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert any((weight != weight.bfloat16().float()).any() for weight in moved)  # nothing rounded them on the way


@pytest.mark.parametrize("cut", [{"engine": "trl", "micro_batch": 2}, {"engine": "packed", "micro_tokens": 100}], ids=str)
def test_micro_batches_do_not_change_the_step(checkpoint, tmp_path, cut):
    whole = one_step(checkpoint, tmp_path / "whole", "float32", cut["engine"])
    parts = one_step(checkpoint, tmp_path / "parts", "float32", **cut)
    assert [row["completion"] for row in whole.rows("rollouts")] == [row["completion"] for row in parts.rows("rollouts")]
    assert len({row["reward"] for row in whole.rows("rollouts")}) > 2
    norms = [run.rows("metrics")[0]["grad_norm"] for run in (whole, parts)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)  # Adam would hide a gradient that is wrongly scaled
    assert norms[0] > 1e-3
    wanted = adapter(whole)
    assert wanted.keys() == adapter(parts).keys()
    for name, weight in adapter(parts).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-3, atol=1e-5)
