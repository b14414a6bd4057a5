"""Judgements -> numbers, each with n and interval: what a judge says of an evaluation, and how far to trust it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import numpy as np

from osler.judging.prompts import item_of
from osler.judging.replies import Judgement
from osler.judging.slopes import logistic_slope
from osler.judging.tables import Agreed, Crossed, agreed, crossed
from osler.judging.texts import lines_of_texts
from osler.looking import right
from osler.schema import Record
from osler.stats import Estimate, proportion


@dataclass(frozen=True)
class Spent:
    """What the requests behind the lines took: `asked` of them, `seconds_median` and `seconds_p95` each, tokens in all.

    None where nothing was asked, or the server counts no tokens. `cached` lines cost nothing, as they were asked before.
    """

    asked: int
    cached: int
    seconds_median: float | None
    seconds_p95: float | None
    tokens_in: int | None
    tokens_out: int | None


@dataclass(frozen=True)
class Judged:
    """What one judge says of `rows` records.

    `answer`: the share of scored records whose answer it calls correct; `exact_match`: what the strict grader says of the same
    records; `reasoning`: the share with sound reasoning, of scored records that have a thought (`no_thought` counts the
    others). `unscored` counts by reason, `shortened` records of which the judge did not see all. `by_judge` and `by_grader`
    hold soundness against the answer as the judge, and as the strict grader, sees it. `grader` is how far these two agree.
    `length_slope`: what one more unit of the natural log of a completion's tokens adds to the log-odds of sound reasoning,
    over records whose tokens are known (`no_tokens` counts the others); above 0 longer completions are preferred.
    """

    judge: str
    rows: int
    answer: Estimate
    exact_match: Estimate
    reasoning: Estimate
    unscored: Mapping[str, int]
    no_thought: int
    shortened: int
    by_judge: Crossed
    by_grader: Crossed
    grader: Agreed
    length_slope: Estimate
    no_tokens: int
    spent: Spent

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            **asdict(self),
            "unscored": dict(self.unscored),
            "by_judge": self.by_judge.to_json(),
            "by_grader": self.by_grader.to_json(),
            "grader": self.grader.to_json(),
        }


def judged_of(judge: str, records: Sequence[Record], judgements: Sequence[Judgement]) -> Judged:
    """The summary of `judgements`, one of each of `records`."""
    pairs = list(zip(records, judgements, strict=True))
    scored = [(record, one, one.correct) for record, one in pairs if one.correct is not None]
    thought = [(record, one, one.sound) for record, one, _ in scored if one.sound is not None]
    graded = [(record, yes, score) for record, _, score in scored if (yes := right(record)) is not None]
    graded_thought = [(record, yes, sound) for record, _, sound in thought if (yes := right(record)) is not None]
    long = [(record, log(record.tokens), sound) for record, _, sound in thought if record.tokens]
    return Judged(
        judge=judge,
        rows=len(pairs),
        answer=proportion([score for _, _, score in scored], _clusters(scored)),
        exact_match=proportion([yes for _, yes, _ in graded], _clusters(graded)),
        reasoning=proportion([sound for _, _, sound in thought], _clusters(thought)),
        unscored=dict(Counter(one.unscored for one in judgements if one.unscored).most_common()),
        no_thought=len(scored) - len(thought),
        shortened=sum(one.shortened or item_of(record).shortened for record, one in pairs),
        by_judge=crossed([one.correct or 0 for _, one, _ in thought], [sound for _, _, sound in thought], _clusters(thought)),
        by_grader=crossed([yes for _, yes, _ in graded_thought], [s for _, _, s in graded_thought], _clusters(graded_thought)),
        grader=agreed([score for _, _, score in graded], [yes for _, yes, _ in graded], _clusters(graded)),
        length_slope=logistic_slope([sound for _, _, sound in long], [size for _, size, _ in long], _clusters(long)),
        no_tokens=len(thought) - len(long),
        spent=_spent(judgements),
    )


def agreed_of(records: Sequence[Record], first: Sequence[Judgement], second: Sequence[Judgement]) -> dict[str, Agreed]:
    """How far two sets of judgements of the same `records` agree on `answer` and on `reasoning`, where both have scores."""
    together = list(zip(records, first, second, strict=True))
    answers = [(r, a.correct, b.correct) for r, a, b in together if a.correct is not None and b.correct is not None]
    reasons = [(r, a.sound, b.sound) for r, a, b in together if a.sound is not None and b.sound is not None]
    return {
        name: agreed([a for _, a, _ in pairs], [b for _, _, b in pairs], _clusters(pairs))
        for name, pairs in (("answer", answers), ("reasoning", reasons))
    }


def lines_of(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The summary in judge.json as lines of text under their titles."""
    parts = {_title(one["judge"], summary.get("trained_with")): list(_judged(one)) for one in summary["judges"]}
    if summary["between"]:
        parts["Between the two judges"] = list(_agreed(summary["between"]))
    for number, retest in enumerate(summary["retests"], 2):
        parts[f"The first judge, asked the first time and time {number}"] = list(_agreed(retest))
    if texts := summary.get("texts"):
        parts[f"Texts: {texts['rows']} records, without a judge"] = list(lines_of_texts(texts))
    return parts


def _title(judge: str, trained_with: Mapping[str, Any] | None) -> str:
    """The name of `judge`, with a warning where it is the one whose scores the model was trained on, or that is not known."""
    if trained_with is None:
        return judge
    if trained_with["same"] is None:
        return f"{judge} (whether the model was trained on its scores is not known: {trained_with['why']})"
    if judge in trained_with["same_as"]:
        return f"{judge} (TRAINED ON: the model learned to please this judge, so these are no independent scores)"
    return judge


def _judged(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "answer correct", str(Estimate(**one["answer"]))
    yield "exact match on the same records", str(Estimate(**one["exact_match"]))
    yield "reasoning sound", str(Estimate(**one["reasoning"]))
    yield "unscored", ", ".join(f"{count} {reason}" for reason, count in one["unscored"].items()) or "0"
    yield "no thought to judge", str(one["no_thought"])
    if one["shortened"]:
        yield "too long to be shown whole", str(one["shortened"])
    for name, key in (("judge", "by_judge"), ("strict grader", "by_grader")):
        yield from _crossed(name, one[key])
    yield "judge with strict grader, on the answer", _kappa(one["grader"])
    yield "log-odds of sound for a unit of ln(tokens)", _number(one["length_slope"])
    spent = one["spent"]
    yield "requests, and lines from the cache", f"{spent['asked']}, {spent['cached']}"
    if spent["seconds_median"] is not None:
        yield "seconds a request, median and 95 %", f"{spent['seconds_median']:.2f}, {spent['seconds_p95']:.2f}"
    if spent["tokens_in"] is not None:
        yield "tokens read and written", f"{spent['tokens_in']}, {spent['tokens_out'] or 0}"


def _crossed(name: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts = table["counts"]
    yield f"right by the {name}: sound, unsound", f"{counts[0]}, {counts[1]}"
    yield f"wrong by the {name}: sound, unsound", f"{counts[2]}, {counts[3]}"
    exact = f"; Fisher's p = {table['fisher_p']:.3g}" if table["fisher_p"] is not None else ""
    yield "sound behind right less behind wrong", Estimate(**table["difference"]).points + exact


def _agreed(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((f"{name}, Cohen's kappa", _kappa(one)) for name, one in found.items())


def _kappa(one: Mapping[str, Any]) -> str:
    return f"{_number(one['kappa'])}; agree on {Estimate(**one['kappa']['agreement'])}"


def _number(value: Mapping[str, Any]) -> str:
    """A value that is no share; without an interval where there is none."""
    if value["value"] is None:
        return f"cannot be told, n = {value['n']}" if value["n"] else "no rows"
    interval = "" if value["ci_low"] is None else f" [{value['ci_low']:+.2f}, {value['ci_high']:+.2f}]"
    return f"{value['value']:+.2f}{interval}, n = {value['n']}"


def _spent(judgements: Sequence[Judgement]) -> Spent:
    seconds = [one.seconds for one in judgements if one.seconds is not None]
    median, p95 = np.quantile(seconds, [0.5, 0.95]).round(3).tolist() if seconds else (None, None)
    counted_in = [one.tokens_in for one in judgements if one.tokens_in is not None]
    counted_out = [one.tokens_out for one in judgements if one.tokens_out is not None]
    return Spent(
        asked=len(seconds),
        cached=sum(one.cached for one in judgements),
        seconds_median=median,
        seconds_p95=p95,
        tokens_in=sum(counted_in) if counted_in else None,
        tokens_out=sum(counted_out) if counted_out else None,
    )


def _clusters(rows: Sequence[tuple[Record, Any, Any]]) -> list[str]:
    return [row[0].sample.cluster for row in rows]
