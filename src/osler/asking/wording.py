"""Rounds of questions put into words: the rows of each split."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from osler.asking.labels import Labelled, Table
from osler.asking.rounds import Cell, Question, Round, in_words
from osler.asking.templates import Wordings
from osler.datasets.samples import Samples
from osler.errors import DataError, RecipeError
from osler.schema import SPLITS, Kind, Sample
from osler.taxonomy import Modality, QuestionType, question_type_of


def worded(
    rounds: Sequence[Round], images: Sequence[Labelled], table: Table, wordings: Mapping[str, Wordings], seed: int
) -> dict[str, Samples]:
    """The rows of each split, in the order of images and columns. Errors: RecipeError where two columns ask alike."""
    offered: defaultdict[tuple[str, Modality], set[str]] = defaultdict(set)
    for one in rounds:
        offered[one.cell.column, one.cell.modality].update(q.label for q in one.questions)
    by_cell: defaultdict[tuple[Cell, Kind], list[Round]] = defaultdict(list)
    for one in rounds:
        by_cell[one.cell, one.questions[0].kind].append(one)
    rows: list[Sample] = []
    for (cell, kind), found in by_cell.items():
        labels = sorted(offered[cell.column, cell.modality])
        rows += _worded(cell, kind, found, wordings[cell.column], labels, table, seed)
    _require_apart(rows, table)
    place = {image.name: at for at, image in enumerate(images)}
    rows.sort(key=lambda row: (place[row.extra["image_name"]], table.columns.index(row.extra["label_column"]), row.id))
    splits = [split for split in SPLITS if any(image.split == split for image in images)]
    parts = {split: Samples.of(row for row in rows if row.split == split) for split in splits}
    for split, part in parts.items():
        if not len(part):
            n = sum(image.split == split for image in images)
            raise DataError(f"{table.file}: of the {n} images of {split} no question is left, as their labels are too few or "
                            "too rare to balance. Give it a larger share with --fractions, or ask other --kinds.")  # fmt: skip
    return parts


def _worded(
    cell: Cell, kind: Kind, rounds: Sequence[Round], words: Wordings, labels: Sequence[str], table: Table, seed: int
) -> Iterator[Sample]:
    """The rows of `rounds`, of one cell and kind, each round in a wording of its own draw."""
    known = cell.modality is not Modality.UNKNOWN
    if not (wordings := words.fitting(kind, known)):
        where = rounds[0].questions[0].image.where
        raise RecipeError(f"{words.where}: every wording of {kind} says {{modality}}, and that of {where} is unknown, or is "
                          "what is asked for. Add a wording without it.")  # fmt: skip
    rng = cell.generator(f"words of {kind}", seed)
    for one in rounds:
        wording = wordings[rng.integers(len(wordings))]
        for question in one.questions:
            listed = sorted(question.options) if question.options else labels
            said = {"column": words.name, "modality": cell.modality.value, "labels": ", ".join(listed), "label": question.label}
            yield _sample(question, cell, wording.format(**said), words)


def _sample(question: Question, cell: Cell, stem: str, words: Wordings) -> Sample:
    image = question.image
    about = f"/{question.label}" if question.kind is Kind.YESNO else ""
    name = f"{image.name}/{cell.column}/{question.kind}{about}"
    if question.kind is Kind.YESNO:
        question = in_words(question, words.yes, words.no, words.english)
    return Sample(
        id=name,
        images=(image.path,),
        question=stem,
        golds=(question.gold,),
        options=question.options,
        gold_index=question.options.index(question.gold) if question.options else None,
        kind=question.kind,
        modality=image.modality,
        question_type=question_type(image, cell.column, words),
        source=image.source,
        split=cell.split,
        group=image.group,
        group_is_patient=image.group_is_patient,
        language=words.language,
        extra={**image.extra, "image_name": image.name, "label_column": cell.column},
        origin=image.where,
    )


def _require_apart(rows: Iterable[Sample], table: Table) -> None:
    """Errors: RecipeError where the same words ask for two columns of one image: nobody could tell which is meant."""
    seen: dict[tuple[str, str, frozenset[str]], Sample] = {}
    for row in rows:
        key = (row.images[0], row.question, frozenset(row.options))
        before = seen.setdefault(key, row)
        columns = [one.extra["label_column"] for one in (before, row)]
        if columns[0] != columns[1]:
            raise RecipeError(
                f"{row.origin}: its columns {columns[0]!r} and {columns[1]!r} are asked in the same words: {row.question!r}. "
                "Word them apart with --templates, or by {column}."
            )


def question_type(image: Labelled, column: str, words: Wordings) -> QuestionType:
    """What the templates say of `column`, else the row of the table, else the column's own name where it is a known one."""
    if words.question_type or image.question_type is not QuestionType.UNKNOWN:
        return words.question_type or image.question_type
    return question_type_of(column) or QuestionType.UNKNOWN
