"""Rewards for what a completion says: whether its answer is right, in which form, and whether its thought agrees with it.

    accuracy           by the verdict: what every evaluation reports as accuracy, too
    letter             the strict answer is the gold option's letter and nothing else
    exact              the strict answer is one of the golds, folded (osler.schema.fold_text)
    yes_no             the one yes or no that stands in the strict answer is the gold's
    token_f1, rouge_l  how much of a gold the strict answer has, 0 to 1 (osler.overlap); the best over the golds
    format             the completion has the strategy's form
    consistency        the thought concludes what the answer says (osler.reasoning.conclusions)
    visual_reliance    how much likelier the image makes the answer; the packed engine measures it

`exact`, `yes_no`, `token_f1` and `rouge_l` compare texts: where letters were asked for, a letter stands for its option's text.
"""

import re

from osler import overlap
from osler.answer_texts import answer_text
from osler.reasoning.conclusions import consistent
from osler.rewards.answered import Answered
from osler.schema import Outcome, fold_text
from osler.strategies import AnswerForm

_YES_NO = re.compile(r"\b(yes|no)\b")


def accuracy(answered: Answered) -> float | None:
    """1 for a correct answer, 0 for an incorrect one, None where it could not be judged (Med-R1, strict reading)."""
    outcome = answered.verdict.outcome
    return None if outcome is Outcome.UNJUDGED else float(outcome is Outcome.CORRECT)


def letter(answered: Answered) -> float | None:
    """1 where the strict answer is the gold option's letter, else 0; None for a question without options."""
    gold = answered.sample.gold_letter
    return None if gold is None else float(answered.parsed.answer == gold)


def exact(answered: Answered) -> float:
    """1 where the strict answer is one of the golds, else 0; case, blanks and a final full stop do not count."""
    return float(_text(answered) in _golds(answered))


def yes_no(answered: Answered) -> float | None:
    """1 where the strict answer holds the gold's yes or no and not the other, else 0; None where no gold is one of them."""
    golds = _golds(answered) & {"yes", "no"}
    found = set(_YES_NO.findall(_text(answered)))
    return float(len(found) == 1 and found <= golds) if golds else None


def token_f1(answered: Answered) -> float:
    """The F1 of the strict answer's words against those of the gold that it is nearest to, 0 to 1."""
    return max(overlap.token_f1(_text(answered), gold) for gold in _golds(answered))


def rouge_l(answered: Answered) -> float:
    """ROUGE-L of the strict answer against the gold that it is nearest to, 0 to 1."""
    return max(overlap.rouge_l(_text(answered), gold) for gold in _golds(answered))


def format_reward(answered: Answered) -> float:
    """1 for a completion in the strategy's exact form, else 0 (Med-R1)."""
    return float(answered.parsed.well_formed)


def consistency(answered: Answered, *, answer_form: AnswerForm) -> float:
    """1 where the thought concludes the answer that is given, 0 where it concludes another or none."""
    return float(bool(consistent(answered.sample, answered.parsed, answer_form)))


def visual_reliance(answered: Answered) -> float | None:
    """How far the answer's likelihood falls when the image is blanked, 0 to 1; None where the engine could not measure it."""
    return answered.scores.get("visual_reliance")


def _golds(answered: Answered) -> set[str]:
    return set(map(fold_text, answered.sample.golds))


def _text(answered: Answered) -> str:
    """The strict answer's text, folded; empty where there is none."""
    return fold_text(answer_text(answered.sample, answered.parsed.answer, answered.verdict))
