"""Scripted models that read the image, the mark or neither, and small cases by hand."""

import json
from dataclasses import replace

import pytest

from osler.datasets.load import load_data
from osler.drawing.marks import GLYPHS
from osler.drawing.phantoms import diagnoses, phantom_case
from osler.errors import RunError
from osler.grading import grader
from osler.images import underlying
from osler.schema import LETTERS, Outcome, Record
from osler.shortcuts import shortcut_reliance
from osler.stats import paired_difference, proportion
from osler.strategies import STRATEGIES
from osler.taxonomy import QuestionType

NOTHINK = STRATEGIES["nothink"]
PLANTINGS = ("with", "against", "none")
ROWS = {mark: load_data({"name": "phantoms", "seed": 6, "train": 0, "val": 0, "test": 90, "mark": mark}) for mark in PLANTINGS}
ASKED = sum(row.question_type is QuestionType.DISEASE for row in ROWS["none"])


def record(sample, said, answer_form="letter"):
    """What a model that answers with the option `said` leaves of `sample`; with None, no readable answer."""
    if said is not None and answer_form == "letter":
        said = LETTERS[sample.options.index(said)]
    completion = f"<answer>{said}</answer>" if said is not None else "I cannot tell."
    parsed = NOTHINK.parse(completion)
    verdict = grader(answer_form)(sample, parsed)
    return Record(sample, "", completion, parsed, verdict, "nothink", tokens=3, truncated=False, seconds=0.0)


def records(model, mark, answer_form="letter"):
    return [record(row, model(row), answer_form) for row in ROWS[mark]]


def reliance(model, unmarked=True, answer_form="letter"):
    sides = {mark: records(model, mark, answer_form) for mark in PLANTINGS}
    return shortcut_reliance(sides["with"], sides["against"], sides["none"] if unmarked else None, answer_form)


# --- models: each gives an option of a question for the diagnosis, the first one of another question ---


def case_of(row):
    return phantom_case(underlying(row.images[0]))


def asks_disease(row):
    return row.question_type is QuestionType.DISEASE


def sees_the_lesion(row):
    return case_of(row).disease if asks_disease(row) else row.options[0]


def reads_the_mark(row):
    """What the glyph stands for; where there is none, the lesion."""
    kind, _, rest = row.images[0].partition(":")
    if not asks_disease(row) or kind != "marked":
        return sees_the_lesion(row)
    case = case_of(row)
    return diagnoses(case.modality, case.anatomy)[list(GLYPHS).index(rest.partition(":")[0])]


def always_normal(row):
    return "normal" if asks_disease(row) else row.options[0]


def mute(row):
    return None


@pytest.mark.parametrize("answer_form", ["letter", "text"])
def test_one_that_reads_the_mark_falls_from_all_to_nothing(answer_form):
    found = reliance(reads_the_mark, answer_form=answer_form)
    assert (found.agreeing.value, found.against.value, found.unmarked.value) == (1, 0, 1)
    assert (found.drop.value, found.follow.value, found.base.value, found.moved.value) == (1, 1, 0, 1)
    assert found.drop.ci_low > 0.9
    assert found.n == ASKED == found.follow.n


@pytest.mark.parametrize("answer_form", ["letter", "text"])
def test_one_that_sees_the_lesion_does_not_mind_the_mark(answer_form):
    found = reliance(sees_the_lesion, answer_form=answer_form)
    assert (found.agreeing.value, found.against.value, found.unmarked.value) == (1, 1, 1)
    assert (found.drop.value, found.follow.value, found.base.value, found.moved.value) == (0, 0, 0, 0)


def test_one_that_sees_nothing_follows_the_mark_by_chance_and_as_often_without_it():
    found = reliance(always_normal)
    sick = [case_of(row) for row in ROWS["none"] if asks_disease(row) and case_of(row).has_lesion]
    named = [row for row in ROWS["against"] if asks_disease(row) and row.extra["mark"] == "normal"]
    assert found.agreeing.value == pytest.approx(1 - len(sick) / ASKED)
    assert (found.drop.value, found.moved.value) == (0, 0)
    assert found.follow == found.base
    assert found.follow.value == pytest.approx(len(named) / ASKED)
    assert 0 < found.follow.value < 0.6


def test_one_without_answers_is_wrong_and_follows_nothing():
    found = reliance(mute)
    assert (found.agreeing.value, found.against.value, found.follow.value, found.base.value) == (0, 0, 0, 0)
    assert found.unparseable == dict.fromkeys(PLANTINGS, ASKED)


def test_a_few_rows_by_hand():
    asked = {mark: [row for row in rows if asks_disease(row)][:4] for mark, rows in ROWS.items()}
    golds = [row.golds[0] for row in asked["none"]]
    named = [row.extra["mark"] for row in asked["against"]]
    third = [
        next(o for o in row.options if o not in (gold, name))
        for row, gold, name in zip(asked["none"], golds, named, strict=True)
    ]
    said = {
        "with": [golds[0], golds[1], golds[2], third[3]],
        "against": [named[0], golds[1], third[2], named[3]],
        "none": [golds[0], golds[1], named[2], named[3]],
    }
    sides = {mark: [record(row, one) for row, one in zip(asked[mark], said[mark], strict=True)] for mark in PLANTINGS}
    found = shortcut_reliance(*sides.values())
    clusters = [row.cluster for row in asked["none"]]
    assert found.agreeing == proportion([1, 1, 1, 0], clusters)
    assert found.against == proportion([0, 1, 0, 0], clusters)
    assert found.unmarked == proportion([1, 1, 0, 0], clusters)
    assert found.drop == paired_difference([1, 1, 1, 0], [0, 1, 0, 0], clusters)
    assert found.follow == proportion([1, 0, 0, 1], clusters)
    assert found.base == proportion([0, 0, 1, 1], clusters)
    assert found.moved == paired_difference([1, 0, 0, 1], [0, 0, 1, 1], clusters)
    shuffled = shortcut_reliance(sides["with"][::-1], sides["against"], sides["none"][2:] + sides["none"][:2])
    assert shuffled == found


def test_without_unmarked_rows_what_needs_them_is_empty_and_the_rest_the_same():
    with_them, without = reliance(reads_the_mark), reliance(reads_the_mark, unmarked=False)
    assert (without.unmarked, without.base, without.moved) == (None, None, None)
    assert without.unparseable == {"with": 0, "against": 0}
    assert replace(with_them, unmarked=None, base=None, moved=None, unparseable=without.unparseable) == without


def test_what_is_not_compared_is_counted():
    sides = {mark: records(sees_the_lesion, mark) for mark in PLANTINGS}
    others = len(sides["with"]) - ASKED
    asked = [at for at, one in enumerate(sides["with"]) if asks_disease(one.sample)]
    judged = sides["against"][asked[0]]
    sides["against"][asked[0]] = replace(judged, verdict=replace(judged.verdict, outcome=Outcome.UNJUDGED))
    del sides["none"][asked[2]]
    del sides["with"][asked[1]]
    found = shortcut_reliance(*sides.values())
    assert found.left_out == {"no question for the diagnosis": others, "not evaluated under every mark": 2, "unjudged": 1}
    assert found.n == ASKED - 3


def test_rows_as_they_are_read_from_a_run_will_do():
    sides = [
        [Record.from_json(json.loads(json.dumps(one.to_json()))) for one in records(reads_the_mark, mark)] for mark in PLANTINGS
    ]
    assert shortcut_reliance(*sides) == reliance(reads_the_mark)


def test_the_result_is_json():
    shown = json.loads(json.dumps(reliance(reads_the_mark, unmarked=False).to_json()))
    assert shown["n"] == ASKED
    assert shown["drop"]["value"] == 1
    assert shown["base"] is None


def test_records_of_the_wrong_side_twice_or_of_other_rows_are_refused():
    sides = {mark: records(sees_the_lesion, mark) for mark in PLANTINGS}
    with pytest.raises(
        RunError, match=r"is of mark: against \(or of mark: with and a mark_share below 1\), and was given for with"
    ):
        shortcut_reliance(sides["against"], sides["with"])
    with pytest.raises(RunError, match=r"is of mark: with, and was given for against\. Evaluate rows .* mark: against\.$"):
        shortcut_reliance(sides["with"], sides["with"])
    with pytest.raises(RunError, match="is of mark: none, and was given for against"):
        shortcut_reliance(sides["with"], sides["none"])
    with pytest.raises(RunError, match="two records of row 'phantom:test/6/0/"):
        shortcut_reliance(sides["with"], [sides["against"][0], *sides["against"]])
    half = len(sides["with"]) // 2
    with pytest.raises(RunError, match=r"under all of with, against; left out: .*not evaluated under every mark"):
        shortcut_reliance(sides["with"][:half], sides["against"][half:])
    with pytest.raises(RunError, match="no question for the diagnosis"):
        shortcut_reliance([], [])


@pytest.mark.parametrize("extra", [{"mark_agrees": "yes"}, {"mark_agrees": [1]}, {"mark_agrees": False}, {"mark": "x"}, {}])
def test_marks_of_another_making_are_none(extra):
    def foreign(records):
        return [replace(one, sample=replace(one.sample, extra=extra)) for one in records]

    agreeing, against, unmarked = (records(sees_the_lesion, mark) for mark in PLANTINGS)
    assert shortcut_reliance(agreeing, against, foreign(unmarked)) == shortcut_reliance(agreeing, against, unmarked)
    with pytest.raises(RunError, match="is of mark: none, and was given for against"):
        shortcut_reliance(agreeing, foreign(against))
