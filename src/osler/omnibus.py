"""Whether slices of one evaluation differ at all: of many slices some look different by chance, so one test is of all of them.

Axes: `N` rows, `K` clusters, `S` slices.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.stats import Floats, as_credits, cluster_index

DRAWS = 1_000

_CLOSE = 1e-9  # statistics that differ by less are equal
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SliceTest:
    """How often chance alone spreads the accuracies of `slices` as far apart: `p`, None where there are fewer than two.

    It is of `n` rows in `clusters`, counted in `draws` random exchanges and never 0.
    """

    p: float | None
    n: int
    slices: int
    clusters: int
    draws: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def slice_test(
    values: Sequence[bool | float],
    labels: Sequence[str],
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> SliceTest:
    """The test that no slice differs; `values[i]`, in [0, 1], is of a row in the slice `labels[i]` and in `clusters[i]`.

    Null hypothesis: which slice a cluster is in has nothing to do with how its rows are answered. The statistic is the sum of
    squares between slices, n (accuracy of the slice - accuracy of all)^2. Where each cluster lies in one slice, clusters
    exchange slices, as wholes. Where some lie in several, the rows of a cluster exchange theirs, and clusters of equally many
    rows too. The observed order counts as one draw.
    Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    Source: Winkler et al., NeuroImage 123 (2015) 253-268, for exchanges within and of whole blocks; Phipson and Smyth,
    Statistical Applications in Genetics and Molecular Biology 9 (2010) article 39, for the draw that is observed.
    """
    values_N = as_credits(values)
    if len(labels) != len(values_N):
        raise ValueError(f"{len(values_N)} rows have {len(labels)} labels")
    if not len(values_N):
        return SliceTest(None, 0, 0, 0, 0)
    cluster_N = cluster_index(clusters, len(values_N))
    slice_N = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    slices, count = int(slice_N.max()) + 1, int(cluster_N.max()) + 1
    if slices < 2:
        return SliceTest(None, len(values_N), slices, count, 0)
    exchange = _Exchange(slice_N, cluster_N)
    rng, observed = np.random.default_rng(seed), _between(values_N, slice_N)
    as_far = sum(_between(values_N, exchange.draw(rng)) >= observed - _CLOSE for _ in range(draws))
    return SliceTest(float((1 + as_far) / (1 + draws)), len(values_N), slices, count, draws)


def _between(values_N: Floats, slice_N: Indices) -> float:
    """The sum of squares between slices, but for a part that no exchange changes; each slice has a row."""
    sums_S, sizes_S = np.bincount(slice_N, weights=values_N), np.bincount(slice_N)
    return float((sums_S**2 / sizes_S).sum())


class _Exchange:
    """Slices dealt out anew, in ways that are as likely as the observed one under the null hypothesis of `slice_test`."""

    def __init__(self, slice_N: Indices, cluster_N: Indices) -> None:
        self._slice_N, self._cluster_N = slice_N, cluster_N
        first_K = np.unique(cluster_N, return_index=True)[1]
        self._slice_K = slice_N[first_K]
        self._whole = bool((self._slice_K[cluster_N] == slice_N).all())
        self._size_K = np.bincount(cluster_N)
        self._place_N = np.lexsort((cluster_N, self._size_K[cluster_N]))  # smallest clusters first, each together

    def draw(self, rng: np.random.Generator) -> Indices:
        """A slice for each row."""
        if self._whole:
            dealt_N: Indices = rng.permutation(self._slice_K)[self._cluster_N]
            return dealt_N
        rank_K = np.empty(len(self._size_K))
        rank_K[np.lexsort((rng.random(len(rank_K)), self._size_K))] = np.arange(len(rank_K))
        # The same sizes stand in the same places as in _place_N, in an order that is drawn, as is that of a cluster's rows.
        drawn_N = np.argsort(rank_K[self._cluster_N] + rng.random(len(self._cluster_N)))
        mixed_N = np.empty_like(self._slice_N)
        mixed_N[self._place_N] = self._slice_N[drawn_N]
        return mixed_N
