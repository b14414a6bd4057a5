"""Rows of text in columns, CSV or TSV, each with its place: the number of the row, and the line where the two differ.

The first line names the columns; where that of a CSV has no comma, but semicolons (as a German Excel saves it) or tabs, these
separate its cells. Quotation marks may hold separators, line ends and, doubled, themselves. Empty lines are no
rows, nor are rows of empty cells at the end of the file; last columns without a name or a cell are none. A file is read line by
line, never whole, and no line beyond `MAX_LINE`.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.datasets.problems import refuse
from osler.errors import DataError

MAX_CELL = 128 * 2**20
"""The longest cell that is read, in characters; ours. It holds 24 slices of 4 MB in base64."""

MAX_LINE = 2 * MAX_CELL
"""The longest line that is read, in bytes."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


@dataclass(frozen=True)
class Row:
    """One row: its number from 1, its place in words for messages, and its cells by column, as they are written."""

    number: int
    where: str
    cells: dict[str, str]


def table_rows(file: Path, separator: str = ",") -> Iterator[Row]:
    """The rows of `file`, at least one, by the `separator` or, for a comma, by what its header has instead.

    Errors: DataError that names the file, and the row where it is about one.

    Names of columns lose outer blanks; the place is `FILE, row N`, or `FILE, row N (to line L)` where L is not simply N + 1.
    """
    form, separator = "TSV" if separator == "\t" else "CSV", _separator_of(file, separator)
    with file.open("rb") as lines:
        reader = csv.reader(_text(iter(lambda: lines.readline(MAX_LINE + 1), b"")), delimiter=separator)
        names, width, number, begin, blank = list[str](), 0, 0, 1, list[str]()
        try:
            while (fields := _next(reader)) is not None:
                begin, end = reader.line_num + 1, reader.line_num
                if not fields:
                    continue
                if not names:
                    names, width = _header(file, fields, separator), len(fields)
                    continue
                number += 1
                where = f"{file}, row {number}" + (f" (to line {end})" if end != number + 1 else "")
                if not any(map(str.strip, fields)):
                    blank.append(where)
                    continue
                for empty in blank:
                    refuse(empty, "all its cells are empty, but rows follow. Remove it, or fill it in.")
                blank.clear()
                if what := _misfit(fields, names, width):
                    refuse(where, what)
                    continue
                yield Row(number, where, dict(zip(names, fields, strict=False)))
        except (csv.Error, UnicodeDecodeError) as error:
            if not names:
                raise DataError.at(file, None, _broken(error, begin, form)) from error
            refuse(f"{file}, row {number + 1}", _broken(error, begin, form), error)
            return
    if number == len(blank):
        raise DataError.at(file, None, "it has no row below its header." if names else "it is empty.")


def _separator_of(file: Path, separator: str) -> str:
    """`separator`; for a comma that the first line of `file` lacks, the semicolon or tab that it has, the more frequent one."""
    with file.open("rb") as lines:
        each = iter(lambda: lines.readline(MAX_LINE + 1), b"")
        header = next((line for line in each if line.strip(b"\r\n\xef\xbb\xbf")), b"")
    found = [other for other in (";", "\t") if other.encode() in header]
    if separator != "," or b"," in header or not found:
        return separator
    return max(found, key=lambda other: header.count(other.encode()))


def _misfit(fields: Sequence[str], names: Sequence[str], width: int) -> str | None:
    """What is wrong with `fields` below a header of `width`, of which the first have `names`; None where nothing is."""
    if len(fields) != width:
        return f"it has {len(fields)} fields, the header {width}. Is a quotation mark or separator missing?"
    if odd := next((cell for cell in fields[len(names) :] if cell.strip()), None):
        return f"its cell {odd[:60]!r} is in a column that the header does not name. Name the column, or empty the cell."
    return None


def _text(lines: Iterable[bytes]) -> Iterator[str]:
    """`lines` decoded, without a mark of byte order. Errors: UnicodeDecodeError; csv.Error for a line that is too long."""
    for number, line in enumerate(lines):
        if len(line) > MAX_LINE:
            raise csv.Error(f"a line has more than {MAX_LINE:,} bytes")
        yield line.decode("utf-8" if number else "utf-8-sig")


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    """The next fields, None at the end. The limit of the csv module holds for all its readers, so it is put back."""
    before = csv.field_size_limit(min(MAX_CELL, sys.maxsize))
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _broken(error: csv.Error | UnicodeDecodeError, line: int, form: str) -> str:
    """What is wrong from `line` on, and what to do about it."""
    if isinstance(error, csv.Error):
        return f"from line {line} on it is no {form} ({error})."
    kind = " It begins as UTF-16 does." if error.object[:2] in _UTF16 else ""
    return f"from line {line} on it is not in UTF-8 ({error.reason} at byte {error.start}).{kind} Save it as {form} in UTF-8."


def _header(file: Path, fields: list[str], separator: str) -> list[str]:
    """The names of the columns, without outer blanks, up to the last that has one.

    Errors: DataError where none has, one stands there twice, or the line is no header.
    """
    names = [name.strip() for name in fields]
    if re.fullmatch("sep=.?", separator.join(fields).strip(" "), re.IGNORECASE):
        what = f"its first line, {separator.join(fields)!r}, names the separator, not the columns."
        raise DataError.at(file, None, what, f"Remove that line, and save it with {_SEPARATORS[separator]}s.")
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError.at(file, None, "the cells of its first line are empty.", "Name the columns there.")
    if len(names) == 1 and (other := next((mark for mark in _SEPARATORS if mark != separator and mark in names[0]), None)):
        what = f"its header has no {_SEPARATORS[separator]}, but {_SEPARATORS[other]}s: {names[0]!r}."
        raise DataError.at(file, None, what, f"Save it with {_SEPARATORS[separator]}s.")
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise DataError.at(file, None, f"its header names the column {twice[0]!r} twice.", "Keep one of the two.")
    return names
