"""From the text in an answer's place to a verdict. The one grader of training and evaluation.

Two readings stand side by side, so that a change of form cannot pass for a gain:

    strict    the text is exactly what was asked for: one option's letter (letter form), one option's text (text form), yes or
              no, the gold itself; case, outer blanks and a final full stop are forgiven in texts, nothing in letters
    lenient   the one answer that stands anywhere in it. Letter form: a letter, or else an option's text: `(B)`, `B) liver.`,
              `The answer is B`. Text form: an option's text; a letter is none, as the prompt showed none. Yes or no: that word

Texts are compared folded (`osler.schema.fold_text`). Options that fold alike, as a few published rows have them, are one
answer in text form, right where the gold folds to it too; in letter form only a letter tells them apart.

Whole words are told in any script (`osler.reasoning.mentions`). A yes/no question is graded by its own options, by yes and no
only where it is English, and else by its golds alone.
"""

import re

from osler.reasoning.mentions import places, unspaced
from osler.schema import LETTERS, Grader, Kind, Outcome, Parsed, Sample, Verdict, fold_text
from osler.strategies import AnswerForm, gold_answer, offered

_ALONE = r"(?:(?<!\w)(?<!\w')|(?<=[是为為选選项項案はが은는]))"  # Chinese, Japanese and Korean put no blank before the letter
_NO_PART = r"(?!(?![ぁ-ん가-힣])\w|['-]\w|[\u0300-\u036f])"  # nor before the particle behind it
_MARKED = re.compile(_ALONE + r"([A-J])(?:[)\uff09、]|\uff1a|[.:](?=\s+\S))")
_BARE = re.compile(_ALONE + r"(?:[B-HJ]|[AI](?!\s+\S))" + _NO_PART)


def grader(answer_form: AnswerForm) -> Grader:
    """The grader for answers in `answer_form`."""

    def grade(sample: Sample, parsed: Parsed) -> Verdict:
        strict = read_strict(sample, parsed.answer, answer_form) if parsed.answer is not None else None
        lenient = read_lenient(sample, parsed.lenient, answer_form) if parsed.lenient is not None else None
        return Verdict(
            outcome=_outcome(sample, strict, answer_form),
            lenient=_outcome(sample, lenient, answer_form),
            compared=strict,
            gold=gold_answer(sample, answer_form),
        )

    return grade


def read_strict(sample: Sample, text: str, answer_form: AnswerForm) -> str | None:
    """The answer that `text` is, in its canonical spelling, or None where it is no possible answer."""
    if not offered(sample):
        return fold_text(text) or None
    if sample.kind is Kind.CHOICE and answer_form == "letter":
        return text.strip() if text.strip() in set(_letters(sample)) else None
    return next((option for option in offered(sample) if fold_text(option) == fold_text(text)), None)


def read_lenient(sample: Sample, text: str, answer_form: AnswerForm) -> str | None:
    """The only answer that stands in `text`, in its canonical spelling, or None where there is none or more than one."""
    strict = read_strict(sample, text, answer_form)
    if strict is not None or not offered(sample):
        return strict
    standing = _standing(sample, text)
    if answer_form == "text" or sample.kind is Kind.YESNO:
        return offered(sample)[standing[0]] if standing else None
    index = _index_by_letter(sample, _without_options(sample, text))
    if index is None and len(standing) == 1:
        index = standing[0]
    return None if index is None else LETTERS[index]


def _letters(sample: Sample) -> str:
    return LETTERS[: len(sample.options)]


def _index_by_letter(sample: Sample, text: str) -> int | None:
    """The option whose letter stands alone in `text`: `B`, `(B)`, `B.`, `B) liver`; None where two different ones do.

    Letters with a bracket, or with a colon or a full stop and more text behind them, come before bare ones. A bare A before
    a word is an article, and an I a pronoun.
    """
    letters = _letters(sample)
    for pattern in (_MARKED, _BARE):
        found = {letter for letter in pattern.findall(text) if letter in letters}
        if found:
            return letters.index(found.pop()) if len(found) == 1 else None
    return None


def _without_options(sample: Sample, text: str) -> str:
    """`text` with dots for the options that stand in it in full: the B of `Hepatitis B` is not the letter of an option."""
    for option in sorted(map(fold_text, sample.options), key=len, reverse=True):
        if len(option) > 1:
            before, behind = (
                "" if unspaced(edge) else boundary for edge, boundary in ((option[0], r"(?<!\w)"), (option[-1], r"(?!\w)"))
            )
            text = re.sub(f"{before}{re.escape(option)}{behind}", "…", text, flags=re.IGNORECASE)
    return text


def _standing(sample: Sample, text: str) -> list[int]:
    """The places of the only answer whose text stands in `text` as whole words: one, or several where options fold alike.

    An answer inside a longer one that stands too is ignored. Empty where none stands in `text`, or more than one.
    """
    folded, options = fold_text(text), list(map(fold_text, offered(sample)))
    standing = {option for option in options if places(option, folded)}
    longest = [one for one in standing if not any(one != other and one in other for other in standing)]
    return [place for place, option in enumerate(options) if [option] == longest]


def _outcome(sample: Sample, answer: str | None, answer_form: AnswerForm) -> Outcome:
    if answer is None:
        return Outcome.INCORRECT
    golds = {gold_answer(sample, answer_form)} if answer_form == "letter" and sample.kind is Kind.CHOICE else set(sample.golds)
    return Outcome.CORRECT if fold_text(answer) in set(map(fold_text, golds)) else Outcome.INCORRECT
