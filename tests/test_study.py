"""A study: what runs it takes, what they share, what is found again, and the numbers that it prints."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from osler.cli.app import app
from osler.errors import RecipeError, RunError
from osler.runs import Run
from osler.stats import Estimate
from osler.study.files import load_study
from osler.study.grid import check_tests, digest_of, entries_of, rates, with_rate
from osler.study.job import run_study
from osler.study.results import mean_over_seeds
from osler.study.running import Runner

RECIPE = """
model: tiny
strategy: nothink
answer_form: text
data:
  train: {name: phantoms, seed: 7, train: 6, val: 2}
  test: {name: phantoms, seed: 7, train: 0, val: 0, test: 4}
controls: {names: none}
rollout: {G: 2, prompts_per_step: 2, max_tokens: 8}
stages:
  form: {method: sft, lr: 3.0e-3, max_steps: 3, sft: {batch_size: 4, micro_batch: 4, eval_steps: 3}}
  grpo: {method: grpo, init: stage:form, lr: 1.0e-3, max_steps: 2}
"""
STUDY = """
name: small
seeds: [0, 1]
reference: GRPO
metrics: [accuracy, floor, format, tokens, train_s]
rows:
  - {name: zero-shot, recipe: chain.yaml, model: base}
  - {name: start, recipe: chain.yaml, model: start}
  - {name: GRPO, recipe: chain.yaml}
  - {name: Dr. GRPO, recipe: chain.yaml, set: {objective.std_norm: none, objective.length_norm: constant}}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a study beside its recipe; returns its path."""

    def study_file(study=STUDY, recipe=RECIPE):
        (tmp_path / "chain.yaml").write_text(recipe)
        (tmp_path / "small.yaml").write_text(study)
        return tmp_path / "small.yaml"

    return study_file


def entries(file, *overrides):
    return entries_of(*load_study(file, overrides))


# --- the grid


def test_rows_share_what_decides_the_same_weights(write):
    found = {(one.name, one.seed): one for one in entries(write())}
    forms = {seed: {one.stages[0].digest for one in found.values() if one.stages and one.seed == seed} for seed in (0, 1)}
    assert [len(one) for one in forms.values()] == [1, 1]
    assert forms[0] != forms[1]
    assert found["GRPO", 0].stages[-1].digest != found["Dr. GRPO", 0].stages[-1].digest
    assert [stage.name for stage in found["start", 0].stages] == ["form"]


def test_a_model_that_is_not_trained_has_one_seed(write):
    found = entries(write())
    assert [(one.name, one.seed) for one in found if one.name == "zero-shot"] == [("zero-shot", 0)]
    assert len(found) == 7
    assert found[0].model == "tiny"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"lr": 2e-3}, False),
        ({"seed": 5}, False),
        ({"eval_batch_size": 3}, True),
        ({"objective": {"std_norm": "none"}}, False),
        ({"sft": {"patience": 1}}, True),  # GRPO does not heed it
        ({"strategy": "think"}, False),
    ],
)
def test_a_digest_changes_with_what_decides_the_weights(write, change, same):
    recipe = entries(write())[-1].stages[-1].recipe
    changed = type(recipe).model_validate({**recipe.model_dump(), **change})
    needs = {"form": "a"}
    assert (digest_of(recipe, needs) == digest_of(changed, needs)) is same
    assert digest_of(recipe, needs) != digest_of(recipe, {"form": "b"})


def test_each_fills_settings_and_names(write):
    study = STUDY + "  - {name: one, recipe: chain.yaml, each: {seeds: [3, 4]}, set: {data.train.seed: '{seeds}'}}\n"
    found = [one for one in entries(write(study)) if one.group == "one" and one.seed == 0]
    assert [(one.name, one.values) for one in found] == [("one · 3", {"seeds": 3}), ("one · 4", {"seeds": 4})]
    assert [one.recipe.data.train["seed"] for one in found] == [3, 4]


def test_learning_rates_are_tried_around_the_recipes_own(write):
    entry = entries(write())[-1]
    assert rates(entry.recipe, 3) == pytest.approx([1e-3 / 3, 1e-3, 3e-3])
    assert rates(entry.recipe, 2) == pytest.approx([1e-3, 3e-3])
    tried = with_rate(entry, 3e-3)
    assert tried.stages[-1].recipe.lr == 3e-3
    assert tried.stages[-1].digest != entry.stages[-1].digest
    assert tried.stages[0] == entry.stages[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("reference: GRPO", "reference: GRP", "Did you mean 'GRPO'"),
        ("name: start,", "name: GRPO,", "two rows have the same name"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "different whole numbers"),
        ("metrics: [accuracy,", "metrics: [accurcy,", "Did you mean 'accuracy'"),
        ("model: start}", "stage: frm}", "no stage 'frm'"),
        ("model: start}", "ask: {stratgy: think}}", "Did you mean 'ask.strategy'"),
        ("model: start}", "ask: {strategy: thnk}}", "Did you mean 'think'"),
        ("recipe: chain.yaml, model: base", "recipe: chian.yaml, model: base", "no recipe at chian.yaml"),
        ("{objective.std_norm: none,", "{objective.std_nrm: none,", "std_nrm"),
        ("rows:", "row:", "is no study"),
        (
            "{objective.std_norm: none,",
            "{data.test: {name: phantoms, seed: 8, test: 4}, objective.std_norm: none,",
            "different rows",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_model_is_loaded(write, old, new, said, monkeypatch):
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("a run was begun"))
    assert old in STUDY
    with pytest.raises(RecipeError, match=said):
        run_study(write(STUDY.replace(old, new)))


def test_equal_rows_under_other_specs_can_be_compared(write):
    study = STUDY.replace("set: {", "set: {data.test: {seed: 7, name: phantoms, train: 0, val: 1, test: 4}, ")
    loaded, file = load_study(write(study))
    check_tests(loaded, entries_of(loaded, file))


def test_a_study_is_no_recipe(write):
    from osler.recipe_files import load_recipe

    with pytest.raises(RecipeError, match="run it by osler study"):
        load_recipe(write())


# --- the runs


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The small study, run in two goes."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "chain.yaml").write_text(RECIPE)
    (folder / "small.yaml").write_text(STUDY)
    first = run_study(folder / "small.yaml", out=folder / "out", max_runs=2)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*/*/summary.json")}
    second = run_study(folder / "small.yaml", out=folder / "out")
    return SimpleNamespace(folder=folder, first=first, second=second, kept=kept)


def test_what_is_done_is_kept_and_the_rest_is_made(ran):
    assert [(one.name, one.seed) for one in ran.first.results] == [("zero-shot", 0), ("start", 0)]
    assert len(ran.second.results) == 7
    assert all(path.stat().st_mtime_ns == then for path, then in ran.kept.items())
    assert len(list((ran.folder / "out" / "train").iterdir())) == 6  # form, GRPO and Dr. GRPO of two seeds
    assert Run.open(ran.folder / "out").manifest["state"] == "done"


def test_the_json_has_every_run_with_its_metrics_and_tests(ran):
    found = json.loads(json.dumps(ran.second.to_json()))
    assert found["study"] == "small"
    assert [(row["name"], row["seed"]) for row in found["rows"]].count(("GRPO", 1)) == 1
    assert all({"value", "ci_low", "ci_high", "n"} <= row["metrics"]["accuracy"].keys() for row in found["rows"])
    tests = [one for one in found["tests"] if one["metric"] == "accuracy"]
    assert {(one["a"], one["b"]) for one in tests} == {(name, "GRPO") for name in ("zero-shot", "start", "Dr. GRPO")}
    assert all(one["seeds"] == (1 if one["a"] == "zero-shot" else 2) for one in tests)
    waiting = ran.first.to_json()["rows"][2:]
    assert len(waiting) == 5
    assert not any("metrics" in row for row in waiting)


def test_a_difference_is_that_of_the_rows_metrics(ran):
    mean = {name: np.mean([one.metrics["accuracy"].value for one in ran.second.results if one.name == name])
            for name in ("start", "GRPO")}  # fmt: skip
    (test,) = [one for one in ran.second.tests if (one.a, one.metric) == ("start", "accuracy")]
    assert test.delta == pytest.approx(mean["start"] - mean["GRPO"])
    assert test.ci_low <= test.delta <= test.ci_high


def test_a_stage_that_was_cut_off_is_put_aside_or_gone_on_with(ran, tmp_path):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(ran.folder / "out", out)
    (form,) = (path for path in (out / "train").iterdir() if path.name.startswith("form-1"))
    Run.open(form).save(state="interrupted")
    for path in (out / "eval").glob("start-1-*"):
        shutil.rmtree(path)
    again = run_study(ran.folder / "small.yaml", out=out)
    assert (form.parent / f"{form.name}.cut-off-1").is_dir()
    assert len(again.results) == 7


def test_another_study_does_not_mix_in(ran):
    (ran.folder / "other.yaml").write_text(STUDY.replace("name: small", "name: other"))
    with pytest.raises(RunError, match="is no run of the study 'other'"):
        run_study(ran.folder / "other.yaml", out=ran.folder / "out")


def test_the_page_has_table_tests_and_command(ran):
    page = (ran.folder / "out" / "table.md").read_text()
    for said in ("| Dr. GRPO | 2 |", "points over GRPO", "7 of 7 runs are done", "- Command:", "Every metric against GRPO"):
        assert said in page
    lines = (ran.folder / "out" / "table.csv").read_text().splitlines()
    assert lines[0] == "name,recipe,seed,test,metric,value,ci_low,ci_high,n"
    assert sum(",accuracy," in line for line in lines) == 7


def test_a_row_that_fails_is_named_and_the_others_go_on(write, monkeypatch, tmp_path):
    from osler.study import running

    def broken(recipe, path, splits, resume):
        if recipe.seed == 1:
            raise RunError("the gradient's norm is nan")
        return train(recipe, path, splits, resume=resume)

    train = running.train
    monkeypatch.setattr(running, "train", broken)
    file = write(
        STUDY.replace("  - {name: Dr. GRPO", "  - {name: Dr. GRPO").split("  - {name: GRPO")[0].replace("reference: GRPO\n", "")
    )
    found = CliRunner().invoke(app, ["study", str(file), "--out", str(tmp_path / "failing"), "--json"])
    assert found.exit_code == 1
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["failed"] == [{"name": "start", "seed": 1, "error": "the gradient's norm is nan"}]
    assert sum("metrics" in row for row in told["rows"]) == 2


def test_the_shipped_studies_resolve():
    from osler.recipe_files import find_recipe

    for file in sorted((find_recipe("studies/zhu-bias").parent).glob("*.yaml")):
        study, path = load_study(file)
        assert study.name == file.stem
        found = entries_of(study, path)
        check_tests(study, found)
        assert len(found) > len(study.rows)


# --- numbers


def test_the_mean_over_seeds_has_students_interval():
    from scipy import stats

    values = [0.5, 0.6, 0.75, 0.4]
    found = mean_over_seeds([Estimate(value, 0.0, 1.0, 50) for value in values])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 50
    alone = Estimate(0.5, 0.4, 0.6, 9)
    assert mean_over_seeds([alone]) == alone
