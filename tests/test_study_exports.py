"""What a study measures of exports: only where it is asked, once, of the weights that were evaluated."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from osler.exporting.answering import Answered
from osler.runs import Run, read_json
from osler.stats import Estimate
from osler.study import exports
from osler.study.exports import FILE, ROWS, _some, export_of
from osler.study.files import load_study
from osler.study.job import run_study
from osler.study.results import MeanResult
from osler.study.tables import columns_of, how_to_read, table
from osler.summary import read_records

RECIPE = """
model: tiny
method: grpo
strategy: nothink
answer_form: text
data:
  train: {name: phantoms, seed: 7, train: 4, val: 2}
  test: {name: phantoms, seed: 7, train: 0, val: 0, test: 3}
controls: {names: none}
rollout: {G: 2, prompts_per_step: 2, max_tokens: 8}
max_steps: 1
"""
STUDY = """
name: sized
metrics: [accuracy, export_s, export_mb, export_disk_mb]
rows:
  - {name: base, recipe: one.yaml, model: base}
  - {name: GRPO, recipe: one.yaml}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "one.yaml").write_text(RECIPE)
    (tmp_path / "sized.yaml").write_text(STUDY)
    return tmp_path / "sized.yaml"


@pytest.fixture
def asked(monkeypatch):
    """Jobs that exports were asked; what answers is faked (tests of osler.exporting have the real one)."""
    jobs = []

    def answer(job):
        assert read_json(exports.Path(job.model) / "config.json")["model_type"] == "qwen2_vl"
        jobs.append(job)
        texts = tuple(f"answer {k}" for k, _ in enumerate(job.prompts))
        return Answered(texts, tuple(0.5 + 0.25 * (k % 2) for k, _ in enumerate(texts)), (4,) * len(texts), 321.0, "cpu")

    monkeypatch.setattr(exports, "answered", answer)
    return jobs


def test_exports_are_measured_once_and_are_gone_afterwards(file, asked, tmp_path):
    first = run_study(file, out=tmp_path / "out")
    by_name = {one.name: one for one in first.results}
    assert not {"export_s", "export_mb", "export_disk_mb"} & by_name["base"].metrics.keys()  # nothing was trained
    found = by_name["GRPO"].metrics
    count = len(read_records(Run.open(by_name["GRPO"].run)))
    assert found["export_s"].n == count == len(asked[0].prompts)
    assert found["export_s"].ci_low <= found["export_s"].value <= found["export_s"].ci_high
    assert 0.5 <= found["export_s"].value <= 0.75
    assert found["export_mb"].value == 321.0
    assert 5 < found["export_disk_mb"].value < 7
    assert read_json(exports.Path(by_name["GRPO"].run) / FILE)["same"] == 0  # the fake says something else
    assert not [path for path in (tmp_path / "out").rglob("*") if "export-" in path.name]
    second = run_study(file, out=tmp_path / "out")
    assert len(asked) == 1
    assert [one.metrics for one in second.results] == [one.metrics for one in first.results]


def test_what_is_of_other_weights_is_measured_again(file, asked, tmp_path):
    result = run_study(file, out=tmp_path / "out")
    run = Run.open(next(one.run for one in result.results if one.name == "GRPO"))
    kept = read_json(run.path / FILE)
    (run.path / FILE).write_text(json.dumps(kept | {"weights": "others"}))
    assert export_of(run) is None
    run_study(file, out=tmp_path / "out")
    assert len(asked) == 2
    assert export_of(run) == kept


def test_a_study_that_does_not_ask_exports_nothing(file, asked, tmp_path):
    result = run_study(file, ["metrics=[accuracy]"], out=tmp_path / "out")
    assert len(result.results) == 2
    assert not asked
    assert "An export is" not in " ".join(how_to_read(result.study, []))


def test_the_table_tells_of_how_many_rows(file):
    study, _ = load_study(file)
    metrics = {"export_s": Estimate(0.1234, 0.1, 0.2, 32), "export_mb": Estimate(512.4, None, None, 1)}
    (line,) = table(study, [MeanResult("GRPO", "test", 1, metrics, 0, 0, 100)], [], "test")
    cells = dict(zip(columns_of(study), line, strict=True))
    assert cells["seconds a row, export"] == "0.123 [0.100, 0.200], n 32"
    assert cells["memory of answering, export, MB"] == "512"
    assert cells["size of the export, MB"] == "-"
    assert any(f"at most {ROWS} rows" in words for words in how_to_read(study, []))


def test_rows_are_taken_evenly(file, asked, tmp_path):
    result = run_study(file, out=tmp_path / "out")
    (record, *_) = read_records(Run.open(result.results[0].run))
    many = [replace(record, tokens=number) for number in range(100)]
    chosen = [one.tokens for one in _some(many)]
    assert len(chosen) == ROWS
    assert chosen[0] == 0
    assert {b - a for a, b in pairwise(chosen)} == {3, 4}
    assert _some(many[:5]) == many[:5]
