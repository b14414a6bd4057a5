"""The floor: what the best of the blind attackers scores on the same rows, so what an accuracy has to be read against.

A stronger attacker than these four may exist, so that an accuracy above the floor is evidence that the model looked, and no
proof. Chance and the majority letter stand beside it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from osler.attackers import ATTACKERS, Attacker, Choice, choice_of, choices_of
from osler.schema import Sample
from osler.stats import Estimate, proportion


@dataclass(frozen=True)
class MajorityLetter:
    """The guesser that always says the letter that was most often right in training; `place` is None where nothing was.

    A question with too few options to have that letter scores 0. Of letters that tie, the first counts.
    """

    place: int | None

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        """The guesser that `choices` teach."""
        times = Counter(choice.place for choice in choices)
        return cls(min(times, key=lambda place: (-times[place], place), default=None))

    def credit(self, sample: Sample) -> float | None:
        """1 where the letter is right, else 0; None for an open question."""
        return None if (choice := choice_of(sample)) is None else float(choice.place == self.place)


def chance(sample: Sample) -> float | None:
    """1 over the number of options; None for an open question."""
    return None if (choice := choice_of(sample)) is None else 1 / len(choice.options)


@dataclass(frozen=True)
class Floor:
    """The four attackers fitted on the same training samples, with the majority letter of these."""

    attackers: Mapping[str, Attacker]
    letter: MajorityLetter

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> Self:
        """The attackers that `samples` teach; open questions teach nothing."""
        choices = list(choices_of(samples))
        return cls({name: attacker.of(choices) for name, attacker in ATTACKERS.items()}, MajorityLetter.of(choices))

    def credits(self, sample: Sample) -> dict[str, float]:
        """The expected score of each attacker on `sample`; empty for an open question."""
        choice = choice_of(sample)
        return {} if choice is None else {name: attacker.share(choice) for name, attacker in self.attackers.items()}

    def to_json(self) -> dict[str, Any]:
        """`{"attackers": {name: its JSON}, "majority_letter": the letter's place or null}`."""
        attackers = {name: attacker.to_json() for name, attacker in self.attackers.items()}
        return {"attackers": attackers, "majority_letter": self.letter.place}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        attackers = {name: ATTACKERS[name].from_json(fitted) for name, fitted in value["attackers"].items()}
        return cls(attackers, MajorityLetter(value["majority_letter"]))


@dataclass(frozen=True)
class Floors:
    """The attackers of every stage that a model was trained in, the last first: a model may know what any of them taught."""

    stages: tuple[Floor, ...]

    def credits(self, sample: Sample) -> dict[str, float]:
        """The expected score of each attacker on `sample`, `NAME` of the last stage and `NAME@K` of K stages before it."""
        return {
            f"{name}@{back}" if back else name: share
            for back, floor in enumerate(self.stages)
            for name, share in floor.credits(sample).items()
        }

    def to_json(self) -> dict[str, Any]:
        """`{"stages": [the JSON of each]}`."""
        return {"stages": [floor.to_json() for floor in self.stages]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(map(Floor.from_json, value["stages"])))


def best(credits: Sequence[Mapping[str, float]], clusters: Sequence[str] | None = None) -> tuple[str, Estimate] | None:
    """The attacker with the highest mean of `credits` and that mean, clustered; None where every row is empty (open).

    A row is what `Floor.credits` gives for a sample, and `clusters` names the sample's image or patient. The highest of four
    on the very rows that are reported is slightly too good for the attacker: the floor errs on the side of asking more of a
    model. Of attackers that tie, the first counts.
    """
    rows = [at for at, row in enumerate(credits) if row]
    if not rows:
        return None
    name = max(credits[rows[0]], key=lambda name: sum(credits[at][name] for at in rows))
    return name, proportion([credits[at][name] for at in rows], clusters and [clusters[at] for at in rows])
