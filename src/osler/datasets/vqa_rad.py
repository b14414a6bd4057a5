"""VQA-RAD: clinicians' questions about 314 radiology images of MedPix, and VQA-Med 2019 where it was put into the same schema.

    {"qid": 2392, "image_name": "synpic45162.jpg", "image_organ": "ABD", "answer": 4, "answer_type": "OPEN",
     "question_type": "COUNT", "question": "How many gallstones are identified?", "phrase_type": "freeform"}

Lau et al. 2018, doi:10.1038/sdata.2018.251; CC0; osf.io/89kps. Read are `trainset.json` (3,064 rows) and `testset.json` (451),
or `VQA_RAD Dataset Public.json` (2,248 rows; 451 of test), where the phrase type of a test row starts with `test_`. Below a
folder only files of these names are read: its list of answers has no questions.

ROOT of `?images=ROOT` is the folder of the images, or the one that holds it. Without it the rows are read without their images,
whose names are kept in `extra["path"]` and as the group: each image is of another patient. Every image of a test row is also
one of train. No row states its modality. A closed question offers no options; one that wants neither yes nor no is open here,
and `extra["answer_type"]` says that it was closed. Numbers among the answers become text; all else stays as published, tabs and
outer blanks too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from osler.datasets.load import DataSpec
from osler.datasets.places import image_root
from osler.datasets.published import Answer, json_rows, kind_of, named_files
from osler.datasets.rows import at_row, image_below
from osler.errors import DataError
from osler.schema import Sample, fold_text
from osler.taxonomy import QuestionType, question_type_of

_PUBLIC = ("VQA_RAD Dataset Public.json", "VQA_RAD_Dataset_Public.json", "VQA_RAD%20Dataset%20Public.json")
FILES = {"trainset.json": "train", "testset.json": "test", **dict.fromkeys(_PUBLIC)}
"""The published files, one also as downloads name it, and their splits; None where the rows tell."""

IMAGES = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")
"""The folder of the images, as it is published and as others keep it."""


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    qid: str | int
    image_name: str
    question: str
    question_type: str
    answer: Answer
    answer_type: str
    phrase_type: str


class _RadRow(_Row):
    image_organ: str


@dataclass(frozen=True)
class _DataSet:
    """What differs between the data sets of this schema: ids start with `prefix`, with the file's name where it is None."""

    source: str
    row: type[_Row]
    prefix: str | None
    group_is_patient: bool


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of VQA-RAD. Errors: DataError that names file and row."""
    return _read(spec, _DataSet("VQA-RAD", _RadRow, "vqa_rad", group_is_patient=True))


def read_vqa_med(spec: DataSpec) -> Iterator[Sample]:
    """The samples of VQA-Med 2019 as trainset.json and testset.json without organs. Errors: DataError, file and row.

    That testset.json holds the 2,000 validation rows of VQA-Med 2019; the qid start anew in each file.
    """
    return _read(spec, _DataSet("VQA-Med 2019", _Row, None, group_is_patient=False))


def _read(spec: DataSpec, data_set: _DataSet) -> Iterator[Sample]:
    files = named_files(spec, FILES)
    root = image_root(spec.name, spec.path, spec.images, IMAGES)
    for file in files:
        rows = json_rows(file)
        split = FILES.get(file.name) or ("train" if any(map(_is_test, rows)) else None)
        for number, value in enumerate(rows, 1):
            with at_row(file, number):
                sample = _sample(data_set.row.model_validate(value), data_set, file.stem, root)
                yield replace(sample, split="test" if _is_test(value) else split, origin=f"{file}, row {number}")


def _is_test(value: Any) -> bool:
    """Whether a row, not checked yet, says by its phrase type that it is a test row."""
    return isinstance(value, dict) and str(value.get("phrase_type")).startswith("test_")


def _sample(row: _Row, data_set: _DataSet, stem: str, root: str | None) -> Sample:
    """The sample of `row`, its split and origin still open. Errors: DataError."""
    for name in ("qid", "image_name", "question", "answer"):
        if not fold_text(str(getattr(row, name))):
            raise DataError(f"the field {name!r} is empty.")
    published = row.model_dump(exclude={"image_name", "image_organ", "question", "answer"})
    organ = {"organ": row.image_organ} if isinstance(row, _RadRow) else {}
    return Sample(
        id=f"{data_set.prefix or stem}/{row.qid}",
        images=() if root is None else (image_below(root, row.image_name),),
        question=row.question,
        golds=(row.answer,),
        kind=kind_of(row.answer_type, row.answer),
        question_type=question_type_of(row.question_type) or QuestionType.UNKNOWN,
        source=data_set.source,
        group=row.image_name,
        group_is_patient=data_set.group_is_patient,
        extra={**published, **organ, "answer_type": row.answer_type.strip().upper(), "path": row.image_name},
    )
