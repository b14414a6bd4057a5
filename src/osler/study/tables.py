"""A study's table for people: on the terminal, as Markdown for a paper's appendix, and as CSV with a line a run and metric."""

import csv
import io
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osler.significance import PRIMARY
from osler.stats import Estimate
from osler.study.files import StudySettings
from osler.study.matrices import ALL, SeedMatrix
from osler.study.results import METRICS, Comparison, RowResult, mean_over_seeds


def columns_of(study: StudySettings) -> list[str]:
    """The headings of the table."""
    return ["row", "seeds", *(METRICS[name][0] for name in study.metrics), *_reference_column(study), "unparseable", "n"]


def _reference_column(study: StudySettings) -> list[str]:
    return [f"points over {study.reference}"] if study.reference else []


def table(study: StudySettings, results: Sequence[RowResult], tests: Sequence[Comparison], test: str) -> list[list[str]]:
    """A line for each row of the study: means over seeds with their intervals, and its difference from the reference row."""
    names = list(dict.fromkeys(one.name for one in results if one.test == test))
    return [_line(study, [one for one in results if (one.name, one.test) == (name, test)], tests) for name in names]


def _line(study: StudySettings, runs: Sequence[RowResult], tests: Sequence[Comparison]) -> list[str]:
    first = runs[0]
    cells = [_metric(name, [one.metrics[name] for one in runs if name in one.metrics]) for name in study.metrics]
    versus = [one for one in tests if (one.a, one.metric, one.test) == (first.name, "accuracy", first.test)]
    difference = [_versus(versus[0]) if versus else "-"] if study.reference else []
    unparseable = sum(one.unparseable for one in runs) / len(runs)
    n = first.metrics["accuracy"].n if "accuracy" in first.metrics else 0
    return [first.name, str(len(runs)), *cells, *difference, f"{unparseable:.0f}", str(n)]


def _metric(name: str, values: Sequence[Estimate]) -> str:
    """`71.2 [67.9, 74.3]`; without an interval where there is none, "-" where no run has the metric."""
    if not values:
        return "-"
    times, mean = METRICS[name][1], mean_over_seeds(values)
    low, high = mean.ci_low, mean.ci_high
    shown = f"{times * float(mean.value or 0):.{_digits(name)}f}"
    return (
        shown if low is None or high is None else f"{shown} [{times * low:.{_digits(name)}f}, {times * high:.{_digits(name)}f}]"
    )


def _digits(name: str) -> int:
    return 3 if name == "eval_s" else 0 if name == "train_s" else 1


def _versus(one: Comparison) -> str:
    if one.delta is None or one.ci_low is None or one.ci_high is None:
        return "-"
    p = "" if one.p_adjusted is None else f", p {one.p_adjusted:.3f}" if one.p_adjusted >= 0.001 else ", p < 0.001"
    return f"{100 * one.delta:+.1f} [{100 * one.ci_low:+.1f}, {100 * one.ci_high:+.1f}]{p}"


def how_to_read(study: StudySettings, compared: int) -> list[str]:
    """What the numbers of the table are, in a few sentences."""
    words = [
        "A cell is the mean over seeds with Student's 95 % interval over seeds; with one seed, that run's interval. "
        "Answers are read strictly; unparseable ones count as wrong, and the column gives their mean number a run.",
    ]
    if study.reference:
        adjusted = "Holm" if compared <= PRIMARY else "Benjamini and Hochberg"
        words.append(
            f"Points over {study.reference}: difference in accuracy of the methods, with a 95 % interval that draws seeds and "
            f"images again, and its p, adjusted by {adjusted} over {compared} comparisons; with one seed, of the two "
            "checkpoints, paired by row and clustered by image."
        )
    if study.tune > 1:
        words.append(f"Each row's learning rate is the best of {study.tune} on validation rows, on the first seed.")
    return words


def markdown(
    study: StudySettings,
    results: Sequence[RowResult],
    tests: Sequence[Comparison],
    built: Sequence[SeedMatrix],
    about: dict[str, Any],
) -> str:
    """The study as a page of Markdown: command, machine, table, tests, matrices, what was tuned, what failed."""
    lines = [f"# {study.title or study.name}", "", *_about(study, about), ""]
    for test in dict.fromkeys(one.test for one in results):
        lines += [f"## Test rows: {test}", "", *_markdown_table(columns_of(study), table(study, results, tests, test)), ""]
    compared = len([one for one in tests if one.metric == "accuracy"])
    lines += [*how_to_read(study, compared), ""]
    if tests:
        lines += [f"## Every metric against {study.reference}", "", *_markdown_table(TEST_COLUMNS, _test_rows(tests)), ""]
    for matrix in built:
        lines += [f"## {_title(matrix)}", "", *_markdown_table(*_matrix_table(matrix)), ""]
    if about.get("tuned"):
        rows = [[name, f"{one['lr']:.3g}", ", ".join(f"{lr}: {100 * value:.1f} %" for lr, value in one["tried"].items())]
                for name, one in about["tuned"].items()]  # fmt: skip
        lines += ["## Learning rates", "", *_markdown_table(("row", "chosen", "validation accuracy of each"), rows), ""]
    if about.get("failed"):
        lines += ["## Failed runs", "", *(f"- {one}" for one in about["failed"]), ""]
    return "\n".join(lines)


TEST_COLUMNS = ("row", "less", "metric", "test rows", "difference", "95 % interval", "p", "p adjusted", "seeds")


def _test_rows(tests: Sequence[Comparison]) -> list[list[str]]:
    rows = []
    for one in tests:
        times, digits = METRICS[one.metric][1], max(1, _digits(one.metric))
        known = one.ci_low is not None and one.ci_high is not None
        interval = (
            f"[{times * float(one.ci_low or 0):+.{digits}f}, {times * float(one.ci_high or 0):+.{digits}f}]" if known else "-"
        )
        delta = "-" if one.delta is None else f"{times * one.delta:+.{digits}f}"
        heading = METRICS[one.metric][0]
        rows.append([one.a, one.b, heading, one.test, delta, interval, _p(one.p), _p(one.p_adjusted), str(one.seeds)])
    return rows


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _about(study: StudySettings, about: dict[str, Any]) -> list[str]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    when = datetime.now(UTC).date().isoformat()
    facts = [
        f"- Command: `{command}`",
        f"- {when}, osler {about['version']}, {about['device']}, {platform.system()}, Python {platform.python_version()}",
        f"- Scale {study.scale}; seeds {', '.join(map(str, study.seeds))}; {about['done']} of {about['runs']} runs are done",
    ]
    if study.claims:
        facts.append(f"- Claims: {', '.join(study.claims)} (docs/papers.md)")
    return [*facts, *(f"- {note}" for note in study.notes)]


def _title(matrix: SeedMatrix) -> str:
    what = f"{matrix.group} less {matrix.minus}, points" if matrix.minus else f"{matrix.group}, accuracy in %"
    return f"{what}, by {matrix.axis.replace('_', ' ')}"


def _matrix_table(matrix: SeedMatrix) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: lines are what was trained on, columns what was tested on."""
    form = "+.1f" if matrix.minus else ".1f"
    rows = [
        [line, *(_cell(cells.get(column), form, column == matrix.domains[line]) for column in (*matrix.columns, ALL))]
        for line, cells in matrix.cells.items()
    ]
    return ["trained on", *matrix.columns, ALL], rows


def _cell(cell: Estimate | None, form: str, own: bool) -> str:
    """A cell in percent or points, in bold on the diagonal."""
    if cell is None or cell.value is None:
        return ""
    value, low, high = (format(100 * float(one or 0), form) for one in (cell.value, cell.ci_low, cell.ci_high))
    return f"{'**' * own}{value}{'**' * own} [{low}, {high}]"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (columns, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return [lines[0], f"|{'---|' * len(columns)}", *lines[1:]]


def to_csv(results: Sequence[RowResult]) -> str:
    """A line for each run, test and metric: name, recipe, seed, test, metric, value, interval, n."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("name", "recipe", "seed", "test", "metric", "value", "ci_low", "ci_high", "n"))
    for one in results:
        for metric, value in one.metrics.items():
            cells = (value.value, value.ci_low, value.ci_high, value.n)
            writer.writerow((one.name, one.recipe, one.seed, one.test, metric, *cells))
    return out.getvalue()
