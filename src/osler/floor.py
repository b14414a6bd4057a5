"""What a method that never sees the image scores: the floor that an accuracy has to be read against.

An attacker is fitted on the training samples of a run and answers the samples that the run is tested on. It sees what a
model without eyes sees, the text, and none of the images.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from osler.schema import Kind, Sample
from osler.stats import Estimate, proportion


@dataclass(frozen=True)
class OptionPrior:
    """The attacker that picks the option whose text was most often right when it was offered in training.

    `seen` maps the folded text of every option that was right at least once to (times gold, times offered); the rate of any
    other text is 0, whether it was offered or not, so that it needs no entry.
    """

    seen: Mapping[str, tuple[int, int]]

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> Self:
        """The prior of the `samples` that have options and a gold among them."""
        gold: Counter[str] = Counter()
        offered: Counter[str] = Counter()
        for sample in samples:
            if sample.gold_index is not None:
                offered.update(map(fold_option, sample.options))
                gold[fold_option(sample.options[sample.gold_index])] += 1
        return cls({text: (times, offered[text]) for text, times in gold.items()})

    def rate(self, option: str) -> float:
        """Times gold / times offered of the text of `option`; 0 where it was never seen."""
        gold, offered = self.seen.get(fold_option(option), (0, 1))
        return gold / offered

    def credit(self, sample: Sample) -> float | None:
        """The expected score on `sample`: options that tie share it evenly; None where there are no options to choose from."""
        if sample.gold_index is None:
            return None
        rates = [self.rate(option) for option in sample.options]
        best = max(rates)
        return 1 / rates.count(best) if rates[sample.gold_index] == best else 0.0

    def to_json(self) -> dict[str, Any]:
        """`{"seen": {text: [times gold, times offered]}}`."""
        return {"seen": {text: list(counts) for text, counts in self.seen.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls({text: (gold, offered) for text, (gold, offered) in value["seen"].items()})


def fold_option(text: str) -> str:
    """`text` in lower case, without blanks around it and without a full stop at its end."""
    return text.strip().lower().removesuffix(".").rstrip()


def floor_accuracy(prior: OptionPrior, samples: Iterable[Sample]) -> Estimate:
    """What `prior` scores on `samples`; its n counts those that have options, as the others have no floor."""
    scored = [(credit, sample) for sample in samples if (credit := prior.credit(sample)) is not None]
    return proportion([credit for credit, _ in scored], [sample.cluster for _, sample in scored])


def chance(sample: Sample) -> float | None:
    """What guessing scores on `sample`: 1 / number of options, 1/2 for yes or no, None for an open question."""
    if sample.options:
        return 1 / len(sample.options)
    return 0.5 if sample.kind is Kind.YESNO else None
