"""Which of its options a row's gold text is, for data sets that give the gold as a text beside the options."""

from collections.abc import Sequence

from osler.errors import DataError
from osler.schema import LETTERS, fold_text


def place_of_gold(options: Sequence[str], gold: str) -> int:
    """The place, from 0, of the one option that `gold` is: letter by letter, or else but for case, blanks and a full stop.

    Errors: DataError where it is none of them or several, or where there are fewer than two options or more than letters.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"it offers {len(options)} options, but a choice needs 2 to {len(LETTERS)}: {list(options)}.")
    exact = [place for place, option in enumerate(options) if option.strip() == gold.strip()]
    alike = [place for place, option in enumerate(options) if fold_text(option) == fold_text(gold)]
    found = exact or alike
    if not found:
        raise DataError(f"the gold {gold!r} is not among the options {list(options)}.")
    if len(found) > 1:
        raise DataError(f"the gold {gold!r} is {len(found)} of the options {list(options)}, not one.")
    return found[0]
