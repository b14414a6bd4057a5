"""The words of questions about labels: a YAML file that a user may edit, checked before a question is made.

A file has `default`, words for every column, and `columns`, which change them for one column. What it does not say is ours
(`OURS`), unless it is in another language: then the wordings of all kinds that are asked are its own. Everything in it is a
text; a YAML `yes` is the word yes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from pydantic import Field

from osler.config import Settings
from osler.datasets.samples import known_question_type
from osler.errors import RecipeError, unknown
from osler.recipe_files import validate
from osler.schema import Kind
from osler.taxonomy import QuestionType

PLACEHOLDERS: Mapping[Kind, tuple[str, ...]] = {
    Kind.CHOICE: ("column", "labels", "modality"),
    Kind.YESNO: ("column", "label", "modality"),
    Kind.OPEN: ("column", "labels", "modality"),
}
"""What a wording of each kind may have filled in."""

OURS = """\
# How `osler data ask` words its questions. Edit, and give the file with --templates FILE.
#
#   {column}    what the label is called: `name` below, or else the column's own name
#   {label}     yesno: the label that is asked about, which each of its wordings must say
#   {labels}    choice: the options, open: all labels of the column and modality; both in alphabetical order
#   {modality}  the image's modality; where it is unknown, only the wordings that do not say it are used
#
# Of several wordings one is drawn for each question. In a language other than en every kind that is asked needs words.
default:
  language: en
  "yes": "yes"
  "no": "no"
  choice:
    - Which {column} does this image show?
    - What is the {column} of this image?
    - Which of these is the {column} here?
  yesno:
    - Does this image show {label}?
    - Is {label} seen in this image?
    - Can {label} be made out in this image?
  open:
    - What is the {column} of this image?
    - Name the {column} that this image shows.

# columns:
#   grade:                            # a column of the table
#     name: grade of retinopathy
#     question_type: Lesion grading
#     labels: {"0": none, "1": mild, "9": ""}    # written -> asked; an empty text leaves the label out
#     open: ["How severe is the retinopathy in this image?"]
"""

_NAMELESS = ("label", "labels", "class", "category", "target", "finding", "findings")
"""Names of columns that say nothing about what is in them."""


class Words(Settings):
    """What a file says of one column, or of all."""

    name: str | None = None
    question_type: str | None = None
    language: str | None = None
    yes: str | None = None
    no: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    choice: tuple[str, ...] | None = None
    yesno: tuple[str, ...] | None = None
    open: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Wordings:
    """How one column is asked: `name` is what {column} says, `labels` how labels are asked where they are written otherwise,
    `by_kind` the wordings of each kind, `yes` and `no` the answers. `where` names the file, for messages."""

    name: str
    question_type: QuestionType | None
    language: str
    yes: str
    no: str
    labels: Mapping[str, str]
    by_kind: Mapping[Kind, tuple[str, ...]]
    where: str

    @property
    def english(self) -> bool:
        """Whether a yes/no question has osler's own two answers (osler.strategies.offered)."""
        return self.language.casefold()[:2] == "en" and (self.yes, self.no) == ("yes", "no")

    def fitting(self, kind: Kind, with_modality: bool) -> tuple[str, ...]:
        """The wordings of `kind`, without those that say a modality unless `with_modality`."""
        return tuple(wording for wording in self.by_kind[kind] if with_modality or "modality" not in _fields(wording))


@dataclass(frozen=True)
class Templates:
    """The words of a file: for all columns, and for some."""

    default: Words
    columns: Mapping[str, Words]
    where: str

    def names(self, column: str) -> bool:
        """Whether the file says what `column` is about, or else its own name does."""
        own = self.columns.get(column, Words())
        return bool(own.name or self.default.name) or column.lower() not in _NAMELESS

    def of(self, column: str, kinds: Iterable[Kind]) -> Wordings:
        """How `column` is asked in `kinds`. Errors: RecipeError where a kind has no words, or words say what they must not."""
        own, shared, ours = self.columns.get(column, Words()), self.default, _ours()
        language = own.language or shared.language or str(ours.language)
        layers = [own, shared, ours] if language == ours.language else [own, shared]
        where = f"{self.where}, column {column!r}"

        def said(name: str) -> Any:
            return next((value for layer in layers if (value := getattr(layer, name)) is not None), None)

        wordings = {}
        for kind in kinds:
            for name in (kind.value, *(("yes", "no") if kind is Kind.YESNO else ())):
                if not said(name):
                    raise RecipeError(f"{where}: it says nothing for {name}: in the language {language!r}. Add words, or leave "
                                      "the kind out with --kinds.")  # fmt: skip
            wordings[kind] = tuple(_checked(wording, kind, where) for wording in said(kind.value))
        asked = own.question_type or shared.question_type
        return Wordings(
            name=own.name or shared.name or ("finding" if column.lower() in _NAMELESS else column.replace("_", " ")),
            question_type=known_question_type(asked) if asked else None,
            language=language,
            yes=said("yes") or "yes",
            no=said("no") or "no",
            labels={**shared.labels, **own.labels},
            by_kind=wordings,
            where=where,
        )


def read_templates(file: str | Path | None, header: Iterable[str]) -> Templates:
    """The words in `file`, ours where it is None; its columns must be of `header`. Errors: RecipeError that names the file."""
    if file is None:
        return _templates(OURS, "osler's own words", header)
    try:
        return _templates(Path(file).read_text(encoding="utf-8"), str(file), header)
    except OSError as error:
        raise RecipeError(f"{file} cannot be read ({error.strerror}). Write ours first: --write-templates {file}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not in UTF-8 ({error.reason} at byte {error.start}). Save it in UTF-8.") from error


def _templates(text: str, where: str, header: Iterable[str]) -> Templates:
    try:
        raw = yaml.load(text, Loader=yaml.BaseLoader)  # it makes texts only, and no `yes` into a truth value
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is no YAML: {' '.join(str(error).split())}. Indent with blanks, and quote {{}}.") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{where} holds no mapping. Begin from ours: --write-templates FILE.")
    for key in raw:
        if key not in ("default", "columns"):
            raise RecipeError(f"{where}: {unknown('key', key, ('default', 'columns'))}")
    columns = raw.get("columns") or {}
    if not isinstance(columns, dict):
        raise RecipeError(f"{where}: columns must be a mapping of a column to its words.")
    there = list(header)
    for column in columns:
        if column not in there:
            raise RecipeError(f"{where}: {unknown('column', column, there)}")
    default = validate(Words, raw.get("default") or {}, f"{where}, default")
    return Templates(
        default, {name: validate(Words, of or {}, f"{where}, column {name!r}") for name, of in columns.items()}, where
    )


def _ours() -> Words:
    """Our own words."""
    return Words.model_validate(yaml.load(OURS, Loader=yaml.BaseLoader)["default"])


def _checked(wording: str, kind: Kind, where: str) -> str:
    """`wording`, if it can be asked. Errors: RecipeError."""
    try:
        fields = _fields(wording)
        plain = not any(form or conversion for _, _, form, conversion in Formatter().parse(wording))
    except ValueError as error:
        raise RecipeError(f"{where}: {kind} {wording!r} cannot be filled in ({error}). Write {{{{ for a bracket.") from error
    if kind is not Kind.YESNO and "label" in fields:
        raise RecipeError(f"{where}: {kind} {wording!r} would tell the answer: {{label}} is for yesno. Take it out.")
    for name in fields:
        if name not in PLACEHOLDERS[kind]:
            raise RecipeError(f"{where}: {kind} {wording!r}: {unknown('placeholder', name, PLACEHOLDERS[kind])}")
    if kind is Kind.YESNO and "label" not in fields:
        raise RecipeError(f"{where}: yesno {wording!r} does not say {{label}}, so that nobody could tell what it asks. Add it.")
    if not plain or not wording.strip():
        what = "is empty" if plain else "holds a format"
        raise RecipeError(f"{where}: {kind} {wording!r} {what}. Write words, and placeholders by their bare names.")
    return wording


def _fields(wording: str) -> list[str]:
    """The names between brackets in `wording`. Errors: ValueError for brackets that do not match."""
    return [name for _, name, _, _ in Formatter().parse(wording) if name is not None]
