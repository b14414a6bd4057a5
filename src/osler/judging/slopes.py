"""Whether a judge is swayed by length: the slope of a logistic regression, with an interval by cluster bootstrap.

Axes: `N` rows, `K` clusters, `R` resamples; columns are intercept and slope.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osler.stats import EMPTY, Estimate, Floats, cluster_index

RESAMPLES = 1000
"""Fewer than for a mean, as each is a regression of its own."""

_STEPS = 40
_STEEPEST = 30.0  # log-odds a standard deviation: no data but separated ones are as steep
_WEIGHTS_AT_ONCE = 1_000_000  # 8 MB an array


def logistic_slope(scores: Sequence[int], values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Estimate:
    """What one more unit of `values` adds to the log-odds that a row's score is 1, by maximum likelihood, without a penalty.

    No value where all scores or all values are alike, or where values separate the scores: no slope is steep enough then. No
    interval where that is so in too many resamples. Errors: ValueError where the lengths differ.
    """
    if len(scores) != len(values):
        raise ValueError(f"{len(scores)} scores cannot be held against {len(values)} values")
    if not len(scores):
        return EMPTY
    scores_N, values_N = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    spread = float(values_N.std())
    if np.ptp(scores_N) == 0 or spread < 1e-12:
        return Estimate(None, None, None, len(scores))
    scaled_N = (values_N - values_N.mean()) / spread
    value = float(_slopes(np.ones((1, len(scores))), scaled_N, scores_N)[0]) / spread
    if not np.isfinite(value):
        return Estimate(None, None, None, len(scores))
    slopes_R = _resampled(scaled_N, scores_N, cluster_index(clusters, len(scores)), seed)
    low, high = np.quantile(slopes_R[~np.isnan(slopes_R)] / spread, [0.025, 0.975], method="nearest")
    known = np.isfinite(low) and np.isfinite(high) and high - low > 1e-12
    return Estimate(value, float(low) if known else None, float(high) if known else None, len(scores))


def _resampled(values_N: Floats, scores_N: Floats, index_N: NDArray[np.int64], seed: int) -> Floats:
    """The slope of each resample of clusters, in which a row weighs as often as its cluster was drawn."""
    count, rng = int(index_N.max()) + 1, np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // len(values_N))
    slopes = []
    for done in range(0, RESAMPLES, at_once):
        drawn_RK = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, RESAMPLES - done))
        slopes.append(_slopes(drawn_RK[:, index_N].astype(np.float64), values_N, scores_N))
    return np.concatenate(slopes)


def _slopes(weights_RN: Floats, values_N: Floats, scores_N: Floats) -> Floats:
    """The slope by Newton's method for each row of weights; infinite where it does not settle, NaN where scores are alike."""
    intercept_R, slope_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    for _ in range(_STEPS):
        fitted_RN = _sigmoid(intercept_R[:, None] + slope_R[:, None] * values_N)
        misses_RN, curves_RN = weights_RN * (scores_N - fitted_RN), weights_RN * fitted_RN * (1 - fitted_RN)
        up_R, up_slope_R = misses_RN.sum(axis=1), misses_RN @ values_N
        a_R, b_R, c_R = curves_RN.sum(axis=1), curves_RN @ values_N, curves_RN @ values_N**2
        flat_R = np.maximum(a_R * c_R - b_R**2, 1e-12)
        steps = ((c_R * up_R - b_R * up_slope_R) / flat_R, (a_R * up_slope_R - b_R * up_R) / flat_R)
        intercept_R, slope_R = (old + np.clip(step, -5, 5) for old, step in zip((intercept_R, slope_R), steps, strict=True))
        if max(np.abs(step).max() for step in steps) < 1e-10:
            break
    settled_R = (np.maximum(np.abs(steps[0]), np.abs(steps[1])) < 1e-6) & (np.abs(slope_R) < _STEEPEST)
    shares_R = weights_RN @ scores_N / weights_RN.sum(axis=1)
    alike_R = (shares_R < 1e-12) | (shares_R > 1 - 1e-12)
    return np.where(alike_R, np.nan, np.where(settled_R, slope_R, np.copysign(np.inf, slope_R)))


def _sigmoid(logits_RN: Floats) -> Floats:
    odds_RN: Floats = 1 / (1 + np.exp(-np.clip(logits_RN, -500, 500)))
    return odds_RN
