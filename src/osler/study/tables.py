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
from osler.study.exports import OF_EXPORT, ROWS
from osler.study.files import StudySettings
from osler.study.judged import marked, note
from osler.study.matrices import ALL, SeedMatrix
from osler.study.metrics import METRICS
from osler.study.overlaps import Overlap
from osler.study.results import Comparison, MeanResult, RowResult


def columns_of(study: StudySettings) -> list[str]:
    """The headings of the table."""
    reference = [f"points over {study.reference}"] if study.reference else []
    return ["row", "seeds", *(METRICS[name][0] for name in study.metrics), *reference, "unparseable", "unjudged", "n"]


Flags = frozenset[str]
"""Names of rows to mark (osler.study.judged.flagged)."""


def table(
    study: StudySettings, means: Sequence[MeanResult], tests: Sequence[Comparison], test: str, flags: Flags = frozenset()
) -> list[list[str]]:
    """A line for each row of the study: means over seeds with their intervals, and its difference from the reference row."""
    return [_line(study, one, tests, flags) for one in means if one.test == test]


def _line(study: StudySettings, mean: MeanResult, tests: Sequence[Comparison], flags: Flags) -> list[str]:
    cells = [_metric(name, mean.metrics.get(name)) for name in study.metrics]
    versus = [one for one in tests if (one.a, one.metric, one.test) == (mean.name, "accuracy", mean.test)]
    difference = [_versus(versus[0]) if versus else "-"] if study.reference else []
    counts = (f"{mean.unparseable:.0f}", f"{mean.unjudged:.0f}", str(mean.n))
    return [marked(mean.name, flags), str(mean.seeds), *cells, *difference, *counts]


def _metric(name: str, mean: Estimate | None) -> str:
    """`71.2 [67.9, 74.3]`; without an interval where there is none, "-" where no run has the metric."""
    if mean is None or mean.value is None:
        return "-"
    times, digits = METRICS[name][1], _digits(name)
    interval = (
        ""
        if mean.ci_low is None or mean.ci_high is None
        else f" [{times * mean.ci_low:.{digits}f}, {times * mean.ci_high:.{digits}f}]"
    )
    own_n = f", n {mean.n}" if name == "export_s" else ""  # an export is asked fewer rows than are tested
    return f"{times * mean.value:.{digits}f}{interval}{own_n}"


def _digits(name: str) -> int:
    return _DIGITS.get(name, 1)


_DIGITS = dict.fromkeys(("train_s", "train_mb", "eval_mb", "export_mb", "train_rows"), 0) | dict.fromkeys(
    ("eval_s", "export_s", "answer_similarity", "rationale_similarity", "bertscore"), 3
)
"""Digits behind the point, where not one."""


def _versus(one: Comparison) -> str:
    if one.delta is None or one.ci_low is None or one.ci_high is None:
        return "-"
    p = "" if one.p_adjusted is None else f", p {one.p_adjusted:.3f}" if one.p_adjusted >= 0.001 else ", p < 0.001"
    return f"{100 * one.delta:+.1f} [{100 * one.ci_low:+.1f}, {100 * one.ci_high:+.1f}]{p}"


def how_to_read(study: StudySettings, tests: Sequence[Comparison], flags: Flags = frozenset()) -> list[str]:
    """What the numbers of the table are, in a few sentences."""
    words = [
        "Accuracy is read strictly: its mean over seeds, with a 95 % interval that draws seeds and images again; of one run, "
        "by image. Other cells are means over seeds with Student's interval over seeds. Unparseable answers count as wrong, "
        "unjudged ones are left out; both are means a run."
    ]
    compared = [one for one in tests if one.metric == "accuracy" and one.p is not None]
    if compared:
        most = max(sum(one.test == test for one in compared) for test in {one.test for one in compared})
        adjusted = "Holm" if most <= PRIMARY else "Benjamini and Hochberg"
        words.append(
            f"Points over {study.reference}: the difference in accuracy of the methods, drawn likewise, and its p, adjusted by "
            f"{adjusted} over {most} comparisons on the same test rows; with one seed it is of the two checkpoints."
        )
    if flags:
        words.append(note(study))
    if set(study.metrics) & OF_EXPORT:
        words.append(
            f"An export is the merged model alone, asked by transformers one row at a time, at most {ROWS} rows, in a process "
            "of its own: seconds are prefill and decode, memory is the peak while it answers."
        )
    if study.tune > 1:
        words.append(f"Each row's learning rate is the best of {study.tune} on validation rows, on the first seed.")
    return words


def markdown(
    study: StudySettings,
    means: Sequence[MeanResult],
    tests: Sequence[Comparison],
    built: Sequence[SeedMatrix],
    about: dict[str, Any],
) -> str:
    """The study as a page of Markdown: command, machine, table, tests, matrices, what was tuned, what failed."""
    flags: Flags = about.get("flagged", frozenset())
    lines = [f"# {study.title or study.name}", "", *_about(study, about), ""]
    for test in dict.fromkeys(one.test for one in means):
        lines += [f"## Test rows: {test}", "", *_markdown_table(columns_of(study), table(study, means, tests, test, flags)), ""]
    lines += [*how_to_read(study, tests, flags), ""]
    if tests:
        lines += [
            f"## Every metric against {study.reference}",
            "",
            *_markdown_table(TEST_COLUMNS, _test_rows(tests, flags)),
            "",
        ]
    for matrix in built:
        lines += [f"## {_title(matrix)}", "", *_markdown_table(*_matrix_table(matrix)), ""]
    if about.get("overlaps"):
        lines += [
            "## Images of the training rows among the test rows",
            "",
            *_markdown_table(OVERLAP_COLUMNS, overlap_table(about["overlaps"], flags)),
            "",
        ]
    if about.get("tuned"):
        rows = [[one["row"], f"{one['lr']:.3g}", ", ".join(_tried(lr, value) for lr, value in one["tried"].items())]
                for one in about["tuned"].values()]  # fmt: skip
        lines += ["## Learning rates", "", *_markdown_table(("row", "chosen", "validation accuracy of each"), rows), ""]
    if about.get("failed"):
        lines += ["## Failed runs", "", *(f"- {one}" for one in about["failed"]), ""]
    return "\n".join(lines)


def _tried(lr: str, value: float | None) -> str:
    return f"{lr}: " + ("failed" if value is None else f"{100 * value:.1f} %")


TEST_COLUMNS = ("row", "less", "metric", "test rows", "difference", "95 % interval", "p", "p adjusted", "seeds")


OVERLAP_COLUMNS = ("trained", "test rows", "n", "with an image of training %", "rows of a near-duplicate")


def overlap_table(found: Sequence[Overlap], flags: Flags = frozenset()) -> list[list[str]]:
    """A line for each set of training rows and each set of test rows."""
    return [
        [
            ", ".join(marked(name, flags) for name in one.rows),
            one.test,
            str(one.n),
            _percent(one.shared),
            "not read" if one.near is None else str(one.near),
        ]
        for one in found
    ]


def _percent(share: Estimate) -> str:
    if share.value is None or share.ci_low is None or share.ci_high is None:
        return "-"
    return f"{100 * share.value:.1f} [{100 * share.ci_low:.1f}, {100 * share.ci_high:.1f}]"


def _test_rows(tests: Sequence[Comparison], flags: Flags) -> list[list[str]]:
    rows = []
    for one in tests:
        times, digits = METRICS[one.metric][1], max(1, _digits(one.metric))
        known = one.ci_low is not None and one.ci_high is not None
        interval = (
            f"[{times * float(one.ci_low or 0):+.{digits}f}, {times * float(one.ci_high or 0):+.{digits}f}]" if known else "-"
        )
        delta = "-" if one.delta is None else f"{times * one.delta:+.{digits}f}"
        heading = METRICS[one.metric][0]
        rows.append(
            [
                marked(one.a, flags),
                marked(one.b, flags),
                heading,
                one.test,
                delta,
                interval,
                _p(one.p),
                _p(one.p_adjusted),
                str(one.seeds),
            ]
        )
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


def to_csv(results: Sequence[RowResult], flags: Flags = frozenset()) -> str:
    """A line for each run, test and metric: name, recipe, seed, test, metric, value, interval, n, trained_by_judge (1 or 0)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("name", "recipe", "seed", "test", "metric", "value", "ci_low", "ci_high", "n", "trained_by_judge"))
    for one in results:
        for metric, value in one.metrics.items():
            cells = (value.value, value.ci_low, value.ci_high, value.n)
            writer.writerow((one.name, one.recipe, one.seed, one.test, metric, *cells, int(one.name in flags)))
    return out.getvalue()
