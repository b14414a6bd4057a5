"""How far two sets of 0/1 scores agree, and what goes with what: pure functions, with intervals by cluster bootstrap.

Axes: `N` rows, `R` resamples.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from osler.averages import difference, estimate
from osler.stats import Estimate, Floats, proportion


@dataclass(frozen=True)
class Agreement:
    """Cohen's `kappa` of two sets of scores of the same `n` rows, and the share of rows on which both agree.

    `kappa.value` is None where there is no row, or where both gave one and the same score throughout: chance alone would agree
    as well. `table[i][j]` counts the rows with i in the first and j in the second.
    """

    kappa: Estimate
    share: Estimate
    table: tuple[tuple[int, int], tuple[int, int]]

    @property
    def n(self) -> int:
        """The rows that both scored."""
        return self.share.n

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with n."""
        return {**asdict(self), "table": [list(row) for row in self.table], "n": self.n}


@dataclass(frozen=True)
class Crossed:
    """Answer right or wrong by reasoning sound or unsound.

    `counts` are of right and sound, right and unsound, wrong and sound, wrong and unsound. `difference` is the share of sound
    reasoning behind right answers less that behind wrong ones, empty where a side has no row. `fisher_p` is two-sided, and
    there only where every row is its own cluster.
    """

    counts: tuple[int, int, int, int]
    difference: Estimate
    fisher_p: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "counts": list(self.counts)}


def agreement(first: Sequence[int], second: Sequence[int], clusters: Sequence[str], seed: int = 0) -> Agreement:
    """How far `first` and `second` agree, scores 0 or 1 of the same rows. Errors: ValueError where the lengths differ.

    Source: Cohen, Educational and Psychological Measurement 20 (1960) 37-46.
    """
    cells_NC = _cells(first, second)
    found = estimate(cells_NC, _kappa, clusters, seed=seed)
    if found.value is not None and not np.isfinite(found.value):
        found = Estimate(None, None, None, found.n)
    counts = cells_NC.sum(axis=0).astype(int).tolist()
    share = proportion([a == b for a, b in zip(first, second, strict=True)], clusters, seed=seed)
    return Agreement(found, share, ((counts[0], counts[1]), (counts[2], counts[3])))


def crossed(right: Sequence[int], sound: Sequence[int], clusters: Sequence[str], seed: int = 0) -> Crossed:
    """The 2x2 of `right` by `sound`, each 0 or 1 of the same rows. Errors: ValueError where the lengths differ."""
    counts = _cells(right, sound).sum(axis=0).astype(int).tolist()[::-1]
    apart = difference([float(one) for one in sound], [bool(one) for one in right], clusters, seed=seed)
    both = counts[0] + counts[1] and counts[2] + counts[3]
    alone = both and len(set(clusters)) == len(clusters)
    p = float(fisher_exact([counts[:2], counts[2:]]).pvalue) if alone else None
    return Crossed((counts[0], counts[1], counts[2], counts[3]), apart, p)


def _cells(first: Sequence[int], second: Sequence[int]) -> Floats:
    """One column for each of (0, 0), (0, 1), (1, 0), (1, 1), with a 1 where the row has it, `[N, 4]`."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores cannot be held against {len(second)}")
    codes_N: NDArray[np.int64] = 2 * np.asarray(first, dtype=np.int64) + np.asarray(second, dtype=np.int64)
    cells_NC: Floats = np.eye(4)[codes_N]
    return cells_NC


def _kappa(cells_RC: Floats) -> Floats:
    """Cohen's kappa of each row of counts; not finite where chance alone agrees on everything."""
    shares_RC = cells_RC / cells_RC.sum(axis=1, keepdims=True)
    agreed_R = shares_RC[:, 0] + shares_RC[:, 3]
    first_R, second_R = shares_RC[:, 2] + shares_RC[:, 3], shares_RC[:, 1] + shares_RC[:, 3]
    chance_R = first_R * second_R + (1 - first_R) * (1 - second_R)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa_R = (agreed_R - chance_R) / (1 - chance_R)
    return np.asarray(np.where(1 - chance_R > 1e-12, kappa_R, np.nan))
