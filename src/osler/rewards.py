"""From a verdict to a number to optimise. A reward that could not be computed is None, never 0.

A reward is a function `(sample, parsed, verdict, scores) -> float | None`; `scores` holds what a judge or an embedder wrote
beforehand. A recipe lists rewards by name, or by `package.module:function`, with weights.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from osler.errors import RecipeError, unknown
from osler.schema import Outcome, Parsed, Sample, Verdict

Scores = Mapping[str, float | None]
Reward = Callable[[Sample, Parsed, Verdict, Scores], float | None]


def accuracy(sample: Sample, parsed: Parsed, verdict: Verdict, scores: Scores) -> float | None:
    """1 for a correct answer, 0 for an incorrect one, None where it could not be judged (Med-R1, strict reading)."""
    return None if verdict.outcome is Outcome.UNJUDGED else float(verdict.outcome is Outcome.CORRECT)


def format_reward(sample: Sample, parsed: Parsed, verdict: Verdict, scores: Scores) -> float | None:
    """1 for a completion in the strategy's exact form, else 0 (Med-R1)."""
    return float(parsed.well_formed)


REWARDS: dict[str, Reward] = {"accuracy": accuracy, "format": format_reward}


def reward_of(name: str) -> Reward:
    """The reward called `name`, or the user's own `package.module:function`. Errors: RecipeError with the nearest name."""
    if name in REWARDS:
        return REWARDS[name]
    module, _, function = name.partition(":")
    if not function or not all(part.isidentifier() for part in module.split(".")):
        raise RecipeError(unknown("reward", name, REWARDS) + " Or package.module:function.")
    try:
        found: Reward = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"reward {name!r} cannot be imported: {error}.") from error
    if not callable(found):
        raise RecipeError(f"reward {name!r} is no function, but {found!r}.")
    return found


def total(parts: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of `parts`, or None where a part of non-zero weight is None.

    A sum that counted a missing part as 0 would train the policy on the judge's outages.
    """
    if any(part is None and weight for part, weight in zip(parts, weights, strict=True)):
        return None
    return sum(part * weight for part, weight in zip(parts, weights, strict=True) if part is not None)
