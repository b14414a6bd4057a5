"""Findings that a thought asserts and the truth of the image does not support: hallucination, counted without a judge.

It can be measured where a row's structured truth is known, as that of every phantom: `extra` holds anatomy, disease, grade and
location, `modality` the modality. A finding is one of the words that phantoms are described in: the modalities in their usual
spellings, and the names of anatomies, diseases, grades and places. It is asserted where it stands as whole words and is
neither denied (`no cyst`), nor asked, nor held open (`may be a cyst`, `a cyst is possible`, `mild to moderate`). It is
supported where it is what the image shows in that respect.

Limits: other words for the same thing are no findings here, so that silence is not truth; an anatomy that is named beside the
image's own, and `normal`, count wherever they stand; words of denial and doubt are English, and a thought that hedges
everything asserts nothing, so that rates are to be read beside the number of findings that it asserts.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from osler.drawing.phantoms import ANATOMY, GRADES, LOCATIONS
from osler.reasoning.mentions import Cue, asked, cued, denied, followed, listed, mentions
from osler.schema import Sample, fold_text
from osler.taxonomy import MODALITY_SPELLINGS, Modality

_AMBIGUOUS = {"us", "mr", "cr", "dx", "der", "fp", "micro", "pathology", ""}
"""Spellings of modalities that are other words in a sentence."""

_IN_DOUBT = Cue(
    r"\b(?:may|might|could|would|possibl[ey]|possibilit(?:y|ies)|perhaps|maybe|whether|either|if|options?|choices?|candidates?"
    r"|consider(?:ing)?|question|unclear|likely|probabl[ey]|suspicious|suspicion|suspect(?:s|ed)?)\b"
)
_DOUBTED_BEHIND = re.compile(
    r" (?:(?:is|are|was|were|be|remains?|seems?|appears?|also|still|only|very|most) ){1,3}"
    r"(?:possible|probable|likely|suspected|uncertain|unclear|questionable|conceivable)\b"
)
_OR = re.compile(r"\b(?:or|to)\b|/")
_IDIOM = re.compile(r"\bon (?:the )?(?:one|other) hand\b")


@dataclass(frozen=True)
class Finding:
    """A `value` in one respect: `field` is modality, anatomy, disease, grade or location."""

    field: str
    value: str


@dataclass(frozen=True)
class Claims:
    """The different findings that a thought asserts, and those of them that the truth does not support."""

    asserted: frozenset[Finding]
    unsupported: frozenset[Finding]


def _vocabulary() -> dict[str, Finding]:
    """Each phrase, folded, and the finding that it names."""
    named = {fold_text(value): Finding("grade", value) for value in GRADES}
    named |= {fold_text(value): Finding("location", value) for value in (*LOCATIONS, "no lesion")}
    for anatomies in ANATOMY.values():
        for anatomy, diseases in anatomies.items():
            named[fold_text(anatomy)] = Finding("anatomy", anatomy)
            named |= {fold_text(disease): Finding("disease", disease) for disease in diseases}
    named["normal"] = Finding("disease", "normal")
    for modality, spellings in MODALITY_SPELLINGS.items():
        if modality is not Modality.UNKNOWN:
            phrases = {fold_text(modality), *spellings} - _AMBIGUOUS
            named |= {phrase: Finding("modality", modality.value) for phrase in phrases}
    return named


VOCABULARY = _vocabulary()
"""The finding that each phrase names; phrases are folded."""


def claims(thought: str, sample: Sample) -> Claims | None:
    """What `thought` asserts of the image of `sample`; None where the truth of that image is not known."""
    truth = truth_of(sample)
    if truth is None:
        return None
    asserted = findings_in(thought)
    return Claims(asserted, asserted - truth)


def truth_of(sample: Sample) -> frozenset[Finding] | None:
    """What the image of `sample` shows in every respect; None where that is not known."""
    fields = ("anatomy", "disease", "grade", "location")
    if sample.modality is Modality.UNKNOWN or not all(isinstance(sample.extra.get(field), str) for field in fields):
        return None
    shown = {Finding(field, sample.extra[field]) for field in fields}
    return frozenset({*shown, Finding("modality", sample.modality.value)})


def findings_in(thought: str) -> frozenset[Finding]:
    """The different findings that `thought` asserts."""
    text, phrases = _IDIOM.sub("", fold_text(thought).replace("-", " ")), list(_SPACED)
    found = mentions(phrases, text)
    doubts = zip(found, cued(text, found, _IN_DOUBT), followed(text, found, _DOUBTED_BEHIND), strict=True)
    left_open = {one for one, *doubt in doubts if any(doubt)}
    for one, other in pairwise(found):
        if listed(text, one, other) and _OR.search(text, one.end, other.start):
            left_open |= {one, other}
    denials = zip(found, denied(text, found), strict=True)
    kept = [one for one, no in denials if not no and one not in left_open and not asked(text, one)]
    return frozenset(_SPACED[phrases[one.number]] for one in kept)


_SPACED = {phrase.replace("-", " "): finding for phrase, finding in VOCABULARY.items()}
