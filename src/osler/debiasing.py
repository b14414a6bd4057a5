"""Options that say nothing about the answer: a data set rebuilt so that no method that does not look can beat chance.

Rows of one source that ask exactly the same stem are a cell. The golds of a cell are its labels; its rows are asked again
with options drawn from these labels alone, so that within a cell every label of an option set is the gold equally often,
and stands in every place equally often when it is. Whatever is a function of source, stem and offered texts then scores
exactly chance, wherever it was learnt. Balancing over anything wider than the stem leaves its words as a hint.

Of a cell as many rows are kept as looking can win: rows x (1 - chance) is the largest possible, and with it the fewest
option sets. Rows beyond that would only turn a set of three into two sets of two. What is left out is counted by reason.

Two spellings of a label are one, see `same_labels`, and a cell offers its most frequent one. Paraphrases that no rule sees
("macular hole" and "a small hole in the macula") stay two labels.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from osler.datasets.samples import Samples
from osler.schema import Kind, Sample, fold_text
from osler.taxonomy import Modality, QuestionType, modality_of

MOST_OPTIONS = 4
"""The most options that a rebuilt question has; the fewest are two."""

REASONS: Mapping[str, str] = {
    "open": "nothing is offered to choose from",
    "yes_no": "yes and no are all there is to offer",
    "one_modality": "it asks for the modality, which its source and stem fix",
    "one_gold": "its source and stem fix the gold",
    "surplus": "the other labels of its source and stem are too rare to balance it",
}
"""Why a row is left out."""

_BRACKETED = re.compile(r"(?P<long>.*\S)\s*\((?P<short>\w{2,8})\)\W*")
_JOINT = re.compile(r"(?<=\w)[-_](?=\w)")


@dataclass(frozen=True)
class Debiased:
    """`samples`, rebuilt, of the `n` rows that were given, and the ids of the others by reason (a key of `REASONS`)."""

    samples: Samples
    n: int
    left_out: Mapping[str, tuple[str, ...]]

    @property
    def chance(self) -> float | None:
        """The accuracy of any method that does not look, the mean of 1 / options; None where no row is kept."""
        shares = [1 / len(sample.options) for sample in self.samples]
        return sum(shares) / len(shares) if shares else None

    def to_json(self) -> dict[str, Any]:
        """n, kept, chance, and for each reason how many rows it left out and which."""
        left_out = {reason: {"n": len(ids), "ids": list(ids)} for reason, ids in self.left_out.items()}
        return {"n": self.n, "kept": len(self.samples), "chance": self.chance, "left_out": left_out}


@dataclass(frozen=True)
class _Label:
    """One gold of a cell: how it is written, and the rows that it answers."""

    text: str
    rows: list[Sample]


def debias(samples: Iterable[Sample], seed: int) -> Debiased:
    """The rows that can be balanced, asked again with balanced options; ids and the order of rows stay.

    Which rows are kept and what they offer depends on the rows and `seed`, not on their order, nor on other cells.
    """
    rows = list(samples)
    reasons = {row.id: reason for row in rows if (reason := _unfit(row))}
    cells: defaultdict[tuple[str, str], list[Sample]] = defaultdict(list)
    for row in rows:
        if row.id not in reasons:
            cells[row.source, row.question].append(row)
    asked: dict[str, Sample] = {}
    for (source, stem), cell in cells.items():
        labels = _labels(cell)
        if len(labels) < 2:
            reasons |= {row.id: _fixed(row) for row in cell}
        else:
            asked |= _asked_again(labels, _generator(seed, source, stem))
    left_out: dict[str, list[str]] = {reason: [] for reason in REASONS}
    for row in rows:
        if row.id not in asked:
            left_out[reasons.get(row.id, "surplus")].append(row.id)
    kept = Samples.of(asked[row.id] for row in rows if row.id in asked)
    return Debiased(kept, len(rows), {reason: tuple(ids) for reason, ids in left_out.items()})


def same_labels(texts: Iterable[str]) -> dict[str, str]:
    """A key for each of `texts`, the same for those that mean the same.

    Those are texts that differ in case, blanks, a final full stop, or a hyphen or underscore inside; spellings of one
    modality ("CT", "computed tomography"); and an abbreviation beside the words that it stands for, be it that these carry
    it in brackets ("Choroidal neovascularization (CNV)") or that it is their initials, in capitals.
    """
    parts = {text: _long_and_short(text) for text in texts}
    meant = {short: long for long, short in parts.values() if short}
    initials = {_initials(long): long for long, _ in parts.values()}
    capitals = {text: initials.get(long) if text.isupper() else None for text, (long, _) in parts.items()}
    return {text: meant.get(long) or capitals[text] or long for text, (long, _) in parts.items()}


def _long_and_short(text: str) -> tuple[str, str]:
    """`text` in its plainest form without the abbreviation that it carries in brackets, and that one ("" for none)."""
    modality = modality_of(text)
    if modality not in (None, Modality.UNKNOWN):
        return f"modality: {modality}", ""
    if found := _BRACKETED.fullmatch(text):
        long, short = _plain(found["long"]), _plain(found["short"])
        if _abbreviates(short, long):
            return long, short
    return _plain(text), ""


def _initials(text: str) -> str:
    """The first letters of the words of `text`; "" for a single word, which has no abbreviation."""
    words = text.split()
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def _plain(text: str) -> str:
    return fold_text(_JOINT.sub(" ", text))


def _abbreviates(short: str, long: str) -> bool:
    """Whether `short` begins like `long` and has its other letters in turn from it."""
    letters = iter(long)
    return long.startswith(short[0]) and all(letter in letters for letter in short)


def option_sets(counts: Sequence[int], most: int = MOST_OPTIONS) -> int:
    """How many option sets a cell with these `counts` of its labels is asked with; 0 where it has not two labels.

    With T sets, no label fills more than T rows, so that min(most * T, sum of min(count, T)) rows are kept, and any such
    number from 2 T on can be dealt out. T is the least that makes rows - T, which is rows x (1 - chance), largest.
    """
    largest = max(max(counts, default=0), sum(counts) // most + 1)  # beyond it sets grow in number and rows do not
    kept = [min(most * T, sum(min(count, T) for count in counts)) for T in range(largest + 1)]
    return max((T for T, rows in enumerate(kept) if rows >= 2 * T), key=lambda T: kept[T] - T)


def _unfit(row: Sample) -> str | None:
    """Why `row` cannot be asked again whatever the others are; None where it may be."""
    if row.kind is Kind.YESNO or (row.options and set(map(fold_text, row.options)) <= {"yes", "no"}):
        return "yes_no"
    return "open" if row.gold_index is None else None


def _fixed(row: Sample) -> str:
    return "one_modality" if row.question_type is QuestionType.MODALITY else "one_gold"


def _labels(cell: Sequence[Sample]) -> list[_Label]:
    """The labels of a cell, and their rows by id, in an order that does not depend on that of `cell`."""
    written = {row.id: row.options[row.gold_index or 0].strip() for row in cell}
    keys = same_labels(sorted(set(written.values())))
    found: defaultdict[str, list[Sample]] = defaultdict(list)
    for row in sorted(cell, key=lambda row: row.id):
        found[keys[written[row.id]]].append(row)
    return [_Label(_most_frequent(written[row.id] for row in rows), rows) for _, rows in sorted(found.items())]


def _most_frequent(texts: Iterable[str]) -> str:
    return min(Counter(texts).items(), key=lambda item: (-item[1], item[0]))[0]


def _asked_again(labels: Sequence[_Label], rng: np.random.Generator) -> dict[str, Sample]:
    """The rows of a cell that are kept, by id, with their new options."""
    waiting = [iter([label.rows[k] for k in rng.permutation(len(label.rows))]) for label in labels]
    asked = {}
    for offered, times in _dealt([len(label.rows) for label in labels], rng).items():
        places = chain.from_iterable(rng.permutation(len(offered)).tolist() for _ in range(times))
        for gold in offered:
            others = [label for label in offered if label != gold]
            for _ in range(times):
                row, place = next(waiting[gold]), next(places)
                order = [others[k] for k in rng.permutation(len(others))]
                texts = tuple(labels[label].text for label in (*order[:place], gold, *order[place:]))
                asked[row.id] = replace(row, options=texts, gold_index=place, golds=(texts[place],), kind=Kind.CHOICE)
    return asked


def _dealt(counts: Sequence[int], rng: np.random.Generator) -> dict[tuple[int, ...], int]:
    """Which labels are offered together, and how often each of them is then the gold; labels are places in `counts`.

    Labels are dealt out to the sets in turn, each as often as it has rows, so that the sets differ by at most one in size.
    """
    sets = option_sets(counts)
    quotas = [min(count, sets) for count in counts]
    while sum(quotas) > MOST_OPTIONS * sets:
        quotas[quotas.index(max(quotas))] -= 1
    hands: list[list[int]] = [[] for _ in range(sets)]
    deck = chain.from_iterable([label] * quotas[label] for label in rng.permutation(len(counts)).tolist())
    for turn, card in enumerate(deck):
        hands[turn % sets].append(card)
    return dict(sorted(Counter(tuple(sorted(hand)) for hand in hands).items()))


def _generator(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])
