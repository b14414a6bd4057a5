"""Splits in which no patient and no picture is on two sides: by construction, or because the rows that are were dropped.

Rows belong together where they share an image, a group (patient, case), the exact pixels of an image, or an image that
looks nearly the same; so do rows that others link. Pixels and looks are told by fingerprints; without them the path counts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from osler.datasets.samples import Samples, known_modality, known_question_type
from osler.errors import DataError, unknown
from osler.fingerprints import NEAR, Fingerprint, near_pairs
from osler.schema import SPLITS, Sample

LINKS = ("image", "group", "pixels", "near_duplicate")
"""How a row may be tied to another, the surest first."""

AXES = ("source", "modality", "question_type")
"""What one value may be left out of."""

Prints = Mapping[str, Fingerprint]
Dropped = dict[str, tuple[str, ...]]
"""For each of `LINKS` the ids of the rows that were dropped for it; a row counts once, by the surest."""

_Mark = tuple[str, str | int]


def modality_and_type(sample: Sample) -> str:
    """What is divided evenly unless a caller says otherwise."""
    return f"{sample.modality}/{sample.question_type}"


def divide(
    samples: Samples,
    fractions: Mapping[str, float],
    seed: int,
    prints: Prints | None = None,
    distance: int | None = NEAR,
    stratum: Callable[[Sample], str] = modality_and_type,
) -> Samples:
    """`samples` with a new split each: of every `stratum` about the share that `fractions` gives a split.

    What belongs together stays together; looks do not count where `distance`, in bits, is None. The largest components go
    first, each to the split that it brings nearest to its shares. The order of rows stays, and nothing depends on it.
    Errors: DataError where `fractions` are none, or there are fewer components than splits.
    """
    names, shares = zip(*checked_shares(fractions).items(), strict=True)
    parts = components(samples, prints, distance)
    if len(parts) < len(names):
        raise DataError(
            f"{len(samples)} rows make only {len(parts)} parts that share no image or group, too few for {', '.join(names)}. "
            "Divide more rows, or into fewer splits."
        )
    chosen = _assigned(parts, _strata(samples, min(shares), stratum), np.array(shares), seed)
    split_of = {row: names[at] for part, at in zip(parts, chosen, strict=True) for row in part}
    return Samples.of(replace(sample, split=split_of[row]) for row, sample in enumerate(samples))


def components(samples: Sequence[Sample], prints: Prints | None = None, distance: int | None = NEAR) -> list[list[int]]:
    """The rows, by place, that belong together directly or by way of others; parts in the order of their least ids."""
    forest, looks = _Forest(), set()
    for row, sample in enumerate(samples):
        for mark in _marks(sample, prints, distance):
            forest.join(("row", row), mark)
            looks |= {mark[1]} if mark[0] == "near_duplicate" else set()
    for a, b in _near(looks, looks, distance):
        forest.join(("near_duplicate", a), ("near_duplicate", b))
    parts: defaultdict[_Mark, list[int]] = defaultdict(list)
    for row in sorted(range(len(samples)), key=[sample.id for sample in samples].__getitem__):
        parts[forest.root(("row", row))].append(row)
    return list(parts.values())


def drop_leaks(
    train: Iterable[Sample], test: Samples, prints: Prints | None = None, distance: int | None = NEAR
) -> tuple[Samples, Dropped]:
    """The rows of `test` that nothing ties to a row of `train`, and which were dropped; both splits stay as published."""
    seen = {mark for sample in train for mark in _marks(sample, prints, distance)}
    marks = [_marks(sample, prints, distance) for sample in test]
    old, new = ({look for kind, look in found if kind == "near_duplicate"} for found in (seen, set().union(*marks)))
    seen |= {("near_duplicate", look) for _, look in _near(old, new, distance)}
    tied = [{kind for kind, _ in found & seen} for found in marks]
    dropped: dict[str, list[str]] = {link: [] for link in LINKS}
    for sample, ties in zip(test, tied, strict=True):
        if ties:
            dropped[min(ties, key=LINKS.index)].append(sample.id)
    kept = test.take(row for row, ties in enumerate(tied) if not ties)
    return kept, {link: tuple(ids) for link, ids in dropped.items()}


def leave_one_out(
    samples: Samples, axis: str, value: str, prints: Prints | None = None, distance: int | None = NEAR
) -> tuple[Samples, Dropped]:
    """`samples` with the rows whose `axis` is `value` in test and all others in train, and which of those were dropped.

    A training row that something ties to a test row is dropped: one picture may have come by two sources. Errors: DataError
    where the axis is none of `AXES`, or either side would be empty.
    """
    if axis not in AXES:
        raise DataError(unknown("axis to leave a value out of", axis, AXES))
    wanted = {"modality": known_modality, "question_type": known_question_type}.get(axis, str)(value)
    found = [str(getattr(sample, axis)) for sample in samples]
    if wanted not in found:
        raise DataError(unknown(f"{axis} of these rows", value, set(found)))
    test = samples.take(row for row, one in enumerate(found) if one == wanted)
    train, dropped = drop_leaks(test, samples.take(row for row, one in enumerate(found) if one != wanted), prints, distance)
    if not len(train):
        raise DataError(f"nothing is left to train on without the {axis} {value!r}: of the other rows all are tied to it.")
    parts = (replace(sample, split=split) for split, part in (("train", train), ("test", test)) for sample in part)
    return Samples.of(parts), dropped


def checked_shares(fractions: Mapping[str, float]) -> dict[str, float]:
    """The fractions above 0, in the order of SPLITS. Errors: DataError unless they are of splits and sum to 1."""
    for name in fractions:
        if name not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
    if not (all(share >= 0 for share in fractions.values()) and abs(sum(fractions.values()) - 1) < 1e-6):
        raise DataError(f"the fractions {dict(fractions)} are no shares: each must be 0 or more, and together they must be 1.")
    return {name: fractions[name] for name in SPLITS if fractions.get(name)}


def _marks(sample: Sample, prints: Prints | None, distance: int | None) -> set[_Mark]:
    """Everything by which `sample` may be tied to another."""
    known = [prints[image] for image in sample.images if image in prints] if prints else []
    marks: set[_Mark] = {("image", image) for image in sample.images} | {("pixels", one.pixels) for one in known}
    if sample.group is not None:
        marks.add(("group", sample.group))
    return marks | ({("near_duplicate", one.look) for one in known} if distance is not None else set())


def _near(a: Iterable[str | int], b: Iterable[str | int], distance: int | None) -> Iterator[tuple[int, int]]:
    """The pairs of looks, one of `a` and one of `b`, that are at most `distance` apart."""
    if distance is not None:
        left, right = sorted(map(int, a)), sorted(map(int, b))
        yield from ((left[i], right[j]) for i, j, _ in near_pairs(left, right, distance).tolist())


def _strata(samples: Samples, least: float, stratum: Callable[[Sample], str]) -> NDArray[np.int64]:
    """The number of the stratum of each row; those that are too small for the `least` share are pooled.

    Each of them alone would go to the largest split, and so would all.
    """
    names = np.array(list(map(stratum, samples)), dtype=object)
    size_of = Counter(names.tolist())
    names[[size_of[name] * least < 1 for name in names]] = "pooled"
    return np.unique(names.astype(str), return_inverse=True)[1]


def _assigned(parts: Sequence[Sequence[int]], strata: NDArray[np.int64], shares: NDArray[np.float64], seed: int) -> list[int]:
    """For each of `parts` the place of its split in `shares`.

    It is the one that lowers most the sum of (rows - wanted)^2 / wanted over splits and strata.
    """
    wanted = np.outer(shares, np.bincount(strata))
    filled, chosen = np.zeros_like(wanted), [0] * len(parts)
    order = np.random.default_rng(seed).permutation(len(parts)).tolist()
    for turn, at in enumerate(sorted(order, key=lambda at: -len(parts[at]))):
        kinds, rows = np.unique(strata[parts[at]], return_counts=True)
        change = rows * (2 * (filled[:, kinds] - wanted[:, kinds]) + rows) / wanted[:, kinds]
        empty = filled.sum(axis=1) == 0
        may = empty | (len(parts) - turn > empty.sum())  # the last parts are for the splits that have none
        chosen[at] = int(np.where(may, change.sum(axis=1), np.inf).argmin())
        filled[chosen[at], kinds] += rows
    return chosen


class _Forest:
    """Which marks belong together: a disjoint-set forest."""

    def __init__(self) -> None:
        self._above: dict[_Mark, _Mark] = {}

    def root(self, mark: _Mark) -> _Mark:
        """The mark that stands for all that belong to `mark`."""
        path = []
        while (above := self._above.setdefault(mark, mark)) != mark:
            path.append(mark)
            mark = above
        self._above.update(dict.fromkeys(path, mark))
        return mark

    def join(self, a: _Mark, b: _Mark) -> None:
        """Make everything of `a` and of `b` belong together."""
        self._above[self.root(a)] = self.root(b)
