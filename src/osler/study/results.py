"""What the runs of a study come to: metrics of each, means over seeds, and every row against the reference row.

Accuracies are those of methods, not of checkpoints: seeds and clusters of rows are drawn again (`hierarchical_mean`,
`hierarchical_difference` of osler.significance); with one seed they are the checkpoint's. Other metrics vary over seeds alone,
in pairs of one seed where two rows are compared, by Student's t. A model that is not trained has no seeds to draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats as t_tests

from osler.contrasts import contrast
from osler.errors import RunError
from osler.looking import right
from osler.runs import Run
from osler.schema import Record
from osler.significance import PRIMARY, benjamini_hochberg, hierarchical_difference, hierarchical_mean, holm
from osler.stats import EMPTY, Estimate
from osler.study.files import StudySettings
from osler.study.grid import Entry
from osler.study.metrics import METRICS, bounds_of
from osler.study.running import Done
from osler.summary import Passes, read_records

NOT_OF_MODELS = frozenset({"floor", "judge_unscored", "train_rows"})
"""Metrics that say nothing of a model, and are not compared."""


@dataclass(frozen=True)
class RowResult:
    """One run of the table: its metrics on the test rows called `test`, and the folder of its evaluation."""

    name: str
    group: str
    recipe: str
    seed: int
    test: str
    metrics: Mapping[str, Estimate]
    unparseable: int
    unjudged: int
    run: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name; metrics as value, ci_low, ci_high, n."""
        return {**asdict(self), "metrics": {name: one.to_json() for name, one in self.metrics.items()}}


@dataclass(frozen=True)
class MeanResult:
    """A row of the table over its seeds: means of its metrics, and how many answers of a run are unparseable and unjudged."""

    name: str
    test: str
    seeds: int
    metrics: Mapping[str, Estimate]
    unparseable: float
    unjudged: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name; metrics as value, ci_low, ci_high, n."""
        return {**asdict(self), "metrics": {name: one.to_json() for name, one in self.metrics.items()}}


@dataclass(frozen=True)
class Comparison:
    """Row `a` less row `b` in `metric` on the test rows called `test`, over `seeds` runs of a.

    `p_adjusted` is Holm's where at most five rows are compared with the reference, else Benjamini and Hochberg's q.
    """

    a: str
    b: str
    metric: str
    test: str
    delta: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_adjusted: float | None
    n: int
    seeds: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def results_of(study: StudySettings, done: Sequence[Done]) -> list[RowResult]:
    """The metrics of every run that was made, on each set of test rows."""
    return [
        RowResult(
            name=one.entry.name,
            group=one.entry.group,
            recipe=one.entry.source,
            seed=one.entry.seed,
            test=test,
            metrics=_metrics(study, one, run),
            unparseable=run.summary["unparseable"],
            unjudged=run.summary["unjudged"],
            run=str(run.path),
        )
        for one in done
        for test, run in one.evaluated.items()
    ]


def _metrics(study: StudySettings, done: Done, run: Run) -> dict[str, Estimate]:
    """What can be read of the metrics that the study names; a metric that a run does not have is left out."""
    found = {name: METRICS[name][2](done, run) for name in study.metrics}
    return {name: one for name, one in found.items() if one is not None and one.value is not None}


def means_of(study: StudySettings, done: Sequence[Done]) -> list[MeanResult]:
    """Every row over its seeds, on each set of test rows."""
    found = []
    for test in _tests(done):
        for name, runs in _by_name([one for one in done if test in one.evaluated]).items():
            evaluated = [one.evaluated[test] for one in runs]
            values = {metric: _mean(metric, runs, evaluated) for metric in study.metrics}
            unparseable, unjudged = (
                sum(run.summary[key] for run in evaluated) / len(runs) for key in ("unparseable", "unjudged")
            )
            kept = {metric: one for metric, one in values.items() if one is not None}
            n = evaluated[0].summary["format_rate"]["n"]
            found.append(MeanResult(name, test, len(runs), kept, unparseable, unjudged, n))
    return found


def _mean(metric: str, done: Sequence[Done], runs: Sequence[Run]) -> Estimate | None:
    """The mean of `metric` over `runs`; None where no run has it."""
    if metric == "accuracy" and len(runs) > 1:
        rows = judged_rows(runs)
        return hierarchical_mean(rows.values, rows.clusters)
    values = [METRICS[metric][2](one, run) for one, run in zip(done, runs, strict=True)]
    known = [one for one in values if one is not None and one.value is not None]
    return mean_over_seeds(known, bounds_of(metric)) if known else None


def _by_name(done: Sequence[Done]) -> dict[str, list[Done]]:
    found: dict[str, list[Done]] = {}
    for one in done:
        found.setdefault(one.entry.name, []).append(one)
    return found


def comparisons(study: StudySettings, done: Sequence[Done]) -> list[Comparison]:
    """Every row against the reference row in every metric of models, on each set of test rows; none without a reference.

    A row that stands for several (`each`) is compared value by value.
    """
    found: list[Comparison] = []
    for test in _tests(done):
        for metric in (name for name in study.metrics if name not in NOT_OF_MODELS):
            pairs = [_compare(study, metric, test, a, b) for a, b in _pairs(study, done)]
            found += _adjusted([one for one in pairs if one is not None])
    return found


def _tests(done: Sequence[Done]) -> list[str]:
    return list(dict.fromkeys(test for one in done for test in one.evaluated))


def _pairs(study: StudySettings, done: Sequence[Done]) -> list[tuple[list[Done], list[Done]]]:
    """The runs of each row, with those of the reference that have the same values."""
    by_name, pairs = _by_name(done), []
    for runs in by_name.values():
        entry = runs[0].entry
        others = [
            side
            for side in by_name.values()
            if side[0].entry.group == study.reference and side[0].entry.values in (entry.values, {})
        ]
        if entry.group != study.reference and others:
            pairs.append((runs, others[0]))
    return pairs


def _compare(study: StudySettings, metric: str, test: str, a: list[Done], b: list[Done]) -> Comparison | None:
    """`a` less `b`; None where either side lacks the metric."""
    if metric == "accuracy":
        return _accuracies(test, a, b)
    read = METRICS[metric][2]
    sides = [[(one, read(one, one.evaluated[test])) for one in side if test in one.evaluated] for side in (a, b)]
    known = [{one.entry.seed: found.value for one, found in side if found and found.value is not None} for side in sides]
    if not all(known):
        return None
    return _over_seeds(metric, test, a[0].entry, b[0].entry, *known)


def _accuracies(test: str, a: list[Done], b: list[Done]) -> Comparison | None:
    sides = [[one for one in side if test in one.evaluated] for side in (a, b)]
    if not all(sides):
        return None
    names = (a[0].entry.name, b[0].entry.name)
    if len(sides[0]) == 1 and len(sides[1]) == 1:
        found = contrast(*(Passes.read(side[0].evaluated[test]) for side in sides)).test
        d = found.difference
        return Comparison(*names, "accuracy", test, d.value, d.ci_low, d.ci_high, found.p, None, d.n, 1, "paired by row")
    rows = judged_rows([one.evaluated[test] for side in sides for one in side])
    by_seed = rows.values[: len(sides[0])], rows.values[len(sides[0]) :]
    if any(len(side) == 1 and runs[0].entry.stages for side, runs in zip(by_seed, sides, strict=True)):
        return None  # one seed of a method that has several says nothing about the method
    twice = [[side[0], side[0]] if len(side) == 1 else side for side in by_seed]  # an untrained model has no seeds to draw
    method = hierarchical_difference(twice[0], twice[1], rows.clusters)
    d = method.difference
    kind = "seeds and clusters drawn again"
    return Comparison(*names, "accuracy", test, d.value, d.ci_low, d.ci_high, method.p, None, d.n, len(by_seed[0]), kind)


@dataclass(frozen=True)
class JudgedRows:
    """Whether each row is right in each run, over the rows that all runs judged; `records` are those of the first run."""

    values: list[list[bool]]
    records: list[Record]

    @property
    def clusters(self) -> list[str]:
        """The cluster of each row."""
        return [record.sample.cluster for record in self.records]


def judged_rows(runs: Sequence[Run]) -> JudgedRows:
    """The rows of `runs`, in order. Errors: RunError where the runs are not of the same rows."""
    by_run = [{one.sample.id: one for one in read_records(run)} for run in runs]
    ids = list(by_run[0])
    for run, records in zip(runs, by_run, strict=True):
        if records.keys() != by_run[0].keys():
            raise RunError(f"{run.path} is not of the same rows as {runs[0].path}. Evaluate both on the same rows.")
    outcomes = [[right(records[row]) for row in ids] for records in by_run]
    kept = [k for k in range(len(ids)) if all(outcome[k] is not None for outcome in outcomes)]
    return JudgedRows([[bool(outcome[k]) for k in kept] for outcome in outcomes], [by_run[0][ids[k]] for k in kept])


def _over_seeds(metric: str, test: str, a: Entry, b: Entry, mine: Mapping[int, float], its: Mapping[int, float]) -> Comparison:
    """The difference over seeds, in pairs of one seed, by Student's t; no interval with fewer than two.

    A side that is not trained stands beside every seed of the other.
    """
    sides = [_spread(entry, values, other) for entry, values, other in ((a, mine, its), (b, its, mine))]
    shared = sorted(sides[0].keys() & sides[1].keys())
    differences = np.array([sides[0][seed] - sides[1][seed] for seed in shared])
    n, names = len(differences), (a.name, b.name)
    if not n:
        return Comparison(*names, metric, test, None, None, None, None, None, 0, 0, "paired by seed")
    delta = float(differences.mean())
    if n < 2 or float(np.ptp(differences)) == 0:
        return Comparison(*names, metric, test, delta, None, None, None, None, n, n, "paired by seed")
    found = t_tests.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval()
    return Comparison(*names, metric, test, delta, float(low), float(high), float(found.pvalue), None, n, n, "paired by seed")


def _spread(entry: Entry, values: Mapping[int, float], other: Mapping[int, float]) -> Mapping[int, float]:
    """`values`, or where `entry` is not trained its only value for every seed of the `other` side."""
    return values if entry.stages else dict.fromkeys(other, next(iter(values.values())))


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """`found`, one metric's comparisons, each with its adjusted p."""
    p_values = {f"{one.a}\0{one.b}": one.p for one in found if one.p is not None}
    adjusted = holm(p_values) if len(p_values) <= PRIMARY else benjamini_hochberg(p_values)
    return [Comparison(**{**asdict(one), "p_adjusted": adjusted.get(f"{one.a}\0{one.b}")}) for one in found]


def mean_over_seeds(values: Sequence[Estimate], bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean of a metric over runs with Student's interval over seeds, n being the rows of one; one run's own estimate.

    The interval ends at `bounds`. There is none where all seeds are alike, as it would have no width.
    """
    known = np.array([one.value for one in values if one.value is not None])
    if len(known) < 2:
        return values[0] if values else EMPTY
    mean, error = float(known.mean()), float(known.std(ddof=1) / len(known) ** 0.5)
    if float(np.ptp(known)) == 0:
        return Estimate(mean, None, None, values[0].n)
    reach, (least, most) = float(t_tests.t.ppf(0.975, len(known) - 1)) * error, bounds or (-np.inf, np.inf)
    return Estimate(mean, max(least, mean - reach), min(most, mean + reach), values[0].n)
