"""Evaluation runs -> a source x target table: what a model that learned on one domain scores on each of the others."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from osler.errors import RecipeError, RunError, unknown
from osler.floor import OptionPrior
from osler.runs import Run
from osler.schema import Record
from osler.stats import macro
from osler.summary import AXES, Cell, cell, cells, in_order

CSV_HEADER = (
    *("row", "column", "accuracy", "ci_low", "ci_high", "n", "lenient", "lenient_n", "floor", "floor_n"),
    *("unparseable", "unjudged", "truncated", "small"),
)


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
        """The mean accuracy over targets, each counting once."""
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
            for column, target in {**line.cells, "overall": line.overall}.items():
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
        raise RunError("a run was given twice; a matrix needs different ones.")
    found = [_evaluated(run, axis) for run in runs]
    columns = in_order((target for line in found for target in line.cells), axis)
    labels = _distinct([line.label for line in found], runs)
    lines = [
        Line(label, line.domain, line.state, {column: line.cells.get(column) or cell([]) for column in columns}, line.overall)
        for label, line in zip(labels, found, strict=True)
    ]
    order = [_training(run, axis) for run in runs]
    ranked = ["zero-shot", *in_order(set(order) - {"zero-shot", "mixed"}, axis), "mixed"]
    places = sorted(range(len(lines)), key=lambda place: ranked.index(order[place]))
    return Matrix(axis, tuple(columns), tuple(lines[place] for place in places))
