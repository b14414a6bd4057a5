"""Whether the model looked: the records of a pass with the real images and of each control -> numbers.

A control's records are matched to the real ones by the row that they were made from (`osler.controls`), and each number is of
the same rows on both sides. So a model that never uses the image has a difference of exactly 0 on blank, whatever it scores.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from osler.controls import CONTROLS
from osler.errors import RunError
from osler.floor import best
from osler.schema import LETTERS, Kind, Outcome, Record, fold_text
from osler.stats import EMPTY, Estimate, paired_difference, proportion
from osler.strategies import AnswerForm, offered

UNMATCHED = "not evaluated under the control"
INCOMPLETE = "not all variants were evaluated"


@dataclass(frozen=True)
class Follow:
    """How often the answer is what is right for the donor, where that is offered: shown its image, and shown the row's own.

    The second is the base rate: the donor's gold is a wrong option that the model may like whatever it is shown. `moved` is
    the paired difference of the two, the share of answers that the donor's image brought to its gold, less those it took away.
    """

    shown: Estimate
    base: Estimate
    moved: Estimate


@dataclass(frozen=True)
class Spread:
    """Of several wordings: the accuracy under the `worst`, and the paired difference of best and worst.

    Both are picked after the fact, so that where the wording does not matter at all the difference still is above 0.
    """

    worst: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Looking:
    """What a model scores on the same rows as they are (`real`) and under a control (`accuracy`), all read strictly.

    `difference` is real - accuracy, paired and clustered: under blank it is the visual reliance. Under options-circular a row
    is right only if it is right as it is and in every rotation; under prompts it counts the mean of its paraphrases.
    `identical` is the share of rows answered alike, by the text of the answer, in every variant; rows without any readable
    answer have no part in it. `variants` are the accuracies of rotations, paraphrases, or kinds of donor.

    Rows with an answer that the grader left unjudged leave both sides: `unjudged` counts them, `left_out` the rows that had no
    record to compare, by reason. `unparseable` counts records of the control with no readable answer, which are wrong;
    `unparseable_real` those of the same rows as they are: where the two differ much, the difference is one of form.
    """

    control: str
    real: Estimate
    accuracy: Estimate
    difference: Estimate
    identical: Estimate
    variants: Mapping[str, Estimate]
    follow: Follow | None
    spread: Spread | None
    left_out: Mapping[str, int]
    unjudged: int
    unparseable: int
    unparseable_real: int

    @property
    def n(self) -> int:
        """The rows that are compared."""
        return self.difference.n

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with n; `follow` and `spread` are null where the control has none."""
        return {**asdict(self), "n": self.n}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        parts = {name: part for name, part in value.items() if name != "n"}
        for name in ("real", "accuracy", "difference", "identical"):
            parts[name] = Estimate(**value[name])
        parts["variants"] = {name: Estimate(**one) for name, one in value["variants"].items()}
        for name, kind in (("follow", Follow), ("spread", Spread)):
            parts[name] = kind(**{key: Estimate(**one) for key, one in value[name].items()}) if value[name] else None
        return cls(**parts)

    def row(self) -> dict[str, str]:
        """What a person reads: a heading for each text, the same ones for every control. Numbers are per cent."""
        return {
            "control": self.control,
            "n": f"{self.n:,}",
            "as it is": _percent(self.real),
            "under the control": _percent(self.accuracy),
            "difference": _percent(self.difference),
            "same answer": _percent(self.identical),
            "besides": "; ".join(self._besides()),
        }

    def _besides(self) -> list[str]:
        said = []
        if self.follow and self.follow.shown.n:
            shown, base = _percent(self.follow.shown), _percent(self.follow.base)
            said.append(f"follows the donor {shown}, without it {base}, n = {self.follow.shown.n:,}")
        if self.spread:
            said.append(f"worst {_percent(self.spread.worst)}, best - worst {_percent(self.spread.difference)}")
        if self.unparseable or self.unparseable_real:
            said.append(f"unparseable {self.unparseable:,} (as it is: {self.unparseable_real:,})")
        if self.unjudged:
            said.append(f"unjudged {self.unjudged:,}")
        return said + [f"left out {count:,}: {reason}" for reason, count in self.left_out.items()]


@dataclass(frozen=True)
class Pair:
    """The record of a row as it is, and those of what a control made of it, by variant."""

    real: Record
    made: Mapping[str, Record]


def look(
    control: str,
    real: Sequence[Record],
    made: Sequence[Record],
    left_out: Mapping[str, int] | None = None,
    answer_form: AnswerForm = "letter",
) -> Looking:
    """The numbers of `control`: `real` are the records of the rows as they are, `made` those of what it made of them.

    `left_out` counts the rows of `real` that the control could not be applied to (`Controlled.left_out`); rows of `real` that
    are neither there nor in `made` are counted beside them. Errors: RunError for a record of another control or row.
    """
    pairs, missing = match(control, real, made)
    judged = [pair for pair in pairs if None not in (right(pair.real), *map(right, pair.made.values()))]
    unexplained = len(real) - len(pairs) - sum(missing.values()) - sum((left_out or {}).values())
    reasons = Counter({**(left_out or {}), **missing}) + Counter({UNMATCHED: max(0, unexplained)})
    before = [float(right(pair.real) or 0) for pair in judged]
    after = [_score(control, pair) for pair in judged]
    clusters = _clusters(judged)
    return Looking(
        control=control,
        real=proportion(before, clusters),
        accuracy=proportion(after, clusters),
        difference=paired_difference(before, after, clusters),
        identical=_identical(judged, answer_form),
        variants=_variants(judged),
        follow=_follow(judged, answer_form) if control == "shuffled" else None,
        spread=_spread(judged) if CONTROLS[control].score == "mean" else None,
        left_out=dict(reasons),
        unjudged=len(pairs) - len(judged),
        unparseable=sum(unparseable(record) for pair in pairs for record in pair.made.values()),
        unparseable_real=sum(unparseable(pair.real) for pair in pairs),
    )


def known_blind(real: Sequence[Record], made: Sequence[Record]) -> tuple[Estimate, Estimate] | None:
    """The accuracy with blank images and the floor, of the same rows: those that blind attackers can answer; None without any.

    Where the first is above the second in a model that osler did not train, it may have seen these rows before.
    """
    pairs, _ = match("blank", real, made)
    closed = [pair for pair in pairs if pair.real.blind and None not in map(right, pair.made.values())]
    floor = best([pair.real.blind for pair in closed], _clusters(closed))
    if floor is None:
        return None
    return proportion([bool(right(*pair.made.values())) for pair in closed], _clusters(closed)), floor[1]


def match(control: str, real: Sequence[Record], made: Sequence[Record]) -> tuple[list[Pair], Counter[str]]:
    """Each record of `real` that has all its records in `made`, with them; and how many have only some, by reason.

    Errors: RunError where `made` holds a record of another control, of no row of `real`, or one twice.
    """
    rows = {record.sample.id: record for record in real}
    found: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for record in made:
        of, variant = _origin(control, record), str(record.sample.extra["variant"])
        if of not in rows:
            raise RunError(
                f"the control {control} has a record of row {of!r}, which the real pass lacks. Evaluate the same rows."
            )
        if variant in found[of]:
            raise RunError(
                f"the control {control} has two records of row {of!r} ({variant or 'no variant'}). Evaluate it again."
            )
        found[of][variant] = record
    wanted = _variants_of(control, found)
    pairs = [Pair(record, found[of]) for of, record in rows.items() if of in found and len(found[of]) == wanted(record)]
    incomplete = len(found) - len(pairs)
    return pairs, Counter({INCOMPLETE: incomplete} if incomplete else {})


def answer_of(record: Record, answer_form: AnswerForm) -> str | None:
    """The folded text of what was answered, a letter's option, as read strictly; None where nothing could be read.

    Texts, since the letter of an option changes with the order of options.
    """
    answer, sample = record.verdict.compared, record.sample
    if answer is None:
        return None
    if sample.kind is Kind.CHOICE and answer_form == "letter" and answer in set(LETTERS[: len(sample.options)]):
        return fold_text(sample.options[LETTERS.index(answer)])
    return fold_text(answer)


def right(record: Record) -> bool | None:
    """Whether the strict reading is right; None where the grader left it unjudged. Without an answer it is wrong."""
    if record.parsed.answer is None:
        return False
    return None if record.verdict.outcome is Outcome.UNJUDGED else record.verdict.outcome is Outcome.CORRECT


def unparseable(record: Record) -> bool:
    """Whether the strict reading found no possible answer."""
    unread = record.verdict.compared is None and record.verdict.outcome is not Outcome.UNJUDGED
    return record.parsed.answer is None or unread


def _origin(control: str, record: Record) -> str:
    """The id of the row that `record` was made from. Errors: RunError where it is of another control."""
    extra = record.sample.extra
    if extra.get("control") != control:
        said = extra.get("control") or "none"
        raise RunError(
            f"the record {record.sample.id!r} is of the control {said}, not {control}. Hand over those of {control}."
        )
    return str(extra["of"])


def _variants_of(control: str, found: Mapping[str, Mapping[str, Record]]) -> Callable[[Record], int]:
    """How many records a row as it is must have under `control` to be compared."""
    if CONTROLS[control].score == "every":
        return lambda record: len(record.sample.options) - 1
    most = len({name for made in found.values() for name in made}) if CONTROLS[control].score == "mean" else 1
    return lambda record: most


def _score(control: str, pair: Pair) -> float:
    scores = [float(right(record) or 0) for record in pair.made.values()]
    if CONTROLS[control].score == "every":
        return min(float(right(pair.real) or 0), *scores)
    return sum(scores) / len(scores)


def _clusters(pairs: Sequence[Pair]) -> list[str]:
    return [pair.real.sample.cluster for pair in pairs]


def _variants(pairs: Sequence[Pair]) -> dict[str, Estimate]:
    """The accuracy of each variant; empty where the control has one only."""
    names = sorted({name for pair in pairs for name in pair.made} - {""})
    of = {name: [pair for pair in pairs if name in pair.made] for name in names}
    return {name: proportion([bool(right(pair.made[name])) for pair in of[name]], _clusters(of[name])) for name in names}


def _identical(pairs: Sequence[Pair], answer_form: AnswerForm) -> Estimate:
    answers = [[answer_of(record, answer_form) for record in (pair.real, *pair.made.values())] for pair in pairs]
    read = [(pair, given) for pair, given in zip(pairs, answers, strict=True) if set(given) != {None}]
    return proportion([len(set(given)) == 1 for _, given in read], _clusters([pair for pair, _ in read]))


def _follow(pairs: Sequence[Pair], answer_form: AnswerForm) -> Follow:
    could = [(pair, shown) for pair in pairs for shown in pair.made.values() if _donor_gold(shown) in _offered(shown)]
    after = [answer_of(shown, answer_form) == _donor_gold(shown) for _, shown in could]
    before = [answer_of(pair.real, answer_form) == _donor_gold(shown) for pair, shown in could]
    clusters = _clusters([pair for pair, _ in could])
    return Follow(proportion(after, clusters), proportion(before, clusters), paired_difference(after, before, clusters))


def _donor_gold(record: Record) -> str:
    return fold_text(str(record.sample.extra["donor_gold"]))


def _offered(record: Record) -> set[str]:
    """The folded texts that `record` could be answered with; none for an open question."""
    return set(map(fold_text, offered(record.sample)))


def _spread(pairs: Sequence[Pair]) -> Spread:
    if not pairs:
        return Spread(EMPTY, EMPTY)
    scores = {name: [bool(right(pair.made[name])) for pair in pairs] for name in sorted(pairs[0].made)}
    worst, best = min(scores.values(), key=sum), max(scores.values(), key=sum)
    clusters = _clusters(pairs)
    return Spread(proportion(worst, clusters), paired_difference(best, worst, clusters))


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.ci_low is None or estimate.ci_high is None:
        return "no rows"
    return f"{100 * estimate.value:.1f} [{100 * estimate.ci_low:.1f}, {100 * estimate.ci_high:.1f}]"
