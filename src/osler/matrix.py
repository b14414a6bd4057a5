"""Evaluation runs -> a source x target table: what a model that learned on one domain scores on each of the others."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from osler.controls import CONTROLS
from osler.errors import RunError
from osler.looking import Looking, right
from osler.power import design_effect, intracluster_correlation, minimum_detectable_difference, sd_of_pairs
from osler.runs import Run
from osler.schema import Record
from osler.slices import require_said
from osler.stats import EMPTY, Estimate, macro
from osler.summary import Cell, Passes, axis_of, cell, in_order, place

CSV_HEADER = (
    *("row", "column", "accuracy", "ci_low", "ci_high", "n", "lenient", "lenient_n", "floor", "floor_n", "attacker"),
    *("unparseable", "unjudged", "truncated", "small", "minimum_detectable_difference", "icc", "design_effect"),
)
"""What the CSV of every matrix begins with; for each control that any of its cells has, `CONTROL_COLUMNS` follow."""
CONTROL_COLUMNS = ("n", "accuracy", "ci_low", "ci_high", "difference", "difference_low", "difference_high")
"""Each behind the control's name and "_". `FOLLOW_COLUMNS` follow where it is shuffled."""
FOLLOW_COLUMNS = ("follow_n", "follow", "follow_low", "follow_high", "follow_base")

LEVEL, POWER = 0.05, 0.8

ZERO_SHOT, MIXED, UNKNOWN = "zero-shot", "mixed", "unknown"
"""What stands for the domain trained on where there is none, where there are several, and where none is known."""


@dataclass(frozen=True)
class Detectable:
    """The smallest true `difference` of two models on a cell's rows that a paired test at `LEVEL` finds with `POWER`.

    Assumed: both are about as accurate as the cell is, p, and err independently, so that a share `discordant` of 2 p (1 - p)
    of the rows is right under one of them only, or as many as the difference itself needs, where those are more. Models that
    fail on the same rows differ on fewer, and less is found. The differences of a cluster's rows correlate by `icc`, that of
    being right in this cell: None where nothing can be said, which counts as 0, as does what is below.
    `difference` is None where there is no row, and where not even a difference of 1 would do.
    """

    difference: float | None
    discordant: float | None
    icc: float | None
    design_effect: float | None
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with level and power."""
        return {**asdict(self), "level": LEVEL, "power": POWER}


@dataclass(frozen=True)
class Line:
    """One run in the table. `domain` is the one domain that its model was trained on, None for none or several.

    `detectable` belongs to `cells`, `overall_detectable` to `overall`.
    """

    label: str
    domain: str | None
    state: str
    cells: dict[str, Cell]
    overall: Cell
    detectable: dict[str, Detectable]
    overall_detectable: Detectable

    @property
    def macro(self) -> float | None:
        """The mean accuracy over the targets that were tested, each counting once whatever its n."""
        return macro(target.accuracy for target in self.cells.values())

    @property
    def own(self) -> Cell | None:
        """The cell on the diagonal, or None where the line has none or it is empty."""
        target = self.cells.get(self.domain or "")
        return target if target and target.n else None

    @property
    def others(self) -> list[Cell]:
        """The cells off the diagonal; none where there is nothing on it to compare with."""
        return [target for label, target in self.cells.items() if label != self.domain] if self.own else []

    def over(self, columns: Sequence[str]) -> "Line":
        """The line with a cell, empty where need be, in each of `columns`."""
        return replace(
            self,
            cells={column: self.cells.get(column) or cell(Passes([])) for column in columns},
            detectable={column: self.detectable.get(column) or detectable([]) for column in columns},
        )

    def to_json(self) -> dict[str, Any]:
        """The summary of the line; its cells stand in the matrix."""
        return {
            "domain": self.domain,
            "state": self.state,
            "overall": _cell_json(self.overall, self.overall_detectable),
            "macro": self.macro,
            **_generalisation([self]),
        }


@dataclass(frozen=True)
class Matrix:
    """Lines over the same `columns`: the targets on `axis` that occur in any of them; a cell without rows is empty.

    The diagonal and its gap pool all lines trained on one domain: to compare methods, build one matrix for each.
    """

    axis: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The labels of the lines."""
        return tuple(line.label for line in self.lines)

    @property
    def cells(self) -> dict[str, dict[str, Cell]]:
        """The cell of each row label and column."""
        return {line.label: line.cells for line in self.lines}

    def to_json(self) -> dict[str, Any]:
        """axis, rows, columns, cells by row and column, a summary of each row, and diagonal, off_diagonal, gap."""
        return {
            "axis": self.axis,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "cells": {
                line.label: {column: _cell_json(target, line.detectable[column]) for column, target in line.cells.items()}
                for line in self.lines
            },
            "summary": {line.label: line.to_json() for line in self.lines},
            **_generalisation(self.lines),
        }

    def to_csv(self) -> str:
        """A header, then a line for each cell and, with `overall` as its column, for each row; no value where n is 0."""
        everything = [target for line in self.lines for target in (*line.cells.values(), line.overall)]
        controls = [name for name in CONTROLS if any(name in target.controls for target in everything)]
        rows = [
            (line.label, column, *_csv_values(target, found), *_control_values(target, controls))
            for line in self.lines
            for column, target, found in (
                *((column, target, line.detectable[column]) for column, target in line.cells.items()),
                ("overall", line.overall, line.overall_detectable),
            )
        ]
        return to_csv((*CSV_HEADER, *_control_header(controls)), rows)


def build_matrix(runs: Sequence[Run], axis: str) -> Matrix:
    """The matrix of evaluation `runs` on `axis`, one of `osler.summary.AXES` or "extra:KEY", sorted as `arranged`.

    Errors: RecipeError for an axis that is none, or of numbers that need bands; RunError for a run that is no evaluation, is
    damaged, or comes twice.
    """
    ordered = arranged(runs, axis)
    labels = distinct(ordered, [f"{training(run, axis)} · {model_of(run)}" for run in ordered])
    lines = [_line(run, label, axis) for run, label in zip(ordered, labels, strict=True)]
    columns = in_order((target for line in lines for target in line.cells), axis)
    require_said(ordered, axis, columns)
    return Matrix(axis, tuple(columns), tuple(line.over(columns) for line in lines))


def detectable(records: Sequence[Record]) -> Detectable:
    """What a comparison of two models on the rows of `records`, one model's, could find."""
    judged = [(float(strict), one.sample.cluster) for one in records if (strict := right(one)) is not None]
    if not judged:
        return Detectable(None, None, None, None, 0)
    values, clusters = [value for value, _ in judged], [cluster for _, cluster in judged]
    sizes, accuracy, icc = Counter(clusters), sum(values) / len(values), intracluster_correlation(values, clusters)
    effect = design_effect(list(sizes.values()), max(0.0, icc or 0.0))
    # A difference d needs a share d of discordant rows at least; where only they differ, d solves d = factor * sqrt(d).
    factor = minimum_detectable_difference(len(values), 1.0, effect, POWER, LEVEL)
    discordant = max(2 * accuracy * (1 - accuracy), factor**2)
    if discordant > 1:
        return Detectable(None, None, icc, effect, len(sizes))
    difference = minimum_detectable_difference(len(values), sd_of_pairs(discordant), effect, POWER, LEVEL)
    return Detectable(difference, discordant, icc, effect, len(sizes))


# --- what a run was trained on


def arranged(runs: Sequence[Run], axis: str) -> list[Run]:
    """The lines of a matrix in order: zero-shot, then by the domain trained on, then several; else as `runs` are.

    Errors: as `build_matrix`.
    """
    axis_of(axis)  # or it is none
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError("a run was given twice: a matrix needs different ones.")
    return sorted(runs, key=lambda run: _rank(training(run, axis), axis))


def domains(run: Run, axis: str) -> tuple[str, ...] | None:
    """The domains of `axis` that the model of the evaluation `run` was trained on, None where it was trained on nothing.

    Errors: RunError where `run` is no evaluation or does not say.
    """
    trained_on = _fact(run, "trained_on")
    return None if trained_on is None else tuple(trained_on.get(axis) or [UNKNOWN])


def training(run: Run, axis: str) -> str:
    """The one of `domains`, or what stands for none or several."""
    found = domains(run, axis)
    return ZERO_SHOT if found is None else found[0] if len(found) == 1 else MIXED


def model_of(run: Run) -> str:
    """The label of the model that the evaluation `run` is of."""
    return str(_fact(run, "model")["label"])


def distinct(runs: Sequence[Run], plain: Sequence[str]) -> list[str]:
    """The labels `plain` of `runs`; where others share one, with the run's name behind it, or else its path."""
    named = [f"{label} ({run.name})" for label, run in zip(plain, runs, strict=True)]
    located = [f"{label} ({run.path.as_posix()})" for label, run in zip(plain, runs, strict=True)]
    choices = (plain, named, located)
    return [next(labels[row] for labels in choices if labels.count(labels[row]) == 1) for row in range(len(runs))]


def _line(run: Run, label: str, axis: str) -> Line:
    passes, trained = Passes.read(run), training(run, axis)
    parts = passes.along(axis)
    return Line(
        label=label,
        domain=None if trained in (ZERO_SHOT, MIXED, UNKNOWN) else trained,
        state=_fact(run, "state"),
        cells={column: cell(part) for column, part in parts.items()},
        overall=cell(passes),
        detectable={column: detectable(part.real) for column, part in parts.items()},
        overall_detectable=detectable(passes.real),
    )


def _rank(trained: str, axis: str) -> tuple[int, int, float, str]:
    return ({ZERO_SHOT: 0, MIXED: 2}.get(trained, 1), *place(trained, axis))


def _fact(run: Run, name: str) -> Any:
    """What the manifest of the evaluation `run` holds as `name`. Errors: RunError where `run` is none or it is missing."""
    if run.manifest.get("kind") != "eval":
        raise RunError(f"{run.path} is no evaluation: its kind is {run.manifest.get('kind')!r}. Evaluate it first.")
    if name not in run.manifest:
        raise RunError(f"{run.path}: its manifest has no {name!r}. Evaluate again.")
    return run.manifest[name]


# --- on and off the diagonal, and the CSV


def generalisation(on: Iterable[Estimate], off: Iterable[Estimate]) -> dict[str, float | None]:
    """The macro means `on` and `off` the diagonal, and how much the first is above the second; None where there is none."""
    diagonal, off_diagonal = macro(on), macro(off)
    gap = None if diagonal is None or off_diagonal is None else diagonal - off_diagonal
    return {"diagonal": diagonal, "off_diagonal": off_diagonal, "gap": gap}


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """`header` and `rows` as lines of CSV; None is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _generalisation(lines: Sequence[Line]) -> dict[str, float | None]:
    on = [line.own.accuracy for line in lines if line.own]
    return generalisation(on, [target.accuracy for line in lines for target in line.others])


def _cell_json(target: Cell, found: Detectable) -> dict[str, Any]:
    return {**target.to_json(), "minimum_detectable": found.to_json()}


def _csv_values(target: Cell, found: Detectable) -> tuple[Any, ...]:
    strict, lenient, floor = target.accuracy, target.lenient, target.floor or EMPTY
    return (
        *(strict.value, strict.ci_low, strict.ci_high, strict.n, lenient.value, lenient.n, floor.value, floor.n),
        *(target.attacker, target.unparseable, target.unjudged, target.truncated, str(target.small).lower()),
        *(found.difference, found.icc, found.design_effect),
    )


def _control_header(controls: Sequence[str]) -> list[str]:
    return [f"{name}_{column}" for name in controls for column in _columns_of(name)]


def _columns_of(control: str) -> tuple[str, ...]:
    return (*CONTROL_COLUMNS, *FOLLOW_COLUMNS) if control == "shuffled" else CONTROL_COLUMNS


def _control_values(target: Cell, controls: Sequence[str]) -> list[float | None]:
    """The values of `_control_header`; n is 0 and the rest None where the cell lacks the control."""
    return [value for name in controls for value in _looking_values(name, target.controls.get(name))]


def _looking_values(control: str, looking: Looking | None) -> list[float | None]:
    accuracy, difference = (looking.accuracy, looking.difference) if looking else (EMPTY, EMPTY)
    values = [difference.n, accuracy.value, accuracy.ci_low, accuracy.ci_high]
    values += [difference.value, difference.ci_low, difference.ci_high]
    if control == "shuffled":
        follow = looking.follow if looking else None
        shown, base = (follow.shown, follow.base) if follow else (EMPTY, EMPTY)
        values += [shown.n, shown.value, shown.ci_low, shown.ci_high, base.value]
    return values
