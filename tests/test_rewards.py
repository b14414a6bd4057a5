"""Which number a completion becomes, when there is none, and which lists of rewards are refused before anything is loaded."""

import math

import pytest
import trl.rewards.accuracy_rewards
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import get_cosine_scaled_reward

from osler.config import Recipe
from osler.errors import RecipeError
from osler.grading import grader
from osler.rewards.answered import Answered
from osler.rewards.lengths import cwr, ecr, length_cosine, length_linear
from osler.rewards.terms import REWARDS, Term, check_rewards, reward_of, terms_of, total
from osler.schema import Completion, Kind, Outcome, Parsed, Sample, Verdict
from osler.strategies import STRATEGIES

CHOICE = Sample(id="1", images=(), question="?", golds=("CT",), options=("CT", "MRI scan"), gold_index=0)
YESNO = Sample(id="2", images=(), question="?", golds=("yes",), kind=Kind.YESNO)
OPEN = Sample(id="3", images=(), question="?", golds=("left lower lobe", "the left lung"), kind=Kind.OPEN)


def answered(sample, text, form="letter", strategy="nothink", tokens=10):
    """`text` as the answer, in tags unless it has some."""
    text = text if "<" in text else f"<answer>{text}</answer>"
    parsed = STRATEGIES[strategy].parse(text)
    return Answered(sample, Completion(text, tokens, False), parsed, grader(form)(sample, parsed))


def judged(outcome, tokens=10, well_formed=True):
    """A completion of which only the verdict, the length and the form matter."""
    verdict = Verdict(outcome, Outcome.CORRECT, compared=None, gold="A")
    return Answered(CHOICE, Completion("", tokens, False), Parsed("A", "A", None, well_formed), verdict)


OUTCOMES = [(Outcome.CORRECT, 1.0), (Outcome.INCORRECT, 0.0), (Outcome.UNJUDGED, None)]


@pytest.mark.parametrize(("outcome", "value"), OUTCOMES)
def test_accuracy_is_the_strict_outcome_and_nothing_where_it_was_not_judged(outcome, value):
    assert REWARDS["accuracy"](judged(outcome)) == value


@pytest.mark.parametrize("well_formed", [True, False])
def test_the_format_is_paid_whatever_the_answer_is(well_formed):
    assert REWARDS["format"](judged(Outcome.INCORRECT, well_formed=well_formed)) == float(well_formed)


@pytest.mark.parametrize(
    ("name", "sample", "form", "text", "value"),
    [
        ("letter", CHOICE, "letter", "A", 1.0),
        ("letter", CHOICE, "letter", " A ", 1.0),
        ("letter", CHOICE, "letter", "a", 0.0),
        ("letter", CHOICE, "letter", "A) CT", 0.0),
        ("letter", CHOICE, "letter", "CT", 0.0),
        ("letter", YESNO, "letter", "yes", None),
        ("exact", CHOICE, "letter", "A", 1.0),  # the letter stands for its option
        ("exact", CHOICE, "letter", "B", 0.0),
        ("exact", CHOICE, "letter", "AB", 0.0),
        ("exact", CHOICE, "text", " ct. ", 1.0),
        ("exact", CHOICE, "text", "A", 0.0),
        ("exact", OPEN, "text", "The left  lung", 1.0),
        ("exact", OPEN, "text", "lung", 0.0),
        ("yes_no", YESNO, "text", "Yes", 1.0),
        ("yes_no", YESNO, "text", "Yes, it does.", 1.0),
        ("yes_no", YESNO, "text", "No", 0.0),
        ("yes_no", YESNO, "text", "yes and no", 0.0),
        ("yes_no", YESNO, "text", "yesterday", 0.0),
        ("yes_no", OPEN, "text", "yes", None),
        ("token_f1", OPEN, "text", "left lung", 4 / 5),  # of the second gold; 2/5 of the first
        ("token_f1", OPEN, "text", "lobe lower left", 1.0),
        ("token_f1", CHOICE, "letter", "B", 0.0),
        ("rouge_l", OPEN, "text", "lobe lower left", 1 / 3),
        ("rouge_l", OPEN, "text", "left lower lobe.", 1.0),
    ],
)
def test_accuracy_in_other_forms(name, sample, form, text, value):
    assert REWARDS[name](answered(sample, text, form)) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize("name", ["letter", "exact", "token_f1", "rouge_l"])
@pytest.mark.parametrize("text", ["<answer>A", "A<answer>", "<answer></answer>", "<think>A</think>"])
def test_without_a_strict_answer_nothing_is_right(name, text):
    assert REWARDS[name](answered(CHOICE, text)) == 0.0


def test_a_letter_stands_for_its_option_in_measures_of_texts():
    near = Sample(id="1", images=(), question="?", golds=("left lung",), options=("left lung", "right lung"), gold_index=0)
    assert REWARDS["token_f1"](answered(near, "B")) == 0.5


@pytest.mark.parametrize(
    ("thought", "answer", "value"),
    [("So it is a CT. The answer is A.", "A", 1.0), ("The answer is B.", "A", 0.0), ("?", "A", 0.0)],
)
def test_consistency_pays_for_a_thought_that_concludes_the_answer(thought, answer, value):
    text = f"<think>{thought}</think><answer>{answer}</answer>"
    assert REWARDS["consistency"](answered(CHOICE, text, strategy="think"), answer_form="letter") == value


def test_visual_reliance_is_what_the_engine_measured():
    one = judged(Outcome.CORRECT)
    assert REWARDS["visual_reliance"](one) is None
    for score in (0.25, None):
        scored = Answered(one.sample, one.completion, one.parsed, one.verdict, {"visual_reliance": score})
        assert REWARDS["visual_reliance"](scored) == score


# --- length


@given(tokens=st.integers(1, 300), longest=st.integers(1, 200))
def test_ecr_pays_for_length_and_cwr_for_that_of_right_answers_alone(tokens, longest):
    right, wrong, unjudged = (judged(outcome, tokens) for outcome, _ in OUTCOMES)
    assert ecr(right, max_tokens=longest) == ecr(wrong, max_tokens=longest) == min(tokens, longest) / longest
    assert cwr(right, max_tokens=longest) == ecr(right, max_tokens=longest)
    assert cwr(wrong, max_tokens=longest) == 0.0
    assert cwr(unjudged, max_tokens=longest) is None


def test_a_length_that_nobody_counted_is_no_length():
    for reward in (ecr, cwr, length_linear, length_cosine):
        assert reward(judged(Outcome.CORRECT, None), max_tokens=8) is None


@pytest.mark.parametrize("outcome", [Outcome.CORRECT, Outcome.INCORRECT])
@pytest.mark.parametrize("tokens", [1, 10, 50, 99, 100, 150])
def test_the_cosine_is_trls(outcome, tokens, monkeypatch):
    right = float(outcome is Outcome.CORRECT)
    monkeypatch.setattr(trl.rewards.accuracy_rewards, "accuracy_reward", lambda *_: [right])
    theirs = get_cosine_scaled_reward(max_len=100)([[{"content": ""}]], [""], [[0] * tokens])[0]
    assert length_cosine(judged(outcome, tokens), max_tokens=100) == pytest.approx(theirs)


VALUES = st.fixed_dictionaries(
    {f"{verdict}_{end}": st.floats(-3, 3) for verdict in ("correct", "wrong") for end in ("short", "long")}
)


@given(values=VALUES, share=st.floats(0, 2))
@pytest.mark.parametrize("reward", [length_linear, length_cosine])
@pytest.mark.parametrize("outcome", [Outcome.CORRECT, Outcome.INCORRECT])
def test_a_length_is_paid_between_its_two_ends(reward, outcome, values, share):
    which = "correct" if outcome is Outcome.CORRECT else "wrong"
    short, long = values[f"{which}_short"], values[f"{which}_long"]
    paid = [reward(judged(outcome, tokens), max_tokens=1000, **values) for tokens in (0, int(share * 1000), 1000, 2000)]
    assert paid[0] == pytest.approx(short)
    assert paid[2] == paid[3] == pytest.approx(long)
    assert min(short, long) - 1e-9 <= paid[1] <= max(short, long) + 1e-9
    half = reward(judged(outcome, 500), max_tokens=1000, **values)
    assert half == pytest.approx((short + long) / 2)
    assert reward(judged(Outcome.UNJUDGED, 500), max_tokens=1000, **values) is None


def test_the_cosine_is_flat_at_its_ends_and_the_line_is_not():
    cosine, line = (
        [reward(judged(Outcome.CORRECT, tokens), max_tokens=100) for tokens in (0, 10)]
        for reward in (length_cosine, length_linear)
    )
    assert line == pytest.approx([1.0, 0.95])
    assert cosine == pytest.approx([1.0, 0.75 + 0.25 * math.cos(math.pi / 10)])


def test_repetition_is_a_penalty():
    text = "the lung is clear the lung is clear"
    assert REWARDS["repetition"](answered(OPEN, text), n=2) == pytest.approx(-3 / 9)  # with the word of either tag: 10 words
    assert REWARDS["repetition"](answered(OPEN, "<answer>clear</answer>")) == 0.0


# --- weights and gates


PART = st.none() | st.floats(-2, 2)
WEIGHT = st.just(0.0) | st.floats(-2, 2)


@given(terms=st.lists(st.tuples(PART, WEIGHT), max_size=5))
def test_a_total_is_none_just_where_a_part_that_counts_is_none(terms):
    found = total([part for part, _ in terms], [weight for _, weight in terms])
    if any(part is None and weight != 0 for part, weight in terms):
        assert found is None
    else:
        assert found == pytest.approx(sum((part or 0) * weight for part, weight in terms))


def test_every_part_has_a_weight():
    with pytest.raises(ValueError, match="zip"):
        total([1.0, None], [1.0])


@pytest.mark.parametrize(
    ("gate", "paid"), [("none", (0.3,) * 4), ("correct", (0.3, 0.3, 0, None)), ("format", (0.3, 0, 0.3, 0.3))]
)
def test_a_gate_lets_through_what_is_right_or_in_form(gate, paid):
    term = Term("x", abs, {}, 1.0, gate, True)
    ones = [
        judged(Outcome.CORRECT),
        judged(Outcome.CORRECT, well_formed=False),
        judged(Outcome.INCORRECT),
        judged(Outcome.UNJUDGED),
    ]
    assert tuple(term.gated(0.3, one) for one in ones) == paid
    unknown = [None if one in (0.3, None) else 0 for one in paid]  # where the gate is shut, what is behind it does not matter
    assert [term.gated(None, one) for one in ones] == unknown


# --- names and settings


def half(completions, **columns):
    return [0.5] * len(completions)


def of_threshold(completions, threshold, **columns):
    return [threshold] * len(completions)


def unfinished(completions):
    return [0.5] * len(completions)


async def slow(completions, **columns):
    return [0.5] * len(completions)


class Slow:
    async def __call__(self, completions, **columns):
        return [0.5] * len(completions)


slow_too = Slow()


def test_a_function_of_ones_own_is_a_reward():
    assert reward_of(f"{__name__}:half") is half
    assert reward_of("accuracy") is REWARDS["accuracy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "unknown reward 'acuracy'. Did you mean 'accuracy'?"),
        ("Format", "Did you mean 'format'?"),
        ("medr1_acuracy", "Did you mean 'medr1_accuracy'?"),
        ("speed", "yes_no. Or package.module:function."),
        ("osler.rewards.terms:", "unknown reward"),
        (":half", "unknown reward"),
        (".rewards:half", "unknown reward"),
        ("no_such_package.module:half", "No module named 'no_such_package'"),
        ("osler.rewards.terms:halff", "has no attribute 'halff'"),
        ("math:pi", "is no function"),
        (f"{__name__}:slow", "is async, and rewards are not awaited"),
        (f"{__name__}:slow_too", "is async, and rewards are not awaited"),
    ],
)
def test_a_reward_that_is_none(name, message):
    with pytest.raises(RecipeError) as error:
        reward_of(name)
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("int('x')\n", "ValueError: invalid literal"), ("def half(:\n", "SyntaxError")])
def test_an_error_inside_ones_own_module_is_told(tmp_path, monkeypatch, text, said):
    (tmp_path / f"broken_reward_{said[:6]}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=f"cannot be imported: {said}"):
        reward_of(f"broken_reward_{said[:6]}:half")


def recipe(*rewards, **changes):
    return Recipe.model_validate({"rewards": rewards, "strategy": "think", **changes})


def test_settings_come_from_the_list_else_from_the_recipe_else_by_default():
    listed = (
        {"name": "ecr"},
        {"name": "length_linear", "settings": {"max_tokens": 9, "wrong_long": "1e-3"}},
        {"name": "medr1_format"},
    )
    first, second, third = terms_of(recipe(*listed, rollout={"max_tokens": 77}, strategy="think_after"))
    assert first.settings == {"max_tokens": 77}
    assert second.settings == {
        "max_tokens": 9,
        "correct_short": 1.0,
        "correct_long": 0.5,
        "wrong_short": -1.0,
        "wrong_long": 0.001,
    }
    assert third.settings == {"form": "think_after"}


def test_one_name_twice_has_two_names_in_the_logs():
    first, second = terms_of(recipe({"name": "ecr"}, {"name": "ecr", "gate": "correct"}))
    assert (first.name, second.name) == ("ecr", "ecr-2")


NEEDY = {
    "semantic_alignment": ({}, {"judge": {"model": "phantoms"}}),
    "reasoning_quality": ({"by": "keywords"}, {}),
    "open_accuracy": ({"by": "embedding"}, {"embedder": "folder"}),
}
"""Rewards that need a setting, or somebody to score them (tests/test_judged_rewards.py)."""


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_reward_of_osler_is_ready_with_what_it_cannot_do_without(name):
    settings, changes = NEEDY.get(name, ({}, {}))
    check_rewards(recipe({"name": name, "settings": settings}, **changes))


@pytest.mark.parametrize(
    ("rewards", "changes", "message"),
    [
        ([{"name": "acuracy"}], {}, "Did you mean 'accuracy'?"),
        (
            [{"name": "ecr", "settings": {"max_tokns": 3}}],
            {},
            "reward 'ecr': unknown setting 'max_tokns'. Did you mean 'max_tokens'?",
        ),
        (
            [{"name": "ecr", "settings": {"max_tokens": 0}}],
            {},
            "reward 'ecr': settings.max_tokens: Input should be greater than 0",
        ),
        ([{"name": "ecr", "settings": {"max_tokens": "long"}}], {}, "settings.max_tokens: Input should be a valid integer"),
        ([{"name": "repetition", "settings": {"n": True}}], {}, "settings.n: Input should be a valid integer (got True)"),
        ([{"name": "repetition", "settings": {"n": 2.5}}], {}, "settings.n: Input should be a valid integer"),
        (
            [{"name": "length_cosine", "settings": {"wrong_long": ".nan"}}],
            {},
            "settings.wrong_long: Input should be a valid number",
        ),
        (
            [{"name": "length_cosine", "settings": {"wrong_long": math.nan}}],
            {},
            "settings.wrong_long: Input should be a finite number",
        ),
        ([{"name": "accuracy", "settings": {"n": 3}}], {}, "reward 'accuracy': it takes no settings (got 'n')"),
        ([{"name": "medr1_format", "settings": {"form": "thnk"}}], {}, "settings.form: Input should be 'think', 'nothink' or"),
        ([{"name": "accuracy", "weight": 0}], {}, "the weights of the rewards sum to 0 (accuracy 0)"),
        ([{"name": "accuracy"}, {"name": "format", "weight": -1}], {}, "sum to 0 (accuracy 1, format -1)"),
        (
            [{"name": "accuracy", "weight": 0.1}, {"name": "ecr", "weight": 0.2}, {"name": "cwr", "weight": -0.3}],
            {},
            "sum to 0",
        ),
        ([{"name": "accuracy"}] * 2, {}, "reward 'accuracy' is listed twice with the same settings and gate"),
        ([{"name": "ecr"}, {"name": "ecr", "settings": {"max_tokens": 256}}], {}, "reward 'ecr' is listed twice"),
        ([{"name": "format"}], {"strategy": "nothink_raw"}, "has no tags, so a format reward has nothing to pay for"),
        ([{"name": "medr1_format"}], {"strategy": "nothink_raw"}, "has no tags"),
        ([{"name": "ecr", "gate": "format"}], {"strategy": "nothink_raw"}, "has no tags"),
        ([{"name": "consistency"}], {"strategy": "nothink"}, "asks for no thought"),
        ([{"name": "accuracy"}], {"strategy": "thnk"}, "Did you mean 'think'?"),
        ([{"name": "letter"}], {"answer_form": "text"}, "pays for letters, and answer_form=text shows none"),
        ([{"name": "visual_reliance"}], {"engine": "trl"}, "is measured by method=grpo on engine=packed"),
        ([{"name": "accuracy"}], {"objective": {"aggregation": "gdpo", "std_norm": "none"}}, "std_norm=none does not"),
        ([{"name": "accuracy"}], {"objective": {"aggregation": "gdpo", "std_norm": "batch"}}, "std_norm=batch does not"),
        ([{"name": f"{__name__}:of_threshold"}], {}, "cannot be called: missing a required argument: 'threshold'"),
        ([{"name": f"{__name__}:unfinished"}], {}, "TRL's signature is (prompts, completions, completion_ids, **columns)"),
        (
            [{"name": f"{__name__}:half", "settings": {"golds": 1}}],
            {},
            "the setting 'golds' has the name of what every reward is",
        ),
        ([{"name": f"{__name__}:slow"}], {}, "is async"),
    ],
)
def test_rewards_that_cannot_be_paid_are_refused(rewards, changes, message):
    with pytest.raises(RecipeError) as error:
        check_rewards(recipe(*rewards, **changes))
    assert message in str(error.value)


def test_what_is_near_to_a_mistake_and_none():
    check_rewards(recipe({"name": "accuracy"}, {"name": "repetition", "weight": -0.5}))
    check_rewards(recipe({"name": "accuracy"}, {"name": "format", "weight": 0}, strategy="nothink_raw"))
    check_rewards(recipe({"name": "accuracy"}, {"name": "consistency"}, strategy="nothink", method="sft"))
    check_rewards(recipe({"name": f"{__name__}:of_threshold", "settings": {"threshold": 0.5}}))
    check_rewards(recipe({"name": "accuracy"}, objective={"aggregation": "gdpo"}))
