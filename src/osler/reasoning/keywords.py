"""The keywords that a good rationale names, and the share of them that a text does name (RARL's keyword recall, our form).

    given      `sample.extra["keywords"]`, a list of texts, where a row has one
    phantoms   else, where the truth of the image is known: every finding that there is to see, as phantoms are described
    rationale  else the medical terms of the sample's rationale (osler.comparing.medical_terms), but for those that it denies

A keyword is named where it stands in the text as whole words, folded, and is not denied (osler.reasoning.mentions); hyphens are
blanks, and an imaging modality has its usual spellings.

Limits: no other synonym, plural or inflection is seen. Recall alone can be bought: a text that lists every word there is names
all keywords, and one that hedges names them too. Read it beside unsupported findings (osler.reasoning.unsupported).
"""

from functools import cache
from typing import Any

from osler.comparing.medical_terms import find_terms
from osler.errors import DataError
from osler.reasoning.mentions import Mention, denied, mentions, places
from osler.schema import Sample, fold_text

KEYWORDS = "keywords"
"""The key of `Sample.extra` under which a row may bring its own."""


def keywords_of(sample: Sample) -> tuple[str, ...]:
    """What a good rationale of `sample` names, each once; empty where nothing is known.

    Errors: DataError where the row's own keywords are no list of texts.
    """
    if KEYWORDS in sample.extra:
        return _once(_given(sample, sample.extra[KEYWORDS]))
    return _shown(sample) or _once(_terms(sample))


def keyword_recall(sample: Sample, text: str) -> float | None:
    """The share of the keywords of `sample` that `text` names, 0 to 1; None where it has none. Errors: as `keywords_of`."""
    keywords = keywords_of(sample)
    if not keywords:
        return None
    standing = _standing(keywords, _plain(text))
    named = (any(places(phrase, one) for phrase in _phrases(keyword) for one in standing) for keyword in keywords)
    return sum(named) / len(keywords)


def _given(sample: Sample, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and _plain(one) for one in value):
        where = sample.origin or f"sample {sample.id!r}"
        raise DataError(
            f'{where}: its {KEYWORDS} are no list of texts: {value!r}. Write them as ["a", "b"], or leave them out.'
        )
    return list(value)


def _shown(sample: Sample) -> tuple[str, ...]:
    """What there is to see in a phantom: of one without a lesion neither grade nor location."""
    from osler.reasoning.unsupported import truth_of  # it brings numpy

    truth = {one.field: one.value for one in truth_of(sample) or ()}
    seen = ("modality", "anatomy", "disease", *(() if truth.get("disease") == "normal" else ("grade", "location")))
    return tuple(truth[field] for field in seen) if truth else ()


def _terms(sample: Sample) -> list[str]:
    """The medical terms that the rationale has without denying them."""
    rationale = sample.rationale or ""
    terms = [rationale[start:end] for start, end in find_terms(rationale)]
    standing = _standing(terms, _plain(rationale))
    return [term for term in terms if any(places(_plain(term), one) for one in standing)]


def _standing(keywords: list[str] | tuple[str, ...], text: str) -> list[str]:
    """What of `text` names a keyword or a finding, the longest phrase at each place, and is not denied.

    Findings of others are looked for too, since a denial reaches from one item of a list to the next.
    """
    phrases = list(dict.fromkeys([*(phrase for keyword in keywords for phrase in _phrases(keyword)), *_findings()]))
    found = mentions(phrases, text)
    return [_at(text, one) for one, no in zip(found, denied(text, found), strict=True) if not no]


def _phrases(keyword: str) -> tuple[str, ...]:
    """How `keyword` may be written."""
    return _spellings().get(_plain(keyword), (_plain(keyword),))


@cache
def _spellings() -> dict[str, tuple[str, ...]]:
    """By each spelling of a modality all of them."""
    from osler.reasoning.unsupported import VOCABULARY

    by_modality: dict[str, list[str]] = {}
    for phrase, finding in VOCABULARY.items():
        if finding.field == "modality":
            by_modality.setdefault(finding.value, []).append(_plain(phrase))
    return {phrase: tuple(same) for same in by_modality.values() for phrase in same}


@cache
def _findings() -> tuple[str, ...]:
    from osler.reasoning.unsupported import VOCABULARY

    return tuple(map(_plain, VOCABULARY))


def _once(texts: list[str]) -> tuple[str, ...]:
    """`texts` in order, without those that fold to an earlier one."""
    return tuple({_plain(text): text for text in reversed(texts)}[text] for text in dict.fromkeys(map(_plain, texts)))


def _at(text: str, one: Mention) -> str:
    return text[one.start : one.end]


def _plain(text: str) -> str:
    return fold_text(text.replace("-", " "))
