"""Estimates with their interval and their n: a number in osler never travels without both.

Rows about one image or one patient fail and succeed together, so intervals resample clusters, not rows. All values lie in
[0, 1]: right or wrong, or a share of the credit. Axes: `N` rows, `K` clusters, `R` resamples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 1_000_000  # 8 MB an array

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` rows and its interval; all None where there is no row, since an empty cell is empty and never 0."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """value, ci_low, ci_high (null where n is 0) and n."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None or self.ci_low is None or self.ci_high is None:
            return "no rows"
        return f"{100 * self.value:.1f} % [{100 * self.ci_low:.1f}, {100 * self.ci_high:.1f}], n = {self.n}"


EMPTY = Estimate(None, None, None, 0)


def proportion(
    correct: Sequence[bool | float], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean of `correct`: with Wilson's interval where every row is its own cluster, else with a cluster bootstrap's.

    `clusters` names the image or patient of each row; None: rows are independent. For partial credit Wilson's interval is
    too wide rather than too narrow, as no values in [0, 1] with this mean vary more than zeros and ones.
    Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    """
    values_N = _credits(correct)
    if not len(values_N):
        return EMPTY
    sums_K, sizes_K = _by_cluster(values_N, clusters)
    if len(sizes_K) < len(values_N):
        return _bootstrap(sums_K, sizes_K, 0.0, level, seed)
    value = float(values_N.mean())
    return Estimate(value, *wilson(value, len(values_N), level), len(values_N))


def paired_difference(
    a: Sequence[bool | float],
    b: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """mean(a) - mean(b), where `a[i]` and `b[i]` are about the same row, with a cluster bootstrap's interval.

    Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} rows cannot be paired with {len(b)}")
    differences_N = _credits(a) - _credits(b)
    return _bootstrap(*_by_cluster(differences_N, clusters), -1.0, level, seed) if len(a) else EMPTY


def macro(estimates: Iterable[Estimate]) -> float | None:
    """The plain mean of the values, each counting once whatever its n; empty ones do not count; None if all are empty."""
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    return sum(values) / len(values) if values else None


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The ends of Wilson's score interval (without continuity correction) of a `share` seen among `n` > 0."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z**2 / (2 * n)
    reach = z * (share * (1 - share) / n + (z / (2 * n)) ** 2) ** 0.5
    low, high = ((centre + side * reach) / (1 + z**2 / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _credits(values: Sequence[bool | float]) -> Floats:
    values_N = np.asarray(values, dtype=np.float64)
    if not ((values_N >= 0) & (values_N <= 1)).all():
        raise ValueError("every value must lie in [0, 1]")
    return values_N


def _by_cluster(values_N: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """The sum of the values and the number of rows of each cluster."""
    if clusters is None:
        return values_N, np.ones_like(values_N)
    if len(clusters) != len(values_N):
        raise ValueError(f"{len(values_N)} rows have {len(clusters)} cluster names")
    index_N = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1]
    return _totals(index_N, values_N), _totals(index_N, np.ones_like(values_N))


def _totals(index_N: NDArray[np.int64], weights_N: Floats) -> Floats:
    return np.bincount(index_N, weights=weights_N).astype(np.float64)


def _bootstrap(sums_K: Floats, sizes_K: Floats, least: float, level: float, seed: int) -> Estimate:
    """sum(sums) / sum(sizes) and the percentile interval of it when clusters are drawn again. Values lie in [`least`, 1]."""
    value, n = float(sums_K.sum() / sizes_K.sum()), int(sizes_K.sum())
    means_K = sums_K / sizes_K
    if np.ptp(means_K) < 1e-12:
        # Where all clusters agree, every resample gives the same value, and an interval of no width would claim certainty.
        # What they do show is that at most a share `unseen` of clusters differs, by Wilson with n = the number of clusters,
        # and those may lie anywhere. Where all are right, or all wrong, this is Wilson's interval itself.
        unseen = wilson(0.0, len(means_K), level)[1]
        return Estimate(value, value - unseen * (value - least), value + unseen * (1 - value), n)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(_resampled(sums_K, sizes_K, seed), tails)
    return Estimate(value, float(low), float(high), n)


def _resampled(sums_K: Floats, sizes_K: Floats, seed: int) -> Floats:
    """The pooled mean of each of `RESAMPLES` draws of as many clusters with replacement; the same for the same seed.

    Clusters with the same sum and size cannot be told apart. Where there are few such kinds, as with zeros and ones, it is
    enough to draw how often each kind comes up: the same distribution, and far faster than drawing each cluster.
    """
    count, rng = len(sums_K), np.random.default_rng(seed)
    kinds, how_many = np.unique(np.stack([sums_K, sizes_K], axis=1), axis=0, return_counts=True)
    few = 10 * len(kinds) < count
    at_once = max(1, _DRAWS_AT_ONCE // (len(kinds) if few else count))
    means: list[Floats] = []
    for done in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - done)
        if few:
            totals = rng.multinomial(count, how_many / count, size=size) @ kinds
            means.append(totals[:, 0] / totals[:, 1])
        else:
            drawn = rng.integers(count, size=(size, count))
            means.append(sums_K[drawn].sum(axis=1) / sizes_K[drawn].sum(axis=1))
    return np.concatenate(means)
