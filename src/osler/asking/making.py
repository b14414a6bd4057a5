"""A table of labelled images -> the questions of each split, about which text alone says nothing.

Labels are spelt alike, copies of a picture left out, the images divided by patient, and each split balanced by itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osler.asking.labels import Labelled, Table
from osler.asking.pictures import copies
from osler.asking.rounds import (
    Cell,
    LeftOut,
    Round,
    choices,
    findings,
    opens,
    pairs,
)
from osler.asking.spelling import doubtful, says_yes, spelt_alike, translated
from osler.asking.templates import Templates, Wordings
from osler.asking.wording import question_type, worded
from osler.datasets.dividing import Prints, divide
from osler.datasets.samples import Samples
from osler.errors import DataError, RecipeError, unknown
from osler.fingerprints import NEAR
from osler.schema import SPLITS, Kind, Sample
from osler.taxonomy import Modality, QuestionType

FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""The share of images of each split, unless the table or a caller says otherwise."""


@dataclass(frozen=True)
class Asked:
    """The questions of each split, what was left out, by column and split how often a label is there, and `notes`."""

    parts: Mapping[str, Samples]
    left_out: Mapping[tuple[str, str, str], Sequence[str]]
    labels: Mapping[str, Mapping[str, Mapping[str, int]]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """labels, left_out (a list, each with n and its first rows), notes."""
        left_out = [
            {"column": column or None, "kind": kind or None, "reason": reason, "n": len(rows), "first": list(rows[:5])}
            for (column, kind, reason), rows in sorted(self.left_out.items())
        ]
        return {"labels": self.labels, "left_out": left_out, "notes": list(self.notes)}


def ask(
    table: Table,
    templates: Templates,
    kinds: Sequence[Kind],
    seed: int,
    fractions: Mapping[str, float] = FRACTIONS,
    prints: Prints | None = None,
    distance: int | None = NEAR,
) -> Asked:
    """The questions of `kinds` about the images of `table`, by split; `fractions` do not count where the table has splits.

    `prints` are the images' fingerprints by path, by which copies are told; `distance` as for `osler.datasets.dividing.divide`.
    The same for the same images, whatever their order. Errors: DataError, RecipeError.
    """
    wordings = {column: templates.of(column, kinds) for column in table.columns}
    left_out, notes = LeftOut(), list(table.notes)
    images = sorted(table.images, key=lambda image: (SPLITS.index(image.split or "train"), image.name))
    images = [replace(image, labels=translated(image, wordings)) for image in images]
    images = spelt_alike(images, table.columns, notes)
    images = _without_copies(images, prints or {}, left_out)
    if not images:
        raise DataError(f"{table.file}: no image is left to ask about: all of them are copies, or have no label.")
    if not table.is_split:
        images = _divided(images, fractions, seed, prints, distance)
        told = {"patient": "patients", "group": "groups"}.get(table.group_is or "", "images")
        notes.append(f"divided by {told}" + ("" if table.group_is else ", as no column is called patient or group"))
    binary = {column: says_yes(images, column) for column in table.columns}
    _require_named(binary, templates, kinds, table)
    notes += [f"{column!r} says yes or no of each image, and is asked so" for column, found in binary.items() if found]
    notes += [note for column, found in binary.items() if found is None for note in doubtful(images, column)]
    rounds = [
        one
        for column in table.columns
        for one in _rounds(images, column, wordings[column], kinds, binary[column], seed, left_out)
    ]
    parts = worded(rounds, images, table, wordings, seed)
    return Asked(parts, left_out.found, _counted(images, table.columns), tuple(notes))


def _require_named(
    binary: Mapping[str, Mapping[str, bool] | None], templates: Templates, kinds: Sequence[Kind], table: Table
) -> None:
    """Errors: RecipeError for a column that says yes or no, and neither it nor the templates say of what."""
    for column, said in binary.items():
        if said and Kind.YESNO in kinds and not templates.names(column):
            raise RecipeError(
                f"{table.file}: its column {column!r} says yes or no of each image, but not of what. Rename it to what it is "
                f"about (pneumonia), or say so with --templates: columns: {{{column}: {{name: pneumonia}}}}; where its values "
                "are two labels, word them there: labels."
            )


def _without_copies(images: Sequence[Labelled], prints: Prints, left_out: LeftOut) -> list[Labelled]:
    """`images` that show different pictures, and have a label at all."""
    labelled = [image for image in images if any(image.labels.values())]
    left_out.add("", "", "no_label", (image for image in images if not any(image.labels.values())))
    said = {image.path: {column: frozenset(labels) for column, labels in image.labels.items()} for image in labelled}
    again, at_odds = copies(said, prints)
    left_out.add("", "", "copy", (image for image in labelled if image.path in again))
    left_out.add("", "", "contradictory", (image for image in labelled if image.path in at_odds))
    gone = again | at_odds
    return [image for image in labelled if image.path not in gone]


def _divided(
    images: Sequence[Labelled], fractions: Mapping[str, float], seed: int, prints: Prints | None, distance: int | None
) -> list[Labelled]:
    """`images` with a split each, of what belongs together the same; each label counts as a row of its own."""
    rows = Samples.of(
        Sample(
            id="\0".join((image.name, column, label)),
            images=(image.path,),
            question=column,
            golds=(label,),
            group=image.group,
            modality=image.modality,
        )
        for image in images
        for column, labels in image.labels.items()
        for label in labels
    )
    split_of = {row.images[0]: row.split for row in divide(rows, fractions, seed, prints, distance, _stratum)}
    return [replace(image, split=split_of[image.path]) for image in images]


def _stratum(row: Sample) -> str:
    return "\0".join((row.modality, row.question, *row.golds))


def _rounds(
    images: Sequence[Labelled],
    column: str,
    words: Wordings,
    kinds: Sequence[Kind],
    said_yes: Mapping[str, bool] | None,
    seed: int,
    left_out: LeftOut,
) -> Iterator[Round]:
    """Every round of questions about `column`, cell by cell."""
    cells: defaultdict[Cell, list[Labelled]] = defaultdict(list)
    known: defaultdict[tuple[str, Modality], set[str]] = defaultdict(set)
    for image in images:
        if image.labels[column]:
            cell = _cell(image, column, words)
            cells[cell].append(image)
            known[cell.source, cell.modality].update(image.labels[column])
        else:
            left_out.add(column, "", "no_label", [image])
    for cell, found in sorted(cells.items()):
        one = [image for image in found if len(image.labels[column]) == 1]
        only = {image.name: image.labels[column][0] for image in one}
        several = [image for image in found if len(image.labels[column]) > 1]
        for kind in kinds:
            if kind is Kind.YESNO and said_yes is not None:
                yield from findings(cell, found, words.name, said_yes, seed, left_out)
            elif kind is Kind.YESNO:
                yield from pairs(cell, found, {i.name: frozenset(i.labels[column]) for i in found}, seed, left_out)
            elif said_yes is not None:
                left_out.add(column, kind, "yes_no", found)
            else:
                left_out.add(column, kind, "several_labels", several)
                others = len(known[cell.source, cell.modality]) - 1
                made = (
                    choices(cell, one, only, seed, left_out)
                    if kind is Kind.CHOICE
                    else opens(cell, one, only, others, left_out)
                )
                yield from made


def _cell(image: Labelled, column: str, words: Wordings) -> Cell:
    asks_modality = question_type(image, column, words) is QuestionType.MODALITY
    return Cell(column, image.split or "train", image.source, Modality.UNKNOWN if asks_modality else image.modality)


def _counted(images: Iterable[Labelled], columns: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    """By column, label and split, how many of `images` have it."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for column in columns:
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for image in images:
            for label in image.labels[column]:
                found[label][image.split or "train"] += 1
        counts[column] = {label: dict(found[label]) for label in sorted(found)}
    return counts


def kinds_in(text: str) -> tuple[Kind, ...]:
    """The kinds in a text like "choice,yesno,open", in the order of Kind. Errors: RecipeError with the nearest."""
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in list(Kind):
            raise RecipeError(unknown("kind", name, map(str, Kind)))
    return tuple(kind for kind in Kind if kind in named)
