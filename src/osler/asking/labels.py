"""A table of images and their labels, as `osler data ask` reads it: a CSV, or a TSV by its ending.

    image,label,patient,modality
    007.png,Melanoma,p007,Dermoscopy
    008.png,Naevus;Ulcer,p008,Dermoscopy

    image            a path below the folder of images; its ending may be absent where one file is called so
    label            one label, or several parted by ";"; any columns may be, each a question of its own
    patient | group  what must not be on two sides of a split; group_is_patient says whether a group is one
    modality, question_type, source, split

The form is ours. A column is known by its name or one of `osler.datasets.columns.ALIASES`, in either case; `named` says others
({"image": "file"}). Every further column is kept in `extra`. A label that reads NA, nan or null is none. An image has one row.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osler.asking.pictures import Pictures
from osler.datasets.columns import NAMES, Labels, name_of, reads_absent, truth
from osler.datasets.rows import at_place
from osler.datasets.samples import known_modality, known_question_type, known_split
from osler.datasets.tables import Row, table_rows
from osler.errors import DataError, unknown
from osler.taxonomy import Modality, QuestionType

KNOWN = ("image", "patient", "group", "group_is_patient", "modality", "question_type", "source", "split")
"""What a column can be, beside a label."""

_OWNERS = ("patient", "group", "group_is_patient")
_RESERVED = {*NAMES, *KNOWN, "path", "patient_or_group_id", "text_only", "label_column"}
_LIKELY = re.compile("patient|subject", re.IGNORECASE)
_FACTS = re.compile(
    "(?:patient|subject).*(?:age|sex|gender|race|ethnic|weight|height|bmi|birth|position|orient)", re.IGNORECASE
)
_MANY = 20
"""Up to so many rows may each have a label of its own."""


@dataclass(frozen=True)
class Labelled:
    """One image: its `name` as the table writes it, its `path`, by column its labels (none where the cell is empty), and
    what else is known of it. `where` is its file and row, for messages."""

    name: str
    path: str
    labels: Mapping[str, tuple[str, ...]]
    where: str
    group: str | None = None
    group_is_patient: bool = False
    modality: Modality = Modality.UNKNOWN
    question_type: QuestionType = QuestionType.UNKNOWN
    source: str = ""
    split: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The images of `file` in order, the label `columns`, the whole `header`, and how the group is called, if it has one.

    `notes` say what a reader should know about how it was read.
    """

    file: str
    images: tuple[Labelled, ...]
    columns: tuple[str, ...]
    header: tuple[str, ...]
    group_is: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether the table says itself which split a row belongs to."""
        return any(image.split for image in self.images)


def read_table(
    file: str | Path,
    root: str | Path,
    columns: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
    skip_empty: bool = False,
) -> Table:
    """The table in `file`, its images below `root`; `columns` are the labels, by default the one called label.

    With `skip_empty` a cell without a label is no error. Errors: DataError that names file and row.
    """
    path, pictures, read = Path(file), Pictures(root), Labels()
    if not path.is_file():
        raise DataError(f"there is no file {path}. Name a CSV with the columns image and label.")
    if not Path(root).is_dir():
        raise DataError(f"there is no folder {root}. Name with --images the folder that the paths in {path} start from.")
    places, labels, header, images = dict[str, str](), tuple[str, ...](), tuple[str, ...](), list[Labelled]()
    missing: list[tuple[str, str]] = []
    for row in table_rows(path, "\t" if path.suffix.lower() == ".tsv" else ","):
        if not header:
            header = tuple(row.cells)
            with at_place(str(path)):
                places, labels = _places(header, named or {}, columns)
        with at_place(row.where):
            cell = _said(row, places, "image")
            if (found := pictures.path_of(cell)) is None:
                missing.append((row.where, cell))
                continue
            images.append(_labelled(row, found, places, labels, path.stem, skip_empty, read))
    if missing:
        raise _absent(missing, pictures)
    for column in labels:
        _require_labels(path, images, column)
    require_apart(images)
    return Table(str(path), tuple(images), labels, header, _group_is(images), tuple(_notes(read, images, places)))


def require_apart(images: Iterable[Labelled]) -> None:
    """Errors: DataError where an image has two rows, a group has two splits, or only some rows have a split."""
    rows, groups, first = dict[str, Labelled](), dict[str, Labelled](), None
    for image in images:
        first = first or image
        if (before := rows.setdefault(str(Path(image.path).resolve()), image)) is not image:
            raise DataError(f"{image.where}: {_twice(before, image)}")
        if (first.split is None) != (image.split is None):
            lone, other = (image, first) if image.split is None else (first, image)
            raise DataError(f"{lone.where}: it has no split, but {other.where} has one. Give every row a split, or none.")
        if image.group is not None and (before := groups.setdefault(image.group, image)).split != image.split:
            raise DataError(
                f"{image.where}: {image.group!r} is in {image.split} here, and in {before.split} by {before.where}. A patient "
                "or group belongs to one split: correct one, or take out the column split to have it divided anew."
            )


def _twice(before: Labelled, image: Labelled) -> str:
    """What to say of a second row about one image."""
    for column, labels in image.labels.items():
        if set(labels) != set(before.labels[column]):
            one, other = (";".join(found) or "nothing" for found in (before.labels[column], labels))
            return (
                f"the image {image.name!r} has the {column} {other!r} here, and {one!r} by {before.where}. Correct one; where "
                f"both are right, write them in one row, parted by a semicolon."
            )
    return f"the image {image.name!r} is in {before.where} already, with the same labels. Delete one of the two rows."


def _places(header: Sequence[str], named: Mapping[str, str], columns: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column of each of KNOWN that there is, and the label columns. Errors: DataError with the nearest name."""
    for name, column in named.items():
        if name not in KNOWN:
            raise DataError(f"--column {name}={column}: {unknown('name', name, KNOWN)}")
    for column in (*named.values(), *columns):
        if column not in header:
            raise DataError(unknown("column", column, header))
    found = _found(header, named, columns)
    if "image" not in found:
        do = "Name the one with the paths: --column image=COLUMN."
        raise DataError(f"it has no column 'image', but {', '.join(map(repr, header))}. {do}")
    if "patient" in found and "group" in found:
        raise DataError("it has both a patient and a group. Name one of the two columns, or rename the other.")
    labels = tuple(dict.fromkeys(columns)) or tuple(column for column in header if column.lower() in ("label", "labels"))[:1]
    if not labels:
        raise DataError(f"it has no column 'label', but {', '.join(map(repr, header))}. Name one or more with --label COLUMN.")
    if found["image"] in labels:
        raise DataError(f"the column {found['image']!r} holds the images, so it is no label. Name another with --label.")
    _require_patient(header, {*found.values(), *labels}, _group_of(found))
    return found, labels


def _found(header: Sequence[str], named: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """The column of each of KNOWN, by `named` or by its name. Errors: DataError where two columns are the same."""
    found = dict(named)
    settled = {"patient", "group"} if _group_of(named) else set[str]()
    for column in header:
        name = name_of(column)
        if name not in KNOWN or name in named or name in settled or column in named.values():
            continue
        if name in _OWNERS and column in columns:
            continue
        if name in found:
            raise DataError(f"its columns {found[name]!r} and {column!r} are both {name}. Name one: --column {name}=COLUMN.")
        found[name] = column
    return found


def _require_patient(header: Sequence[str], used: set[str], group: str | None) -> None:
    """Errors: DataError where no column is a patient or group, but one that is not used is called as if it were."""
    likely = [column for column in header if column not in used and _LIKELY.search(column) and not _FACTS.search(column)]
    if likely and group is None:
        do = f"Say so: --column patient={shlex.quote(likely[0])}. Where it does not, rename it."
        raise DataError(f"its column {likely[0]!r} seems to name the patients, who must not be in two splits. {do}")


def _said(row: Row, places: Mapping[str, str], name: str) -> str:
    """The cell of `row` that is its `name`. Errors: DataError where there is such a column, and the cell is empty."""
    cell = row.cells[places[name]].strip()
    if reads_absent(cell):
        raise DataError(f"its {places[name]!r} is {_emptiness(cell)}. Fill it in, or delete the row.")
    return cell


def _labelled(
    row: Row, path: str, places: Mapping[str, str], columns: Sequence[str], source: str, skip_empty: bool, read: Labels
) -> Labelled:
    """The image that `row` is about. Errors: DataError."""
    written = {name: row.cells[places[name]].strip() for name in ("modality", "question_type") if name in places}
    known = read.read(dict(written))
    used = {*places.values(), *columns}
    rest = {column: cell for column, cell in row.cells.items() if column not in used and cell.strip()}
    rest |= {name: known[name] for name in known if name.endswith("_as_written")}
    group = _group_of(places)
    return Labelled(
        name=row.cells[places["image"]].strip(),
        path=path,
        labels={column: _labels(row.cells[column], column, skip_empty) for column in columns},
        where=row.where,
        group=_said(row, places, group) if group else None,
        group_is_patient=_is_patient(row, places),
        modality=known_modality(known.get("modality")),
        question_type=known_question_type(known.get("question_type")),
        source=_said(row, places, "source") if "source" in places else source,
        split=known_split(row.cells[places["split"]].strip() or None) if "split" in places else None,
        extra={f"column_{column}" if column.lower() in _RESERVED else column: cell for column, cell in rest.items()},
    )


def _labels(cell: str, column: str, skip_empty: bool) -> tuple[str, ...]:
    """The labels in `cell`. Errors: DataError where one is empty, all of them unless `skip_empty`."""
    labels = [" ".join(label.split()) for label in cell.split(";")]
    if all(map(reads_absent, labels)):
        if skip_empty:
            return ()
        do = "Fill it in, delete the row, or leave such labels out with --skip-empty, which counts them"
        raise DataError(f"its {column!r} is {_emptiness(cell.strip())}. {do}.")
    if any(map(reads_absent, labels)):
        raise DataError(f"its {column!r} has an empty label between semicolons: {cell.strip()!r}. Take out one semicolon.")
    return tuple(dict.fromkeys(labels))


def _emptiness(cell: str) -> str:
    return f"{cell!r}, which counts as empty" if cell else "empty"


def _is_patient(row: Row, places: Mapping[str, str]) -> bool:
    """Whether the group of `row` is a patient, by its own column where that says so. Errors: DataError."""
    said = row.cells[places["group_is_patient"]].strip() if "group_is_patient" in places else ""
    return truth(said) if said else _group_of(places) == "patient"


def _group_is(images: Sequence[Labelled]) -> str | None:
    """How the groups of all `images` are called, None where they have none."""
    if any(image.group is None for image in images):
        return None
    return "patient" if all(image.group_is_patient for image in images) else "group"


def _group_of(places: Mapping[str, str]) -> str | None:
    return next((name for name in ("patient", "group") if name in places), None)


def _absent(missing: Sequence[tuple[str, str]], pictures: Pictures) -> DataError:
    """What to say of images that are not there: the first of them, and how many more."""
    where, cell = missing[0]
    more = f" Nor are there those of {len(missing) - 1:,} more rows." if missing[1:] else ""
    return DataError(
        f"{where}: there is no image {cell!r} below {pictures.root}.{pictures.nearest(cell)}{more} Correct the path, or name "
        "with --images the folder that it starts from."
    )


def _require_labels(file: Path, images: Sequence[Labelled], column: str) -> None:
    """Errors: DataError for a column that is empty, or in which every row has a label of its own."""
    found = [label for image in images for label in image.labels[column]]
    if not found:
        raise DataError(f"{file}: its column {column!r} is empty. Name another with --label.")
    if len(found) > _MANY and len(set(found)) == len(found):
        what = f"each of the {len(found):,} labels of its column {column!r} is there once, so none can be asked for in turn."
        raise DataError(f"{file}: {what} Is it free text, or a name? Name another column with --label.")


def _notes(read: Labels, images: Sequence[Labelled], places: Mapping[str, str]) -> Iterable[str]:
    """Sentences about labels of modality and question type that are not known."""
    for (name, label), n in sorted(read.unknown.items()):
        yield f"the {name.replace('_', ' ')} {label!r} of {n:,} rows is not known and counts as unknown"
    if "modality" in places and (n := sum(image.modality is Modality.UNKNOWN for image in images)):
        yield f"{n:,} of {len(images):,} images are of unknown modality"
