"""The manifest: JSON Lines, one question a line; the format to bring data of your own in.

    id                          unique in the data set
    image | images              a path, or a list of paths, below the images root (the manifest's own folder by default);
                                or a drawn image, phantom:...
    text_only                   true where the images are not at hand: the row has none, and serves audits and splits
    question
    options                     two or more texts; none for an open question
    answer_index | answer | answers     the gold: its place among the options (from 0), its text, or all accepted texts
    kind                        choice | yesno | open; told from options and gold where it is absent
    split                       train | val | test; of every row of a data set or of none
    source, modality, question_type, rationale, language
    patient_or_group_id | group     what must not be split between train and test; group_is_patient says what it is
    patient | patient_id | case_id | subject_id     the group, which is then a patient; kept in `extra` where the row says what
                                its group is: group_is_patient is false, or there is a group beside it

Options that all carry their letters in turn, as "A) x", lose them (osler.datasets.lettered).
Every other field is kept in `Sample.extra`. A blank line is skipped. Of a folder, every `*.jsonl` below it is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from osler.datasets.columns import names_patient, reads_absent
from osler.datasets.lettered import without_letters
from osler.datasets.load import DataSpec
from osler.datasets.problems import refuse
from osler.datasets.questions import told_place
from osler.datasets.rows import at_row, image_below
from osler.datasets.samples import kinds_of, known_modality, known_question_type, known_split
from osler.errors import DataError, unknown
from osler.images import PHANTOM
from osler.schema import LETTERS, Kind, Sample, fold_text

_BOM = b"\xef\xbb\xbf"


class _Row(BaseModel):
    """One line, its types checked, the fields not yet against each other."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str | int
    question: str
    image: str | None = None
    images: list[str] | None = None
    text_only: bool = False
    options: list[str] | None = None
    answer_index: int | None = None
    answer: str | None = None
    answers: list[str] | None = None
    kind: str | None = None
    source: str = ""
    modality: str | None = None
    question_type: str | None = None
    split: str | None = None
    patient_or_group_id: str | int | None = None
    group: str | int | None = None
    group_is_patient: bool = False
    rationale: str | None = None
    language: str = Field("en", min_length=1)

    @property
    def references(self) -> list[str]:
        """The images as they are written, one or more, or none where the row says so. Errors: DataError."""
        if self.image is not None and self.images is not None:
            raise DataError("it has both 'image' and 'images'. Keep one.")
        found = [self.image] if self.image is not None else self.images or []
        if self.text_only:
            if found:
                raise DataError("it has images, but says text_only. Drop one.")
            return []
        if not all(found) or not found:
            raise DataError("the field 'image' is missing or empty.")
        return found

    @property
    def owner(self) -> str | None:
        """The group, under either of its names, or the patient. Errors: DataError where these differ."""
        found = self.group if self.patient_or_group_id is None else self.patient_or_group_id
        said = {} if found is None else {"group" if self.patient_or_group_id is None else "patient_or_group_id": str(found)}
        said |= self.patients
        if len(set(said.values())) > 1:
            what = f"it belongs to {' but '.join(f'{name} {value!r}' for name, value in said.items())}."
            raise DataError(f"{what} Keep one; or say group_is_patient, and the group is what must not be split.")
        return next(iter(said.values()), None)

    @property
    def patients(self) -> dict[str, str]:
        """The patient, under each of its names that has one; none where the row itself says what its group is.

        As every row that osler writes does: what such a one has under these names is of `extra`. Errors: DataError.
        """
        grouped = self.group is not None or self.patient_or_group_id is not None
        if "group_is_patient" in self.model_fields_set and (grouped or not self.group_is_patient):
            return {}
        found = {}
        for name, value in (self.model_extra or {}).items():
            if not names_patient(name) or isinstance(value, dict | list):  # facts about the patient, and no id
                continue
            if isinstance(value, bool):
                raise DataError(f"the field {name!r} should be the id of a patient, not {value!r}.")
            if value is not None and not reads_absent(str(value)):
                found[name] = str(value)
        return found


FIELDS = frozenset(_Row.model_fields)
"""The names that mean something in a row of a manifest."""


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of a manifest, or of every manifest below a folder. Errors: DataError that names file and row."""
    for file in spec.files(".jsonl"):
        root = spec.images or file.parent
        for number, line in json_lines(file):
            with at_row(file, number):
                sample = _sample(_Row.model_validate_json(line), root, f"{file}, row {number}")
                yield sample


def json_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Each line of `file` that is not blank, and its number from 1; at least one. Errors: DataError for a row or the file."""
    empty = True
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not (line := line.removeprefix(_BOM if number == 1 else b"").strip()):
                continue
            empty = False
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                kind = " The file begins as UTF-16 does." if line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
                what = f"it is no JSON object in UTF-8 ({error.reason} at byte {error.start}).{kind}"
                refuse(f"{file}, row {number}", f"{what} Save the file in UTF-8.", error)
                if kind:
                    return  # nor will any other line be
                continue
            yield number, text
    if empty:
        raise DataError.at(file, None, "it is empty.", "It should hold one JSON object a line.")


def manifest_sample(fields: dict[str, Any], root: str | Path, origin: str, distinct: bool = True) -> Sample:
    """The sample that a row of a manifest with these fields is; two of its options may be the same unless `distinct`.

    Errors: DataError or ValidationError, which `at_row` turns into one that names file and row.
    """
    return _sample(_Row.model_validate(fields), root, origin, distinct)


def _sample(row: _Row, root: str | Path, origin: str, distinct: bool = True) -> Sample:
    """`row` with its fields checked against each other. Errors: DataError."""
    for name in ("id", "question"):
        if not str(getattr(row, name)).strip():
            raise DataError(f"the field {name!r} is empty.")
    options = _options(row, distinct)
    golds, gold_index = _choice(row, options) if options else (_open(row), None)
    patients = row.patients
    return Sample(
        id=str(row.id),
        images=tuple(image if image.startswith(PHANTOM) else image_below(root, image) for image in row.references),
        question=row.question,
        golds=golds,
        options=options,
        gold_index=gold_index,
        kind=_kind(row, options, golds),
        rationale=row.rationale,
        modality=known_modality(row.modality),
        question_type=known_question_type(row.question_type),
        source=row.source,
        split=known_split(row.split),
        group=row.owner,
        group_is_patient=row.group_is_patient or bool(patients),
        language=row.language,
        extra={name: value for name, value in (row.model_extra or {}).items() if name not in patients},
        origin=origin,
    )


def _options(row: _Row, distinct: bool) -> tuple[str, ...]:
    """The options, none or two to ten, which the grader tells apart if they must be `distinct`. Errors: DataError."""
    options = tuple(without_letters(row.options or ()))
    if len(options) == 1:
        raise DataError("it has only one option. Give two or more, or none for an open question.")
    if len(options) > len(LETTERS):
        raise DataError(f"it has {len(options)} options; {len(LETTERS)} is the most that letters name.")
    if not all(map(fold_text, options)):
        raise DataError("it has an empty option.")
    if distinct and len(set(map(fold_text, options))) < len(options):
        raise DataError(f"two of its options are the same: {list(options)}.")
    return options


def _answers(row: _Row) -> list[str]:
    """The golds that are given as texts."""
    answers = ([] if row.answer is None else [row.answer]) + (row.answers or [])
    return [answer for answer in dict.fromkeys(answers) if fold_text(answer)]


def _choice(row: _Row, options: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The gold option and its place, on which everything that the row says about its gold must agree."""
    places = list(map(fold_text, options))
    found, lettered = {}, list(options) != row.options
    for answer in _answers(row):
        if not lettered and fold_text(answer) not in places:
            raise DataError(f"the gold {answer!r} is not among the options {list(options)}.")
        found[told_place(options, answer) if lettered else places.index(fold_text(answer))] = f"answer {answer!r}"
    if row.answer_index is not None:
        if not 0 <= row.answer_index < len(options):
            raise DataError(f"the answer_index {row.answer_index} is none of the {len(options)} options (counted from 0).")
        found[row.answer_index] = f"answer_index {row.answer_index}"
    if not found:
        raise DataError("it has no gold. Give answer_index, answer or answers.")
    if len(found) > 1:
        raise DataError(f"its golds disagree: {' but '.join(found.values())}. Exactly one option is right.")
    place = next(iter(found))
    return (options[place],), place


def _open(row: _Row) -> tuple[str, ...]:
    """All accepted texts of a question without options."""
    if row.answer_index is not None:
        raise DataError("it has an answer_index but no options.")
    if not (golds := _answers(row)):
        raise DataError("it has no gold. Give answer or answers.")
    return tuple(golds)


def _kind(row: _Row, options: tuple[str, ...], golds: tuple[str, ...]) -> Kind:
    """The kind that the row names, where its options and gold allow it, or else the one that they imply."""
    legal = kinds_of(options, golds)
    if row.kind is None:
        return legal[0]
    if row.kind not in list(Kind):
        raise DataError(unknown("kind", row.kind, map(str, Kind)))
    if row.kind not in legal:
        raise DataError(f"the kind {row.kind!r} does not go with its options and gold, which make it {legal[0].value!r}.")
    return Kind(row.kind)
