"""What a method that never sees the image scores: the floor that an accuracy has to be read against.

An attacker is fitted on the training samples of a run and answers the samples that the run is tested on. It sees what a
model without eyes sees, the text, and none of the images. There is one so far, the option prior; a stronger one may exist,
so that an accuracy above the floor is evidence that the model looked, and no proof.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from osler.schema import Kind, Sample, fold_text
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
        """The prior of all `samples` but open questions; where a yes/no question has no options, they are yes and no."""
        gold: Counter[str] = Counter()
        offered: Counter[str] = Counter()
        for sample in samples:
            if choice := _choice(sample):
                options, place = choice
                offered.update(options)
                gold[options[place]] += 1
        return cls({text: (times, offered[text]) for text, times in gold.items()})

    def rate(self, option: str) -> float:
        """Times gold / times offered of the text of `option`; 0 where it was never seen."""
        gold, offered = self.seen.get(fold_text(option), (0, 1))
        return gold / offered

    def credit(self, sample: Sample) -> float | None:
        """The expected score on `sample`: options that tie share it evenly; None for an open question."""
        if (choice := _choice(sample)) is None:
            return None
        options, place = choice
        rates = [self.rate(option) for option in options]
        best = max(rates)
        return 1 / rates.count(best) if rates[place] == best else 0.0

    def to_json(self) -> dict[str, Any]:
        """`{"seen": {text: [times gold, times offered]}}`."""
        return {"seen": {text: list(counts) for text, counts in self.seen.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls({text: (gold, offered) for text, (gold, offered) in value["seen"].items()})


def _choice(sample: Sample) -> tuple[list[str], int] | None:
    """The folded options to choose from and the place of the gold; None where nothing is offered, not even yes or no."""
    if sample.gold_index is not None:
        return list(map(fold_text, sample.options)), sample.gold_index
    yesno, gold = ["yes", "no"], fold_text(sample.golds[0])
    return (yesno, yesno.index(gold)) if sample.kind is Kind.YESNO and gold in yesno else None


def floor_accuracy(prior: OptionPrior, samples: Iterable[Sample]) -> Estimate:
    """What `prior` scores on `samples`; its n leaves out open questions, which have no floor."""
    scored = [(credit, sample) for sample in samples if (credit := prior.credit(sample)) is not None]
    return proportion([credit for credit, _ in scored], [sample.cluster for _, sample in scored])
