"""The wording of a strategy's instruction, for training and for evaluation.

    same     one instruction for both, the strategy's own: what is asked in evaluation is what was trained
    medr1    two: in training a numbered list of tasks, in evaluation a shorter request (Med-R1's code has them differ)

The words are ours; of Med-R1 is only how the two are built. That repository has no think_after, and asks a base model without
tags in one way only: the pairs of think_after and nothink_raw are ours by analogy.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from osler.errors import RecipeError, unknown
from osler.strategies import Strategy, strategy_of

Use = Literal["training", "evaluation"]

_TASKS = "Your task:"
_NOTHING_ELSE = "Write nothing outside of these tags."

MEDR1: Mapping[str, Mapping[Use, str]] = {
    "think": {
        "training": f"{_TASKS}\n1. Reason step by step about the question, inside <think></think>.\n"
        f"2. Then give {{what}}, the only correct answer, inside <answer></answer>.\n3. {_NOTHING_ELSE}",
        "evaluation": "Reason step by step in <think></think>, then give {what} in <answer></answer>.",
    },
    "nothink": {
        "training": f"{_TASKS}\n1. Give {{what}}, the only correct answer, inside <answer></answer>.\n2. {_NOTHING_ELSE}",
        "evaluation": "Give {what} in <answer></answer>.",
    },
    "nothink_raw": {
        "training": f"{_TASKS}\n1. Give {{what}}, the only correct answer, at once.\n2. Write nothing else.",
        "evaluation": "Answer at once with {what}.",
    },
    "think_after": {
        "training": f"{_TASKS}\n1. Give {{what}}, the only correct answer, inside <answer></answer>.\n"
        f"2. Then explain step by step why, inside <think></think>.\n3. {_NOTHING_ELSE}",
        "evaluation": "Give {what} in <answer></answer>, then explain it step by step in <think></think>.",
    },
}
"""Each strategy's instruction in training and in evaluation under the wording `medr1`; `{what}` is filled in as in its own."""

WORDINGS: Mapping[str, Mapping[str, Mapping[Use, str]]] = {"same": {}, "medr1": MEDR1}


def strategy_for(name: str, wording: str, use: Use) -> Strategy:
    """The strategy called `name`, its instruction in the words that `wording` has for `use`: the same form and target.

    Errors: RecipeError for a strategy or a wording that is none, with the nearest.
    """
    return worded(strategy_of(name), wording, use)


def worded(strategy: Strategy, wording: str, use: Use) -> Strategy:
    """`strategy` with its instruction in the words that `wording` has for `use`. Errors: as `strategy_for`."""
    if wording not in WORDINGS:
        raise RecipeError(unknown("wording", wording, WORDINGS))
    pair = WORDINGS[wording].get(strategy.name)
    return replace(strategy, instruction=pair[use]) if pair else strategy
