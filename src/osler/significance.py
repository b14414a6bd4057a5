"""Whether a difference is more than luck, and how large one would have to be to be found.

Two estimands, which are not to be mixed up. *Checkpoint against checkpoint*: two models as they are, on rows like these;
only the clusters are drawn again (`paired_test`). *Method against method*: what another training run of each would give;
seeds and clusters are drawn again (`hierarchical_difference`). Axes: `N` rows, `K` clusters, `S` seeds, `R` resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osler.stats import (
    EMPTY,
    RESAMPLES,
    Estimate,
    Floats,
    as_credits,
    cluster_index,
    cluster_sums,
    paired_difference,
    percentile_estimate,
    resampled_sums,
)

PRIMARY = 5
"""The most contrasts that a family may name as primary; more than these describe, they do not confirm."""

_ENUMERATED = 12  # clusters whose 2^12 flips are written out
_FLIPS_AT_ONCE = 100_000  # few enough to stay in the processor's cache
_CLOSE = 1e-9  # sums of shares of the credit that differ by less are equal


@dataclass(frozen=True)
class PairedTest:
    """The difference of two sets of answers to the same rows, and how often chance alone gives one as large.

    `p` is None where there is no row. `draws` is None where p is exact, else how many random flips it was counted in.
    `mcnemar_p` is there only where every cluster has one row and every value is 0 or 1.
    """

    difference: Estimate
    p: float | None
    draws: int | None
    clusters: int
    mcnemar_p: float | None

    @property
    def n(self) -> int:
        """The rows compared."""
        return self.difference.n

    @property
    def method(self) -> Literal["exact", "monte carlo"]:
        """How p was found."""
        return "exact" if self.draws is None else "monte carlo"

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with n and method."""
        return {**asdict(self), "n": self.n, "method": self.method}


@dataclass(frozen=True)
class MethodDifference:
    """mean(a) - mean(b) of two ways to train, over `seeds_a` and `seeds_b` runs on the same rows of `clusters` clusters.

    `p` is the least level at which the interval does not hold 0, two-sided, None where there is no row or every resample is
    the same. It is of `RESAMPLES` draws and never 0.
    """

    difference: Estimate
    p: float | None
    seeds_a: int
    seeds_b: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def paired_test(
    a: Sequence[bool | float],
    b: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = RESAMPLES,
) -> PairedTest:
    """mean(a) - mean(b) over rows, with a cluster bootstrap's interval and the p of `sign_flip`; `a[i]`, `b[i]`: one row.

    Estimand: how much better checkpoint a answers rows like these than checkpoint b; each row counts the same. Whether
    another training run would differ too is not asked. Errors: as `paired_difference`.
    """
    difference = paired_difference(a, b, clusters, level, seed)
    values_2N = np.array([a, b], dtype=np.float64)
    test = _tested(difference, sign_flip(values_2N[0] - values_2N[1], clusters, seed, draws), clusters)
    single = test.clusters == test.n and np.isin(values_2N, (0.0, 1.0)).all()
    return replace(test, mcnemar_p=mcnemar(a, b)) if single and test.n else test


def paired_change(
    before: tuple[Sequence[bool | float], Sequence[bool | float]],
    after: tuple[Sequence[bool | float], Sequence[bool | float]],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = RESAMPLES,
) -> PairedTest:
    """How far a paired difference moved: (mean(after[0]) - mean(after[1])) - (mean(before[0]) - mean(before[1])).

    With (real, blank) of SFT and of GRPO it is the change of visual reliance. All four are about the same rows; it lies in
    [-2, 2]. Interval and p as in `paired_test`. Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    """
    if len({len(side) for side in (*before, *after)}) != 1:
        raise ValueError(f"sides of {[len(side) for side in (*before, *after)]} rows are not about the same rows")
    (real_0, blank_0), (real_1, blank_1) = ((as_credits(real), as_credits(blank)) for real, blank in (before, after))
    # Half of it is a difference of two values in [0, 1], whose interval is known.
    half = paired_difference(list((real_1 + blank_0) / 2), list((real_0 + blank_1) / 2), clusters, level, seed)
    value, low, high = (None if part is None else 2 * part for part in (half.value, half.ci_low, half.ci_high))
    p = sign_flip((real_1 - blank_1) - (real_0 - blank_0), clusters, seed, draws)
    return _tested(Estimate(value, low, high, half.n), p, clusters)


def sign_flip(
    differences: Sequence[float] | Floats, clusters: Sequence[str] | None = None, seed: int = 0, draws: int = RESAMPLES
) -> tuple[float, int | None]:
    """The two-sided p of the sum of `differences` under flips of whole clusters' signs, and the draws (None: exact).

    Null hypothesis: within a cluster it is chance which side is a and which is b. Exact where the clusters' sums are whole
    numbers, as with right and wrong, or few of them differ from 0; else `draws` random flips are counted, and the observed
    one with them: (1 + as large) / (1 + draws), so that p is never 0.
    Source: Canay, Romano and Shaikh, Econometrica 85 (2017) 1013-1030, for flips of clusters; Phipson and Smyth, Statistical
    Applications in Genetics and Molecular Biology 9 (2010) article 39, for the 1.
    """
    differences_N = np.asarray(differences, dtype=np.float64)
    sums_K = cluster_sums(differences_N[:, None], clusters)[:, 0] if len(differences_N) else differences_N
    sums_K = sums_K[np.abs(sums_K) > _CLOSE]  # what is 0 stays 0 when flipped
    if (np.abs(sums_K - np.rint(sums_K)) < _CLOSE).all():
        return _p_of_whole_sums(np.rint(sums_K).astype(np.int64)), None
    if len(sums_K) <= _ENUMERATED:
        return _p_of_all_flips(sums_K), None
    return _p_of_random_flips(sums_K, seed, draws), draws


def mcnemar(a: Sequence[bool | float], b: Sequence[bool | float]) -> float:
    """The exact two-sided p of McNemar's test for independent rows of zeros and ones: 1 where no row differs.

    Source: McNemar, Psychometrika 12 (1947) 153-157; twice the smaller binomial tail over the rows that differ.
    """
    differences_N = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    better, worse = int((differences_N > 0).sum()), int((differences_N < 0).sum())
    return float(min(1.0, 2 * _fair_coin(better + worse)[: min(better, worse) + 1].sum()))


def hierarchical_difference(
    a_by_seed: Sequence[Sequence[bool | float]],
    b_by_seed: Sequence[Sequence[bool | float]],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> MethodDifference:
    """mean(a) - mean(b) over seeds and rows, with the interval of a bootstrap that draws seeds and clusters again.

    `a_by_seed[s][i]` is row i as answered by run s of method a. Estimand: the expected difference of one more training run of
    each, on rows like these. All runs answer the same rows, so a resample draws its clusters once for all, and the seeds of
    each side by itself. The seeds' deviations are stretched by sqrt(S / (S - 1)), as S draws of S seeds vary too little.
    Few seeds remain few: simulated where seeds differ more than rows do, a 95 % interval held the truth 88 % of the time
    with two seeds a side, 92 % with three and 96 % with five.
    Errors: ValueError with one seed on a side, which says nothing about the next (compare those two by `paired_test`),
    where the rows do not match, or where a value is outside [0, 1].
    Source: Owen, Annals of Applied Statistics 1 (2007) 386-411, for both ways at once; Rao and Wu, Journal of the American
    Statistical Association 83 (1988) 231-241, for the stretch.
    """
    seeds_a, seeds_b = len(a_by_seed), len(b_by_seed)
    if min(seeds_a, seeds_b) < 2:
        raise ValueError(
            f"{seeds_a} and {seeds_b} seeds cannot compare two methods: train at least two a side, or compare the two "
            "checkpoints as such by a paired test"
        )
    rows = {len(values) for values in (*a_by_seed, *b_by_seed)}
    if len(rows) != 1:
        raise ValueError(f"runs of {sorted(rows)} rows are not about the same rows")
    if rows == {0}:
        return MethodDifference(EMPTY, None, seeds_a, seeds_b, 0)
    values_SN = np.stack([as_credits(values) for values in (*a_by_seed, *b_by_seed)])
    sums_KC = cluster_sums(np.concatenate([values_SN, np.ones_like(values_SN[:1])]).T, clusters)
    totals_RC = resampled_sums(sums_KC, seed)
    means_RS = totals_RC[:, :-1] / totals_RC[:, -1:]
    rng = np.random.default_rng([seed, 1])  # apart from the draws of clusters
    values_R = _over_seeds(means_RS[:, :seeds_a], rng) - _over_seeds(means_RS[:, seeds_a:], rng)
    value = float(values_SN[:seeds_a].mean() - values_SN[seeds_a:].mean())
    estimate = percentile_estimate(value, values_R, values_SN.shape[1], len(sums_KC), -1.0, level)
    return MethodDifference(estimate, _p_of_resamples(values_R), seeds_a, seeds_b, len(sums_KC))


def hierarchical_mean(
    by_seed: Sequence[Sequence[bool | float]],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean over seeds and rows, with the interval of a bootstrap that draws seeds and clusters again; n counts rows.

    Estimand: the expected value of one more training run, on rows like these. Errors and source: as `hierarchical_difference`.
    """
    if len(by_seed) < 2:
        raise ValueError("one seed says nothing about the next: train at least two, or give the run's own interval")
    if len({len(values) for values in by_seed}) != 1:
        raise ValueError(f"runs of {sorted({len(values) for values in by_seed})} rows are not about the same rows")
    if not len(by_seed[0]):
        return EMPTY
    values_SN = np.stack([as_credits(values) for values in by_seed])
    sums_KC = cluster_sums(np.concatenate([values_SN, np.ones_like(values_SN[:1])]).T, clusters)
    totals_RC = resampled_sums(sums_KC, seed)
    values_R = _over_seeds(totals_RC[:, :-1] / totals_RC[:, -1:], np.random.default_rng([seed, 1]))
    found = percentile_estimate(float(values_SN.mean()), values_R, values_SN.shape[1], len(sums_KC), 0.0, level)
    low, high = max(0.0, float(found.ci_low or 0.0)), min(1.0, float(found.ci_high or 0.0))  # seeds' deviations are stretched
    return replace(found, ci_low=low, ci_high=high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The adjusted p of each primary contrast by its name: below 0.05 means found, with 5 % for an error in the whole family.

    Errors: ValueError beyond `PRIMARY` contrasts or where a p is outside [0, 1].
    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    if len(p_values) > PRIMARY:
        raise ValueError(f"{len(p_values)} contrasts are no primary family: name at most {PRIMARY}, and describe the others")
    names, sorted_M = _ascending(p_values)
    adjusted_M = np.maximum.accumulate(sorted_M * np.arange(len(names), 0, -1))
    return _by_name(p_values, names, adjusted_M)


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """The adjusted p of each by its name: of those below 0.05, at most 5 % are expected to be false finds.

    For matrices, which describe. Errors: ValueError where a p is outside [0, 1].
    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995) 289-300.
    """
    names, sorted_M = _ascending(p_values)
    scaled_M = sorted_M * len(names) / np.arange(1, len(names) + 1)
    return _by_name(p_values, names, np.minimum.accumulate(scaled_M[::-1])[::-1])


def _tested(difference: Estimate, p: tuple[float, int | None], clusters: Sequence[str] | None) -> PairedTest:
    if not difference.n:
        return PairedTest(EMPTY, None, None, 0, None)
    return PairedTest(difference, *p, clusters=int(cluster_index(clusters, difference.n).max()) + 1, mcnemar_p=None)


def _p_of_whole_sums(sums_K: NDArray[np.int64]) -> float:
    """The exact p of whole sums. Flips of k clusters of the same size are k tosses of a coin; the sizes' sums are convolved."""
    pmf = np.ones(1)
    for size, count in zip(*np.unique(np.abs(sums_K), return_counts=True), strict=True):
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = _fair_coin(count)
        pmf = np.convolve(pmf, of_size)
    totals = np.arange(len(pmf)) - len(pmf) // 2
    return float(min(1.0, pmf[np.abs(totals) >= abs(sums_K.sum())].sum()))


def _p_of_all_flips(sums_K: Floats) -> float:
    flips = np.arange(2 ** len(sums_K))[:, None] >> np.arange(len(sums_K)) & 1
    return float(_as_large(flips, sums_K).mean())


def _p_of_random_flips(sums_K: Floats, seed: int, draws: int) -> float:
    rng, at_once, as_large = np.random.default_rng(seed), max(1, _FLIPS_AT_ONCE // len(sums_K)), 0
    for done in range(0, draws, at_once):
        flips = rng.integers(2, size=(min(at_once, draws - done), len(sums_K)), dtype=np.int8)
        as_large += int(_as_large(flips, sums_K).sum())
    return (1 + as_large) / (1 + draws)


def _as_large(flips_RK: NDArray[Any], sums_K: Floats) -> NDArray[np.bool_]:
    """Whether the total is as far from 0 as without flips; a flip is 1 and turns its cluster's sign."""
    totals_R = sums_K.sum() - 2 * (flips_RK @ sums_K)
    within: NDArray[np.bool_] = np.abs(totals_R) >= abs(sums_K.sum()) - _CLOSE
    return within


def _fair_coin(tosses: int) -> Floats:
    """The chance of each number of heads, from 0 to `tosses`."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, tosses + 1)))])
    pmf: Floats = np.exp(log_factorials[-1] - log_factorials - log_factorials[::-1] - tosses * np.log(2))
    return pmf


def _p_of_resamples(values_R: Floats) -> float | None:
    """Twice the share of resamples on the rarer side of 0, which itself counts on both; the 1 keeps it above 0.

    None where all resamples are the same and not 0: they say nothing of how sure that is.
    """
    if np.ptp(values_R) < _CLOSE:
        return 1.0 if abs(values_R[0]) < _CLOSE else None
    beyond = min(int((values_R <= 0).sum()), int((values_R >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(values_R)))


def _over_seeds(means_RS: Floats, rng: np.random.Generator) -> Floats:
    """The mean over seeds drawn again, in each resample, with the deviations from the mean of all seeds stretched."""
    resamples, seeds = means_RS.shape
    drawn_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    means_R = means_RS.mean(axis=1)
    stretched_R: Floats = means_R + (seeds / (seeds - 1)) ** 0.5 * ((drawn_RS * means_RS).sum(axis=1) - means_R)
    return stretched_R


def _ascending(p_values: Mapping[str, float]) -> tuple[list[str], Floats]:
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p of {name!r} is {p}, and must lie in [0, 1]")
    names = sorted(p_values, key=lambda name: p_values[name])
    return names, np.array([p_values[name] for name in names])


def _by_name(p_values: Mapping[str, float], names: list[str], adjusted_M: Floats) -> dict[str, float]:
    adjusted = dict(zip(names, np.minimum(adjusted_M, 1.0).tolist(), strict=True))
    return {name: adjusted[name] for name in p_values}
