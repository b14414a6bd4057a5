"""What whoever does not look scores on the questions that were made: beside chance, and told where it is above it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from osler.floor import Floor, best, chance
from osler.schema import Kind, Sample
from osler.stats import proportion

Floors = dict[str, Any]
"""By kind: n, the floor with its interval, the attacker that sets it, and chance (None where it is open)."""


def floors(train: Sequence[Sample], test: Sequence[Sample]) -> Floors:
    """The floor of each kind of question in `test` for whoever learnt from `train`; a kind that is not asked is not there.

    Of choices and yes/no it is that of the best of the blind attackers, of open questions that of the most frequent answer.
    """
    fitted = Floor.fit(train)
    found: Floors = {}
    for kind in Kind:
        rows = [row for row in test if row.kind is kind]
        if rows:
            found[kind.value] = _majority(train, rows) if kind is Kind.OPEN else _blind(fitted, rows)
    return found


def _blind(fitted: Floor, rows: Sequence[Sample]) -> dict[str, Any]:
    credits = [fitted.credits(row) for row in rows]
    name, score = best(credits, [row.cluster for row in rows]) or (None, None)
    shares = [share for row in rows if (share := chance(row)) is not None]
    even = sum(shares) / len(shares) if shares else None
    return {"n": len(rows), "floor": score.to_json() if score else None, "attacker": name, "chance": even}


def _majority(train: Iterable[Sample], rows: Sequence[Sample]) -> dict[str, Any]:
    """The most frequent answer of a row's column and modality in `train`, whether or not the question says the modality."""
    times: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in train:
        if row.kind is Kind.OPEN:
            times[_part(row)][row.golds[0]] += 1
    said = {part: min(golds, key=lambda gold: (-golds[gold], gold)) for part, golds in times.items()}
    right = [said.get(_part(row)) == row.golds[0] for row in rows]
    score = proportion(right, [row.cluster for row in rows])
    return {"n": len(rows), "floor": score.to_json(), "attacker": "most frequent answer", "chance": None}


def _part(row: Sample) -> tuple[str, str]:
    return str(row.extra.get("label_column", "")), str(row.modality)
