"""Which number a verdict becomes, and when there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.errors import RecipeError
from osler.rewards import REWARDS, accuracy, format_reward, reward_of, total
from osler.schema import Outcome, Parsed, Sample, Verdict

SAMPLE = Sample(id="1", images=(), question="?", golds=("CT",), options=("CT", "MRI"), gold_index=0)


@pytest.mark.parametrize(("outcome", "value"), [(Outcome.CORRECT, 1.0), (Outcome.INCORRECT, 0.0), (Outcome.UNJUDGED, None)])
def test_accuracy_is_the_strict_outcome_and_nothing_where_it_was_not_judged(outcome, value):
    verdict = Verdict(outcome, Outcome.CORRECT, compared=None, gold="A")
    assert accuracy(SAMPLE, Parsed("A", "A", None, well_formed=True), verdict, {}) == value


@pytest.mark.parametrize("well_formed", [True, False])
def test_the_format_is_paid_whatever_the_answer_is(well_formed):
    verdict = Verdict(Outcome.INCORRECT, Outcome.INCORRECT, compared=None, gold="A")
    assert format_reward(SAMPLE, Parsed(None, None, None, well_formed), verdict, {}) == float(well_formed)


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


def half(sample, parsed, verdict, scores):
    return 0.5


def test_a_function_of_ones_own_is_a_reward():
    assert reward_of(f"{__name__}:half") is half
    assert reward_of("accuracy") is REWARDS["accuracy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "unknown reward 'acuracy'. Did you mean 'accuracy'?"),
        ("Format", "Did you mean 'format'?"),
        ("speed", "Known: accuracy, format. Or package.module:function."),
        ("osler.rewards:", "unknown reward"),
        (":half", "unknown reward"),
        (".rewards:half", "unknown reward"),
        ("no_such_package.module:half", "No module named 'no_such_package'"),
        ("osler.rewards:halff", "has no attribute 'halff'"),
        ("math:pi", "is no function"),
    ],
)
def test_a_reward_that_is_none(name, message):
    with pytest.raises(RecipeError) as error:
        reward_of(name)
    assert message in str(error.value)


def test_an_error_inside_ones_own_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("int('x')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="invalid literal"):
        reward_of("broken_reward:half")
