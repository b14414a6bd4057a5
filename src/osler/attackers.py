"""Blind attackers: methods that answer from the text of a question alone.

An attacker is fitted on training samples and scored on others. It sees what a model without eyes sees: the stem, the
options, and what was right in training. The floor that the best of them sets is in `osler.floor`.

All texts are compared as `fold_text` leaves them. A yes/no question without options offers yes and no. An open question
offers nothing to choose from: no attacker answers it, and it has no floor.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import log
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from osler.schema import Kind, Sample, fold_text

_TIE = 1e-9
"""Scores this close are equal: sums of the same logarithms in another order differ by less, and nothing else does."""

folded = lru_cache(maxsize=1 << 16)(fold_text)
"""`fold_text`, remembering: the same few texts come again in thousands of rows, and folding them is most of the work."""


class Choice(NamedTuple):
    """What is there to choose from: the folded stem, the folded options, and the place of the gold among them."""

    stem: str
    options: tuple[str, ...]
    place: int

    @property
    def gold(self) -> str:
        """The folded text of the gold option."""
        return self.options[self.place]


def choice_of(sample: Sample) -> Choice | None:
    """The choice that `sample` gives; None for an open question, and where the gold is not among the options."""
    golds = list(map(folded, sample.golds))
    options = tuple(map(folded, sample.options))
    if not options and sample.kind is Kind.YESNO:
        options = ("yes", "no")
    place = sample.gold_index
    if place is None:
        place = next((options.index(gold) for gold in golds if gold in options), -1)
    return Choice(folded(sample.question), options, place) if 0 <= place < len(options) else None


def choices_of(samples: Iterable[Sample]) -> Iterator[Choice]:
    """The choices that `samples` give, without those that give none."""
    return (choice for sample in samples if (choice := choice_of(sample)))


class Attacker(ABC):
    """A way to score options blindly; the highest score wins."""

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> Self:
        """The attacker that `samples` teach; open questions teach nothing."""
        return cls.of(choices_of(samples))

    @classmethod
    @abstractmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        """The attacker that `choices` teach."""

    @abstractmethod
    def scores(self, stem: str, options: Sequence[str]) -> list[float]:
        """A score for each of the folded `options` of a folded `stem`."""

    def credit(self, sample: Sample) -> float | None:
        """The expected score on `sample`: options that tie share it evenly; None for an open question."""
        return None if (choice := choice_of(sample)) is None else self.share(choice)

    def share(self, choice: Choice) -> float:
        """The expected score on `choice`: 1 over the number of options with the highest score where the gold is one of them."""
        scores = self.scores(choice.stem, choice.options)
        tied = [score >= max(scores) - _TIE for score in scores]
        return tied[choice.place] / sum(tied)

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as few as hold everything that was learnt."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""


@dataclass(frozen=True)
class OptionPrior(Attacker):
    """The attacker that picks the option whose text was most often right when it was offered in training.

    `seen` maps the folded text of every option that was right at least once to (times gold, times offered); the rate of any
    other text is 0, whether it was offered or not, so that it needs no entry.
    """

    seen: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        gold: Counter[str] = Counter()
        offered: Counter[str] = Counter()
        for choice in choices:
            offered.update(choice.options)
            gold[choice.gold] += 1
        return cls({text: (times, offered[text]) for text, times in gold.items()})

    def rate(self, option: str) -> float:
        """Times gold / times offered of the text of `option`; 0 where it was never seen."""
        return self._rate(folded(option))

    def scores(self, stem: str, options: Sequence[str]) -> list[float]:
        return list(map(self._rate, options))

    def _rate(self, text: str) -> float:
        gold, offered = self.seen.get(text, (0, 1))
        return gold / offered

    def to_json(self) -> dict[str, Any]:
        """`{"seen": {text: [times gold, times offered]}}`."""
        return {"seen": {text: list(counts) for text, counts in self.seen.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls({text: (gold, offered) for text, (gold, offered) in value["seen"].items()})


@dataclass(frozen=True)
class GoldFrequency(Attacker):
    """The attacker that picks the option whose text was most often the gold in training; unseen texts were so 0 times."""

    times: Mapping[str, int]

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        return cls(dict(Counter(choice.gold for choice in choices)))

    def scores(self, stem: str, options: Sequence[str]) -> list[float]:
        return [self.times.get(option, 0) for option in options]

    def to_json(self) -> dict[str, Any]:
        """`{"times": {text: times gold}}`."""
        return {"times": dict(self.times)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(dict(value["times"]))


@dataclass(frozen=True)
class StemTable(Attacker):
    """The attacker that picks the option that was most often the gold of exactly this stem; chance where it was none."""

    golds: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        golds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for choice in choices:
            golds[choice.stem][choice.gold] += 1
        return cls({stem: dict(times) for stem, times in golds.items()})

    def scores(self, stem: str, options: Sequence[str]) -> list[float]:
        times = self.golds.get(stem, {})
        return [times.get(option, 0) for option in options]

    def to_json(self) -> dict[str, Any]:
        """`{"golds": {stem: {text: times gold}}}`."""
        return {"golds": {stem: dict(times) for stem, times in self.golds.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls({stem: dict(times) for stem, times in value["golds"].items()})


@dataclass(frozen=True)
class BagOfWords(Attacker):
    """The attacker that weighs words: naive Bayes of two classes, an offered option that is gold against one that is not.

    An option's features are its text, each of its words, and its text paired with each word of the stem, each once. Its
    score is the log odds of being gold: those of any option, and for each feature the log of (g + 1) / (G + V) over
    (w + 1) / (W + V), where the feature came g and w times with gold and wrong options, all features G and W times, and V
    features are known (multinomial naive Bayes with Laplace's smoothing). A feature that was never seen says nothing.

    `offers` maps the different words of a stem, sorted and joined by blanks, to what was offered there: the folded text of
    an option to (times gold, times offered). Everything else is counted from it.
    """

    offers: Mapping[str, Mapping[str, tuple[int, int]]]

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Self:
        gold: defaultdict[str, Counter[str]] = defaultdict(Counter)
        offered: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for choice in choices:
            stem = " ".join(_words(choice.stem))
            offered[stem].update(choice.options)
            gold[stem][choice.gold] += 1
        return cls({stem: {text: (gold[stem][text], n) for text, n in texts.items()} for stem, texts in offered.items()})

    @cached_property
    def _weights(self) -> "_Weights":
        return _Weights.of(self.offers)

    def scores(self, stem: str, options: Sequence[str]) -> list[float]:
        words = _words(stem)
        return [self._weights.log_odds(words, option) for option in options]

    def to_json(self) -> dict[str, Any]:
        """stems, options, and for each stem a flat list of (place of an option, times gold, times offered)."""
        place: dict[str, int] = {}
        counts = [
            [number for text, pair in texts.items() for number in (place.setdefault(text, len(place)), *pair)]
            for texts in self.offers.values()
        ]
        return {"stems": list(self.offers), "options": list(place), "counts": counts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        options, counts = value["options"], map(iter, value["counts"])
        triples = (zip(numbers, numbers, numbers, strict=True) for numbers in counts)
        tables = ({options[at]: (gold, offered) for at, gold, offered in rows} for rows in triples)
        return cls(dict(zip(value["stems"], tables, strict=True)))


@dataclass(frozen=True)
class _Weights:
    """The log odds of any option (`prior`), and what each known feature adds to them; `pairs` by option, then stem word."""

    prior: float
    texts: Mapping[str, float]
    words: Mapping[str, float]
    pairs: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, offers: Mapping[str, Mapping[str, tuple[int, int]]]) -> Self:
        """The weights after `offers`, as BagOfWords holds them."""
        texts, words, pairs = _feature_counts(offers)
        every = [texts, words, *pairs.values()]
        known = sum(map(len, every))
        gold, wrong = (sum(count[side] for table in every for count in table.values()) + known for side in (0, 1))

        @cache  # most features came once or twice
        def weight(g: int, w: int) -> float:
            return log((g + 1) / gold) - log((w + 1) / wrong)

        def weights(table: _Pairs) -> dict[str, float]:
            return {feature: weight(*count) for feature, count in table.items()}

        offered = [1 + sum(count[side] for count in texts.values()) for side in (0, 1)]
        paired = {text: weights(table) for text, table in pairs.items()}
        return cls(log(offered[0] / offered[1]), weights(texts), weights(words), paired)

    def log_odds(self, stem_words: Sequence[str], option: str) -> float:
        """The log odds that the folded `option` is gold where the stem holds `stem_words`."""
        paired = self.pairs.get(option, _NOTHING)
        seen = [self.texts.get(option, 0.0), *(self.words.get(word, 0.0) for word in _words(option))]
        return self.prior + sum(seen) + sum(paired.get(word, 0.0) for word in stem_words)


_Pairs = defaultdict[str, list[int]]
_NOTHING: Mapping[str, float] = MappingProxyType({})


def _feature_counts(offers: Mapping[str, Mapping[str, tuple[int, int]]]) -> tuple[_Pairs, _Pairs, dict[str, _Pairs]]:
    """How often each text, each word, and by option each stem word, came with [gold, wrong] options."""
    texts, words = _no_pairs(), _no_pairs()
    pairs: defaultdict[str, _Pairs] = defaultdict(_no_pairs)
    for stem, offered in offers.items():
        stem_words = stem.split()
        for text, (gold, times) in offered.items():
            paired = pairs[text]
            for count in (texts[text], *(paired[word] for word in stem_words)):
                count[0] += gold
                count[1] += times - gold
    for text, (gold, wrong) in texts.items():
        for word in _words(text):
            words[word][0] += gold
            words[word][1] += wrong
    return texts, words, dict(pairs)


def _no_pairs() -> _Pairs:
    return defaultdict(lambda: [0, 0])


def _words(text: str) -> list[str]:
    """The different words of a folded text, sorted."""
    return sorted(set(re.findall(r"\w+", text)))


ATTACKERS: dict[str, type[Attacker]] = {
    "option_prior": OptionPrior,
    "gold_frequency": GoldFrequency,
    "stem_table": StemTable,
    "bag_of_words": BagOfWords,
}
