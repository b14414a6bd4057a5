"""What a thought concludes, and whether that is what was answered.

The rule is one of words, made to be right where it says something and to say nothing where it cannot tell:

1. An answer is *stated* where the thought calls it so: `the answer is CT`, `the correct option is B`, `answer: **B**`,
   `I choose B`, `B is correct`, `therefore, B.` Yes and no, options of one character and the like (none, both) count only so,
   or as a sentence of their own (`No, it is normal.`): elsewhere `no` is a word like any other.
2. Any other option is also *named* wherever it stands as whole words, folded; one inside a longer option is not. A letter is
   named by `option B` and `(B)`. Letters count in letter form only.
3. What is denied (`not a cyst`, `rules out a cyst`, `a cyst is unlikely`; osler.reasoning.mentions), asked (`Is it a cyst?`) or
   supposed (`if it were a cyst`, `at first I thought it was a cyst`, `a cyst would be dark`) does not count, nor does what is
   taken back (`... Wait, it must be a mass`).
4. The conclusion is the last answer stated, or where none is the last one named. It is None where nothing is left, where that
   answer stands in a list with another one (`CT or MRI`), and where it was only named and another one is then spoken of in a
   way that may point at the image (`there is no bright bone in the MRI`).

Limits: a synonym, a plural or another spelling of an option is not seen; a thought that goes on to talk of another option
after its conclusion, without saying which is the answer, is read as concluding that one; words of denial are English and
Chinese, those of supposing and taking back English. Open questions have no conclusion.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import product

from osler.grading import read_strict
from osler.reasoning.mentions import Cue, Mention, asked, cued, denied, followed, listed, mentions
from osler.schema import LETTERS, Kind, Parsed, Sample, fold_text
from osler.strategies import AnswerForm, offered

_ONLY_STATED = {"yes", "no", "none", "both", "all", "other", "others", "true", "false", "neither"}
_SURELY = r"(?:\s+(?:therefore|thus|then|hence|most likely|likely|probably|clearly|definitely|to be|simply))*"
_ANSWER = (
    r"(?<!wrong )(?<!incorrect )\b(?:answer(?:\s+(?:choice|option|letter|to the question|here|then))?"
    r"|(?:correct|right|best|final|most likely)\s+(?:option|choice|letter|one|diagnosis|modality))[*_`]*"
)
_IS = rf"\s*(?:is|was|(?:would|must|should|will|has to|can only){_SURELY}\s+be|:|\uff1a|=|—|-)"
_FOREIGN = (
    r"(?:antwort|respuesta|resposta|réponse|risposta|ответ|الجواب|الإجابة|答案|答え|정답)"
    r"(?:\s*(?:ist|es|é|est|è|هو|هي|是|为|為|は|은|:|\uff1a|=|—|-))?"
)
_CHOSEN = r"\b(?:choose|chose|select|pick|(?:i|we)(?:\s+(?:would|will|must)|['\u2019](?:d|ll))?\s+answer)\b|选(?!项)|選(?!項)"
_THEREFORE = r"\b(?:therefore|thus|hence|so)\b[\s,:]*(?:(?:it|this)\s+(?:is|must be)\b)?"
_OPENING = r"(?:[\s\"'“\u2018*_`$(\uff08\[{]|\\(?:boxed|text|textbf|mathrm|mathbf)\b)*+"  # possessive: ((((( is read once
_CLOSING = r"[)\uff09\]}*_`$\"'”\u2019]*"
_OPTION = r"(?:(?:the\s+)?\b(?:option|choice|letter)\b\s*:?)?"
_STATES = rf"(?:(?:{_ANSWER}{_IS}|{_FOREIGN}){_SURELY}|{_CHOSEN})\s*:?{_OPENING}{_OPTION}{_OPENING}"
_IS_THE_ANSWER = (
    rf"{_CLOSING}\s+(?:is|must be|would be|should be|seems to be){_SURELY}\s+"
    r"(?:(?:the\s+)?(?:only\s+)?(?:correct|right|best|final|most likely)\s+(?:answer|option|choice|one)\b"
    r"|(?:the|my|our)\s+answer\b|(?:correct|right)(?=\s*(?:$|[.,;:!?)*\u3002]|(?:because|since|as|and)\b)))"
)
_ENDS = rf"{_CLOSING}\s*(?:$|[.!;\u3002])"
_LISTED_LETTER = r"(?![\w'])(?:\)?\s*(?:,|/|or|and|或|和)\s*(?:option\s+)?\(?([A-J])(?![\w']))?"
_STATED_LETTERS = (
    re.compile(rf"(?i:{_STATES})([A-J]){_LISTED_LETTER}"),
    re.compile(rf"(?i:{_THEREFORE}{_OPENING}{_OPTION}{_OPENING})([A-J])(?={_ENDS})"),
    re.compile(rf"(?<![\w'])([A-J])(?=(?i:{_IS_THE_ANSWER}))"),
)
_NAMED_LETTER = re.compile(
    rf"(?:(?i:\b(?:options?|choices?|letters?|answer)\b\s*:?|选项|選項){_OPENING}([A-J])|\(([A-J])\)){_LISTED_LETTER}"
)
_BEFORE_TEXT = re.compile(rf"{_STATES}(?:(?:an?|the)\s+)?$")
_BEHIND_TEXT = re.compile(_IS_THE_ANSWER)
_NEAR = 80  # characters that are looked at before an option, to see whether it is stated
_SENTENCE_BEGINS = re.compile(r"(?:^|[.!?。\uff01\uff1f])\s*(?:(?:so|thus|therefore|hence|then)\b[\s,]*)?$")
_SENTENCE_GOES_ON = re.compile(r"\s*(?:$|[.,;:!?)\]\"”*。\uff0c\uff01\uff1b]|(?:because|since|as)\b)")
_SUPPOSED = Cue(r"\b(?:if|whether|unless|thought|assum(?:e|es|ed|ing)|suppos(?:e|es|ed|ing)|at first|initially)\b")
_SUPPOSED_BEHIND = re.compile(
    r"(?: (?:scan|image|picture|view)s?)? would\b(?! (?:fit|explain|match|suit|make sense|be (?:consistent|correct|right|my)\b"
    r"|be (?:the |an? )?(?:\w+ ){0,2}(?:answer|choice|option|diagnosis|explanation)\b))"
)
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?;:,。\uff0c…—]|\bbut|\bhmm|\boh|\bno)\s*"
    r"(?:wait|hold on|on second thought|correction|let me (?:re-?(?:check|consider|think)|(?:check|think|look) again))\b"
)


def conclusion(sample: Sample, parsed: Parsed, answer_form: AnswerForm) -> str | None:
    """The answer that the thought of `parsed` concludes, spelt as a verdict's `compared` is; None where none can be read."""
    answers = offered(sample)
    if not parsed.thought or not answers:
        return None
    place = _concluded(answers, parsed.thought, sample.kind is Kind.CHOICE and answer_form == "letter")
    return None if place is None else spelt(sample, place, answer_form)


def consistent(sample: Sample, parsed: Parsed, answer_form: AnswerForm) -> bool | None:
    """Whether the thought concludes what is answered, read strictly; None without a thought, an answer or a conclusion.

    Options that fold alike are one answer.
    """
    concluded = conclusion(sample, parsed, answer_form)
    answer = None if parsed.answer is None else read_strict(sample, parsed.answer, answer_form)
    if concluded is None or answer is None:
        return None
    return text_of(sample, concluded, answer_form) == text_of(sample, answer, answer_form)


def spelt(sample: Sample, place: int, answer_form: AnswerForm) -> str:
    """The `place`-th answer that `sample` offers, as it is to be written: its letter, or its text."""
    return LETTERS[place] if sample.kind is Kind.CHOICE and answer_form == "letter" else offered(sample)[place]


def text_of(sample: Sample, answer: str, answer_form: AnswerForm) -> str:
    """The folded text of an answer that is spelt as `spelt` does: a letter's option."""
    as_letter = sample.kind is Kind.CHOICE and answer_form == "letter"
    return fold_text(sample.options[LETTERS.index(answer)] if as_letter else answer)


def _concluded(answers: Sequence[str], thought: str, letters: bool) -> int | None:
    """The place of the answer that `thought` concludes."""
    text, options = fold_text(thought), list(map(fold_text, answers))
    named = mentions(options, text)
    lettered = _lettered(thought, len(answers), named) if letters else {}
    found = sorted([*named, *lettered], key=lambda one: one.start)
    stated = {one: lettered[one] if one in lettered else _is_stated(text, one, options[one.number]) for one in found}
    free = [one for one in found if stated[one] or one in lettered or not _only_stated(options[one.number])]
    telling = _kept(text, _standing(text, found, free))
    last = next((one for one in reversed(telling) if stated[one]), telling[-1] if telling else None)
    if last is None or _in_a_list(text, last, found, options):
        return None
    overtaken = not stated[last] and any(options[one.number] != options[last.number] for one in _unclear(text, found, last))
    return None if overtaken else last.number


def _standing(text: str, found: Sequence[Mention], free: Sequence[Mention]) -> list[Mention]:
    """Those of `free`, of all that was `found`, that are neither denied, nor asked, nor supposed."""
    flags = zip(found, denied(text, found), cued(text, found, _SUPPOSED), followed(text, found, _SUPPOSED_BEHIND), strict=True)
    return [one for one, *no in flags if one in free and not any(no) and not asked(text, one)]


def _kept(text: str, telling: Sequence[Mention]) -> Sequence[Mention]:
    """Those behind the last place where the thought takes something back, if there are any."""
    ends = [match.end() for match in _TAKEN_BACK.finditer(text)]
    kept = ([one for one in telling if one.start >= end] for end in reversed(ends))
    return next((part for part in kept if part), telling)


def _unclear(text: str, found: Sequence[Mention], last: Mention) -> list[Mention]:
    """The mentions behind `last` that are denied, but not outright."""
    denials = zip(found, denied(text, found), denied(text, found, outright=True), strict=True)
    return [one for one, no, outright in denials if one.start > last.start and no and not outright]


def _lettered(thought: str, count: int, named: Sequence[Mention]) -> Mapping[Mention, bool]:
    """Where one of the first `count` letters stands in `thought`, by places of its folded text, and whether it is stated."""
    kept = re.sub(r"\s+", " ", unicodedata.normalize("NFC", thought)).lstrip(" ")  # as fold_text, but for the case
    found: dict[Mention, bool] = {}
    for pattern in (_NAMED_LETTER, *_STATED_LETTERS):
        for match, group in product(pattern.finditer(kept), range(1, pattern.groups + 1)):
            if match[group] is None:
                continue
            start = len(kept[: match.start(group)].casefold())  # each character folds by itself
            one = Mention(start, start + 1, LETTERS.index(match[group]))
            if one.number < count and not any(other.start <= start < other.end for other in named):
                found[one] = found.get(one, False) or pattern is not _NAMED_LETTER
    return found


def _is_stated(text: str, one: Mention, option: str) -> bool:
    if _only_stated(option) and not _SENTENCE_GOES_ON.match(text, one.end):
        return False
    before = text[max(0, one.start - _NEAR) : one.start]
    if _BEFORE_TEXT.search(before) or _BEHIND_TEXT.match(text, one.end):
        return True
    return _only_stated(option) and _SENTENCE_BEGINS.search(before) is not None


def _only_stated(option: str) -> bool:
    return option in _ONLY_STATED or len(option) == 1


def _in_a_list(text: str, last: Mention, found: Sequence[Mention], options: Sequence[str]) -> bool:
    """Whether `last` is listed with a mention of another answer, on either side."""
    at = found.index(last)
    pairs = [(found[at - 1], last)] if at else []
    pairs += [(last, found[at + 1])] if at + 1 < len(found) else []
    others = [pair for pair in pairs if options[pair[0].number] != options[pair[1].number]]
    return any(listed(text, *pair) for pair in others)
