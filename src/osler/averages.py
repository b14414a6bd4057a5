"""Means, differences of means and the like of values without bounds (tokens, log-probs), each with an interval and its n.

`osler.stats` is for values in [0, 1], where even rows that all agree bound what was not seen. Here nothing does: where clusters
do not differ, or there is only one, the value has no interval. Axes: `N` rows, `C` columns, `R` resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np

from osler.stats import EMPTY, Estimate, Floats, cluster_sums, resampled_sums


def mean(values: Sequence[float], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of `values`, with a cluster bootstrap's interval; None where there is none."""
    values_N = np.asarray(values, dtype=np.float64)
    columns_NC = np.stack([values_N, np.ones_like(values_N)], axis=1)
    return estimate(columns_NC, lambda totals_RC: totals_RC[:, 0] / totals_RC[:, 1], clusters, level, seed)


def difference(
    values: Sequence[float],
    first: Sequence[bool],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean of the `values` that are `first` less that of the others, over all n values; empty where either has none.

    Rows of one cluster may stand on both sides. Resamples that leave a side empty do not count for the interval.
    """
    values_N, first_N = np.asarray(values, dtype=np.float64), np.asarray(first, dtype=np.float64)
    if not 0 < first_N.sum() < len(first_N):
        return EMPTY
    columns = (values_N * first_N, first_N, values_N * (1 - first_N), 1 - first_N)

    def apart(totals_RC: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(totals_RC[:, 0] / totals_RC[:, 1] - totals_RC[:, 2] / totals_RC[:, 3])

    return estimate(np.stack(columns, axis=1), apart, clusters, level, seed)


def estimate(
    columns_NC: Floats,
    statistic: Callable[[Floats], Floats],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`statistic` of the columns' totals over all rows, with its percentile interval when clusters are drawn again.

    `statistic` maps totals `[R, C]` to values `[R]`; those that are not finite are left out of the interval.
    Source: as `osler.stats.resampled_estimate`, without its bounds.
    """
    if not len(columns_NC):
        return EMPTY
    sums_KC = cluster_sums(columns_NC, clusters)
    value = float(statistic(sums_KC.sum(axis=0, keepdims=True))[0])
    values_R = statistic(resampled_sums(sums_KC, seed)) if len(sums_KC) > 1 else np.array([value])
    values_R = values_R[np.isfinite(values_R)]
    if not len(values_R) or np.ptp(values_R) < 1e-12 * max(1.0, abs(value)):
        return Estimate(value, None, None, len(columns_NC))
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(columns_NC))
