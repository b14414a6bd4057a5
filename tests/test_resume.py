"""A run that is killed goes on, bit for bit on a CPU; what cannot go on says why."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from osler import pipeline
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RecipeError, RunError
from osler.grading import grader
from osler.model.load import load_policy
from osler.rl.engine import Engine
from osler.runs import Run
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

TIMES = {"rollout_s", "reward_s", "reference_s", "update_s", "step_time"}


def letters_until_killed(completions, **columns):
    """A reward with spread; it kills its own process once, at the step that KILL_AT names."""
    if columns["trainer_state"].global_step + 1 == int(os.environ.get("KILL_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return [sum(character.isalpha() for character in one[0]["content"]) / 100 for one in completions]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def settings(checkpoint, **changes):
    return {
        "model": checkpoint,
        "answer_form": "text",
        "data": {"train": {"name": "phantoms", "seed": 0, "train": 8, "val": 0, "test": 0}},
        "rewards": [{"name": f"{__name__}:letters_until_killed"}],
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 6},
        "objective": {"beta": 0.04},
        "lora": {"r": 2},
        "lr": 1e-3,
        "max_steps": 6,
        "save_steps": 2,
    } | changes


def train(recipe, out, *options, kill_at=0):
    """`osler train` in a process of its own, as a user runs it."""
    file = out.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "osler", "train", str(file), "--out", str(out), "--json", *options]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"KILL_AT": str(kill_at), "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def told(run, file):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in run.rows(file)]


def test_a_killed_run_goes_on_bit_for_bit(checkpoint, tmp_path):
    """Killed in the rollouts of step 6, it goes on from the checkpoint of step 4; step 5 is made again."""
    recipe = settings(checkpoint)
    assert train(recipe, tmp_path / "whole").returncode == 0
    assert train(recipe, tmp_path / "cut", kill_at=6).returncode == -signal.SIGKILL
    cut = Run.open(tmp_path / "cut")
    assert cut.manifest["state"] == "running"
    assert len(cut.rows("metrics")) == 5
    resumed = train(recipe, tmp_path / "cut", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 6
    whole, cut = Run.open(tmp_path / "whole"), Run.open(tmp_path / "cut")
    assert told(cut, "metrics") == told(whole, "metrics")
    assert told(cut, "rollouts") == told(whole, "rollouts")
    for name in ("adapter", "checkpoints/6"):
        weights = [(run.path / name / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
        assert weights[0] == weights[1]
    assert cut.manifest["state"] == "done"


def engine(recipe):
    vlm = load_policy(recipe.model, dtype="float32")
    return Engine(recipe, vlm, list(samples(0, {"train": 8})), STRATEGIES["think"], grader("text"))


def test_a_state_between_updates_that_share_rollouts_holds_them(checkpoint):
    """After update 2 of 3 on the same rollouts; the state goes through JSON, as it does on disk."""
    recipe = Recipe.model_validate(settings(checkpoint, objective={"beta": 0.04, "num_iterations": 3}))
    whole, part = engine(recipe), engine(recipe)
    for _ in range(2):
        whole.step()
        part.step()
    tensors, rest = part.state_dict()
    fresh = engine(recipe)
    fresh.load_state_dict(({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(rest))))
    assert fresh.batch.used == 2
    for step in (3, 4):
        wanted, got = (
            [{k: v for k, v in metrics.items() if k not in TIMES}, rows] for metrics, rows in (whole.step(), fresh.step())
        )
        assert got == wanted
        assert bool(got[1]) == (step == 4)  # rolled out anew only once the three updates were made
    for ours, theirs in zip(fresh.learner.masters.weights, whole.learner.masters.weights, strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_cut_off_before_its_first_checkpoint_begins_again(checkpoint, tmp_path):
    recipe = Recipe.model_validate(settings(checkpoint, max_steps=2))
    run = pipeline.train(recipe, tmp_path / "run")
    wanted = told(run, "metrics")
    shutil.rmtree(run.path / "checkpoints")
    run.save(state="interrupted")
    assert told(pipeline.train(recipe, run.path, resume=True), "metrics") == wanted


def test_only_the_two_newest_checkpoints_keep_their_states(checkpoint, tmp_path):
    run = pipeline.train(Recipe.model_validate(settings(checkpoint)), tmp_path / "run")
    states = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("state.*"))
    assert states == [f"checkpoints/{step}/state.{kind}" for step in (4, 6) for kind in ("json", "safetensors")]
    assert sorted(folder.name for folder in (run.path / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_a_run_that_is_done_is_left_alone(checkpoint, tmp_path):
    recipe = Recipe.model_validate(settings(checkpoint, max_steps=2))
    run = pipeline.train(recipe, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert pipeline.train(recipe, run.path, resume=True).summary["steps"] == 2
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_another_recipe_or_other_rows_cannot_go_on(checkpoint, tmp_path):
    recipe = Recipe.model_validate(settings(checkpoint, max_steps=2))
    run = pipeline.train(recipe, tmp_path / "run")
    with pytest.raises(RunError, match=r"its lr was 0.001, now it is 0.002"):
        pipeline.train(recipe.model_copy(update={"lr": 2e-3}), run.path, resume=True)
    run.save(trained_on={**run.manifest["trained_on"], "row_hash": "other"})
    with pytest.raises(RunError, match="its training rows were others"):
        pipeline.train(recipe, run.path, resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_state_says_which_folder_to_remove_and_that_works(checkpoint, tmp_path, damage):
    recipe = Recipe.model_validate(settings(checkpoint))
    run = pipeline.train(recipe, tmp_path / "run")
    wanted = told(run, "metrics")
    folder = run.path / "checkpoints" / "6"
    state = folder / ("state.safetensors" if damage == "cut" else "state.json")
    state.write_bytes(state.read_bytes()[:-100] if damage == "cut" else b"{}")
    run.save(state="failed")
    with pytest.raises(RunError, match=r"checkpoints/6: its state is damaged.*Remove this folder to go on from 4\."):
        pipeline.train(recipe, run.path, resume=True)
    shutil.rmtree(folder)
    assert told(pipeline.train(recipe, run.path, resume=True), "metrics") == wanted


def test_a_state_without_its_weights_is_refused(checkpoint, tmp_path):
    recipe = Recipe.model_validate(settings(checkpoint, max_steps=2))
    run = pipeline.train(recipe, tmp_path / "run")
    file = run.path / "checkpoints" / "2" / "state.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if not name.startswith("weight.")}, file)
    run.save(state="failed")
    with pytest.raises(RunError, match=r"holds 0 trained weights, and the model has \d+"):
        pipeline.train(recipe, run.path, resume=True)


def test_what_cannot_be_resumed_says_so(checkpoint, tmp_path):
    for changes in ({"method": "sft"}, {"engine": "trl"}):
        with pytest.raises(RecipeError, match="only method=grpo on engine=packed can be resumed"):
            pipeline.train(Recipe.model_validate(settings(checkpoint, **changes)), tmp_path / "run", resume=True)


def test_the_state_holds_fp32_weights_and_moments(checkpoint, tmp_path):
    run = pipeline.train(Recipe.model_validate(settings(checkpoint, max_steps=2, dtype="bfloat16")), tmp_path / "run")
    state = load_file(run.path / "checkpoints" / "2" / "state.safetensors")
    kinds = {name.rpartition(".")[2] for name in state if name.startswith("optimizer")}
    assert kinds == {"step", "exp_avg", "exp_avg_sq"}
    assert {str(state[name].dtype) for name in state if not name.startswith("random")} == {"torch.float32"}
