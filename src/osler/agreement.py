"""How far two who judged the same rows agree beyond chance: Cohen's kappa, with its interval and n.

Rows about one image or one patient are resampled together, as in `osler.stats`. Axes: `N` rows, `R` resamples, `C` categories.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from osler.stats import EMPTY, Estimate, Floats, cluster_sums, percentile_estimate, proportion, resampled_sums


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa over `n` rows, its interval, and the share of rows on which both say the same.

    `value` is None where there is no row, and where both always say the same one thing: then chance explains everything, and
    kappa is 0 / 0, however well they agree.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    agreement: Estimate

    def to_json(self) -> dict[str, Any]:
        """The fields by name; null where there is no kappa."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None or self.ci_low is None or self.ci_high is None:
            return f"no kappa, n = {self.n}"
        return f"{self.value:.2f} [{self.ci_low:.2f}, {self.ci_high:.2f}], n = {self.n}"


def kappa(
    a: Sequence[Hashable], b: Sequence[Hashable], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Kappa:
    """Cohen's unweighted kappa, where `a[i]` and `b[i]` judge the same row, with a cluster bootstrap's interval.

    `clusters` names the image or patient of each row; None: rows are independent. Resamples in which kappa is 0 / 0 have no
    part in the interval. Errors: ValueError where the lengths differ.
    Source: Cohen, Educational and Psychological Measurement 20 (1960) 37-46.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} judgements cannot be paired with {len(b)}")
    if not len(a):
        return Kappa(None, None, None, 0, EMPTY)
    agreement = proportion([one == other for one, other in zip(a, b, strict=True)], clusters, level, seed)
    sums_KC = cluster_sums(_pairs(a, b), clusters)
    value = float(_kappa(sums_KC.sum(axis=0, keepdims=True))[0])
    if np.isnan(value):
        return Kappa(None, None, None, len(a), agreement)
    values_R = _kappa(resampled_sums(sums_KC, seed))
    found = percentile_estimate(value, values_R[~np.isnan(values_R)], len(a), len(sums_KC), -1.0, level)
    return Kappa(value, found.ci_low, found.ci_high, len(a), agreement)


def _pairs(a: Sequence[Hashable], b: Sequence[Hashable]) -> Floats:
    """One column for each pair of categories, row by row: 1 where a row is of that pair, `[N, C * C]`."""
    number = {category: k for k, category in enumerate(dict.fromkeys((*a, *b)))}
    cells = [number[one] * len(number) + number[other] for one, other in zip(a, b, strict=True)]
    pairs_NC: Floats = np.eye(len(number) ** 2)[cells]
    return pairs_NC


def _kappa(totals_RC: Floats) -> Floats:
    """Kappa of each of the tables, NaN where it is 0 / 0."""
    side = round(totals_RC.shape[1] ** 0.5)
    shares_R = totals_RC.reshape(-1, side, side) / totals_RC.sum(axis=1)[:, None, None]
    seen_R = np.trace(shares_R, axis1=1, axis2=2)
    chance_R = (shares_R.sum(axis=2) * shares_R.sum(axis=1)).sum(axis=1)
    defined = 1 - chance_R > 1e-12
    values_R: Floats = np.where(defined, (seen_R - chance_R) / np.where(defined, 1 - chance_R, 1.0), np.nan)
    return values_R
