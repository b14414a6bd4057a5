"""PathVQA: 32,795 questions about pictures of pathology textbooks and the PEIR library, told from their captions.

    {"img_id": "test_0001", "labelf": {"pvqa": [{"squamous cell carcinoma": 1}, {"yes": 1}, {"no": 1}]},
     "sentf": {"pvqa": ["What is composed of nests of malignant cells that ...?", "Is squamous cell carcinoma ...?",
                        "Is low magnification composed of nests of malignant cells that ...?"]}}

He et al. 2020, arXiv:2003.10286; github.com/UCSD-AI4H/PathVQA, MIT; the pictures belong to the books' publishers and to PEIR.
This is the form that the authors made for LXMERT, a row an image: `pvqa_train.json` (3,021 images, 19,755 questions),
`pvqa_val.json` (992, 6,279) and `pvqa_test.json` (991, 6,761). 422, 160 and 133 images have no question and give no sample.
Below a folder only files of these names are read: `pvqa_ans.json` lists answers. The authors' other form is pickled, which is
never read; the hub's flaviagiammarino/path-vqa is read by its name.

ROOT of `?images=ROOT` is the published folder `images`, which holds `train`, `val` and `test`, one of these, or a folder that
holds it; without it rows are read without images, whose names, test_0001, are the group. An answer is a key of its label; where
a label has several, each is right. Yes and no make a yes/no question, all else is open. No row states modality or question
type. Some questions come twice for one image, now and then with an answer each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from osler.datasets.load import DataSpec
from osler.datasets.places import image_root
from osler.datasets.published import json_rows, named_files
from osler.datasets.rows import at_row, image_below
from osler.datasets.samples import kinds_of
from osler.errors import DataError
from osler.schema import Sample, fold_text

FILES = {"pvqa_train.json": "train", "pvqa_val.json": "val", "pvqa_test.json": "test"}
"""The published files and their splits; a file of another name has none."""

_Label = Annotated[dict[str, FiniteFloat], Field(min_length=1)]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    img_id: str
    labelf: dict[str, list[_Label]]
    sentf: dict[str, list[str]]


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file of PathVQA, or of all below a folder. Errors: DataError that names file and row."""
    files = named_files(spec, FILES)
    root = image_root(spec.name, spec.path, spec.images, ("images", "pvqa/images"))
    for file in files:
        split = FILES.get(file.name)
        for number, value in enumerate(json_rows(file), 1):
            with at_row(file, number):
                samples = _samples(_Row.model_validate(value), root, split, f"{file}, row {number}")
                yield from samples


def _samples(row: _Row, root: str | None, split: str | None, origin: str) -> list[Sample]:
    """The samples of one image, as many as it has questions. Errors: DataError."""
    if not fold_text(row.img_id):
        raise DataError("the field 'img_id' is empty.")
    if list(row.labelf) != list(row.sentf):
        raise DataError(f"'labelf' is of {list(row.labelf)}, but 'sentf' of {list(row.sentf)}.")
    asked = [(name, len(row.sentf[name]), len(row.labelf[name])) for name in row.sentf]
    if wrong := next((one for one in asked if one[1] != one[2]), None):
        raise DataError(f"it has {wrong[1]} questions in 'sentf', but {wrong[2]} answers in 'labelf' ({wrong[0]!r}).")
    pairs = [pair for name in row.sentf for pair in zip(row.sentf[name], row.labelf[name], strict=True)]
    images = () if root is None or not pairs else (_image(root, row.img_id),)
    extra = {**(row.model_extra or {}), "path": row.img_id}
    return [
        _sample(number, question, tuple(label), row.img_id, images, split, extra, origin)
        for number, (question, label) in enumerate(pairs, 1)
    ]


def _sample(
    number: int,
    question: str,
    golds: tuple[str, ...],
    image: str,
    images: tuple[str, ...],
    split: str | None,
    extra: dict[str, object],
    origin: str,
) -> Sample:
    """The `number`-th sample of `image`. Errors: DataError."""
    for what, texts in (("question", (question,)), ("answer", golds)):
        if not all(map(fold_text, texts)):
            raise DataError(f"the {what} of its question {number} is empty.")
    return Sample(
        id=f"pathvqa/{image}/{number}",
        images=images,
        question=question,
        golds=golds,
        kind=kinds_of((), golds)[0],
        source="PathVQA",
        split=split,
        group=image,
        extra=extra,
        origin=f"{origin}, question {number}",
    )


def _image(root: str, name: str) -> str:
    """The path of the image `name`, test_0001, below `root` or its folder `test`. Errors: DataError."""
    below = Path(root) / name.partition("_")[0]
    return image_below(below if below.is_dir() else root, f"{name}.jpg")
