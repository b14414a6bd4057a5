"""Questions about labelled images, made so that text alone says nothing about the answer.

Questions come in rounds. Those of a round are worded alike, and the answer of each is as likely as that of any other: a
choice is a round of one question for each option, with each of them right once; yes or no is a round of two. So of all
questions with the same words and options each answer is right equally often, and whoever does not look scores exactly
chance, wherever they learnt it. An open question is a round by itself: the most frequent answer is its floor.

Rounds are made within a cell: a column, split, source and modality. What is left out is counted by reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from osler.asking.labels import Labelled
from osler.debiasing import debias
from osler.options import generator
from osler.schema import Kind, Sample
from osler.taxonomy import Modality

REASONS: Mapping[str, str] = {
    "copy": "the picture is there already, pixel for pixel, with the same labels",
    "contradictory": "the picture is there again, pixel for pixel, with other labels",
    "no_label": "its label is empty, or the templates leave it out",
    "several_labels": "it has several labels, and one answer would have to be right",
    "yes_no": "the column says yes or no, so that there is nothing else to offer or to name",
    "one_label": "no other label is there in its split, modality and source",
    "surplus": "the other labels of its split, modality and source are too rare to balance it",
}
"""Why an image, or a question about it, is left out."""

YES, NO = "yes", "no"
"""The labels of a column that says yes or no, whatever the words are that it is written and asked in."""


class Cell(NamedTuple):
    """What questions are balanced within. The modality is unknown where it is asked for, or would tell the answer."""

    column: str
    split: str
    source: str
    modality: Modality

    def generator(self, kind: str, seed: int) -> np.random.Generator:
        """A generator for this cell, the same whatever other cells there are."""
        return generator("\0".join((*self, kind)), seed)


@dataclass(frozen=True)
class Question:
    """One question to be worded: about `image`, of `kind`, `label` the one that is asked about (yesno) or right (else)."""

    image: Labelled
    kind: Kind
    label: str
    gold: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Round:
    """Questions of one cell that are worded alike."""

    cell: Cell
    questions: tuple[Question, ...]


@dataclass
class LeftOut:
    """Counts the questions that are not asked, by column, kind and reason."""

    found: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    def add(self, column: str, kind: str, reason: str, images: Iterable[Labelled]) -> None:
        """Count a question about each of `images`, or an image where `column` and `kind` are empty."""
        if where := [image.where for image in images]:
            self.found.setdefault((column, kind, reason), []).extend(where)


def choices(cell: Cell, images: Sequence[Labelled], labels: Mapping[str, str], seed: int, left_out: LeftOut) -> Iterator[Round]:
    """The rounds of the choices about `images` of `cell`, whose `labels` are given by name: as many as can be balanced."""
    if len(set(labels.values())) < 2:
        left_out.add(cell.column, Kind.CHOICE, "one_label", images)
        return
    made = debias((_unbalanced(cell, image, labels[image.name]) for image in images), seed)
    by_name = {image.name: image for image in images}
    for reason, names in made.left_out.items():
        why = "surplus" if reason == "surplus" else "one_label"
        left_out.add(cell.column, Kind.CHOICE, why, (by_name[name] for name in names))
    sets: defaultdict[tuple[str, ...], defaultdict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for row in made.samples:
        asked = Question(by_name[row.id], Kind.CHOICE, row.golds[0], row.golds[0], row.options)
        sets[tuple(sorted(row.options))][row.golds[0]].append(asked)
    for _, by_gold in sorted(sets.items()):
        yield from (Round(cell, questions) for questions in zip(*by_gold.values(), strict=True))


def _unbalanced(cell: Cell, image: Labelled, label: str) -> Sample:
    """The choice about `image` before `debias`, which only reads its gold; the words come later."""
    stem = "\0".join(cell)
    return Sample(id=image.name, images=(image.path,), question=stem, golds=(label,), options=(label, ""), gold_index=0)


def pairs(
    cell: Cell, images: Sequence[Labelled], labels: Mapping[str, frozenset[str]], seed: int, left_out: LeftOut
) -> Iterator[Round]:
    """The rounds of two of the yes/no questions about `images` of `cell`, whose `labels` are given by name.

    Each label is asked about as many images that have it as about others, as many as there are of the rarer kind. An image
    is asked about labels that it has not about as often as any other.
    """
    rng, asked = cell.generator(Kind.YESNO, seed), Counter[str]()
    order = [images[at] for at in rng.permutation(len(images)).tolist()]
    for label in sorted(set().union(*labels.values()), key=lambda label: (sum(label in of for of in labels.values()), label)):
        having = [image for image in order if label in labels[image.name]]
        others = sorted((image for image in order if label not in labels[image.name]), key=lambda image: asked[image.name])
        n = min(len(having), len(others))
        left_out.add(cell.column, Kind.YESNO, "surplus" if others else "one_label", having[n:])
        for one, other in zip(having[:n], others[:n], strict=True):
            asked[other.name] += 1
            yield Round(cell, (Question(one, Kind.YESNO, label, YES), Question(other, Kind.YESNO, label, NO)))


def findings(
    cell: Cell, images: Sequence[Labelled], name: str, said_yes: Mapping[str, bool], seed: int, left_out: LeftOut
) -> Iterator[Round]:
    """The rounds of two of a column that says of each image whether it shows `name`."""
    rng = cell.generator(Kind.YESNO, seed)
    order = [images[at] for at in rng.permutation(len(images)).tolist()]
    yes, no = ([image for image in order if said_yes[image.name] is wanted] for wanted in (True, False))
    n = min(len(yes), len(no))
    left_out.add(cell.column, Kind.YESNO, "surplus" if n else "one_label", [*yes[n:], *no[n:]])
    for one, other in zip(yes[:n], no[:n], strict=True):
        yield Round(cell, (Question(one, Kind.YESNO, name, YES), Question(other, Kind.YESNO, name, NO)))


def opens(cell: Cell, images: Sequence[Labelled], labels: Mapping[str, str], others: int, left_out: LeftOut) -> Iterator[Round]:
    """A round for each of `images`, whose `labels` are given by name; none where the table has no `others` to name."""
    if not others:
        left_out.add(cell.column, Kind.OPEN, "one_label", images)
        return
    yield from (Round(cell, (Question(image, Kind.OPEN, labels[image.name], labels[image.name]),)) for image in images)


def in_words(question: Question, yes: str, no: str, as_yesno: bool) -> Question:
    """A yes/no question with the answers `yes` and `no`: a choice of the two unless `as_yesno`, which has its own."""
    gold = yes if question.gold == YES else no
    return replace(question, gold=gold) if as_yesno else replace(question, gold=gold, options=(yes, no), kind=Kind.CHOICE)
