"""The test that no slice differs: against every exchange written out, and how often it errs where none differs."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.omnibus import SliceTest, _Exchange, slice_test

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from("ABC"), st.sampled_from("pqrst")), min_size=2, max_size=30)


def between(values, labels):
    """The sum of squares between slices."""
    parts = [[v for v, one in zip(values, labels, strict=True) if one == label] for label in set(labels)]
    return sum(len(part) * (np.mean(part) - np.mean(values)) ** 2 for part in parts)


def written_out(values, labels, clusters):
    """The p of all exchanges of slices between clusters, of which each lies in one slice."""
    names = sorted(set(clusters))
    of = dict(zip(clusters, labels, strict=True))
    observed = between(values, labels)
    all_of_them = [dict(zip(names, dealt, strict=True)) for dealt in permutations([of[name] for name in names])]
    return np.mean([between(values, [dealt[one] for one in clusters]) >= observed - 1e-9 for dealt in all_of_them])


@pytest.mark.parametrize("seed", range(6))
def test_the_p_is_the_share_of_exchanges_of_clusters_that_spread_as_far(seed):
    rng = np.random.default_rng(seed)
    clusters = [f"c{k}" for k in np.repeat(np.arange(6), rng.integers(1, 5, size=6))]
    slices = dict(zip(sorted(set(clusters)), "AABBBC", strict=True))
    labels, values = [slices[one] for one in clusters], list(rng.random(len(clusters)) < 0.5)
    exact = written_out(values, labels, clusters)
    found = slice_test(values, labels, clusters, draws=4_000)
    assert found.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 4_000) ** 0.5 + 0.001)
    assert (found.n, found.slices, found.clusters, found.draws) == (len(values), 3, 6, 4_000)


def simulated(kind, effect, rng):
    """Answers of clusters that differ, in slices of which the first is better by `effect`."""
    sizes = np.ones(120, dtype=int) if kind == "rows" else rng.integers(1, 9, size=40)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    label = rng.integers(3, size=len(sizes))[cluster]
    if kind == "within":
        label = rng.integers(3, size=len(cluster))
    if kind == "mixed":
        label = np.where(rng.random(len(cluster)) < 0.8, label, rng.integers(3, size=len(cluster)))
    skill = rng.beta(0.6, 0.4, size=len(sizes))[cluster]
    values = rng.random(len(cluster)) < np.clip(skill + effect * (label == 0), 0, 1)
    return list(values), list(map(str, label)), list(map(str, cluster))


@pytest.mark.parametrize("kind", ["rows", "whole", "within", "mixed"])
def test_it_errs_as_often_as_it_says_and_finds_what_is_there(kind):
    rng = np.random.default_rng(0)
    null = [slice_test(*simulated(kind, 0.0, rng), seed=k, draws=99).p for k in range(250)]
    assert np.mean(np.array(null) <= 0.05) < 0.095  # 0.05 and three standard errors
    assert 0.12 < np.mean(np.array(null) <= 0.2) < 0.28
    there = [slice_test(*simulated(kind, 0.5, rng), seed=k, draws=99).p for k in range(60)]
    assert np.mean(np.array(there) <= 0.05) > 0.35


def test_rows_that_fail_together_are_not_taken_for_evidence():
    rng = np.random.default_rng(3)
    naive, honest = [], []
    for _ in range(60):
        right = rng.random(12) < 0.5
        values, labels = list(np.repeat(right, 10)), list(np.repeat([str(s) for s in rng.permutation([0] * 6 + [1] * 6)], 10))
        clusters = [str(c) for c in np.repeat(np.arange(12), 10)]
        naive.append(slice_test(values, labels, None, draws=99).p)
        honest.append(slice_test(values, labels, clusters, draws=99).p)
    assert np.mean(np.array(naive) <= 0.05) > 0.25
    assert np.mean(np.array(honest) <= 0.05) < 0.14


@given(ROWS, st.integers(0, 5))
def test_an_exchange_keeps_how_many_rows_or_clusters_a_slice_has(rows, seed):
    labels, clusters = ([row[at] for row in rows] for at in (1, 2))
    slice_N, cluster_N = (np.unique(one, return_inverse=True)[1] for one in (labels, clusters))
    dealt = _Exchange(slice_N, cluster_N).draw(np.random.default_rng(seed))
    in_one = all(len(set(slice_N[cluster_N == k])) == 1 for k in set(cluster_N))
    if in_one:
        pairs = [set(zip(cluster_N, one, strict=True)) for one in (slice_N, dealt)]
        assert Counter(label for _, label in pairs[0]) == Counter(label for _, label in pairs[1])
        assert len(pairs[1]) == len(set(cluster_N))
    else:
        assert sorted(dealt) == sorted(slice_N)
        bags = [
            Counter((sum(cluster_N == k), tuple(sorted(one[cluster_N == k]))) for k in set(cluster_N))
            for one in (slice_N, dealt)
        ]
        assert bags[0] == bags[1]  # what a cluster holds stays together, in a cluster of the same size


@given(ROWS)
def test_names_and_order_of_rows_do_not_matter_to_what_is_tested(rows):
    values, labels, clusters = (list(part) for part in zip(*rows, strict=True))
    found = slice_test(values, labels, clusters, draws=20)
    assert (found.p is None) == (len(set(labels)) < 2)
    assert (found.n, found.slices, found.clusters) == (len(rows), len(set(labels)), len(set(clusters)))
    renamed = slice_test(values, [f"site {one}" for one in labels], [f"x{one}" for one in clusters], draws=20)
    assert renamed == found


def test_where_all_rows_are_answered_alike_nothing_differs():
    assert slice_test([True] * 9, list("AAABBBCCC")).p == 1


def test_it_is_the_same_every_time_and_never_0():
    values, labels = [True] * 60 + [False] * 60, ["A"] * 60 + ["B"] * 60
    found = slice_test(values, labels)
    assert found == slice_test(values, labels)
    assert found.p == 1 / 1001
    assert found.to_json() == {"p": 1 / 1001, "n": 120, "slices": 2, "clusters": 120, "draws": 1000}


def test_nothing_is_tested_without_two_slices():
    assert slice_test([], []) == SliceTest(None, 0, 0, 0, 0)
    assert slice_test([True, False], ["A", "A"]) == SliceTest(None, 2, 1, 2, 0)


@pytest.mark.parametrize(("labels", "clusters"), [(["A"], ["c", "d"]), (["A", "B"], ["c"])])
def test_rows_without_a_label_or_cluster_are_refused(labels, clusters):
    with pytest.raises(ValueError, match="2 rows have 1"):
        slice_test([True, False], labels, clusters)
