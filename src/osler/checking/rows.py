"""One row, looked through: its text, its images, its prompt as the processor sees it, its gold as the grader does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import PIL

from osler import __version__
from osler.checking.pictures import Found, said_of, sizes_of
from osler.checking.seen import Said
from osler.checking.target import Target
from osler.datasets.problems import LEAVE_OUT, problem_at
from osler.errors import DataError
from osler.grading import grader
from osler.schema import Outcome, Sample, fold_text
from osler.strategies import AnswerForm, Mixed, Strategy

FORMAT = 2
"""Changed when a row is checked otherwise, so that what earlier checks found does not count."""

_THOUGHT = "I see it."
"""Stands for a rationale that is not taught."""


@dataclass(frozen=True)
class Asking:
    """How rows are asked: the envelope, the forms of the answer, and the processor. The first form is the one of the prompt.

    `needs_images` makes a row without an image a problem; `teaches` makes its rationale a part of what must be read back.
    """

    strategy: Strategy
    forms: tuple[AnswerForm, ...]
    target: Target
    needs_images: bool = False
    teaches: bool = False

    @property
    def key(self) -> list[Any]:
        """All that decides what is found in a row but the row."""
        envelopes = [[one.name, one.instruction, one.form.pattern, one.target] for one in (self.strategy, *self.strategy.each)]
        versions = [__version__, PIL.__version__, FORMAT]
        return [versions, self.target.key, envelopes, self.forms, self.needs_images, self.teaches]


def text_of(sample: Sample) -> list[Any]:
    """All of `sample` that its check depends on, but its images."""
    golds = [sample.golds, sample.gold_index, sample.kind, sample.rationale, sample.language]
    drawn = sample.extra.get("prompt")
    return [sample.id, sample.question, sample.options, *golds, drawn, _not_numbers(sample.extra), sample.question_type]


def row_problems(sample: Sample, pictures: Sequence[Found], asking: Asking) -> list[Said]:
    """What is wrong with `sample`, of whose images `pictures` were found, and what to do about it; empty where it is sound."""
    if broken := list(_broken_text(sample)):
        return broken
    found = [*_gold_problems(sample), *_image_problems(sample, pictures, asking)]
    if not said_of(pictures):
        found += _prompt_problems(sample, sizes_of(pictures), asking)
    return found or _graded_otherwise(sample, asking)


def _broken_text(sample: Sample) -> Iterator[Said]:
    """Text that cannot be written in UTF-8, and numbers that are none."""
    for name, texts in (("question", (sample.question,)), ("options", sample.options), ("golds", sample.golds)):
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                yield f"its {name} hold{'s' * (name == 'question')} half a surrogate pair, which is no text.", LEAVE_OUT
    for name in _not_numbers(sample.extra):
        yield f"the field {name!r} is NaN or infinite, which is no JSON.", "Write null, or leave the field out."


def _not_numbers(value: Any, name: str = "") -> list[str]:
    """The names of what is no finite number in `value`."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [name]
    if isinstance(value, dict):
        return [one for key, part in value.items() for one in _not_numbers(part, name or str(key))]
    return [one for part in value for one in _not_numbers(part, name)] if isinstance(value, list | tuple) else []


def _gold_problems(sample: Sample) -> Iterator[Said]:
    """A question, option or gold that says nothing, a gold that is no option, and one that two options are."""
    if not fold_text(sample.question):
        yield "its question is empty.", LEAVE_OUT
    if not any(map(fold_text, sample.golds)):
        yield "it has no gold: every one is empty.", "Give the answer, or leave the row out."
        return
    options = list(map(fold_text, sample.options))
    if not options:
        return
    if not all(options):
        yield f"one of its options is empty: {list(sample.options)}.", LEAVE_OUT
    gold = fold_text(sample.golds[0])
    place = sample.gold_index
    if gold not in options or (place is not None and not (0 <= place < len(options) and options[place] == gold)):
        yield f"the gold {sample.golds[0]!r} is not among the options {list(sample.options)}.", LEAVE_OUT
    elif options.count(gold) > 1:
        what = f"its gold is {options.count(gold)} of its options, so that more than one is right: {list(sample.options)}."
        yield what, "Correct the options, or leave the row out."


def _image_problems(sample: Sample, pictures: Sequence[Found], asking: Asking) -> list[Said]:
    if asking.needs_images and not sample.images:
        return [("it has no image.", "Give the images' root: NAME:PATH?images=ROOT.")]
    return said_of(pictures)


def _prompt_problems(sample: Sample, sizes: Sequence[tuple[int, int]], asking: Asking) -> Iterator[Said]:
    """What is wrong with the prompt as the processor sees it."""
    row, target = asked(sample, asking.strategy)[0], asking.target
    text = asking.strategy.question(row, asking.forms[0])
    if held := next((token for token in target.control_tokens if token in text), None):
        yield f"its question or options hold {held}, a token that controls the model and is no text.", "Take it out."
        return
    length, tokens, features = target.tokens(text, [target.patches(size) for size in sizes])
    if tokens != features:
        what = f"its prompt has {tokens} image tokens, but {features} features from {len(sizes)} images in {target.name}."
        yield what, "Use another model, or leave the row out."
    if target.budget is not None and length > target.budget:
        what = (
            f"its prompt has {length:,} tokens ({tokens:,} of images), above the {target.budget:,} that {target.name} leaves."
        )
        yield what, "Shorten the question, give fewer images, or lower images.max_pixels."


def _graded_otherwise(sample: Sample, asking: Asking) -> list[Said]:
    """Whether an answer as it is taught, the gold in the strategy's envelope, is read back and right; in each form."""
    row, strategy = asked(sample, asking.strategy)
    if strategy.thinks and not (asking.teaches and (sample.rationale or "").strip()):
        row = replace(row, rationale=_THOUGHT)
    for form in asking.forms:
        try:
            verdict = grader(form)(row, strategy.parse(strategy.completion(row, form)))
        except DataError as error:
            problem = problem_at(sample.origin or f"sample {sample.id!r}", str(error))
            return [(problem.what, problem.fix)]
        if verdict.outcome is not Outcome.CORRECT:
            what = f"its gold {verdict.gold!r} is not right by its own grader (strategy {strategy.name}, {form} form)."
            return [(what, "Correct the gold or the options, or leave the row out.")]
    return []


def asked(sample: Sample, strategy: Strategy) -> tuple[Sample, Strategy]:
    """`sample` as it is asked, and the envelope that it is asked and read by."""
    if isinstance(strategy, Mixed):
        row, part = strategy.asked(sample)
        return row, strategy.parts[part]
    return sample, strategy
