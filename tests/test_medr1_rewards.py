"""Forty completions and what Med-R1's repository pays for each: written down from what is known of it, not from our code.

Its accuracy is the first `<answer>(.*?)</answer>`, in which `.` crosses no line, stripped, equal to the gold letter; without
such tags the whole completion, stripped. Its format is a full match in which `.` does cross lines:

    think         <think>.*?</think>\\s*<answer>.*?</answer>
    no-think      \\s*<answer>.*?</answer>
    think-after   <answer>.*?</answer>\\s*<think>.*?</think>
"""

import pytest

from osler.errors import RecipeError
from osler.grading import grader
from osler.rewards.answered import Answered
from osler.rewards.medr1 import medr1_accuracy, medr1_format
from osler.rewards.terms import REWARDS, settings_of
from osler.schema import Completion, Sample
from osler.strategies import STRATEGIES

OPTIONS = ("MRI", "Ultrasound", "CT", "X-ray")

CASES = [  # completion, gold; accuracy; format for think, no-think, think-after
    ("C", "C", 1, 0, 0, 0),
    ("  C\n", "C", 1, 0, 0, 0),
    ("B", "C", 0, 0, 0, 0),
    ("c", "C", 0, 0, 0, 0),
    ("C)", "C", 0, 0, 0, 0),
    ("C) CT", "C", 0, 0, 0, 0),
    ("C.", "C", 0, 0, 0, 0),
    ("The answer is C", "C", 0, 0, 0, 0),
    ("CT", "C", 0, 0, 0, 0),
    ("", "C", 0, 0, 0, 0),
    ("<answer>C</answer>", "C", 1, 0, 1, 0),
    ("<answer> C </answer>", "C", 1, 0, 1, 0),
    ("<answer>\tC </answer>", "C", 1, 0, 1, 0),
    ("<answer>\nC\n</answer>", "C", 0, 0, 1, 0),  # the form crosses lines, the answer does not
    ("<answer>C\n</answer>", "C", 0, 0, 1, 0),
    ("<answer>B</answer>", "C", 0, 0, 1, 0),
    ("<answer>c</answer>", "C", 0, 0, 1, 0),
    ("<answer>C) CT</answer>", "C", 0, 0, 1, 0),
    ("<answer>CT</answer>", "C", 0, 0, 1, 0),
    ("<answer></answer>", "C", 0, 0, 1, 0),
    ("  <answer>C</answer>", "C", 1, 0, 1, 0),
    ("\n<answer>C</answer>", "C", 1, 0, 1, 0),
    ("<answer>C</answer>\n", "C", 1, 0, 0, 0),  # a break behind the last tag breaks the form
    ("<answer>C</answer> and no other", "C", 1, 0, 0, 0),
    ("I say <answer>C</answer>", "C", 1, 0, 0, 0),
    ("<Answer>C</Answer>", "C", 0, 0, 0, 0),
    ("<answer>C", "C", 0, 0, 0, 0),
    ("<answer>B</answer><answer>C</answer>", "C", 0, 0, 1, 0),  # only the first counts; the form swallows the rest
    ("<answer>C</answer><answer>B</answer>", "C", 1, 0, 1, 0),
    ("<answer>\nB\n</answer><answer>C</answer>", "C", 1, 0, 1, 0),  # the first that is read at all
    ("<think>A scan.</think><answer>C</answer>", "C", 1, 1, 0, 0),
    ("<think>A\nscan.</think>\n\n<answer>C</answer>", "C", 1, 1, 0, 0),
    ("<think></think><answer>C</answer>", "C", 1, 1, 0, 0),
    (" <think>A scan.</think><answer>C</answer>", "C", 1, 0, 0, 0),  # leading space is for no-think only
    ("<think>A scan.</think> so <answer>C</answer>", "C", 1, 0, 0, 0),
    ("<think>Not <answer>B</answer></think><answer>C</answer>", "C", 0, 1, 0, 0),  # the first stands in the thought
    ("<think>A scan.</think>C", "C", 0, 0, 0, 0),
    ("<answer>C</answer><think>A scan.</think>", "C", 1, 0, 0, 1),
    ("<answer>C</answer>\n<think>A\nscan.</think>", "C", 1, 0, 0, 1),
    ("<answer>C</answer><think>Or <answer>B</answer></think>", "C", 1, 0, 0, 1),
]


def answered(completion, gold, strategy="think"):
    place = "ABCD".index(gold)
    sample = Sample(id="1", images=(), question="?", golds=(OPTIONS[place],), options=OPTIONS, gold_index=place)
    parsed = STRATEGIES[strategy].parse(completion)
    return Answered(sample, Completion(completion, None, False), parsed, grader("letter")(sample, parsed))


def test_there_are_forty():
    assert len({completion for completion, *_ in CASES}) == 40


@pytest.mark.parametrize(("completion", "gold", "accuracy", "think", "nothink", "think_after"), CASES)
def test_a_completion_is_paid_as_there(completion, gold, accuracy, think, nothink, think_after):
    one = answered(completion, gold)
    assert medr1_accuracy(one) == accuracy
    assert medr1_format(one, form="think") == think
    assert medr1_format(one, form="nothink") == nothink
    assert medr1_format(one, form="think_after") == think_after


@pytest.mark.parametrize("case", CASES)
def test_no_strategy_changes_its_accuracy(case):
    """It reads the raw completion, whatever was asked for."""
    assert {medr1_accuracy(answered(*case[:2], strategy)) for strategy in STRATEGIES} == {float(case[2])}


def test_the_cases_tell_its_rewards_from_ours():
    """Where they always agreed, nobody would need both."""
    ones = [answered(*case[:2]) for case in CASES]
    assert any(medr1_accuracy(one) != REWARDS["accuracy"](one) for one in ones)
    assert all(medr1_format(one, form="think") == REWARDS["format"](one) for one in ones)


def test_the_form_is_the_strategys_unless_it_is_set():
    for strategy in ("think", "nothink", "think_after"):
        assert settings_of("medr1_format", medr1_format, {}, {"form": strategy}) == {"form": strategy}
    assert settings_of("medr1_format", medr1_format, {"form": "nothink"}, {"form": "think"}) == {"form": "nothink"}
    with pytest.raises(RecipeError, match=r"'medr1_format': settings.form: .*\(got 'thnk'\)"):
        settings_of("medr1_format", medr1_format, {"form": "thnk"}, {})
