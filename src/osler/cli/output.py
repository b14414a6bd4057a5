"""What the commands print: tables and words for people on stdout, or exactly one JSON object."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path | None, typer.Option(help="Run folder to make; default runs/NAME-TIMESTAMP.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


def calm() -> None:
    """Keep libraries' bars and notices off the terminal; osler shows its own."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # a transform of ours is never cached, and need not be hashed
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


def print_json(value: Any) -> None:
    """Print the one JSON object of a command."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people: turned round where it would break words, and a line a cell where that breaks them too.

    The first column is kept on one line where no cell of it has more than 40 characters.
    """
    from rich.console import Console

    console = Console()
    turned = [tuple(row) for row in zip(columns, *rows, strict=True)]
    if _width(columns, rows) <= console.width or not rows:
        console.print(_table(title, columns, rows))
    elif _width(turned[0], turned[1:]) <= console.width:
        console.print(_table(title, turned[0], turned[1:]))
    else:
        console.print(f"\n[italic]{title}[/]" if title else "")
        for row in rows:
            console.print(f"[bold]{row[0]}[/]")
            for column, cell in zip(columns[1:], row[1:], strict=True):
                console.print(f"  {column}: {' '.join(cell.split())}", highlight=False)


def plain(text: str) -> str:
    """`text` for a terminal: on one line, without control characters, and nothing in it read as rich's markup."""
    from rich.markup import escape

    return escape("".join(sign if sign.isprintable() else " " for sign in text))


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The narrowest that a table can be without breaking a word of it, or its first column."""
    cells = [[columns[at], *(row[at] for row in rows)] for at in range(len(columns))]
    first = max(len(cell) for cell in cells[0])
    rest = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in cells[1:]]
    return (first if first <= 40 else 40) + sum(rest) + 3 * len(columns) + 1


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    short = all(len(row[0]) <= 40 for row in rows)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0 and short)
    for row in rows:
        table.add_row(*row)
    return table


def print_training(path: Path, summary: dict[str, Any]) -> None:
    """Print a training run's summary and its folder."""
    print_table("Trained", ("what", "value"), [[key, _told(value)] for key, value in summary.items()])
    typer.echo(str(path))


def _told(value: Any) -> str:
    """A value of a training summary in words: where it began and ended, or its parts."""
    if not isinstance(value, dict):
        return str(value)
    if "first" in value:
        return f"{value['first']:.3f} -> {value['last']:.3f}"
    return ", ".join(f"{name} {part:g}" for name, part in value.items())


def print_evaluations(summaries: dict[str, dict[str, Any]], title: str = "Evaluated") -> None:
    """Print a line for each evaluation: accuracy with n and interval, floor, counts."""
    columns = (title, "accuracy", "lenient", "floor", "unparseable", "unjudged", "truncated")
    rows = [
        [name, *(estimate(s[key]) for key in ("accuracy", "lenient", "floor")), *(str(s[key]) for key in columns[4:])]
        for name, s in summaries.items()
    ]
    print_table("", columns, rows)


def print_controls(summary: dict[str, Any]) -> None:
    """Print a line for each control of an evaluation; nothing where none was run."""
    from osler.looking import Looking

    rows = [Looking.from_json(one).row() for one in summary["controls"].values()]
    if rows:
        print_table("Controls: accuracy in %, strict", tuple(rows[0]), [list(row.values()) for row in rows])


def print_measures(summary: dict[str, Any]) -> None:
    """Print a table of each part of an evaluation's summary beyond its accuracy."""
    from osler.measures import measures

    for name, lines in measures(summary).items():
        print_table(name, ("what", "value"), lines)


def estimate(value: dict[str, Any] | None) -> str:
    """A stored estimate as text; "-" where there is none."""
    from osler.stats import Estimate

    return str(Estimate(**value)) if value else "-"
