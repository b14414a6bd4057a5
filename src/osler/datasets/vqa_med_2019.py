"""VQA-Med 2019 as ImageCLEF publishes it: lines of fields between bars, about 4,200 radiology images of MedPix.

    synpic41148|what kind of image is this?|cta - ct angiography                            All_QA_Pairs_train.txt
    synpic54143|abnormality|what is the primary abnormality in this image?|anaplastic oligodendroglioma#neoplasm
                                                                     VQAMed2019_Test_Questions_w_Ref_Answers.txt
    synpic54143|what is the primary abnormality in this image?              VQAMed2019_Test_Questions.txt

Ben Abacha et al. 2019, CEUR-WS 2380, paper 272; CC BY 4.0; zenodo.org/records/10499039, github.com/abachaa/VQA-Med-2019. Train
(3,200 images, 12,792 rows) and validation (500, 2,000) come whole, without categories, and once more in a file a category,
`C1_Modality_train.txt` and so on; of these the tests are on lines written after their published description. Test (500, 500)
comes with and without reference answers. Of a folder, one form of each split is read: the four files of its categories, else
the whole one, else what there is of the four; the answered test, else the other.

In the reference answers # stands between several, each of which is right, and () around a part that may be left out: golds
are each answer as published, without its brackets, and without what stands in them. Rows without an answer have an empty
gold, which no answer equals, and stderr says so. ROOT of `?images=ROOT` is a folder of images, or one above it by its
published name; without it rows are read without images, whose names are the group. No row states its modality.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osler.datasets.load import DataSpec
from osler.datasets.places import tell_images
from osler.datasets.problems import refuse
from osler.datasets.rows import at_row, image_below
from osler.datasets.samples import kinds_of
from osler.errors import DataError
from osler.progress import console
from osler.schema import Sample, fold_text
from osler.taxonomy import QuestionType, question_type_of

CATEGORIES = {"C1_Modality": "modality", "C2_Plane": "plane", "C3_Organ": "organ", "C4_Abnormality": "abnormality"}
"""How the files of one category begin."""

IMAGES = {"train": "Train_images", "val": "Val_images", "test": "VQAMed2019_Test_Images"}
"""The published folder of the images of each split."""

_TEST = "VQAMed2019_Test_Questions.txt"
_ANSWERED = "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
_BRACKETS = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class _Form:
    """What the name of a file says: its split, the fields of a line, and the category of all its rows."""

    split: str
    fields: tuple[str, ...] = ("image", "question", "answer")
    category: str | None = None


FILES = {
    _ANSWERED: _Form("test", ("image", "category", "question", "answer")),
    _TEST: _Form("test", ("image", "question")),
    **{f"All_QA_Pairs_{split}.txt": _Form(split) for split in ("train", "val")},
    **{
        f"{begin}_{split}.txt": _Form(split, category=category)
        for split in ("train", "val")
        for begin, category in CATEGORIES.items()
    },
}
"""The published files."""


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of each split below a folder once. Errors: DataError that names file and row."""
    if spec.images is None and any(_folder(Path(spec.path or ""), name).name == name for name in IMAGES.values()):
        tell_images(spec.name, spec.path, spec.path)
    for file in _files(spec):
        form, unanswered = FILES[file.name], 0
        root = None if spec.images is None else _folder(Path(spec.images), IMAGES[form.split])
        for number, line in _lines(file):
            with at_row(file, number):
                fields = dict(zip(form.fields, _fields(line, form.fields), strict=True))
                sample = _sample(f"vqa_med_2019/{file.stem}/{number}", fields, form, root, f"{file}, row {number}")
                unanswered += "answer" not in fields
                yield sample
        if unanswered:
            said = f"{file}: its {unanswered} rows have no answer, and whatever is answered counts as wrong. Read {_ANSWERED}."
            console.print(said, markup=False, highlight=False, soft_wrap=True)


def accepted(answer: str) -> tuple[str, ...]:
    """Every text that a reference answer accepts, the first as published: "(a) b#c" gives "(a) b", "a b", "b" and "c"."""
    found: list[str] = []
    for part in answer.split("#"):
        forms = (part, _BRACKETS.sub(r"\1", part), _BRACKETS.sub("", part))
        found += (" ".join(form.split()) for form in forms)
    return tuple(form for form in dict.fromkeys(found) if fold_text(form))


def _files(spec: DataSpec) -> list[Path]:
    """The file of `spec`, or those below its folder that give each split once. Errors: DataError."""
    files: dict[str, Path] = {}
    for file in spec.files(".txt"):
        if file.name in FILES and files.setdefault(file.name, file) != file:
            raise DataError.at(file, None, f"{files[file.name]} has the same name.", "Load them apart.")
    if not files:
        do = f"Name them as published: {', '.join(FILES)}."
        raise DataError.at(str(spec.path), None, "that is none of the files of VQA-Med 2019, and holds none.", do)
    chosen = [_ANSWERED if _ANSWERED in files else _TEST]
    for split in ("train", "val"):
        whole, parts = f"All_QA_Pairs_{split}.txt", [f"{begin}_{split}.txt" for begin in CATEGORIES]
        chosen += [whole] if whole in files and not files.keys() >= set(parts) else parts
    return [files[name] for name in chosen if name in files]


def _folder(root: Path, name: str) -> Path:
    """The folder `name` in `root` or in a folder of that, else `root` itself."""
    return next((place for pattern in (name, f"*/{name}") for place in sorted(root.glob(pattern))), root)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that is not blank, one at least. Errors: DataError."""
    if not file.read_bytes().strip():
        raise DataError.at(file, None, "it is empty.")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                refuse(f"{file}, row {number}", f"it is no UTF-8 text ({error}). Save the file as UTF-8.", error)
                continue
            if text.strip():
                yield number, text


def _fields(line: str, names: tuple[str, ...]) -> list[str]:
    """The fields of `line` without outer blanks. Errors: DataError where it has not as many as `names`, or one is empty."""
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != len(names):
        raise DataError(f"it has {len(fields)} fields, not {len(names)}: {'|'.join(names)}.")
    if empty := [name for name, field in zip(names, fields, strict=True) if not fold_text(field)]:
        raise DataError(f"the field {empty[0]!r} is empty.")
    return fields


def _sample(name: str, fields: dict[str, str], form: _Form, root: Path | None, origin: str) -> Sample:
    """The sample of a line, its id `name`. Errors: DataError."""
    category = fields.get("category", form.category)
    known = question_type_of(category)
    if known is None:
        raise DataError(f"unknown category {category!r}. Known: {', '.join(CATEGORIES.values())}.")
    answer = fields.get("answer", "")
    golds = (answer,) if form.split != "test" or not answer else accepted(answer)
    return Sample(
        id=name,
        images=() if root is None else (image_below(root, f"{fields['image']}.jpg"),),
        question=fields["question"],
        golds=golds,
        kind=kinds_of((), golds)[0],
        question_type=known if category else QuestionType.UNKNOWN,
        source="VQA-Med 2019",
        split=form.split,
        group=fields["image"],
        extra={"path": fields["image"]} | ({"category": category} if category else {}) | ({"answer": answer} if answer else {}),
        origin=origin,
    )
