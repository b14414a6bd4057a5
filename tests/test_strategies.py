"""What is asked, what counts as well formed, and what is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.errors import RecipeError
from osler.grading import grader
from osler.schema import LETTERS, Kind, Outcome, Sample
from osler.strategies import STRATEGIES, gold_answer, strategy_of

THINK, NOTHINK, RAW, AFTER = (STRATEGIES[name] for name in ("think", "nothink", "nothink_raw", "think_after"))
CT = Sample(id="1", images=("a.png",), question="Which?", golds=("CT",), options=("MRI", "CT", "OCT"), gold_index=1)

TEXT = st.text("abCT 12.,()'{}é\n", min_size=1, max_size=12).filter(lambda text: text.strip(" .\n"))
THOUGHT = TEXT | st.just("<b> A) {x} </b>\nno")


@st.composite
def samples(draw):
    kind = draw(st.sampled_from(Kind))
    facts = {"id": "1", "images": ("a.png",), "question": draw(TEXT), "kind": kind, "rationale": draw(THOUGHT)}
    if kind is Kind.CHOICE:
        options = draw(st.lists(TEXT, min_size=2, max_size=10, unique_by=lambda text: text.strip().casefold()))
        index = draw(st.integers(0, len(options) - 1))
        return Sample(**facts, options=tuple(options), gold_index=index, golds=(options[index],))
    golds = draw(st.sampled_from(["yes", "No", " YES "])) if kind is Kind.YESNO else draw(TEXT)
    return Sample(**facts, golds=(golds,))


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@given(sample=samples())
def test_the_target_of_a_gold_is_well_formed_and_correct(strategy, answer_form, sample):
    completion = strategy.completion(sample, answer_form)
    parsed = strategy.parse(completion)
    verdict = grader(answer_form)(sample, parsed)
    assert parsed.well_formed
    assert parsed.answer == gold_answer(sample, answer_form).strip()
    assert parsed.thought == (sample.rationale.strip() if strategy.thinks else None)
    assert (verdict.outcome, verdict.lenient) == (Outcome.CORRECT, Outcome.CORRECT)
    assert verdict.compared is not None


@pytest.mark.parametrize("strategy", [THINK, AFTER], ids=["think", "think_after"])
def test_a_thought_cannot_be_taught_without_a_rationale(strategy):
    with pytest.raises(RecipeError, match=r"'1' has no rationale.*strategy=nothink"):
        strategy.completion(CT, "letter")


T, A = "<think>x\ny</think>", "<answer>B</answer>"


@pytest.mark.parametrize(
    ("strategy", "completion", "well_formed"),
    [
        (THINK, T + A, True),
        (THINK, f"{T} \n\t{A}", True),
        (THINK, "<think></think><answer></answer>", True),
        (THINK, f"{T}{A}{A}", True),  # `.*?` under a full match reaches over further tags
        (THINK, f"{T}{T}{A}", True),
        (THINK, f" {T}{A}", False),
        (THINK, f"{T}{A} ", False),
        (THINK, f"{T}{A}\n", False),
        (THINK, f"{T} so {A}", False),
        (THINK, f"{T}{A}.", False),
        (THINK, A, False),
        (THINK, T, False),
        (THINK, A + T, False),
        (THINK, f"{T}<answer>B", False),
        (THINK, f"{T}<Answer>B</Answer>", False),
        (THINK, "B", False),
        (THINK, "", False),
        (NOTHINK, A, True),
        (NOTHINK, f" \n{A}", True),
        (NOTHINK, "<answer>\nB\n</answer>", True),
        (NOTHINK, f"{A}{A}", True),
        (NOTHINK, f"{A} ", False),
        (NOTHINK, f"{A}\n", False),
        (NOTHINK, T + A, False),
        (NOTHINK, "B", False),
        (AFTER, A + T, True),
        (AFTER, f"{A}\n {T}", True),
        (AFTER, T + A, False),
        (AFTER, f" {A}{T}", False),
        (AFTER, f"{A}{T} ", False),
        (AFTER, A, False),
        (RAW, "B", True),
        (RAW, A, True),
        (RAW, "", False),
    ],
)
def test_what_is_well_formed(strategy, completion, well_formed):
    assert strategy.parse(completion).well_formed is well_formed


@pytest.mark.parametrize(
    ("strategy", "completion", "answer", "lenient", "thought"),
    [
        (THINK, f"{T}{A}", "B", "B", "x\ny"),
        (THINK, f"{T}<answer> B \n</answer>", "B", "B", "x\ny"),
        (THINK, f"{T}{A}<answer>C</answer>", "B", "B", "x\ny"),
        (THINK, f"{T}{A} done", None, "B", "x\ny"),
        (THINK, f"B? {T} It is C", None, "It is C", "x\ny"),
        (THINK, f"{T}<answer>C", None, "<answer>C", "x\ny"),
        (THINK, f"{T}<answer> </answer>", None, None, "x\ny"),
        (THINK, "<think>it may be B, or", None, None, None),
        (THINK, "B", None, "B", None),
        (NOTHINK, A, "B", "B", None),
        (NOTHINK, "B", None, "B", None),
        (NOTHINK, f"<answer>B</answer><answer>C</answer>{A}", "B", "B", None),
        (NOTHINK, "<think>B", None, None, None),
        (NOTHINK, T, None, None, "x\ny"),
        (AFTER, A + T, "B", "B", "x\ny"),
        (AFTER, f"{A}<think>but C", None, "B", None),
        (AFTER, f"B {T}", None, "B", "x\ny"),
        (RAW, " B\n", "B", "B", None),
        (RAW, A, A, "B", None),
        (RAW, "", None, None, None),
    ],
)
def test_what_is_read_back(strategy, completion, answer, lenient, thought):
    parsed = strategy.parse(completion)
    assert (parsed.answer, parsed.lenient, parsed.thought) == (answer, lenient, thought)


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "B", "x"]), max_size=12).map(
    "".join
)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@given(completion=st.lists(PIECES, max_size=12).map("".join))
def test_an_answer_is_read_from_a_well_formed_completion_only_and_stands_in_it(strategy, completion):
    parsed = strategy.parse(completion)
    if parsed.answer is not None:
        assert parsed.well_formed
        assert parsed.answer in completion
        assert parsed.answer == parsed.answer.strip() != ""
    if strategy.tagged and "<answer>" not in completion:
        assert not parsed.well_formed


@pytest.mark.parametrize(("answer_form", "marks"), [("letter", ["A)", "B)", "C)"]), ("text", ["-"] * 3)])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_the_prompt_holds_question_options_and_instruction_but_no_path(strategy, answer_form, marks):
    first, *options, instruction = strategy.question(CT, answer_form).split("\n")
    assert (first, options) == ("Which?", [f"{mark} {option}" for mark, option in zip(marks, CT.options, strict=True)])
    assert ("<answer>" in instruction, "<think>" in instruction) == (strategy.tagged, strategy.thinks)
    assert ("letter" in instruction) == (answer_form == "letter")
    assert "a.png" not in strategy.question(CT, answer_form)


def test_the_prompt_of_a_question_without_options():
    yesno = Sample(id="1", images=(), question="Is it?", golds=("yes",), kind=Kind.YESNO)
    assert NOTHINK.question(yesno, "letter") == "Is it?\nGive yes or no inside <answer></answer> and nothing else."
    free = Sample(id="1", images=(), question="What?", golds=("a mass",), kind=Kind.OPEN)
    assert RAW.question(free, "letter") == "What?\nGive the answer and nothing else."


def test_ten_options_have_ten_letters():
    many = Sample(id="1", images=(), question="?", golds=("9",), options=tuple("0123456789"), gold_index=9)
    assert THINK.question(many, "letter").split("\n")[-2] == "J) 9"
    assert gold_answer(many, "letter") == LETTERS[-1]


@pytest.mark.parametrize(("name", "near"), [("thnk", "think"), ("think-after", "think_after"), ("no_think", "nothink")])
def test_an_unknown_strategy_suggests_the_nearest(name, near):
    with pytest.raises(RecipeError, match=f"unknown strategy '{name}'. Did you mean '{near}'?"):
        strategy_of(name)
    assert strategy_of(near) is STRATEGIES[near]
