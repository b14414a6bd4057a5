"""Phrases that stand in a text as whole words, in any script, and whether the text denies them.

Texts and phrases are compared as they are: fold both first (`osler.schema.fold_text`). Words of denial are English and, a few,
Chinese; in other languages nothing counts as denied.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WINDOW = 5
"""Words that may stand between a word of denial and what it denies, at most."""

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""How Unicode names the characters of scripts that put no blank between words, or hang particles on them."""

_CHANGES_THE_WORD = "不无無非未没沒"
_CLAUSE = re.compile(
    r"[.;:!?,。\uff1b\uff1a\uff01\uff1f\uff0c]"
    r"|\b(?:but|however|although|though|yet|because|since|so|thus|therefore|hence|while|whereas)\b|但|而是|所以|因此"
)
_SENTENCE_END = re.compile(r"[.!?。\uff01\uff1f]")
_NO_DENIAL = re.compile(r"\b(?:not (?:only|just|merely)|no doubt|without (?:a |any )?doubt)\b")
_DENIAL = re.compile(
    r"\b(?:not|no|never|without|neither|nor|cannot|\w+n['\u2019]t|lack(?:s|ing)?|absence of|free of|negative for"
    r"|exclud(?:es?|ing)|rul(?:es?|ed|ing) out|rather than|instead of|other than|unlike(?:ly)?"
    r"|(?:argues?|speaks?|evidence) against)\b"
    r"|不是|不像|不考虑|不支持|没有|沒有|未见|未見|并非|並非|而非|排除|无|無"
)
_DENIED_BEHIND = re.compile(
    r" ?(?:(?:is|are|was|were|be|been|has|have|can|could|seems?|appears?|looks?) ){0,3}"
    r"(?:not\b|(?:is|are|was|were|ca)n['\u2019]t\b|cannot\b|unlikely|excluded|ruled out|absent|wrong|incorrect|false)"
    r"|是?(?:不对|错误)"
)
_LIST = re.compile(
    r"[\s,/、\uff0c]*(?:(?:and|or|nor|vs\.?|versus|和|或|或者|与)\s*)?(?:\(?[a-j1-9][).:]\s*)?(?:(?:an?|the) )?[\s(]*"
)


@dataclass(frozen=True)
class Mention:
    """A phrase at [`start`, `end`) of a text: the `number`-th of those that were looked for."""

    start: int
    end: int
    number: int


def places(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where `phrase` stands in `text` as whole words: start and end of each place, in order.

    A word ends where a character follows that belongs to none. A combining mark belongs to the character before it. In scripts
    without blanks a word may end anywhere; but a phrase of one such character must stand alone, and one behind 不, 非 or the
    like is another word (正常 is not in 不正常).
    """
    found = []
    start = text.find(phrase) if phrase else -1
    while start >= 0:
        end = start + len(phrase)
        if _stands_alone(phrase, text[start - 1 : start], text[end : end + 1]):
            found.append((start, end))
        start = text.find(phrase, start + 1)
    return found


def mentions(phrases: Sequence[str], text: str) -> list[Mention]:
    """Every place in `text` of one of `phrases`, in order; a place inside that of a longer phrase is none.

    Of phrases that are equal the first one counts.
    """
    numbers = {phrase: number for number, phrase in reversed(list(enumerate(phrases)))}
    found = [Mention(*place, number) for phrase, number in numbers.items() for place in places(phrase, text)]
    longest_first = sorted(found, key=lambda one: (one.start - one.end, one.start))
    kept: list[Mention] = []
    for one in longest_first:
        if not any(one.start < other.end and other.start < one.end for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)


def unspaced(character: str) -> bool:
    """Whether `character` is of a script without blanks between words."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


def listed(text: str, one: Mention, other: Mention) -> bool:
    """Whether nothing but a comma, and, or, an article, `b)` stands between the end of `one` and the start of `other`."""
    return _LIST.fullmatch(text, one.end, other.start) is not None


def denied(text: str, found: Sequence[Mention]) -> list[bool]:
    """Of each of the mentions, in order, whether `text` denies it: `not a cyst`, `rules out a cyst`, `a cyst is unlikely`.

    A word of denial must stand before it in the same clause, `WINDOW` words away at most and with no other mention between;
    what is listed behind something denied is denied too (`no cyst, stone or mass`).
    """
    before = cued(text, found, _DENIAL, _NO_DENIAL)
    return [cue or _DENIED_BEHIND.match(text, one.end) is not None for one, cue in zip(found, before, strict=True)]


def cued(text: str, found: Sequence[Mention], cue: re.Pattern[str], but: re.Pattern[str] | None = None) -> list[bool]:
    """Of each of the mentions, in order, whether a `cue` stands before it, as `denied` has it; `but` is what is no cue."""
    flags: list[bool] = []
    for at, one in enumerate(found):
        last = found[at - 1] if at else None
        clause = _clause(text, last.end if last else 0, one.start)
        near = _last_end(cue, but.sub(lambda match: " " * len(match[0]), clause) if but else clause)
        direct = near is not None and len(clause[near:].split()) <= WINDOW
        flags.append(direct or (last is not None and flags[-1] and listed(text, last, one)))
    return flags


def asked(text: str, one: Mention) -> bool:
    """Whether the sentence of `one` ends with a question mark."""
    end = _SENTENCE_END.search(text, one.end)
    return end is not None and end[0] in "?\uff1f"


def _stands_alone(phrase: str, before: str, behind: str) -> bool:
    if behind and unicodedata.category(behind).startswith("M"):
        return False
    if unspaced(phrase[0]) and before and before in _CHANGES_THE_WORD:
        return False
    lone = len(phrase) == 1 and unspaced(phrase)
    return not any(
        _in_word(neighbour) and (lone or not (unspaced(neighbour) or unspaced(edge)))
        for neighbour, edge in ((before, phrase[0]), (behind, phrase[-1]))
    )


def _in_word(character: str) -> bool:
    return bool(character) and (character.isalnum() or character == "_" or unicodedata.category(character).startswith("M"))


def _clause(text: str, start: int, end: int) -> str:
    """What of `text` between `start` and `end` belongs to the clause that ends there."""
    part = text[start:end]
    return part[_last_end(_CLAUSE, part) or 0 :]


def _last_end(pattern: re.Pattern[str], text: str) -> int | None:
    ends: Iterable[int] = (match.end() for match in pattern.finditer(text))
    return max(ends, default=None)
