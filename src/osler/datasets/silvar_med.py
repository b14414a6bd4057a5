"""Rows with a rationale as Silvar-Med has them: an image, a question, its answer, and the reasoning that leads there.

    {"image": "xmlab102/source.jpg", "question": "Is the lung healthy?", "answer": "No", "modality": "X-Ray", "organ": "Lung",
     "rationale": "The left lower lung is denser than the right, with a blurred diaphragm. No healthy lung looks like that."}

Pham et al. 2025, arXiv:2504.10642: 866 rows about abnormal CT, MRI and X-ray images of SLAKE, annotated with GPT-4o and checked
by specialists; RARL (arXiv:2506.06600) trains on a part of it. The published file was not at hand: the form here is ours, for
rows like these, and so are the row above and those of the tests.

A file is one JSON array, or JSON Lines where its name ends in .jsonl; below a folder all files of either name are read.

    image | images              one path, or a list of them, below the images' root
    question | instruction
    answer | output             the gold, a text; with options the letter or the text of one
    rationale | explanation | reasoning
    options                     two or more texts; none for an open question
    id                          unique; else the file's name and the row's number
    split                       train, val or test; else the file's name where it begins with one of these words
    modality, question_type, language, organ

Every other field is kept in `Sample.extra`, also the organ. Without `?images=ROOT` the rows are read without their images. The
rows come from SLAKE, so SLAKE is not unseen to what was trained on them: of an image that is named as SLAKE's, xmlab102.jpg,
xmlab102_1.jpg or xmlab102/source.jpg, the group is SLAKE's own name for it, by which `osler audit` finds the overlap.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from osler.datasets.jsonl import json_lines
from osler.datasets.load import DataSpec
from osler.datasets.problems import refuse
from osler.datasets.published import Answer, json_rows
from osler.datasets.questions import told_place
from osler.datasets.rows import at_row, image_below
from osler.datasets.samples import kinds_of, known_modality, known_question_type, known_split
from osler.errors import DataError
from osler.schema import SPLITS, Sample, fold_text

ALIASES = {"question": ("instruction",), "answer": ("output",), "rationale": ("explanation", "reasoning")}
"""Other names of a field; a row has one of them."""

_SLAKE = re.compile(r"(?:^|/)(xmlab\d+)(?:_\d+)?(?:/source)?\.(?:jpe?g|png)$", re.IGNORECASE)


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    id: str | int | None = None
    image: str | None = None
    images: list[str] | None = None
    question: str
    answer: Answer
    rationale: str
    options: list[str] | None = None
    modality: str | None = None
    question_type: str | None = None
    split: str | None = None
    language: str = "en"

    @property
    def references(self) -> list[str]:
        """The images as they are written. Errors: DataError where there is none, or both fields name some."""
        if self.image is not None and self.images is not None:
            raise DataError("it has both 'image' and 'images'. Keep one.")
        found = [self.image] if self.image is not None else self.images or []
        if not found or not all(image.strip() for image in found):
            raise DataError("the field 'image' is missing or empty.")
        return found


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    for file in sorted({*_files(spec, ".json"), *_files(spec, ".jsonl")}) or spec.files(".json"):
        split = next((name for name in SPLITS if re.match(rf"{name}(?![^\W\d_])", file.stem)), None)
        if not file.read_bytes().strip():
            raise DataError.at(file, None, "it is empty.")
        for number, value in _rows(file):
            with at_row(file, number):
                row = _Row.model_validate(_named(value))
                name = f"silvar_med/{file.stem}/{number}" if row.id is None else str(row.id)
                sample = _sample(row, name, spec.images, split, f"{file}, row {number}")
                yield sample


def _files(spec: DataSpec, suffix: str) -> list[Path]:
    """The files of `spec` that end in `suffix`, possibly none. Errors: DataError where it names neither file nor folder."""
    path = Path(spec.path or "")
    return [file for file in path.rglob(f"*{suffix}") if file.is_file()] if path.is_dir() else spec.files(suffix)


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The number, from 1, and the value of each row; blank lines are none. Errors: DataError."""
    if file.suffix != ".jsonl":
        yield from enumerate(json_rows(file), 1)
        return
    for number, line in json_lines(file):
        try:
            value = from_json(line)
        except ValueError as error:
            refuse(f"{file}, row {number}", f"it is no JSON ({error}). Each line should be one JSON object.", error)
            continue
        yield number, value


def _named(value: Any) -> Any:
    """A row with the first of its fields' names. Errors: DataError where it has a field by two names."""
    for name, others in ALIASES.items() if isinstance(value, dict) else ():
        found = [one for one in (name, *others) if one in value]
        if len(found) > 1:
            raise DataError(f"it has both {found[0]!r} and {found[1]!r}. Keep one.")
        value = {name if key in others else key: part for key, part in value.items()}
    return value


def _sample(row: _Row, name: str, root: str | None, split: str | None, origin: str) -> Sample:
    """The sample of `row`, its id `name`. Errors: DataError."""
    for field in ("question", "answer", "rationale", "language"):
        if not fold_text(getattr(row, field)):
            raise DataError(f"the field {field!r} is empty.")
    images, options = row.references, tuple(row.options or ())
    gold_index = told_place(options, row.answer) if options else None
    golds = (row.answer if gold_index is None else options[gold_index],)
    return Sample(
        id=name,
        images=() if root is None else tuple(image_below(root, image) for image in images),
        question=row.question,
        golds=golds,
        options=options,
        gold_index=gold_index,
        kind=kinds_of(options, golds)[0],
        rationale=row.rationale,
        modality=known_modality(row.modality),
        question_type=known_question_type(row.question_type),
        source="Silvar-Med",
        split=known_split(row.split) or split,
        group=slake_name(images[0]),
        language=row.language,
        extra={**(row.model_extra or {}), **({"path": images[0]} if len(images) == 1 else {"paths": images})},
        origin=origin,
    )


def slake_name(image: str) -> str:
    """SLAKE's name for `image`, xmlab102/source.jpg, where its own tells which that is; else `image` itself."""
    found = _SLAKE.search(image)
    return f"{found[1].lower()}/source.jpg" if found else image
