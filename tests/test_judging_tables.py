"""Agreement and length bias: against scikit-learn, statsmodels, scipy, and small cases by hand."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import cohen_kappa_score

from osler.judging import slopes
from osler.judging.slopes import logistic_slope
from osler.judging.tables import agreed, crossed

scores = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def own(rows):
    return [str(number) for number in range(len(rows))]


@given(scores)
def test_kappa_is_scikit_learns(pairs):
    a, b = zip(*pairs, strict=True)
    found = agreed(a, b, own(a))
    if len(set(a) | set(b)) == 1:
        assert found.kappa.value is None
    else:
        assert found.kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=[0, 1]))
    assert found.kappa.agreement.value == pytest.approx(np.mean(np.array(a) == np.array(b)))
    assert found.kappa.n == sum(map(sum, found.table)) == len(pairs)
    assert found.table[1][0] == pairs.count((1, 0))


def test_kappa_by_hand():
    """Cohen's own kind of table: 20 and 15 agreed of 50, marginals 25/25 and 30/20, so (0.7 - 0.5) / (1 - 0.5)."""
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = agreed(a, b, own(a))
    assert found.kappa.value == pytest.approx(0.4)
    assert found.table == ((15, 10), (5, 20))
    assert found.to_json()["table"] == [[15, 10], [5, 20]]
    assert found.to_json()["kappa"]["n"] == 50


def test_the_interval_of_kappa_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, covered = 0.6, 0
    for seed in range(60):
        a = rng.integers(0, 2, 200)
        b = np.where(rng.random(200) < 0.8, a, 1 - a)  # agree on 0.8 where chance agrees on 0.5
        found = agreed(a.tolist(), b.tolist(), own(a), seed).kappa
        covered += found.ci_low <= truth <= found.ci_high
    assert 52 <= covered <= 60


def test_rows_of_one_cluster_count_for_less():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 2, 60)
    b = np.where(rng.random(60) < 0.8, a, 1 - a)
    a, b = np.repeat(a, 4).tolist(), np.repeat(b, 4).tolist()
    alone, together = agreed(a, b, own(a)).kappa, agreed(a, b, [str(i // 4) for i in range(240)]).kappa
    assert alone.value == together.value
    assert (together.ci_high - together.ci_low) > 1.6 * (alone.ci_high - alone.ci_low)


def test_no_rows_and_uneven_rows():
    assert agreed([], [], []).kappa.value is None
    with pytest.raises(ValueError, match="2 judgements cannot be paired with 1"):
        agreed([1, 0], [1], ["a", "b"])


def test_the_two_by_two_by_hand():
    right, sound = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]
    found = crossed(right, sound, own(right))
    assert found.counts == (2, 1, 1, 3)
    assert found.difference.value == pytest.approx(2 / 3 - 1 / 4)
    assert found.difference.n == 7
    assert found.fisher_p == pytest.approx(fisher_exact([[2, 1], [1, 3]]).pvalue)
    assert crossed(right, sound, ["one"] * 7).fisher_p is None, "Fisher's test takes rows for independent"


def test_a_two_by_two_with_an_empty_side_claims_nothing():
    found = crossed([1, 1], [1, 0], ["a", "b"])
    assert (found.counts, found.difference.value, found.fisher_p) == ((1, 1, 0, 0), None, None)
    assert crossed([], [], []).counts == (0, 0, 0, 0)


# --- length


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.8])
def test_the_slope_is_that_of_statsmodels(slope):
    rng = np.random.default_rng(2)
    x = rng.normal(5, 0.6, 500)
    y = (rng.random(500) < 1 / (1 + np.exp(-slope * (x - 5)))).astype(int)
    found = logistic_slope(y.tolist(), x.tolist(), own(x))
    fitted = sm.Logit(y, sm.add_constant(x)).fit(disp=0)
    assert found.value == pytest.approx(fitted.params[1], abs=1e-6)
    low, high = fitted.conf_int()[1]
    width = high - low
    assert found.ci_low == pytest.approx(low, abs=0.15 * width)
    assert found.ci_high == pytest.approx(high, abs=0.15 * width)
    assert found.n == 500


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=40), rng.integers(0, 2, 40).astype(float)
    weights = rng.integers(0, 4, 40)
    long = sm.Logit(np.repeat(y, weights), sm.add_constant(np.repeat(x, weights))).fit(disp=0)
    found = slopes._slopes(np.stack([weights, np.ones(40)]).astype(float), x, y)
    assert found[0] == pytest.approx(long.params[1], abs=1e-6)
    assert found[1] == pytest.approx(sm.Logit(y, sm.add_constant(x)).fit(disp=0).params[1], abs=1e-6)


def test_the_slopes_interval_widens_with_clusters():
    rng = np.random.default_rng(4)
    x = rng.normal(size=80)
    y = (rng.random(80) < 1 / (1 + np.exp(-x))).astype(int)
    x, y = np.repeat(x, 4).tolist(), np.repeat(y, 4).tolist()
    alone, together = logistic_slope(y, x, own(x)), logistic_slope(y, x, [str(i // 4) for i in range(320)])
    assert alone.value == pytest.approx(together.value)
    assert together.ci_high - together.ci_low > 1.6 * (alone.ci_high - alone.ci_low)


@pytest.mark.parametrize(("y", "x"), [([0, 0, 1, 1], [1, 2, 3, 4]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([0, 1, 0, 1], [2, 2, 2, 2])])
def test_what_has_no_slope_has_none(y, x):
    found = logistic_slope(y, x, own(y))
    assert (found.value, found.ci_low, found.ci_high, found.n) == (None, None, None, 4)


def test_too_few_rows_have_a_slope_and_no_interval():
    found = logistic_slope([0, 1, 0, 1], [1, 2, 3, 4], own("abcd"))
    assert found.value == pytest.approx(sm.Logit([0, 1, 0, 1], sm.add_constant([1.0, 2, 3, 4])).fit(disp=0).params[1])
    assert found.ci_low is found.ci_high is None
    assert logistic_slope([], [], []).n == 0
    with pytest.raises(ValueError, match="1 scores cannot be held against 2 values"):
        logistic_slope([1], [1, 2], ["a"])
