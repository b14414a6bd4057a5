"""Med-R1's two rewards exactly as its repository computes them, for runs that must be comparable with its own.

They read the raw completion by rules of their own, by neither the strategy's parser nor the grader, and differ from `accuracy`
where that code does: an answer with a line break inside its tags is not read, a bare letter without tags is right, and one
is paid even where the form around it is broken. That code tries a parser of mathematics first, which never reads anything in a
letter; it is left out.
"""

import re
from typing import Literal

from osler.rewards.answered import Answered

_ANSWER = re.compile(r"<answer>(.*?)</answer>")
"""`.` crosses no line here, other than in the forms."""

_FORMS = {
    "think": re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
    "nothink": re.compile(r"\s*<answer>.*?</answer>", re.DOTALL),
    "think_after": re.compile(r"<answer>.*?</answer>\s*<think>.*?</think>", re.DOTALL),
}
"""Of the whole completion. The third is not in that repository: it is the first with its blocks exchanged."""


def medr1_accuracy(answered: Answered) -> float:
    """1 where the text of the first answer tags, stripped, is the gold to the letter, else 0.

    Without tags the whole completion, stripped, is compared: so `B` is right, as in CLS-RL's runs without tags. The gold is
    what the policy should write: the letter where letters are asked for.
    """
    text = answered.completion.text
    found = _ANSWER.search(text)
    return float((found.group(1) if found else text).strip() == answered.verdict.gold.strip())


def medr1_format(answered: Answered, *, form: Literal["think", "nothink", "think_after"]) -> float:
    """1 where the whole completion has the form, else 0. `form` is the recipe's strategy unless it is set."""
    return float(_FORMS[form].fullmatch(answered.completion.text) is not None)
