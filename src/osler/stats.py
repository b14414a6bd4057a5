"""Estimates with their interval and their n: a number in osler never travels without both.

Rows about one image or one patient fail and succeed together, so intervals resample clusters, not rows. All values lie in
[0, 1]: right or wrong, or a share of the credit. Axes: `N` rows, `K` clusters, `R` resamples, `C` columns of a statistic
that is made of several sums.
"""

from collections.abc import Callable, Iterable, Sequence
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

    @property
    def points(self) -> str:
        """`+6.1 points [+3.0, +9.2], n = 1038`, for a difference of accuracies."""
        if self.value is None or self.ci_low is None or self.ci_high is None:
            return "no rows"
        return f"{100 * self.value:+.1f} points [{100 * self.ci_low:+.1f}, {100 * self.ci_high:+.1f}], n = {self.n}"


EMPTY = Estimate(None, None, None, 0)


def proportion(
    correct: Sequence[bool | float], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean of `correct`: with Wilson's interval where every row is its own cluster, else with a cluster bootstrap's.

    `clusters` names the image or patient of each row; None: rows are independent. For partial credit Wilson's interval is
    too wide rather than too narrow, as no values in [0, 1] with this mean vary more than zeros and ones.
    Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    """
    values_N = as_credits(correct)
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
    differences_N = as_credits(a) - as_credits(b)
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


def as_credits(values: Sequence[bool | float]) -> Floats:
    """`values` as an array. Errors: ValueError where one is outside [0, 1]."""
    values_N = np.asarray(values, dtype=np.float64)
    if not ((values_N >= 0) & (values_N <= 1)).all():
        raise ValueError("every value must lie in [0, 1]")
    return values_N


def cluster_index(clusters: Sequence[str] | None, rows: int) -> NDArray[np.int64]:
    """The number of each row's cluster, from 0 and without gaps, in the order of the names; None: every row is its own.

    Errors: ValueError where there are not as many names as `rows`.
    """
    if clusters is None:
        return np.arange(rows)
    if len(clusters) != rows:
        raise ValueError(f"{rows} rows have {len(clusters)} cluster names")
    return np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1]


def cluster_sums(columns_NC: Floats, clusters: Sequence[str] | None) -> Floats:
    """The sum of each column over the rows of each cluster, `[K, C]`. Errors: as `cluster_index`."""
    index_N = cluster_index(clusters, len(columns_NC))
    columns = [np.bincount(index_N, weights=column_N) for column_N in columns_NC.T]
    return np.stack(columns, axis=1).astype(np.float64)


def resampled_sums(sums_KC: Floats, seed: int) -> Floats:
    """The total of each column in each of `RESAMPLES` draws of as many clusters with replacement, `[R, C]`.

    The same for the same seed. Clusters with the same sums cannot be told apart. Where there are few such kinds, as with
    zeros and ones, it is enough to draw how often each kind comes up: the same distribution, and far faster than drawing
    each cluster.
    """
    count, rng = len(sums_KC), np.random.default_rng(seed)
    kinds, how_many = np.unique(sums_KC, axis=0, return_counts=True)
    few = 10 * len(kinds) < count
    at_once = max(1, _DRAWS_AT_ONCE // (len(kinds) if few else count))
    totals: list[Floats] = []
    for done in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - done)
        if few:
            totals.append(rng.multinomial(count, how_many / count, size=size) @ kinds)
        else:
            totals.append(_drawn_sums(rng.integers(count, size=(size, count)), sums_KC))
    return np.concatenate(totals)


def resampled_estimate(
    columns_NC: Floats,
    statistic: Callable[[Floats], Floats],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
    vouching: int | None = None,
) -> Estimate:
    """`statistic` of the columns' totals over all rows, with the percentile interval of it when clusters are drawn again.

    `statistic` maps totals `[R, C]` to values `[R]` in [0, 1]. Where every resample gives the same value, the interval is
    as wide as `vouching` clusters that agree allow; None: all clusters.
    Source: the cluster bootstrap of Field and Welsh, Journal of the Royal Statistical Society B 69 (2007) 369-390.
    """
    if not len(columns_NC):
        return EMPTY
    sums_KC = cluster_sums(columns_NC, clusters)
    value = float(statistic(sums_KC.sum(axis=0, keepdims=True))[0])
    values_R = statistic(resampled_sums(sums_KC, seed))
    return percentile_estimate(value, values_R, len(columns_NC), vouching or len(sums_KC), 0.0, level)


def percentile_estimate(value: float, values_R: Floats, n: int, clusters: int, least: float, level: float) -> Estimate:
    """`value`, which lies in [`least`, 1], with the percentile interval of its resamples.

    Where all resamples are the same, an interval of no width would claim certainty. What `clusters` that agree do show is
    that at most a share `unseen` of clusters differs, by Wilson with n = their number, and those may lie anywhere. Where
    all are right, or all wrong, this is Wilson's interval itself.
    """
    if np.ptp(values_R) < 1e-12:
        unseen = wilson(0.0, clusters, level)[1]
        return Estimate(value, value - unseen * (value - least), value + unseen * (1 - value), n)
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)


def _by_cluster(values_N: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """The sum of the values and the number of rows of each cluster."""
    sums_K2 = cluster_sums(np.stack([values_N, np.ones_like(values_N)], axis=1), clusters)
    return sums_K2[:, 0], sums_K2[:, 1]


def _bootstrap(sums_K: Floats, sizes_K: Floats, least: float, level: float, seed: int) -> Estimate:
    """sum(sums) / sum(sizes) and the percentile interval of it when clusters are drawn again. Values lie in [`least`, 1]."""
    value, means_K = float(sums_K.sum() / sizes_K.sum()), sums_K / sizes_K
    agreed = np.ptp(means_K) < 1e-12  # so that every resample would give the same
    means_R = means_K if agreed else _resampled(sums_K, sizes_K, seed)
    return percentile_estimate(value, means_R, int(sizes_K.sum()), len(means_K), least, level)


def _resampled(sums_K: Floats, sizes_K: Floats, seed: int) -> Floats:
    """The pooled mean of each resample of clusters."""
    totals_R2 = resampled_sums(np.stack([sums_K, sizes_K], axis=1), seed)
    means_R: Floats = totals_R2[:, 0] / totals_R2[:, 1]
    return means_R


def _drawn_sums(drawn_RK: NDArray[np.int64], sums_KC: Floats) -> Floats:
    """The total of each column over the clusters drawn. Little is gathered faster than its draws are counted, much is not."""
    count = len(sums_KC)
    if sums_KC.size <= 1000:
        return np.stack([column_K[drawn_RK].sum(axis=1) for column_K in sums_KC.T.copy()], axis=1)
    return np.array([np.bincount(row_K, minlength=count) @ sums_KC for row_K in drawn_RK])
