"""What a thought concludes, and whether that is what was answered.

The rule is one of words, made to be right where it says something and to say nothing where it cannot tell:

1. An answer is *stated* where the thought calls it so: `the answer is CT`, `answer: B`, `option B`, `(B)`. Yes and no, options
   of one character and the like (none, both) count only so, or as a sentence of their own (`No, it is normal.`): elsewhere
   `no` is a word like any other. Letters count in letter form only, and only stated.
2. Any other option is also *named* wherever it stands as whole words, folded; one inside a longer option is not.
3. What is denied (`not a cyst`, `rules out a cyst`, `a cyst is unlikely`; osler.reasoning.mentions) or asked (`Is it a cyst?`)
   does not count.
4. The conclusion is the last answer stated, or where none is the last one named. It is None where nothing is left, and where
   that answer stands in a list with another one (`CT or MRI`).

Limits: a synonym, a plural or another spelling of an option is not seen; a thought that goes on to talk of another option
after its conclusion, without saying which is the answer, is read as concluding that one; words of denial are English and
Chinese. Open questions have no conclusion.
"""

import re
from collections.abc import Sequence
from itertools import product

from osler.grading import read_strict
from osler.reasoning.mentions import Mention, asked, denied, listed, mentions
from osler.schema import LETTERS, Kind, Parsed, Sample, fold_text
from osler.strategies import AnswerForm, offered

_ONLY_STATED = {"yes", "no", "none", "both", "all", "other", "others", "true", "false", "neither"}
_ANSWER = (
    r"(?:answer|antwort|respuesta|resposta|réponse|risposta|ответ|الجواب|الإجابة|答案|答え|정답)"
    r"(?:\s+(?:choice|option|to the question|here|then))?"
)
_IS = r"(?:\s*(?:is|was|would be|must be|should be|will be|ist|es|é|est|è|هو|هي|是|为|為|は|은|:|\uff1a|=|—|-))?"
_HOW = r"(?:\s+(?:therefore|thus|then|hence|most likely|likely|probably|clearly|definitely|to be|simply))*"
_OPENING = r"[\s\"'“\u2018*(\uff08\[]*"
_BEFORE_TEXT = re.compile(rf"{_ANSWER}{_IS}{_HOW}\s*:?{_OPENING}(?:(?:an?|the)\s+)?$")
_STATED_LETTER = re.compile(
    rf"(?:(?i:{_ANSWER}{_IS}{_HOW}\s*:?|\b(?:option|choice|letter|choose|select|pick)\b\s*:?|选项?|選項?){_OPENING}([A-J])"
    r"|\(([A-J])\))"
    r"(?![\w'])(?:\)?\s*(?:,|/|or|and|或|和)\s*(?:option\s+)?\(?([A-J])(?![\w']))?"
)
_NEAR = 80  # characters that are looked at before an option, to see whether it is stated
_SENTENCE_BEGINS = re.compile(r"(?:^|[.!?。\uff01\uff1f])\s*(?:(?:so|thus|therefore|hence|then)\b[\s,]*)?$")
_SENTENCE_GOES_ON = re.compile(r"\s*(?:$|[.,;:!?)\]\"”*。\uff0c\uff01\uff1b]|(?:because|since|as)\b)")


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
    found = sorted([*named, *(_lettered(thought, len(answers), named) if letters else ())], key=lambda one: one.start)
    open_ = [one for one, no in zip(found, denied(text, found), strict=True) if not no and not asked(text, one)]
    stated = [one for one in open_ if one not in named or _is_stated(text, one, options[one.number])]
    free = [one for one in open_ if one in named and not _only_stated(options[one.number])]
    last = (stated or free or [None])[-1]
    return None if last is None or _in_a_list(text, last, found, options) else last.number


def _lettered(thought: str, count: int, named: Sequence[Mention]) -> list[Mention]:
    """Where one of the first `count` letters is stated in `thought`, by the places of its folded text."""
    kept = re.sub(r"\s+", " ", thought).lstrip(" ")  # as fold_text, but for the case; each character folds by itself
    found = []
    for match, group in product(_STATED_LETTER.finditer(kept), (1, 2, 3)):
        if match[group] is None:
            continue
        start = len(kept[: match.start(group)].casefold())
        one = Mention(start, start + 1, LETTERS.index(match[group]))
        if one.number < count and not any(other.start <= start < other.end for other in named):
            found.append(one)
    return found


def _is_stated(text: str, one: Mention, option: str) -> bool:
    if _only_stated(option) and not _SENTENCE_GOES_ON.match(text, one.end):
        return False
    before = text[max(0, one.start - _NEAR) : one.start]
    return bool(_BEFORE_TEXT.search(before) or (_only_stated(option) and _SENTENCE_BEGINS.search(before)))


def _only_stated(option: str) -> bool:
    return option in _ONLY_STATED or len(option) == 1


def _in_a_list(text: str, last: Mention, found: Sequence[Mention], options: Sequence[str]) -> bool:
    """Whether `last` is listed with a mention of another answer, on either side."""
    at = found.index(last)
    pairs = [(found[at - 1], last)] if at else []
    pairs += [(last, found[at + 1])] if at + 1 < len(found) else []
    others = [pair for pair in pairs if options[pair[0].number] != options[pair[1].number]]
    return any(listed(text, *pair) for pair in others)
