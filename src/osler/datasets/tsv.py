"""The TSV of VLMEvalKit, one file a benchmark, as it and tools that grew out of it read them.

    index   question                     A      B       C       D  answer  category       split  image
    62      Which organ is enlarged?     Liver  Spleen  Kidney     B       abnormality    dev    iVBORw0KGgo...

The columns are those of VLMEvalKit's guide for developers and of its readers; the row is ours:

    index                    unique
    image                    an image in base64, or a list of them; or, up to 64 characters, the index of the row that holds it
    image_path               instead of image: a path, or a list, below ROOT of `?images=ROOT`, else the file's own folder
    question, hint           the hint is put before the question, and kept in `extra`
    A, B, C, ...             the options, of which the last may be empty; without any the question is open, or yes or no
    answer                   the letter of an option, or its text; without options the gold, or a list of all accepted ones
    category, l2-category    the question type is that of the first which the taxonomy knows
    modality, split          dev and validation are val; a split of another name is none

A list is written as JSON or as Python writes it. An image in base64 is written once (osler.datasets.embedded). Rows without an
answer, as those of hidden test sets, are refused. Only an empty cell is absent: an option "None" or "nan" is text, which
readers built on pandas lose. Marks such as `<image 1>` stay in the question, while the images stand before it. Two options may
be the same where the answer is a letter. Below a folder all `*.tsv` are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osler.datasets.columns import Labels
from osler.datasets.embedded import keep_base64
from osler.datasets.jsonl import manifest_sample
from osler.datasets.load import DataSpec
from osler.datasets.questions import list_in, told_place
from osler.datasets.rows import at_place
from osler.datasets.samples import SPLIT_NAMES
from osler.datasets.tables import table_rows
from osler.errors import DataError
from osler.schema import LETTERS, SPLITS, Sample
from osler.taxonomy import question_type_of

LONGEST_INDEX = 64
"""An image cell that is no longer names the row that holds the image; VLMEvalKit's rule."""

_NEEDED = ("index", "question", "answer")
_USED = (*_NEEDED, "image", "image_path", *LETTERS, "modality", "split")

Cells = Mapping[str, str]


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    for file in spec.files(".tsv"):
        labels, images = Labels(), _Images(file, spec.images)
        for row in table_rows(file, "\t"):
            with at_place(row.where):
                fields = _fields(row.cells) | {"images": images.of(row.cells)}
                sample = manifest_sample(labels.read(fields), images.root, row.where, distinct=False)
                yield sample
        labels.tell(file)


class _Images:
    """The images of the rows of one file, by what their cells say."""

    def __init__(self, file: Path, root: str | None) -> None:
        self.root = root or file.parent
        self._file = file
        self._held: dict[str, list[str]] = {}
        self._all_held = False

    def of(self, cells: Cells) -> list[str]:
        """The references to the images of a row, one or more. Errors: DataError."""
        if not (cell := cells.get("image", "").strip()):
            path = cells.get("image_path", "").strip()
            if not path:
                raise DataError("it has no image: neither the field 'image' nor 'image_path' says one.")
            return list_in(path) or [path]
        if len(cell) > LONGEST_INDEX:
            return self._hold(cells["index"].strip(), cell)
        if cell not in self._held and not self._all_held:
            self._hold_all()
        if cell not in self._held:
            raise DataError(f"its image is said to be that of the row with the index {cell!r}, which holds none.")
        return self._held[cell]

    def _hold(self, index: str, cell: str) -> list[str]:
        """The paths of the images that `cell` is in base64, which later rows may name by `index`."""
        if index not in self._held:
            coded = list_in(cell) or [cell]
            names = ["its image"] if len(coded) == 1 else [f"its image {n} of {len(coded)}" for n in range(1, len(coded) + 1)]
            self._held[index] = [keep_base64(one, name) for one, name in zip(coded, names, strict=True)]
        return self._held[index]

    def _hold_all(self) -> None:
        """Keep the images of all rows, for one that names a later row."""
        self._all_held = True
        for row in table_rows(self._file, "\t"):
            with at_place(row.where):
                if len(cell := row.cells.get("image", "").strip()) > LONGEST_INDEX:
                    self._hold(row.cells.get("index", "").strip(), cell)


def _fields(cells: Cells) -> dict[str, Any]:
    """The row of the manifest that `cells` are, but for its images. Errors: DataError."""
    for name in _NEEDED:
        if name not in cells:
            raise DataError(f"the file has no column {name!r}, but {', '.join(cells)}.")
        if not cells[name].strip():
            raise DataError(f"the field {name!r} is empty.")
    options, hint = _options(cells), cells.get("hint", "").strip()
    types = (cells.get(name, "").strip() for name in ("category", "l2-category"))
    extra = {name: cell for name, cell in cells.items() if name not in _USED and cell}
    told = {name: cells[name].strip() for name in ("modality",) if cells.get(name, "").strip()}
    return {
        **extra,
        **told,
        "id": cells["index"].strip(),
        "question": f"{hint}\n{cells['question'].strip()}" if hint else cells["question"].strip(),
        "question_type": next((name for name in types if name and question_type_of(name)), None),
        "split": _split(cells.get("split", "")),
        "options": options,
        **_gold(cells["answer"].strip(), options),
    }


def _options(cells: Cells) -> list[str]:
    """The options, none or more. Errors: DataError where one before the last is empty."""
    found = [cells.get(letter, "").strip() for letter in LETTERS]
    while found and not found[-1]:
        found.pop()
    if not all(found):
        raise DataError(f"its option {LETTERS[found.index('')]} is empty, but a later one is not.")
    return found


def _gold(answer: str, options: list[str]) -> dict[str, Any]:
    """The gold as a manifest says it. Errors: DataError."""
    if options:
        return {"answer_index": told_place(options, answer, letters_first=True)}
    return {"answers": list_in(answer) or [answer]}


def _split(name: str) -> str | None:
    """The split that `name` is; None where it is none."""
    known = SPLIT_NAMES.get(name.strip().lower(), name.strip().lower())
    return known if known in SPLITS else None
