"""Options that carry letters of their own, which a prompt would letter a second time."""

import re
from collections.abc import Sequence

from osler.errors import DataError
from osler.schema import LETTERS

_LETTERED = re.compile(r"\(?([A-J])(?:\)\s*|[.:]\s+)(\S.*)", re.DOTALL)
_ABBREVIATED = re.compile(r"[A-J]\.\s*[a-z]")


def without_letters(options: Sequence[str]) -> list[str]:
    """`options` without the letters that they all carry in turn from A, as "A) x", "(A) x", "A. x" or "A: x"; else as they are.

    Errors: DataError where all carry letters out of turn, but for names as "E. coli".
    """
    found = [match for option in options if (match := _LETTERED.fullmatch(option.strip()))]
    letters = "".join(match[1] for match in found)
    if len(found) < max(2, len(options)):
        return list(options)
    if letters == LETTERS[: len(found)]:
        return [match[2] for match in found]
    if any(map(_ABBREVIATED.match, options)):
        return list(options)
    what = f"its options carry the letters {', '.join(letters)}, not A, B, ... in turn: {list(options)}."
    raise DataError(f"{what} Sort them, or take the letters out: prompts letter options by their place.")
