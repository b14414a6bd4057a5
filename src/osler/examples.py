"""Examples for the report: rollouts by their groups, records right and wrong, and where two evaluations disagree.

They are picked by even spacing, never by how they look.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self, TypeVar

from osler.errors import DataError
from osler.images import open_image
from osler.looking import Looking
from osler.runs import Run
from osler.schema import Outcome, Record
from osler.stats import Estimate, paired_difference
from osler.summary import read_records

THUMBNAIL_PX = 224
GROUPS, OF_A_GROUP = 10, 4
"""Groups of rollouts on a page, over all runs, and the completions shown of each."""
ANSWERS, DISAGREEMENTS = 24, 6
"""Records shown of the last evaluation, and of each way in which two evaluations disagree."""
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation run, what it is called on the page, and the numbers of its summary.json."""

    label: str
    run: Run
    accuracy: Estimate
    lenient: Estimate
    floor: Estimate | None
    format_rate: Estimate
    mean_tokens: float | None
    counts: dict[str, int]
    controls: dict[str, Looking]

    @classmethod
    def read(cls, label: str, run: Run) -> Self:
        """The evaluation `run`. Errors: RunError where it has not finished."""
        summary = run.summary
        parts = {key: Estimate(**summary[key]) for key in ("accuracy", "lenient", "format_rate")}
        floor = Estimate(**summary["floor"]) if summary["floor"] else None
        counts = {key: summary[key] for key in ("unparseable", "unjudged", "truncated")}
        controls = {name: Looking.from_json(one) for name, one in summary["controls"].items()}
        return cls(label, run, floor=floor, mean_tokens=summary["mean_tokens"], counts=counts, controls=controls, **parts)

    def records(self) -> list[Record]:
        """The evaluated samples, as they stand in the run folder. Errors: RunError at a damaged one."""
        return read_records(self.run)


@dataclass(frozen=True)
class Group:
    """Completions of one prompt in one step: `shown` of all `size`, from the lowest reward to the highest."""

    phase: str
    step: int
    line: int
    size: int
    prompt: str
    gold: str
    images: list[str]
    shown: list[dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """A record of an evaluation, by its line in records.jsonl; `right` is None where the grader could not judge it."""

    line: int
    record: Record
    right: bool | None
    gold: str


@dataclass(frozen=True)
class Disagreement:
    """Two evaluations on the same rows. `counts` by (first right, last right); `pairs` are examples of the unequal ones."""

    first: str
    last: str
    difference: Estimate
    counts: dict[tuple[bool, bool], int]
    pairs: list[tuple[Answer, Answer]]


def groups(run: Run, count: int) -> list[Group]:
    """`count` groups of `run`, evenly spaced from the first step to the last; fewer where it has fewer."""
    numbered = enumerate(run.rows("rollouts"), 1)
    found = [list(group) for _, group in groupby(numbered, lambda item: (item[1]["step"], item[1]["sample_id"]))]
    chosen = evenly(found, count)
    return [_group(group, ("early", "middle", "late")[3 * k // len(chosen)]) for k, group in enumerate(chosen)]


def _group(numbered: Sequence[tuple[int, dict[str, Any]]], phase: str) -> Group:
    line, first = numbered[0]
    ranked = sorted((row for _, row in numbered), key=lambda row: -float("inf") if row["reward"] is None else row["reward"])
    shared = {key: first[key] for key in ("step", "prompt", "gold", "images")}
    return Group(phase=phase, line=line, size=len(ranked), shown=evenly(ranked, OF_A_GROUP), **shared)


def answers(evaluation: Evaluation) -> list[tuple[str, int, list[Answer]]]:
    """Examples of right, wrong and unjudged records: a title, how many there are, and those shown, evenly spaced."""
    read = _answers(evaluation.records())
    kinds = [
        (title, [a for a in read if a.right is right])
        for title, right in (("Right", True), ("Wrong", False), ("Unjudged", None))
    ]
    present = [(title, found) for title, found in kinds if found]
    return [(title, len(found), evenly(found, ANSWERS // len(present))) for title, found in present]


def _answers(records: Iterable[Record]) -> list[Answer]:
    return [Answer(line, record, _right(record), _gold(record)) for line, record in enumerate(records, 1)]


def _right(record: Record) -> bool | None:
    """Whether `record` counts as right; None where it was not judged. Without an answer to judge it is wrong."""
    if record.parsed.answer is None:
        return False
    return None if record.verdict.outcome is Outcome.UNJUDGED else record.verdict.outcome is Outcome.CORRECT


def _gold(record: Record) -> str:
    gold, text = record.verdict.gold, record.sample.golds[0]
    return gold if gold == text else f"{gold} ({text})"


def disagreement(first: Evaluation, last: Evaluation) -> Disagreement | None:
    """Where `first` and `last` differ on the samples that both judged; None where they share none."""
    before = {answer.record.sample.id: answer for answer in _answers(first.records()) if answer.right is not None}
    after = {answer.record.sample.id: answer for answer in _answers(last.records()) if answer.right is not None}
    pairs = [(before[key], after[key]) for key in before if key in after]
    if not pairs:
        return None
    scores = [(bool(a.right), bool(b.right)) for a, b in pairs]
    clusters = [a.record.sample.cluster for a, _ in pairs]
    ways = ((False, True), (True, False))
    examples = [
        evenly([pair for pair, way in zip(pairs, scores, strict=True) if way == unequal], DISAGREEMENTS) for unequal in ways
    ]
    return Disagreement(
        first=first.label,
        last=last.label,
        difference=paired_difference([b for _, b in scores], [a for a, _ in scores], clusters),
        counts={(a, b): scores.count((a, b)) for a in (True, False) for b in (True, False)},
        pairs=[pair for found in examples for pair in found],
    )


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of `items` with the first, the last and even gaps between; all of them where there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / max(1, count - 1))] for k in range(count)]


def thumbnail(reference: str) -> str | None:
    """The image as a small JPEG in a data URI; None where it cannot be opened any more."""
    try:
        image = open_image(reference)
    except DataError:
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
