"""How far two texts have the same words, and how far one repeats itself: pure functions of texts, in which case counts not.

A word is a run of letters and digits; of scripts that are written without blanks (Chinese, Japanese) each sign is one.
"""

import re
from collections import Counter
from collections.abc import Sequence

SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The signs of scripts without blanks between words, for the inside of brackets of a regular expression."""
WORD = re.compile(rf"[{SIGNS}]|[^\W_{SIGNS}]+")
"""A word."""


def words(text: str) -> list[str]:
    """The words of `text` in order, in one case, without punctuation."""
    return WORD.findall(text.casefold())


def token_f1(text: str, gold: str) -> float:
    """The harmonic mean of precision and recall of the words of `text` against those of `gold`, 0 to 1.

    Words count as often as they stand; articles count too, unlike in SQuAD's script (Rajpurkar et al. 2016). Two texts without
    any word, as `+` and `-`, score 1 where they are equal.
    """
    ours, theirs = words(text), words(gold)
    return _harmonic((Counter(ours) & Counter(theirs)).total(), ours, theirs, text, gold)


def rouge_l(text: str, gold: str) -> float:
    """The same of the longest sequence of words that stands in both, gaps allowed, 0 to 1 (ROUGE-L's F1, Lin 2004).

    Equal to rouge-score's `rougeL` without stemming, wherever a text is plain English.
    """
    ours, theirs = words(text), words(gold)
    return _harmonic(_longest_common(ours, theirs), ours, theirs, text, gold)


def repetition(text: str, n: int = 3) -> float:
    """The share of the n-grams of words of `text` that stood in it before, 0 to 1; 0 where it has fewer than n words."""
    found = words(text)
    grams = list(zip(*(found[start:] for start in range(n)), strict=False))
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def _harmonic(common: int, ours: Sequence[str], theirs: Sequence[str], text: str, gold: str) -> float:
    if not ours and not theirs:
        return float(text.strip() == gold.strip())
    return 2 * common / (len(ours) + len(theirs))


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence, by the usual table, of which one row is kept."""
    row = [0] * (len(theirs) + 1)
    for word in ours:
        above = row[:]
        for place, other in enumerate(theirs, 1):
            row[place] = above[place - 1] + 1 if word == other else max(above[place], row[place - 1])
    return row[-1]
