"""Completions to rewards, in both engines: parsed, judged, every part of the reward and their weighted total."""

from collections.abc import Iterable
from typing import Any

from osler.config import Recipe
from osler.rewards import reward_of, total
from osler.schema import Grader, Sample
from osler.strategies import Strategy

GRID = 2**16
"""Totals are rounded to 1/GRID: the float32 mean of equal ones is then exact, and a group without spread has none at all."""


class Scorer:
    """What a recipe pays for a completion."""

    def __init__(self, recipe: Recipe, strategy: Strategy, grader: Grader) -> None:
        self.strategy, self.grader, self.answer_form = strategy, grader, recipe.answer_form
        self.names = [reward.name for reward in recipe.rewards]
        self.rewards = [reward_of(name) for name in self.names]
        self.weights = [reward.weight for reward in recipe.rewards]

    def score(self, sample: Sample, completion: str) -> dict[str, Any]:
        """A row for rollouts.jsonl, with each part of the reward and the total; None where it could not be scored."""
        parsed = self.strategy.parse(completion)
        verdict = self.grader(sample, parsed)
        parts = [reward(sample, parsed, verdict, {}) for reward in self.rewards]
        reward = total(parts, self.weights)
        return {
            "sample_id": sample.id,
            "images": list(sample.images),
            "prompt": self.strategy.question(sample, self.answer_form),
            "gold": verdict.gold,
            "completion": completion,
            "rewards": dict(zip(self.names, parts, strict=True)),
            "reward": reward if reward is None else round(reward * GRID) / GRID,
        }

    def metrics(self, scored: Iterable[dict[str, Any]]) -> dict[str, float]:
        """The mean of each part over the completions that have it, and how many have no total."""
        rows, found = list(scored), {}
        for name in self.names:
            parts = [row["rewards"][name] for row in rows if row["rewards"][name] is not None]
            if parts:
                found[f"rewards/{name}"] = sum(parts) / len(parts)
        return {**found, "unscored": sum(row["reward"] is None for row in rows)}
