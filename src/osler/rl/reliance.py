"""How much an answer leans on the image: its likelihood beside the image against that beside a blank one.

    gain = mean over the answer's tokens of log p(token | image, question, what stands before)
                                        - log p(token | blank, question, what stands before)
    visual_reliance = 1 - exp(-max(0, gain)), from 0 (it would have been as likely unseen) towards 1

Both are teacher-forced under the weights that sampled, at the rollout's temperature; the thought that leads to the answer is
the same beside both, so that an answer that only repeats its thought leans on the image through the thought, and scores low.

It knows nothing of right and wrong: an answer that comes of looking scores high where it is wrong, and a lucky guess low. So it
is paid beside accuracy, and best for right answers only (`gate: correct`). The reward and its form are ours.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from osler.images import blank_of
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Sampled, completion_of
from osler.model.packing import Group, PackedPolicy, micro_batches, pack
from osler.model.prompts import Encoded
from osler.schema import Sample
from osler.strategies import Strategy

VISUAL_RELIANCE = "visual_reliance"
"""The score that this module fills, and the reward that pays it."""

Scores = list[list[dict[str, float | None]]]
"""For every completion of every group, its scores by name."""


def reliance(gain: float) -> float:
    """1 - exp(-max(0, gain)): 0 where the image did not help, below 1; `gain` in nats a token."""
    return -math.expm1(-max(0.0, gain))


@dataclass(frozen=True, eq=False)
class _Asked:
    """The different answered completions of a group, each cut behind its answer, and which of its tokens are the answer."""

    group: int
    answers: dict[tuple[int, ...], range]


class Reliance:
    """Scores the completions of a roll. It writes no weight and draws no random number."""

    def __init__(self, vlm: VLM, store: FeatureStore, strategy: Strategy, temperature: float, micro_tokens: int) -> None:
        self.vlm, self.store, self.strategy, self.micro_tokens = vlm, store, strategy, micro_tokens
        self.policy = PackedPolicy(vlm.model, temperature)

    def __call__(self, samples: Sequence[Sample], prompts: Sequence[Encoded], sampled: Sequence[Sequence[Sampled]]) -> Scores:
        """{visual_reliance: score} of every completion; 0 where it has no strict answer, None where its row has no image.

        Without an answer nothing leans on the image; None would take such completions out of their group, unpunished.
        Completions that are alike are scored once, so that noise of the arithmetic tells none of them apart.
        """
        keys = [[self._key(sample, one) for one in group] for sample, group in zip(samples, sampled, strict=True)]
        asked = [
            _Asked(number, {key[0]: key[1] for key in group if key})
            for number, (sample, group) in enumerate(zip(samples, keys, strict=True))
            if sample.images and any(group)
        ]
        found = self._scored(asked, samples, prompts)
        none = [0.0 if sample.images else None for sample in samples]
        return [
            [{VISUAL_RELIANCE: found.get((n, key[0])) if key else none[n]} for key in group] for n, group in enumerate(keys)
        ]

    def _key(self, sample: Sample, sampled: Sampled) -> tuple[tuple[int, ...], range] | None:
        """The completion's token ids up to the end of its answer, and which of them are the answer; None without one."""
        text = completion_of(self.vlm, sampled).text
        span = answer_span(self.strategy.of(sample), text)
        if span is None:
            return None
        tokens = answer_tokens(self.vlm.processor.tokenizer, sampled.ids, text, span)
        return (tuple(sampled.ids[: tokens.stop]), tokens) if len(tokens) else None

    def _scored(
        self, asked: Sequence[_Asked], samples: Sequence[Sample], prompts: Sequence[Encoded]
    ) -> dict[tuple[int, tuple[int, ...]], float]:
        """The score of each different completion, by its group and its tokens."""
        completions = [[torch.tensor(ids) for ids in one.answers] for one in asked]
        seen = [Group(prompts[one.group], ids) for one, ids in zip(asked, completions, strict=True)]
        found = {}
        for part in micro_batches([group.tokens for group in seen], self.micro_tokens):
            blank = [Group(self._blanked(samples[asked[n].group], seen[n].prompt), completions[n]) for n in part]
            gains_RT = self._logps([seen[n] for n in part]) - self._logps(blank)
            places = [(asked[n].group, ids, tokens) for n in part for ids, tokens in asked[n].answers.items()]
            for gains_T, (group, ids, tokens) in zip(gains_RT, places, strict=True):
                found[group, ids] = reliance(float(gains_T[tokens.start : tokens.stop].mean()))
        return found

    def _blanked(self, sample: Sample, prompt: Encoded) -> Encoded:
        """`prompt` with blank images of the same sizes, which leaves its tokens and positions as they are."""
        return replace(prompt, images=tuple(self.store.of(blank_of(image)) for image in sample.images))

    @torch.no_grad()
    def _logps(self, groups: Sequence[Group]) -> Tensor:
        """Log-probs of the completions' tokens, shape (R, T), in float64 on the CPU."""
        packed = pack(groups, self.vlm.processor.image_token_id).to(self.vlm.device)
        logps_RT, _ = self.policy(packed)
        return logps_RT.double().cpu()  # type: ignore[no-any-return]


def answer_span(strategy: Strategy, completion: str) -> tuple[int, int] | None:
    """Where the strict answer stands in `completion`, first character and one beyond the last; None where there is none.

    Without tags (nothink_raw) that is the whole text, outer blanks aside.
    """
    answer = strategy.parse(completion).answer
    if answer is None:
        return None
    opened = completion.index("<answer>") + len("<answer>") if strategy.tagged else 0
    start = completion.index(answer, opened)
    return start, start + len(answer)


def answer_tokens(tokenizer: Any, ids: Sequence[int], text: str, span: tuple[int, int]) -> range:
    """Which of `ids` hold a part of the characters `span` of `text`, which is what they decode to.

    Where a token begins and ends is found by decoding what stands before it, so that it is right for any tokenizer. Of a
    character of several tokens, all are counted.
    """
    start, end = span

    def length(count: int) -> int:
        """How many characters of `text` the first `count` tokens make; a character that lacks a byte is none yet."""
        decoded = tokenizer.decode(ids[:count], skip_special_tokens=True)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(decoded, text, strict=False)))

    first = bisect_left(range(len(ids)), True, key=lambda k: length(k + 1) > start)
    while first and length(first - 1) == length(first) == start:
        first -= 1
    return range(first, bisect_left(range(len(ids)), True, key=lambda k: length(k) >= end))
