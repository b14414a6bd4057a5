"""Each strategy's instruction in other words: what is asked for, and the form of the answer, stay as they are.

A model that was trained under one wording may have learnt the wording. How far its accuracy moves under these says so.
"""

from collections.abc import Mapping
from dataclasses import replace

from osler.errors import RecipeError, unknown
from osler.strategies import Strategy

VARIANTS = ("p1", "p2", "p3", "p4", "p5")
"""The names of the wordings; every strategy has one under each."""

_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "think": (
        "First write your reasoning between <think> and </think>. Then write {what} between <answer> and </answer>.",
        "Think it through in <think></think> and finish with {what} in <answer></answer>.",
        "Your reply has two parts: <think>your reasoning</think><answer>{what}</answer>",
        "Please put how you arrive at it inside <think></think>, and after that {what} inside <answer></answer>.",
        "Work it out step by step. Steps belong in <think></think>; {what} follows in <answer></answer>.",
    ),
    "nothink": (
        "Reply only with {what}, between <answer> and </answer>.",
        "Do not explain. Write {what} in <answer></answer>.",
        "Your whole reply: <answer>{what}</answer>",
        "Please put {what} inside <answer></answer> and leave out everything else.",
        "We need {what}, placed in <answer></answer>, with no other word around it.",
    ),
    "nothink_raw": (
        "Reply only with {what}.",
        "Do not explain. Write {what} alone.",
        "Your whole reply should be {what}.",
        "Please write {what} and leave out everything else.",
        "We need {what}, with no other word around it.",
    ),
    "think_after": (
        "First write {what} between <answer> and </answer>. Then write your reasons between <think> and </think>.",
        "Begin with {what} in <answer></answer> and justify it in <think></think>.",
        "Your reply has two parts: <answer>{what}</answer><think>your reasoning</think>",
        "Please put {what} inside <answer></answer>, and after that why it is so inside <think></think>.",
        "Answer at once: {what} belongs in <answer></answer>. The explanation follows in <think></think>.",
    ),
    "infer/plain": (
        "Write {what} between <answer> and </answer>.",
        "Finish with {what} in <answer></answer>.",
        "Your reply must hold <answer>{what}</answer>",
        "Please put {what} inside <answer></answer>, wherever it stands in your reply.",
        "We need {what}, placed in <answer></answer>.",
    ),
    "infer/reasoning": (
        "First write, step by step, what you see that decides it, between <think> and </think>. Then write {what} between "
        "<answer> and </answer>.",
        "Go through the image in <think></think>, say what follows from it, and finish with {what} in <answer></answer>.",
        "Your reply has two parts: <think>the findings and what they lead to</think><answer>{what}</answer>",
        "Please explain inside <think></think> how the image leads you to it, and after that give {what} inside "
        "<answer></answer>.",
        "Look, and explain your steps. The explanation belongs in <think></think>; {what} follows in <answer></answer>.",
    ),
}
"""The wordings of each strategy, in the order of `VARIANTS`; `{what}` is filled in as in the strategy's own instruction."""


def rephrased(strategy: Strategy, variant: str) -> Strategy:
    """`strategy` with its instruction in the words of `variant`: the same name, form and target.

    Errors: RecipeError for a variant or a strategy that has no wordings here.
    """
    if strategy.name not in _WORDINGS:
        raise RecipeError(f"the control 'prompts' has {unknown('strategy', strategy.name, _WORDINGS)}")
    if variant not in VARIANTS:
        raise RecipeError(unknown("paraphrase", variant, VARIANTS))
    return replace(strategy, instruction=_WORDINGS[strategy.name][VARIANTS.index(variant)])
