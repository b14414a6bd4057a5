"""How large a difference rows like these can show: power, the minimum detectable difference, and what clusters cost.

Normal approximations, for tens of clusters or more. Axes: `N` rows, `K` clusters.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from osler.stats import Floats, cluster_index

_CLOSE = 1e-9  # values that differ by less are equal


def sd_of_pairs(discordant: float, difference: float = 0.0) -> float:
    """The standard deviation of one row's paired difference, where a share `discordant` of rows is right on one side only.

    `difference` is the mean difference that is planned for; 0 is the cautious choice.
    """
    if not abs(difference) <= discordant <= 1:
        raise ValueError(f"a share of {discordant} discordant rows does not go with a difference of {difference}")
    return float((discordant - difference**2) ** 0.5)


def power_of_difference(difference: float, n: int, sd: float, design_effect: float = 1.0, level: float = 0.05) -> float:
    """The chance that a two-sided paired test at `level` finds a true mean `difference`, on its right side, among `n` rows.

    `sd` is of one row's difference (`sd_of_pairs`), `design_effect` of the rows' clusters and the differences' correlation
    in them. By the normal distribution, so for tens of clusters and more; a finding on the wrong side, at most level / 2, is
    not counted. Errors: ValueError where n, sd or design_effect is not positive.
    Source: Connor, Biometrics 43 (1987) 207-211, for pairs; here with one variance, times the design effect.
    """
    normal = NormalDist()
    return normal.cdf(abs(difference) / _standard_error(n, sd, design_effect) - normal.inv_cdf(1 - level / 2))


def minimum_detectable_difference(
    n: int, sd: float, design_effect: float = 1.0, power: float = 0.8, level: float = 0.05
) -> float:
    """The smallest true difference that a two-sided paired test finds with `power`: the inverse of `power_of_difference`."""
    normal = NormalDist()
    return _standard_error(n, sd, design_effect) * (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power))


def design_effect(sizes: Sequence[int], icc: float) -> float:
    """How many times the variance of a mean over rows grows by clusters of these `sizes`: 1 + (sum m^2 / sum m - 1) * icc.

    Source: Kish, Survey Sampling (1965); for unequal sizes it is the variance of a sum of rows of which each two
    of a cluster correlate by `icc`. Errors: ValueError where a size is below 1 or there is none.
    """
    sizes_K = np.asarray(sizes, dtype=np.float64)
    if not len(sizes_K) or sizes_K.min() < 1:
        raise ValueError("a design effect needs clusters of at least one row each")
    return float(1 + ((sizes_K**2).sum() / sizes_K.sum() - 1) * icc)


def intracluster_correlation(values: Sequence[bool | float] | Floats, clusters: Sequence[str]) -> float | None:
    """The correlation of two rows of one cluster, by the analysis of variance; below 0 where clusters differ too little.

    None where nothing can be said: fewer than two clusters, none with two rows, or values that are all the same.
    Source: Donner and Koval, Biometrics 36 (1980) 19-25.
    """
    values_N = np.asarray(values, dtype=np.float64)
    n, index_N = len(values_N), cluster_index(clusters, len(values_N))
    sizes_K = np.bincount(index_N)
    if not 2 <= len(sizes_K) < n or np.ptp(values_N) < _CLOSE:
        return None
    means_K = np.bincount(index_N, weights=values_N) / sizes_K
    between = float((sizes_K * (means_K - values_N.mean()) ** 2).sum()) / (len(sizes_K) - 1)
    within = float(((values_N - means_K[index_N]) ** 2).sum()) / (n - len(sizes_K))
    typical = (n - float((sizes_K**2).sum()) / n) / (len(sizes_K) - 1)
    return (between - within) / (between + (typical - 1) * within)


def _standard_error(n: int, sd: float, design_effect: float) -> float:
    if n <= 0 or sd <= 0 or design_effect <= 0:
        raise ValueError(f"n = {n}, sd = {sd} and design effect = {design_effect} must be above 0")
    return float(sd * (design_effect / n) ** 0.5)
