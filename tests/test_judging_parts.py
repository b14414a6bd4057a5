"""judge.json and judged.jsonl from one command to the next: what was said stays, and stays of the run that it was said of."""

import json
import os
import sys

import pytest

from osler.cli import app
from osler.errors import RunError
from osler.judging import assessment
from osler.judging.assessment import assess
from osler.judging.parts import OF_JUDGES, merged
from osler.judging.texts import texts_of
from osler.runs import Run, read_json
from test_endpoint import _environment, said, serving  # noqa: F401
from test_judging import asked, judging, lines, of_item, osler_judge, record, run, spec, verdict  # noqa: F401

SIMILAR = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 4}


def four(right=2):
    return [record(number, right=number < right) for number in range(4)]


@pytest.fixture(autouse=True)
def _by_models(monkeypatch):
    """The measures of texts by a model are made up here: SIMILAR, and the name of the model."""

    def texts_by(records, embedder=None, bertscore=None):
        class Found:
            def to_json(self):
                found = texts_of(records).to_json()
                if embedder:
                    found |= {"embedder": embedder, "answer_similarity": SIMILAR, "rationale_similarity": SIMILAR}
                if bertscore:
                    found |= {"bertscore_model": bertscore, "bertscore": dict.fromkeys(("precision", "recall", "f1"), SIMILAR)}
                return found | {"cut": {key: 1 for key in ("embedder", "bertscore_model") if found[key]}}

        return Found()

    monkeypatch.setattr(assessment, "texts_by", texts_by)
    monkeypatch.setattr(assessment, "check_text_models", lambda embedder, bertscore: None)


def of_judges(summary):
    return {key: summary[key] for key in (*OF_JUDGES, "trained_with")}


# --- parts


def test_who_answered_stays_where_nothing_is_asked_again(run):  # noqa: F811
    path = run(*four())

    def script(request, number):
        return verdict(model="lab/real") if of_item(request) else said("yes", model="lab/real")

    with serving(script) as server:
        first = assess(path, spec(server))["asked"][spec(server)]
        count = len(server.requests)
        again = assess(path, spec(server))["asked"][spec(server)]
        assert len(server.requests) == count
    assert again == first == read_json(path / "judge.json")["asked"][spec(server)]
    assert (first["answers_as"], first["json_schema"]) == ("lab/real", True)


def test_a_model_of_texts_leaves_what_the_judge_said(run):  # noqa: F811
    path = run(*four())
    with judging(lambda request, number: verdict(0)) as server:
        first = assess(path, spec(server), repeat=2)
        then = assess(path, None, embedder="near")
        assert of_judges(then) == of_judges(first)
        assert then["judges"][0]["judge"] == spec(server)
        assert (then["texts"]["embedder"], then["texts"]["answer_similarity"]) == ("near", SIMILAR)
        assert then == read_json(path / "judge.json")
        last = assess(path, spec(server), repeat=2)
    assert last["texts"] == then["texts"], "a later judge leaves the texts too"
    assert {key: last[key] for key in ("judges", "between", "retests")} == {
        key: first[key] for key in ("judges", "between", "retests")
    }


def test_what_is_asked_again_is_replaced(run):  # noqa: F811
    path = run(*four())
    with judging() as first, judging(lambda request, number: verdict(0)) as second:
        assess(path, spec(first), spec(second), embedder="near")
        found = assess(path, spec(second))
        assert [one["judge"] for one in found["judges"]] == [spec(second)]
        assert (found["between"], found["asked"].keys()) == (None, {spec(second)})
        assert found["texts"]["embedder"] == "near"
        before = len(asked(first)), len(asked(second))
        again = assess(path, spec(first), spec(second))
        assert (len(asked(first)), len(asked(second))) == before, "the lines of all judges stay, and nothing is asked again"
    assert again["between"]["answer"]["table"] == [[0, 0], [4, 0]]
    assert assess(path, None, embedder="nearer")["texts"]["embedder"] == "nearer"


def test_two_models_of_texts_stand_side_by_side(run):  # noqa: F811
    path = run(*four())
    assess(path, None, embedder="near")
    found = assess(path, None, bertscore="bert")["texts"]
    assert (found["embedder"], found["answer_similarity"], found["bertscore"]["f1"]) == ("near", SIMILAR, SIMILAR)
    assert found["cut"] == {"embedder": 1, "bertscore_model": 1}
    fewer = assess(path, None, embedder="near", rows=2)["texts"]
    assert (fewer["rows"], fewer["bertscore_model"]) == (2, None), "measures of other rows do not stand beside these"
    with judging() as server:
        kept = assess(path, spec(server), rows=3)
    assert (kept["texts"]["rows"], kept["judges"][0]["rows"]) == (2, 3)


def test_nothing_is_kept_of_records_that_are_others_now_and_that_is_said(run, capsys):  # noqa: F811
    path = run(*four())
    with judging() as server:
        assess(path, spec(server))
        (path / "records.jsonl").unlink()
        Run.open(path).append("records", *(one.to_json() for one in four(right=3)))
        found = assess(path, None, embedder="near")
        assert (found["judges"], found["unjudged"]) == ([], 0)
        assert f"what {spec(server)} said of the older ones is left out" in capsys.readouterr().err
        assert len(lines(path)) == 4
        assert assess(path, spec(server))["texts"]["embedder"] == "near"
        assert "left out" not in capsys.readouterr().err


def test_a_summary_of_an_older_version_is_kept_where_it_may_be(run):  # noqa: F811
    path = run(*four())
    with judging() as server:
        whole = assess(path, spec(server))
        old = {key: value for key, value in whole.items() if key not in ("records_sha256", "path", "texts")}
        (path / "judge.json").write_text(json.dumps(old))
        assert assess(path, None, embedder="near")["judges"] == whole["judges"]
    assert merged(old | {"rows_of_run": 5}, {**whole, "judges": []})["judges"] == []


def test_only_a_command_that_judged_says_what_is_unjudged(run, monkeypatch):  # noqa: F811
    path = run(*four())
    with judging(lambda request, number: said("hm")) as server:
        assert "4 judgements have no scores" in osler_judge(path, "--judge", spec(server)).stderr
    shown = osler_judge(path, "--embedder", "near")
    assert shown.exit_code == 0
    assert "have no scores" not in shown.stderr
    assert "4 unparseable" in shown.stdout


def test_a_judge_may_be_given_more_to_say(run):  # noqa: F811
    path = run(*four())
    with judging() as server:
        osler_judge(path, "--judge", spec(server), "--max-tokens", 4000)
        found = read_json(path / "judge.json")["asked"][spec(server)]
    assert {request["max_tokens"] for request in asked(server)} == {4000} == {found["max_tokens"]}


# --- whose it is


@pytest.fixture
def two(run):  # noqa: F811
    """Evaluations of one name."""
    return run(*four(right=4), name="a/eval"), run(*four(right=0), name="b/eval")


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "judged.lock"}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("texts", [True, False])
def test_two_runs_of_one_name_do_not_share_a_folder(two, tmp_path, whole, texts):
    out = tmp_path / "out"
    with judging() as server:
        assess(two[0], spec(server), out=out)
        if not whole:
            (out / "judge.json").unlink()  # as where the first command was cut off
        before, count = contents(out), len(asked(server))
        with pytest.raises(RunError, match=rf"out holds what was said of another evaluation, {two[0]}\. .* --out"):
            assess(two[1], None if texts else spec(server), embedder="near" if texts else None, out=out)
        assert (contents(out), len(asked(server))) == (before, count)
        assert assess(two[0], spec(server), out=out)["unjudged"] == 0, "the first goes on"
        assess(two[1], spec(server), out=tmp_path / "other")
    assert {line["path"] for line in lines(out)} == {str(two[0])}
    assert len(lines(out)) == len(lines(tmp_path / "other")) == 4


def test_texts_alone_make_a_folder_theirs(two, tmp_path):
    assess(two[0], None, out=tmp_path / "out")
    with judging() as server, pytest.raises(RunError, match="another evaluation"):
        assess(two[1], spec(server), out=tmp_path / "out")
    assert not asked(server)


def test_the_folder_of_another_run_is_not_written_to(two):
    before = contents(two[1])
    with pytest.raises(RunError, match="b/eval is another run"):
        assess(two[0], None, out=two[1])
    assert contents(two[1]) == before
    assert not (two[1] / "judged.lock").exists()


def test_a_run_is_its_own_wherever_it_is_called_from_or_moved_to(two, tmp_path, monkeypatch):
    with judging() as server:
        assess(two[0], spec(server))
        assert "path" not in lines(two[0])[0]
        moved = two[0].rename(tmp_path / "elsewhere")
        assert assess(moved, spec(server), out=moved)["unjudged"] == 0
        monkeypatch.chdir(two[1].parent)
        assess(type(moved)("eval"), spec(server), out=tmp_path / "out")
        monkeypatch.chdir(tmp_path)
        assess(type(moved)("b/eval"), spec(server), out=tmp_path / "out")
        os.symlink(tmp_path / "b", tmp_path / "link")
        assert assess(tmp_path / "link" / "eval", spec(server), out=tmp_path / "out")["unjudged"] == 0
    assert len(lines(tmp_path / "out")) == 4


def test_lines_of_an_older_version_are_known_by_name(two, tmp_path):
    out = tmp_path / "out"
    with judging() as server:
        assess(two[0], spec(server), out=out)
        rows = [{key: value for key, value in line.items() if key != "path"} for line in lines(out)]
        (out / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (out / "judge.json").unlink()
        before = len(asked(server))
        assess(two[0], spec(server), out=out)
        assert len(asked(server)) == before
        assert lines(out)[0]["path"] == str(two[0])
        (out / "judged.jsonl").write_text(json.dumps({**rows[0], "run": "other"}) + "\n")
        (out / "judge.json").unlink()
        with pytest.raises(RunError, match="another evaluation, other"):
            assess(two[0], spec(server), out=out)


def test_a_refusal_ends_with_2_and_one_message(two, tmp_path, monkeypatch, capsys):
    assess(two[0], None, out=tmp_path / "out")
    command = ["judge", str(two[1]), "--judge", "openai:http://127.0.0.1:9/v1#x", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["osler", *command])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        app.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("error: ")) == (2, "", 1)
    assert "holds what was said of another evaluation" in err
