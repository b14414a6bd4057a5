"""OmniMedVQA as its authors publish it: multiple choice about images of 73 public data sets, in 12 modalities.

    {"dataset": "ACRIMA", "question_id": "ACRIMA_0000", "question_type": "Modality Recognition",
     "question": "What imaging technique was used here?", "gt_answer": "Fundus photography",
     "image_path": "Images/ACRIMA/Im002_ACRIMA.png", "option_A": "MRI", "option_B": "Fundus photography",
     "option_C": "Endoscopy", "option_D": "CT", "modality_type": "Fundus Photography"}

Hu et al. 2024, arXiv:2402.09181; the hub's foreverbeliever/OmniMedVQA; of each image the licence of its own source. The files
were not at hand: the fields are those that public programs read, the row above and those of the tests are written after them.

A folder is the published one, or any below it: read are all JSON files of `QA_information/Open-access` (88,996 rows of 42
sources, with images) and `QA_information/Restricted-access`, whose images are not part of it. ROOT of `?images=ROOT` is the
folder that holds `Images`, or that itself; with it Restricted-access is left out of a folder, and told. Without it the rows
are read without images. A path can hold the answer, so it is only kept in
`extra["path"]` and as the group, which is the one that Med-R1's split files (osler.datasets.medr1) give the same image.

Options that are absent or empty are none, so that there are two to four. The gold is a text and must be one of them; no row
is known where it is not, and Med-R1 gives each of its rows one letter. Every row is a choice, also where the options are yes
and no. One row of `Chest CT Scan.json` calls its modality `modality`. Colposcopy, digital photography, endoscopy and infrared
reflectance are none of the eight modalities: unknown, and in `extra["modality_type"]` as published. No split is published.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from osler.datasets.golds import place_of_gold
from osler.datasets.load import DataSpec
from osler.datasets.places import above, tell_images
from osler.datasets.published import Answer, json_rows
from osler.datasets.rows import at_row, image_below
from osler.errors import DataError
from osler.progress import console
from osler.schema import Kind, Sample, fold_text
from osler.taxonomy import Modality, QuestionType, modality_of, question_type_of

_OPTIONS = ("option_A", "option_B", "option_C", "option_D")
_FOLDER = "QA_information"
_OPEN, _RESTRICTED = "Open-access", "Restricted-access"


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    dataset: str
    question_id: str | int
    question_type: str
    question: str
    gt_answer: Answer
    image_path: str
    modality_type: str
    option_A: Answer | None = None
    option_B: Answer | None = None
    option_C: Answer | None = None
    option_D: Answer | None = None


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    root = _root(spec)
    for file in _files(spec):
        for number, value in enumerate(json_rows(file), 1):
            with at_row(file, number):
                sample = _sample(_Row.model_validate(_named(value)), root, f"{file}, row {number}")
                yield sample


def _files(spec: DataSpec) -> list[Path]:
    """The file of `spec`, or the JSON files below its folder: those of `QA_information` alone, where it holds that."""
    files = spec.files(".json")
    root = Path(spec.path or "")
    found = [file for file in files if _FOLDER in file.relative_to(root).parts] or files
    shown = [file for file in found if _RESTRICTED not in file.relative_to(root).parts]
    if spec.images is None or not shown or len(shown) == len(found):
        return found
    count = len(found) - len(shown)
    said = f"{root}: left out {count} file{'s' * (count != 1)} of {_RESTRICTED}, whose images are not published."
    console.print(f"{said} Without ?images=ROOT all are read.", markup=False, highlight=False, soft_wrap=True)
    return shown


def _root(spec: DataSpec) -> str | None:
    """The folder that holds `Images`. Without `?images=ROOT` stderr says where it seems to be."""
    if spec.images is None and (Path(spec.path or "") / "Images").is_dir():
        tell_images(spec.name, spec.path, spec.path)
    return above(spec.images, "Images")


def _named(value: Any) -> Any:
    """A row whose modality is called `modality` with the name that all others have."""
    if isinstance(value, dict) and "modality" in value and "modality_type" not in value:
        return {"modality_type" if name == "modality" else name: part for name, part in value.items()}
    return value


def _sample(row: _Row, root: str | None, origin: str) -> Sample:
    """The sample of `row`. Errors: DataError."""
    for name in ("dataset", "question_id", "question", "gt_answer", "image_path"):
        if not fold_text(str(getattr(row, name))):
            raise DataError(f"the field {name!r} is empty.")
    texts = (getattr(row, name) for name in _OPTIONS)
    options = tuple(text for text in texts if text is not None and text.strip())
    gold_index = place_of_gold(options, row.gt_answer)
    published = row.model_dump(exclude={"dataset", "question", "gt_answer", "image_path", *_OPTIONS})
    return Sample(
        id=f"omnimedvqa/{row.dataset}/{row.question_id}",
        images=() if root is None else (image_below(root, row.image_path),),
        question=row.question,
        golds=(options[gold_index],),
        options=options,
        gold_index=gold_index,
        kind=Kind.CHOICE,
        modality=modality_of(row.modality_type) or Modality.UNKNOWN,
        question_type=question_type_of(row.question_type) or QuestionType.UNKNOWN,
        source=row.dataset,
        group=row.image_path,
        extra={**published, "path": row.image_path},
        origin=origin,
    )
