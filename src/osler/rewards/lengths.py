"""Rewards for how long a completion is, and for how little it repeats itself.

    ecr            Extended Chain Reward: longer is better, right or wrong         min(|o|, L) / L
    cwr            Correctness-Weighted Length Reward: the same, paid if correct   [correct] min(|o|, L) / L
    length_linear  from one value at no token to another at L, for correct and wrong completions each
    length_cosine  the same along half a cosine, flat at both ends (Yeo et al. 2025, arXiv 2502.03373, App. C.1)
    repetition     minus the share of n-grams that came before

|o| counts tokens, the end included; L is `max_tokens`, the recipe's rollout.max_tokens unless it is set. How Zhu et al. define
ECR and CWR is not known to us: these forms, and all values below, are our default. Those of length_linear and length_cosine
favour short right answers and long wrong ones; exchange them to favour the opposite.
"""

import math
from typing import Annotated

from pydantic import Field

from osler import overlap
from osler.rewards.answered import Answered
from osler.schema import Outcome

Count = Annotated[int, Field(strict=True, gt=0)]
Value = Annotated[float, Field(allow_inf_nan=False)]


def ecr(answered: Answered, *, max_tokens: Count) -> float | None:
    """The completion's share of L tokens, 0 to 1 (Zhu et al. 2025; the form is our default). None where none counted them."""
    return _share(answered, max_tokens)


def cwr(answered: Answered, *, max_tokens: Count) -> float | None:
    """`ecr` for a correct completion, 0 for a wrong one (Zhu et al. 2025; the form is our default). None where unjudged."""
    correct = _correct(answered)
    return _share(answered, max_tokens) if correct else None if correct is None else 0.0


def length_linear(
    answered: Answered,
    *,
    max_tokens: Count,
    correct_short: Value = 1.0,
    correct_long: Value = 0.5,
    wrong_short: Value = -1.0,
    wrong_long: Value = -0.5,
) -> float | None:
    """A value on the line from the `_short` value at no token to the `_long` one at L and beyond. None where unjudged."""
    share = _share(answered, max_tokens)
    return _between(answered, share, (correct_short, correct_long), (wrong_short, wrong_long))


def length_cosine(
    answered: Answered,
    *,
    max_tokens: Count,
    correct_short: Value = 1.0,
    correct_long: Value = 0.5,
    wrong_short: Value = -1.0,
    wrong_long: Value = -0.5,
) -> float | None:
    """As `length_linear`, along long + (short - long) (1 + cos(pi |o|/L)) / 2; the default values are TRL's."""
    share = _share(answered, max_tokens)
    way = None if share is None else (1 - math.cos(math.pi * share)) / 2
    return _between(answered, way, (correct_short, correct_long), (wrong_short, wrong_long))


def repetition(answered: Answered, *, n: Count = 3) -> float:
    """Minus the share of n-grams of words that the completion has said before, -1 to 0 (osler.overlap.repetition)."""
    return -overlap.repetition(answered.completion.text, n)


def _between(answered: Answered, way: float | None, right: tuple[float, float], wrong: tuple[float, float]) -> float | None:
    """The value `way` (0 to 1) from the first to the second of a pair: `right` for a correct completion, else `wrong`."""
    correct = _correct(answered)
    if way is None or correct is None:
        return None
    short, long = right if correct else wrong
    return short + (long - short) * way


def _share(answered: Answered, max_tokens: int) -> float | None:
    tokens = answered.completion.tokens
    return None if tokens is None else min(tokens, max_tokens) / max_tokens


def _correct(answered: Answered) -> bool | None:
    outcome = answered.verdict.outcome
    return None if outcome is Outcome.UNJUDGED else outcome is Outcome.CORRECT
