"""A completion as a page shows it: thought, answer and the rest apart, medical terms and repeated words marked.

Nothing is left out and nothing is judged: what a parser made of the completion stands beside it. Tags are read as they are
written, so that one that was never closed is seen.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from osler.comparing.medical_terms import Phrase, Span, find_terms, words_of

N_GRAM = 3
"""Words of the groups whose repetition is marked."""

Role = Literal["thought", "answer", "rest"]

_OPENING = re.compile(r"<(think|answer)>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of what follows, so that a reader would see another text."""


@dataclass(frozen=True)
class Piece:
    """Text that is marked alike: whether it belongs to a medical term, and to a group of words that was there before."""

    text: str
    term: bool
    repeated: bool


@dataclass(frozen=True)
class Part:
    """A stretch of a completion: what stands in thought tags, in answer tags, or outside both; `closed`: its tag was."""

    role: Role
    closed: bool
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(piece.text for piece in self.pieces)


def take_apart(completion: str, known: frozenset[Phrase] = frozenset()) -> list[Part]:
    """The parts of `completion` in order, without their tags and without those that hold only blanks.

    `known` is the vocabulary of medical terms (`osler.comparing.medical_terms.vocabulary`). A control character is
    shown as U+FFFD.
    """
    text = _CONTROL.sub("\ufffd", completion.replace("\r\n", "\n"))
    terms, repeated = find_terms(text, known), repeated_places(text)
    return [
        Part(role, closed, tuple(_pieces(text, span, terms, repeated)))
        for role, closed, span in _stretches(text)
        if text[slice(*span)].strip()
    ]


def repeated_places(text: str, n: int = N_GRAM) -> list[Span]:
    """Where `text` repeats itself, in order and apart: every group of `n` words that stood in it before.

    Those are the groups that `osler.overlap.repetition` counts.
    """
    words = words_of(text)
    seen: set[tuple[str, ...]] = set()
    places: list[Span] = []
    for at in range(len(words) - n + 1):
        group = tuple(word.folded for word in words[at : at + n])
        if group in seen:
            _add(places, (words[at].start, words[at + n - 1].end))
        seen.add(group)
    return places


def _add(places: list[Span], span: Span) -> None:
    """Append `span` to `places`, or lengthen the last of them where they overlap."""
    if places and span[0] <= places[-1][1]:
        span = (places.pop()[0], span[1])
    places.append(span)


def _stretches(text: str) -> list[tuple[Role, bool, Span]]:
    """The role of every stretch of `text` between tags, whether its tag was closed, and where it stands."""
    found: list[tuple[Role, bool, Span]] = []
    at = 0
    while tag := _OPENING.search(text, at):
        role: Role = "thought" if tag[1] == "think" else "answer"
        closed, inside, after = _inside(text, tag)
        found += [("rest", True, (at, tag.start())), (role, closed, inside)]
        at = after
    return [*found, ("rest", True, (at, len(text)))]


def _inside(text: str, tag: re.Match[str]) -> tuple[bool, Span, int]:
    """Whether `tag` is closed, what it holds (without a closing tag: up to the next that opens), and where `text` goes on."""
    closing = f"</{tag[1]}>"
    end = text.find(closing, tag.end())
    if end >= 0:
        return True, (tag.end(), end), end + len(closing)
    following = _OPENING.search(text, tag.end())
    end = following.start() if following else len(text)
    return False, (tag.end(), end), end


def _pieces(text: str, span: Span, terms: Sequence[Span], repeated: Sequence[Span]) -> list[Piece]:
    """`text` in `span`, cut wherever a mark begins or ends."""
    start, end = span
    near = [mark for marks in (terms, repeated) for mark in marks[_first(marks, start) : bisect_left(marks, (end, end))]]
    edges = {start, end} | {edge for mark in near for edge in mark if start < edge < end}
    return [Piece(text[a:b], _within(a, terms), _within(a, repeated)) for a, b in pairwise(sorted(edges))]


def _within(at: int, spans: Sequence[Span]) -> bool:
    first = _first(spans, at)
    return first < len(spans) and spans[first][0] <= at


def _first(spans: Sequence[Span], at: int) -> int:
    """The place of the first of `spans`, which are in order and apart, that ends behind `at`."""
    return bisect_right(spans, at, key=lambda span: span[1])
