"""Which answer is read out of a text, strictly and leniently, and what it is worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.grading import grader, read_lenient, read_strict
from osler.schema import LETTERS, Kind, Outcome, Parsed, Sample, fold_text
from osler.strategies import STRATEGIES

RIGHT, WRONG = Outcome.CORRECT, Outcome.INCORRECT


def choice(*options, gold=0):
    return Sample(id="1", images=(), question="Which?", golds=(options[gold],), options=options, gold_index=gold)


def free(*golds, kind=Kind.OPEN, options=()):
    return Sample(id="1", images=(), question="?", golds=golds, kind=kind, options=options)


SCANS = choice("MRI", "Ultrasound", "CT", "CT angiography", gold=2)
VIRUS = choice("Hepatitis B", "Hepatitis C", "Vitamin C deficiency", gold=1)


def graded(strategy, completion, sample=SCANS, answer_form="letter"):
    return grader(answer_form)(sample, STRATEGIES[strategy].parse(completion))


@pytest.mark.parametrize(
    ("completion", "compared", "strict", "lenient"),
    [
        ("C", "C", RIGHT, RIGHT),
        (" C \n", "C", RIGHT, RIGHT),
        ("B", "B", WRONG, WRONG),
        ("c", None, WRONG, WRONG),
        ("C) CT", None, WRONG, RIGHT),
        ("C.", None, WRONG, RIGHT),
        ("(C)", None, WRONG, RIGHT),
        ("(B)", None, WRONG, WRONG),
        ("The answer is C", None, WRONG, RIGHT),
        ("CT", None, WRONG, RIGHT),
        ("BC", None, WRONG, WRONG),
        ("ABCD", None, WRONG, WRONG),
        ("B or C", None, WRONG, WRONG),
        ("E", None, WRONG, WRONG),
        ("", None, WRONG, WRONG),
        ("<answer>C</answer>", None, WRONG, RIGHT),
    ],
)
def test_a_letter_is_strictly_that_letter(completion, compared, strict, lenient):
    verdict = graded("nothink_raw", completion)
    assert (verdict.compared, verdict.outcome, verdict.lenient, verdict.gold) == (compared, strict, lenient, "C")


@pytest.mark.parametrize(
    ("strategy", "completion", "compared", "lenient"),
    [
        ("nothink", "<answer>C</answer>", "C", RIGHT),
        ("nothink", "<answer>\nC\n</answer>", "C", RIGHT),
        ("nothink", "<answer>c</answer>", None, WRONG),
        ("nothink", "<answer>C) CT</answer>", None, RIGHT),
        ("nothink", "C", None, RIGHT),
        ("nothink", "<answer>C</answer> ", None, RIGHT),
        ("nothink", "<answer>C</answer><answer>A</answer>", "C", RIGHT),
        ("nothink", "<answer>A</answer><answer>C</answer>", "A", WRONG),
        ("think", "<think>A? B?</think><answer>C</answer>", "C", RIGHT),
        ("think", "<think>A? B?</think> C", None, RIGHT),
        ("think", "<think>I think that it is C", None, WRONG),
        ("think", "<think>no</think><answer>", None, WRONG),
        ("think_after", "<answer>C</answer><think>not A", None, RIGHT),
    ],
)
def test_the_form_must_hold_for_the_strict_reading(strategy, completion, compared, lenient):
    verdict = graded(strategy, completion)
    assert (verdict.compared, verdict.lenient) == (compared, lenient)
    assert verdict.outcome is (RIGHT if compared == "C" else WRONG)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B:", "B"),
        ("**B**", "B"),
        ("Option B is right", "B"),
        ("B) MRI", "B"),  # the letter counts, not what is written behind it
        ("answer: A", "A"),
        ("A.", "A"),
        ("(A) MRI", "A"),
        ("A scan of the head", None),
        ("It is A scan", None),
        ("A CT", "C"),
        ("B or D", None),
        ("B, and again B", "B"),
        ("B and D.", None),
        ("the answer is 'B'", "B"),
        ("don'B, B-mode", None),
        ("**A**", "A"),
        ("A, because", "A"),
        ("A-mode", None),
        ("A (large) one", None),
        ("B. The rest, C too, is wrong", "B"),
        ("MRI", "A"),
        ("It shows an mri.", "A"),
        ("a CT  angiography", "D"),
        ("CT angiography, a kind of CT", "D"),
        ("MRI or CT", None),
        ("CTs", None),
        ("nothing", None),
    ],
)
def test_the_lenient_reading_takes_one_unambiguous_letter_or_text(text, letter):
    assert read_lenient(SCANS, text, "letter") == letter


CARE = choice("normal", "cirrhosis", "Vitamin K deficiency")


@pytest.mark.parametrize(
    ("sample", "text", "option"),
    [
        (CARE, "Vitamin B deficiency and cirrhosis", "cirrhosis"),
        (CARE, "Plan A: normal", "normal"),
        (CARE, "B) normal", "normal"),
        (CARE, "(B)", None),
        (CARE, "The answer is B", None),
        (CARE, "normal or cirrhosis", None),
        (CARE, "It is vitamin K  deficiency.", "Vitamin K deficiency"),
        (SCANS, "It shows an mri.", "MRI"),
        (SCANS, "CT angiography, a kind of CT", "CT angiography"),
        (SCANS, "CTs", None),
    ],
)
def test_the_lenient_reading_of_a_text_looks_for_no_letter(sample, text, option):
    assert read_lenient(sample, text, "text") == option


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("Hepatitis B", 0),
        ("It is hepatitis C.", 1),
        ("The answer is Hepatitis C", 1),
        ("a Vitamin C deficiency, surely", 2),
        ("A) Hepatitis B", 0),
        ("A vitamin C deficiency", 2),
        ("The answer is B", 1),
        ("Hepatitis B or Hepatitis C", None),
    ],
)
def test_a_letter_inside_an_options_text_is_none(text, option):
    if "is B" not in text:
        assert read_lenient(VIRUS, text, "text") == (None if option is None else VIRUS.options[option])
    assert read_lenient(VIRUS, text, "letter") == (None if option is None else LETTERS[option])


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("form", ["{}", "({})", "{})", "{}.", "{}: it", "**{}**", '"{}"', "[{}]", "It is {}.", "{}, it is"])
def test_no_letter_is_easier_to_read_than_another(letter, form):
    ten = choice(*(f"finding {number}" for number in range(10)))
    assert read_lenient(ten, form.format(letter), "letter") == letter


def test_the_pronoun_i_is_no_letter():
    nine = choice(*(f"finding {number}" for number in range(9)), gold=1)
    assert read_lenient(nine, "I think B", "letter") == "B"
    assert read_lenient(nine, "I think so, I'm sure", "letter") is None
    assert read_lenient(nine, "(I)", "letter") == "I"


@pytest.mark.parametrize(
    ("text", "compared"),
    [("CT", "CT"), ("ct.", "CT"), (" Ct \n", "CT"), ("CT  Angiography..", "CT angiography"), ("C", None), ("a CT", None)],
)
def test_a_text_is_strictly_that_text_but_for_case_blanks_and_full_stops(text, compared):
    verdict = graded("nothink", f"<answer>{text}</answer>", answer_form="text")
    assert (verdict.compared, verdict.gold) == (compared, "CT")
    assert (verdict.outcome is RIGHT) == (compared == "CT")


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@pytest.mark.parametrize(
    ("text", "compared", "strict", "lenient"),
    [
        ("no", "no", RIGHT, RIGHT),
        ("No.", "no", RIGHT, RIGHT),
        ("YES", "yes", WRONG, WRONG),
        ("No, it is not", None, WRONG, RIGHT),
        ("No, no, no", None, WRONG, RIGHT),
        ("No, or maybe yes", None, WRONG, WRONG),
        ("Yes or no", None, WRONG, WRONG),
        ("nothing", None, WRONG, WRONG),
        ("B", None, WRONG, WRONG),
    ],
)
def test_yes_and_no(answer_form, text, compared, strict, lenient):
    for options in ((), ("no", "yes")):
        verdict = graded("nothink_raw", text, free("No", kind=Kind.YESNO, options=options), answer_form)
        assert (verdict.compared, verdict.outcome, verdict.lenient) == (compared, strict, lenient)


@pytest.mark.parametrize(
    ("text", "outcome"), [("Left lung.", RIGHT), ("LEFT   lower lobe", RIGHT), ("the left lung", WRONG), ("...", WRONG)]
)
def test_an_open_question_accepts_any_of_its_golds(text, outcome):
    verdict = graded("nothink_raw", text, free("left lung", "left lower lobe"))
    assert (verdict.outcome, verdict.lenient) == (outcome, outcome)


WORDS = st.lists(st.sampled_from([*"ABCDEI", "(A)", "B)", "a", "the", "CT", "MRI", "ct angiography", ".", "'"]), max_size=6)


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@given(words=WORDS, gap=st.sampled_from(["", " ", "\n"]))
def test_lenient_reads_at_least_what_strict_reads_and_both_only_what_is_offered(answer_form, words, gap):
    text = gap.join(words)
    strict, lenient = read_strict(SCANS, text, answer_form), read_lenient(SCANS, text, answer_form)
    offered = LETTERS[:4] if answer_form == "letter" else SCANS.options
    assert strict in (None, *offered)
    assert lenient in (None, *offered)
    assert strict is None or lenient == strict


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@given(texts=st.tuples(st.none() | st.sampled_from(["C", "CT", "A", "?"]), st.none() | st.sampled_from(["C", "it is CT", "?"])))
def test_what_cannot_be_parsed_is_incorrect_and_compared_with_nothing(answer_form, texts):
    verdict = grader(answer_form)(SCANS, Parsed(*texts, thought=None, well_formed=False))
    assert Outcome.UNJUDGED not in (verdict.outcome, verdict.lenient)
    if verdict.compared is None:
        assert verdict.outcome is WRONG
    if texts[1] is None:
        assert verdict.lenient is WRONG


@given(text=st.text(max_size=20) | st.text(". \n\x1fA", max_size=6))
def test_folding_twice_changes_nothing(text):
    assert fold_text(fold_text(text)) == fold_text(text)


TWINS = choice("Benign", "benign. ", "Malignant")


@pytest.mark.parametrize(
    ("answer_form", "answer", "strict", "lenient"),
    [
        ("text", "benign", RIGHT, RIGHT),
        ("text", "It is benign", WRONG, RIGHT),
        ("text", "malignant", WRONG, WRONG),
        ("letter", "A", RIGHT, RIGHT),
        ("letter", "B", WRONG, WRONG),
        ("letter", "benign", WRONG, WRONG),
    ],
)
def test_options_that_fold_alike_are_one_text_but_two_letters(answer_form, answer, strict, lenient):
    verdict = graded("nothink_raw", answer, TWINS, answer_form)
    assert (verdict.outcome, verdict.lenient) == (strict, lenient)


def test_a_choice_without_options_has_no_answer_but_is_graded():
    bare = Sample(id="1", images=(), question="Which?", golds=("CT",))
    assert graded("nothink_raw", "C) CT", bare).lenient is WRONG
