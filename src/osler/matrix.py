"""Evaluation runs -> a source x target table: what a model that learned on one domain scores on each of the others."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from osler.errors import RecipeError, RunError, unknown
from osler.floor import OptionPrior
from osler.runs import Run
from osler.stats import EMPTY, macro
from osler.summary import AXES, Cell, cell, cells, in_order, place, read_records

CSV_HEADER = (
    *("row", "column", "accuracy", "ci_low", "ci_high", "n", "lenient", "lenient_n", "floor", "floor_n"),
    *("unparseable", "unjudged", "truncated", "small"),
)

ZERO_SHOT, MIXED, UNKNOWN = "zero-shot", "mixed", "unknown"
"""What stands for the domain trained on where there is none, where there are several, and where none is known."""


@dataclass(frozen=True)
class Line:
    """One run in the table. `domain` is the one domain that its model was trained on, None for none or several."""

    label: str
    domain: str | None
    state: str
    cells: dict[str, Cell]
    overall: Cell

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
        return replace(self, cells={column: self.cells.get(column) or cell([]) for column in columns})

    def to_json(self) -> dict[str, Any]:
        """The summary of the line; its cells stand in the matrix."""
        return {
            "domain": self.domain,
            "state": self.state,
            "overall": self.overall.to_json(),
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
                row: {column: target.to_json() for column, target in targets.items()} for row, targets in self.cells.items()
            },
            "summary": {line.label: line.to_json() for line in self.lines},
            **_generalisation(self.lines),
        }

    def to_csv(self) -> str:
        """A header, then a line for each cell and, with `overall` as its column, for each row; no value where n is 0."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for line in self.lines:
            for column, target in (*line.cells.items(), ("overall", line.overall)):
                writer.writerow((line.label, column, *_csv_values(target)))
        return out.getvalue()


def build_matrix(runs: Sequence[Run], axis: str) -> Matrix:
    """The matrix of evaluation `runs` on `axis` (modality | question_type | source).

    Lines are sorted: zero-shot, then by the domain trained on, then those trained on several; else as `runs` are.
    Errors: RecipeError for an axis that is none; RunError for a run that is no evaluation, is damaged, or comes twice.
    """
    if axis not in AXES:
        raise RecipeError(unknown("axis", axis, AXES))
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError("a run was given twice: a matrix needs different ones.")
    ordered = sorted(runs, key=lambda run: _rank(_training(run, axis), axis))
    lines = [_line(run, label, axis) for run, label in zip(ordered, _labels(ordered, axis), strict=True)]
    columns = in_order((target for line in lines for target in line.cells), axis)
    return Matrix(axis, tuple(columns), tuple(line.over(columns) for line in lines))


def _line(run: Run, label: str, axis: str) -> Line:
    trained_on, training, records = _fact(run, "trained_on"), _training(run, axis), read_records(run)
    prior = OptionPrior.from_json(trained_on["option_prior"]) if trained_on and trained_on.get("option_prior") else None
    domain = None if training in (ZERO_SHOT, MIXED, UNKNOWN) else training
    return Line(label, domain, _fact(run, "state"), cells(records, axis, prior), cell(records, prior))


def _training(run: Run, axis: str) -> str:
    """The domain of `axis` that the model of `run` was trained on, or what stands for it."""
    trained_on = _fact(run, "trained_on")
    if trained_on is None:
        return ZERO_SHOT
    domains: list[str] = trained_on[axis] or [UNKNOWN]
    return domains[0] if len(domains) == 1 else MIXED


def _rank(training: str, axis: str) -> tuple[int, int, str]:
    return ({ZERO_SHOT: 0, MIXED: 2}.get(training, 1), *place(training, axis))


def _labels(runs: Sequence[Run], axis: str) -> list[str]:
    """What each of `runs` was trained on and its model's label; then its name, or else its path, where others share that."""
    plain = [f"{_training(run, axis)} · {_fact(run, 'model')['label']}" for run in runs]
    named = [f"{label} ({run.name})" for label, run in zip(plain, runs, strict=True)]
    located = [f"{label} ({run.path.as_posix()})" for label, run in zip(plain, runs, strict=True)]
    choices = (plain, named, located)
    return [next(labels[row] for labels in choices if labels.count(labels[row]) == 1) for row in range(len(runs))]


def _fact(run: Run, name: str) -> Any:
    """What the manifest of the evaluation `run` holds as `name`. Errors: RunError where `run` is none or it is missing."""
    if run.manifest.get("kind") != "eval":
        raise RunError(f"{run.path} is no evaluation: its kind is {run.manifest.get('kind')!r}. Evaluate it first.")
    if name not in run.manifest:
        raise RunError(f"{run.path}: its manifest has no {name!r}. Evaluate again.")
    return run.manifest[name]


def _generalisation(lines: Sequence[Line]) -> dict[str, float | None]:
    """The macro means on and off the diagonal, and how much the first is above the second; None where there is none."""
    diagonal = macro(line.own.accuracy for line in lines if line.own)
    off_diagonal = macro(target.accuracy for line in lines for target in line.others)
    gap = None if diagonal is None or off_diagonal is None else diagonal - off_diagonal
    return {"diagonal": diagonal, "off_diagonal": off_diagonal, "gap": gap}


def _csv_values(target: Cell) -> tuple[Any, ...]:
    strict, lenient, floor = target.accuracy, target.lenient, target.floor or EMPTY
    return (
        *(strict.value, strict.ci_low, strict.ci_high, strict.n, lenient.value, lenient.n, floor.value, floor.n),
        *(target.unparseable, target.unjudged, target.truncated, str(target.small).lower()),
    )
