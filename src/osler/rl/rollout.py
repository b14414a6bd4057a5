"""Groups of completions with their rewards and advantages: what a policy is updated on."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from osler.config import Recipe
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Generator, Request, Sampled, completion_of
from osler.model.packing import Group
from osler.model.prompts import Encoded, Prompt, encode
from osler.model.sampling import Sampling, seed_of
from osler.rl.objective import group_advantages, nan_std
from osler.rl.scoring import Scorer
from osler.schema import Sample


@dataclass(eq=False)
class Rolled:
    """A group: the place of its row in the order of training, its prompt, its G completions and their scores."""

    place: int
    sample: Sample
    prompt: Encoded
    sampled: list[Sampled]
    scored: list[dict[str, Any]]

    @property
    def rewards(self) -> list[float]:
        """The total of each completion, NaN where it could not be scored."""
        return [float("nan") if row["reward"] is None else row["reward"] for row in self.scored]

    @property
    def spread(self) -> bool:
        """Whether the group teaches anything: two of its completions were scored, and not alike."""
        return len({row["reward"] for row in self.scored if row["reward"] is not None}) > 1


@dataclass(eq=False)
class Batch:
    """The rollouts of a step: P groups of G completions, B = P G; the buffer that `num_iterations` updates share.

    `old_B` and `ref_B` hold each completion's log-probs under the policy that sampled and under the reference, once they are
    known. `used` counts the updates made so far.
    """

    groups: list[Rolled]
    advantages_PG: Tensor
    old_B: list[Tensor | None] = field(default_factory=list)
    ref_B: list[Tensor | None] = field(default_factory=list)
    used: int = 0

    def __post_init__(self) -> None:
        size = self.advantages_PG.numel()
        self.old_B, self.ref_B = self.old_B or [None] * size, self.ref_B or [None] * size

    def packable(self, number: int) -> Group:
        """The `number`-th group for packing."""
        group = self.groups[number]
        return Group(group.prompt, [torch.tensor(sampled.ids) for sampled in group.sampled])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion, group by group."""
        return [len(sampled.ids) for group in self.groups for sampled in group.sampled]

    def to_json(self) -> dict[str, Any]:
        """All of it but samples and prompts, which follow from the places."""
        return {
            "places": [group.place for group in self.groups],
            "sampled": [[asdict(one) for one in group.sampled] for group in self.groups],
            "scored": [group.scored for group in self.groups],
            "advantages": self.advantages_PG.tolist(),
            "old": [None if logps is None else [str(logps.dtype), logps.tolist()] for logps in self.old_B],
            "ref": [None if logps is None else [str(logps.dtype), logps.tolist()] for logps in self.ref_B],
            "used": self.used,
        }

    def rows(self, step: int) -> list[dict[str, Any]]:
        """Rows for rollouts.jsonl."""
        advantages = self.advantages_PG.flatten().tolist()
        scored = [row for group in self.groups for row in group.scored]
        return [{"step": step, **row, "advantage": advantage} for row, advantage in zip(scored, advantages, strict=True)]


class Roller:
    """Draws rows in a seeded order, a fresh one each epoch, and rolls out G completions of each."""

    def __init__(self, recipe: Recipe, vlm: VLM, samples: Sequence[Sample], store: FeatureStore, scorer: Scorer) -> None:
        rollout = recipe.rollout
        self.recipe, self.vlm, self.samples, self.store, self.scorer = recipe, vlm, samples, store, scorer
        sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p, tuple(vlm.banned_ids))
        rows = rollout.rows or min(rollout.G * rollout.prompts_per_step, 256)
        self.generator = Generator(vlm, sampling, rollout.max_tokens, rows)
        self.place = 0
        self._orders: dict[int, Tensor] = {}

    def prompt(self, sample: Sample) -> Prompt:
        """What is asked about `sample`."""
        return self.scorer.strategy.question(sample, self.recipe.answer_form), sample.images

    def sample_at(self, place: int) -> Sample:
        """The sample at `place` in the order of training."""
        epoch, at = divmod(place, len(self.samples))
        if epoch not in self._orders:
            shuffle = torch.Generator().manual_seed(seed_of(self.recipe.seed, epoch))
            self._orders = {epoch: torch.randperm(len(self.samples), generator=shuffle)}
        return self.samples[int(self._orders[epoch][at])]

    def draw(self) -> tuple[Batch, list[dict[str, Any]], dict[str, float]]:
        """The next rollouts; rows of groups that were drawn anew because they had no spread; and metrics."""
        wanted = self.recipe.rollout.prompts_per_step
        seconds: defaultdict[str, float] = defaultdict(float)
        groups, dropped = self._roll(wanted, seconds), []
        for _ in range(self.recipe.rollout.resample):
            dull = [group for group in groups if not group.spread]
            if not dull:
                break
            dropped += dull
            groups = [group for group in groups if group.spread] + self._roll(len(dull), seconds)
        rewards_PG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
        batch = Batch(groups, group_advantages(rewards_PG, self.recipe.objective.std_norm))
        metrics: dict[str, float] = {**self._metrics(groups, rewards_PG), **seconds, "resampled": len(dropped)}
        for group in dropped:
            name = f"resampled/{group.sample.modality}"
            metrics[name] = metrics.get(name, 0) + 1
        return batch, [{**row, "resampled": True} for group in dropped for row in group.scored], metrics

    def _roll(self, count: int, seconds: defaultdict[str, float]) -> list[Rolled]:
        """`count` groups from the next rows, scored."""
        started = time.perf_counter()
        places = range(self.place, self.place + count)
        self.place += count
        samples = [self.sample_at(place) for place in places]
        prompts = [encode(self.vlm, self.store, self.prompt(sample)) for sample in samples]
        requests = [Request(prompt, self.seeds(place)) for place, prompt in zip(places, prompts, strict=True)]
        G = self.recipe.rollout.G
        sampled: list[list[Any]] = [[None] * G for _ in requests]
        for request, completion, result in self.generator.run(requests):
            sampled[request][completion] = result
        rolled = time.perf_counter()
        texts = [[completion_of(self.vlm, one).text for one in group] for group in sampled]
        scored = [[self.scorer.score(s, text) for text in group] for s, group in zip(samples, texts, strict=True)]
        seconds["rollout_s"] += rolled - started
        seconds["reward_s"] += time.perf_counter() - rolled
        return [Rolled(*parts) for parts in zip(places, samples, prompts, sampled, scored, strict=True)]

    def seeds(self, place: int) -> tuple[int, ...]:
        """A seed for each completion of the row at `place`; the same whatever else is rolled out beside it."""
        return tuple(seed_of(self.recipe.seed, place, completion) for completion in range(self.recipe.rollout.G))

    def restore(self, kept: dict[str, Any]) -> Batch:
        """The batch that `Batch.to_json` kept."""
        groups = []
        for place, sampled, scored in zip(kept["places"], kept["sampled"], kept["scored"], strict=True):
            sample = self.sample_at(place)
            prompt = encode(self.vlm, self.store, self.prompt(sample))
            groups.append(Rolled(place, sample, prompt, [Sampled(**one) for one in sampled], scored))
        advantages_PG = torch.tensor(kept["advantages"], dtype=torch.float64)
        return Batch(groups, advantages_PG, _tensors(kept["old"]), _tensors(kept["ref"]), kept["used"])

    def _metrics(self, groups: list[Rolled], rewards_PG: Tensor) -> dict[str, float]:
        """What TRL reports of rollouts, under TRL's names."""
        sampled = [one for group in groups for one in group.sampled]
        lengths = [len(one.ids) for one in sampled]
        known = {"reward": rewards_PG.nanmean(), "reward_std": nan_std(rewards_PG.reshape(1, -1))[0, 0]}
        return {
            **{name: float(value) for name, value in known.items() if not value.isnan()},
            "frac_reward_zero_std": sum(not group.spread for group in groups) / len(groups),
            **self.scorer.metrics(row for group in groups for row in group.scored),
            "completions/mean_length": sum(lengths) / len(lengths),
            "completions/min_length": min(lengths),
            "completions/max_length": max(lengths),
            "completions/clipped_ratio": sum(one.truncated for one in sampled) / len(sampled),
        }


def _tensors(kept: list[list[Any] | None]) -> list[Tensor | None]:
    return [None if one is None else torch.tensor(one[1], dtype=getattr(torch, one[0].removeprefix("torch."))) for one in kept]
