"""One evaluation against another on the same rows: a contrast, and a family of primary ones.

Every contrast is of checkpoints as they are, clustered by image or patient; what another training run of either method would
give is not asked (`osler.significance.hierarchical_difference` does, over seeds). A family of at most five named contrasts
confirms, by Holm's p; the cells of two matrices describe, by Benjamini and Hochberg's q.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.errors import RecipeError, RunError
from osler.looking import Pair, match, right
from osler.schema import Outcome, Record, Sample
from osler.significance import PRIMARY, PairedTest, holm, paired_change, paired_test
from osler.stats import Estimate, paired_difference, proportion
from osler.summary import Passes


@dataclass(frozen=True)
class Reliance:
    """How far the visual reliance of `a`, its accuracy less that with blank images, is above that of `b`: `change`.

    All three are of the rows that both have under blank, judged on all four sides; `left_out` counts the others.
    """

    a: Estimate
    b: Estimate
    change: PairedTest
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "change": self.change.to_json()}


@dataclass(frozen=True)
class Contrast:
    """Evaluation `a` against evaluation `b` on the same rows, read strictly: `test` is of accuracy a - accuracy b.

    `lenient` is the difference where answers are read leniently: where it is much smaller, the rest is form. Rows that either
    side's grader left unjudged are left out and counted, each reading by itself; `unjudged` is of the strict one. `reliance` is
    None where one side was not evaluated with blank images.
    """

    a: Estimate
    b: Estimate
    test: PairedTest
    lenient: Estimate
    unjudged: int
    reliance: Reliance | None

    @property
    def n(self) -> int:
        """The rows compared."""
        return self.test.n

    def to_json(self) -> dict[str, Any]:
        """What `test` holds, with the other fields by name."""
        return {
            **self.test.to_json(),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "lenient": self.lenient.to_json(),
            "unjudged": self.unjudged,
            "reliance": self.reliance.to_json() if self.reliance else None,
        }


@dataclass(frozen=True)
class Family:
    """Primary contrasts by name, and the p of each that Holm adjusted: below 0.05 means found, for the family as a whole."""

    contrasts: Mapping[str, Contrast]
    adjusted: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Each contrast by its name, with `p_holm`."""
        return {name: {**one.to_json(), "p_holm": self.adjusted[name]} for name, one in self.contrasts.items()}


def contrast(a: Passes | Sequence[Record], b: Passes | Sequence[Record]) -> Contrast:
    """How `a` compares with `b`, two evaluations of the same rows: the same ids, questions and golds, in whatever order.

    Images may differ, as those of a blind twin do. Rows are clustered as in `a`.
    Errors: RunError where a row is in one only, or twice in either, with how many are shared.
    """
    return contrast_of(_passes(a), _passes(b), "the two evaluations")


def family(contrasts: Mapping[str, Contrast]) -> Family:
    """The primary `contrasts` by name, each with its p adjusted by Holm over them all.

    Errors: RecipeError beyond `PRIMARY` of them; RunError where one has no row.
    """
    if len(contrasts) > PRIMARY:
        raise RecipeError(f"{len(contrasts)} contrasts are no primary family: name at most {PRIMARY}, and describe the others.")
    p_values = {name: one.test.p for name, one in contrasts.items() if one.test.p is not None}
    if empty := [name for name in contrasts if name not in p_values]:
        raise RunError(f"the contrast {empty[0]!r} has no row to test. Leave it out of the family, or evaluate again.")
    return Family(contrasts, holm(p_values))


def _passes(one: Passes | Sequence[Record]) -> Passes:
    return one if isinstance(one, Passes) else Passes(one)


def contrast_of(a: Passes, b: Passes, where: str) -> Contrast:
    """As `contrast`; `where` says in an error which evaluations were compared."""
    pairs = _paired(a.real, b.real, where)
    rights = [(one, right(one), right(other)) for one, other in pairs]
    judged = [(one, mine, its) for one, mine, its in rights if mine is not None and its is not None]
    values_a, values_b = [mine for _, mine, _ in judged], [its for _, _, its in judged]
    clusters = [one.sample.cluster for one, _, _ in judged]
    return Contrast(
        a=proportion(values_a, clusters),
        b=proportion(values_b, clusters),
        test=paired_test(values_a, values_b, clusters),
        lenient=_lenient_difference(pairs),
        unjudged=len(pairs) - len(judged),
        reliance=_reliance(a, b),
    )


def _paired(a: Sequence[Record], b: Sequence[Record], where: str) -> list[tuple[Record, Record]]:
    """The two records of each row, in the order of `a`. Errors: RunError where the rows are not the same."""
    first, second = ({_row(one.sample): one for one in records} for records in (a, b))
    if len(first) < len(a) or len(second) < len(b):
        raise RunError(f"{where}: one holds a row twice. Evaluate again, each row once.")
    shared = first.keys() & second.keys()
    if len(shared) < max(len(first), len(second)):
        raise RunError(
            f"{where} are not of the same rows: they share {len(shared)}, {len(first) - len(shared)} are only in the first and "
            f"{len(second) - len(shared)} only in the second. Evaluate both on the same data and split."
        )
    return [(one, second[key]) for key, one in first.items()]


def _row(sample: Sample) -> tuple[str, str, tuple[str, ...]]:
    return sample.id, sample.question, sample.golds


def _lenient_difference(pairs: Sequence[tuple[Record, Record]]) -> Estimate:
    both = [(one.sample.cluster, _lenient(one), _lenient(other)) for one, other in pairs]
    judged = [(cluster, mine, its) for cluster, mine, its in both if mine is not None and its is not None]
    clusters = [cluster for cluster, _, _ in judged]
    return paired_difference([mine for _, mine, _ in judged], [its for _, _, its in judged], clusters)


def _lenient(record: Record) -> bool | None:
    """Whether the lenient reading is right; None where the grader left it unjudged. Without an answer it is wrong."""
    if record.parsed.lenient is None:
        return False
    return None if record.verdict.lenient is Outcome.UNJUDGED else record.verdict.lenient is Outcome.CORRECT


def _reliance(a: Passes, b: Passes) -> Reliance | None:
    """The change of visual reliance from `b` to `a`, None where either lacks the control blank."""
    if not ("blank" in a.controls and "blank" in b.controls):
        return None
    mine, its = ({pair.real.sample.id: pair for pair in match("blank", one.real, one.controls["blank"])[0]} for one in (a, b))
    judged = [
        (pair.real.sample.cluster, sides)
        for row, pair in mine.items()
        if row in its and None not in (sides := (*_sides(pair), *_sides(its[row])))
    ]
    clusters = [cluster for cluster, _ in judged]
    real_a, blank_a, real_b, blank_b = ([bool(sides[k]) for _, sides in judged] for k in range(4))
    return Reliance(
        a=paired_difference(real_a, blank_a, clusters),
        b=paired_difference(real_b, blank_b, clusters),
        change=paired_change((real_b, blank_b), (real_a, blank_a), clusters),
        left_out=len(a.real) - len(judged),
    )


def _sides(pair: Pair) -> tuple[bool | None, bool | None]:
    """Whether a row is right as it is, and blank."""
    (blank,) = pair.made.values()
    return right(pair.real), right(blank)


# --- matrices
