"""Scripted models, of which it is known how they look, through every control; and small cases by hand."""

import json
import zlib
from dataclasses import replace

import pytest

from osler.controls import CONTROLS
from osler.datasets.load import load_data
from osler.drawing.phantoms import phantom_case
from osler.errors import RunError
from osler.grading import grader
from osler.images import PHANTOM
from osler.looking import INCOMPLETE, UNMATCHED, Looking, answer_of, look
from osler.paraphrases import rephrased
from osler.schema import LETTERS, Kind, Outcome, Record, Sample, fold_text
from osler.stats import EMPTY, paired_difference
from osler.strategies import STRATEGIES
from osler.taxonomy import Modality, QuestionType

DRAWN = load_data({"name": "phantoms", "seed": 2, "train": 0, "val": 0, "test": 60})
NOTHINK = STRATEGIES["nothink"]
FINDING = {
    QuestionType.MODALITY: "modality",
    QuestionType.ANATOMY: "anatomy",
    QuestionType.DISEASE: "disease",
    QuestionType.GRADING: "grade",
    QuestionType.ATTRIBUTE: "location",
}


def record(model, sample, answer_form="letter", strategy=NOTHINK):
    """What `model`, a function of the sample and its prompt to an option, leaves of `sample`."""
    prompt = strategy.question(sample, answer_form)
    said = model(sample, prompt)
    if said in sample.options and answer_form == "letter":
        said = LETTERS[sample.options.index(said)]
    return completed(sample, f"<answer>{said}</answer>", answer_form, prompt, strategy)


def completed(sample, completion, answer_form="letter", prompt="", strategy=NOTHINK):
    parsed = strategy.parse(completion)
    verdict = grader(answer_form)(sample, parsed)
    return Record(sample, prompt, completion, parsed, verdict, strategy.name, tokens=3, truncated=False, seconds=0.0)


def looked(model, control, rows=DRAWN, answer_form="letter", seed=0):
    """What `model` comes to under `control`."""
    made = CONTROLS[control].make(rows, seed)
    real = [record(model, row, answer_form) for row in rows]
    strategies = [rephrased(NOTHINK, row.variant) if control == "prompts" else NOTHINK for row in made.rows]
    shown = [record(model, row.sample, answer_form, strategy) for row, strategy in zip(made.rows, strategies, strict=True)]
    return look(control, real, shown, made.left_out, answer_form)


# --- models ---


def oracle(sample, prompt):
    """What is right for the image that is shown, if that is offered; else, and where nothing is to be seen, a guess."""
    if sample.images[0].startswith(PHANTOM):
        seen = str(getattr(phantom_case(sample.images[0]), FINDING[sample.question_type]))
        if seen in sample.options or not sample.options:
            return seen
    return blind(sample, prompt)


def blind(sample, prompt):
    """An option by its text and those of the others, whatever the image and the order."""
    options = sorted(map(fold_text, sample.options), key=lambda text: zlib.crc32(f"{sample.question} {text}".encode()))
    return next((option for option in sample.options if fold_text(option) == options[0]), "?")


def always_a(sample, prompt):
    return sample.options[0]


def by_case(sample, prompt):
    """The only option that begins with a small letter, else the first."""
    small = [option for option in sample.options if option[0].islower()]
    return small[0] if len(small) == 1 else sample.options[0]


# --- what is known of them comes out ---


@pytest.mark.parametrize("control", ["blank", "noise"])
def test_an_oracles_reliance_is_what_it_misses_without_the_image(control):
    found = looked(oracle, control)
    assert found.real.value == 1
    assert 0.2 < found.accuracy.value < 0.5
    assert found.difference.value == pytest.approx(1 - found.accuracy.value, abs=1e-12)
    assert found.difference.ci_low < found.difference.value < found.difference.ci_high
    assert found.n == found.real.n == found.accuracy.n == len(DRAWN)


@pytest.mark.parametrize("control", ["blank", "noise", "shuffled"])
def test_a_model_that_ignores_the_image_answers_alike_and_relies_on_nothing(control):
    found = looked(blind, control)
    assert (found.difference.value, found.identical.value) == (0, 1)
    assert found.real == found.accuracy
    assert 0 < found.real.value < 1
    if control == "shuffled":
        assert found.follow.shown == found.follow.base
        assert found.follow.moved.value == 0


def test_a_model_that_looks_follows_the_donor():
    found = looked(oracle, "shuffled")
    assert (found.follow.shown.value, found.follow.base.value, found.follow.moved.value) == (1, 0, 1)
    assert found.follow.shown.n == found.variants["offered"].n > 0.95 * found.n
    assert (found.variants["offered"].value, found.accuracy.value) == (0, pytest.approx(0, abs=0.02))
    assert found.difference.value == 1 - found.accuracy.value
    assert found.follow.shown.ci_low > 0.9


def test_a_model_that_says_a_is_never_right_in_every_rotation():
    found = looked(always_a, "options-circular")
    assert found.accuracy.value == 0
    assert 0.15 < found.real.value < 0.45
    once = looked(always_a, "options-shuffled")
    assert abs(once.accuracy.value - 0.28) < 0.12


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@pytest.mark.parametrize("control", ["options-shuffled", "options-circular", "options-normalised"])
def test_a_model_that_answers_by_the_options_text_does_not_mind_their_order(control, answer_form):
    found = looked(blind, control, answer_form=answer_form)
    assert (found.difference.value, found.identical.value) == (0, 1)
    assert found.real == found.accuracy
    assert found.n == len(DRAWN)


def test_a_model_that_goes_by_case_loses_it():
    rows = [ask(f"{k}", ("Cyst", "Node", "Mass"), 2, ("Cyst", "Node", "mass")) for k in range(9)]
    found = looked(by_case, "options-normalised", rows)
    assert (found.real.value, found.accuracy.value, found.identical.value) == (1, 0, 0)


def test_a_model_that_sees_needs_no_options():
    found = looked(oracle, "no-options")
    assert (found.accuracy.value, found.identical.value) == (1, 1)
    assert looked(blind, "no-options").accuracy.value == 0


def test_options_that_say_nothing_leave_a_blind_model_at_chance():
    found = looked(oracle, "options-debiased")
    assert found.accuracy.value == 1
    assert sum(found.left_out.values()) + found.n == len(DRAWN)
    assert looked(blind, "options-debiased").n == found.n


# --- by hand ---


def ask(name, options=("x", "y", "z"), gold=0, written=None, **facts):
    options = written or options
    facts = {"images": (f"{name}.png",), "question": "What?", "modality": Modality.CT, **facts}
    return Sample(id=name, golds=(options[gold],), options=options, gold_index=gold, **facts)


def shown(control, of, answer, variant="", sample=None, **extra):
    """The record of a row that `control` made of row `of`, answered with `answer`."""
    sample = sample or ask(of)
    extra = {"control": control, "of": of, "variant": variant, **extra}
    return completed(replace(sample, id=f"{of}#{variant}", extra=extra), f"<answer>{answer}</answer>")


REAL = [completed(ask(name), f"<answer>{letter}</answer>") for name, letter in zip("abcd", "AABA", strict=True)]


def test_rows_are_matched_by_what_they_were_made_from_and_not_by_their_order():
    made = [shown("blank", of, letter) for of, letter in zip("dba", "BAA", strict=True)]
    found = look("blank", REAL, made, {"no image": 1})
    assert (found.real.value, found.accuracy.value) == (1, 2 / 3)
    assert found.difference == paired_difference([1, 1, 1], [1, 1, 0], list("abd"))
    assert (found.identical.value, found.n, found.left_out) == (2 / 3, 3, {"no image": 1})
    assert (found.variants, found.follow, found.spread) == ({}, None, None)


def test_rows_without_a_record_are_counted():
    found = look("blank", REAL, [shown("blank", "a", "A")], {"no image": 1})
    assert found.left_out == {"no image": 1, UNMATCHED: 2}
    assert look("blank", REAL, []).left_out == {UNMATCHED: 4}


def test_what_was_not_judged_leaves_both_sides_and_is_counted():
    made = [shown("blank", of, "A") for of in "abcd"]
    unjudged = [replace(one, verdict=replace(one.verdict, outcome=Outcome.UNJUDGED)) for one in (REAL[0], made[3])]
    found = look("blank", [unjudged[0], *REAL[1:]], [*made[:3], unjudged[1]])
    assert (found.unjudged, found.n, found.real.value, found.accuracy.value) == (2, 2, 1 / 2, 1)
    without = replace(unjudged[1], parsed=replace(unjudged[1].parsed, answer=None))
    assert look("blank", REAL, [*made[:3], without]).unjudged == 0  # there was nothing to judge: it is wrong


def test_what_cannot_be_read_is_wrong_counted_and_no_answer():
    unread = [replace(shown("blank", of, "A"), **vars_of(completed(ask(of), "A, I think."))) for of in "ab"]
    real = [*REAL[1:], replace(REAL[0], **vars_of(completed(ask("a"), "dunno")))]
    found = look("blank", real, [*unread, shown("blank", "c", "Q"), shown("blank", "d", "A")])
    assert (found.unparseable, found.unparseable_real, found.accuracy.value) == (3, 1, 1 / 4)
    assert (found.identical.n, found.identical.value) == (3, 1 / 3)  # row a was not answered on either side


def vars_of(other):
    return {name: getattr(other, name) for name in ("completion", "parsed", "verdict")}


def test_a_circle_is_right_where_all_of_it_is_and_needs_all_of_it():
    made = [shown("options-circular", of, "A", f"r{turn}") for of in "abc" for turn in (1, 2)]
    made[1] = shown("options-circular", "a", "B", "r2")
    found = look("options-circular", REAL, [*made, shown("options-circular", "d", "A", "r1")])
    # a: wrong in its second rotation; b: right; c: wrong as it is; d: one rotation is missing
    assert (found.real.value, found.accuracy.value, found.n) == (2 / 3, 1 / 3, 3)
    assert found.left_out == {INCOMPLETE: 1}
    assert {name: one.value for name, one in found.variants.items()} == {"r1": 1, "r2": 2 / 3}


def test_paraphrases_mean_worst_and_spread():
    answers = {"p1": "AAA", "p2": "ABB", "p3": "BBA"}  # right: 3, 1, 1 of three rows
    made = [
        shown("prompts", of, letter, name)
        for name, letters in answers.items()
        for of, letter in zip("abc", letters, strict=True)
    ]
    found = look("prompts", REAL[:3], made)
    assert found.accuracy.value == pytest.approx(5 / 9)
    assert {name: one.value for name, one in found.variants.items()} == {"p1": 1, "p2": 1 / 3, "p3": 1 / 3}
    assert (found.spread.worst.value, found.spread.difference.value) == (1 / 3, pytest.approx(2 / 3))
    assert found.difference.value == pytest.approx(2 / 3 - 5 / 9)
    assert found.identical.value == 0
    assert found.accuracy.n == found.spread.worst.n == found.spread.difference.n == 3


def test_a_model_that_knows_one_wording_only_is_found_out():
    found = looked(lambda sample, prompt: "?" if "Do not explain" in prompt else oracle(sample, prompt), "prompts")
    assert (found.real.value, found.accuracy.value) == (1, pytest.approx(0.8))
    assert (found.spread.worst.value, found.spread.difference.value, found.unparseable) == (0, 1, len(DRAWN))


def test_the_follow_rate_is_of_the_rows_that_offer_the_donors_gold():
    golds = {"a": "y", "b": "Z.", "c": "y", "d": "nothing offered"}
    made = [shown("shuffled", of, letter, "offered", donor_gold=golds[of]) for of, letter in zip("abcd", "BBAB", strict=True)]
    found = look("shuffled", REAL, made).follow
    # a moved to y, which is its donor's gold; b said y and not z; c said y before it was shown the donor's image, and x after
    assert (found.shown.value, found.base.value, found.moved.value) == (1 / 3, 1 / 3, 0)
    assert found.shown.n == found.base.n == found.moved.n == 3


def test_yes_and_no_can_be_followed_and_an_open_answer_cannot():
    yes = Sample(id="a", images=("a.png",), question="Is it?", golds=("yes",), kind=Kind.YESNO)
    free = replace(yes, id="b", images=("b.png",), kind=Kind.OPEN, golds=("yes",))
    real = [completed(row, "<answer>yes</answer>") for row in (yes, free)]
    made = [shown("shuffled", row.id, "no", sample=row, donor_gold="No") for row in (yes, free)]
    found = look("shuffled", real, made)
    assert (found.follow.shown.value, found.follow.shown.n, found.n) == (1, 1, 2)


def test_rows_of_one_patient_are_one_cluster():
    rows = [ask(f"{k}", group=f"{k // 10}") for k in range(100)]
    real = [completed(row, "<answer>A</answer>") for row in rows]
    made = [shown("blank", row.id, "AB"[k // 50], sample=row) for k, row in enumerate(rows)]
    apart = look("blank", [replace(one, sample=replace(one.sample, group=None)) for one in real], made).difference
    together = look("blank", real, made).difference
    assert together.value == apart.value == 0.5
    assert together.ci_high - together.ci_low > 2 * (apart.ci_high - apart.ci_low)


@pytest.mark.parametrize(
    ("answer_form", "options", "answer", "found"),
    [
        ("letter", ("O", "A", "B", "AB"), "B", "a"),
        ("text", ("O", "A", "B", "AB"), "B", "b"),
        ("letter", ("O", "A", "B", "AB"), "E", None),
        ("text", ("Liver.", "lung"), "liver", "liver"),
    ],
)
def test_an_answer_is_a_text_where_options_are_letters_too(answer_form, options, answer, found):
    assert answer_of(completed(ask("s", options), f"<answer>{answer}</answer>", answer_form), answer_form) == found


def test_no_rows_are_no_rows():
    for control in CONTROLS:
        found = look(control, [], [])
        assert (found.real, found.accuracy, found.difference, found.identical, found.n) == (*[EMPTY] * 4, 0)
        assert (found.follow is not None, found.spread is not None) == (control == "shuffled", control == "prompts")
        assert found.row()["as it is"] == found.row()["difference"] == "no rows"


@pytest.mark.parametrize("control", CONTROLS)
def test_the_numbers_survive_json_and_make_a_row_for_people(control):
    found = looked(oracle, control)
    assert Looking.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.to_json()["n"] == found.n == found.to_json()["difference"]["n"]
    row = found.row()
    assert list(row) == ["control", "n", "as it is", "under the control", "difference", "same answer", "besides"]
    assert (row["control"], row["n"], row["as it is"][:6]) == (control, str(found.n), "100.0 ")


def test_what_else_is_to_be_said_of_a_control():
    made = [shown("shuffled", of, letter, donor_gold="y") for of, letter in zip("abc", "BQA", strict=True)]
    said = look("shuffled", REAL, made, {"no donor": 1}).row()["besides"]
    assert said.startswith(
        "follows the donor 33.3 [6.1, 79.2], without it 33.3 [6.1, 79.2], n = 3; unparseable 1 (as it is: 0);"
    )
    assert said.endswith("; left out 1: no donor")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([shown("noise", "a", "A")], "'a#' is of the control noise, not blank"),
        ([REAL[0]], "'a' is of the control none, not blank"),
        ([shown("blank", "z", "A")], "a record of row 'z', which the real pass lacks"),
        ([shown("blank", "a", "A"), shown("blank", "a", "B")], "two records of row 'a'"),
    ],
)
def test_records_that_do_not_belong_together(made, message):
    with pytest.raises(RunError, match=message):
        look("blank", REAL, made)
