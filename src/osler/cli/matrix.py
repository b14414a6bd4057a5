"""The command that sets evaluations side by side: source x target, and one such table less another."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from osler.cli.output import Json, plain, print_json, print_table

if TYPE_CHECKING:
    from osler.differences import Difference, MatrixDifference
    from osler.matrix import Detectable, Matrix
    from osler.omnibus import SliceTest
    from osler.stats import Estimate
    from osler.summary import Cell


def matrix(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Evaluation runs.")],
    axis: Annotated[
        str, typer.Option(help="modality, question_type, source, language, or extra:KEY, a column KEY of the rows' own.")
    ] = "modality",
    bands: Annotated[
        str | None,
        typer.Option(help="Of extra:KEY, a number: 18,40,65 makes <18, 18-39, 40-64, >=65; each: every number by itself."),
    ] = None,
    minus: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Subtract this run; once for each. One zero-shot run is subtracted from all."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the cells here.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE.svg|FILE.png", help="Also draw the cells here.")] = None,
    as_json: Json = False,
) -> None:
    """The source x target table of evaluation runs, or its difference from another's; of one run, its slices.

    Several runs, a line each: osler matrix runs/* --axis modality

    One run in slices: osler matrix RUN --axis extra:site

    In bands of age: osler matrix RUN --axis extra:age --bands 18,40,65
    """
    from osler.bands import banded
    from osler.differences import difference
    from osler.matrix import Matrix, build_matrix
    from osler.runs import Run, write_named
    from osler.slices import slices_differ

    axis = banded(axis, bands) if bands is not None else axis
    given, taken = ([Run.open(path) for path in paths] for paths in (runs, minus or []))
    built = difference(given, taken, axis) if taken else build_matrix(given, axis)
    if csv:
        write_named(csv, built.to_csv())
    if svg:
        from osler.heatmaps import write_heat_map

        write_heat_map(built, svg)
    test = slices_differ(given[0], axis) if len(given) == 1 and not taken else None
    if as_json:
        print_json(built.to_json() | ({"slices_differ": test.to_json()} if test else {}))
        return
    _print_matrix(built) if isinstance(built, Matrix) else _print_difference(built)
    if test:
        _print_test(test)


def _print_matrix(built: "Matrix") -> None:
    rows = [
        [
            plain(line.label),
            *(_cell(line.cells[column], line.detectable[column]) for column in built.columns),
            _cell(line.overall, line.overall_detectable),
            _share(line.macro),
        ]
        for line in built.lines
    ]
    print_table(f"Accuracy in % by {plain(built.axis)}", _header(built.columns), rows)
    for line in built.lines:
        if line.state != "done":
            typer.echo(
                f"{line.label}: its evaluation is {line.state}; only the {line.overall.n:,} rows until then are counted."
            )
    typer.echo(
        "A cell: accuracy [95 % interval] (rows), read strictly; floor: the best of four blind attackers; blank: the visual "
        "reliance, accuracy less that with blank images; mdd: the smallest difference of two models that these rows would show "
        "with 80 % power; unparseable: answers that count as wrong; unjudged: rows that are left out; n<100: too few rows to "
        "compare by."
    )
    counts = [line.overall for line in built.lines]
    unparseable, unjudged = sum(one.unparseable for one in counts), sum(one.unjudged for one in counts)
    typer.echo(f"Of all records {unparseable:,} are unparseable, and count as wrong; {unjudged:,} are unjudged, and left out.")
    if (gap := built.to_json())["gap"] is not None:
        on, off, points = (_share(gap[key]) for key in ("diagonal", "off_diagonal", "gap"))
        typer.echo(f"Macro mean on the diagonal {on}, off it {off}: a transfer gap of {points} points.")


def _print_difference(built: "MatrixDifference") -> None:
    rows = [
        [
            plain(line.label),
            *(_difference(line.cells[column]) for column in built.columns),
            _difference(line.overall),
            _share(line.macro, "+.1f"),
        ]
        for line in built.lines
    ]
    print_table(f"Difference in points by {plain(built.axis)}", _header(built.columns), rows)
    typer.echo(
        f"A cell: difference in accuracy [95 % interval] (rows), paired; q: its p over {built.tested} cells, by Benjamini and "
        "Hochberg; lenient: the difference read leniently; reliance: the change of visual reliance; n<100: too few rows to "
        "compare by. The cells describe; they do not confirm."
    )
    if unmatched := [run for runs in built.unmatched.values() for run in runs]:
        typer.echo(f"Left out, as no run of the other side was trained on the same: {', '.join(unmatched)}.")
    if unpaired := sum(line.overall.unpaired for line in built.lines):
        typer.echo(f"{unpaired:,} records are of cells that only one side has, and are left out.")
    if (gap := built.to_json())["gap"] is not None:
        on, off, points = (_share(gap[key], "+.1f") for key in ("diagonal", "off_diagonal", "gap"))
        typer.echo(f"Macro mean on the diagonal {on}, off it {off}: the transfer gap changes by {points} points.")


def _print_test(test: "SliceTest") -> None:
    """What the slices of one run show together; nothing where there are fewer than two."""
    if test.p is None:
        return
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    typer.echo(
        f"Of {test.slices} slices some differ by chance, and some intervals miss. That none differs: {p}, by {test.draws:,} "
        f"exchanges of {test.clusters:,} clusters ({test.n:,} judged rows; unknown slices left out). Slices may hold "
        "harder questions: compare each with its floor. The cells describe; they do not confirm."
    )


def _header(columns: Sequence[str]) -> tuple[str, ...]:
    return ("trained on", *map(plain, columns), "all rows", "macro")


def _cell(cell: "Cell", found: "Detectable") -> str:
    """A matrix's cell as text, "" where it has no rows."""
    counts = [f"{name} {n:,}" for name, n in (("unparseable", cell.unparseable), ("unjudged", cell.unjudged)) if n]
    if not cell.n:
        return "\n".join(counts)
    blank = cell.controls.get("blank")
    parts = [
        f"floor {_share(cell.floor.value)}" if cell.floor and cell.floor.n else "",
        f"blank {_interval(blank.difference, '+.1f')}" if blank and blank.n else "",
        f"mdd {_share(found.difference)}",
        *counts,
    ]
    return _lines(f"{_interval(cell.accuracy)} ({cell.n:,})", parts, cell.small)


def _difference(cell: "Difference") -> str:
    """A difference's cell as text, "" where it has no rows."""
    if not (cell.n and cell.contrast):
        return ""
    reliance = cell.contrast.reliance
    parts = [
        "" if cell.q is None else f"q {cell.q:.3f}",
        f"lenient {_share(cell.contrast.lenient.value, '+.1f')}",
        f"reliance {_interval(reliance.change.difference, '+.1f')}" if reliance and reliance.change.n else "",
    ]
    return _lines(f"{_interval(cell.estimate, '+.1f')} ({cell.n:,})", parts, cell.small)


def _lines(first: str, parts: Sequence[str], small: bool) -> str:
    return "\n".join([first, *(part for part in parts if part), *(["n<100"] if small else [])])


def _interval(estimate: "Estimate", form: str = ".1f") -> str:
    return f"{_share(estimate.value, form)} [{_share(estimate.ci_low, form)}, {_share(estimate.ci_high, form)}]"


def _share(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else f"{100 * value:{form}}"
