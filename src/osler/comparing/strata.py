"""Which rows of several evaluations are shown: a seeded draw from strata, so that nobody picks the examples.

The draw is of rows, not of answers: the same rows are shown of every model. Strata are shown more evenly than they are large,
so that a rare disagreement is seen; how large each is stands beside it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from osler.errors import RecipeError, unknown
from osler.looking import right
from osler.schema import Record
from osler.summary import AXES, EXTRA, axis_of, place

AGREEMENT = "agreement"
"""The strata by default: rows that the same models are right on, wrong on, or unjudged."""
RULE = (
    "Within a stratum rows stand in the order of a hash (SHA-256) of the seed and their id. One row is taken of each stratum "
    "in turn, the largest stratum first, until there are enough. Nobody chose a row."
)
"""How rows are chosen, in words for a reader."""


@dataclass(frozen=True)
class Stratum:
    """Rows that are alike in what the draw goes by: how many there are, and how many of them are `shown`."""

    name: str
    rows: int
    shown: int


@dataclass(frozen=True)
class Selection:
    """How rows were drawn: at most `n` of `total`, by `seed`, from the strata of `by`."""

    by: str
    seed: int
    n: int
    total: int
    strata: tuple[Stratum, ...]

    @property
    def shown(self) -> int:
        """The rows that are shown."""
        return sum(stratum.shown for stratum in self.strata)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with `shown` and the `rule`."""
        return {**asdict(self), "shown": self.shown, "rule": RULE}


def choose(
    records: Mapping[str, Sequence[Record]], n: int, seed: int, by: str = AGREEMENT
) -> tuple[list[tuple[str, str]], Selection]:
    """At most `n` rows to show, each as its stratum and its id, stratum by stratum; and how they were drawn.

    `records` holds those of each model, the same rows in the same order. `by` is "agreement" or an axis of the rows: modality,
    question_type, source, language, extra:KEY. Errors: RecipeError for another `by`.
    """
    strata = _strata(records, by)
    drawn = draw(strata, n, seed)
    parts = tuple(Stratum(name, len(ids), len(drawn[name])) for name, ids in strata.items())
    shown = [(name, one) for name, ids in drawn.items() for one in ids]
    return shown, Selection(by, seed, n, sum(part.rows for part in parts), parts)


def draw(strata: Mapping[str, Sequence[str]], n: int, seed: int) -> dict[str, list[str]]:
    """The ids to show of each of `strata`, at most `n` in all (`RULE`).

    Which ids a stratum gives depends on the seed and on them alone, not on the order in which they were evaluated.
    """
    largest_first = sorted(strata, key=lambda name: (-len(strata[name]), name))
    turns = [(turn, name) for turn in range(n) for name in largest_first if turn < len(strata[name])]
    shown = Counter(name for _, name in turns[:n])
    return {name: sorted(ids, key=lambda one: _lot(one, seed))[: shown[name]] for name, ids in strata.items()}


def pattern(rights: Mapping[str, bool | None]) -> str:
    """Who is right, in words: "all right", or "right: GRPO; wrong: base, SFT"."""
    words = {True: "right", False: "wrong", None: "unjudged"}
    labels = {word: [label for label, value in rights.items() if value is key] for key, word in words.items()}
    present = [word for word, found in labels.items() if found]
    if len(present) == 1:
        return f"all {present[0]}"
    return "; ".join(f"{word}: {', '.join(labels[word])}" for word in present)


def _strata(records: Mapping[str, Sequence[Record]], by: str) -> dict[str, list[str]]:
    """The ids of each stratum: along an axis in its order, by agreement the largest first."""
    names = _names(records, by)
    counts = Counter(names.values())
    if by == AGREEMENT:
        order = sorted(counts, key=lambda name: (-counts[name], name))
    else:
        order = sorted(counts, key=lambda name: place(name, by))
    return {stratum: [one for one, name in names.items() if name == stratum] for stratum in order}


def _names(records: Mapping[str, Sequence[Record]], by: str) -> dict[str, str]:
    """The stratum of each id. Errors: RecipeError for a `by` that is none."""
    first = next(iter(records.values()))
    if by == AGREEMENT:
        rows = zip(*records.values(), strict=True)
        return {row[0].sample.id: pattern(dict(zip(records, map(right, row), strict=True))) for row in rows}
    if by not in AXES and not by.startswith(EXTRA):
        raise RecipeError(unknown("strata", by, [AGREEMENT, *AXES, f"{EXTRA}KEY"]))
    label_of, _ = axis_of(by)
    return {record.sample.id: str(label_of(record.sample)) for record in first}


def _lot(one: str, seed: int) -> str:
    return sha256(f"{seed}\n{one}".encode()).hexdigest()
