"""From a completion to what it answers and whether that is right: one function for each scorer.

osler    the strategy's own parser, then `osler.grading`: what training rewards and every evaluation reports
medr1    as Med-R1's released evaluation reads: for comparison with published numbers, never for training
"""

import re
from collections.abc import Callable, Sequence

from osler.errors import DataError, RecipeError, unknown
from osler.grading import grader
from osler.prompting import DIVERSE, REASONING
from osler.schema import LETTERS, Kind, Outcome, Parsed, Sample, Verdict
from osler.strategies import INFERRED, STRATEGIES, AnswerForm, Strategy

Reading = Callable[[Sample, str], tuple[Parsed, Verdict]]

SCORERS = ("osler", "medr1")

_NOT_MEDR1 = {strategy.name for prompt, strategy in INFERRED.items() if prompt != REASONING}
_MEDR1_ANSWER = re.compile(r"<answer>\s*(\w+)\s*</answer>")


def reading_of(scorer: str, strategy: Strategy, answer_form: AnswerForm) -> Reading:
    """How `scorer` reads completions that were asked for by `strategy`.

    Errors: RecipeError with the nearest name, or where the completions cannot be read so.
    """
    if scorer not in SCORERS:
        raise RecipeError(unknown("scorer", scorer, SCORERS))
    if strategy.name == DIVERSE:
        raise RecipeError(f"strategy {DIVERSE!r} draws a prompt for each row in training; completions are read by what they "
                          f"were asked for. Use one of {', '.join(STRATEGIES)}.")  # fmt: skip
    if scorer == "medr1" and strategy.name in _NOT_MEDR1:
        raise RecipeError("the scorer medr1 reads answers to Med-R1's own prompts, and infer_prompt asks for other forms. Use "
                          "--infer-prompt reasoning or a strategy, or --scorer osler.")  # fmt: skip
    if scorer == "medr1" and answer_form == "text":
        raise RecipeError("the scorer medr1 reads letters only. Use --answer-form letter, or --scorer osler.")
    return _osler(strategy, answer_form) if scorer == "osler" else _medr1(strategy)


def _osler(strategy: Strategy, answer_form: AnswerForm) -> Reading:
    grade = grader(answer_form)

    def read(sample: Sample, completion: str) -> tuple[Parsed, Verdict]:
        parsed = strategy.of(sample).parse(completion)
        return parsed, grade(sample, parsed)

    return read


def _medr1(strategy: Strategy) -> Reading:
    """Med-R1's released evaluation, with osler's lenient reading beside it.

    Where the strategy thinks, the first word alone in answer tags is compared with the gold letter; tags hold one word, blanks
    around it allowed, or they are not read. Where it does not, the whole completion is compared with the bare letter, so that
    tags and a full stop are wrong: so its scripts for no-think and for the base have it, though their prompts differ.
    """
    lenient = grader("letter")

    def read(sample: Sample, completion: str) -> tuple[Parsed, Verdict]:
        if sample.gold_letter is None:
            raise DataError(f"row {sample.id!r} has no options, and the scorer medr1 knows only letters. Use --scorer osler.")
        ours = strategy.of(sample).parse(completion)
        found = _MEDR1_ANSWER.search(completion) if strategy.thinks else None
        answer = found.group(1) if found else None if strategy.thinks else completion
        right = Outcome.CORRECT if answer == sample.gold_letter else Outcome.INCORRECT
        parsed = Parsed(answer, ours.lenient, ours.thought, ours.well_formed)
        named = answer if answer in tuple(LETTERS[: len(sample.options)]) else None
        return parsed, Verdict(right, lenient(sample, ours).lenient, named, sample.gold_letter)

    return read


def form_of(samples: Sequence[Sample], completions: Sequence[str]) -> tuple[Strategy, AnswerForm, int]:
    """The strategy and answer form under which most `completions` can be read strictly, and how many those are.

    For completions whose prompt is not known. It looks at what can be read, never at what is right. Ties go to the form that
    asks for more: tags before none, letters before texts.
    """
    forms: list[AnswerForm] = ["letter", "text"] if any(sample.kind is Kind.CHOICE for sample in samples) else ["text"]
    pairs = [(strategy, form) for strategy in STRATEGIES.values() for form in forms]
    counts = [_readable(samples, completions, strategy, form) for strategy, form in pairs]
    best = max(range(len(pairs)), key=lambda at: (counts[at], pairs[at][0].tagged, -at))
    return *pairs[best], counts[best]


def _readable(samples: Sequence[Sample], completions: Sequence[str], strategy: Strategy, form: AnswerForm) -> int:
    read = reading_of("osler", strategy, form)
    verdicts = (read(sample, completion)[1] for sample, completion in zip(samples, completions, strict=True))
    return sum(verdict.compared is not None for verdict in verdicts)
