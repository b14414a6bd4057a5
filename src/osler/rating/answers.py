"""Raters' files read back: any spreadsheet's dialect in, one rating an item out, or one error that names file and row.

Fields are parted by comma, semicolon or tab; a byte order mark, quoted line breaks, Excel's `sep=;` line and columns that
nobody asked for are fine. The columns code, rater, correct and sound must be there, in any order and case. Text is UTF-8,
UTF-16 with a mark, or else Windows-1252. Rows are counted as a spreadsheet shows them: the header is row 1.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.errors import DataError

QUESTIONS = ("correct", "sound")
"""What is asked of an item, by the name of its column."""
NEEDED = ("code", "rater", *QUESTIONS)
DELIMITERS = ",;\t"
YES = frozenset(("yes", "y", "ja", "j", "oui", "sí", "si", "true", "wahr", "vrai", "1"))
NO = frozenset(("no", "n", "nein", "nee", "non", "false", "falsch", "faux", "0"))
CANNOT_SAY = frozenset(
    ("cannot say", "cannot", "can't say", "cannot tell", "can't tell", "unsure", "kann ich nicht sagen", "?")
)
"""The spellings of each answer, in any case; blanks around them do not count."""

Row = tuple[int, dict[str, str]]
"""The number of a row, and its cells by column."""


@dataclass(frozen=True)
class Rating:
    """What one rater said of one item; None where they could not say."""

    correct: bool | None
    sound: bool | None
    note: str = ""


def read_ratings(files: Sequence[Path], codes: Collection[str]) -> dict[str, dict[str, Rating]]:
    """The ratings of each rater by item, from one file a rater; every rater has rated all of `codes`.

    Errors: DataError where a file cannot be read, holds a code twice, one that is not of `codes` or not all of them, an
    answer that is missing or no known spelling, two raters, or the rater of another file.
    """
    found: dict[str, dict[str, Rating]] = {}
    came_from: dict[str, Path] = {}
    for file in files:
        rows = list(_rows(file))
        rater = _rater(file, rows)
        if rater in came_from:
            do = "Give each rater's file once, or put another name into the column rater."
            raise DataError.at(file, None, f"it is of rater {rater!r}, and so is {came_from[rater]}.", do)
        came_from[rater] = file
        found[rater] = _ratings(file, rows, codes)
    return found


def read_answer(text: str) -> bool | None:
    """`text` as yes (True), no (False) or cannot say (None). Errors: ValueError where it is no known spelling of any."""
    said = " ".join(text.replace("\u2019", "'").casefold().split())
    for spellings, meaning in ((YES, True), (NO, False), (CANNOT_SAY, None)):
        if said in spellings:
            return meaning
    raise ValueError(f"{text!r} is no answer")


def _ratings(file: Path, rows: Sequence[Row], codes: Collection[str]) -> dict[str, Rating]:
    ratings: dict[str, Rating] = {}
    seen: dict[str, int] = {}
    for number, cells in rows:
        code = cells["code"].upper()
        if code not in codes:
            raise DataError.at(file, number, f"unknown code {code!r}.", "Is this file of another sheet? See the key's items.")
        if code in seen:
            raise DataError.at(file, number, f"the code {code} stands in row {seen[code]} too.", "Keep one of the two rows.")
        seen[code] = number
        ratings[code] = Rating(**{name: _answer(file, number, name, cells) for name in QUESTIONS}, note=cells.get("note", ""))
    if missing := sorted(set(codes) - seen.keys()):
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        what = f"{len(missing)} of {len(codes)} items have no row: {shown}."
        raise DataError.at(file, None, what, "Ask the rater for the whole file.")
    return ratings


def _answer(file: Path, number: int, name: str, cells: Mapping[str, str]) -> bool | None:
    where = f"of the item {cells['code'].upper()}, the column {name}"
    if not cells[name]:
        raise DataError.at(file, number, f"{where} is empty.", "Ask the rater; what cannot be told is 'cannot say'.")
    try:
        return read_answer(cells[name])
    except ValueError:
        raise DataError.at(file, number, f"{where} holds {cells[name]!r}.", "Write yes, no or cannot say.") from None


def _rater(file: Path, rows: Sequence[Row]) -> str:
    """The one rater that all rows name."""
    if not rows:
        raise DataError.at(file, None, "it holds no ratings.", "Give the file that a rater saved.")
    first = rows[0][1]["rater"]
    for number, cells in rows:
        if not cells["rater"]:
            raise DataError.at(file, number, "the column rater is empty.", "Write the rater's number or name into every row.")
        if cells["rater"] != first:
            what = f"the rater is {cells['rater']!r}, but {first!r} in row {rows[0][0]}."
            raise DataError.at(file, number, what, "Give one file a rater.")
    return first


def _rows(file: Path) -> Iterator[Row]:
    """The rows below the header that are not empty, without blanks around cells."""
    reader = _reader(file)
    names = [name.strip().casefold() for name in next(reader, [])]
    told = 1
    try:
        for told, row in enumerate(reader, 2):
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) > len(names) and any(cells[len(names) :]):
                what = f"it has {len(cells)} cells, the header {len(names)}."
                raise DataError.at(file, told, what, "Quote a cell that holds the delimiter.")
            yield told, {**dict.fromkeys(names, ""), **dict(zip(names, cells, strict=False))}
    except csv.Error as error:
        raise DataError.at(file, told + 1, f"it is no CSV ({error}).", "Save it again as CSV.") from error


def _reader(file: Path) -> Iterator[list[str]]:
    """The rows of `file`, header first, by the delimiter that finds the columns. Errors: DataError where none does."""
    text = re.sub(r"\Asep=.\r?\n", "", _text(file))
    header = text.partition("\n")[0].rstrip("\r")
    for delimiter in DELIMITERS:
        names = [name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if set(NEEDED) <= set(names):
            return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    what = f"the columns {', '.join(NEEDED)} are not all in its header {header[:80]!r}."
    raise DataError.at(file, 1, what, "Save it as CSV with the header of the sheet.")


def _text(file: Path) -> str:
    """The text of `file` in whatever encoding a spreadsheet wrote."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError.at(file, None, f"it cannot be read ({error.strerror}).", "Name the CSV files of the raters.") from error
    encodings = ["utf-16"] if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError.at(file, None, "it is no text.", "Save it as CSV in UTF-8; a spreadsheet's own format is not read.")
