"""Whose image to show instead: for each question an image of the same modality whose own question has another gold.

A donor is a row whose images another row is shown. The right answer must change with the image, or else a model that looks
would be right again; so a donor is taken from the first of these that has one:

    offered        its gold is among the row's options, and it asks for the same question type
    same question  it asks the very same question
    same type      it asks for the same question type (where none is known, this means any row of the modality)

and in none of them may a question of that kind about the donor's image have the row's own gold. A yes/no row takes donors of
the very same question only, as yes to one question says nothing about another. A question for the modality takes donors of
another modality. Where the modality of a row is unknown, the same source stands for it. Two spellings of a gold are one gold
(osler.debiasing.same_labels).
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from osler.debiasing import same_labels
from osler.schema import Kind, Sample, fold_text
from osler.taxonomy import Modality, QuestionType, modality_of

LOOKED_AT = 64
"""Of so many different golds at least the donors are compared before the image that was lent least is taken."""

_YES_NO = frozenset({"yes", "no"})
Place = tuple[str, ...]
"""What rows have to agree on to lend each other images."""
_Entry = tuple[int, int, int]
"""A row as a donor: how often its image was lent when this was last looked at, its rank, its place among the rows."""


@dataclass(frozen=True)
class Donor:
    """The row at place `at` lends its images; `match` says how near its question is: offered, same question, same type.

    `gold` is what is right there, spelt as in the options of the row that takes the images where it is one of them.
    """

    at: int
    match: str
    gold: str


@dataclass(frozen=True)
class _Facts:
    """What decides who lends to whom; golds and options by their labels. `where` is empty where nobody lends or takes."""

    golds: frozenset[str]
    options: Mapping[str, str]
    yes_no: bool
    asks_modality: bool
    where: Place
    question: str
    type: str

    @classmethod
    def of(cls, row: Sample, label_of: Mapping[str, str]) -> "_Facts":
        asks_modality = _asks_modality(row)
        return cls(
            golds=frozenset(label_of[gold] for gold in row.golds),
            options={label_of[option]: option for option in row.options},
            yes_no=row.kind is Kind.YESNO or (bool(row.options) and set(map(fold_text, row.options)) <= _YES_NO),
            asks_modality=asks_modality,
            where=_where(row, asks_modality) if row.images else (),
            question=fold_text(row.question),
            type=str(row.question_type),
        )

    @property
    def places(self) -> tuple[Place, Place]:
        """Where the rows that ask the same question are filed, and those that ask for the same type."""
        return (*self.where, "question", self.question), (*self.where, "type", self.type)

    @property
    def like(self) -> tuple[str, ...]:
        """The questions that an image must not answer with this row's gold if it is to be lent: by their words and type."""
        return (self.question,) if self.yes_no else (self.question, self.type)


def find_donors(rows: Sequence[Sample], seed: int) -> list[Donor | str]:
    """For each of `rows` its donor out of `rows`, or why it has none. Seeded; images are lent as evenly as the rules let them.

    Errors: none. The reasons are "no image", "unknown modality" and "no donor".
    """
    lenders = _Lenders(rows, seed)
    found: dict[int, Donor | str] = {at: lenders.donor(at) for at in lenders.order}
    return [found[at] for at in range(len(rows))]


class _Lenders:
    """The rows, filed by what they ask and by their gold, and how often the image of each was lent."""

    def __init__(self, rows: Sequence[Sample], seed: int) -> None:
        rows = list(rows)  # Samples build a row whenever it is asked for
        self._label_of = same_labels({text for row in rows for text in (*row.golds, *row.options)})
        self._rows, self._facts = rows, [_Facts.of(row, self._label_of) for row in rows]
        self.order: list[int] = np.random.default_rng(seed).permutation(len(rows)).tolist()
        self._rank = {at: rank for rank, at in enumerate(self.order)}
        self._lent: defaultdict[tuple[str, ...], int] = defaultdict(int)
        self._golds_of: defaultdict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
        self._filed: defaultdict[Place, defaultdict[tuple[str, str], list[_Entry]]] = defaultdict(lambda: defaultdict(list))
        for at in self.order:
            self._file(at)

    def donor(self, at: int) -> Donor | str:
        """The donor of the row at `at`, from now on counted as lent, or why there is none."""
        row, facts = self._rows[at], self._facts[at]
        if not facts.where:
            return "unknown modality" if row.images else "no image"
        for match, place, keys in self._near(row, facts):
            if found := self._least_lent(at, place, keys):
                donor = self._rows[found[2]]
                self._lent[donor.images] += 1
                return Donor(found[2], match, facts.options.get(self._label_of[donor.golds[0]], donor.golds[0]))
        return "no donor"

    def _file(self, at: int) -> None:
        row, facts = self._rows[at], self._facts[at]
        for place in facts.places[: 1 if facts.yes_no else 2] if facts.where else ():
            entries = self._filed[place][self._label_of[row.golds[0]], str(row.modality)]
            entries.append((0, self._rank[at], at))  # in the order of their ranks, which makes it a heap
        for like in (facts.question, facts.type):
            self._golds_of[row.images, like] |= facts.golds

    def _near(self, row: Sample, facts: _Facts) -> Iterator[tuple[str, Place, list[tuple[str, str]]]]:
        """Where to look for a donor, the nearest first: the match, the place, and under which golds and modalities."""
        of_question, of_type = facts.places
        if not facts.yes_no and facts.options:
            yield "offered", of_type, [key for key in self._keys(row, facts, of_type) if key[0] in facts.options]
        yield "same question", of_question, self._keys(row, facts, of_question)
        if not facts.yes_no:
            yield "same type", of_type, self._keys(row, facts, of_type)

    def _keys(self, row: Sample, facts: _Facts, place: Place) -> list[tuple[str, str]]:
        """The golds and modalities in `place` that a donor of `row` may have."""
        own = str(row.modality) if facts.asks_modality else None
        return [key for key in self._filed.get(place, ()) if key[0] not in facts.golds and key[1] != own]

    def _least_lent(self, at: int, place: Place, keys: list[tuple[str, str]]) -> _Entry | None:
        """Of the donors under `keys` the one whose image was lent least; of many keys only some are looked at."""
        start = self._rank[at] % max(1, len(keys))
        best: _Entry | None = None
        for number, key in enumerate(keys[start:] + keys[:start]):
            if best and number >= LOOKED_AT:
                break
            found = self._first(self._filed[place][key], at)
            best = min(best, found) if best and found else best or found
        return best

    def _first(self, heap: list[_Entry], at: int) -> _Entry | None:
        """The entry of `heap` whose image was lent least, of those that may lend to the row at `at`; the heap stays whole."""
        aside: list[_Entry] = []
        found = None
        while heap and found is None:
            lent, rank, donor = heap[0]
            now = self._lent[self._rows[donor].images]
            if lent < now:
                heapq.heapreplace(heap, (now, rank, donor))  # its image was lent under another entry meanwhile
            elif self._may_lend(donor, at):
                found = heap[0]
            else:
                aside.append(heapq.heappop(heap))
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def _may_lend(self, donor: int, at: int) -> bool:
        """Whether the two are of other images and clusters, and no such question about the donor's image has this gold."""
        lender, row, facts = self._rows[donor], self._rows[at], self._facts[at]
        apart = lender.cluster != row.cluster and not set(lender.images) & set(row.images)
        return apart and not any(self._golds_of[lender.images, like] & facts.golds for like in facts.like)


def _where(row: Sample, asks_modality: bool) -> Place:
    """The modality, or the source where that is unknown; for a question for the modality, that it is one. Empty: nowhere."""
    if row.modality is Modality.UNKNOWN:
        return () if asks_modality or not row.source else ("source", row.source)
    return ("modalities",) if asks_modality else ("modality", str(row.modality))


def _asks_modality(row: Sample) -> bool:
    """Whether the modality is what `row` asks for: its type says so or, where that is unknown, its gold names one."""
    if row.question_type is QuestionType.UNKNOWN:
        return modality_of(row.golds[0]) not in (None, Modality.UNKNOWN)
    return row.question_type is QuestionType.MODALITY
