"""Two matrices, cell by cell: runs that were trained on the same, one method against another. It describes, by q.

Each cell is a contrast (`osler.contrasts`); its q is Benjamini and Hochberg's over all cells of the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osler.contrasts import Contrast, contrast_of
from osler.errors import RunError
from osler.matrix import MIXED, UNKNOWN, ZERO_SHOT, arranged, distinct, domains, generalisation, model_of, to_csv, training
from osler.runs import Run
from osler.significance import benjamini_hochberg
from osler.slices import require_said
from osler.stats import EMPTY, Estimate, macro
from osler.summary import SMALL, Passes, in_order

CSV_HEADER = (
    *("row", "column", "difference", "ci_low", "ci_high", "n", "p", "q", "a", "b", "lenient", "lenient_n"),
    *("unjudged", "unpaired", "small", "reliance", "reliance_low", "reliance_high", "reliance_n", "reliance_p"),
)


@dataclass(frozen=True)
class Difference:
    """A cell: its contrast and, over all cells of the matrix, its q. Both None where either side has no row in it.

    `unpaired` counts the rows of a side where the other has none.
    """

    contrast: Contrast | None
    q: float | None = None
    unpaired: int = 0

    @property
    def estimate(self) -> Estimate:
        """Accuracy a - accuracy b."""
        return self.contrast.test.difference if self.contrast else EMPTY

    @property
    def p(self) -> float | None:
        """The p of the contrast, not adjusted."""
        return self.contrast.test.p if self.contrast else None

    @property
    def n(self) -> int:
        """The rows compared."""
        return self.estimate.n

    @property
    def small(self) -> bool:
        """Whether `n` is too small to compare by."""
        return self.n < SMALL

    def to_json(self) -> dict[str, Any]:
        """The contrast by its fields (null where there is none), with n, q, small and unpaired."""
        contrast = self.contrast.to_json() if self.contrast else {"difference": EMPTY.to_json(), "p": None}
        return {**contrast, "n": self.n, "q": self.q, "small": self.small, "unpaired": self.unpaired}


@dataclass(frozen=True)
class DifferenceLine:
    """Run `a` less run `b`, by their folders. `domain` is the one that a's model was trained on, None for none or several."""

    label: str
    domain: str | None
    a: str
    b: str
    cells: dict[str, Difference]
    overall: Difference

    @property
    def own(self) -> Difference | None:
        """The cell on the diagonal, or None where the line has none or it is empty."""
        cell = self.cells.get(self.domain or "")
        return cell if cell and cell.n else None

    @property
    def others(self) -> list[Difference]:
        """The cells off the diagonal; none where there is nothing on it."""
        return [cell for column, cell in self.cells.items() if column != self.domain] if self.own else []

    @property
    def macro(self) -> float | None:
        """The mean difference over the columns, each counting once whatever its n."""
        return macro(cell.estimate for cell in self.cells.values())

    def to_json(self) -> dict[str, Any]:
        """The summary of the line; its cells stand in the matrix."""
        summary = {"domain": self.domain, "a": self.a, "b": self.b, "overall": self.overall.to_json(), "macro": self.macro}
        return {**summary, **_generalisation([self])}


@dataclass(frozen=True)
class MatrixDifference:
    """Matrix a - matrix b on `axis`, cell by cell; `unmatched` names the runs of either side that have no counterpart."""

    axis: str
    columns: tuple[str, ...]
    lines: tuple[DifferenceLine, ...]
    unmatched: Mapping[str, tuple[str, ...]]

    @property
    def rows(self) -> tuple[str, ...]:
        """The labels of the lines."""
        return tuple(line.label for line in self.lines)

    @property
    def tested(self) -> int:
        """The cells that q is adjusted over."""
        return sum(cell.q is not None for line in self.lines for cell in line.cells.values())

    def to_json(self) -> dict[str, Any]:
        """axis, rows, columns, cells by row and column, a summary of each row, tested, unmatched, and the diagonal's gap."""
        return {
            "axis": self.axis,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "cells": {line.label: {column: cell.to_json() for column, cell in line.cells.items()} for line in self.lines},
            "summary": {line.label: line.to_json() for line in self.lines},
            "tested": self.tested,
            "unmatched": {side: list(runs) for side, runs in self.unmatched.items()},
            **_generalisation(self.lines),
        }

    def to_csv(self) -> str:
        """A header, then a line for each cell and, with `overall` as its column, for each row; no value where n is 0."""
        rows = [
            (line.label, column, *_csv_values(cell))
            for line in self.lines
            for column, cell in (*line.cells.items(), ("overall", line.overall))
        ]
        return to_csv(CSV_HEADER, rows)


def difference(a: Sequence[Run], b: Sequence[Run], axis: str) -> MatrixDifference:
    """The matrix of evaluation runs `a` less that of `b` on `axis`: run against run where they were trained on the same.

    If `b` is one zero-shot run, every run of `a` is compared with it.
    Errors: as `osler.matrix.build_matrix`; RunError where a run is on both sides, two of a side were trained on the same, none
    match, or runs that match have different rows in a cell.
    """
    side_a, side_b = _by_training(a, axis), _by_training(b, axis)
    if both := {run.path.resolve() for run in a} & {run.path.resolve() for run in b}:
        raise RunError(f"{min(both)} is on both sides of the difference. Leave it out of one.")
    counterpart = {key: next(iter(side_b.values())) for key in side_a} if list(side_b) == [None] else side_b
    pairs = [(run, counterpart[key]) for key, run in side_a.items() if key in counterpart]
    if not pairs:
        raise RunError(f"no two runs were trained on the same {axis}: there is nothing to subtract. Name runs that match.")
    labels = distinct(
        [run for run, _ in pairs], [f"{training(run, axis)} · {model_of(run)} - {model_of(other)}" for run, other in pairs]
    )
    lines = [_line(run, other, label, axis) for (run, other), label in zip(pairs, labels, strict=True)]
    columns = in_order((column for line in lines for column in line.cells), axis)
    require_said([*a, *b], axis, columns)
    lines = [replace(line, cells={name: line.cells.get(name) or Difference(None) for name in columns}) for line in lines]
    matched = {run.path for pair in pairs for run in pair}
    unmatched = {
        name: tuple(run.path.as_posix() for run in side.values() if run.path not in matched)
        for name, side in (("a", side_a), ("b", side_b))
    }
    return MatrixDifference(axis, tuple(columns), tuple(_adjusted(lines)), unmatched)


# --- rows


def _by_training(runs: Sequence[Run], axis: str) -> dict[tuple[str, ...] | None, Run]:
    """The lines' runs by what they were trained on. Errors: RunError where two were trained on the same."""
    found: dict[tuple[str, ...] | None, Run] = {}
    for run in arranged(runs, axis):
        key = domains(run, axis)
        if key in found:
            raise RunError(
                f"{found[key].path} and {run.path} stand on the same side of the difference and were trained on the same "
                f"{axis} ({training(run, axis)}), so that it is open which is meant. Leave one out."
            )
        found[key] = run
    return found


def _line(a: Run, b: Run, label: str, axis: str) -> DifferenceLine:
    mine, its = Passes.read(a).along(axis), Passes.read(b).along(axis)
    where = f"{a.path} and {b.path}"
    shared = [column for column in mine if column in its]
    cells = {column: Difference(contrast_of(mine[column], its[column], f"{where}, in {column},")) for column in shared}
    for column, part in {**mine, **its}.items():
        if column not in cells:
            cells[column] = Difference(None, unpaired=len(part.real))
    pooled_a, pooled_b = (_pooled([side[column] for column in shared]) for side in (mine, its))
    unpaired = sum(cell.unpaired for cell in cells.values())
    overall = Difference(contrast_of(pooled_a, pooled_b, where) if shared else None, unpaired=unpaired)
    trained = training(a, axis)
    domain = None if trained in (ZERO_SHOT, MIXED, UNKNOWN) else trained
    return DifferenceLine(label, domain, a.path.as_posix(), b.path.as_posix(), cells, overall)


def _pooled(parts: Sequence[Passes]) -> Passes:
    """The rows of all `parts`, and what their controls made of them."""
    names = dict.fromkeys(name for part in parts for name in part.controls)
    made = {name: [one for part in parts for one in part.controls.get(name, ())] for name in names}
    return Passes([one for part in parts for one in part.real], made)


def _adjusted(lines: Sequence[DifferenceLine]) -> list[DifferenceLine]:
    """`lines` with the q of each cell, over all cells of all lines."""
    places = [(at, column) for at, line in enumerate(lines) for column in line.cells]
    p_values = {str(k): p for k, (at, column) in enumerate(places) if (p := lines[at].cells[column].p) is not None}
    adjusted = benjamini_hochberg(p_values)
    q_of = {place: adjusted.get(str(k)) for k, place in enumerate(places)}
    return [
        replace(line, cells={column: replace(cell, q=q_of[at, column]) for column, cell in line.cells.items()})
        for at, line in enumerate(lines)
    ]


def _generalisation(lines: Sequence[DifferenceLine]) -> dict[str, float | None]:
    on = [line.own.estimate for line in lines if line.own]
    return generalisation(on, [cell.estimate for line in lines for cell in line.others])


def _csv_values(cell: Difference) -> tuple[Any, ...]:
    one, estimate = cell.contrast, cell.estimate
    lenient, reliance = (one.lenient, one.reliance) if one else (EMPTY, None)
    change, p = (reliance.change.difference, reliance.change.p) if reliance else (EMPTY, None)
    return (
        *(estimate.value, estimate.ci_low, estimate.ci_high, estimate.n, cell.p, cell.q),
        *(one.a.value if one else None, one.b.value if one else None, lenient.value, lenient.n),
        *(one.unjudged if one else 0, cell.unpaired, str(cell.small).lower()),
        *(change.value, change.ci_low, change.ci_high, change.n, p),
    )
