"""Records -> numbers: the one place where outcomes are counted, for an evaluation's summary and for a matrix alike."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from osler.bands import UNKNOWN, number_in, parted, require_few
from osler.classification import classify
from osler.datasets.columns import reads_absent
from osler.errors import RecipeError, RunError, unknown
from osler.floor import best
from osler.looking import Looking, look, right, unparseable
from osler.reasoning.forcing import post_hoc
from osler.reasoning.quality import perplexity_of, reasoning_of
from osler.repeated import measure
from osler.runs import Run
from osler.schema import LETTERS, Kind, Outcome, Record, Sample, fold_text
from osler.stats import Estimate, proportion
from osler.strategies import AnswerForm, offered
from osler.taxonomy import Modality, QuestionType

SMALL = 100
"""A cell with fewer rows than this is flagged: where half of 100 are right, the interval is already 19 points wide."""

AXES: dict[str, tuple[Callable[[Sample], str], tuple[str, ...]]] = {
    "modality": (lambda sample: sample.modality, tuple(Modality)),
    "question_type": (lambda sample: sample.question_type, tuple(QuestionType)),
    "source": (lambda sample: sample.source or UNKNOWN, ()),
    "language": (lambda sample: sample.language, ()),
}
"""Each axis: how to read a sample's label off it, and the labels whose order is fixed (others follow by name)."""
EXTRA = "extra:"


def axis_of(axis: str) -> tuple[Callable[[Sample], str], tuple[str, ...]]:
    """The entry of `AXES`, or for "extra:KEY" one that reads KEY off `Sample.extra`: "unknown" where a sample does not say.

    "extra:KEY@18,40,65" puts numbers in bands (`osler.bands`), in their order. Errors: RecipeError for an axis that is none.
    """
    if axis not in AXES and axis.removeprefix(EXTRA) in ("", axis):
        raise RecipeError(unknown("axis", axis, [*AXES, f"{EXTRA}KEY"]))
    if axis in AXES:
        return AXES[axis]
    key, bands, _ = parted(axis.removeprefix(EXTRA))

    def label_of(sample: Sample) -> str:
        number = number_in(sample.extra.get(key)) if bands else None
        return _extra(sample, key) if bands is None or number is None else bands.of(number)

    return label_of, bands.labels if bands else ()


@dataclass(frozen=True)
class Cell:
    """What one set of records comes to.

    `accuracy` reads answers strictly, `lenient` takes the first that can be found; each leaves out, and so does not count in
    its n, what its grading left unjudged. `floor` is what the best of the blind attackers, `attacker`, scores on the rows of
    `accuracy` that are no open question; None where none was fitted. `controls` are the same rows with something taken away.
    `unparseable` (strictly, and wrong), `unjudged` (strictly) and `truncated` are counts over all records.
    """

    accuracy: Estimate
    lenient: Estimate
    floor: Estimate | None
    attacker: str | None
    unparseable: int
    unjudged: int
    truncated: int
    controls: Mapping[str, Looking]

    @property
    def n(self) -> int:
        """The rows that `accuracy` is a mean of."""
        return self.accuracy.n

    @property
    def small(self) -> bool:
        """Whether `n` is too small to compare by."""
        return self.n < SMALL

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with n and small."""
        return {
            "accuracy": self.accuracy.to_json(),
            "lenient": self.lenient.to_json(),
            "floor": self.floor.to_json() if self.floor else None,
            "attacker": self.attacker,
            "n": self.n,
            "small": self.small,
            "unparseable": self.unparseable,
            "unjudged": self.unjudged,
            "truncated": self.truncated,
            "controls": {name: looking.to_json() for name, looking in self.controls.items()},
        }


def read_records(run: Run, file: str = "records") -> list[Record]:
    """The records of the evaluation `run` (`records`, `controls`, `samples` or `forced`), in the order of its file.

    Errors: RunError at a line that is no record.
    """
    records = []
    for number, row in enumerate(run.rows(file), 1):
        try:
            records.append(Record.from_json(row))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RunError(f"{run.path / file}.jsonl, line {number} is no record ({error}). Evaluate again.") from error
    return records


@dataclass(frozen=True)
class Passes:
    """What an evaluation left: the records of the rows as they are, and of each control those of the rows that it made.

    `left_out` counts for each control the rows that it could not be applied to, by reason. `answer_form` is how choices were
    answered; `samples` are the records of rows that were answered several times at a temperature, `forced` those of rows whose
    completion was begun with another answer, `forced_left_out` counts rows that could have none. `losses` are the summed loss
    and the tokens of thoughts, by id, under the `text_model`.
    """

    real: Sequence[Record]
    controls: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    answer_form: AnswerForm = "letter"
    samples: Sequence[Record] = ()
    forced: Sequence[Record] = ()
    forced_left_out: Mapping[str, int] = field(default_factory=dict)
    text_model: str | None = None
    losses: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Run) -> Self:
        """What the evaluation `run` left. Errors: RunError where a record is damaged."""
        made: defaultdict[str, list[Record]] = defaultdict(list)
        for record in read_records(run, "controls"):
            made[str(record.sample.extra["control"])].append(record)
        if "answer_form" not in (run.manifest.get("trial") or {}):
            raise RunError(f"{run.path}: its manifest does not say how answers were asked for (trial). Evaluate again.")
        facts, asked = run.manifest.get("controls", {}), run.manifest["trial"].get("controls", {})
        controls = {name: made.get(name, []) for name in dict.fromkeys((*facts.get("names", ()), *made))}
        return cls(
            real=read_records(run),
            controls=controls,
            left_out=facts.get("left_out", {}),
            answer_form=run.manifest["trial"]["answer_form"],
            samples=read_records(run, "samples"),
            forced=read_records(run, "forced"),
            forced_left_out=facts.get("forced_left_out", {}),
            text_model=asked.get("perplexity"),
            losses={row["id"]: (row["loss"], row["tokens"]) for row in run.rows("perplexity")},
        )

    def along(self, axis: str) -> dict[str, Self]:
        """The part of each label of `axis` that occurs, in order; a control's rows go with the rows that they were made of."""
        label_of, _ = axis_of(axis)
        by_label: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.real:
            by_label[str(label_of(record.sample))].append(record)
        return {label: self._part(by_label[label]) for label in in_order(by_label, axis)}

    def _part(self, real: Sequence[Record]) -> Self:
        ids = {record.sample.id for record in real}
        made = {name: [one for one in records if one.sample.extra["of"] in ids] for name, records in self.controls.items()}
        controls = {name: records for name, records in made.items() if records}
        return replace(self, real=real, controls=controls, left_out={}, samples=(), forced=(), forced_left_out={})


def cell(passes: Passes) -> Cell:
    """The cell of what an evaluation left."""
    records = passes.real
    strict = [_strict(record) for record in records]
    lenient = [_outcome(record.parsed.lenient, record.verdict.lenient) for record in records]
    judged = [record for record, outcome in zip(records, strict, strict=True) if outcome is not Outcome.UNJUDGED]
    blind = best([record.blind for record in judged], _clusters(judged))
    return Cell(
        accuracy=_accuracy(records, strict),
        lenient=_accuracy(records, lenient),
        floor=blind[1] if blind else None,
        attacker=blind[0] if blind else None,
        unparseable=sum(map(unparseable, records)),
        unjudged=strict.count(Outcome.UNJUDGED),
        truncated=sum(record.truncated for record in records),
        controls={
            name: look(name, records, made, passes.left_out.get(name), passes.answer_form)
            for name, made in passes.controls.items()
        },
    )


def cells(passes: Passes, axis: str) -> dict[str, Cell]:
    """The cell of each label of `axis` that occurs, in order."""
    return {label: cell(part) for label, part in passes.along(axis).items()}


def in_order(labels: Iterable[str], axis: str) -> list[str]:
    """The different `labels` of `axis`, sorted by `place`.

    Errors: RecipeError where they are numbers or texts of the rows' own, and too many to be slices.
    """
    found = set(labels)
    if axis.startswith(EXTRA):
        require_few(axis.removeprefix(EXTRA), found)
    return sorted(found, key=lambda label: place(label, axis))


def place(label: str, axis: str) -> tuple[int, float, str]:
    """A key to sort by: the order of the taxonomy or of bands, then numbers, the alphabet, and last what is unknown."""
    _, fixed = axis_of(axis)
    if label in fixed:
        return fixed.index(label), 0.0, label
    number = number_in(label)
    return len(fixed) + (label == UNKNOWN), math.inf if number is None else number, label


def summarise(passes: Passes) -> dict[str, Any]:
    """summary.json of an evaluation: the cell of all records, their form and length, yes/no and letters as a classifier's
    answers, several answers to a row, how completions reason (osler.reasoning.quality), and the cells along each axis."""
    records = passes.real
    repeated = measure(passes.samples, passes.answer_form)
    well_formed = [record.parsed.well_formed for record in records]
    yesno = [record for record in records if set(map(fold_text, offered(record.sample))) == {"yes", "no"}]
    return {
        **cell(passes).to_json(),
        "format_rate": proportion(well_formed, _clusters(records)).to_json(),
        "mean_tokens": _mean([record.tokens for record in records if record.tokens is not None]),
        "yesno": _as_classes([record for record in yesno if record.sample.kind is Kind.YESNO], "yes"),
        "letters": _as_classes([record for record in records if record.sample.gold_letter], None, passes.answer_form),
        "samples": repeated.to_json() if repeated else None,
        "reasoning": _reasoning(passes),
        **{f"by_{axis}": {label: part.to_json() for label, part in cells(passes, axis).items()} for axis in AXES},
    }


def _reasoning(passes: Passes) -> dict[str, Any]:
    """How the completions of `passes` reason; perplexity and the forced-answer test are null where they were not asked for."""
    model = passes.text_model
    perplexity = perplexity_of(model, passes.losses, passes.real) if model and passes.losses else None
    forced = post_hoc(passes.real, passes.forced, passes.answer_form, passes.forced_left_out)
    return reasoning_of(passes.real, passes.answer_form, perplexity, forced).to_json()


def _extra(sample: Sample, key: str) -> str:
    """What `sample` says of `key`; a whole number is written alike whether it was stored as 3, 3.0 or "3.0"."""
    value = sample.extra.get(key)
    text = "" if value is None else str(value).strip()
    return UNKNOWN if reads_absent(text) else re.sub(r"(?<=^\d)(\d*)\.0+$", r"\1", text)


def _strict(record: Record) -> Outcome:
    judged = right(record)
    return Outcome.UNJUDGED if judged is None else Outcome.CORRECT if judged else Outcome.INCORRECT


def _outcome(answer: str | None, outcome: Outcome) -> Outcome:
    """`outcome`, but wrong where no answer could be read: there was nothing to judge, so that no grader can have failed."""
    return Outcome.INCORRECT if answer is None else outcome


def _accuracy(records: Sequence[Record], outcomes: Sequence[Outcome]) -> Estimate:
    judged = [pair for pair in zip(records, outcomes, strict=True) if pair[1] is not Outcome.UNJUDGED]
    return proportion([outcome is Outcome.CORRECT for _, outcome in judged], _clusters([record for record, _ in judged]))


def _as_classes(records: Sequence[Record], positive: str | None, answer_form: AnswerForm = "text") -> dict[str, Any] | None:
    """Judged `records` as a classifier's answers, yes against no or by the gold's place; None where there are none."""
    judged = [record for record in records if right(record) is not None]
    if not judged:
        return None
    if positive:
        golds = [fold_text(record.sample.golds[0]) for record in judged]
        answers = [None if record.verdict.compared is None else fold_text(record.verdict.compared) for record in judged]
    else:
        golds, answers = (
            [str(record.sample.gold_letter) for record in judged],
            [_letter(record, answer_form) for record in judged],
        )
    return classify(golds, answers, _clusters(judged), positive).to_json()


def _letter(record: Record, answer_form: AnswerForm) -> str | None:
    """The letter of the option that was answered; of options that read alike the first. None where no option was answered."""
    answer, letters = record.verdict.compared, LETTERS[: len(record.sample.options)]
    as_letter = answer_form == "letter" and record.sample.kind is Kind.CHOICE
    if answer is None or (as_letter and answer in tuple(letters)):
        return answer
    folded = [fold_text(option) for option in record.sample.options]
    return letters[folded.index(fold_text(answer))] if fold_text(answer) in folded else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _clusters(records: Iterable[Record]) -> list[str]:
    return [record.sample.cluster for record in records]
