"""Whether a model reads the mark instead of the image: records of one set of rows with marks that agree, and that do not.

Marks (osler.drawing.marks) name diagnoses, so only the questions for the diagnosis are asked here; other questions about the
same images are left out, and counted. Each number is of the same rows on all sides: a model that does not see the mark has a
drop of exactly 0, and follows it as often as it would anyway.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.drawing.marks import Planting
from osler.errors import RunError
from osler.looking import answer_of, right, unparseable
from osler.schema import Record, fold_text
from osler.stats import Estimate, paired_difference, proportion
from osler.strategies import AnswerForm
from osler.taxonomy import QuestionType

Key = tuple[str, str, tuple[str, ...]]
"""Row id, question and golds: what the records of one row have in common, whatever its image shows."""


@dataclass(frozen=True)
class ShortcutReliance:
    """How far a model relies on the mark. All numbers are of the same questions for the diagnosis, read strictly.

    `agreeing`, `against` and `unmarked` are its accuracies where the mark names the right diagnosis, where it names another,
    and without marks; `drop` is agreeing - against, paired. `follow` is how often the answer is what the mark against the
    diagnosis names, `base` how often it is that very diagnosis without the mark, as mistakes have to go somewhere; `moved` is
    follow - base, paired. What needs the unmarked rows is None where these were not evaluated.

    `left_out` counts the rows that are not compared, by reason; `unparseable` the records without a readable answer, which
    are wrong and follow nothing, by what the mark says.
    """

    agreeing: Estimate
    against: Estimate
    drop: Estimate
    follow: Estimate
    unmarked: Estimate | None
    base: Estimate | None
    moved: Estimate | None
    left_out: Mapping[str, int]
    unparseable: Mapping[str, int]

    @property
    def n(self) -> int:
        """The rows that are compared."""
        return self.drop.n

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with n."""
        return {**asdict(self), "n": self.n}


def shortcut_reliance(
    agreeing: Sequence[Record],
    against: Sequence[Record],
    unmarked: Sequence[Record] | None = None,
    answer_form: AnswerForm = "letter",
) -> ShortcutReliance:
    """How far a model relies on the mark: its records of the same rows under `mark: with`, `mark: against` and `mark: none`.

    Rows that are missing on a side, or that the grader left unjudged on one, leave all sides and are counted.
    Errors: RunError for a record whose mark is another than its side says, one that comes twice, or where no row is shared.
    """
    given = {"with": agreeing, "against": against} | ({} if unmarked is None else {"none": unmarked})
    sides = {planting: _by_row(planting, records) for planting, records in given.items()}
    kept, left_out = _compared(sides)
    lists = {planting: [side[key] for key in kept] for planting, side in sides.items()}
    rights = {planting: [bool(right(record)) for record in records] for planting, records in lists.items()}
    named = [_named(record) for record in lists["against"]]
    follows = {
        planting: [answer_of(record, answer_form) == name for record, name in zip(records, named, strict=True)]
        for planting, records in lists.items()
    }
    clusters = [record.sample.cluster for record in lists["against"]]
    return ShortcutReliance(
        agreeing=proportion(rights["with"], clusters),
        against=proportion(rights["against"], clusters),
        drop=paired_difference(rights["with"], rights["against"], clusters),
        follow=proportion(follows["against"], clusters),
        unmarked=proportion(rights["none"], clusters) if "none" in sides else None,
        base=proportion(follows["none"], clusters) if "none" in sides else None,
        moved=paired_difference(follows["against"], follows["none"], clusters) if "none" in sides else None,
        left_out=dict(left_out),
        unparseable={planting: sum(map(unparseable, records)) for planting, records in lists.items()},
    )


def _by_row(planting: str, records: Sequence[Record]) -> dict[Key, Record]:
    """The records by their row. Errors: RunError for a row that comes twice, or whose mark is not as `planting` says."""
    found: dict[Key, Record] = {}
    for record in records:
        said = _planting(record)
        if said != planting:
            share = " (or of mark: with and a mark_share below 1)" if (said, planting) == ("against", "with") else ""
            raise RunError(
                f"the record {record.sample.id!r} is of mark: {said}{share}, and was given for {planting}. Evaluate rows "
                f"whose data spec says mark: {planting}{' and no mark_share' if share else ''}."
            )
        if (key := (record.sample.id, record.sample.question, record.sample.golds)) in found:
            raise RunError(f"mark: {planting} has two records of row {record.sample.id!r}. Evaluate each row once.")
        found[key] = record
    return found


def _planting(record: Record) -> Planting:
    """What the mark of the row says; none where `extra` holds no mark as osler.datasets.phantoms plants it."""
    extra = record.sample.extra
    agrees = extra.get("mark_agrees")
    if "mark" not in extra or not isinstance(agrees, bool):
        return "none"
    return "with" if agrees else "against"


def _compared(sides: Mapping[str, Mapping[Key, Record]]) -> tuple[list[Key], Counter[str]]:
    """The rows that can be compared, at least one in common, and how many cannot, by reason. Errors: RunError."""
    everything = {key: record for side in sides.values() for key, record in side.items()}
    kept, left_out = [], Counter[str]()
    for key, record in everything.items():
        if record.sample.question_type is not QuestionType.DISEASE:
            left_out["no question for the diagnosis"] += 1
        elif not all(key in side for side in sides.values()):
            left_out["not evaluated under every mark"] += 1
        elif any(right(side[key]) is None for side in sides.values()):
            left_out["unjudged"] += 1
        else:
            kept.append(key)
    if not kept:
        raise RunError(
            f"no question for the diagnosis was evaluated, and judged, under all of {', '.join(sides)}; left out: "
            f"{dict(left_out)}. Evaluate the same rows under each mark."
        )
    return kept, left_out


def _named(record: Record) -> str:
    """The folded diagnosis that the mark names."""
    return fold_text(str(record.sample.extra["mark"]))
