"""What raters said, unblinded: each model's rated correctness and soundness, and who agrees with whom.

"Cannot say", an item that the grader left unjudged and one that a judge did not score have no part in a mean or a kappa; how
many they are stands beside each. Whatever is of one image or patient is resampled together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from osler.agreement import Kappa, kappa
from osler.rating.answers import QUESTIONS, Rating, read_ratings
from osler.rating.judged import Judged, read_judged
from osler.rating.key import Key, read_key
from osler.stats import Estimate, proportion

Answers = Mapping[str, bool | None]
"""What was said to one question, by item."""


@dataclass(frozen=True)
class Model:
    """What all raters said of the `items` completions of one run; the n of an estimate counts ratings."""

    run: str
    items: int
    correct: Estimate
    sound: Estimate
    cannot_say: Mapping[str, int]


@dataclass(frozen=True)
class Agreement:
    """How far `a` and `b` agree on one question. `left_out`: items to which one of them, or both, gave neither yes nor no."""

    kind: str
    question: str
    a: str
    b: str
    kappa: Kappa
    left_out: int


@dataclass(frozen=True)
class Results:
    """Everything that `osler rate import` says. `judges` holds of each judge how many of its lines had no part, and why."""

    raters: tuple[str, ...]
    items: int
    models: tuple[Model, ...]
    agreements: tuple[Agreement, ...]
    judges: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def read_results(folder: Path, files: Sequence[Path], judged: Sequence[Path] = ()) -> Results:
    """The results of the raters' `files` by the key in `folder`, and of `judged` where there are judges.

    Errors: DataError, which names file and row, for whatever in them cannot be used.
    """
    key = read_key(folder)
    return summarise(key, read_ratings(files, key.items.keys()), read_judged(judged, key))


def summarise(key: Key, ratings: Mapping[str, Mapping[str, Rating]], judges: Sequence[Judged] = ()) -> Results:
    """The results of the `ratings` of each rater, and of `judges`."""
    return Results(
        raters=tuple(ratings),
        items=len(key.items),
        models=tuple(_model(label, key, ratings) for label in key.labels),
        agreements=tuple(_agreements(key, ratings, judges)),
        judges={one.judge: {"others": one.others, "repeats": one.repeats} for one in judges},
    )


def _model(label: str, key: Key, ratings: Mapping[str, Mapping[str, Rating]]) -> Model:
    codes = [code for code, item in key.items.items() if item.run == label]
    means, cannot_say = {}, {}
    for name in QUESTIONS:
        said = [(getattr(rated[code], name), key.items[code].cluster) for rated in ratings.values() for code in codes]
        told = [(answer, cluster) for answer, cluster in said if answer is not None]
        means[name] = proportion([answer for answer, _ in told], [cluster for _, cluster in told])
        cannot_say[name] = len(said) - len(told)
    return Model(label, len(codes), cannot_say=cannot_say, **means)


def _agreements(key: Key, ratings: Mapping[str, Mapping[str, Rating]], judges: Sequence[Judged]) -> Iterator[Agreement]:
    """Raters with each other, with the grader (which judges the answer alone), and with each judge."""
    said = {name: {f"rater {who}": _said(rated, name) for who, rated in ratings.items()} for name in QUESTIONS}
    for name in QUESTIONS:
        for (a, one), (b, other) in combinations(said[name].items(), 2):
            yield _agreement("human-human", name, (a, one), (b, other), key)
    grader = {code: item.right for code, item in key.items.items()}
    for a, one in said["correct"].items():
        yield _agreement("human-grader", "correct", (a, one), ("grader", grader), key)
    for judge in judges:
        for name in QUESTIONS:
            scores = {code: each[name] for code, each in judge.scores.items()}
            for a, one in said[name].items():
                yield _agreement("human-judge", name, (a, one), (judge.judge, scores), key)


def _said(rated: Mapping[str, Rating], name: str) -> Answers:
    return {code: getattr(rating, name) for code, rating in rated.items()}


def _agreement(kind: str, question: str, one: tuple[str, Answers], other: tuple[str, Answers], key: Key) -> Agreement:
    (a, said_a), (b, said_b) = one, other
    both = [code for code in key.items if said_a.get(code) is not None and said_b.get(code) is not None]
    clusters = [key.items[code].cluster for code in both]
    found = kappa([said_a[code] for code in both], [said_b[code] for code in both], clusters)
    return Agreement(kind, question, a, b, found, len(key.items) - len(both))
