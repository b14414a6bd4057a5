"""Two sets of 0/1 scores of the same rows held against each other, with intervals by cluster bootstrap. Axis: `N` rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from osler.agreement import Kappa, kappa
from osler.averages import difference
from osler.stats import Estimate, Floats


@dataclass(frozen=True)
class Agreed:
    """How far two sets of scores agree, and how often: `table[i][j]` counts rows with i in the first and j in the second."""

    kappa: Kappa
    table: tuple[tuple[int, int], tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"kappa": self.kappa.to_json(), "table": [list(row) for row in self.table]}


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


def agreed(first: Sequence[int], second: Sequence[int], clusters: Sequence[str], seed: int = 0) -> Agreed:
    """How far `first` and `second` agree, each 0 or 1 of the same rows. Errors: ValueError where the lengths differ."""
    found = kappa(first, second, clusters, seed=seed)
    counts = _cells(first, second).sum(axis=0).astype(int).tolist()
    return Agreed(found, ((counts[0], counts[1]), (counts[2], counts[3])))


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
