"""Columns with names of the user's own, as tables and Hugging Face data sets have them: a row becomes a row of the manifest.

    id                       the file's name and the row's number where there is no such column
    image | images           one or several: a list, or texts parted by ";"
    question
    options                  a list, or texts parted by "|"; or columns A, B, C, ... of which the last may be empty
    answer                   the letter or the text of an option, or both as "B) text"; a whole number is its place from 0 (but
                             a cell of a CSV is text); without options the gold itself, or a list of all that are accepted
    answer_index             the place of the gold among the options, from 0
    modality, question_type, split, group, rationale, language, kind, source
    patient                  the group, which is then a patient
    group_is_patient         whether the group is one; true or false

Options that all carry their letters, as "A) x", lose them (osler.datasets.lettered). A last lettered column that reads NA is
empty where two others remain and the answer is not that one: R and pandas write so.

A column is known by its name, whatever its case, blanks and hyphens ("Question Type" is question_type), or by one of `ALIASES`;
`columns: {question: text, answer: label}` in a spec names others. A column that has none of these names is kept in `extra`, and
so is one called "subject" whose first cell holds no digit, as "Anatomy": that is a topic, and no patient. stderr says which. A
cell that is empty is absent; so is one of `MAY_BE_ABSENT` that reads NA, and NaN elsewhere is an error. Labels of modality and
question type that are not known count as unknown and are told on stderr.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from osler.datasets.lettered import without_letters
from osler.datasets.questions import list_in, seems_chosen, told_place
from osler.errors import DataError, unknown
from osler.progress import console
from osler.schema import LETTERS, fold_text
from osler.taxonomy import modality_of, question_type_of

GOLDS = ("answer", "answers", "answer_index")
_TEXTS = ("id", "question", "modality", "question_type", "split", "group", "patient", "rationale", "language", "kind", "source")
NAMES = (*_TEXTS, "group_is_patient", "image", "images", "options", *GOLDS, *LETTERS)
"""What a column can be."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "patient": ("patient_id", "subject", "subject_id", "case_id"),
    "group": ("group_id", "patient_or_group_id"),
    "options": ("choices",),
    **{letter: tuple(f"{word}_{letter}" for word in ("option", "opt", "op", "choice")) for letter in LETTERS},
}
"""What a column that is one of `NAMES` may be called instead."""

ABSENT = ("", "na", "n/a", "#n/a", "nan", "null")
"""What programs write, in any case, into the cell of a label or patient that is not known."""

MAY_BE_ABSENT = ("source", "language", "split", "modality", "question_type", "patient", "group")
"""The columns in which a cell that reads NA, or is NaN, is empty."""

_LETTER = re.compile(r"\(?[A-Ja-j][).:]?")

_ONE_OF = (("image", "images"), GOLDS, ("patient", "group"), ("options", *LETTERS))
"""Names for the same thing: who names a column for one of them does not mean a column that is called like another."""

_TRUTHS = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0"), False)
_MAY_READ_NAN = ("options", "answer", "answers", *LETTERS)
_RESERVED = {*NAMES, "patient_or_group_id", "group_is_patient", "text_only"} - {"patient", *LETTERS}
"""The fields of the manifest: a column so called that is none of them keeps its cells under another name."""


def _folded(column: str) -> str:
    return re.sub(r"[\s_-]+", "", column).lower()


_NAME_OF = {_folded(called): name for name in NAMES for called in (name, *ALIASES.get(name, ()))}


def name_of(column: str) -> str | None:
    """The one of `NAMES` that a column called `column` is, None where it is none."""
    return _NAME_OF.get(_folded(column))


def reads_absent(cell: str) -> bool:
    """Whether the label or patient in `cell` is not known: it is empty, or one of `ABSENT`."""
    return cell.strip().lower() in ABSENT


def names_patient(field: str) -> bool:
    """Whether a field called `field` says whose a row is wherever it stands, as "patient_id"; "subject" may be a topic."""
    return name_of(field) == "patient" and _folded(field) != "subject"


def columns_of(there: Iterable[str] | Mapping[str, Any], named: Mapping[str, str]) -> dict[str, str]:
    """The name of each of `NAMES` that one of the columns `there` has, by `named` or by itself.

    Where `there` is the first row, its cells tell whether a column "subject" is the patient.
    Errors: DataError where `named` speaks of what is not there, two columns have one name, or one that all rows need is absent.
    """
    first = dict(there) if isinstance(there, Mapping) else {}
    there = list(there)
    settled = {name for names in _ONE_OF if named.keys() & set(names) for name in names} - set(LETTERS)
    for name, column in named.items():
        if name not in NAMES:
            raise DataError(f"columns: {unknown('name', name, NAMES)}")
        if column not in there:
            raise DataError(f"columns: {name} is said to be {column!r}. {unknown('column', column, there)}")
    found = dict(named)
    for column in there:
        one = name_of(column)
        is_subject = _folded(column) == "subject" and column not in named.values()
        if is_subject and _is_topic(first.get(column)):
            _tell_subject(column, first.get(column), is_topic=True)
            continue
        if one is None or one in named or one in settled or column in named.values():
            continue
        if one in found:
            raise DataError(f"its columns {found[one]!r} and {column!r} are both {one}. Name one: columns: {{{one}: ...}}.")
        found[one] = column
        if is_subject:
            _tell_subject(column, first.get(column), is_topic=False)
    _require(found, there)
    return found if "A" in found and "B" in found else {name: found[name] for name in found if name not in LETTERS}


def _is_topic(cell: Any) -> bool:
    """Whether `cell`, the first of a column called subject, is no id of a patient: empty, or without a digit, as "Anatomy"."""
    return cell is None or not re.search(r"\d", str(cell))


def _tell_subject(column: str, cell: Any, is_topic: bool) -> None:
    """On stderr, whether the column is taken for the patient, by its first `cell`, and what to do where that is wrong."""
    shown = f"holds {str(cell)[:60]!r}" if str(cell or "").strip() else "has an empty first cell"
    said = f"the column {column!r} {shown}, which is no id, and is kept in extra."
    do = f"If it is the patient, say so: columns: {{patient: {column}}}."
    if not is_topic:
        said, do = f"the column {column!r} {shown} and is taken for the patient.", "If it is a topic, rename the column."
    console.print(f"{said} {do}", markup=False, highlight=False, soft_wrap=True)


def _require(found: Collection[str], there: Collection[str]) -> None:
    """Errors: DataError where a column is absent that every row needs."""
    for names in (("question",), ("image", "images"), GOLDS):
        if not any(name in found for name in names):
            do = f"If another is meant, say so: columns: {{{names[0]}: ...}}."
            raise DataError(f"it has no column {names[0]!r}, but {', '.join(map(repr, there))}. {do}")


def manifest_row(cells: Mapping[str, Any], columns: Mapping[str, str], name: str) -> dict[str, Any]:
    """The fields of the manifest that `cells` are, by column; the id is `name` where they have none. Errors: DataError."""
    said = {one: _checked(one, column, cells[column]) for one, column in columns.items()}
    fields: dict[str, Any] = {"id": name}
    fields |= {one: _text(one, said[one]) for one in _TEXTS if said.get(one) is not None}
    if patient := fields.pop("patient", None):
        if "group" in fields:
            raise DataError("it has both a patient and a group. Name one of the two columns.")
        fields |= {"group": patient, "group_is_patient": True}
    fields.setdefault("group_is_patient", False)  # said, so that a column "patient" that was not taken stays in extra
    if said.get("group_is_patient") is not None:
        fields["group_is_patient"] = truth(said["group_is_patient"])
    shown = {one: said[one] for one in ("image", "images") if said.get(one) is not None}
    if len(shown) > 1:
        raise DataError("it has both an image and images. Name one of the two columns.")
    fields |= shown
    if options := _options(said):
        fields["options"] = options
    used = set(columns.values())
    rest = {column: value for column, value in cells.items() if column not in used and value is not None and value != ""}
    extra = {f"column_{column}" if column in _RESERVED else column: value for column, value in rest.items()}
    gold = _gold(said, options)
    if fields.get("kind") != "open":
        _require_no_lost_options(gold, [one for one in columns if one == "options" or one in LETTERS], rest)
    return {**extra, **fields, **gold}


def _require_no_lost_options(gold: Mapping[str, Any], empty: Sequence[str], rest: Iterable[str]) -> None:
    """Errors: DataError where the gold of an open question is a letter, but columns of options are `empty` or not used."""
    letter = gold["answers"][0].strip() if len(gold.get("answers", ())) == 1 else ""
    if empty and (_LETTER.fullmatch(letter) or seems_chosen(letter, "")):
        what = f"its answer {letter!r} is the letter of an option, but its options ({', '.join(empty)}) are empty."
        raise DataError(f"{what} Fill them in, or write open in a column kind where that is the answer itself.")
    likely = [column for column in rest if re.search("choice|option", column, re.IGNORECASE)]
    if len(letter) == 1 and letter in LETTERS and likely:
        what = f"its answer is the letter {letter}, but it has no options, and its column {likely[0]!r} is not used."
        raise DataError(f"{what} Name the options: columns: {{options: ...}}, or {{A: ..., B: ...}}.")


def _checked(name: str, column: str, value: Any) -> Any:
    """`value`, None where it is empty. Errors: DataError where it reads NaN, but for the text of an option or answer."""
    if isinstance(value, str) and not value.strip():
        return None
    if name in MAY_BE_ABSENT and (reads_absent(value) if isinstance(value, str) else value != value):
        return None
    reads_nan = isinstance(value, str) and value.strip().lower() == "nan" and name not in _MAY_READ_NAN
    if reads_nan or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"the field {name!r} (column {column!r}) is NaN, not a number. Fill it in, or leave the cell empty.")
    return value


def _text(name: str, value: Any) -> str:
    """`value` as text. Errors: DataError where it is neither text nor a number."""
    if isinstance(value, str):
        return value if name in ("question", "rationale") else value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise DataError(f"the field {name!r} should be a text, not {value!r}.")


def truth(value: Any) -> bool:
    """What `value` says, a truth value, 1 or 0, or a word for one. Errors: DataError."""
    told = str(value).strip().lower()
    if told not in _TRUTHS:
        raise DataError(f"the field 'group_is_patient' should be true or false, not {value!r}.")
    return _TRUTHS[told]


def _options(said: Mapping[str, Any]) -> list[str]:
    """The options, none or more. Errors: DataError where one between two is empty, or they are neither list nor text."""
    found = said.get("options")
    if found is None:
        letters = [letter for letter in LETTERS if letter in said]
        texts = _up_to_last([said[letter] for letter in letters], said)
        if letters[: len(texts)] != list(LETTERS[: len(texts)]) or None in texts:
            empty = next(letter for letter in LETTERS if said.get(letter) is None)
            raise DataError(f"its option {empty} is empty, but a later one is not.")
        return without_letters([_text("options", text) for text in texts])
    if isinstance(found, str):
        found = list_in(found.strip()) or found.split("|")
    if isinstance(found, Mapping):
        found = [found[letter] for letter in sorted(found) if found[letter] is not None]
    if not isinstance(found, list):
        raise DataError(f"the field 'options' should be a list of texts, not {found!r}.")
    return without_letters([_text("options", text) for text in found])


def _up_to_last(texts: list[Any], said: Mapping[str, Any]) -> list[Any]:
    """`texts` without the last that are empty, or that read NA where two or more others remain and the gold is none of them."""
    while texts and texts[-1] is None:
        texts = texts[:-1]
    kept = len(texts)
    while kept and (texts[kept - 1] is None or reads_absent(str(texts[kept - 1]))):
        kept -= 1
    if not 2 <= kept < len(texts):
        return texts
    try:
        place = _gold(said, ["" if text is None else _text("options", text) for text in texts]).get("answer_index", 0)
    except DataError:  # told once the options are known
        place = 0
    return texts if place >= kept else texts[:kept]


def _gold(said: Mapping[str, Any], options: list[str]) -> dict[str, Any]:
    """The gold as the manifest says it. Errors: DataError."""
    found = {name: said[name] for name in GOLDS if said.get(name) is not None}
    answer, place = found.get("answer", found.get("answers")), found.get("answer_index")
    if place is not None:
        told = str(place).strip()
        if isinstance(place, bool) or not told.isascii() or not told.isdigit():
            raise DataError(f"the field 'answer_index' should be a whole number from 0, not {place!r}.")
        found["answer_index"] = int(told)
    if not options or answer is None:
        return {**found, **_open(answer)} if answer is not None else found
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, list):
        raise DataError(f"the field 'answer' names {len(answer)} answers, but exactly one option is right.")
    told_at = _told_at(options, answer, found.get("answer_index"))
    if found.get("answer_index", told_at) != told_at:
        raise DataError(f"its golds disagree: answer {answer!r} but answer_index {place}. Exactly one option is right.")
    return {"answer_index": told_at}


def _told_at(options: list[str], answer: Any, index: int | None) -> int:
    """The place that `answer` tells: as a number, by letter or by text. Errors: DataError where a number may mean two.

    Of those two it is `index`, where that is given.
    """
    alike = [place for place, option in enumerate(options) if fold_text(option) == fold_text(str(answer))]
    if isinstance(answer, int) and not isinstance(answer, bool):
        if index in alike:
            return index
        if set(alike) - {answer} and index is None:
            what = f"the answer {answer} is the place of one option (from 0) and the text of another of {options}."
            raise DataError(f"{what} Name the column answer_index where it is the place, or write it as text.")
        return answer
    text = _text("answer", answer)
    if not alike and text.strip().isdecimal():
        what = f"the answer {text!r} is text, as every cell of a CSV is, and none of the options {options}."
        raise DataError(f"{what} Name the column answer_index where it is a place, from 0.")
    return told_place(options, text)


def _open(answer: Any) -> dict[str, Any]:
    """All accepted texts of a question without options. Errors: DataError."""
    texts = answer if isinstance(answer, list) else [answer]
    if any(isinstance(text, str) and text.strip().lower() == "nan" for text in texts):
        raise DataError("the field 'answer' is NaN, not a number. Fill it in.")
    return {"answer": None, "answers": [_text("answer", text) for text in texts]}


class Labels:
    """Modalities and question types as the taxonomy knows them; what it does not know is unknown, and counted."""

    def __init__(self) -> None:
        self.unknown: Counter[tuple[str, str]] = Counter()

    def read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields` with both labels known or absent; one that is not known is kept as modality_as_written, ..."""
        found = dict(fields)
        for name, known in (("modality", modality_of), ("question_type", question_type_of)):
            label = found.get(name)
            if isinstance(label, str) and known(label) is None:
                self.unknown[name, label] += 1
                found[f"{name}_as_written"] = found.pop(name)
        return found

    def tell(self, file: object) -> None:
        """On stderr, a line for each kind of label that had unknown ones in `file`: which, and of how many rows."""
        for name in sorted({name for name, _ in self.unknown}):
            counts = Counter({label: n for (one, label), n in self.unknown.items() if one == name})
            said = ", ".join(f"{label!r} ({n:,})" for label, n in counts.most_common(5))
            more = f" and {len(counts) - 5:,} more" if len(counts) > 5 else ""
            rows = f"{counts.total():,} row{'s' * (counts.total() != 1)}"
            note = f"{file}: the {name.replace('_', ' ')} of {rows} is not known and counts as unknown: {said}{more}."
            console.print(note, markup=False, highlight=False, soft_wrap=True)
