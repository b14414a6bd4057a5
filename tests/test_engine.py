"""The packed engine's loop: what it draws, what it reports, what it leaves behind, and what it refuses before it begins."""

import json

import pytest
import torch
from safetensors.torch import load_file

from osler import pipeline
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RecipeError
from osler.grading import grader
from osler.model.features import FeatureStore
from osler.model.load import load_policy
from osler.rl.engine import Engine
from osler.rl.objective import Totals
from osler.strategies import STRATEGIES
from osler.trial import Trial
from real_layout import save_real_layout

ROWS = list(samples(0, {"train": 6}))
PHANTOMS = {"name": "phantoms", "seed": 0, "train": 6, "val": 0, "test": 3}


def letters(completions, **columns):
    """A reward in which a random model's completions differ."""
    return [sum(character.isalpha() for character in one[0]["content"]) / 100 for one in completions]


def nothing(completions, **columns):
    """A reward without spread: every group is dull."""
    return [0.5] * len(completions)


def only_some(completions, question_type, **columns):
    """A reward that can have spread in the rows of one question type, and in no others."""
    paid = zip(letters(completions), question_type, strict=True)
    return [reward if kind == "Modality recognition" else 0.0 for reward, kind in paid]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def recipe(checkpoint, reward="letters", **changes):
    settings = {
        "model": checkpoint,
        "answer_form": "text",
        "data": {"train": PHANTOMS},
        "rewards": [{"name": f"{__name__}:{reward}"}],
        "rollout": {"G": 3, "prompts_per_step": 2, "max_tokens": 6},
        "objective": {"beta": 0.0},
        "lora": {"r": 2},
        "lr": 1e-3,
        "max_steps": 2,
        "save_steps": 2,
    }
    if changes.get("full"):
        del settings["lora"]
    return Recipe.model_validate(settings | changes)


def engine(recipe, dtype="float32"):
    return Engine(recipe, load_policy(recipe.model, dtype=dtype), ROWS, STRATEGIES["think"], grader("text"))


def test_every_row_is_drawn_once_an_epoch_in_an_order_of_its_seed(checkpoint):
    roller = engine(recipe(checkpoint)).roller
    epochs = [[roller.sample_at(epoch * len(ROWS) + k).id for k in range(len(ROWS))] for epoch in (0, 1, 0)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(sample.id for sample in ROWS)
    assert epochs[0] == epochs[2] != epochs[1]
    other = engine(recipe(checkpoint, seed=1)).roller
    assert [other.sample_at(k).id for k in range(len(ROWS))] != epochs[0]


def test_metrics_have_trls_names_and_the_seconds_of_each_phase(checkpoint):
    metrics, rows = engine(recipe(checkpoint, objective={"beta": 0.1})).step()
    trl = {"loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "num_tokens"}
    trl |= {f"completions/{name}" for name in ("mean_length", "min_length", "max_length", "clipped_ratio")}
    trl |= {"clip_ratio/region_mean", "step_time"}
    assert trl <= set(metrics)
    assert {"rollout_s", "reward_s", "reference_s", "update_s", "sampler_kl", "unscored", "resampled"} <= set(metrics)
    json.dumps(metrics, allow_nan=False)
    assert len(rows) == 6
    assert {"step", "reward", "rewards", "advantage", "completion", "gold", "sample_id"} <= set(rows[0])
    phases = sum(metrics[name] for name in ("rollout_s", "reward_s", "reference_s", "update_s"))
    assert phases <= metrics["step_time"]


def test_the_sampler_is_the_policy_in_float32(checkpoint):
    metrics, _ = engine(recipe(checkpoint)).step()
    assert abs(metrics["sampler_kl"]) < 1e-9


def test_the_sampler_of_a_bf16_policy_is_not_quite_the_policy(checkpoint):
    """The folded weights are rounded once more: `sampler_kl` must see that, or it sees nothing."""
    one = engine(recipe(checkpoint, dtype="bfloat16"), dtype="bfloat16")
    for name, weight in one.learner.vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    metrics, _ = one.step()
    assert 1e-9 < metrics["sampler_kl"] < 0.1


def test_a_step_in_which_no_group_teaches_moves_by_momentum_only(checkpoint):
    """TRL's gradients are zeros there, and Adam goes on; ours are skipped, and must do the same."""
    one = engine(recipe(checkpoint, reward="nothing"))
    before = [weight.clone() for weight in one.learner.masters.weights]
    metrics, _ = one.step()
    assert metrics["loss"] == metrics["grad_norm"] == 0.0
    assert metrics["frac_reward_zero_std"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, one.learner.masters.weights, strict=True))
    moments = one.learner.optimizer.state_dict()["state"]
    assert {int(moment["step"]) for moment in moments.values()} == {1}


def test_with_a_kl_no_group_is_skipped(checkpoint):
    one = engine(recipe(checkpoint, reward="nothing", objective={"beta": 0.5}))
    batch, _, _ = one.roller.draw()
    assert one._teaching(batch) == [0, 1]
    without = engine(recipe(checkpoint, reward="nothing"))
    assert without._teaching(without.roller.draw()[0]) == []


def test_dull_groups_are_drawn_anew_a_bounded_number_of_times(checkpoint):
    settings = {"G": 3, "prompts_per_step": 2, "max_tokens": 6, "resample": 2}
    dull = engine(recipe(checkpoint, reward="nothing", rollout=settings))
    batch, dropped, metrics = dull.roller.draw()
    assert [group.place for group in batch.groups] == [4, 5]
    assert metrics["resampled"] == 4
    assert sum(value for name, value in metrics.items() if name.startswith("resampled/")) == 4
    assert len(dropped) == 4 * 3
    assert all(row["resampled"] for row in dropped)
    mixed = engine(recipe(checkpoint, reward="only_some", rollout={**settings, "resample": 50}))
    batch, dropped, metrics = mixed.roller.draw()
    assert all(group.spread for group in batch.groups)
    assert metrics["resampled"] == len(dropped) / 3 > 0


def test_groups_are_never_parted_and_micro_tokens_is_kept(checkpoint):
    one = engine(recipe(checkpoint, rollout={"G": 3, "prompts_per_step": 4, "max_tokens": 6}))
    batch, _, _ = one.roller.draw()
    sizes = [batch.packable(number).tokens for number in range(4)]
    assert one._micro_batches(batch, [0, 1, 2, 3]) == [[0, 1, 2, 3]]
    one.recipe = one.recipe.model_copy(update={"micro_tokens": max(sizes)})
    assert one._micro_batches(batch, [0, 2, 3]) == [[0], [2], [3]]


def test_the_denominator_counts_what_is_skipped(checkpoint, monkeypatch):
    one = engine(recipe(checkpoint))
    batch, _, _ = one.roller.draw()
    seen = []
    monkeypatch.setattr("osler.rl.engine.Totals", lambda *counts: seen.append(counts) or Totals(*counts))
    monkeypatch.setattr(one, "_teaching", lambda batch: [0])
    one.update(batch)
    assert seen == [(6, sum(batch.lengths))]


def test_full_tuning_leaves_a_model_that_loads_and_starts_another_run(checkpoint, tmp_path):
    run = pipeline.train(recipe(checkpoint, full=True, lr=1e-2, dtype="bfloat16", objective={"beta": 0.04}), tmp_path / "full")
    assert (run.path / "model" / "config.json").is_file()
    assert not (run.path / "adapter").exists()
    start, tuned = load_policy(checkpoint, dtype="bfloat16"), load_policy(f"run:{run.path}", dtype="bfloat16")
    assert tuned.name == f"run:{run.path}"
    weights = dict(start.model.named_parameters())
    moved = {name for name, weight in tuned.model.named_parameters() if not torch.equal(weight, weights[name])}
    assert moved == {name for name in weights if "visual" not in name}
    trial = Trial(answer_form="text", max_tokens=6)
    evaluated = pipeline.evaluate(f"run:{run.path}@2", PHANTOMS, trial, out=tmp_path / "test")
    assert evaluated.manifest["model"]["sha256"]
    after = pipeline.train(recipe(checkpoint, init=f"run:{run.path}", max_steps=1), tmp_path / "after")
    assert len(after.manifest["start"]) == 2


def test_a_trained_tower_is_trained_and_its_features_are_not_kept(checkpoint, tmp_path, capfd):
    run = pipeline.train(recipe(checkpoint, full=True, train_vision="all", lr=1e-2, dtype="float32"), tmp_path / "run")
    assert "features are not kept, as the tower is trained" in " ".join(capfd.readouterr().err.split())
    start = dict(load_policy(checkpoint, dtype="float32").model.named_parameters())
    tuned = load_policy(f"run:{run.path}", dtype="float32").model.named_parameters()
    assert all(not torch.equal(weight, start[name]) for name, weight in tuned if "visual.blocks" in name and "weight" in name)


def test_checkpointing_changes_no_weight(checkpoint, tmp_path):
    runs = [pipeline.train(recipe(checkpoint, checkpointing=on), tmp_path / str(on)) for on in (False, True)]
    weights = [load_file(run.path / "adapter" / "adapter_model.safetensors") for run in runs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora": {"dropout": 0.1}}, "lora.dropout=0.1 would draw one mask"),
        ({"full": True, "train_vision": "all", "features": {"cache": True}}, "features.cache=true keeps features"),
        ({"train_vision": "merger"}, "train_vision=merger needs full=true"),
        ({"rollout": {"G": 4, "micro_batch": 2}}, "smaller than a group"),
        ({"rollout": {"G": 4, "micro_batch": 8}}, "counts rows"),
        ({"trl": {"logging_steps": 2}}, "trl.logging_steps is for TRL"),
        ({"engine": "trl", "full": True}, "full=true needs"),
        ({"engine": "trl", "micro_tokens": 99}, "micro_tokens is a setting of engine=packed"),
        ({"engine": "trl", "rollout": {"resample": 1}}, "rollout.resample is a setting"),
        ({"engine": "trl", "objective": {"sampler_correction": "truncated"}}, "sampler_correction is a setting"),
        ({"micro_tokens": 30}, r"micro_tokens=30 is smaller than a group.*Set micro_tokens=\d+"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(checkpoint, tmp_path, changes, says):
    with pytest.raises(RecipeError, match=says):
        pipeline.train(recipe(checkpoint, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_advice_about_micro_tokens_works(checkpoint, tmp_path):
    with pytest.raises(RecipeError) as refused:
        pipeline.train(recipe(checkpoint, micro_tokens=30), tmp_path / "out")
    advised = int(str(refused.value).partition("Set micro_tokens=")[2].partition(",")[0])
    assert pipeline.train(recipe(checkpoint, micro_tokens=advised), tmp_path / "out").summary["steps"] == 2


def test_whether_a_group_fits_is_known_before_any_image_goes_through_the_tower(checkpoint, tmp_path, monkeypatch):
    def computed(*_):
        raise AssertionError("an image went through the tower")

    monkeypatch.setattr(FeatureStore, "_compute", computed)
    with pytest.raises(RecipeError, match=r"micro_tokens=20 is smaller than a group.*Set micro_tokens=\d+"):
        pipeline.train(recipe(checkpoint, micro_tokens=20), tmp_path / "run")
