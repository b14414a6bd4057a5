"""The quality of reasoning in an evaluation's records, without a judge: every measure with its n and interval.

What is measured on thoughts is None where no record has one: a strategy that does not think has no consistency. A thought that
was never closed counts as a thought (`osler.strategies.thought_in`), so that loops that ran into the limit are not overlooked;
it has no conclusion, as its strategy could not read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from osler.averages import difference, estimate, mean
from osler.looking import right
from osler.overlap import repetition, words
from osler.reasoning.conclusions import conclusion, consistent
from osler.reasoning.forcing import PostHoc
from osler.reasoning.unsupported import claims
from osler.schema import LETTERS, Record, fold_text
from osler.stats import Estimate, proportion, resampled_estimate
from osler.strategies import AnswerForm, offered, thought_in


@dataclass(frozen=True)
class ByCorrectness:
    """The mean of a value over all records that have it, over right and over wrong ones, and right less wrong.

    Records that the grader left unjudged count in `all` only.
    """

    all: Estimate
    right: Estimate
    wrong: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Unsupported:
    """Thoughts against the structured truth of their images (osler.reasoning.unsupported).

    `thoughts` is the share of thoughts that assert at least one finding that the truth does not support, `findings` the share
    of asserted findings that it does not (n: thoughts that assert any), `asserted` how many findings a thought asserts in the
    mean. `not_measurable` counts thoughts about images whose truth is not known; without any other all is empty.
    """

    thoughts: Estimate
    findings: Estimate
    asserted: Estimate
    not_measurable: int


@dataclass(frozen=True)
class Perplexity:
    """How surprising thoughts are to the text model called `model`: exp of its mean loss a token, over all their tokens.

    Lower is more fluent; a loop is fluent, so read it beside the repetition. `estimate.n` is the number of thoughts.
    """

    model: str
    estimate: Estimate
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """model, tokens, and value, ci_low, ci_high, n of the estimate."""
        return {"model": self.model, "tokens": self.tokens, **self.estimate.to_json()}


@dataclass(frozen=True)
class Reasoning:
    """How an evaluation's completions reason.

    `tag_rate`: the share in their strategy's form. `reasoning_rate`: the share with a thought that is more than the answer.
    `conclusive`: of thoughts about questions that are not open, the share whose conclusion can be read. `consistency`: of
    thoughts with a conclusion and an answer, the share in which both agree. `repetition`: the share of word 3-grams of a
    completion that stood in it before. `tokens`: of a completion, where they were counted.
    """

    tag_rate: Estimate
    reasoning_rate: Estimate
    conclusive: Estimate | None
    consistency: Estimate | None
    unsupported: Unsupported | None
    repetition: ByCorrectness
    tokens: ByCorrectness
    perplexity: Perplexity | None
    post_hoc: PostHoc | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name; what has no thought to be measured on, and what was not asked for, is null."""
        made = {"perplexity": self.perplexity, "post_hoc": self.post_hoc}
        return {**asdict(self), **{name: one.to_json() if one else None for name, one in made.items()}}


def reasoning_of(
    records: Sequence[Record],
    answer_form: AnswerForm,
    perplexity: Perplexity | None = None,
    forced: PostHoc | None = None,
) -> Reasoning:
    """The measures of `records`, with those of a text model and of the forced-answer test beside them."""
    clusters = [record.sample.cluster for record in records]
    thinking = [record for record in records if thought_in(record.completion)]
    agree = [(record, consistent(record.sample, record.parsed, answer_form)) for record in thinking]
    clear = [(record, bool(yes)) for record, yes in agree if yes is not None]
    counted = [record for record in records if record.tokens is not None]
    return Reasoning(
        tag_rate=proportion([record.parsed.well_formed for record in records], clusters),
        reasoning_rate=proportion([reasons(record) for record in records], clusters),
        conclusive=_conclusive(thinking, answer_form),
        consistency=proportion([yes for _, yes in clear], _clusters([one for one, _ in clear])) if thinking else None,
        unsupported=unsupported_of(thinking),
        repetition=by_correctness(records, [repetition(record.completion) for record in records]),
        tokens=by_correctness(counted, [float(record.tokens or 0) for record in counted]),
        perplexity=perplexity,
        post_hoc=forced,
    )


def reasons(record: Record) -> bool:
    """Whether `record` has a thought of at least one word, and of more than an answer: a letter, an option, what was said."""
    thought, sample = thought_in(record.completion) or "", record.sample
    answers = (*offered(sample), *LETTERS[: len(sample.options)], record.parsed.answer, record.parsed.lenient)
    return bool(words(thought)) and fold_text(thought) not in {fold_text(text) for text in answers if text}


def by_correctness(records: Sequence[Record], values: Sequence[float]) -> ByCorrectness:
    """The mean of `values`, one of each of `records`, in all, right and wrong ones."""
    judged = [(record, value, yes) for record, value in zip(records, values, strict=True) if (yes := right(record)) is not None]
    sides = {side: [(record, value) for record, value, yes in judged if yes is side] for side in (True, False)}
    means = {side: mean([value for _, value in part], _clusters([one for one, _ in part])) for side, part in sides.items()}
    apart = difference(
        [value for _, value, _ in judged], [yes for _, _, yes in judged], _clusters([one for one, _, _ in judged])
    )
    return ByCorrectness(mean(values, _clusters(records)), means[True], means[False], apart)


def unsupported_of(thinking: Sequence[Record]) -> Unsupported | None:
    """The thoughts of the records `thinking` against the truth; None where there is no thought."""
    if not thinking:
        return None
    found = [(record, claims(thought_in(record.completion) or "", record.sample)) for record in thinking]
    known = [(record, len(one.asserted), len(one.unsupported)) for record, one in found if one is not None]
    telling = [(record, asserted, wrong) for record, asserted, wrong in known if asserted]
    columns_NC = np.array([(wrong, asserted) for _, asserted, wrong in telling], dtype=np.float64).reshape(-1, 2)
    clusters = _clusters([record for record, _, _ in known])
    return Unsupported(
        thoughts=proportion([wrong > 0 for _, _, wrong in known], clusters),
        findings=resampled_estimate(
            columns_NC, lambda totals_RC: totals_RC[:, 0] / totals_RC[:, 1], _clusters([record for record, _, _ in telling])
        ),
        asserted=mean([asserted for _, asserted, _ in known], clusters),
        not_measurable=len(found) - len(known),
    )


def perplexity_of(model: str, scored: Mapping[str, tuple[float, int]], records: Sequence[Record]) -> Perplexity:
    """The perplexity under `model` of the thoughts of `records`, of which `scored` has the summed loss and the tokens, by id.

    Thoughts that have no token to score (a single one, to a model without a token that begins) do not count.
    """
    kept = [(record, *scored[record.sample.id]) for record in records if record.sample.id in scored]
    kept = [(record, loss, tokens) for record, loss, tokens in kept if tokens]
    columns_NC = np.array([(loss, tokens) for _, loss, tokens in kept], dtype=np.float64).reshape(-1, 2)
    clusters = _clusters([record for record, _, _ in kept])
    found = estimate(columns_NC, lambda totals_RC: np.exp(totals_RC[:, 0] / totals_RC[:, 1]), clusters)
    return Perplexity(model, found, sum(tokens for _, _, tokens in kept))


def _conclusive(thinking: Sequence[Record], answer_form: AnswerForm) -> Estimate | None:
    closed = [record for record in thinking if offered(record.sample)]
    told = [conclusion(record.sample, record.parsed, answer_form) is not None for record in closed]
    return proportion(told, _clusters(closed)) if thinking else None


def _clusters(records: Sequence[Record]) -> list[str]:
    return [record.sample.cluster for record in records]
