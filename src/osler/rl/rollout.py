"""Groups of completions with their rewards and advantages: what a policy is updated on."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
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
from osler.rl.objective import gdpo_advantages, group_advantages, nan_std
from osler.rl.scoring import Scorer, Scores, on_grid
from osler.schema import Sample
from osler.training.rows import drawn, order

Measure = Callable[[Sequence[Sample], Sequence[Encoded], Sequence[Sequence[Sampled]]], Scores]
"""What an engine measures of the completions of a roll before they are rewarded: samples, prompts and completions, group by
group, to scores by name for each completion (`osler.rewards.answered.Answered.scores`)."""


@dataclass(eq=False)
class Rolled:
    """A group: the place of its row in the order of training, its prompt, its G completions and their scores.

    `apart` names the rewards that are normalised each by itself; it is empty where their total is.
    """

    place: int
    sample: Sample
    prompt: Encoded
    sampled: list[Sampled]
    scored: list[dict[str, Any]]
    apart: tuple[str, ...] = ()

    @property
    def rewards(self) -> list[float]:
        """The total of each completion, NaN where it could not be scored."""
        return [float("nan") if row["reward"] is None else row["reward"] for row in self.scored]

    @property
    def parts(self) -> list[list[float]]:
        """What is normalised, a row a completion: the rewards of `apart`, or the total. NaN where there is no total."""
        if not self.apart:
            return [[reward] for reward in self.rewards]
        unscored = [float("nan")] * len(self.apart)
        return [unscored if r["reward"] is None else [on_grid(r["rewards"][name]) for name in self.apart] for r in self.scored]

    @property
    def spread(self) -> bool:
        """Whether the group teaches anything: two of its completions were scored, and not alike."""
        scored = [row["reward"] is not None for row in self.scored]
        return len({tuple(parts) for parts, known in zip(self.parts, scored, strict=True) if known}) > 1


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
    """Draws rows in a seeded order, a fresh one each epoch, and rolls out G completions of each.

    `measure`, where there is one, is asked about every roll before it is rewarded, under the weights that sampled it.
    """

    def __init__(
        self,
        recipe: Recipe,
        vlm: VLM,
        samples: Sequence[Sample],
        store: FeatureStore,
        scorer: Scorer,
        measure: Measure | None = None,
    ) -> None:
        rollout = recipe.rollout
        self.recipe, self.vlm, self.samples, self.store, self.scorer = recipe, vlm, samples, store, scorer
        self.measure = measure
        sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p, tuple(vlm.banned_ids))
        rows = rollout.rows or min(rollout.G * rollout.prompts_per_step, 256)
        self.generator = Generator(vlm, sampling, rollout.max_tokens, rows)
        self.place = 0
        self._orders: dict[int, list[int]] = {}

    def prompt(self, sample: Sample) -> Prompt:
        """What is asked about `sample`."""
        return self.scorer.strategy.question(sample, self.recipe.answer_form), sample.images

    def sample_at(self, place: int) -> Sample:
        """The sample at `place` in the order of training, as its epoch asks it."""
        epoch, at = divmod(place, len(self.samples))
        seed, settings = self.recipe.seed, self.recipe.against_shortcuts
        if epoch not in self._orders:
            self._orders = {epoch: order(self.samples, seed, epoch, settings.curriculum)}
        return drawn(self.samples[self._orders[epoch][at]], settings, seed, epoch, self.recipe.strategy)

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
        batch = Batch(groups, self._advantages(groups))
        metrics: dict[str, float] = {**self._metrics(groups), **seconds, "resampled": len(dropped)}
        for group in dropped:
            metrics["unscored"] += sum(row["reward"] is None and row.get("dropped") is None for row in group.scored)
            metrics["dropped_groups"] += "dropped" in group.scored[0]
            name = f"resampled/{group.sample.modality}"
            metrics[name] = metrics.get(name, 0) + 1
        return batch, [{**row, "resampled": True} for group in dropped for row in group.scored], metrics

    def _advantages(self, groups: list[Rolled]) -> Tensor:
        """The advantage of each completion, shape (P, G)."""
        parts_PGK = torch.tensor([group.parts for group in groups], dtype=torch.float64)
        if not self.scorer.apart:
            return group_advantages(parts_PGK[..., 0], self.recipe.objective.std_norm)
        return gdpo_advantages(parts_PGK, torch.tensor([*self.scorer.apart.values()], dtype=torch.float64))

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
        scores = self.measure(samples, prompts, sampled) if self.measure else None
        completions = [[completion_of(self.vlm, one) for one in group] for group in sampled]
        scored = self.scorer.score(samples, completions, [[one.ids for one in group] for group in sampled], scores)
        seconds["rollout_s"] += rolled - started
        seconds["reward_s"] += time.perf_counter() - rolled
        apart = tuple(self.scorer.apart)
        return [Rolled(*parts, apart) for parts in zip(places, samples, prompts, sampled, scored, strict=True)]

    def seeds(self, place: int) -> tuple[int, ...]:
        """A seed for each completion of the row at `place`; the same whatever else is rolled out beside it."""
        return tuple(seed_of(self.recipe.seed, place, completion) for completion in range(self.recipe.rollout.G))

    def restore(self, kept: dict[str, Any]) -> Batch:
        """The batch that `Batch.to_json` kept."""
        groups = []
        for place, sampled, scored in zip(kept["places"], kept["sampled"], kept["scored"], strict=True):
            sample = self.sample_at(place)
            prompt = encode(self.vlm, self.store, self.prompt(sample))
            groups.append(Rolled(place, sample, prompt, [Sampled(**one) for one in sampled], scored, tuple(self.scorer.apart)))
        advantages_PG = torch.tensor(kept["advantages"], dtype=torch.float64)
        return Batch(groups, advantages_PG, _tensors(kept["old"]), _tensors(kept["ref"]), kept["used"])

    def _metrics(self, groups: list[Rolled]) -> dict[str, float]:
        """What TRL reports of rollouts, under TRL's names."""
        rewards_PG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
        sampled = [one for group in groups for one in group.sampled]
        lengths = [len(one.ids) for one in sampled]
        known = {"reward": rewards_PG.nanmean(), "reward_std": nan_std(rewards_PG.reshape(1, -1))[0, 0]}
        return {
            **self.scorer.metrics(group.scored for group in groups),
            **{name: float(value) for name, value in known.items() if not value.isnan()},
            "frac_reward_zero_std": sum(not group.spread for group in groups) / len(groups),
            "completions/mean_length": sum(lengths) / len(lengths),
            "completions/min_length": min(lengths),
            "completions/max_length": max(lengths),
            "completions/clipped_ratio": sum(one.truncated for one in sampled) / len(sampled),
        }


def _tensors(kept: list[list[Any] | None]) -> list[Tensor | None]:
    return [None if one is None else torch.tensor(one[1], dtype=getattr(torch, one[0].removeprefix("torch."))) for one in kept]
