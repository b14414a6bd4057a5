"""The nouns that every part of osler speaks: Sample, Parsed, Verdict, Record. All frozen, all to and from JSON.

A grader, `(Sample, Parsed) -> Verdict`, is the seam on which training, evaluation and judging meet: the reward that trains
and the accuracy that is reported come from the same function.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from osler.taxonomy import Modality, QuestionType

LETTERS = "ABCDEFGHIJ"
"""The letters that name options in a prompt; a sample has at most this many options."""


SPLITS = ("train", "val", "test")
"""The splits that a row may name."""


def fold_text(text: str) -> str:
    """`text` as answers and options are compared: composed (NFC), in one case, blanks collapsed, without outer blanks and final
    full stops, Chinese ones too."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).casefold().lstrip(" ").rstrip(" .。")


class Kind(StrEnum):
    """What shape of answer a question wants."""

    CHOICE = "choice"
    YESNO = "yesno"
    OPEN = "open"


class Outcome(StrEnum):
    """How a completion was judged. `UNJUDGED` is a failure of the grader, never a wrong answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNJUDGED = "unjudged"


class _Json:
    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        value: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`; a key that is unknown is an error of the caller."""
        return cls(**value)


@dataclass(frozen=True)
class Sample(_Json):
    """One question about one or more images, as every data set is read.

    `images` are references that `osler.images.open_image` opens: a path, `phantom:...`, or one made from these (`blank:REF`,
    `noise:SEED:REF`, `marked:GLYPH:REF`, `grainy:PERCENT:REF`); empty where the data set was read without its images.
    `group` is what must not be split between train and test: a patient, a case, an image. `origin` is the file and row that it
    was read from, for messages.
    """

    id: str
    images: tuple[str, ...]
    question: str
    golds: tuple[str, ...]
    options: tuple[str, ...] = ()
    gold_index: int | None = None
    kind: Kind = Kind.CHOICE
    rationale: str | None = None
    modality: Modality = Modality.UNKNOWN
    question_type: QuestionType = QuestionType.UNKNOWN
    source: str = ""
    split: str | None = None
    group: str | None = None
    group_is_patient: bool = False
    language: str = "en"
    extra: dict[str, Any] = field(default_factory=dict)
    origin: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, value in (
            ("images", tuple(self.images)),
            ("golds", tuple(self.golds)),
            ("options", tuple(self.options)),
            ("kind", Kind(self.kind)),
            ("modality", Modality(self.modality)),
            ("question_type", QuestionType(self.question_type)),
        ):
            object.__setattr__(self, name, value)

    @property
    def cluster(self) -> str:
        """What the sample fails or succeeds together with: its group, else its first image, else itself."""
        return self.group or (self.images[0] if self.images else self.id)

    @property
    def gold_letter(self) -> str | None:
        """The letter of the gold option, or None where there are no options."""
        return None if self.gold_index is None else LETTERS[self.gold_index]


@dataclass(frozen=True)
class Parsed(_Json):
    """What a strategy read out of a completion.

    `answer` is the text in the answer's place (strict), None where the strategy's form is broken; `lenient` is the text in
    which an answer may still be looked for. What that text says, a letter or an option, is read by `osler.grading`.
    `well_formed` is what the format reward pays for.
    """

    answer: str | None
    lenient: str | None
    thought: str | None
    well_formed: bool


@dataclass(frozen=True)
class Verdict(_Json):
    """Whether a parsed completion answers its sample, with the evidence: `compared` with `gold`.

    `outcome` judges the strict reading, `lenient` the lenient one. `compared` is None where the strict reading found no
    answer: such a completion is unparseable, and incorrect.
    """

    outcome: Outcome
    lenient: Outcome
    compared: str | None
    gold: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", Outcome(self.outcome))
        object.__setattr__(self, "lenient", Outcome(self.lenient))


Grader = Callable[[Sample, Parsed], Verdict]


@dataclass(frozen=True)
class Completion(_Json):
    """A completion: its text without special tokens, its length in tokens with the end, and whether it was cut off.

    `tokens` is None where a server did not count them.
    """

    text: str
    tokens: int | None
    truncated: bool


@dataclass(frozen=True)
class Record(_Json):
    """One evaluated sample: enough to recompute every number of a report without the model.

    `blind` is the expected score of each blind attacker on the sample (osler.floor); empty where none was fitted, and for open
    questions. `tokens` and `seconds` are None where another system made the completion and did not tell.
    """

    sample: Sample
    prompt: str
    completion: str
    parsed: Parsed
    verdict: Verdict
    strategy: str
    tokens: int | None
    truncated: bool
    seconds: float | None
    blind: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        nested: dict[str, type[_Json]] = {"sample": Sample, "parsed": Parsed, "verdict": Verdict}
        parts: dict[str, Any] = {k: nested[k].from_json(v) if k in nested else v for k, v in value.items()}
        return cls(**parts)
