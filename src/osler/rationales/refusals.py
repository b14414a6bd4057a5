"""Whether a reply may be taught as a rationale: a short list of what it must not be, each with a name that is counted.

The rules are of words. That a reply tells that the answer was known is read from a few English and Chinese phrases; what
says so otherwise is not found. That it concludes another answer is read by osler.reasoning.conclusions, which says nothing
where it cannot tell: such a reply is taken.
"""

import re
from dataclasses import dataclass

from osler.reasoning.conclusions import conclusion, text_of
from osler.schema import Completion, Parsed, Sample, fold_text

REFUSALS = {
    "empty": "nothing was said",
    "cut_off": "it ended at the longest length that was asked for",
    "tags": "it holds a tag by which a strategy marks thoughts or answers",
    "told": "it says that it was told the answer",
    "short": "it is too short to explain anything",
    "long": "it is too long to be taught",
    "contradicts": "it concludes another answer than the gold",
}
"""Why a reply is no rationale; the first that holds is counted."""

_TAG = re.compile(r"</?\s*(?:think|answer)\b[^>]*>?", re.IGNORECASE)
_TOLD = re.compile(
    r"\b(?:given|provided|supplied|known|reference|gold|labell?ed|expected|target)[- ](?:correct |right )?answers?\b"
    r"|\banswer (?:key|field)\b|\bcode word\b|\bthe (?:prompt|data above)\b"
    r"|\banswers?,? (?:that |which )?(?:(?:is|was|has been|had been) )?(?:already )?(?:given|provided|supplied|told|known)\b"
    r"(?! by )"
    r"|\banswers? (?:that )?you (?:have )?(?:given|gave|provided|told)\b"
    r"|\b(?:given|knowing|(?:since|as|because) (?:i|we) know) (?:that )?(?:the )?(?:correct |right )?answer\b"
    r"|\b(?:i|we) (?:was|were|am|are|have been|had been) (?:told|informed)\b"
    r"|\b(?:i|we) (?:was|were|am|are|have been|had been) (?:given|provided)(?: with)? (?:the )?(?:correct |right )?answer\b"
    r"|(?:给定|给出|提供|参考|标准|已知)的?答案|答案(?:已|被)?(?:给出|给定|提供)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Bounds:
    """How many characters a rationale has; our default."""

    least: int = 40
    most: int = 4000


def refusal(sample: Sample, reply: Completion, bounds: Bounds) -> str | None:
    """Why `reply` may not be the rationale of `sample`, one of `REFUSALS`; None where it may."""
    text = reply.text.strip()
    found = {
        "empty": not text,
        "cut_off": reply.truncated,
        "tags": _TAG.search(text) is not None,
        "told": _TOLD.search(" ".join(text.split())) is not None,
        "short": len(text) < bounds.least,
        "long": len(text) > bounds.most,
        "contradicts": concludes_gold(sample, text) is False,
    }
    return next((name for name in REFUSALS if found[name]), None)


def concludes_gold(sample: Sample, text: str) -> bool | None:
    """Whether `text` concludes a gold of `sample`; None where no conclusion can be read, as of every open question."""
    found = conclusion(sample, Parsed(None, None, text, False), "letter")
    return None if found is None else text_of(sample, found, "letter") in set(map(fold_text, sample.golds))
