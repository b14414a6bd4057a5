"""A run folder: who may make one, how it ends, and what a crash leaves readable."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.errors import RunError
from osler.runs import Run, default_path, require_free, write_json


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "deep" / "run", "eval", model={"label": "é"})


def test_a_run_is_read_back_as_it_was_made(run):
    read = Run.open(run.path)
    assert read.manifest == run.manifest
    assert {"kind": "eval", "state": "running", "model": {"label": "é"}}.items() <= read.manifest.items()
    assert {"started", "versions", "machine", "command", "git"} <= read.manifest.keys()
    assert (read.name, read.rows("records")) == ("run", [])


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_a_taken_place_is_refused_and_left_alone(tmp_path, taken):
    path = tmp_path / "run"
    if taken == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for make in (require_free, lambda path: Run.create(path, "train")):
        with pytest.raises(RunError, match="--out"):
            make(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_used(tmp_path):
    assert Run.create(tmp_path, "train").path == tmp_path


@pytest.mark.parametrize(
    ("error", "state"), [(None, "done"), (ValueError, "failed"), (RunError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_the_state_tells_how_the_work_ended_and_the_error_goes_on(run, error, state):
    def work():
        with run.recording() as recorded:
            assert Run.open(recorded.path).manifest["state"] == "running"
            if error:
                raise error("stop")

    if error:
        with pytest.raises(error, match="stop"):
            work()
    else:
        work()
    manifest = Run.open(run.path).manifest
    assert manifest["state"] == state
    assert manifest["finished"] >= manifest["started"]


ROW = st.dictionaries(st.text(max_size=3), st.text(max_size=6) | st.integers() | st.none(), max_size=3)


@given(rows=st.lists(ROW, max_size=4), more=st.lists(ROW, max_size=3))
def test_rows_come_back_whatever_their_texts_hold(tmp_path_factory, rows, more):
    run = Run(tmp_path_factory.mktemp("run"), {})
    run.append("rollouts", *rows)
    run.append("rollouts", *more)
    assert run.rows("rollouts") == rows + more
    run.trim("rollouts")
    assert run.rows("rollouts") == rows + more


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r", "\r\n"])
def test_a_text_that_breaks_lines_elsewhere_stays_one_row(run, separator):
    row = {"completion": f"a{separator}b"}
    run.append("records", row, row)
    assert run.rows("records") == [row, row]


@given(data=st.data())
def test_a_cut_anywhere_in_the_last_line_costs_that_line_only(tmp_path_factory, data):
    run = Run(tmp_path_factory.mktemp("run"), {})
    whole = [{"step": 1, "text": "é"}, {"step": 2, "text": "漢 \u2028"}]
    run.append("records", *whole, {"step": 3, "text": "größe 漢"})
    file = run.path / "records.jsonl"
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    file.write_bytes(content[: data.draw(st.integers(last, len(content) - 2))])
    assert run.rows("records") == whole
    run.trim("records")
    run.append("records", {"step": 4})
    assert run.rows("records") == [*whole, {"step": 4}]
    assert [path.name for path in run.path.iterdir()] == ["records.jsonl"]


def test_a_last_row_without_its_line_end_is_kept(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    run.trim("metrics")
    run.append("metrics", {"step": 3})
    assert [row["step"] for row in run.rows("metrics")] == [1, 2, 3]


@pytest.mark.parametrize("line", [b'{"step": ', b"", b'{"step": "\xff"}'])
def test_a_damaged_line_before_the_last_is_named_and_nothing_is_rewritten(run, line):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    before = file.read_bytes()
    for read in (run.rows, run.trim):
        with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged"):
            read("metrics")
    assert file.read_bytes() == before


def test_trimming_what_was_never_written_writes_nothing(run):
    run.trim("records")
    assert not (run.path / "records.jsonl").exists()


@pytest.mark.parametrize("content", [b"", b'{"kind": ', b"[]", b'"train"', b'{"kind": "\xff"}'])
def test_a_damaged_manifest_or_summary_is_named(run, content):
    (run.path / "summary.json").write_bytes(content)
    with pytest.raises(RunError, match=r"summary\.json is damaged"):
        _ = run.summary
    (run.path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        Run.open(run.path)


def test_a_folder_that_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match=r"is no run folder: it has no manifest\.json"):
            Run.open(path)


def test_a_run_of_another_kind_is_refused_where_one_is_asked_for(run):
    assert Run.open(run.path, "eval").manifest["kind"] == "eval"
    with pytest.raises(RunError, match="is no train run, but of kind 'eval'"):
        Run.open(run.path, "train")


def test_a_summary_is_there_once_the_run_is_finished(run):
    with pytest.raises(RunError, match=r"has no summary\.json: its state is 'running'"):
        _ = run.summary
    run.finish({"accuracy": 0.5})
    assert run.summary == {"accuracy": 0.5}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"old": True})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_default_path_is_unused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    for _ in range(3):
        path = default_path("eval")
        assert str(path).startswith("runs/eval-")
        assert not path.exists()
        made.append(Run.create(path, "eval").path)
    assert len(set(made)) == 3
