"""A judge in a study: who judges, what the table says, the mark of rows that it trained; and images that are not unseen."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from osler.cli.app import app
from osler.datasets.load import load_data
from osler.errors import ModelError, RecipeError
from osler.study.files import load_study
from osler.study.grid import entries_of
from osler.study.job import run_study
from osler.study.judged import MARK, check_judging, flagged
from osler.study.overlaps import overlaps

RECIPE = """
model: tiny
strategy: think
answer_form: text
data:
  train: {name: phantoms, seed: 7, train: 6, val: 2}
  test: {name: phantoms, seed: 7, train: 0, val: 0, test: 3}
controls: {names: none}
rewards: [{name: accuracy}, {name: semantic_alignment}]
judge: {model: phantoms}
rollout: {G: 2, prompts_per_step: 2, max_tokens: 16}
method: grpo
max_steps: 1
"""
STUDY = """
name: judged
reference: plain
judge: phantoms
overlap: true
metrics: [accuracy, judged_answer, judged_reasoning, judge_unscored, token_f1, keyword_recall, train_rows, train_mb, eval_mb]
rows:
  - {name: plain, recipe: one.yaml, set: {judge: null, rewards: [{name: accuracy}]}}
  - {name: aligned, recipe: one.yaml}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))

    def study_file(study=STUDY):
        (tmp_path / "one.yaml").write_text(RECIPE)
        (tmp_path / "judged.yaml").write_text(study)
        return tmp_path / "judged.yaml"

    return study_file


def test_the_table_has_the_judge_and_marks_the_row_that_it_trained(write, tmp_path):
    shown = CliRunner().invoke(app, ["study", str(write()), "--out", str(tmp_path / "out"), "--json"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["flagged"] == ["aligned"]
    by_name = {row["name"]: row["metrics"] for row in found["rows"]}
    for metrics in by_name.values():
        assert metrics["judged_answer"]["n"] == metrics["accuracy"]["n"]
        assert metrics["judge_unscored"]["value"] == 0
        assert metrics["train_rows"]["value"] > 6
        assert min(metrics["train_mb"]["value"], metrics["eval_mb"]["value"]) > 10
    page = (tmp_path / "out" / "table.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and "aligned" in line]
    assert len(lines) >= 3
    assert all(line.startswith((f"| aligned {MARK} |", f"| plain, aligned {MARK} |")) for line in lines)
    assert f"{MARK} Trained on the scores of phantoms, which is the judge here as well" in page
    again = CliRunner().invoke(app, ["study", str(tmp_path / "judged.yaml"), "--out", str(tmp_path / "out")])
    assert f"aligned {MARK}" in again.stdout
    assert MARK not in "".join(line for line in again.stdout.splitlines() if line.startswith("│ plain "))
    summaries = [json.loads(file.read_text()) for file in (tmp_path / "out" / "train").glob("*/summary.json")]
    (judge,) = [one["judge"] for one in summaries if "judge" in one]
    assert judge.keys() >= {"asked", "cached", "unscored", "tokens_in", "seconds"}


def test_another_judge_marks_nothing(write):
    study, file = load_study(write(), ["judge=openai:http://127.0.0.1:9/v1#other"])
    assert flagged(study, entries_of(study, file)) == frozenset()
    study, file = load_study(write(), ["judge=null", "metrics=[accuracy]"])
    assert flagged(study, entries_of(study, file)) == frozenset()


def test_judge_and_tests_may_be_given_by_scale(write):
    given = STUDY.replace("judge: phantoms", "judge: {tiny: phantoms}\ntests: {paper: {a: phantoms, b: phantoms:3}}")
    tiny, _ = load_study(write(given))
    paper, _ = load_study(write(given), ["scale=paper"])
    assert (tiny.judge, dict(tiny.tests)) == ("phantoms", {})
    assert (paper.judge, list(paper.tests)) == (None, ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["metrics=[accuracy]"], "the study's judge does nothing"),
        (["judge=null", "embedder=x"], "the study's embedder does nothing"),
        (["judge=openia:http://x#y"], "Did you mean 'openai'?"),
    ],
)
def test_a_judge_of_no_use_is_told_before_anything_runs(write, changes, message):
    study, _ = load_study(write(), changes)
    with pytest.raises(RecipeError) as error:
        check_judging(study)
    assert message in str(error.value)


def test_a_judge_that_does_not_answer_is_told_before_anything_runs(write, tmp_path):
    changes = ["judge=openai:http://127.0.0.1:9/v1#other"]
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9"):
        run_study(write(), changes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_test_rows_that_show_an_image_of_training_are_counted():
    train = load_data({"name": "phantoms", "seed": 1, "train": 4, "val": 0, "test": 2})
    stage = SimpleNamespace(recipe=SimpleNamespace(data=SimpleNamespace(model_dump=lambda **_: {"train": "x"})))
    entries = [SimpleNamespace(name=name, stages=(stage,)) for name in ("SFT", "GRPO")] + [
        SimpleNamespace(name="base", stages=())
    ]
    tests = {"seen": train, "unseen": load_data({"name": "phantoms", "seed": 2, "train": 0, "val": 0, "test": 3})}
    found = overlaps(entries, lambda entry: [train.where(split="train")], lambda entry: tests)
    assert [(one.rows, one.test) for one in found] == [(("SFT", "GRPO"), "seen"), (("SFT", "GRPO"), "unseen")]
    share = len(train.where(split="train")) / len(train)
    assert found[0].shared.value == pytest.approx(share)
    assert found[1].shared.value == 0


@pytest.mark.parametrize("name", ["rarl-main", "rarl-prompts", "rarl-size", "zhu-semantic"])
def test_all_rows_of_a_study_start_from_one_form(name):
    study, file = load_study(name, ["seeds=[0]"])
    forms = {stage.digest for entry in entries_of(study, file) for stage in entry.stages if stage.name == "form"}
    assert len(forms) == 1


def test_a_row_that_starts_from_a_run_of_the_judge_is_marked_too(write, monkeypatch):
    given = STUDY + '  - {name: elsewhere, recipe: one.yaml, model: "run:somewhere"}\n'
    monkeypatch.setattr("osler.study.judged.judges_of", lambda spec: ["phantoms"] if spec == "run:somewhere" else [])
    study, _ = load_study(write(given))
    entries = [
        SimpleNamespace(name="elsewhere", stages=(), model="run:somewhere"),
        SimpleNamespace(name="b", stages=(), model="x"),
    ]
    assert flagged(study, entries) == {"elsewhere"}
