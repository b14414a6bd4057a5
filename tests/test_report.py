"""Run folders made by hand with drawn images, and the page that is written about them."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from osler.datasets.phantoms import questions
from osler.errors import RunError
from osler.examples import evenly
from osler.grading import grader
from osler.report import ABOVE, APART, expand, write_report
from osler.runs import Run
from osler.schema import Kind, Record
from osler.strategies import strategy_of
from osler.summary import Passes, summarise

SAMPLES = [sample for index in range(24) for sample in questions(f"phantom:test/0/{index}")]
THINK, GRADE = strategy_of("think"), grader("letter")
ATTACK = "<think><script>alert(1)</script></think>"
NOTES = {
    "title": "A & B",
    "headline": ["It <i>looks</i>."],
    "caveats": ["Phantoms teach no medicine."],
    "table": {"columns": ["model", "accuracy"], "rows": [["base", None], ["grpo", "60 %"]]},
}
MACHINE = {"command": ["osler", "quickstart"], "versions": {"trl": "1.16.0"}, "git": "c0ffee"}


def record(sample, right=True):
    letter = sample.gold_letter if right else "ABCD".replace(sample.gold_letter, "")[0]
    completion = f"{ATTACK}<answer>{letter}</answer>"
    parsed = THINK.parse(completion)
    return Record(
        sample=sample,
        prompt=THINK.question(sample, "letter"),
        completion=completion,
        parsed=parsed,
        verdict=GRADE(sample, parsed),
        strategy="think",
        tokens=12,
        truncated=False,
        seconds=0.1,
    )


def evaluated(path, miss, label=None, trained=True, finished=True):
    """An evaluation at `path` in which every `miss`-th answer is wrong."""
    axes = {"modality": ["CT"], "question_type": ["Disease diagnosis"], "source": ["phantoms"]}
    trained_on = {**axes, "row_hash": "abc123"} if trained else None
    facts = {"trained_on": trained_on, "trial": {"answer_form": "letter"}, **MACHINE}
    run = Run.create(path, "eval", model={"label": label or path.name, "sha": "f00d"}, **facts)
    blind = {"option_prior": 0.25} if trained else {}
    records = [replace(record(sample, right=bool(k % miss)), blind=blind) for k, sample in enumerate(SAMPLES)]
    run.append("records", *(one.to_json() for one in records))
    if finished:
        run.finish(summarise(Passes(records)))
        run.save(state="done", started="2026-01-01T00:00:00+00:00", finished="2026-01-01T01:00:00+00:00")
    return run


def trained(path, method="grpo", steps=12, state="done"):
    """A training run at `path` with some steps of metrics and, where it is grpo, of rollouts."""
    run = Run.create(path, "train", recipe={"method": method, "lr": 1e-5, "seed": 7}, **MACHINE)
    for step in range(1, steps + 1):
        if method == "grpo":
            reward = {"reward": step / 10, "rewards/accuracy": step / 20, "rewards/total/mean": 1, "kl": "0.01"}
            run.append("metrics", {"step": step, "loss": 0.1, **reward})
            run.append("rollouts", *rollouts(step))
        else:
            run.append("metrics", {"step": step, "loss": 1 / step}, {"step": step, "eval_loss": 2 / step})
    run.save(state=state)
    return run


def rollouts(step, size=6):
    sample = SAMPLES[step]
    shared = {
        "step": step,
        "sample_id": sample.id,
        "images": list(sample.images) if step != 1 else ["/gone/melanoma/1.png"],
        "prompt": THINK.question(sample, "letter"),
        "gold": sample.gold_letter,
    }
    parts = [{"accuracy": float(k % 2), "format": None if k == 3 else 1.0} for k in range(size)]
    return [
        {
            **shared,
            "completion": f"{ATTACK} {k}",
            "rewards": part,
            "reward": None if k == 3 else 1.0 + k % 2,
            "advantage": k - 2.5,
        }
        for k, part in enumerate(parts)
    ]


class Page(HTMLParser):
    """What the browser would load, the ids, and the text outside of scripts and styles."""

    def __init__(self, file):
        super().__init__()
        self.loads, self.ids, self.text, self.tag = [], [], "", ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tag, values = tag, dict(attrs)
        self.loads += [values[key] for key in ("src", "srcset", "data", "action", "poster") if key in values]
        self.loads += [values["href"]] if tag != "a" and "href" in values else []
        self.ids += [values["id"]] if "id" in values else []

    def handle_data(self, data):
        self.text += "" if self.tag in ("script", "style") else data


@pytest.fixture
def page(tmp_path):
    """Write the report of runs and read it back."""

    def write(*runs, **notes):
        return Page(write_report(runs, tmp_path / "out" / "report.html", notes))

    return write


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    base, after = evaluated(folder / "base", 2, trained=False), evaluated(folder / "after", 5, label="GRPO")
    return [base, trained(folder / "sft", "sft"), trained(folder / "grpo"), after]


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """The page about all of `runs`."""
    return Page(write_report(runs, tmp_path_factory.mktemp("page") / "report.html", NOTES))


# --- one safe file


def test_the_report_is_one_file_that_loads_nothing(runs, tmp_path):
    page = Page(write_report(runs[-1:], tmp_path / "new" / "folder" / "report.html"))
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["report.html"]
    assert page.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    assert "default-src 'none'" in page.source
    styles = page.source.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"@import|url\(", styles)


def test_completions_are_escaped(written):
    assert "<script>alert" not in written.source
    assert "<script>alert(1)</script>" in written.text


def test_references_of_images_are_nowhere(written):
    assert not re.search(r"phantom:|/gone/|melanoma/1", written.source)
    assert "This image cannot be opened any more." in written.text


def test_the_same_runs_make_the_same_bytes_and_no_id_comes_twice(runs, written, tmp_path):
    assert write_report(runs, tmp_path / "again.html", NOTES).read_text(encoding="utf-8") == written.source
    assert len(written.ids) == len(set(written.ids))


# --- what it says


def test_every_evaluation_has_its_accuracy_interval_and_n(runs, written):
    for run in (runs[0], runs[-1]):
        accuracy = run.summary["accuracy"]
        low, high = (f"{100 * accuracy[end]:.1f}" for end in ("ci_low", "ci_high"))
        rows = re.findall(rf'<th scope="row">{run.manifest["model"]["label"]}</th>.*?</tr>', written.source, re.DOTALL)
        assert any(f"{100 * accuracy['value']:.1f} %" in row for row in rows)
        assert any(f"[{low}, {high}]<br>n = {accuracy['n']}" in row for row in rows)


def test_small_cells_are_marked_and_an_axis_with_one_source_is_left_out(written):
    assert re.search(r"n = \d+ < 100", written.text)
    assert "By question type" in written.text
    assert "By source" not in written.text


def test_methods_have_their_own_curves_with_the_metrics_they_logged(written):
    grpo, sft = ([i for i in written.ids if i.startswith(f"curve-{method}")] for method in ("grpo", "sft"))
    assert (len(grpo), len(sft)) == (4, 2)  # reward, its one part, kl, loss; loss and validation loss


def test_rollouts_come_as_groups_from_early_to_late(written):
    steps = [int(step) for step in re.findall(r"Step (\d+)<", written.source)]
    assert (steps[0], steps[-1], len(steps)) == (1, 12, 10)
    assert written.source.count("<strong>reward") == 40
    assert all(phase in written.text for phase in ("early", "middle", "late", "not scored", "advantage +2.50"))


def test_right_wrong_and_disagreeing_answers_are_shown(written):
    assert "Right: 12 of" in written.text
    assert "Wrong: 12 of" in written.text
    assert "Where base and GRPO disagree" in written.text


def test_provenance_is_there(written):
    facts = ("osler quickstart", "c0ffee", "trl: 1.16.0", "abc123", "method: grpo", "2026-01-01T01")
    assert all(fact in written.text for fact in facts)


def test_notes_are_shown_and_escaped(written):
    shown = ("A & B", "It <i>looks</i>.", "What this can and cannot show", "Phantoms teach no medicine.", "60 %")
    assert all(note in written.text for note in shown)


# --- what is not there


def test_only_training_runs(tmp_path, page):
    text = page(trained(tmp_path / "sft", "sft"), trained(tmp_path / "other" / "sft", "sft")).text
    assert "it says nothing about accuracy" in text
    assert "there are no rollouts" in text
    assert "sft (other/sft)" in text


def test_only_evaluations(runs, page):
    text = page(runs[-1]).text
    assert "There is no training run here." in text
    assert "1 finished evaluation" in text


def test_nothing_at_all(page):
    assert "There are no runs." in page().text


def test_unfinished_runs_are_named_and_counted_nowhere(tmp_path, page):
    training = trained(tmp_path / "grpo", state="interrupted", steps=0)
    text = page(training, evaluated(tmp_path / "half", 3, finished=False)).text
    assert "The train run grpo was interrupted" in text
    assert "This run has recorded no rollouts." in text
    assert "that it wrote until then are counted nowhere" in text
    assert "Nothing was logged." in text
    assert "no finished evaluation here" in text


def test_another_kind_of_run_is_refused(tmp_path, page):
    with pytest.raises(RunError, match="of kind 'audit'"):
        page(Run.create(tmp_path / "audit", "audit"))


def test_a_study_stands_for_the_runs_in_it_in_the_order_in_which_they_started(tmp_path, page):
    study = Run.create(tmp_path / "study", "study")
    (study.path / "notes").mkdir()
    inner = [trained(study.path / "sft", "sft"), evaluated(study.path / "z-test", 2), evaluated(study.path / "a-test", 3)]
    for second, run in enumerate(inner):
        run.save(started=f"2026-01-01T00:00:0{second}+00:00")
    Run.create(study.path / "deeper", "study")
    other = trained(tmp_path / "other", "sft")
    assert [run.name for run in expand([other, study])] == ["other", "sft", "z-test", "a-test"]
    assert page(study).source == page(*inner).source


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"report\.html cannot be written"):
        write_report([], tmp_path / "file" / "report.html")
    with pytest.raises(RunError, match="is a folder"):
        write_report([], tmp_path)
    file = write_report([], tmp_path / "report.html")
    before = file.read_bytes()
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(RunError, match="no space left"):
        write_report([], file, {"title": "another"})
    assert file.read_bytes() == before


def fail(*_):
    raise OSError("no space left")


def test_a_damaged_record_is_named(tmp_path, page):
    run = evaluated(tmp_path / "e", 2)
    run.append("records", {"sample": {}})
    with pytest.raises(RunError, match=r"line \d+ is no record"):
        page(run)


def test_a_floor_of_some_rows_is_not_compared_with_the_accuracy_of_all(tmp_path, page):
    run = evaluated(tmp_path / "e", 2)
    bare = [replace(sample, kind=Kind.OPEN, options=(), gold_index=None, id=f"open {k}") for k, sample in enumerate(SAMPLES)]
    whole = page(run).text
    assert "On the same rows the best of four blind attackers" in whole
    assert ABOVE in whole
    closed = [replace(record(sample), blind={"option_prior": 0.25}) for sample in SAMPLES]
    records = closed + [replace(record(SAMPLES[0]), sample=sample) for sample in bare]
    run.finish(summarise(Passes(records)))
    some = page(run).text
    assert f"On the {len(SAMPLES)} of those {2 * len(SAMPLES)} rows that have a floor the best of four blind attackers" in some
    assert APART in some
    assert ABOVE not in some
    run.finish(summarise(Passes(records[len(SAMPLES) :])))
    assert "No floor is known for it" in page(run).text


def test_a_metric_that_is_no_number_is_refused(tmp_path, page):
    run = trained(tmp_path / "grpo", steps=1)
    run.append("metrics", {"step": 2, "kl": "much"})
    with pytest.raises(RunError, match="kl is no number"):
        page(run)


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (20, list(range(10)))])
def test_examples_are_evenly_spaced(count, chosen):
    assert evenly(range(10), count) == chosen
