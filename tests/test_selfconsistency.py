"""Pass@K by counting every draw, calibration by hand and scikit-learn, risk and coverage by every order of the rows."""

from itertools import combinations, pairwise, permutations
from math import factorial

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from osler import stats
from osler.selfconsistency import (
    LEVELS,
    Vote,
    acc_at_1,
    aurc,
    brier,
    ece,
    majority,
    majority_accuracy,
    mean_pass_at_k,
    pass_at_k,
    risk_coverage,
)
from osler.stats import EMPTY, proportion


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n):
    for right in range(n + 1):
        completions = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            draws = [any(draw) for draw in combinations(completions, k)]
            assert pass_at_k(n, right, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_is_unbiased_where_the_share_of_right_ones_is_not():
    rng = np.random.default_rng(0)
    right = rng.binomial(8, 0.2, size=20_000)
    assert np.mean([pass_at_k(8, int(c), 4) for c in right]) == pytest.approx(1 - 0.8**4, abs=0.01)
    assert np.mean(1 - (1 - right / 8) ** 4) < 1 - 0.8**4 - 0.03


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (0, 0, 1), (4, -1, 1)])
def test_a_k_that_cannot_be_drawn_is_refused(n, c, k):
    with pytest.raises(ValueError, match=f"pass@{k} cannot be found from {n} completions of which {c} are right"):
        pass_at_k(n, c, k)


def test_pass_at_k_of_rows_has_a_clustered_interval():
    rng = np.random.default_rng(1)
    rows = [list(rng.random(4) < 0.3) for _ in range(200)]
    names = [f"image {i // 4}" for i in range(200)]
    expected = [pass_at_k(4, int(np.sum(row)), 2) for row in rows]
    assert mean_pass_at_k(rows, 2, names) == proportion(expected, names)
    assert acc_at_1(rows, names).value == pytest.approx(np.mean(rows))
    assert mean_pass_at_k([[True, False], [False] * 4], 2).value == 0.5
    assert mean_pass_at_k([], 2) == acc_at_1([]) == EMPTY
    with pytest.raises(ValueError, match="pass@3"):
        mean_pass_at_k([*rows, [True, False]], 3, [*names, "another"])


def test_pass_at_k_grows_with_k():
    rows = [list(row) for row in np.random.default_rng(2).random((50, 8)) < 0.3]
    values = [mean_pass_at_k(rows, k).value for k in range(1, 9)]
    assert values == sorted(values)
    assert values[-1] == np.mean([any(row) for row in rows])


@pytest.mark.parametrize(
    ("answers", "winners", "votes", "unparseable", "confidence"),
    [
        (["A", "B", "A", "C"], ("A",), 2, 0, 0.5),
        (["B", "A", "B", "A"], ("A", "B"), 2, 0, 0.5),
        (["A", None, None, None], ("A",), 1, 3, 0.25),
        ([None, None], (), 0, 2, 0.0),
        (["A"], ("A",), 1, 0, 1.0),
    ],
)
def test_a_majority_by_hand(answers, winners, votes, unparseable, confidence):
    vote = majority(answers)
    assert vote == Vote(winners, votes, len(answers), unparseable)
    assert vote.confidence == confidence
    assert vote.to_json()["confidence"] == confidence


def test_answers_that_tie_share_the_credit_whatever_their_order():
    for order in permutations(["A", "B", "A", "B", "C"]):
        vote = majority(order)
        assert (vote.credit("A"), vote.credit("B"), vote.credit("C")) == (0.5, 0.5, 0)
    assert majority([None]).credit("A") == 0
    with pytest.raises(ValueError, match="at least one completion"):
        majority([])


def test_the_majoritys_accuracy():
    votes = [majority("AAB"), majority("AB"), majority([None, None]), majority("CCA")]
    found = majority_accuracy(votes, ["A", "B", "A", "A"], ["x", "x", "y", "z"])
    assert found == proportion([1, 0.5, 0, 0], ["x", "x", "y", "z"])
    with pytest.raises(ValueError, match="zip"):
        majority_accuracy(votes, ["A"])


def test_the_calibration_error_by_hand():
    confidence = [0.0, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    correct = [1, 1, 0, 0, 1, 1, 1, 0]
    # (0, 0.5]: mean confidence 1/3, accuracy 2/3, 3 rows; (0.5, 1]: 4.75 / 5 and 3/5
    found = ece(confidence, correct, bins=2)
    assert found.ece == pytest.approx((3 * 1 / 3 + 5 * (0.95 - 0.6)) / 8)
    assert [(part.low, part.high, part.accuracy.n) for part in found.bins] == [(0, 0.5, 3), (0.5, 1, 5)]
    assert [part.confidence for part in found.bins] == pytest.approx([1 / 3, 0.95])
    assert found.bins[1].accuracy == proportion([0, 1, 1, 1, 0])
    assert found.n == 8


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_the_calibration_error_is_the_definition_whatever_the_bins(bins):
    rng = np.random.default_rng(bins)
    confidence, correct = rng.random(500), rng.integers(0, 2, size=500)
    edges, gap = np.linspace(0, 1, bins + 1), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        gap += abs(confidence[inside].mean() - correct[inside].mean()) * inside.mean() if inside.any() else 0
    assert ece(confidence, correct, bins=bins).ece == pytest.approx(gap)


@pytest.mark.parametrize("bins", [8, 10, 100])
def test_a_confidence_on_an_edge_lies_in_the_bin_below_it(bins):
    for number in range(1, bins + 1):
        found = ece([number / bins], [1], bins=bins)
        assert [place for place, part in enumerate(found.bins) if part.accuracy.n] == [number - 1]


def test_empty_bins_are_empty_and_no_rows_have_no_error():
    empty = ece([], [])
    assert (empty.ece, empty.n) == (None, 0)
    assert all(part.confidence is None and part.accuracy == EMPTY for part in empty.bins)
    assert empty.to_json()["bins"][0]["confidence"] is None
    assert brier([], []) == aurc([], []) == EMPTY
    assert risk_coverage([], []) == ()


@pytest.mark.parametrize("seed", range(3))
def test_brier_agrees_with_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(300), rng.integers(0, 2, size=300)
    names = [f"image {i // 3}" for i in range(300)]
    assert brier(confidence, correct).value == pytest.approx(brier_score_loss(correct, confidence))
    assert brier(confidence, correct, names) == proportion((confidence - correct) ** 2, names)


def test_a_shared_credit_is_the_mean_over_how_the_tie_may_fall():
    for score in (brier, aurc):
        both = [score([0.5, 0.9], [fallen, 1]).value for fallen in (0, 1)]
        assert score([0.5, 0.9], [0.5, 1]).value == pytest.approx(np.mean(both))


def test_the_curve_of_risk_and_coverage_by_hand():
    points = risk_coverage([1.0, 0.5, 0.5, 0.25], [1, 1, 0, 0], ["a", "a", "b", "c"])
    assert [point.confidence for point in points] == [1.0, 0.5, 0.25]
    assert [point.coverage for point in points] == [0.25, 0.75, 1.0]
    assert [point.risk.value for point in points] == pytest.approx([0, 1 / 3, 1 / 2])
    assert [point.risk.n for point in points] == [1, 3, 4]
    assert points[1].risk == proportion([0, 0, 1], ["a", "a", "b"])
    assert points[2].to_json()["risk"]["n"] == 4


def area_in_order(wrong):
    return np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_the_mean_over_every_order_of_rows_that_tie(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(1, 4, size=7) / 3, rng.integers(0, 2, size=7)
    areas = [
        area_in_order([1 - correct[i] for i in order])
        for order in permutations(range(7))
        if all(confidence[i] >= confidence[j] for i, j in pairwise(order))
    ]
    assert len(areas) == np.prod([factorial(count) for count in np.unique(confidence, return_counts=True)[1]])
    assert aurc(confidence, correct).value == pytest.approx(np.mean(areas))


def test_the_area_is_least_where_confidence_ranks_and_the_error_rate_where_it_says_nothing():
    correct = [1] * 60 + [0] * 40
    assert aurc([0.5] * 100, correct).value == pytest.approx(0.4)
    ranked, reversed_ = (aurc(np.linspace(*ends, 100), correct).value for ends in ((1, 0), (0, 1)))
    assert ranked == pytest.approx(area_in_order(1 - np.array(correct)))
    assert ranked < 0.1 < 0.7 < reversed_


def test_the_area_has_an_interval_that_holds_the_truth_and_knows_clusters(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    rng = np.random.default_rng(0)

    def drawn(n):
        confidence = rng.integers(1, 9, size=n) / 8
        return confidence, rng.random(n) < 0.3 + 0.6 * confidence

    truth = aurc(*drawn(200_000)).value
    held = {"rows": 0, "copies as rows": 0, "copies as clusters": 0}
    for _ in range(80):
        confidence, correct = drawn(150)
        names = [f"image {i}" for i in range(150)] * 4
        copied = np.tile(confidence, 4), np.tile(correct, 4)
        for name, estimate in (
            ("rows", aurc(confidence, correct)),
            ("copies as rows", aurc(*copied)),
            ("copies as clusters", aurc(*copied, names)),
        ):
            held[name] += estimate.ci_low <= truth <= estimate.ci_high
    assert held["rows"] / 80 > 0.88
    assert held["copies as clusters"] / 80 > 0.88
    assert held["copies as rows"] / 80 < 0.75


def test_what_does_not_fit_is_refused():
    for score in (ece, brier, risk_coverage, aurc):
        with pytest.raises(ValueError, match="2 confidences do not belong to 1 answers"):
            score([0.5, 0.5], [1])
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            score([0.5, 1.5], [1, 0])
        with pytest.raises(ValueError, match="2 rows have 1 cluster names"):
            score([0.5, 0.5], [1, 0], ["image"])
    with pytest.raises(ValueError, match="round them"):
        aurc(np.linspace(0, 1, LEVELS + 1), [1] * (LEVELS + 1))
