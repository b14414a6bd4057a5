"""What several completions of one prompt tell: Pass@K, the majority's answer, and whether agreement is worth trusting.

Confidence is self-consistency: the share of a row's K completions that agree with its majority (Wang et al., ICLR 2023).
Axes: `N` rows, `L` levels of confidence that occur, `B` bins, `R` resamples.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.stats import Estimate, Floats, as_credits, cluster_index, proportion, resampled_estimate

BINS = 10
"""Bins of confidence for the calibration error, as most papers have them."""

LEVELS = 256
"""The most different confidences that `aurc` takes; K completions have at most K + 1."""

_ON_AN_EDGE = 1e-9  # 28 of 100 in 100 bins is 28.000000000000004 of them


@dataclass(frozen=True)
class Vote:
    """The answers that most of a row's `n` completions gave: one, several that tie, or none where nothing could be read.

    `votes` is how many each winner got, `unparseable` how many completions had no answer; these agree with nothing.
    """

    winners: tuple[str, ...]
    votes: int
    n: int
    unparseable: int

    @property
    def confidence(self) -> float:
        """The share of all completions that agree with the majority; 0 where nothing could be read."""
        return self.votes / self.n

    def credit(self, gold: str) -> float:
        """1 where `gold` won; answers that tie share the credit evenly, as if one were drawn; else 0."""
        return 1 / len(self.winners) if gold in self.winners else 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with confidence."""
        return {**asdict(self), "confidence": self.confidence}


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies above `low` and up to `high` (0 itself lies in the lowest bin)."""

    low: float
    high: float
    confidence: float | None
    accuracy: Estimate

    def to_json(self) -> dict[str, Any]:
        """The fields by name; confidence, the mean in the bin, is null where the bin is empty."""
        return asdict(self)


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error over `n` rows, and the bins that it is made of; None where there is no row.

    It has no interval: by chance alone it is above 0 even for a calibrated model, the more so the fewer rows a bin has, and
    resampling adds to that. Read it with the bins, whose accuracies have theirs.
    """

    ece: float | None
    n: int
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class RiskPoint:
    """Answering only rows of at least `confidence`: the `coverage` of rows that is left, and the `risk` of a wrong answer."""

    confidence: float
    coverage: float
    risk: Estimate

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n completions, drawn without putting back, hold a right one, where c of the n are right.

    It is unbiased for the chance that k fresh completions hold one. Errors: ValueError unless 1 <= k <= n and 0 <= c <= n.
    Source: Chen et al. 2021, arXiv 2107.03374, equation 1: 1 - C(n - c, k) / C(n, k).
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} cannot be found from {n} completions of which {c} are right")
    return 1 - comb(n - c, k) / comb(n, k)


def mean_pass_at_k(
    correct: Sequence[Sequence[bool]], k: int, clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean of `pass_at_k` over rows; `correct[i]` holds whether each completion of row i is right (numbers may differ).

    Estimand: the share of rows like these of which at least one of k fresh completions is right. Errors: ValueError where a
    row has fewer than k completions.
    """
    return proportion([pass_at_k(len(row), sum(row), k) for row in correct], clusters, level, seed)


def acc_at_1(
    correct: Sequence[Sequence[bool]], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The accuracy to expect of one sampled completion a row: the mean share of right ones, which is Pass@1."""
    return mean_pass_at_k(correct, 1, clusters, level, seed)


def majority(answers: Sequence[str | None]) -> Vote:
    """The vote of one row's completions, where None is a completion without a readable answer.

    Answers count as the same where they are equal, so hand in letters or folded texts. Errors: ValueError without any.
    """
    if not answers:
        raise ValueError("a majority needs at least one completion")
    counts = Counter(answer for answer in answers if answer is not None)
    votes = max(counts.values(), default=0)
    winners = tuple(sorted(answer for answer, count in counts.items() if count == votes))
    return Vote(winners, votes, len(answers), len(answers) - counts.total())


def majority_accuracy(
    votes: Sequence[Vote], golds: Sequence[str], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The accuracy of the majority's answers; ties share the credit evenly and rows without an answer are wrong."""
    return proportion([vote.credit(gold) for vote, gold in zip(votes, golds, strict=True)], clusters, level, seed)


def ece(
    confidence: Sequence[float],
    correct: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    bins: int = BINS,
    level: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """The mean over rows of how far confidence and accuracy lie apart in each row's bin, `bins` of equal width in [0, 1].

    Source: Guo et al., ICML 2017, equation 3. Errors: ValueError where a value is outside [0, 1] or the lengths differ.
    """
    confidence_N, correct_N = _pair(confidence, correct)
    index_N = cluster_index(clusters, len(correct_N))
    bin_N = np.maximum(np.ceil(confidence_N * bins - _ON_AN_EDGE).astype(int) - 1, 0)
    found, distance = [], 0.0
    for number in range(bins):
        inside = bin_N == number
        accuracy = _share(correct_N, index_N, inside, level, seed)
        mean = float(confidence_N[inside].mean()) if inside.any() else None
        found.append(Bin(number / bins, (number + 1) / bins, mean, accuracy))
        distance += abs(float((confidence_N - correct_N)[inside].sum()))
    return Calibration(distance / len(bin_N) if len(bin_N) else None, len(bin_N), tuple(found))


def brier(
    confidence: Sequence[float],
    correct: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean squared distance of confidence from 1 where the answer is right, from 0 where it is wrong.

    A share of the credit counts as the chance of being right, and the expected distance is taken. It lies in [0, 1], 0 is
    best. Source: Brier, Monthly Weather Review 78 (1950) 1-3, for the answer that was given against all others.
    """
    confidence_N, correct_N = _pair(confidence, correct)
    expected_N = correct_N * (1 - confidence_N) ** 2 + (1 - correct_N) * confidence_N**2
    return proportion(list(expected_N), clusters, level, seed)


def risk_coverage(
    confidence: Sequence[float],
    correct: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[RiskPoint, ...]:
    """The curve of risk against coverage: a point for each confidence that occurs, from the highest, so that coverage grows.

    Source: El-Yaniv and Wiener, Journal of Machine Learning Research 11 (2010) 1605-1641.
    """
    confidence_N, correct_N = _pair(confidence, correct)
    index_N = cluster_index(clusters, len(correct_N))
    points = []
    for threshold in np.unique(confidence_N)[::-1]:
        kept = confidence_N >= threshold
        risk = _share(1 - correct_N, index_N, kept, level, seed)
        points.append(RiskPoint(float(threshold), float(kept.mean()), risk))
    return tuple(points)


def aurc(
    confidence: Sequence[float],
    correct: Sequence[bool | float],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The area under the curve of risk against coverage: the mean risk of the i most confident rows over i = 1 to n.

    Rows of the same confidence stand in random order, and the expectation over orders is taken, so that the order of the
    file does not count. 0 is best; a confidence that says nothing gives the error rate. Errors: ValueError beyond `LEVELS`
    different confidences, where a value is outside [0, 1], or the lengths differ.
    Source: Geifman, Uziel and El-Yaniv, ICLR 2019, arXiv 1805.08206, section 2.
    """
    confidence_N, correct_N = _pair(confidence, correct)
    levels_L, level_N = np.unique(-confidence_N, return_inverse=True)
    if len(levels_L) > LEVELS:
        raise ValueError(f"{len(levels_L)} different confidences are more than {LEVELS}: round them, say to hundredths")
    at_level_NL = np.eye(len(levels_L))[level_N]
    columns_NC = np.concatenate([at_level_NL, at_level_NL * (1 - correct_N)[:, None]], axis=1)
    return resampled_estimate(columns_NC, _mean_risk, clusters, level, seed)


def _mean_risk(totals_RC: Floats) -> Floats:
    """AURC from the rows and the expected errors at each level of confidence, the highest level first.

    Where N rows with E errors come before m rows with e errors, the risk of the first N + j is (E + e j / m) / (N + j). Over
    j = 1..m this sums to e + (E - e N / m) (H(N + m) - H(N)), with H the harmonic numbers.
    """
    rows_RL, errors_RL = np.split(totals_RC, 2, axis=1)
    through_RL = np.cumsum(rows_RL, axis=1).round().astype(int)
    before_RL = through_RL - rows_RL.round().astype(int)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, through_RL.max() + 1))])
    errors_before_RL = np.cumsum(errors_RL, axis=1) - errors_RL
    rate_RL = errors_RL / np.maximum(rows_RL, 1)
    spread_RL = (errors_before_RL - rate_RL * before_RL) * (harmonic[through_RL] - harmonic[before_RL])
    mean_R: Floats = (errors_RL + spread_RL).sum(axis=1) / through_RL[:, -1]
    return mean_R


def _share(values_N: Floats, index_N: NDArray[np.int64], kept: NDArray[np.bool_], level: float, seed: int) -> Estimate:
    return proportion(values_N[kept].tolist(), list(map(str, index_N[kept])), level, seed)


def _pair(confidence: Sequence[float], correct: Sequence[bool | float]) -> tuple[Floats, Floats]:
    if len(confidence) != len(correct):
        raise ValueError(f"{len(confidence)} confidences do not belong to {len(correct)} answers")
    return as_credits(confidence), as_credits(correct)
