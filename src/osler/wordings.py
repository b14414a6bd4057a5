"""The wording of a strategy's instruction, for training and for evaluation, and the strategy that an evaluation asks by.

    same     one instruction for both, the strategy's own: what is asked in evaluation is what was trained
    medr1    two: in training a numbered list of tasks, in evaluation a shorter request (Med-R1's code has them differ)

The words are ours; of Med-R1 is only how the two are built. That repository has no think_after, and asks a base model without
tags in one way only: the pairs of think_after and nothink_raw are ours by analogy. `diverse` has its own words only.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from osler.errors import RecipeError, unknown
from osler.prompting import DIVERSE, INFER_PROMPTS, REASONING
from osler.strategies import INFERRED, STRATEGIES, Strategy, strategy_of

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
    words = WORDINGS[wording]
    if words and strategy.name not in words:
        raise RecipeError(f"wording={wording} has no words for strategy={strategy.name}. Leave wording out, or use a strategy "
                          f"that it has words for: {', '.join(words)}.")  # fmt: skip
    return replace(strategy, instruction=words[strategy.name][use]) if words else strategy


def infer_prompt_of(strategy: str, infer_prompt: str | None) -> str | None:
    """The prompt of an evaluation of what was trained by `strategy`: `reasoning` after diverse where none is given.

    None where it is asked as it was trained.
    """
    return infer_prompt or (REASONING if strategy == DIVERSE else None)


def asked_by(name: str, wording: str, infer_prompt: str | None) -> Strategy:
    """The strategy by which an evaluation asks: that of `infer_prompt` (osler.prompting), or without one `name` as trained.

    Errors: as `strategy_for`; RecipeError for a prompt that is none, or that does not go with strategy or wording.
    """
    strategy, prompt = strategy_for(name, wording, "evaluation"), infer_prompt_of(name, infer_prompt)
    if prompt is None:
        return strategy
    if prompt not in INFER_PROMPTS:
        raise RecipeError(unknown("infer_prompt", prompt, INFER_PROMPTS))
    if not strategy.tagged:
        tagged = ", ".join([*(one for one in STRATEGIES if STRATEGIES[one].tagged), DIVERSE])
        raise RecipeError(f"infer_prompt={prompt} asks for the answer in tags, and strategy={name} answers without any. "
                          f"Leave infer_prompt out, or use one of {tagged}.")  # fmt: skip
    if wording != "same":
        raise RecipeError(f"infer_prompt={prompt} has words of its own, so that wording={wording} would do nothing in "
                          "evaluation. Use wording=same, or leave infer_prompt out.")  # fmt: skip
    return INFERRED[prompt]
