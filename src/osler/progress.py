"""Progress on stderr for everything that takes more than a moment; silent where stderr is no terminal but for one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
"""Where people are told things; stdout belongs to results."""

Tick = Callable[[str], None]
"""Call it once a unit done, with a note to show behind the bar (or an empty one)."""


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Tick]:
    """A progress bar over `total` units, with elapsed and remaining time; None where nobody knows yet how many there are."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note="")

        def tick(note: str = "") -> None:
            progress.update(task, advance=1, note=note)

        yield tick
