"""Intervals against scipy's, against hand-made cases, and against how often they hold the truth."""

from time import perf_counter

import numpy as np
import pytest
from scipy import stats as scipy_stats

from osler.stats import EMPTY, Estimate, macro, paired_difference, proportion


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (812, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_independent_rows_have_wilsons_interval(right, n, level):
    estimate = proportion([True] * right + [False] * (n - right), level=level)
    expected = scipy_stats.binomtest(right, n).proportion_ci(level, method="wilson")
    assert (estimate.value, estimate.n) == (right / n, n)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_row_a_cluster_is_the_same_as_no_clusters():
    correct = [True, False, True, True]
    assert proportion(correct, ["d", "a", "c", "b"]) == proportion(correct)


def bootstrapped(sums, sizes):
    def pooled(sums, sizes, axis=-1):
        return sums.sum(axis) / sizes.sum(axis)

    result = scipy_stats.bootstrap(
        (sums, sizes), pooled, paired=True, vectorized=True, method="percentile", n_resamples=10_000, rng=1, batch=1000
    )
    return result.confidence_interval


@pytest.mark.parametrize("credit", [(0.0, 1.0), tuple(np.linspace(0, 1, 997))], ids=["few kinds", "many kinds"])
def test_the_clustered_interval_agrees_with_scipys(credit):
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 4, size=300)
    index = np.repeat(np.arange(300), sizes)
    values = rng.choice(credit, size=len(index))
    estimate = proportion(list(values), [f"image {i}" for i in index])
    expected = bootstrapped(np.bincount(index, weights=values), sizes)
    assert (estimate.value, estimate.n) == (pytest.approx(values.mean()), len(values))
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_the_paired_difference_agrees_with_scipys():
    rng = np.random.default_rng(5)
    a, b = rng.random(400) < 0.7, rng.random(400) < 0.6
    estimate = paired_difference(list(a), list(b))
    expected = bootstrapped(a.astype(float) - b, np.ones(400))
    assert (estimate.value, estimate.n) == (pytest.approx(a.mean() - b.mean()), 400)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_copies_of_a_row_do_not_narrow_the_interval():
    correct, images = [True, False] * 50, [f"image {i}" for i in range(100)]
    once, thrice = proportion(correct), proportion(correct * 3, images * 3)
    assert (thrice.value, thrice.n) == (0.5, 300)
    assert thrice.ci_high - thrice.ci_low == pytest.approx(once.ci_high - once.ci_low, abs=0.01)


def test_the_clustered_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = {"clustered": 0, "independent": 0}
    for _ in range(200):
        chance_of_image = rng.beta(1, 1, size=80)  # their mean, the truth, is 1/2
        index = np.repeat(np.arange(80), rng.integers(1, 6, size=80))
        correct = list(rng.random(len(index)) < chance_of_image[index])
        for name, clusters in (("clustered", [str(i) for i in index]), ("independent", None)):
            estimate = proportion(correct, clusters)
            held[name] += estimate.ci_low <= 0.5 <= estimate.ci_high
    assert 0.91 <= held["clustered"] / 200 <= 0.98
    assert held["independent"] / 200 < 0.90


@pytest.mark.parametrize("right", [True, False])
def test_clusters_that_agree_have_wilsons_interval_of_their_number(right):
    estimate = proportion([right] * 30, [f"image {i % 10}" for i in range(30)])
    expected = proportion([right] * 10)
    assert (estimate.value, estimate.n) == (float(right), 30)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((expected.ci_low, expected.ci_high))


def test_a_single_cluster_says_little():
    estimate = proportion([True, True, False], ["image"] * 3)
    assert estimate.ci_low < 0.2 < 0.9 < estimate.ci_high


def test_pairs_that_never_differ_do_not_prove_a_difference_of_zero():
    unseen = proportion([False] * 20).ci_high
    estimate = paired_difference([True] * 20, [True] * 20)
    assert estimate == Estimate(0.0, pytest.approx(-unseen), pytest.approx(unseen), 20)
    always = paired_difference([True] * 20, [False] * 20)
    assert always == Estimate(1.0, pytest.approx(1 - 2 * unseen), 1.0, 20)


def test_the_interval_is_the_same_each_time_and_moves_with_the_seed():
    credits, images = [i / 99 for i in range(100)], [f"image {i // 2}" for i in range(100)]
    assert proportion(credits, images) == proportion(credits, images)
    assert proportion(credits, images).value == proportion(credits, images, seed=1).value
    assert proportion(credits, images) != proportion(credits, images, seed=1)


@pytest.mark.parametrize("credit", [(0.0, 1.0), tuple(np.linspace(0, 1, 9973))], ids=["few kinds", "many kinds"])
def test_ten_thousand_rows_take_no_time_that_one_would_notice(credit):
    values = list(np.random.default_rng(0).choice(credit, size=10_000))
    start = perf_counter()
    proportion(values, [f"image {i // 2}" for i in range(10_000)])
    assert perf_counter() - start < 5


def test_no_rows_is_empty_and_not_zero():
    for estimate in (proportion([]), proportion([], []), paired_difference([], [])):
        assert estimate == EMPTY
        assert estimate.to_json() == {"value": None, "ci_low": None, "ci_high": None, "n": 0}
        assert str(estimate) == "no rows"


def test_an_estimate_prints_in_percent():
    assert str(Estimate(0.712, 0.679, 0.743, 812)) == "71.2 % [67.9, 74.3], n = 812"


def test_the_macro_mean_counts_each_estimate_once_and_no_empty_one():
    assert macro([proportion([True] * 90 + [False] * 10), EMPTY, proportion([True, False])]) == pytest.approx(0.7)
    assert macro([EMPTY]) is None
    assert macro([]) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        proportion([0.5, 1.5])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        proportion([0.5, float("nan")])
    with pytest.raises(ValueError, match="2 rows have 1 cluster names"):
        proportion([True, False], ["image"])
    with pytest.raises(ValueError, match="2 rows cannot be paired with 1"):
        paired_difference([True, False], [True])
