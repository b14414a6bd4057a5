"""What is wrong with a data set, measured before any model: leaks between train and test, tells, and what a method scores
that never sees an image. It works on text alone: what needs images is None without them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Any

from osler import findings as rules
from osler.attackers import ATTACKERS, choice_of, folded
from osler.datasets.samples import Samples
from osler.errors import DataError
from osler.findings import DEFINITIONS, SHOWN, Finding, found_in, where
from osler.fingerprints import NEAR, Fingerprint, fingerprints, near_pairs
from osler.floor import Floor, best, chance
from osler.schema import LETTERS, Sample
from osler.stats import EMPTY, Estimate, proportion

PARTS: dict[str, Callable[[Sample], str]] = {
    "by_modality": lambda sample: str(sample.modality),
    "by_question_type": lambda sample: str(sample.question_type),
    "by_source": lambda sample: sample.source or "unknown",
}
"""The parts of the test rows that the floor is also given for, and how to tell a row's."""

_DROP = "Split by image and patient, or leave these test rows out and say how many."
_LOOK = "Look at them, and keep copies of one picture on one side; a smaller distance finds fewer look-alikes."
_REPAIR = "Correct these rows or leave them out."
_REPEAT = "Keep one of each, or report intervals by image."
_DEBIAS = "Balance the options within source and stem; until then report no accuracy without this floor."
_SHUFFLE = "Shuffle the options of each row."
_REWORD = "Word the options of a row alike, or report the score without these rows too."
_READ = "Name the folder that holds them: NAME:PATH?images=ROOT."
_HIDE = "Never show a path to a model or a judge."


@dataclass(frozen=True)
class Audit:
    """`numbers`, the first of them as `DEFINITIONS` says, then by part; and the `findings`, the ones that invalidate first."""

    numbers: Mapping[str, Any]
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Any:
        return self.numbers[name]

    @property
    def invalid(self) -> bool:
        """Whether something was found for which a test score cannot be taken at its word."""
        return any(finding.invalidates for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, rates in 0..1 with their `intervals` apart, and the findings."""
        return {**self.numbers, "findings": [finding.to_json() for finding in self.findings]}


Part = tuple[dict[str, Any], list[Finding]]
"""Some of the numbers of an audit, and what of them is wrong; a finding about no row is dropped at the end."""


Names = Sequence[tuple[str, ...]]
"""What tells the images of each row apart, one name an image; () of a row that names none."""


@dataclass(frozen=True)
class _Rows:
    """Training and test rows; of each part what its rows call their images, and their fingerprints where they were read."""

    train: Sequence[Sample]
    test: Sequence[Sample]
    names: Sequence[Names]
    prints: Sequence[Sequence[tuple[Fingerprint, ...]]] | None

    @cached_property
    def all(self) -> list[Sample]:
        """The samples of train, then of test."""
        return [*self.train, *self.test]

    @cached_property
    def pictures(self) -> Sequence[Names]:
        """Of each part its images by their pixels, where these were read, else by their names."""
        if self.prints is None:
            return self.names
        return [[tuple(one.pixels for one in row) for row in part] for part in self.prints]


def audit(train: Samples, test: Samples, images: bool | None = None, distance: int = NEAR) -> Audit:
    """What is wrong with testing on `test` after training on `train`.

    `images`: whether pixels are compared, for which every image is read once; None: if every row names one. `distance` is
    the largest, in bits, at which two pictures are near-duplicates.
    Errors: DataError where an image cannot be read, or where pixels are asked for and a row names no image.
    """
    rows = _rows(list(train), list(test), images)
    shared = _shared_images(rows)
    parts = [_leaks(rows, shared, distance), _blind(rows, shared), _gold(rows), _stems(rows), _looks(rows), _counts(rows)]
    numbers = {name: value for part, _ in parts for name, value in part.items()}
    findings = [finding for _, part in parts for finding in part if finding.n]
    order = [*DEFINITIONS, *(name for name in numbers if name not in DEFINITIONS)]
    intervals = {name: numbers[name].to_json() for name in order if isinstance(numbers[name], Estimate)}
    plain = {name: numbers[name].value if name in intervals else numbers[name] for name in order}
    return Audit({**plain, "intervals": intervals}, tuple(sorted(findings, key=lambda finding: not finding.invalidates)))


def _rows(train: list[Sample], test: list[Sample], images: bool | None) -> _Rows:
    """The rows with what is known of their images, which are read where `audit` says so. Errors: DataError."""
    both = [*train, *test]
    bare = next((sample for sample in both if not sample.images), None)
    names = [rules.image_names(part, published=bare is not None) for part in (train, test)]
    if images and bare:
        raise DataError(f"{where(bare)}: it has no image to compare. Give the images' root: NAME:PATH?images=ROOT.")
    if images is False or bare:
        return _Rows(train, test, names, None)
    row_of = {image: where(sample) for sample in reversed(both) for image in sample.images}
    made = fingerprints((image for sample in both for image in sample.images), row_of)
    prints = [[tuple(made[image] for image in sample.images) for sample in part] for part in (train, test)]
    return _Rows(train, test, names, prints)


def _shared_images(rows: _Rows) -> list[bool]:
    """For each test row whether one of its images is in train, by name or by pixels."""
    return [a or b for a, b in zip(_shared(*rows.names), _shared(*rows.pictures), strict=True)]


def _shared(train: Names, test: Names) -> list[bool]:
    """For each row of `test` whether one of its names is among those of `train`."""
    names = {name for row in train for name in row}
    return [not names.isdisjoint(row) for row in test]


def _leaks(rows: _Rows, shared: Sequence[bool], distance: int) -> Part:
    """What is on both sides: images, pictures that nearly look the same, groups."""
    known = any(map(any, rows.names))
    pairs = _near(rows, distance)
    near = {picture for picture, _, _ in pairs or ()}
    groups: list[Names] = [[(sample.group,) if sample.group else () for sample in part] for part in (rows.train, rows.test)]
    same_group = _shared(*groups)
    blind = [sample for sample in rows.all if not sample.images]
    numbers = {
        "shared_image_rows": sum(shared) if known else None,
        "shared_image_rate": _estimate(rows.test, shared) if known else None,
        "near_duplicate_pairs": None if pairs is None else len(pairs),
        "near_duplicate_rows": None if pairs is None else sum(not near.isdisjoint(row) for row in rows.pictures[1]),
        "near_duplicate_distance": distance,
        "shared_group_rows": sum(same_group),
        "images_read": rows.prints is not None,
        "rows_without_image": sum(not row for part in rows.names for row in part),
        "rows_without_group": sum(not row for part in groups for row in part),
    }
    return numbers, [
        found_in("test rows show an image of train", _flagged(rows.test, shared), _DROP, invalidates=True),
        found_in("test rows are of a patient or group of train", _flagged(rows.test, same_group), _DROP, invalidates=True),
        Finding("pairs of test and train pictures are near-duplicates", len(pairs or ()), _told(rows, pairs), _LOOK, True),
        found_in("rows were read without images, so that no pixels were compared", blind, _READ),
    ]


_Near = tuple[str, str, int]
"""The pixels' hashes of a test and of a train picture, and in how many bits their perceptual hashes differ."""


def _near(rows: _Rows, distance: int) -> list[_Near] | None:
    """The near-duplicates whose pixels differ, the nearest first; None where no pixels were read."""
    if rows.prints is None:
        return None
    there, here = ({one.pixels: one.look for row in part for one in row} for part in rows.prints)
    test, train = list(here), list(there)
    pairs = near_pairs(list(here.values()), list(there.values()), distance).tolist()
    found = [(test[i], train[j], bits) for i, j, bits in pairs if test[i] != train[j]]
    return sorted(found, key=lambda pair: pair[2])


def _told(rows: _Rows, pairs: Sequence[_Near] | None) -> tuple[str, ...]:
    """The first few near-duplicates in words."""
    row_of = {p: where(sample) for sample, row in zip(rows.all, chain(*rows.pictures), strict=True) for p in row}
    return tuple(f"{row_of[a]} and {row_of[b]}, {bits} bits apart" for a, b, bits in (pairs or ())[:SHOWN])


def _blind(rows: _Rows, shared: Sequence[bool]) -> Part:
    """What blind attackers score on all test rows and by part, and what stands beside them."""
    floor = Floor.fit(rows.train)
    credits = [floor.credits(sample) for sample in rows.test]
    name, whole = best(credits, _clusters(rows.test)) or (None, EMPTY)
    letter = _estimate(rows.test, map(floor.letter.credit, rows.test))
    even = _mean(map(chance, rows.test))
    numbers = {
        **{f"{name}_accuracy": _estimate(rows.test, [row.get(name) for row in credits]) for name in floor.attackers},
        "floor": whole,
        "floor_attacker": name,
        "chance_accuracy": even,
        "majority_letter_accuracy": letter,
        "open_rows": sum(choice_of(sample) is None and not rules.gold_missing(sample) for sample in rows.test),
        **{axis: _by(label_of, rows, credits, shared) for axis, label_of in PARTS.items()},
    }
    beaten = f"test rows, on which a blind attacker ({name}) beats chance: {whole}"
    lettered = f"test rows, on which the letter that is most frequent in train beats chance: {letter}"
    return numbers, [
        Finding(beaten, whole.n if _above(whole, even) else 0, (), _DEBIAS, True),
        Finding(lettered, letter.n if _above(letter, even) else 0, (), _SHUFFLE, False),
    ]


def _by(
    label_of: Callable[[Sample], str], rows: _Rows, credits: Sequence[dict[str, float]], shared: Sequence[bool]
) -> dict[str, Any]:
    """The floor and what belongs to it for the test rows of each label, by label."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, sample in enumerate(rows.test):
        places[label_of(sample)].append(at)
    return {label: _part(rows, places[label], credits, shared) for label in sorted(places)}


def _part(rows: _Rows, places: Sequence[int], credits: Sequence[dict[str, float]], shared: Sequence[bool]) -> dict[str, Any]:
    samples, scores = [rows.test[at] for at in places], [credits[at] for at in places]
    name, floor = best(scores, _clusters(samples)) or (None, EMPTY)
    return {
        "n_test": len(samples),
        "floor": floor.to_json(),
        "floor_attacker": name,
        "attackers": {name: _mean(row.get(name) for row in scores) for name in ATTACKERS},
        "chance": _mean(map(chance, samples)),
        "shared_image_rows": sum(shared[at] for at in places) if any(map(any, rows.names)) else None,
    }


def _gold(rows: _Rows) -> Part:
    """Rows that no gold can be believed of: it is missing, or two rows disagree; and rows that come twice."""
    pictures = [*rows.pictures[0], *rows.pictures[1]]
    missing = [sample for sample in rows.all if rules.gold_missing(sample)]
    at_odds, again = ([rows.all[at] for at in rule(rows.all, pictures)] for rule in (rules.contradictory, rules.repeated))
    numbers = {"gold_missing_rows": len(missing), "contradictory_rows": len(at_odds), "repeated_rows": len(again)}
    return numbers, [
        found_in("rows of train and test contradict each other", at_odds, _REPAIR, invalidates=True),
        found_in("rows of train and test have a gold that is not among their options", missing, _REPAIR, invalidates=True),
        found_in("rows of train and test repeat an earlier row", again, _REPEAT),
    ]


def _stems(rows: _Rows) -> Part:
    """Rows whose stem or path gives the answer away."""
    fixed, in_source = (_determined(rows, within) for within in (lambda _: "", PARTS["by_source"]))
    said, said_in_train = ([sample for sample in part if rules.answer_in_stem(sample)] for part in (rows.test, rows.train))
    paths = rules.paths_below_all(rows.all)[len(rows.train) :]
    labelled = [s for s, row in zip(rows.test, paths, strict=True) if any(rules.label_in_path(s, path) for path in row)]
    numbers = {
        "stem_determined_rows": len(fixed),
        "source_stem_determined_rows": len(in_source),
        "answer_in_stem_rows": len(said),
        "train_answer_in_stem_rows": len(said_in_train),
        "label_in_path_rows": len(labelled) if any(paths) else None,
    }
    return numbers, [
        found_in("test rows have a stem that goes with one gold only", fixed, _DEBIAS),
        found_in("test rows say the answer in the stem", said, _REWORD),
        found_in("test rows have the answer in the image's path", labelled, _HIDE),
    ]


def _determined(rows: _Rows, within: Callable[[Sample], str]) -> list[Sample]:
    """The test rows whose stem has one gold among all rows that `within` gives the same label."""
    stems = rules.stems_with_one_gold(rows.all, within)
    return [sample for sample in rows.test if (within(sample), folded(sample.question)) in stems]


def _looks(rows: _Rows) -> Part:
    """How often the one option of a row that looks different is its gold."""
    tells: dict[str, Any] = {}
    findings, rates = [], {}
    choices = [(sample, choice.place) for sample in rows.test if (choice := choice_of(sample))]
    for name, look in rules.TELLS.items():
        found = [(sample, place == gold) for sample, gold in choices if (place := look(sample.options)) is not None]
        samples = [sample for sample, _ in found]
        rate, even = _estimate(samples, [right for _, right in found]), _mean(map(chance, samples))
        rates[name] = rate
        tells[name] = {"rows": rate.n, "gold_rate": rate.to_json(), "chance": even}
        what = f"test rows have an option that stands out ({name.replace('_', ' ')}), the gold more often than chance: {rate}"
        findings.append(found_in(what, samples if _above(rate, even) else [], _REWORD))
    lowercase = rates["lone_lowercase"]
    return {"lone_lowercase_rows": lowercase.n, "lone_lowercase_gold_rate": lowercase, "tells": tells}, findings


def _counts(rows: _Rows) -> Part:
    """How many rows there are, of how many options, and with their gold at which letter."""
    parts = {"train": rows.train, "test": rows.test}
    return {
        **{f"n_{name}": len(part) for name, part in parts.items()},
        "option_counts": {name: _times(str(len(sample.options)) for sample in part) for name, part in parts.items()},
        "gold_position_counts": {name: _times(_letters(part)) for name, part in parts.items()},
    }, []


def _letters(samples: Iterable[Sample]) -> Iterator[str]:
    """The gold letters of the samples that have options and a gold among them."""
    return (LETTERS[choice.place] for sample in samples if sample.options and (choice := choice_of(sample)))


def _times(labels: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(labels).items()))


def _flagged(samples: Sequence[Sample], flags: Sequence[bool]) -> list[Sample]:
    return [sample for sample, flag in zip(samples, flags, strict=True) if flag]


def _clusters(samples: Iterable[Sample]) -> list[str]:
    return [sample.cluster for sample in samples]


def _estimate(samples: Sequence[Sample], values: Iterable[float | None]) -> Estimate:
    """The clustered mean of the values that are not None, one a sample."""
    known = [(value, sample) for value, sample in zip(values, samples, strict=True) if value is not None]
    return proportion([value for value, _ in known], _clusters(sample for _, sample in known))


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None where all are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _above(estimate: Estimate, even: float | None) -> bool:
    """Whether the whole interval of `estimate` lies above chance, `even`."""
    return estimate.ci_low is not None and even is not None and estimate.ci_low > even
