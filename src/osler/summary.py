"""Records -> numbers: the one place where outcomes are counted, for an evaluation's summary and for a matrix alike."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from osler.errors import RunError
from osler.floor import OptionPrior, floor_accuracy
from osler.runs import Run
from osler.schema import Outcome, Record, Sample
from osler.stats import Estimate, proportion
from osler.taxonomy import Modality, QuestionType

SMALL = 100
"""A cell with fewer rows than this is flagged: where half of 100 are right, the interval is already 19 points wide."""

AXES: dict[str, tuple[Callable[[Sample], str], tuple[str, ...]]] = {
    "modality": (lambda sample: sample.modality, tuple(Modality)),
    "question_type": (lambda sample: sample.question_type, tuple(QuestionType)),
    "source": (lambda sample: sample.source or "unknown", ()),
}
"""Each axis: how to read a sample's label off it, and the labels whose order is fixed (others follow by name)."""


@dataclass(frozen=True)
class Cell:
    """What one set of records comes to.

    `accuracy` reads answers strictly, `lenient` takes the first that can be found; each leaves out, and so does not count in
    its n, what its grading left unjudged. `floor` is of the rows of `accuracy` that are no open question; None where no prior
    is known. `unparseable` (strictly, and wrong), `unjudged` (strictly) and `truncated` are counts over all records.
    """

    accuracy: Estimate
    lenient: Estimate
    floor: Estimate | None
    unparseable: int
    unjudged: int
    truncated: int

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
            "n": self.n,
            "small": self.small,
            "unparseable": self.unparseable,
            "unjudged": self.unjudged,
            "truncated": self.truncated,
        }


def read_records(run: Run) -> list[Record]:
    """The records of the evaluation `run`, in the order of its file. Errors: RunError at a line that is no record."""
    records = []
    for number, row in enumerate(run.rows("records"), 1):
        try:
            records.append(Record.from_json(row))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RunError(f"{run.path / 'records.jsonl'}, line {number} is no record ({error}). Evaluate again.") from error
    return records


def cell(records: Sequence[Record], prior: OptionPrior | None = None) -> Cell:
    """The cell of `records`; `prior` was fitted on the rows of the last run that trained the evaluated model."""
    strict = [_outcome(record.parsed.answer, record.verdict.outcome) for record in records]
    lenient = [_outcome(record.parsed.lenient, record.verdict.lenient) for record in records]
    judged = [record.sample for record, outcome in zip(records, strict, strict=True) if outcome is not Outcome.UNJUDGED]
    return Cell(
        accuracy=_accuracy(records, strict),
        lenient=_accuracy(records, lenient),
        floor=floor_accuracy(prior, judged) if prior else None,
        unparseable=sum(_unparseable(record) for record in records),
        unjudged=strict.count(Outcome.UNJUDGED),
        truncated=sum(record.truncated for record in records),
    )


def cells(records: Iterable[Record], axis: str, prior: OptionPrior | None = None) -> dict[str, Cell]:
    """The cell of each label of `axis` that occurs, in order."""
    label_of, _ = AXES[axis]
    by_label: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_label[str(label_of(record.sample))].append(record)
    return {label: cell(by_label[label], prior) for label in in_order(by_label, axis)}


def in_order(labels: Iterable[str], axis: str) -> list[str]:
    """The different `labels` of `axis`, sorted by `place`."""
    return sorted(set(labels), key=lambda label: place(label, axis))


def place(label: str, axis: str) -> tuple[int, str]:
    """A key to sort by: the order of the taxonomy, then, for labels that it does not hold, the alphabet."""
    _, fixed = AXES[axis]
    return (fixed.index(label) if label in fixed else len(fixed)), label


def summarise(records: Sequence[Record], prior: OptionPrior | None = None) -> dict[str, Any]:
    """summary.json of an evaluation: the cell of all records, their form and length, and the cells along each axis."""
    well_formed = [record.parsed.well_formed for record in records]
    return {
        **cell(records, prior).to_json(),
        "format_rate": proportion(well_formed, _clusters(records)).to_json(),
        "mean_tokens": sum(record.tokens for record in records) / len(records) if records else None,
        **{f"by_{axis}": {label: part.to_json() for label, part in cells(records, axis, prior).items()} for axis in AXES},
    }


def _unparseable(record: Record) -> bool:
    """Whether the strict reading found no possible answer: the form was broken, or what stands in its place is none."""
    unread = record.verdict.compared is None and record.verdict.outcome is not Outcome.UNJUDGED
    return record.parsed.answer is None or unread


def _outcome(answer: str | None, outcome: Outcome) -> Outcome:
    """`outcome`, but wrong where no answer could be read: there was nothing to judge, so that no grader can have failed."""
    return Outcome.INCORRECT if answer is None else outcome


def _accuracy(records: Sequence[Record], outcomes: Sequence[Outcome]) -> Estimate:
    judged = [pair for pair in zip(records, outcomes, strict=True) if pair[1] is not Outcome.UNJUDGED]
    return proportion([outcome is Outcome.CORRECT for _, outcome in judged], _clusters([record for record, _ in judged]))


def _clusters(records: Iterable[Record]) -> list[str]:
    return [record.sample.cluster for record in records]
