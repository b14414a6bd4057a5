"""What is wrong with single rows: raised at the first one, or collected by who wants to know of all.

An adapter reads a row, and yields it, inside of `osler.datasets.rows.at_row`. What is wrong there is an error, unless somebody
is `collecting`: then the problem is told, the row is left out, and the adapter goes on with the next one.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

from osler.errors import DataError

LEAVE_OUT = "Correct the row, or leave it out."
"""What to do about a row where the error itself does not say."""

_PLACE = re.compile(r"(?P<file>.+), row (?P<row>[0-9]+)(?:\D.*)?", re.DOTALL)
_MESSAGE = re.compile(r"(?P<where>.+?, row [0-9]+(?: \([^)]*\)|, question [0-9]+)?): (?P<text>.*)", re.DOTALL)
_FILE = re.compile(r"(?P<where>.+?): (?P<text>.*)", re.DOTALL)
_TO_DO = (
    "Add Adjust Balance Call Check Choose Convert Copy Correct Crop Delete Did Download Drop Exactly Fill Give Ids Is It "
    "Keep Leave Load Make Name Put Read Remove Rename Replace Save Say Scale Set Shorten Spell Take Unzip Use Write Each"
)
_DO = re.compile(rf"(?<=[.?!]) (?=(?:{'|'.join(_TO_DO.split())}) )")
"""Where, in a message, the sentences begin that say what to do."""


@dataclass(frozen=True)
class Problem:
    """What is wrong in row `row` (from 1) of `file`, and what to do about it; None where it is about a whole file, or none."""

    file: str | None
    row: int | None
    what: str
    fix: str

    def to_json(self) -> dict[str, str | int | None]:
        """The four fields."""
        return asdict(self)

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}: " if self.row is None else f"{self.file}, row {self.row}: "
        return f"{place}{self.what} {self.fix}"


Sink = Callable[[Problem], None]

_sink: ContextVar[Sink | None] = ContextVar("problems", default=None)


@contextmanager
def collecting(sink: Sink) -> Iterator[None]:
    """Inside, `sink` is told each problem of a row, and rows that have one are left out. Samples have to be read inside."""
    before = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(before)


def is_collecting() -> bool:
    """Whether somebody collects problems, so that a reader should go on as far as it can."""
    return _sink.get() is not None


def refuse(where: str, text: str, cause: Exception | None = None) -> None:
    """Raise a DataError, `where: text`, from `cause`; where problems are collected, tell it there and return, to go on."""
    if (sink := _sink.get()) is None:
        raise DataError(f"{where}: {text}") from cause
    sink(problem_at(where, text))


def refuse_as(error: DataError, cause: Exception | None = None) -> None:
    """As `refuse`, of an `error` whose message begins with its place."""
    if (sink := _sink.get()) is None:
        raise error from cause
    sink(problem_of(error))


def problem_of(error: DataError) -> Problem:
    """The problem that the message of `error` tells: `FILE, row N: what is wrong. What to do.`"""
    text = str(error)
    found = _MESSAGE.fullmatch(text) or _FILE.fullmatch(text)
    return problem_at(found["where"], found["text"]) if found else problem_at(None, text)


def problem_at(where: str | None, text: str, fix: str | None = None) -> Problem:
    """The problem that `text` tells of the place `where`, as `Sample.origin` says it; without `fix` its end says what to do."""
    what, told = _parted(text.removeprefix(f"{where}: ")) if fix is None else (text, fix)
    place = _PLACE.fullmatch(where or "")
    file, row = (place["file"], int(place["row"])) if place else (where, None)
    return Problem(file, row, what.strip(), told.strip() or LEAVE_OUT)


def names_row(where: str) -> bool:
    """Whether `where` names a row of a file, and not only a file."""
    return _PLACE.fullmatch(where) is not None


def _parted(text: str) -> tuple[str, str]:
    """What is wrong, and what to do about it, empty where that is not said."""
    found = _DO.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")
