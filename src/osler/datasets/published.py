"""What adapters of published JSON files share: rows with the place where a file breaks, files by their names, odd answers,
options inside a question."""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from osler.datasets.load import DataSpec
from osler.datasets.problems import is_collecting, refuse
from osler.datasets.samples import kinds_of
from osler.errors import DataError, unknown
from osler.schema import LETTERS, Kind

_OPTION = re.compile(r"(?:^|[\s,])([A-F])\)")
_BRACKET, _COMMA = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*")
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def _as_text(value: Any) -> Any:
    """A number as text; whatever else as it is, to be checked."""
    return str(value) if type(value) in (int, float) and math.isfinite(value) else value


Answer = Annotated[str, BeforeValidator(_as_text)]
"""A gold as published, text or a number; always text once it is read."""


def named_files(spec: DataSpec, names: Collection[str]) -> list[Path]:
    """The file of `spec`, whatever its name, or those below a folder that bear one of `names`. Errors: DataError."""
    files = spec.files(".json")
    if files == [Path(spec.path or "")]:
        return files
    if found := [file for file in files if file.name in names]:
        return found
    raise DataError.at(str(spec.path), None, f"the folder holds none of {', '.join(names)}.", "Name the file itself.")


def json_rows(file: Path) -> list[Any]:
    """The rows of a file that is one JSON array. Errors: DataError, with the row at which the text breaks off."""
    data, do = file.read_bytes(), "It should be one JSON array of rows, in UTF-8."
    if is_collecting():
        return _each_row(file, data, do)
    try:
        rows = json.loads(data)
    except UnicodeDecodeError as error:
        read = data[: error.start].decode(error.encoding, errors="replace")
        raise DataError.at(file, _broken_row(read), f"byte {error.start} is no {error.encoding} text.", do) from error
    except json.JSONDecodeError as error:
        raise DataError.at(file, _broken_row(error.doc), f"it is no JSON ({error}).", do) from error
    if not isinstance(rows, list):
        raise DataError.at(file, None, "it holds no JSON array.", do)
    for number, row in enumerate(rows, 1):
        if _HALF_PAIR.search(json.dumps(row, ensure_ascii=False)):
            raise DataError.at(file, number, "it escapes half a surrogate pair, which is no text.", do)
    return rows


def _each_row(file: Path, data: bytes, do: str) -> list[Any]:
    """The rows of `data`, None for one that cannot be read, up to one behind which none can be. Tells of these.

    Where bytes are no UTF-8, rows without any such are read all the same.
    """
    text = data.decode("utf-8-sig", "surrogateescape") if json.detect_encoding(data).startswith("utf-8") else None
    try:
        rows = json.loads(data if text is None else text)
    except UnicodeDecodeError as error:
        refuse(str(file), f"byte {error.start} is no {error.encoding} text. {do}", error)
        return []
    except json.JSONDecodeError as error:
        if (number := _broken_row(error.doc)) is None:
            refuse(str(file), f"it is no JSON ({error}). {do}", error)
            return []
        rows = _rows_before(error.doc, number)
        refuse(f"{file}, row {number}", f"it is no JSON ({error}), and what follows it in the file cannot be read. {do}", error)
    if not isinstance(rows, list):
        refuse(str(file), f"it holds no JSON array. {do}")
        return []
    for number, row in enumerate(rows, 1):
        if found := _HALF_PAIR.search(json.dumps(row, ensure_ascii=False)):
            wrong = "\udc80" <= found[0] <= "\udcff" and text is not None and found[0] in text
            what = "it holds bytes that are no utf-8 text." if wrong else "it escapes half a surrogate pair, which is no text."
            refuse(f"{file}, row {number}", f"{what} {do}")
            rows[number - 1] = None
    return rows


def kind_of(answer_type: str, gold: str) -> Kind:
    """The kind of a question without options that calls itself OPEN or CLOSED. Errors: DataError where it does neither."""
    if (name := answer_type.strip().upper()) not in ("OPEN", "CLOSED"):
        raise DataError(unknown("answer type", answer_type, ("OPEN", "CLOSED")))
    return kinds_of((), (gold,))[0] if name == "CLOSED" else Kind.OPEN


def split_problem(problem: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options out of `stem A)x, B)y`, as published but for the separating commas and blanks.

    Commas and brackets inside an option stay. Errors: DataError where the letters are not A, B, C in turn, or a part is empty.
    """
    stem, *parts = _OPTION.split(problem)
    letters, texts = "".join(parts[::2]), parts[1::2]
    if len(letters) < 2 or not LETTERS.startswith(letters):
        found = f"the letters {', '.join(letters)}" if letters else "none"
        raise DataError(f"the problem should offer options A), B), ... in turn, but {found} can be read from it: {problem!r}.")
    options = (*(text.strip().removesuffix(",").rstrip() for text in texts[:-1]), texts[-1].strip())
    if not stem.strip() or not all(options):
        raise DataError(f"the question or an option of the problem is empty: {problem!r}.")
    return stem.strip(), options


def _rows_before(text: str, number: int) -> list[Any]:
    """The rows before `number` in `text`, which should be an array."""
    found, rows = _BRACKET.match(text), list[Any]()
    while found and len(rows) < number - 1:
        row, end = json.JSONDecoder().raw_decode(text, found.end())
        rows.append(row)
        found = _COMMA.match(text, end)
    return rows


def _broken_row(text: str) -> int | None:
    """The number of the first row that cannot be read in `text`, which should be an array; None where it begins as none."""
    found, number = _BRACKET.match(text), 0
    while found:
        number += 1
        try:
            _, end = json.JSONDecoder().raw_decode(text, found.end())
        except json.JSONDecodeError:
            break
        found = _COMMA.match(text, end)
    return number or None
