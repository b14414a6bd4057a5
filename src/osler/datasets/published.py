"""What adapters of published JSON files share: rows with the place where a file breaks, files by their names, odd answers."""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from osler.datasets.load import DataSpec
from osler.datasets.samples import kinds_of
from osler.errors import DataError, unknown
from osler.schema import Kind

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


def kind_of(answer_type: str, gold: str) -> Kind:
    """The kind of a question without options that calls itself OPEN or CLOSED. Errors: DataError where it does neither."""
    if (name := answer_type.strip().upper()) not in ("OPEN", "CLOSED"):
        raise DataError(unknown("answer type", answer_type, ("OPEN", "CLOSED")))
    return kinds_of((), (gold,))[0] if name == "CLOSED" else Kind.OPEN


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
