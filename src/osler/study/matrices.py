"""Source x target tables over seeds: each cell the mean over runs, with the interval that draws seeds and rows again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import RunError
from osler.heatmaps import LIMITS, Grid, Tile, write_grid
from osler.matrix import training
from osler.significance import hierarchical_difference, hierarchical_mean
from osler.stats import Estimate, paired_difference, proportion
from osler.study.files import StudySettings
from osler.study.results import JudgedRows, judged_rows
from osler.study.running import Done
from osler.summary import SMALL, axis_of, in_order


@dataclass(frozen=True)
class SeedMatrix:
    """Accuracies (`minus` is None) or differences of the rows called `group`, and less those called `minus`, over seeds.

    `cells` are by line and column; "all rows" is a column too. `domains` is what each line was trained on.
    """

    group: str
    minus: str | None
    axis: str
    columns: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Estimate]]
    domains: Mapping[str, str]
    seeds: int

    def _mean(self, on: bool) -> float | None:
        values = [
            cell.value
            for line, cells in self.cells.items()
            for column, cell in cells.items()
            if column != ALL and (column == self.domains[line]) is on and cell.value is not None
            and self.domains[line] in self.columns
        ]  # fmt: skip
        return sum(values) / len(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with the means on and off the diagonal."""
        cells = {line: {column: one.to_json() for column, one in cells.items()} for line, cells in self.cells.items()}
        return {
            **{name: getattr(self, name) for name in ("group", "minus", "axis", "seeds")},
            "columns": list(self.columns),
            "cells": cells,
            "diagonal": self._mean(True),
            "off_diagonal": self._mean(False),
        }


ALL, EVERYTHING = "all rows", "all"
"""The column of all rows, and the line of a row of the study that is not parted by `each`."""


def matrices(study: StudySettings, done: Sequence[Done], test: str) -> list[SeedMatrix]:
    """For each axis of `study`, the matrix of every row, then those of its `minus`, on the test rows called `test`.

    A row with `each` has a line for each value, another one line. Errors: RecipeError for an axis that is none.
    """
    groups: dict[str, list[Done]] = {}
    for one in done:
        if test in one.evaluated:
            groups.setdefault(one.entry.group, []).append(one)
    built = []
    for axis in study.matrix:
        axis_of(axis)  # or it is none
        built += [_matrix(axis, name, None, runs, [], test) for name, runs in groups.items()]
        pairs = [(a, b) for a, b in study.minus if a in groups and b in groups]
        built += [_matrix(axis, a, b, groups[a], groups[b], test) for a, b in pairs]
    return [matrix for matrix in built if matrix.cells]


def _matrix(axis: str, group: str, minus: str | None, a: list[Done], b: list[Done], test: str) -> SeedMatrix:
    lines: dict[str, dict[str, Estimate]] = {}
    domains: dict[str, str] = {}
    for name in dict.fromkeys(_line(one) for one in a):
        mine = [one.evaluated[test] for one in a if _line(one) == name]
        its = [one.evaluated[test] for one in b if _line(one) in (name, EVERYTHING)]
        if minus is not None and not its:
            continue
        lines[name], domains[name] = _cells(axis, judged_rows([*mine, *its]), len(mine)), training(mine[0], axis)
    everything = in_order((column for cells in lines.values() for column in cells if column != ALL), axis)
    return SeedMatrix(group, minus, axis, tuple(everything), lines, domains, max((len({one.entry.seed for one in a})), 1))


def _cells(axis: str, rows: JudgedRows, runs: int) -> dict[str, Estimate]:
    """The cell of each label of `axis`, and of all rows: the first `runs` runs, less the others where there are more."""
    label_of, _ = axis_of(axis)
    labels = [str(label_of(record.sample)) for record in rows.records]
    cells = {}
    for column in (*in_order(labels, axis), ALL):
        kept = [k for k, label in enumerate(labels) if column in (label, ALL)]
        values = [[side[k] for k in kept] for side in rows.values]
        cells[column] = _cell(values[:runs], values[runs:] or None, [rows.clusters[k] for k in kept])
    return cells


def _line(one: Done) -> str:
    """What the run was trained on, as its row says."""
    return " · ".join(map(str, one.entry.values.values())) or EVERYTHING


def _cell(a: list[list[bool]], b: list[list[bool]] | None, clusters: list[str]) -> Estimate:
    """The mean accuracy of `a` over runs, less that of `b`. A side of one run stands for itself: its seed is not drawn."""
    if b is None:
        return hierarchical_mean(a, clusters) if len(a) > 1 else proportion(a[0], clusters)
    if len(a) == len(b) == 1:
        return paired_difference(a[0], b[0], clusters)
    sides = [side * 2 if len(side) == 1 else side for side in (a, b)]
    return hierarchical_difference(sides[0], sides[1], clusters).difference


def write_matrix(built: SeedMatrix, file: Path) -> Path:
    """`file`, an .svg or .png that shows `built`. Errors: RunError where it cannot be written, or nothing is to be shown."""
    if not built.cells:
        raise RunError(f"{file}: the matrix of {built.group} has no line.")
    return write_grid(grid_of(built), file)


def grid_of(built: SeedMatrix) -> Grid:
    """What the heat map of `built` shows."""
    axis, form = built.axis.replace("_", " "), "+.1f" if built.minus else ".1f"
    tiles = tuple(
        tuple(_tile(cells.get(column), column == built.domains[line], form) for column in (*built.columns, ALL))
        for line, cells in built.cells.items()
    )
    largest = max(
        (abs(tile.value) for row in tiles for tile in row if tile.value is not None and not tile.hatched), default=0.0
    )
    limit = next((limit for limit in LIMITS if limit >= largest), LIMITS[-1])
    what = f"{built.group} less {built.minus}, points" if built.minus else f"{built.group}, accuracy in %"
    about = (
        f"Mean of {built.seeds} seed{'s' * (built.seeds != 1)}, read strictly, and the 95 % interval that draws seeds and "
        f"images again. Frame: tested on the {axis} that it was trained on. Hatched: fewer than {SMALL} rows."
    )
    return Grid(
        title=f"{what}, by {axis}: trained on (rows), tested on (columns)",
        scale="difference" if built.minus else "accuracy",
        low=-limit if built.minus else 0.0,
        high=limit if built.minus else 1.0,
        about=about,
        rows=tuple(built.cells),
        columns=(*built.columns, ALL),
        tiles=tiles,
    )


def _tile(cell: Estimate | None, framed: bool, form: str) -> Tile:
    if cell is None or cell.value is None:
        return Tile(None, "", (), False, False, framed)
    low, high = (f"{100 * float(end or 0):{form}}" for end in (cell.ci_low, cell.ci_high))
    lines = (f"[{low}, {high}]", f"n {cell.n:,}")
    sure = form == "+.1f" and not float(cell.ci_low or 0) <= 0 <= float(cell.ci_high or 0)
    return Tile(cell.value, f"{100 * cell.value:{form}}", lines, sure or form == ".1f", cell.n < SMALL, framed)
