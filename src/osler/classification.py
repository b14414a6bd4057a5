"""Answers to yes/no and choice questions as a classifier's: what accuracy hides when one answer is given or gold more often.

Each row is reduced to its gold label and the label that was answered: yes or no, a letter, an option's text. None is an
answer that could not be read; it counts as wrong and is counted. Axes: `N` rows, `C` classes, `R` resamples.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from osler.stats import EMPTY, Estimate, Floats, cluster_sums, proportion, resampled_estimate


@dataclass(frozen=True)
class Label:
    """One label over all rows: how often it is gold, how often it was answered, and how many of its golds were found."""

    gold: int
    answered: int
    recall: Estimate

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Classification:
    """What `classify` found over `n` rows, of which `unparseable` had no readable answer and count as wrong.

    `labels` holds each label that is gold or was answered, in order: with letters it is the histogram of the letters and
    the recall by the gold's position. Sensitivity and specificity are None where no label was named as the positive one,
    and empty where no row is positive, or negative.
    """

    n: int
    unparseable: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    sensitivity: Estimate | None
    specificity: Estimate | None
    labels: dict[str, Label]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def classify(
    golds: Sequence[str],
    answers: Sequence[str | None],
    clusters: Sequence[str] | None = None,
    positive: str | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Classification:
    """Every number of this module for one set of rows; `positive` names the label that sensitivity is about.

    Errors: ValueError where the lengths differ.
    """
    right = _right(golds, answers)
    return Classification(
        n=len(golds),
        unparseable=unparseable(answers),
        accuracy=proportion(right, clusters, level, seed),
        balanced_accuracy=balanced_accuracy(golds, answers, clusters, level, seed),
        macro_f1=macro_f1(golds, answers, clusters, level, seed),
        sensitivity=None if positive is None else sensitivity(golds, answers, positive, clusters, level, seed),
        specificity=None if positive is None else specificity(golds, answers, positive, clusters, level, seed),
        labels=by_label(golds, answers, clusters, level, seed),
    )


def unparseable(answers: Sequence[str | None]) -> int:
    """How many answers could not be read."""
    return sum(answer is None for answer in answers)


def sensitivity(
    golds: Sequence[str],
    answers: Sequence[str | None],
    positive: str = "yes",
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The share of rows with the gold `positive` that were answered so; empty where there is none."""
    return _share_right(golds, answers, [gold == positive for gold in golds], clusters, level, seed)


def specificity(
    golds: Sequence[str],
    answers: Sequence[str | None],
    positive: str = "yes",
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The share of rows with another gold than `positive` that were answered rightly; empty where there is none.

    Not to have said `positive` is not enough: an answer that could not be read rules nothing out.
    """
    return _share_right(golds, answers, [gold != positive for gold in golds], clusters, level, seed)


def by_label(
    golds: Sequence[str],
    answers: Sequence[str | None],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Label]:
    """Each label that is gold or was answered, in alphabetical order; the recall of one that is never gold is empty.

    A model that favours a letter shows it as a letter answered more often than it is gold, with the recall of the other
    positions below the rest.
    """
    gold_counts, answer_counts = Counter(golds), Counter(answer for answer in answers if answer is not None)
    return {
        label: Label(
            gold_counts[label],
            answer_counts[label],
            _share_right(golds, answers, [gold == label for gold in golds], clusters, level, seed),
        )
        for label in sorted(gold_counts.keys() | answer_counts.keys())
    }


def balanced_accuracy(
    golds: Sequence[str],
    answers: Sequence[str | None],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The plain mean of the recall of each label that is gold: a constant answer scores 1 / labels, whatever the balance.

    Each end of the interval is the farther of two: of the cluster bootstrap, which knows that labels share images, and of
    the labels' own intervals combined, which knows that a label with three rows is hardly known.
    Source: Brodersen et al., ICPR 2010, for the mean; Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702, for
    combining intervals.
    """
    counts_NC = _counts(golds, answers)
    if not len(golds):
        return EMPTY
    pooled = resampled_estimate(counts_NC, _mean_recall, clusters, level, seed)
    recalls = [label.recall for label in by_label(golds, answers, clusters, level, seed).values() if label.gold]
    value_C, low_C, high_C = np.array([(part.value, part.ci_low, part.ci_high) for part in recalls], dtype=np.float64).T
    low, high = np.array([pooled.ci_low, pooled.ci_high], dtype=np.float64)
    value, labels = float(value_C.mean()), len(recalls)
    below, above = np.linalg.norm(value_C - low_C) / labels, np.linalg.norm(high_C - value_C) / labels
    return Estimate(value, float(min(low, value - below)), float(max(high, value + above)), pooled.n)


def macro_f1(
    golds: Sequence[str],
    answers: Sequence[str | None],
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The plain mean of F1 = 2 TP / (2 TP + FP + FN) of each label that is gold, with a cluster bootstrap's interval.

    A label that is answered and never gold has no F1 of its own, and an unreadable answer is a miss of its gold and no false
    alarm of any label. Where all is right, the interval is as wide as the rarest label's clusters allow; where a label has
    few rows and not all is right, it is too narrow. Source: Opitz and Burst 2019, arXiv 1911.03347, the averaged F1.
    """
    counts_NC = _counts(golds, answers)
    if not len(golds):
        return EMPTY
    gold_KC = cluster_sums(counts_NC, clusters)[:, 1::3]
    rarest = int((gold_KC > 0).sum(axis=0).min())
    return resampled_estimate(counts_NC, _mean_f1, clusters, level, seed, vouching=rarest)


def _counts(golds: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """For each row and each label that is gold somewhere: found, gold, answered (1 or 0), as three columns a label."""
    _right(golds, answers)
    labels, rows = sorted(set(golds)), len(golds)
    gold_NC, answered_NC = (
        np.array([[given == label for label in labels] for given in side], dtype=np.float64).reshape(rows, len(labels))
        for side in (golds, answers)
    )
    return np.stack([gold_NC * answered_NC, gold_NC, answered_NC], axis=2).reshape(rows, 3 * len(labels))


def _mean_recall(totals_RC: Floats) -> Floats:
    """Over the labels that are gold in the resample; one that is not has no recall there."""
    found, gold, _ = (totals_RC[:, column::3] for column in range(3))
    mean_R: Floats = (found / np.maximum(gold, 1)).sum(axis=1) / (gold > 0).sum(axis=1)
    return mean_R


def _mean_f1(totals_RC: Floats) -> Floats:
    """Over the labels that are gold in the resample. 2 TP + FP + FN is the rows that are gold plus those answered so."""
    found, gold, answered = (totals_RC[:, column::3] for column in range(3))
    f1_RC = np.where(gold > 0, 2 * found / np.maximum(gold + answered, 1), 0.0)
    mean_R: Floats = f1_RC.sum(axis=1) / (gold > 0).sum(axis=1)
    return mean_R


def _right(golds: Sequence[str], answers: Sequence[str | None]) -> list[bool]:
    if len(golds) != len(answers):
        raise ValueError(f"{len(golds)} golds do not belong to {len(answers)} answers")
    return [gold == answer for gold, answer in zip(golds, answers, strict=True)]


def _share_right(
    golds: Sequence[str],
    answers: Sequence[str | None],
    kept: Sequence[bool],
    clusters: Sequence[str] | None,
    level: float,
    seed: int,
) -> Estimate:
    """The share of right answers among the rows that are `kept`."""
    right = [right for right, keep in zip(_right(golds, answers), kept, strict=True) if keep]
    names = None if clusters is None else [name for name, keep in zip(clusters, kept, strict=True) if keep]
    return proportion(right, names, level, seed)
