"""Phrases that stand in a text as whole words, in any script, and whether the text denies them.

Texts and phrases are compared as they are: fold both first (`osler.schema.fold_text`). Words of denial are English and, a few,
Chinese; in other languages nothing counts as denied.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence, Set
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
_DENIAL = (
    r"\b(?:not|no|never|without|neither|nor|cannot|\w+n['\u2019]t|lack(?:s|ing)?|absence of|free of|negative for"
    r"|exclud(?:es?|ing)|rul(?:es?|ed|ing) out|rather than|instead of|other than|unlike(?:ly)?"
    r"|(?:argues?|speaks?|evidence) against|(?:less|non)(?=[ -]?$)|than(?: (?:in|on|with|for))?(?= (?:(?:an?|the) )?$))\b"
    r"|不是|不像|不考虑|不支持|没有|沒有|未见|未見|并非|並非|而非|排除|无|無"
)
_NO_DENIAL = (
    r"\b(?:not (?:only|just|merely)|no doubt|without (?:a |any )?doubt"
    r"|(?:not|no|nothing|none|cannot|\w+n['\u2019]t)(?: \w+){0,2} other (?:\w+ )?than|no other (?:\w+ )?than)\b"
)
_IN_THIS = r"\b(?:in|on|of|from|within|at|across) (?:this|these|our) (?:(?!(?:an?|the|is|are|as|or)\b)[\w-]+ )*$"
_INSIDE = (
    r"\w (?:(?:in|on|from|within|at)\b(?! (?:all|any|fact|favou?r|general|keeping|least|line|particular|the least)\b)"
    r"|(?:this|these)\b)"
)
_DENIED_BEHIND = re.compile(
    r" ?(?:(?:is|are|was|were|be|been|has|have|can|could|seems?|appears?|looks?|much) ){0,3}"
    r"(?:not\b|(?:is|are|was|were|ca)n['\u2019]t\b|cannot\b"
    r"|unlikely|less likely|excluded|ruled out|absent|wrong|incorrect|false)"
    r"|是?(?:不对|错误)"
)
_LIST = re.compile(
    r"[\s),/、\uff0c]*(?:(?:and|or|nor|to|-to-|vs\.?|versus|和|或|或者|与)\s*)?"
    r"(?:\(?[a-j1-9][).:]\s*)?(?:(?:an?|the) )?[\s(]*"
)
_BY_ITSELF = {"normal", "healthy"}
"""What is denied alone before a noun: `not a normal chest` still is a chest."""


@dataclass(frozen=True)
class Mention:
    """A phrase at [`start`, `end`) of a text: the `number`-th of those that were looked for."""

    start: int
    end: int
    number: int


@dataclass(frozen=True)
class Cue:
    """What says something of the mentions behind it: the pattern `words`, but where it lies in a match of `but`.

    It does not reach past a match of `past`. A mention whose text is one of `alone` hands nothing on to the noun behind it.
    """

    words: str
    but: str = r"(?!)"
    past: str = r"(?!)"
    alone: Set[str] = frozenset()


DENIAL = Cue(_DENIAL, _NO_DENIAL, _IN_THIS, _BY_ITSELF)
OUTRIGHT = Cue(_DENIAL, _NO_DENIAL, f"{_IN_THIS}|{_INSIDE}", _BY_ITSELF)


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


def denied(text: str, found: Sequence[Mention], outright: bool = False) -> list[bool]:
    """Of each of the mentions, in order, whether `text` denies it: `not a cyst`, `rules out a cyst`, `a cyst is unlikely`.

    A word of denial must stand before it in the same clause, `WINDOW` words away at most and with no other mention between;
    what is listed behind something denied is denied too (`no cyst, stone or mass`). What something is not seen in is not
    denied where it is pointed at (`no bone in this mri`); else it is, but not `outright` (`no bone in the mri`).
    """
    before = cued(text, found, OUTRIGHT if outright else DENIAL)
    return [cue or behind for cue, behind in zip(before, followed(text, found, _DENIED_BEHIND), strict=True)]


def cued(text: str, found: Sequence[Mention], cue: Cue) -> list[bool]:
    """Of each of the mentions, in order, whether `cue` stands before it, as `denied` has it."""
    flags: list[bool] = []
    for at, one in enumerate(found):
        last = found[at - 1] if at else None
        direct = _reaches(cue, _clause(text, last.end if last else 0, one.start))
        flags.append(direct or (last is not None and flags[-1] and _handed_on(text, last, one, cue)))
    return flags


def followed(text: str, found: Sequence[Mention], words: re.Pattern[str]) -> list[bool]:
    """Of each of the mentions, in order, whether `words` follow it, or the mention that it stands right before."""
    flags: list[bool] = []
    for one, behind in zip(reversed(found), [None, *reversed(found)], strict=False):
        beside = behind is not None and flags[-1] and not text[one.end : behind.start].strip()
        flags.append(beside or words.match(text, one.end) is not None)
    return flags[::-1]


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


def _reaches(cue: Cue, clause: str) -> bool:
    """Whether `cue` stands in `clause`, and speaks of what comes right behind it."""
    near = _last_end(cue.words, re.sub(cue.but, lambda match: " " * len(match[0]), clause))
    return near is not None and len(clause[near:].split()) <= WINDOW and not re.search(cue.past, clause[near:])


def _handed_on(text: str, last: Mention, one: Mention, cue: Cue) -> bool:
    """Whether what is said of `last` holds for `one`, which is listed behind it or is the noun that it describes."""
    alone = text[last.start : last.end] in cue.alone and not text[last.end : one.start].strip()
    return listed(text, last, one) and not alone


def _clause(text: str, start: int, end: int) -> str:
    """What of `text` between `start` and `end` belongs to the clause that ends there."""
    part = text[start:end]
    return part[_last_end(_CLAUSE, part) or 0 :]


def _last_end(pattern: re.Pattern[str] | str, text: str) -> int | None:
    ends: Iterable[int] = (match.end() for match in re.finditer(pattern, text))
    return max(ends, default=None)
