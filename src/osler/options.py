"""The options of a choice in another order, and what may keep them from having one. Its gold goes with them.

An order is a function of seeds and the row's id, so that it is the same whatever other rows there are, and again on resume.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from osler.schema import Kind, Sample, fold_text

REFERS = "an option refers to others"
"""Why a row's options stay as they are: `all of the above` is wrong at the top."""

NAMED = "its rationale names an option's letter"
"""Why a row's options stay as they are where the rationale is taught."""

_QUANTITY = r"(?:all|none|both|neither|either|any|some|one|two|three|more than one)"
_LETTER = r"\(?[a-j]\)?"
_REFERRING = (
    re.compile(
        rf"\b{_QUANTITY}(?: of)? (?:the (?:above|below|others?|rest)|these|those|them|the (?:following|listed|given))\b"
    ),
    re.compile(rf"\b{_QUANTITY}(?: of)?(?: the)? (?:options?|choices?|answers?|statements?)\b"),
    re.compile(rf"\b(?:both|either|neither) {_LETTER} (?:and|or|nor|&) {_LETTER}(?!\w)"),
    re.compile(rf"{_LETTER}(?:(?:, | ?& ?| and | or |, and ){_LETTER})+(?: only| are (?:correct|true|right))?"),
    re.compile(r"\b(?:options?|choices?|answers?) (?:\(?[a-j]\)?|\d)(?!\w)"),
    re.compile(r"\b(?:the|any) (?:above|aforementioned)$"),
    re.compile("以上(?:都|皆|均|全|所有|任|各|几|选项|答案)|上述"),
)
_LETTERS_ONLY = _REFERRING[3]
_NAMED = re.compile(r"\b(?:[Oo]ptions?|[Cc]hoices?|[Aa]nswers?)(?: is| are|:)? \(?[A-J]\)?(?!\w)|\([A-J]\)|(?<!\w)[A-J]\)")


def no_choice(sample: Sample) -> str:
    """Why nothing can be done about the options of `sample`; empty where something can."""
    if sample.kind is not Kind.CHOICE:
        return "yes/no question" if sample.kind is Kind.YESNO else "open question"
    return "no gold among the options" if sample.gold_index is None else ""


def fixed_because(sample: Sample, with_rationale: bool = False) -> str:
    """Why the options of `sample` cannot stand in another order in training; empty where they can.

    With `with_rationale` a rationale that is taught is looked at too: it must not name a letter that is another option's now.
    """
    if reason := no_choice(sample):
        return reason
    if any(map(refers_to_others, sample.options)):
        return REFERS
    return NAMED if with_rationale and _NAMED.search(sample.rationale or "") else ""


def refers_to_others(option: str) -> bool:
    """Whether `option` speaks of other options: `all of the above`, `both A and B`, `none of these`, `A and C`.

    English and Chinese (`以上都是`) are known; a wording that is not is taken for an option like any other. A bare `both`,
    `none` or `neither` is no reference: it holds in any order.
    """
    folded = fold_text(option)
    if _LETTERS_ONLY.fullmatch(folded):
        return True
    return any(pattern.search(folded) for pattern in _REFERRING if pattern is not _LETTERS_ONLY)


def shuffled(sample: Sample, *seeds: int) -> Sample:
    """`sample` with its options in an order drawn evenly from all orders, by `seeds` (whole numbers from 0) and its id."""
    return reordered(sample, generator(sample.id, *seeds).permutation(len(sample.options)).tolist())


def reordered(sample: Sample, order: Sequence[int]) -> Sample:
    """`sample` with the option that was at `order[k]` at place k."""
    return offering(sample, tuple(sample.options[at] for at in order), list(order).index(sample.gold_index or 0))


def offering(sample: Sample, options: tuple[str, ...], gold_index: int) -> Sample:
    """`sample` with these `options`, of which the one at `gold_index` is right."""
    return replace(sample, options=options, gold_index=gold_index, golds=(options[gold_index],))


def generator(name: str, *seeds: int) -> np.random.Generator:
    """A generator for the row called `name`, the same whatever other rows there are."""
    return np.random.default_rng([*seeds, *sha256(name.encode()).digest()])
