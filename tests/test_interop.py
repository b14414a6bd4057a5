"""Completions of another system: read, scored, kept as a run; and what is wrong with a file is told by its line."""

import json
import sys

import pytest

from osler.cli import app
from osler.datasets.load import load_data
from osler.errors import DataError
from osler.interop import score
from osler.matrix import build_matrix
from osler.reading import reading_of
from osler.runs import Run
from osler.schema import Kind, Sample
from osler.strategies import STRATEGIES

ROWS = load_data("phantoms:5")
CHOICES = [(place, row) for place, row in enumerate(ROWS) if row.split == "test" and row.gold_letter][:40]


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        file = tmp_path / "completions.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
        return file

    return write


def lines(form="<answer>{}</answer>", wrong=0, by="id"):
    for k, (place, row) in enumerate(CHOICES):
        letter = row.gold_letter if k >= wrong else "AB"[row.gold_letter == "A"]
        name = {"id": row.id} if by == "id" else {"row": place}
        yield {**name, "completion": form.format(letter)}


@pytest.mark.parametrize(
    ("form", "strategy"),
    [
        ("<answer>{}</answer>", "nothink"),
        ("<think>so it is</think><answer>{}</answer>", "think"),
        ("<answer>{}</answer><think>so it is</think>", "think_after"),
        ("{}", "nothink_raw"),
    ],
)
@pytest.mark.parametrize("by", ["id", "row"])
def test_the_form_is_found_and_the_answers_are_scored(written, form, strategy, by):
    scored = score(written(*lines(form, wrong=10, by=by)), "phantoms:5")
    assert (scored.strategy, scored.answer_form, scored.readable) == (strategy, "letter", 40)
    assert scored.to_json()["accuracy"]["value"] == 0.75
    assert scored.to_json()["n"] == 40
    assert scored.missing == len(ROWS) - 40
    assert scored.summary["floor"]["n"] == 40


def test_a_form_that_is_told_is_kept(written):
    scored = score(written(*lines("The answer is {}.")), "phantoms:5", strategy="think")
    value = scored.to_json()
    assert (value["accuracy"]["value"], value["strict"]["value"], value["lenient"]["value"]) == (0, 0, 1)
    assert value["unparseable"] == 40


def test_texts_are_found_to_be_texts(written):
    file = written(*({"id": row.id, "completion": row.golds[0]} for _, row in CHOICES))
    scored = score(file, "phantoms:5")
    assert (scored.strategy, scored.answer_form) == ("nothink_raw", "text")
    assert scored.to_json()["accuracy"]["value"] == 1


def test_medr1_reads_as_its_evaluation_does(written):
    think = written(*lines("<think>x</think><answer> {} </answer>", wrong=4))
    assert score(think, "phantoms:5", "medr1", "think").to_json()["accuracy"]["value"] == 0.9
    dotted = written(*lines("<answer>{}.</answer>"))
    assert score(dotted, "phantoms:5", "medr1", "think").to_json()["accuracy"]["value"] == 0
    tagged = written(*lines("<answer>{}</answer>"))
    value = score(tagged, "phantoms:5", "medr1", "nothink").to_json()
    assert (value["accuracy"]["value"], value["lenient"]["value"]) == (0, 1)  # raw against the letter: tags are wrong
    assert score(written(*lines("{}")), "phantoms:5", "medr1", "nothink").to_json()["accuracy"]["value"] == 1


def test_medr1_refuses_what_has_no_letter():
    bare = Sample(id="s", images=(), question="Is it a cyst?", golds=("yes",), kind=Kind.YESNO)
    with pytest.raises(DataError, match="knows only letters"):
        reading_of("medr1", STRATEGIES["think"], "letter")(bare, "<answer>yes</answer>")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": ', "no JSON"),
        ({"id": "nowhere", "completion": "A"}, "'nowhere' is not in the data"),
        ({"row": 10**6, "completion": "A"}, "row 1000000 is not in the data"),
        ({"row": -1, "completion": "A"}, "row -1"),
        ({"completion": "A"}, 'either "id" or "row"'),
        ({"id": CHOICES[1][1].id, "row": 3, "completion": "A"}, 'either "id" or "row"'),
        ({"id": CHOICES[1][1].id}, "completion"),
        ({"id": CHOICES[1][1].id, "completion": None}, "completion"),
        ({"id": CHOICES[0][1].id, "completion": "A"}, "line 1 is about the same row"),
        ({"row": CHOICES[0][0], "completion": "A"}, "line 1 is about the same row"),
        ("[1]", "valid dictionary"),
    ],
)
def test_a_broken_line_is_named(written, line, says):
    file = written({"id": CHOICES[0][1].id, "completion": "A"}, "", line)
    with pytest.raises(DataError, match="row 3") as told:
        score(file, "phantoms:5")
    assert says in str(told.value)


def test_rows_of_train_have_no_floor_of_their_own(written):
    seen = next(row for row in ROWS if row.split == "train" and row.gold_letter)
    assert score(written({"id": seen.id, "completion": "A"}), "phantoms:5").summary["floor"] is None


def test_the_command_prints_one_object_and_keeps_a_run(written, tmp_path, monkeypatch, capsys):
    file = written(*lines(wrong=10))
    arguments = ["score", str(file), "--data", "phantoms:5", "--out", str(tmp_path / "run"), "--json"]
    monkeypatch.setattr(sys, "argv", ["osler", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    value = json.loads(capsys.readouterr().out)
    assert {"n", "accuracy", "strict", "lenient", "unparseable", "floor"} <= value.keys()
    assert set(value["accuracy"]) == {"value", "ci_low", "ci_high", "n"}
    matrix = build_matrix([Run.open(tmp_path / "run")], "modality")
    assert matrix.lines[0].overall.accuracy.value == 0.75
    assert matrix.rows == ("unknown · completions",)
