"""What a judge said of the same completions: lines of judged.jsonl, matched to the items by run and row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import DataError
from osler.rating.answers import QUESTIONS
from osler.rating.key import Key

Scores = dict[str, bool | None]
"""What was said to each question; None where nothing could be."""


@dataclass(frozen=True)
class Judged:
    """What one judge said, by item. `others` counts its lines on completions that nobody rated, `repeats` its later lines on
    one that it had judged already, which have no part: the first counts."""

    judge: str
    scores: Mapping[str, Scores]
    others: int
    repeats: int


def read_judged(files: Sequence[Path], key: Key) -> list[Judged]:
    """What each judge in `files` said, in the order in which they come up.

    A line holds run (its folder name or label), id or sample_id (the row), correct and sound (1, 0 or null); `judge` names who
    said it. Errors: DataError where a line is damaged or lacks one, or where no line is of an item.
    """
    codes = key.codes_by_row()
    scores: dict[str, dict[str, Scores]] = {}
    others: dict[str, int] = {}
    repeats: dict[str, int] = {}
    for file in files:
        before = sum(map(len, scores.values()))
        for number, line in _lines(file):
            judge, code = str(line.get("judge", "judge")), codes.get((str(line["run"]), str(line["id"])))
            known = scores.setdefault(judge, {})
            said = {name: _score(file, number, name, line[name]) for name in QUESTIONS}
            if code is None:
                others[judge] = others.get(judge, 0) + 1
            elif code in known:
                repeats[judge] = repeats.get(judge, 0) + 1
            else:
                known[code] = said
        if sum(map(len, scores.values())) == before:
            runs = ", ".join(key.labels)
            raise DataError.at(file, None, "none of its lines is of a rated item.", f"The rated runs are: {runs}.")
    return [Judged(judge, known, others.get(judge, 0), repeats.get(judge, 0)) for judge, known in scores.items()]


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        texts = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError.at(file, None, f"it cannot be read ({error}).", "Name a judged.jsonl.") from error
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError.at(file, number, f"it is no JSON ({error}).", "Judge again, or remove the line.") from error
        found = {"id": line["sample_id"], **line} if isinstance(line, dict) and "sample_id" in line else line
        if missing := [name for name in ("run", "id", *QUESTIONS) if not isinstance(found, dict) or name not in found]:
            raise DataError.at(file, number, f"it lacks {', '.join(missing)}.", "Judge again with this version of osler.")
        yield number, found


def _score(file: Path, number: int, name: str, value: object) -> bool | None:
    if value is None or value in (0, 1):
        return None if value is None else bool(value)
    raise DataError.at(file, number, f"{name} is {value!r}.", "It must be 1, 0 or null.")
