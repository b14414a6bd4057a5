"""What free text says: options inside a question, a gold by letter or by text, a list inside a cell."""

import ast
import json
import re
from collections.abc import Sequence

from osler.datasets.golds import place_of_gold
from osler.datasets.published import split_problem
from osler.errors import DataError
from osler.schema import LETTERS, fold_text

_LINE = re.compile(r"\s*\(?([A-J])[).:]\s*(\S.*)")
_HEAD = re.compile(r"\s*(?:answer )?(?:options|choices)\s*:?\s*", re.IGNORECASE)
_CLOSING = re.compile(
    r"\s*(?:(?=[A-Z])(?i:answer|please|choose|select|pick|output|respond|reply|return|give|provide|write|your answer)\b|请).*"
)
_LETTER = re.compile(r"\(?([A-Ja-j])[).:]?")
_LETTER_AND_TEXT = re.compile(r"\(?([A-J])[).:]\s*(\S.*)", re.DOTALL)

Question = tuple[str, tuple[str, ...]]
"""A question and its options, which may be none."""


def options_in(text: str) -> Question:
    """The question and its options out of free text; `text` itself and none where they cannot be told for certain.

    They can where each stands on a line of its own, in turn from A, as `A) x`, `(A) x`, `A. x` or `A: x`, with nothing behind
    them, an empty line, or one line that tells how to answer, as "Answer with the letter." (what follows stays in the
    question); or in one line, as `stem A)x, B)y`, with commas between them. A line that only says "Options:" is dropped.
    """
    return _from_lines(text) or _from_one_line(text) or (text, ())


def _from_lines(text: str) -> Question | None:
    """The question and its options where these are lines; None where they are not in turn, or there is no question."""
    lines = text.splitlines()
    found = {at: match for at, line in enumerate(lines) if (match := _LINE.fullmatch(line))}
    if len(found) < 2 or "".join(match[1] for match in found.values()) != LETTERS[: len(found)]:
        return None
    first, last = min(found), max(found)
    before, after = lines[:first], lines[last + 1 :]
    if any(lines[at].strip() for at in range(first, last) if at not in found) or not _ended(after):
        return None
    while before and (not before[-1].strip() or _HEAD.fullmatch(before[-1])):
        before.pop()
    question = "\n".join([*before, *after]).strip()
    return (question, tuple(match[2].strip() for match in found.values())) if question else None


def _ended(after: Sequence[str]) -> bool:
    """Whether the last option has ended before the lines `after` it, of which the first might be more of its text."""
    if after and _CLOSING.fullmatch(after[0]):
        after = after[1:]
    return not after or not after[0].strip()


def _from_one_line(text: str) -> Question | None:
    """The question and its options where these follow it in turn; None where anything but a comma stands between two."""
    try:
        question, options = split_problem(text)
    except DataError:
        return None
    parts = (rf"{LETTERS[n]}\)\s*{re.escape(option)}" for n, option in enumerate(options))
    certain = re.search(r"\s*,\s*".join(parts), text) and not any("\n" in option for option in options)
    return (question, options) if certain else None


def lists_options(text: str) -> bool:
    """Whether `text` has marks A and B as of options, if it does list any."""
    return all(re.search(rf"\b{letter}[).:]", text) for letter in "AB")


def seems_chosen(gold: str, text: str) -> bool:
    """Whether `gold` seems to be one of the options of the question `text`, which could not be read out of it.

    It does as `B) x`, `B: x` or `B. X`, whatever the question says; where that has marks of options also as a letter, as
    `B. x`, and as a text that stands behind such a mark. `E. coli` and the like are names where there are no marks.
    """
    gold, both = gold.strip(), _LETTER_AND_TEXT.fullmatch(gold.strip())
    if not lists_options(text):
        return both is not None and not re.match(r"[A-J]\.\s*[a-z]", gold)
    marked = rf"\b[A-J][).:]\s*{re.escape(gold.rstrip('.'))}(?!\w)"
    return bool(both or _LETTER.fullmatch(gold) or re.search(marked, text, re.IGNORECASE))


def told_place(options: Sequence[str], answer: str, letters_first: bool = False) -> int:
    """The place, from 0, of the option that `answer` tells: by its letter, by its text, or as `B) text`, which must agree.

    An answer that is the letter of one option and the text of another is an error, unless `letters_first`, for a form of which
    a letter is documented. Errors: DataError, also where it tells none of the options or several.
    """
    wanted = fold_text(answer)
    texts = [place for place, option in enumerate(options) if fold_text(option) == wanted]
    if letter := _LETTER.fullmatch(answer.strip()):
        place = LETTERS.index(letter[1].upper())
        if place < len(options) and (letters_first or set(texts) <= {place}):
            return place
        if place < len(options):
            what = f"the answer {answer!r} is the letter of one option and the text of another of {list(options)}."
            raise DataError(f"{what} Give answer_index, its place from 0.")
        if not texts:
            raise DataError(f"the gold letter {letter[1]} is not among the {len(options)} options.")
    both = _LETTER_AND_TEXT.fullmatch(answer.strip())
    if both and not texts and both[1] in LETTERS[: len(options)]:
        place = LETTERS.index(both[1])
        if fold_text(options[place]) == fold_text(both[2]):
            return place
    return place_of_gold(options, answer)


def list_in(cell: str) -> list[str] | None:
    """The texts that `cell` lists, as JSON or as Python writes a list; None where it is no list of texts."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell)  # reads constants, runs nothing
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None
