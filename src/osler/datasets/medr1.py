"""The split files that Med-R1 publishes for OmniMedVQA: multiple choice, by modality and by question type.

A file is one JSON array of {image, problem, solution}. Everything else is told from names: the modality or the question type
and the split from the file (`X-Ray_test.json`, `Lesion Grading_train.json`), the source from the image's path
(`Images/SOURCE/...`). The images are not part of it: without `?images=ROOT` the rows are read without them. ROOT is the
folder that holds `Images`, or that itself. A path can hold the answer, so it is only kept in `extra["path"]` and as the group.

Every row is a choice and its gold a letter, as published, also where the options are yes and no. In a few rows two options
differ by nothing but case, blanks or a full stop.

The published splits are by row, not by image: test rows may show images of train. The files of one source each,
SOURCE_filtered_test.json, state neither modality nor question type, and are of a split of their own: at least 9,108 of their
17,721 rows are in the train files by modality.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

from osler.datasets.load import DataSpec
from osler.datasets.places import above
from osler.datasets.published import json_rows, split_problem
from osler.datasets.rows import at_row, image_below
from osler.errors import DataError
from osler.progress import console
from osler.schema import LETTERS, SPLITS, Kind, Sample
from osler.taxonomy import Modality, QuestionType, modality_of, question_type_of

AXES = ("modality", "question_type")
"""The two folders of `Splits`: the same rows, split in two ways."""

UNLABELLED = {"Chest CT Scan": Modality.CT}
"""The modality of a source, for rows whose file names none; the one published such row is a chest CT."""

_SOLUTION = re.compile(r"\s*<answer>\s*([A-F])\s*</answer>\s*")


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    image: str
    problem: str
    solution: str


@dataclass(frozen=True)
class _Domain:
    """What a file's name says about all its rows."""

    modality: Modality
    question_type: QuestionType
    split: str | None


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one split file, or of every one below a folder. Errors: DataError that names file and row."""
    seen, root = dict[str, Path](), above(spec.images, "Images")
    for file in _files(spec):
        if file.stem in seen:
            raise DataError.at(file, None, f"{seen[file.stem]} has the same name, so their ids clash.", "Load them apart.")
        seen[file.stem] = file
        domain = _domain(file)
        for number, value in enumerate(json_rows(file), 1):
            with at_row(file, number):
                sample = _sample(f"{file.stem}/{number}", _Row.model_validate(value), domain, root)
                yield replace(sample, origin=f"{file}, row {number}")


def _files(spec: DataSpec) -> list[Path]:
    """The file of `spec`, or those below its folder: of `Splits` alone, where it holds that. Tells where both axes are read."""
    files, top = spec.files(".json"), Path(spec.path or "")
    found = [file for file in files if "Splits" in file.relative_to(top).parts] or files
    axes = sorted({part for file in found for part in file.relative_to(top).parts if part in AXES})
    if len(axes) > 1:
        said = f"{top} holds each row twice, split by {' and by '.join(axes)}: train rows of one are test rows of the other."
        do = "Name one of the two folders to train or test on."
        console.print(f"{said} {do}", markup=False, highlight=False, soft_wrap=True)
    return found


def _domain(file: Path) -> _Domain:
    """What the name of `file` says. Errors: DataError where it names neither a modality nor a question type."""
    name, _, split = file.stem.rpartition("_")
    if split not in SPLITS:
        name, split = file.stem, ""
    modality, question_type = modality_of(name), question_type_of(name)
    source = name.removesuffix("_filtered")
    if source != name and modality_of(source) is None and question_type_of(source) is None:
        return _Domain(Modality.UNKNOWN, QuestionType.UNKNOWN, split or None)
    if modality is None and question_type is None:
        do = "Name it as published, X-Ray_train.json, or unknown_train.json where neither is known."
        raise DataError.at(file, None, "the file's name holds no known modality or question type.", do)
    if modality and question_type and "type" in file.absolute().parent.parent.name:
        modality = None  # "MR" is a modality or a question type; the folder tells which
    elif modality:
        question_type = None
    return _Domain(modality or Modality.UNKNOWN, question_type or QuestionType.UNKNOWN, split or None)


def _sample(name: str, row: _Row, domain: _Domain, root: str | None) -> Sample:
    """The sample of `row`, its id `name`. Errors: DataError."""
    question, options = split_problem(row.problem)
    gold_index = _gold(row.solution, options)
    source = _source(row.image)
    modality = domain.modality
    return Sample(
        id=name,
        images=() if root is None else (image_below(root, row.image),),
        question=question,
        golds=(options[gold_index],),
        options=options,
        gold_index=gold_index,
        kind=Kind.CHOICE,
        modality=UNLABELLED.get(source, modality) if modality is Modality.UNKNOWN else modality,
        question_type=domain.question_type,
        source=source,
        split=domain.split,
        group=row.image,
        extra={**(row.model_extra or {}), "path": row.image},
    )


def _gold(solution: str, options: tuple[str, ...]) -> int:
    """The place of the gold option."""
    match = _SOLUTION.fullmatch(solution)
    if match is None:
        raise DataError(f"the solution should be '<answer> X </answer>' with one letter, not {solution!r}.")
    if (place := LETTERS.index(match[1])) >= len(options):
        raise DataError(f"the gold letter {match[1]} is not among the {len(options)} options.")
    return place


def _source(image: str) -> str:
    parts = PurePosixPath(image).parts
    if len(parts) < 3:
        raise DataError(f"the image path {image!r} should be Images/SOURCE/..., which names its source.")
    return parts[1]
