"""Records exported, read back with inspect_ai, and counted again by hand."""

import builtins
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from osler import pipeline
from osler.cli import app
from osler.errors import RunError
from osler.inspect_logs import export_log
from osler.runs import Run
from osler.schema import Outcome, Parsed, Record, Sample, Verdict
from osler.summary import Passes, cell, read_records, summarise
from osler.trial import Trial

inspect_log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install osler[inspect]")

RIGHT, WRONG, UNJUDGED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNJUDGED
FOLDER = "/data/hospital/cancer-patients"


def record(number, strict=RIGHT, lenient=None, *, answer="A", truncated=False, tokens=7, **sample):
    known = {"id": f"row/{number}", "images": (f"{FOLDER}/{number}.png",), "group": f"Jane Doe {number}", "source": "hospital"}
    return Record(
        sample=Sample(
            question="What?",
            golds=("cyst",),
            options=("cyst", "air"),
            gold_index=0,
            modality="CT",
            extra={"path": f"{FOLDER}/{number}.png"},
            origin=f"{FOLDER}/rows.jsonl, row {number}",
            **known | sample,
        ),
        prompt=f"What? A) cyst B) air ({number})",
        completion=f"<answer>{answer} ü</answer>",
        parsed=Parsed(answer=answer, lenient="A", thought=None, well_formed=answer is not None),
        verdict=Verdict(outcome=strict, lenient=lenient or strict, compared=answer, gold="A"),
        strategy="nothink",
        tokens=tokens,
        truncated=truncated,
        seconds=0.1,
    )


@pytest.fixture
def exported(tmp_path):
    """Write an evaluation of these records, export it, and read it back."""

    def write(records, name="run"):
        facts = {
            "model": {"label": "grpo", "spec": f"run:{FOLDER}/runs/grpo", "sha256": "abc"},
            "data": {"spec": f"jsonl:{FOLDER}/rows.jsonl?images={FOLDER}", "split": "test", "n": len(records), "row_hash": "r"},
            "trial": {"strategy": "nothink", "answer_form": "letter", "max_tokens": 16},
            "trained_on": {"modality": ["CT"], "question_type": ["?"], "source": ["hospital"], "n": 5, "row_hash": "t"},
        }
        run = Run.create(tmp_path / name, "eval", **facts)
        with run.recording():
            run.append("records", *[one.to_json() for one in records])
            run.finish(summarise(Passes.read(run)))
        file = export_log(Run.open(run.path), tmp_path / f"{name}.json")
        return inspect_log.read_eval_log(str(file)), file

    return write


def scores(log):
    return [sample.scores["osler"].value if sample.scores else None for sample in log.samples]


def clustered_error(log):
    """Cameron and Miller's (2015) cluster-robust error of a mean, G/(G-1), by its textbook double sum over pairs of rows."""
    judged = [sample for sample in log.samples if sample.scores]
    values = np.array([float(sample.scores["osler"].value == "C") for sample in judged])
    groups = np.array([sample.metadata["cluster"] for sample in judged])
    same = groups[:, None] == groups[None, :]
    off = values - values.mean()
    count = len(set(groups))
    return np.sqrt((np.outer(off, off) * same).sum() * count / (count - 1)) / len(values)


# --- the numbers


@pytest.mark.parametrize("seed", range(4))
def test_the_log_holds_every_record_and_its_numbers_can_be_counted_again(exported, seed):
    rng = np.random.default_rng(seed)
    outcomes = rng.choice([RIGHT, WRONG, UNJUDGED], 60, p=[0.5, 0.4, 0.1])
    groups = rng.integers(0, 12, 60)
    records = [
        record(i, Outcome(outcome), group=f"p{group}") for i, (outcome, group) in enumerate(zip(outcomes, groups, strict=True))
    ]
    log, _ = exported(records)
    assert (log.status, len(log.samples)) == ("success", 60)
    by_id = {sample.id: sample for sample in log.samples}
    for one in records:
        value = {RIGHT: "C", WRONG: "I"}.get(one.verdict.outcome)
        sample = by_id[one.sample.id]
        assert (sample.scores["osler"].value if sample.scores else None) == value
        assert (sample.input, sample.output.completion) == (one.prompt, one.completion)
    judged = [value for value in scores(log) if value]
    (result,) = log.results.scores
    assert result.metrics["accuracy"].value == pytest.approx(judged.count("C") / len(judged))
    assert result.metrics["accuracy"].value == pytest.approx(cell(Passes(records)).accuracy.value)
    assert result.metrics["stderr"].value == pytest.approx(clustered_error(log))
    assert (result.scored_samples, log.results.total_samples) == (len(judged), 60)
    assert result.metadata["accuracy"] == cell(Passes(records)).accuracy.to_json()


def test_inspect_ai_computes_the_same_numbers_when_it_is_asked_to(exported):
    log, _ = exported([record(i, RIGHT if i % 3 else WRONG, group=f"p{i // 2}") for i in range(20)])
    before = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    inspect_log.recompute_metrics(log)
    assert {name: metric.value for name, metric in log.results.scores[0].metrics.items()} == before
    assert set(before) == {"accuracy", "stderr"}


def test_rows_of_one_patient_do_not_count_as_many(exported):
    alike = [record(i, RIGHT if i < 20 else WRONG, group=f"p{i // 20}") for i in range(40)]
    apart = [record(i, RIGHT if i < 20 else WRONG) for i in range(40)]
    errors = [
        exported(records, name)[0].results.scores[0].metrics["stderr"].value for name, records in (("a", alike), ("b", apart))
    ]
    assert errors[0] > 3 * errors[1]


def test_what_nobody_judged_has_no_score_and_no_accuracy(exported):
    log, _ = exported([record(i, UNJUDGED, RIGHT) for i in range(3)])
    assert scores(log) == [None] * 3
    assert [sample.metadata["strict"] for sample in log.samples] == ["unjudged"] * 3
    assert [sample.metadata["lenient"] for sample in log.samples] == ["correct"] * 3
    assert not any(score.metrics for score in log.results.scores), "an accuracy of no rows is empty, never 0"
    assert log.results.metadata["unjudged"] == 3


def test_an_unparseable_answer_is_wrong_and_never_unjudged(exported):
    log, _ = exported([record(0, UNJUDGED, RIGHT, answer=None), record(1)])
    assert scores(log) == ["I", "C"]
    assert log.samples[0].scores["osler"].metadata == {"strict": "incorrect", "lenient": "correct"}
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    assert (log.results.metadata["unparseable"], log.results.metadata["lenient"]["value"]) == (1, 1)


# --- what it says


def test_a_sample_says_what_it_is(exported):
    log, _ = exported([record(0, truncated=True), record(1, tokens=None)])
    first, second = log.samples
    assert (first.id, first.target, first.choices, first.output.stop_reason) == ("row/0", "A", ["cyst", "air"], "max_tokens")
    assert (first.scores["osler"].answer, second.output.stop_reason) == ("A", "stop")
    assert [message.text for message in first.messages] == [first.input, first.output.completion]
    assert (first.metadata["modality"], first.metadata["tokens"], second.metadata["tokens"]) == ("CT", 7, None)


def test_an_open_question_has_all_its_golds_for_a_target_and_no_choices(exported):
    open_ended = replace(record(0).sample, kind="open", options=(), gold_index=None, golds=("cyst", "a cyst"))
    log, _ = exported([replace(record(0), sample=open_ended)])
    assert (log.samples[0].target, log.samples[0].choices) == (["cyst", "a cyst"], None)


def test_the_head_says_what_was_evaluated(exported):
    log, _ = exported([record(0)])
    head = log.eval
    assert (head.model, head.dataset.name, head.dataset.samples, head.task) == ("grpo", "jsonl", 1, "osler/jsonl")
    assert head.task_args == {"strategy": "nothink", "answer_form": "letter", "max_tokens": 16}
    assert (head.metadata["row_hash"], head.metadata["model_sha256"]) == ("r", "abc")
    assert head.metadata["trained_on"]["modality"] == ["CT"]
    assert log.stats.started_at
    assert log.stats.completed_at


def test_no_path_and_no_patient_leaves(exported):
    records = [
        record(0),
        record(1, id=f"{FOLDER}/1.png"),
        record(2, id="2.png#a"),
        record(3, images=(f"blank:{FOLDER}/3.png",)),
    ]
    log, file = exported(records)
    text = file.read_text(encoding="utf-8")
    assert not any(secret in text for secret in (FOLDER, "cancer", "Jane Doe", ".png", "rows.jsonl", str(file.parent)))
    assert sorted(sample.id for sample in log.samples) == ["row 2", "row 3", "row/0", "row/3"]
    assert sorted(sample.metadata["cluster"] for sample in log.samples) == [1, 2, 3, 4]


def test_the_same_run_gives_the_same_file(exported, tmp_path):
    _, file = exported([record(0), record(1, WRONG)])
    again = export_log(Run.open(tmp_path / "run"), tmp_path / "new" / "again.json")
    assert again.read_bytes() == file.read_bytes()


def test_an_evaluation_that_osler_made(tmp_path):
    spec = {"name": "phantoms", "seed": 0, "train": 0, "val": 0, "test": 3}
    run = pipeline.evaluate("tiny", spec, Trial("nothink", max_tokens=4), out=tmp_path / "run")
    log = inspect_log.read_eval_log(str(export_log(run, tmp_path / "log.json")))
    records = {one.sample.id: one for one in read_records(run)}
    assert {sample.id for sample in log.samples} == set(records)
    assert all(sample.output.completion == records[sample.id].completion for sample in log.samples)
    assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(run.summary["accuracy"]["value"])
    assert (log.eval.model, log.eval.dataset.name) == ("tiny", "phantoms")


# --- what cannot be exported


def test_only_finished_evaluations_are_exported_and_only_to_json(tmp_path):
    unfinished = Run.create(tmp_path / "a", "eval", model={"label": "x"})
    with pytest.raises(RunError, match=r"no summary\.json"):
        export_log(unfinished, tmp_path / "a.json")
    with pytest.raises(RunError, match="of kind 'train'"):
        export_log(Run.create(tmp_path / "b", "train"), tmp_path / "b.json")
    with pytest.raises(RunError, match=r"ends in \.json"):
        export_log(unfinished, tmp_path / "a.eval")
    assert not (tmp_path / "a.json").exists()


def test_a_place_that_cannot_be_written_is_named(exported, tmp_path):
    exported([record(0)])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"log\.json cannot be written"):
        export_log(Run.open(tmp_path / "run"), tmp_path / "file" / "log.json")


def test_without_inspect_ai_it_says_how_to_install_it(exported, tmp_path, monkeypatch):
    exported([record(0)])
    true_import = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("inspect_ai"):
            raise ModuleNotFoundError("no", name="inspect_ai")
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RunError, match=r"inspect_ai.*pip install osler\[inspect\]"):
        export_log(Run.open(tmp_path / "run"), tmp_path / "log.json")
    assert json.loads((tmp_path / "run.json").read_text())["version"] == 2


def test_the_command_writes_the_log_and_one_json_object(exported, tmp_path, monkeypatch, capsys):
    exported([record(0)])
    out = tmp_path / "by-command.json"
    monkeypatch.setattr(sys, "argv", ["osler", "inspect-log", str(tmp_path / "run"), "-o", str(out), "--json"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"log": str(out)}
    assert len(inspect_log.read_eval_log(str(out)).samples) == 1
