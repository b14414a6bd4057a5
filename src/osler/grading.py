"""From the text in an answer's place to a verdict. The one grader of training and evaluation.

Two readings stand side by side, so that a change of form cannot pass for a gain:

    strict    the text is exactly what was asked for: one option's letter (letter form), one option's text (text form), yes or
              no, the gold itself; case, outer blanks and a final full stop are forgiven in texts, nothing in letters
    lenient   the first unambiguous letter or option text found anywhere in it: `B`, `(B)`, `B) liver.`, `The answer is B`
"""

import re

from osler.schema import LETTERS, Grader, Kind, Outcome, Parsed, Sample, Verdict
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
        return normalise(text) or None
    if sample.kind is Kind.CHOICE and answer_form == "letter":
        return text.strip() if text.strip() in set(_letters(sample)) else None
    return next((option for option in _choices(sample) if normalise(option) == normalise(text)), None)


def read_lenient(sample: Sample, text: str, answer_form: AnswerForm) -> str | None:
    """The first unambiguous answer in `text`, in its canonical spelling, or None."""
    strict = read_strict(sample, text, answer_form)
    if strict is not None or sample.kind is Kind.OPEN:
        return strict
    if sample.kind is Kind.YESNO:
        found = _YES_NO.search(text)
        return read_strict(sample, found.group(1), answer_form) if found else None
    index = _index_by_letter(sample, _without_options(sample, text))
    if index is None:
        index = _index_by_text(sample, text)
    if index is None:
        return None
    return LETTERS[index] if answer_form == "letter" else sample.options[index]


def normalise(text: str) -> str:
    """`text` in lower case, blanks collapsed, outer blanks and final full stops dropped."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip().casefold()


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
    for option in sorted(map(normalise, sample.options), key=len, reverse=True):
        if len(option) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", "…", text, flags=re.IGNORECASE)
    return text


def _index_by_text(sample: Sample, text: str) -> int | None:
    """The only option whose text stands in `text` as whole words; an option inside a longer one that stands too is ignored."""
    folded = normalise(text)
    standing = [o for o in sample.options if re.search(rf"(?<!\w){re.escape(normalise(o))}(?!\w)", folded)]
    longest = [o for o in standing if not any(o != p and normalise(o) in normalise(p) for p in standing)]
    return sample.options.index(longest[0]) if len(longest) == 1 else None


def _outcome(sample: Sample, answer: str | None, answer_form: AnswerForm) -> Outcome:
    if answer is None:
        return Outcome.INCORRECT
    golds = {gold_answer(sample, answer_form)} if answer_form == "letter" and sample.kind is Kind.CHOICE else set(sample.golds)
    return Outcome.CORRECT if normalise(answer) in {normalise(gold) for gold in golds} else Outcome.INCORRECT
