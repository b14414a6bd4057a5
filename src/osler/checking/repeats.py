"""Rows that ask what an earlier one asked: with the same gold they repeat it, with another they contradict it.

That is no problem in itself: a question may have several right answers, and published sets hold such rows. So they are counted,
and nothing is refused for them. Rows without images are not compared, as a set that is read without them asks much alike.
"""

import json
import os
import sqlite3
from typing import Any

from osler.checking.seen import key_of
from osler.datasets.problems import problem_at
from osler.images import MADE, PHANTOM
from osler.schema import Sample, fold_text

NAMES = ("repeated", "contradictory")
"""What is counted; a row is one of the two at most."""


class Repeats:
    """The questions of one run, in a file that is gone with it, and how many rows repeat or contradict an earlier one."""

    def __init__(self) -> None:
        self.n = dict.fromkeys(NAMES, 0)
        self._first: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE asked (key BLOB PRIMARY KEY, golds TEXT, place TEXT) WITHOUT ROWID")
        self._db.execute("CREATE TABLE said (key BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID")

    def add(self, sample: Sample, place: str) -> None:
        """Count `sample`, which is at `place`, where it repeats an earlier row, or contradicts the first that asked the same.

        Text is compared folded, options and golds in any order; golds that have one in common do not contradict each other.
        """
        if not sample.images:
            return
        asked, golds = _asked(sample), sorted(set(map(fold_text, sample.golds)))
        said = key_of(asked.hex(), golds)
        if not self._db.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (said, place)).rowcount:
            (earlier,) = self._db.execute("SELECT place FROM said WHERE key = ?", (said,)).fetchone()
            self._count("repeated", earlier, place)
            return
        if not self._db.execute("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", (asked, json.dumps(golds), place)).rowcount:
            known, earlier = self._db.execute("SELECT golds, place FROM asked WHERE key = ?", (asked,)).fetchone()
            if not set(json.loads(known)) & set(golds):
                self._count("contradictory", earlier, place)

    def to_json(self) -> dict[str, Any]:
        """`n_repeated` and `n_contradictory`; by these names the file and row of the first such row, behind those of the
        earlier one, or an empty list."""
        return {f"n_{name}": n for name, n in self.n.items()} | self._first

    def close(self) -> None:
        """Forget it all."""
        self._db.close()

    def _count(self, name: str, earlier: str, place: str) -> None:
        self.n[name] += 1
        self._first[name] = self._first[name] or [_place(earlier), _place(place)]


def _asked(sample: Sample) -> bytes:
    """A hash of the images, question and options of `sample`."""
    images = [image if image.startswith((PHANTOM, *MADE)) else os.path.normpath(image) for image in sample.images]
    return key_of(images, fold_text(sample.question), sorted(map(fold_text, sample.options)))


def _place(place: str) -> dict[str, Any]:
    found = problem_at(place, "")
    return {"file": found.file, "row": found.row}
