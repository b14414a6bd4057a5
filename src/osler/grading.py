"""From the text in an answer's place to a verdict. The one grader of training and evaluation.

Two readings stand side by side, so that a change of form cannot pass for a gain:

    strict    the text is exactly what was asked for: one option's letter (letter form), one option's text (text form), yes or
              no, the gold itself; case, outer blanks and a final full stop are forgiven in texts, nothing in letters
    lenient   the one answer that stands anywhere in it. Letter form: a letter, or else an option's text: `(B)`, `B) liver.`,
              `The answer is B`. Text form: an option's text; a letter is none, as the prompt showed none. Yes or no: that word

Texts are compared folded (`osler.schema.fold_text`). Options that fold alike, as a few published rows have them, are one
answer in text form, right where the gold folds to it too; in letter form only a letter tells them apart.
"""

import re

from osler.schema import LETTERS, Grader, Kind, Outcome, Parsed, Sample, Verdict, fold_text
from osler.strategies import AnswerForm, gold_answer

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_ALONE = r"(?<!\w)(?<!\w')"
_MARKED = re.compile(_ALONE + r"([A-J])(?:\)|[.:](?=\s+\S))")
_BARE = re.compile(_ALONE + r"(?:[B-HJ]|[AI](?!\s+\S))(?!\w|['-]\w)")


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
    if sample.kind is Kind.OPEN:
        return fold_text(text) or None
    if sample.kind is Kind.CHOICE and answer_form == "letter":
        return text.strip() if text.strip() in set(_letters(sample)) else None
    return next((option for option in _choices(sample) if fold_text(option) == fold_text(text)), None)


def read_lenient(sample: Sample, text: str, answer_form: AnswerForm) -> str | None:
    """The only answer that stands in `text`, in its canonical spelling, or None where there is none or more than one."""
    strict = read_strict(sample, text, answer_form)
    if strict is not None or sample.kind is Kind.OPEN:
        return strict
    if sample.kind is Kind.YESNO:
        words = set(map(fold_text, _YES_NO.findall(text)))
        return read_strict(sample, words.pop(), answer_form) if len(words) == 1 else None
    places = _places_by_text(sample, text)
    if answer_form == "text":
        return sample.options[places[0]] if places else None
    index = _index_by_letter(sample, _without_options(sample, text))
    if index is None and len(places) == 1:
        index = places[0]
    return None if index is None else LETTERS[index]


def _letters(sample: Sample) -> str:
    return LETTERS[: len(sample.options)]


def _choices(sample: Sample) -> tuple[str, ...]:
    return sample.options or ("yes", "no")


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
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", "…", text, flags=re.IGNORECASE)
    return text


def _places_by_text(sample: Sample, text: str) -> list[int]:
    """The places of the only option whose text stands in `text` as whole words: one, or several where options fold alike.

    An option inside a longer one that stands too is ignored. Empty where no option stands in `text`, or more than one.
    """
    folded, options = fold_text(text), list(map(fold_text, sample.options))
    standing = {option for option in options if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", folded)}
    longest = [one for one in standing if not any(one != other and one in other for other in standing)]
    return [place for place, option in enumerate(options) if [option] == longest]


def _outcome(sample: Sample, answer: str | None, answer_form: AnswerForm) -> Outcome:
    if answer is None:
        return Outcome.INCORRECT
    golds = {gold_answer(sample, answer_form)} if answer_form == "letter" and sample.kind is Kind.CHOICE else set(sample.golds)
    return Outcome.CORRECT if fold_text(answer) in set(map(fold_text, golds)) else Outcome.INCORRECT
