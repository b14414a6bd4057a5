"""The problems of a data set, counted by kind; only so many are listed that memory stays flat."""

import re
from dataclasses import dataclass, replace
from typing import Any

from osler.datasets.problems import Problem

MOST_LISTED = 10_000
"""So many problems are listed at most; further ones are counted."""

_PARTICULAR = (
    (re.compile(r"\[.*\]|\{.*\}|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL), "…"),
    (re.compile(r"(?<!\S)\S*/\S*?(?=[:.,]?(?:\s|$))"), "…"),
    (re.compile(r"\b\d[\d,.]*\b"), "N"),
)


@dataclass(frozen=True)
class Kind:
    """Problems that differ by names and numbers only: how many there are, and the first of them."""

    n: int
    first: Problem

    def to_json(self) -> dict[str, Any]:
        """Its number, and file, row, what and fix of the first."""
        return {"n": self.n, "first": self.first.to_json()}


class Tally:
    """Problems as they come: all are counted, `MOST_LISTED` are `listed`; `unreadable` are the rows that gave no sample."""

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.n = self.unreadable = 0
        self._kinds: dict[str, Kind] = {}
        self._places: set[tuple[str | None, int]] = set()

    def unread(self, problem: Problem) -> None:
        """Add what keeps a row from being read; a row that was told already, as half of an adapter may, is not told again."""
        if problem.row is not None:
            if (problem.file, problem.row) in self._places:
                return
            self._places.add((problem.file, problem.row))
            self.unreadable += 1
        self.add(problem)

    def add(self, problem: Problem) -> None:
        """Add any other problem."""
        self.n += 1
        if self.n <= MOST_LISTED:
            self.listed.append(problem)
        name = kind_of(problem.what)
        known = self._kinds.get(name)
        self._kinds[name] = Kind(1, problem) if known is None else replace(known, n=known.n + 1)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of problems, the most frequent first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.n)


def kind_of(what: str) -> str:
    """`what` without the names, texts and numbers that are of one row alone."""
    for pattern, instead in _PARTICULAR:
        what = pattern.sub(instead, what)
    return what
