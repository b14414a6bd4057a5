"""MedXpertQA: multiple choice at the level of specialist exams, with five options about images (MM) or ten without (Text).

    {"id": "MM-179", "question": "Based on the clinical presentation, what condition represents the most probable diagnosis?\\n
     Answer Choices: (A) Graves\\" disease (B) Iron deficiency ...", "options": [{"letter": "B", "content": "Iron deficiency"},
     ...], "label": ["B"], "images": [{"image_path": "MM-179-a.jpeg"}], "medical_task": "Diagnosis",
     "body_system": "Integumentary", "question_type": "Understanding"}

Zuo et al. 2025, arXiv:2501.18362; MIT; github.com/TsinghuaC3I/MedXpertQA, from which the row is (`medxpertqa_mm_input.jsonl`,
2,000 rows, 1 to 6 images each); the hub's TsinghuaC3I/MedXpertQA. There `options` map letters to texts, `label` is one letter
and `images` are names; that form was not at hand, and is read too. Below a folder all `*.jsonl` are read, and `dev` or `test`
as a file's name tells the split.

ROOT of `?images=ROOT` is the published folder `images`, or the one that holds it; without it rows are read without images,
whose names are kept in `extra["paths"]`. The list of options behind the question is taken off where it is that of the row. No
row states its modality. Questions of the task Diagnosis are for a disease, those of Treatment and Basic Science are of unknown
type; what is published as `question_type`, whether one has to reason, is kept in `extra["demand"]`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from osler.datasets.jsonl import json_lines
from osler.datasets.load import DataSpec
from osler.datasets.places import image_root
from osler.datasets.rows import at_row, image_below
from osler.datasets.samples import SPLIT_NAMES
from osler.errors import DataError
from osler.schema import LETTERS, SPLITS, Kind, Sample, fold_text
from osler.taxonomy import QuestionType, question_type_of

_LISTED = "\nAnswer Choices: "


class _Option(BaseModel):
    model_config = ConfigDict(strict=True)

    letter: str
    content: str


class _Image(BaseModel):
    model_config = ConfigDict(strict=True)

    image_path: str


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    id: str
    question: str
    options: list[_Option] | dict[str, str]
    label: str | list[str]
    images: list[_Image | str] = []
    medical_task: str = ""
    question_type: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """The options by letter."""
        return self.options if isinstance(self.options, dict) else {one.letter: one.content for one in self.options}

    @property
    def paths(self) -> list[str]:
        """The images as they are written."""
        return [one if isinstance(one, str) else one.image_path for one in self.images]


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    files = spec.files(".jsonl")
    root = image_root(spec.name, spec.path, spec.images, ("images",))
    for file in files:
        name = SPLIT_NAMES.get(file.stem, file.stem)
        for number, line in json_lines(file):
            with at_row(file, number):
                row = _Row.model_validate_json(line)
                sample = _sample(row, root, name if name in SPLITS else None, f"{file}, row {number}")
                yield sample


def _sample(row: _Row, root: str | None, split: str | None, origin: str) -> Sample:
    """The sample of `row`. Errors: DataError."""
    options, gold_index = _choice(row)
    if not fold_text(row.id) or not (question := _stem(row.question, options)):
        raise DataError(f"the field {'question' if fold_text(row.id) else 'id'!r} is empty.")
    published: dict[str, Any] = {**(row.model_extra or {}), "medical_task": row.medical_task, "demand": row.question_type}
    return Sample(
        id=f"medxpertqa/{row.id}",
        images=() if root is None else tuple(image_below(root, path) for path in row.paths),
        question=question,
        golds=(options[gold_index],),
        options=options,
        gold_index=gold_index,
        kind=Kind.CHOICE,
        question_type=question_type_of(row.medical_task) or QuestionType.UNKNOWN,
        source="MedXpertQA",
        split=split,
        extra={**published, "paths": row.paths},
        origin=origin,
    )


def _choice(row: _Row) -> tuple[tuple[str, ...], int]:
    """The options and the place of the gold. Errors: DataError."""
    letters, options = "".join(row.texts), tuple(row.texts.values())
    if len(options) < 2 or len(options) != len(row.options) or letters != LETTERS[: len(options)]:
        raise DataError(f"its options should be of the letters A, B, ... in turn, two or more, but are {row.texts}.")
    if not all(map(fold_text, options)):
        raise DataError("it has an empty option.")
    golds = [row.label] if isinstance(row.label, str) else row.label
    if len(golds) != 1 or golds[0] not in row.texts:
        raise DataError(f"its label should be one of the letters {letters}, not {row.label!r}.")
    return options, letters.index(golds[0])


def _stem(question: str, options: tuple[str, ...]) -> str:
    """`question` without the list of its `options` at the end."""
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return question.removesuffix(_LISTED + listed).strip()
