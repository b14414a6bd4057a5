"""SLAKE: 14,028 questions in English and Chinese about 642 CT, MRI and X-ray images.

    {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "What modality is used to take this image?", "answer": "MRI",
     "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN", "base_type": "vqa",
     "content_type": "Modality", "triple": ["vhead", "_", "_"], "qid": 0}

Liu et al. 2021, arXiv:2102.09542; CC BY 4.0; the hub's BoKelvin/SLAKE. Read are `train.json` (9,835 rows), `validate.json`
or, on the hub, `validation.json` (2,099) and `test.json` (2,094). Below a folder only files of these names are read: those
beside each image, and `test_open.csv` and `test_close.csv`, which repeat the English test rows, are not.

ROOT of `?images=ROOT` is the published folder `imgs`, or the one that holds it; without it the rows are read without their
images, whose paths are kept in `extra["path"]` and as the group. Each language alone is split by image; but the two languages
are split differently, so that together they leak: 142 of the 180 test images are in train, in the other language. Kinds are
told as for VQA-RAD, so that a Chinese yes or no is an open question with that gold. Rows of type KG ask what no image shows.
"""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from osler.datasets.load import DataSpec
from osler.datasets.places import image_root
from osler.datasets.published import Answer, json_rows, kind_of, named_files
from osler.datasets.rows import at_row, image_below
from osler.errors import DataError
from osler.progress import console
from osler.schema import Sample, fold_text
from osler.taxonomy import Modality, QuestionType, modality_of, question_type_of

FILES = {"train.json": "train", "validate.json": "val", "validation.json": "val", "test.json": "test"}
"""The published files and their splits; a file of another name has none."""

UNANSWERED = 1622
"""The qid of the one row that is published without an answer: kept, with an empty gold that no answer equals, and told."""


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    qid: int | str
    img_id: int | str
    img_name: str
    question: str
    answer: Answer
    q_lang: str
    location: str
    modality: str
    answer_type: str
    base_type: str
    content_type: str
    triple: list[str]


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file of SLAKE, or of all below a folder. Errors: DataError that names file and row."""
    files = named_files(spec, FILES)
    root = image_root(spec.name, spec.path, spec.images, ("imgs",))
    for file in files:
        for number, value in enumerate(json_rows(file), 1):
            with at_row(file, number):
                sample = _sample(_Row.model_validate(value), root, FILES.get(file.name), f"{file}, row {number}")
                if not fold_text(sample.golds[0]):
                    _tell_unanswered(f"{file}, row {number}")
                yield sample


def _tell_unanswered(where: str) -> None:
    said = f"{where}: it is published without an answer, and whatever is answered counts as wrong."
    do = "data.max_problems=1 leaves it out of training; osler data check SPEC --write FILE.jsonl writes all other rows."
    console.print(f"{said} {do}", markup=False, highlight=False, soft_wrap=True)


def _sample(row: _Row, root: str | None, split: str | None, origin: str) -> Sample:
    """The sample of `row`. Errors: DataError."""
    for name in ("qid", "img_name", "question", "answer", "q_lang"):
        if not fold_text(str(getattr(row, name))) and (name, row.qid) != ("answer", UNANSWERED):
            raise DataError(f"the field {name!r} is empty.")
    published = row.model_dump(exclude={"img_name", "location", "question", "answer", "q_lang"})
    return Sample(
        id=f"slake/{row.qid}",
        images=() if root is None else (image_below(root, row.img_name),),
        question=row.question,
        golds=(row.answer,),
        kind=kind_of(row.answer_type, row.answer),
        modality=modality_of(row.modality) or Modality.UNKNOWN,
        question_type=question_type_of(row.content_type) or QuestionType.UNKNOWN,
        source="SLAKE",
        split=split,
        group=row.img_name,
        language=row.q_lang,
        extra={**published, "path": row.img_name, "organ": row.location},
        origin=origin,
    )
