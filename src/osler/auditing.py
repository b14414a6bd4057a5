"""What is wrong with a data set, measured before any model: leaks between train and test, tells, and what a method scores
that never sees an image. It works on text alone: what needs images is None without them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from osler import findings as rules
from osler.attackers import ATTACKERS, choice_of, choices_of, folded
from osler.datasets.samples import Samples
from osler.definitions import DEFINITIONS
from osler.findings import Finding, Part, finding, found_in
from osler.fingerprints import NEAR
from osler.floor import Floor, best, chance
from osler.leaks import Rows, found_leaks, read_rows, shared_images
from osler.schema import LETTERS, Sample
from osler.stats import EMPTY, Estimate, proportion

PARTS: dict[str, Callable[[Sample], str]] = {
    "by_modality": lambda sample: str(sample.modality),
    "by_question_type": lambda sample: str(sample.question_type),
    "by_source": lambda sample: sample.source or "unknown",
}
"""The parts of the test rows that the floor is also given for, and how to tell a row's."""

_REPAIR = "Correct these rows or leave them out."
_DISAGREE = "Correct these rows or leave them out; two free-text answers may both be right."
_TWICE = "Leave these rows out, as `osler data split` does: no letter names an option that is there twice."
_REPEAT = "Keep one of each, or report intervals by image."
_DEBIAS = "Balance the options within source and stem (`osler data debias`); until then report no accuracy without this floor."
_BESIDE = "Yes and no cannot be rebuilt as other options can: report no accuracy without this floor."
_SHUFFLE = "Shuffle the options of each row."
_EVEN = "Balance yes and no, or report this number beside each accuracy."
_WITHOUT = "Report the score without these rows too."
_LEAVE = "Report the score without these rows too; `osler data debias` leaves them out."
_REWORD = "Word the options of a row alike, or report the score without these rows too."
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
        return any(one.invalidates for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, rates in 0..1 with their `intervals` apart, and the findings."""
        return {**self.numbers, "findings": [finding.to_json() for finding in self.findings]}


def audit(train: Samples, test: Samples, images: bool | None = None, distance: int = NEAR) -> Audit:
    """What is wrong with testing on `test` after training on `train`.

    `images`: whether pixels are compared, for which every image is read once; None: if every row names one. `distance` is
    the largest, in bits, at which two pictures are near-duplicates.
    Errors: DataError where an image cannot be read, or where pixels are asked for and a row names no image.
    """
    rows = read_rows(list(train), list(test), images)
    shared = shared_images(rows)
    parts = [found_leaks(rows, shared, distance), _blind(rows, shared), _gold(rows), _stems(rows), _looks(rows), _counts(rows)]
    numbers = {name: value for part, _ in parts for name, value in part.items()}
    findings = [one for _, part in parts for one in part if one.n]
    order = [*DEFINITIONS, *(name for name in numbers if name not in DEFINITIONS)]
    intervals = {name: numbers[name].to_json() for name in order if isinstance(numbers[name], Estimate)}
    plain = {name: numbers[name].value if name in intervals else numbers[name] for name in order}
    return Audit({**plain, "intervals": intervals}, tuple(sorted(findings, key=lambda one: not one.invalidates)))


def _blind(rows: Rows, shared: Sequence[bool]) -> Part:
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
    to_balance = any(not rules.yes_or_no(choice) for choice in choices_of(rows.test))
    blind = f"test {{row gives|rows give}} the answer away: a blind attacker ({name})"
    letters = any(sample.options for sample in rows.test)
    lettered = f"test {{row favours|rows favour}} {'a letter' if letters else 'yes or no'}: the one most often right in train"
    return numbers, [
        _scored(blind, whole, even, _DEBIAS if to_balance else _BESIDE, invalidates=True),
        _scored(lettered, letter, even, _SHUFFLE if letters else _EVEN),
    ]


def _scored(what: str, estimate: Estimate, even: float | None, fix: str, invalidates: bool = False) -> Finding:
    """The finding that `what` scores `estimate`, in as many rows; in none unless it beats chance, `even`."""
    if even is None or not _above(estimate, even):
        return finding(what, 0, (), fix, invalidates)
    return finding(f"{what} scores {_without_n(estimate)}, chance is {100 * even:.1f} %", estimate.n, (), fix, invalidates)


def _by(
    label_of: Callable[[Sample], str], rows: Rows, credits: Sequence[dict[str, float]], shared: Sequence[bool]
) -> dict[str, Any]:
    """The floor and what belongs to it for the test rows of each label, by label."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, sample in enumerate(rows.test):
        places[label_of(sample)].append(at)
    return {label: _part(rows, places[label], credits, shared) for label in sorted(places)}


def _part(rows: Rows, places: Sequence[int], credits: Sequence[dict[str, float]], shared: Sequence[bool]) -> dict[str, Any]:
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


def _gold(rows: Rows) -> Part:
    """Rows that no gold can be believed of: it is missing, or two rows disagree; and rows or options that come twice.

    What is wrong with a test row's gold invalidates; a wrong training row only teaches badly.
    """
    pictures = [*rows.pictures[0], *rows.pictures[1]]
    missing, twice = ([at for at, s in enumerate(rows.all) if rule(s)] for rule in (rules.gold_missing, rules.same_option))
    at_odds, again = (rule(rows.all, pictures) for rule in (rules.contradictory, rules.repeated))
    numbers = {
        "contradictory_rows": len(at_odds),
        "repeated_rows": len(again),
        "gold_missing_rows": len(missing),
        "same_option_rows": len(twice),
    }
    lacking = "{row has|rows have} no gold, or one that is not among {its|their} options"
    return numbers, [
        *_by_part("{row contradicts|rows contradict} another row about the same image", rows, at_odds, _DISAGREE),
        *_by_part(lacking, rows, missing, _REPAIR),
        found_in("{row|rows} of train and test {offers|offer} an option twice", [rows.all[at] for at in twice], _TWICE),
        found_in("{row|rows} of train and test {repeats|repeat} an earlier row", [rows.all[at] for at in again], _REPEAT),
    ]


def _by_part(what: str, rows: Rows, places: Iterable[int], fix: str) -> list[Finding]:
    """The finding about the test rows among `places` of `rows.all`, which invalidates, and that about the training rows."""
    parts: dict[bool, list[Sample]] = {True: [], False: []}
    for at in places:
        parts[at >= len(rows.train)].append(rows.all[at])
    return [found_in(f"{'test' if test else 'train'} {what}", part, fix, test) for test, part in parts.items()]


def _stems(rows: Rows) -> Part:
    """Rows whose stem or path gives the answer away."""
    fixed, in_source = (_determined(rows, within) for within in (lambda _: "", PARTS["by_source"]))
    stems = {folded(sample.question) for sample in rows.train}
    taught = [sample for sample in fixed if folded(sample.question) in stems]
    said, said_in_train = ([sample for sample in part if rules.answer_in_stem(sample)] for part in (rows.test, rows.train))
    paths = rules.paths_below_all(rows.all)[len(rows.train) :]
    labelled = [s for s, row in zip(rows.test, paths, strict=True) if any(rules.label_in_path(s, path) for path in row)]
    numbers = {
        "stem_determined_rows": len(fixed),
        "stem_taught_rows": len(taught),
        "source_stem_determined_rows": len(in_source),
        "answer_in_stem_rows": len(said),
        "train_answer_in_stem_rows": len(said_in_train),
        "label_in_path_rows": len(labelled) if any(paths) else None,
    }
    fix = _LEAVE if any(sample.options for sample in taught) else _WITHOUT
    return numbers, [
        found_in("test {row has|rows have} a stem of train that goes with one gold only", taught, fix),
        found_in("test {row says|rows say} the answer in the stem", said, _WITHOUT),
        found_in("test {row has|rows have} the answer in the image's path", labelled, _HIDE),
    ]


def _determined(rows: Rows, within: Callable[[Sample], str]) -> list[Sample]:
    """The test rows whose stem has one gold among all rows that `within` gives the same label."""
    stems = rules.stems_with_one_gold(rows.all, within)
    return [sample for sample in rows.test if (within(sample), folded(sample.question)) in stems]


def _looks(rows: Rows) -> Part:
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
        look_of = f"an option that stands out ({name.replace('_', ' ')}), the gold more often than chance: {rate}"
        above = samples if _above(rate, even) else []
        findings.append(found_in(f"test {{row has|rows have}} {look_of}", above, _REWORD))
    lowercase = rates["lone_lowercase"]
    return {"lone_lowercase_rows": lowercase.n, "lone_lowercase_gold_rate": lowercase, "tells": tells}, findings


def _counts(rows: Rows) -> Part:
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


def _without_n(estimate: Estimate) -> str:
    """The estimate and its interval where n stands beside it."""
    return str(estimate).partition(", n")[0]


def _above(estimate: Estimate, even: float | None) -> bool:
    """Whether the whole interval of `estimate` lies above chance, `even`."""
    return estimate.ci_low is not None and even is not None and estimate.ci_low > even
