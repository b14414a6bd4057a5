"""The same questions answered by several models: which rows are shown, and what stands beside each other on the page.

Zhu et al. compare completions of several models on one image in their figures. Here nobody picks: rows are drawn from strata
by a seed, and the page says how, and how many rows each stratum holds. The examples illustrate; they measure nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from osler.comparing.marking import N_GRAM, Part, take_apart
from osler.comparing.medical_terms import Phrase, find_terms, vocabulary
from osler.comparing.same_rows import Evaluated, read_same
from osler.comparing.strata import AGREEMENT, RULE, Selection, choose
from osler.examples import thumbnail
from osler.images import BLANK, GRAINY, MADE, MARKED, NOISE, PHANTOM, underlying
from osler.looking import right, unparseable
from osler.overlap import repetition
from osler.reasoning.conclusions import consistent
from osler.runs import Run, write_named
from osler.schema import LETTERS, Record, Sample
from osler.stats import Estimate, proportion

SEEN = {
    BLANK: "a blank image",
    NOISE: "noise",
    MARKED: "a marked image",
    GRAINY: "a grainy image",
    None: "another image",
}
"""What a model was shown where it was not the row's image, by how the reference to it begins."""

Outcome = Literal["right", "wrong", "unparseable", "unjudged"]


@dataclass(frozen=True)
class Model:
    """An evaluation run as a whole, on all rows. `label` tells it from the others; accuracy is read strictly."""

    label: str
    name: str
    state: str
    strategy: str
    accuracy: Estimate
    unparseable: int
    unjudged: int
    truncated: int
    mean_tokens: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What one model wrote on a row: record `line` of its run.

    `unparseable` counts as wrong. `repetition` is the share of its groups of three words that stood in it before, `terms` the
    medical terms in it, `consistent` whether the thought concludes what is answered (None where that cannot be told), `saw`
    what the model was shown where that is not the row's image.
    """

    label: str
    line: int
    record: Record
    outcome: Outcome
    parts: tuple[Part, ...]
    repetition: float
    terms: tuple[str, ...]
    consistent: bool | None
    saw: str | None

    @property
    def answer(self) -> str | None:
        """What was read as the answer, a letter with its option; None where nothing could be read."""
        compared, sample = self.record.verdict.compared, self.record.sample
        if compared is None or compared not in tuple(LETTERS[: len(sample.options)]):
            return compared
        return f"{compared}) {sample.options[LETTERS.index(compared)]}"

    def to_json(self) -> dict[str, Any]:
        """What a program needs of it; `right` is null where it was not judged."""
        record = self.record
        return {
            "run": self.label,
            "line": self.line,
            "right": None if self.outcome == "unjudged" else self.outcome == "right",
            "outcome": self.outcome,
            "answer": record.verdict.compared,
            "tokens": record.tokens,
            "seconds": record.seconds,
            "truncated": record.truncated,
            "repetition": self.repetition,
            "terms": list(self.terms),
            "consistent": self.consistent,
            "saw": self.saw,
        }


@dataclass(frozen=True)
class Row:
    """A row that is shown: its stratum, its sample with the references of its images, and an answer a model."""

    stratum: str
    sample: Sample
    images: tuple[str, ...]
    answers: tuple[Answer, ...]

    def to_json(self) -> dict[str, Any]:
        """The row without its images: their references can hold the label."""
        sample = self.sample
        return {
            "id": sample.id,
            "stratum": self.stratum,
            "question": sample.question,
            "options": list(sample.options),
            "golds": list(sample.golds),
            "gold_index": sample.gold_index,
            "modality": sample.modality,
            "question_type": sample.question_type,
            "answers": [answer.to_json() for answer in self.answers],
        }


@dataclass(frozen=True)
class Comparison:
    """Models on the same rows: each as a whole, how rows were chosen, and those rows, stratum by stratum."""

    models: tuple[Model, ...]
    selection: Selection
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name; the models are called runs."""
        return {
            "runs": [model.to_json() for model in self.models],
            "selection": self.selection.to_json(),
            "rows": [row.to_json() for row in self.rows],
        }


def side_by_side(runs: Sequence[Run], n: int = 8, seed: int = 0, by: str = AGREEMENT) -> Comparison:
    """At most `n` of the rows that all of `runs` answered, drawn by `seed` from the strata of `by` (`osler.comparing.strata`).

    `by` is "agreement" or an axis of the rows: modality, question_type, source, language, extra:KEY.
    Errors: RecipeError for another `by`; RunError where the runs are not of the same rows (`same_rows.read_same`).
    """
    evaluated = read_same(runs)
    drawn, selection = choose({one.label: one.records for one in evaluated}, n, seed, by)
    known = vocabulary(record.sample for record in evaluated[0].records)
    return Comparison(
        models=tuple(map(_model, evaluated)),
        selection=selection,
        rows=tuple(_row(stratum, row, evaluated, known) for stratum, row in drawn),
    )


def write_comparison(comparison: Comparison, file: Path) -> Path:
    """`file`, written whole or not at all: one HTML page that loads nothing and names no image's path.

    It is the same, byte for byte, for the same comparison. Errors: RunError where it cannot be written.
    """
    loader = PackageLoader("osler")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["thumbnail"] = thumbnail
    page = environment.get_template("compare.html.jinja").render(comparison=comparison, rule=RULE, letters=LETTERS)
    return write_named(file, page)


def _model(evaluated: Evaluated) -> Model:
    records = evaluated.records
    judged = [record for record in records if right(record) is not None]
    tokens = [record.tokens for record in records if record.tokens is not None]
    return Model(
        label=evaluated.label,
        name=evaluated.run.name,
        state=str(evaluated.run.manifest.get("state")),
        strategy=", ".join(sorted({record.strategy for record in records})),
        accuracy=proportion([bool(right(record)) for record in judged], [record.sample.cluster for record in judged]),
        unparseable=sum(map(unparseable, records)),
        unjudged=len(records) - len(judged),
        truncated=sum(record.truncated for record in records),
        mean_tokens=sum(tokens) / len(tokens) if tokens else None,
    )


def _row(stratum: str, row: str, evaluated: Sequence[Evaluated], known: frozenset[Phrase]) -> Row:
    """The row of this id, with the images of the first model that was shown them as they are."""
    samples = [one.rows[row][1].sample for one in evaluated]
    images = next((sample.images for sample in samples if not any(map(_made, sample.images))), samples[0].images)
    return Row(stratum, samples[0], images, tuple(_answer(one, row, images, known) for one in evaluated))


def _answer(evaluated: Evaluated, row: str, images: Sequence[str], known: frozenset[Phrase]) -> Answer:
    line, record = evaluated.rows[row]
    text, form = record.completion, evaluated.answer_form
    found = (" ".join(text[start:end].casefold().split()) for start, end in find_terms(text, known))
    return Answer(
        label=evaluated.label,
        line=line,
        record=record,
        outcome=_outcome(record),
        parts=tuple(take_apart(text, known)),
        repetition=repetition(text, N_GRAM),
        terms=tuple(dict.fromkeys(found)),
        consistent=consistent(record.sample, record.parsed, form) if form else None,
        saw=_saw(record.sample.images, images),
    )


def _outcome(record: Record) -> Outcome:
    judged = right(record)
    if judged:
        return "right"
    return "unparseable" if unparseable(record) else "unjudged" if judged is None else "wrong"


def _made(reference: str) -> str | None:
    """How `reference` begins where it is made from another image."""
    return next((prefix for prefix in MADE if reference.startswith(prefix)), None)


def _saw(given: Sequence[str], shown: Sequence[str]) -> str | None:
    """What a model was `given`, in words, where that is not `shown`."""
    if list(map(_image, given)) == list(map(_image, shown)):
        return None
    kinds = {_made(reference) for reference in given}
    return "no image" if not kinds else SEEN[kinds.pop()] if len(kinds) == 1 else SEEN[None]


def _image(reference: str) -> tuple[str, str]:
    """What tells images apart: how each was made and its name; the same data may lie in another folder on another machine."""
    inner = underlying(reference)
    return reference.removesuffix(inner), inner if inner.startswith(PHANTOM) else Path(inner).name
