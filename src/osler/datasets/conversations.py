"""Conversations as TRL and ms-swift train on them: a question that a user asks about images, and its answer, one row a line.

    {"messages": [{"role": "user", "content": "<image>Which organ is enlarged?\\nA) Liver\\nB) Spleen"}], "images": ["a.png"],
     "solution": "<answer> B </answer>"}
    {"image": "a.png", "problem": "Which side? A) Left, B) Right", "solution": "<answer> B </answer>"}
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there air?"}]}], "image": "a.png",
     "completion": [{"role": "assistant", "content": "<think>It is black below the diaphragm.</think><answer>yes</answer>"}]}

The forms are those of TRL's guide to data set formats, of ms-swift's to custom data sets, and of R1-V, in which
Med-R1 too saves its data; the rows are ours.

    messages | prompt [completion] | conversations | query [response] | problem
                                one turn of a user and at most one answer; a system's is kept in `extra`;
                                with `from` and `value` instead of `role` and `content` too; all but messages may be one text;
                                an empty `history` is dropped; LLaVA-Med's `conversatons` is read as it is meant
    images | image              paths below ROOT of `?images=ROOT`, else of the file's own folder; or data:image/...;base64,...;
                                each a text or {"path": ..., "bytes": ...}
    solution | answer           the gold, in `<answer>` or bare: a letter, or a text; without it what the assistant answers
    options                     a list of texts, "A) x" too; those of the question, where that lists them too
    id                          the file's name and the row's number where there is none

An image may also be part of the content ({"type": "image", "image": PATH}). Marks, `<image>` or {"type": "image"}, must be as
many as images; without any mark all images stand first. osler shows images before the question, so marks that stand apart are
taken out, and one inside a sentence reads "image 2". Options are read where they can be told for certain
(osler.datasets.questions.options_in); otherwise the question is open, and a gold that seems to be chosen all the same, as
`B. Spleen`, is an error, unless the row says `"kind": "open"`. What an assistant thinks, in `<think>`, is the rationale. All
other fields are those of the manifest (osler.datasets.jsonl). A file that ends in .json holds one array of such rows. Below a
folder all `*.jsonl` are read.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from osler.datasets.columns import Labels
from osler.datasets.jsonl import FIELDS, json_lines, manifest_sample
from osler.datasets.lettered import without_letters
from osler.datasets.load import DataSpec
from osler.datasets.published import Answer, json_rows
from osler.datasets.questions import Question, lists_options, options_in, seems_chosen, told_place
from osler.datasets.rows import at_row
from osler.datasets.turns import MARK, Turn, question_and_images, turn_of
from osler.errors import DataError
from osler.schema import LETTERS, Sample, fold_text

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"\(?[A-J][).:]?")


FORMS = ("messages", "prompt", "conversations")
"""What holds the turns of a row; it has one of these."""

OTHER_FORMS = {"query": "prompt", "problem": "prompt", "conversatons": "conversations", "response": "completion"}
"""Other names of these, in rows that have none of `FORMS`."""


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    messages: list[dict[str, Any]] | None = None
    prompt: list[dict[str, Any]] | str | None = None
    completion: list[dict[str, Any]] | str | None = None
    conversations: list[dict[str, Any]] | None = None
    images: Any = None
    image: Any = None
    solution: Answer | None = None
    answer: Answer | None = None
    options: list[str] | None = None
    kind: Any = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A row without any of `FORMS` by the names that it should have; of several the first, the others stay as they are."""
        if not isinstance(value, dict) or any(value.get(form) is not None for form in FORMS):
            return value
        named = {name: part for name, part in value.items() if name not in FORMS and (name, part) != ("history", [])}
        for other, name in OTHER_FORMS.items():
            if other in named and name not in named:
                named[name] = named.pop(other)
        return named


USED = frozenset(_Row.model_fields) | OTHER_FORMS.keys() | FIELDS
"""The names that mean something in a row."""


def is_conversation(columns: Collection[str]) -> bool:
    """Whether a row with these `columns` is one that `fields_of` reads, and not one with a column for its question."""
    return "question" not in columns and any(form in columns for form in (*FORMS, *OTHER_FORMS))


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    for file in spec.files(".jsonl"):
        root, labels = spec.images or file.parent, Labels()
        for number, value in _values(file):
            with at_row(file, number):
                fields = {"id": f"{file.stem}/{number}", **fields_of(value)}
                sample = manifest_sample(labels.read(fields), root, f"{file}, row {number}")
                yield sample
        labels.tell(file)


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of `file` with their numbers, not checked yet: the text of a line, or what an array holds. Errors: DataError."""
    yield from enumerate(json_rows(file), 1) if file.suffix == ".json" else json_lines(file)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of the manifest that a row is, as JSON text or as a mapping. Errors: DataError or ValidationError."""
    row = _Row.model_validate_json(value) if isinstance(value, str) else _Row.model_validate(value)
    return {**(row.model_extra or {}), **_fields(row)}


def _fields(row: _Row) -> dict[str, Any]:
    """The fields of the manifest that `row` is, but for those that it has by their names. Errors: DataError."""
    turns = _turns(row)
    asked, answered = (_only(turns, role) for role in ("user", "assistant"))
    if asked is None:
        raise DataError("no user asks anything in it.")
    if MARK in (answered.text if answered else ""):
        raise DataError("its assistant's turn holds an image. Images belong to the question.")
    text, images = question_and_images(asked, _listed(row))
    question, options = _choice(text, row)
    thought, said = _parted(answered.text) if answered else (None, None)
    system = [turn.text for turn in turns if turn.role == "system"]
    return {
        "question": question,
        "images": images,
        **({"options": list(options)} if options else {}),
        **({"kind": row.kind} if row.kind is not None else {}),
        **_gold(row, said, text, options),
        **({"rationale": thought} if thought else {}),
        **({"system": "\n".join(system)} if system else {}),
    }


def _choice(text: str, row: _Row) -> Question:
    """The question of `text` and its options: the row's own, or those in the text. Errors: DataError where these differ."""
    (question, read), own = options_in(text), tuple(without_letters(row.options or ()))
    if read and own and list(map(fold_text, read)) != list(map(fold_text, own)):
        raise DataError(f"its options are {list(own)}, but its question lists {list(read)}. Keep one of the two lists.")
    return question, own or read


def _turns(row: _Row) -> list[Turn]:
    """All turns in their order. Errors: DataError where there are none, or they are given twice."""
    given = [name for name in ("messages", "prompt", "conversations") if getattr(row, name) is not None]
    if len(given) != 1:
        raise DataError(f"it has {' and '.join(given) or 'no messages'}. Give one of messages, prompt and conversations.")
    if (row.model_extra or {}).get("history"):
        raise DataError("it has earlier turns in 'history'. Write one question and its answer a row.")
    first = getattr(row, given[0])
    turns = [{"role": "user", "content": first}] if isinstance(first, str) else first
    last = row.completion or []
    turns = [*turns, *([{"role": "assistant", "content": last}] if isinstance(last, str) else last)]
    return [turn_of(turn) for turn in turns]


def _only(turns: Sequence[Turn], role: str) -> Turn | None:
    """The one turn of `role`, None where there is none. Errors: DataError where there are several."""
    found = [turn for turn in turns if turn.role == role]
    if len(found) > 1:
        raise DataError(f"it has {len(found)} turns of the {role}. Write one question and its answer a row.")
    return found[0] if found else None


def _listed(row: _Row) -> list[Any]:
    """The images beside the turns. Errors: DataError where there are two lists."""
    if row.image is not None and row.images is not None:
        raise DataError("it has both 'image' and 'images'. Keep one.")
    found = row.image if row.images is None else row.images
    return found if isinstance(found, list) else [] if found is None else [found]


def _parted(text: str) -> tuple[str | None, str]:
    """What an assistant thinks, None where it does not say, and what it answers: in `<answer>`, or else all the rest."""
    thoughts, answers = _THOUGHT.findall(text), _ANSWER.findall(text)
    if len(thoughts) > 1 or len(answers) > 1:
        raise DataError("it thinks or answers more than once: several <think> or <answer>.")
    rest = answers[0] if answers else _THOUGHT.sub("", text)
    return (thoughts[0].strip() or None if thoughts else None), rest.strip()


def _gold(row: _Row, said: str | None, text: str, options: tuple[str, ...]) -> dict[str, Any]:
    """The gold as a manifest says it. Errors: DataError where there is none, or two that differ."""
    given = {name: _parted(gold)[1] for name in ("solution", "answer") if (gold := getattr(row, name)) is not None}
    golds = list(given.values()) or ([said] if said is not None else [])
    if not golds or not all(map(fold_text, golds)):
        raise DataError("it has no gold. Give solution, or an assistant's turn.")
    if options:
        _require_same_letters(golds, text, options)
        places = {told_place(options, gold, letters_first=True) for gold in golds}
        if len(places) > 1:
            raise DataError(f"its golds disagree: {given}.")
        return {"answer_index": places.pop()}
    if row.kind != "open" and (chosen := next((gold for gold in golds if seems_chosen(gold, text)), None)) is not None:
        what = f"its gold {chosen!r} seems to be an option, but none can be read for certain from {text[-80:]!r}."
        do = "Give options, a list of texts, or write each on a line of its own, as 'A) liver', and an empty line behind them"
        raise DataError(f'{what} {do}; or say "kind": "open".')
    if len(set(map(fold_text, golds))) > 1:
        raise DataError(f"its golds disagree: {given}.")
    return {"answers": golds[:1]}


def _require_same_letters(golds: Sequence[str], text: str, options: tuple[str, ...]) -> None:
    """Errors: DataError for a gold that is a letter, where `text` seems to list others than `options` under the letters."""
    if options_in(text)[1] or not lists_options(text):
        return
    pairs = zip(LETTERS, options, strict=False)
    if all(re.search(rf"\b{letter}[).:]\s*{re.escape(option.strip())}", text) for letter, option in pairs):
        return
    for gold in filter(_LETTER.fullmatch, golds):
        if fold_text(gold) not in map(fold_text, options):
            what = (
                f"its gold is the letter {gold}, but its question, {text[-80:]!r}, may list other options than {list(options)}."
            )
            raise DataError(f"{what} Give the gold as a text.")
