"""Tests of differences against scipy's and statsmodels', and on simulated runs whose truth is known."""

from itertools import product
from time import perf_counter

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power

from osler import stats
from osler.power import (
    design_effect,
    intracluster_correlation,
    minimum_detectable_difference,
    power_of_difference,
    sd_of_pairs,
)
from osler.significance import (
    benjamini_hochberg,
    hierarchical_difference,
    holm,
    mcnemar,
    paired_change,
    paired_test,
    sign_flip,
)
from osler.stats import EMPTY, paired_difference

ICC = 0.3


def image_sizes(rows):
    """The number of questions of each image, 1 to 8 in turn, `rows` in all."""
    sizes = np.tile(np.arange(1, 9), rows)
    last = int(np.searchsorted(sizes.cumsum(), rows))
    return np.append(sizes[:last], rows - sizes[:last].sum())


def images(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def simulated(rng, accuracy, index):
    """Right or wrong for each row: two rows of an image correlate by ICC, as each image has a chance of its own."""
    spread = (1 - ICC) / ICC
    chance = rng.beta(accuracy * spread, (1 - accuracy) * spread, size=index.max() + 1)
    return (rng.random(len(index)) < chance[index]).astype(float)


def rejected(runs, rows, accuracies, clustered=True, credit=1.0):
    """The share of simulated runs in which the two models differ at the 5 % level; `credit` is for a right answer."""
    rng, index = np.random.default_rng(11), images(image_sizes(rows))
    names = index.astype(str) if clustered else None
    found = 0
    for seed in range(runs):
        a, b = (simulated(rng, accuracy, index) for accuracy in accuracies)
        found += sign_flip(credit * (a - b), names, seed, draws=1000)[0] <= 0.05
    return found / runs


def test_equal_models_are_told_apart_no_more_often_than_chance_allows():
    assert rejected(1000, 400, (0.6, 0.6)) <= 0.065


def test_random_flips_keep_the_level_as_exact_ones_do():
    assert 0.02 < rejected(300, 400, (0.6, 0.6), credit=0.5) <= 0.085  # 0.05 and what 300 runs can add


def test_without_clusters_equal_models_are_told_apart_far_too_often():
    assert rejected(300, 400, (0.6, 0.6), clustered=False) > 0.12


def test_a_difference_of_five_points_is_found_as_often_as_was_computed_beforehand():
    discordant = 0.65 * 0.4 + 0.6 * 0.35
    effect = design_effect(image_sizes(2000), ICC)
    power = power_of_difference(0.05, 2000, sd_of_pairs(discordant, 0.05), effect)
    assert 0.5 < power < 0.6
    assert rejected(1000, 2000, (0.65, 0.6)) == pytest.approx(power, abs=3 * (power * (1 - power) / 1000) ** 0.5)


def test_power_can_be_planned_from_a_pilot():
    rng, index = np.random.default_rng(5), images(image_sizes(50_000))
    pilot = simulated(rng, 0.65, index) - simulated(rng, 0.6, index)
    icc = intracluster_correlation(pilot, index.astype(str))
    assert icc == pytest.approx(ICC, abs=0.02)
    assert np.mean(pilot != 0) == pytest.approx(0.65 * 0.4 + 0.6 * 0.35, abs=0.01)
    assert pilot.std() == pytest.approx(sd_of_pairs(np.mean(pilot != 0), pilot.mean()))
    assert pilot.mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("credit", [1.0, 0.3], ids=["whole", "shares"])
def test_the_flips_of_few_clusters_agree_with_scipys(seed, credit):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(9), rng.integers(1, 4, size=9))
    differences = credit * rng.integers(-1, 2, size=len(index)) + (credit < 1) * rng.normal(0, 0.1, size=len(index))
    sums = np.bincount(index, weights=differences)
    p, draws = sign_flip(differences, index.astype(str))
    expected = scipy_stats.permutation_test(
        (sums, np.zeros(9)), lambda a, b: (a - b).sum(), permutation_type="samples", n_resamples=np.inf
    )
    assert draws is None
    assert p == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_random_flips_agree_with_exact_ones(seed):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(80), rng.integers(1, 9, size=80))
    differences = rng.choice([-1, 0, 1], p=[0.2, 0.5, 0.3], size=len(index))
    exact, none = sign_flip(differences, index.astype(str))
    drawn, draws = sign_flip(differences * 0.37, index.astype(str))
    assert (none, draws) == (None, 10_000)
    assert drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 10_000) ** 0.5 + 1e-4)


def test_random_flips_never_give_zero_and_are_the_same_for_the_same_seed():
    always = [0.51] * 100
    assert sign_flip(always, draws=999) == (1 / 1000, 999)
    noise = np.random.default_rng(0).normal(size=100)
    assert sign_flip(noise) == sign_flip(noise) != sign_flip(noise, seed=1)


def test_flips_by_hand():
    assert sign_flip([1, 1, 1], ["a", "b", "c"]) == (pytest.approx(2 / 8), None)  # all up or all down, of 8
    assert sign_flip([1, 1, 1], ["a", "a", "a"]) == (pytest.approx(1), None)  # one cluster says nothing
    assert sign_flip([1, 1, -1, 0], ["a", "a", "b", "c"]) == (pytest.approx(1), None)  # 2 - 1, which every flip reaches
    assert sign_flip([0.4, 0.4, 0.4]) == (pytest.approx(2 / 8), None)
    assert sign_flip([0, 0, 0]) == (1, None)
    for signs in product([1, -1], repeat=4):
        total = abs(np.dot(signs, [1, 2, 3, 5]))
        expected = np.mean([abs(np.dot(flips, [1, 2, 3, 5])) >= total for flips in product([1, -1], repeat=4)])
        assert sign_flip(np.multiply(signs, [1, 2, 3, 5]))[0] == pytest.approx(expected)


@pytest.mark.parametrize(("n", "better", "worse"), [(50, 0, 0), (50, 3, 0), (50, 9, 4), (3000, 300, 251), (9, 4, 5)])
def test_mcnemar_agrees_with_statsmodels_and_with_the_flips(n, better, worse):
    a, b = np.ones(n), np.ones(n)
    b[:better], a[better : better + worse] = 0, 0
    table = [[n - better - worse, better], [worse, 0]]
    expected = statsmodels_mcnemar(table, exact=True).pvalue if better + worse else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    test = paired_test(a, b)
    assert (test.p, test.mcnemar_p) == (pytest.approx(expected, rel=1e-9), pytest.approx(expected, rel=1e-9))


def test_mcnemar_is_given_only_where_it_holds():
    right, wrong, names = [1, 1, 1, 0], [0, 1, 0, 0], ["a", "b", "c", "d"]
    assert paired_test(right, wrong, names).mcnemar_p == pytest.approx(0.5)
    assert paired_test(right, wrong, ["a", "b", "c", "c"]).mcnemar_p is None
    assert paired_test([0.5, 1, 1, 0], [0.5, 1, 0, 0]).mcnemar_p is None


def test_a_paired_test_counts_rows_and_clusters_and_carries_the_clustered_interval():
    rng, names = np.random.default_rng(0), [f"image {i // 3}" for i in range(300)]
    a, b = (rng.random(300) < 0.7).tolist(), (rng.random(300) < 0.6).tolist()
    test = paired_test(a, b, names)
    assert test.difference == paired_difference(a, b, names)
    assert (test.n, test.clusters, test.method, test.draws) == (300, 100, "exact", None)
    assert test.p == sign_flip(np.subtract(a, b, dtype=float), names)[0]
    shares = paired_test([0.25 * x for x in a], b, names)
    assert (shares.method, shares.draws) == ("monte carlo", 10_000)
    assert shares.to_json().items() >= {"n": 300, "clusters": 100, "method": "monte carlo", "p": shares.p}.items()


def test_the_paired_test_tells_a_pair_of_checkpoints_by_its_clusters():
    a, b = [1, 1, 1, 1, 1, 1] * 3, [0] * 18
    assert paired_test(a, b).p == pytest.approx(2**-17)
    assert paired_test(a, b, ["x"] * 6 + ["y"] * 6 + ["z"] * 6).p == pytest.approx(2 / 8)


def test_the_change_of_reliance_is_the_difference_of_the_differences():
    rng, names = np.random.default_rng(2), [f"image {i // 2}" for i in range(400)]
    sft_real, sft_blank, grpo_real, grpo_blank = ((rng.random(400) < p).astype(float) for p in (0.7, 0.5, 0.8, 0.7))
    change = paired_change((sft_real, sft_blank), (grpo_real, grpo_blank), names)
    rows = (grpo_real - grpo_blank) - (sft_real - sft_blank)
    sums = rows.reshape(200, 2).sum(axis=1)
    assert change.difference.value == pytest.approx(rows.mean())
    half_width = 1.96 * sums.std(ddof=1) / 200**0.5 / 2
    assert change.difference.ci_low == pytest.approx(rows.mean() - half_width, abs=0.01)
    assert change.difference.ci_high == pytest.approx(rows.mean() + half_width, abs=0.01)
    assert (change.p, change.draws, change.n, change.clusters) == (*sign_flip(rows, names), 400, 200)
    assert change.mcnemar_p is None
    still = paired_change((sft_real, sft_blank), (sft_real, sft_blank), names)
    assert (still.difference.value, still.p) == (0, 1)


def test_no_rows_have_no_p():
    for test in (paired_test([], []), paired_change(([], []), ([], []))):
        assert (test.difference, test.p, test.n, test.clusters, test.mcnemar_p) == (EMPTY, None, 0, 0, None)
    assert hierarchical_difference([[], []], [[], []]).difference == EMPTY


@pytest.fixture
def _fewer_resamples(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 400)


def trained(rng, accuracy, spread, seeds, index):
    return [simulated(rng, accuracy + spread * rng.normal(), index) for _ in range(seeds)]


@pytest.mark.usefixtures("_fewer_resamples")
def test_the_hierarchical_interval_holds_the_truth_where_rows_alone_do_not():
    rng, index = np.random.default_rng(4), images(image_sizes(1500))
    names, held = list(index.astype(str)), {"seeds and rows": 0, "rows": 0}
    for seed in range(120):
        a, b = (trained(rng, 0.6, 0.06, 5, index) for _ in range(2))
        found = {"seeds and rows": hierarchical_difference(a, b, names, seed=seed).difference}
        found["rows"] = paired_difference(a[0], b[0], names, seed=seed)
        for name, estimate in found.items():
            held[name] += estimate.ci_low <= 0 <= estimate.ci_high
    assert held["seeds and rows"] / 120 >= 0.9
    assert held["rows"] / 120 < 0.8


def test_the_hierarchical_difference_counts_its_seeds():
    rng, index = np.random.default_rng(4), images(image_sizes(300))
    a, b = trained(rng, 0.7, 0, 3, index), trained(rng, 0.6, 0, 4, index)
    found = hierarchical_difference(a, b, list(index.astype(str)))
    assert (found.seeds_a, found.seeds_b, found.clusters, found.difference.n) == (3, 4, index.max() + 1, 300)
    assert found.difference.value == pytest.approx(np.mean(a) - np.mean(b))
    assert found == hierarchical_difference(a, b, list(index.astype(str)))
    assert found.to_json()["seeds_b"] == 4


def test_seeds_that_do_not_differ_leave_the_interval_of_the_rows():
    rng, names = np.random.default_rng(1), [f"image {i // 2}" for i in range(600)]
    a, b = (rng.random(600) < 0.7).tolist(), (rng.random(600) < 0.6).tolist()
    found, rows = hierarchical_difference([a] * 3, [b] * 3, names).difference, paired_difference(a, b, names)
    assert (found.value, found.n) == (pytest.approx(rows.value), rows.n)
    assert (found.ci_low, found.ci_high) == pytest.approx((rows.ci_low, rows.ci_high), abs=0.004)


def test_rows_that_do_not_differ_leave_the_spread_of_the_seeds():
    a, b = np.linspace(0.5, 0.8, 12), np.linspace(0.4, 0.6, 12)
    found = hierarchical_difference([[share] * 50 for share in a], [[share] * 50 for share in b]).difference
    width = 2 * 1.96 * (a.var(ddof=1) / 12 + b.var(ddof=1) / 12) ** 0.5
    assert found.ci_high - found.ci_low == pytest.approx(width, rel=0.05)


def test_one_seed_is_no_method():
    with pytest.raises(ValueError, match="2 and 1 seeds cannot compare two methods: train at least two a side"):
        hierarchical_difference([[1, 0], [1, 1]], [[0, 1]])
    with pytest.raises(ValueError, match=r"runs of \[2, 3\] rows"):
        hierarchical_difference([[1, 0], [1, 1]], [[0, 1], [0, 1, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_p_values_agree_with_statsmodels(seed):
    rng = np.random.default_rng(seed)
    p_values = {f"contrast {i}": float(p) for i, p in enumerate(rng.random(5) ** 3)}
    assert list(holm(p_values)) == list(p_values)
    assert list(holm(p_values).values()) == pytest.approx(multipletests(list(p_values.values()), method="holm")[1])
    many = {f"cell {i}": float(p) for i, p in enumerate(rng.random(64) ** 2)} | {"a tie": 0.01, "another": 0.01}
    expected = multipletests(list(many.values()), method="fdr_bh")[1]
    assert list(benjamini_hochberg(many)) == list(many)
    assert list(benjamini_hochberg(many).values()) == pytest.approx(expected)


def test_a_family_has_at_most_five_contrasts():
    assert holm({}) == benjamini_hochberg({}) == {}
    assert holm({"only": 0.04}) == {"only": 0.04}
    with pytest.raises(ValueError, match="6 contrasts are no primary family: name at most 5"):
        holm({str(i): 0.5 for i in range(6)})
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="the p of 'b' is nan"):
            adjust({"a": 0.5, "b": float("nan")})


@pytest.mark.parametrize(("n", "effect", "level"), [(100, 1.0, 0.05), (2000, 2.4, 0.05), (600, 1.3, 0.01)])
def test_power_agrees_with_statsmodels_and_has_an_inverse(n, effect, level):
    for difference in (0.01, 0.05, 0.1):
        power = power_of_difference(difference, n, 0.7, effect, level)
        assert power == pytest.approx(normal_power(difference / 0.7, n / effect, level / 2, alternative="larger"))
        assert power == power_of_difference(-difference, n, 0.7, effect, level)
        assert minimum_detectable_difference(n, 0.7, effect, power, level) == pytest.approx(difference)
    assert minimum_detectable_difference(4 * n, 0.7) == pytest.approx(minimum_detectable_difference(n, 0.7) / 2)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="must be above 0"):
        minimum_detectable_difference(0, 0.5)
    with pytest.raises(ValueError, match="discordant"):
        sd_of_pairs(0.02, difference=0.05)
    with pytest.raises(ValueError, match="at least one row"):
        design_effect([], 0.3)


def test_the_design_effect_is_by_how_much_the_variance_of_a_mean_grows():
    assert design_effect([1, 1, 1], 0.3) == 1
    assert design_effect([4, 4], 0.3) == pytest.approx(1 + 3 * 0.3)
    index = images(image_sizes(200))
    rng = np.random.default_rng(0)
    means = [simulated(rng, 0.6, index).mean() for _ in range(4000)]
    assert np.var(means) / (0.6 * 0.4 / 200) == pytest.approx(design_effect(image_sizes(200), ICC), rel=0.07)


@pytest.mark.parametrize("seed", range(4))
def test_the_correlation_agrees_with_scipys_analysis_of_variance(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, size=200)
    index, n = images(sizes), sizes.sum()
    values = simulated(rng, 0.6, index)
    f = scipy_stats.f_oneway(*np.split(values, sizes.cumsum()[:-1])).statistic
    typical = (n - (sizes**2).sum() / n) / 199
    assert intracluster_correlation(values, index.astype(str)) == pytest.approx((f - 1) / (f + typical - 1))


def test_a_correlation_that_nothing_tells_is_none():
    assert intracluster_correlation([1, 0, 1], ["a", "b", "c"]) is None
    assert intracluster_correlation([1, 0, 1], ["a", "a", "a"]) is None
    assert intracluster_correlation([1, 1, 1], ["a", "a", "b"]) is None
    assert intracluster_correlation([1, 1, 0, 0], ["a", "a", "b", "b"]) == 1
    assert intracluster_correlation([1, 0, 1, 0], ["a", "a", "b", "b"]) == -1


@pytest.mark.parametrize("credit", [1.0, 0.3], ids=["exact", "10,000 draws"])
def test_ten_thousand_rows_take_no_time_that_one_would_notice(credit):
    rng, names = np.random.default_rng(0), [f"image {i}" for i in images(image_sizes(10_000))]
    a, b = (credit * rng.integers(0, 2, size=10_000) for _ in range(2))
    start = perf_counter()
    assert (paired_test(a, b, names).draws is None) == (credit == 1)
    assert perf_counter() - start < 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 rows cannot be paired with 1"):
        paired_test([1, 0], [1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        paired_test([1, 2], [1, 0])
    with pytest.raises(ValueError, match="2 rows have 1 cluster names"):
        paired_test([1, 0], [1, 1], ["image"])
    with pytest.raises(ValueError, match="not about the same rows"):
        paired_change(([1, 0], [1, 0]), ([1, 0], [1]))


@pytest.mark.parametrize("kinds", [3, 200], ids=["few kinds", "many kinds"])
def test_totals_of_resampled_clusters_vary_as_sums_of_independent_draws_do(kinds):
    rng = np.random.default_rng(0)
    sums = rng.random((kinds, 6))[rng.integers(kinds, size=200)]
    totals = stats.resampled_sums(sums, seed=1)
    assert totals.shape == (10_000, 6)
    assert totals.mean(axis=0) == pytest.approx(sums.sum(axis=0), rel=0.002)
    assert np.cov(totals.T) == pytest.approx(200 * np.cov(sums.T, bias=True), abs=0.7)
    assert stats.resampled_sums(sums[:, :2], seed=1) == pytest.approx(totals[:, :2])
