"""Preference pairs for DPO: of the start's own completions of a training row, a right one before a wrong one.

A pair keeps text, which TRL turns into tokens again. A completion whose text gives other tokens than were sampled (a character
of many bytes that was cut, or a word that was sampled in other pieces) is on neither side: what is learnt from was sampled.

RUN/pairs.jsonl has a line for each training row, with its pair or with why it has none; the manifest has the counts.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.config import Recipe
from osler.errors import RunError
from osler.model.family import VLM
from osler.model.generate import Sampled, completion_of
from osler.model.sampling import seed_of
from osler.progress import bar, console
from osler.runs import Run
from osler.schema import Grader, Outcome, Sample
from osler.strategies import Strategy
from osler.training.tries import attempts

UNPAIRED = {"none_right": "none right and whole", "none_wrong": "none wrong", "unjudged": "none judged",
            "inexact": "a side with none whose text gives its tokens back"}  # fmt: skip
"""Why a row has no pair, and how that is said."""


@dataclass(frozen=True)
class Judged:
    """One completion: `text` as the policy wrote it, with the token that ended it where one did; and how it was judged.

    `whole` is whether it ended, in the strategy's form; `exact`, whether `text` gives the tokens back that were sampled.
    """

    text: str
    outcome: Outcome
    whole: bool
    exact: bool = True


@dataclass(frozen=True)
class Pair:
    """One training row (`row`, its place) and the completions chosen of it; both None where `unpaired` says why.

    `counts` are its completions by outcome, but those that are not exact, which are `inexact`. `images` are references,
    `prompt` is the text that was asked behind them.
    """

    row: int
    sample_id: str
    images: tuple[str, ...]
    prompt: str
    gold: str
    chosen: str | None
    rejected: str | None
    unpaired: str | None
    counts: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """A line of pairs.jsonl."""
        return asdict(self)


def make_pairs(recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, run: Run) -> list[Pair]:
    """The pairs of `samples`, at most one a row, in the order of rows; each row is written to `run` as it is done.

    Errors: RunError where no row has a pair.
    """
    started = time.perf_counter()
    pairs: list[Pair] = []
    with bar("Pairs", len(samples)) as tick:
        for row, sampled in attempts(recipe, vlm, samples, strategy, recipe.dpo.samples, "pairs"):
            sample = samples[row]
            judged = [_judged(vlm, sample, one, strategy, grader) for one in sampled]
            pairs.append(pair_of(row, sample, strategy.question(sample, recipe.answer_form), judged, recipe.seed))
            run.append("pairs", pairs[-1].to_json())
            tick("")
    found = sorted((pair for pair in pairs if not pair.unpaired), key=lambda pair: pair.row)
    without = {why: count for why in UNPAIRED if (count := sum(pair.unpaired == why for pair in pairs))}
    outcomes = dict(sorted(sum((Counter(pair.counts) for pair in pairs), Counter()).items()))
    run.save(pairs={"rows": len(pairs), "pairs": len(found), "unpaired": without, "samples": recipe.dpo.samples,
                    "outcomes": outcomes, "seconds": round(time.perf_counter() - started, 1)})  # fmt: skip
    said = ", ".join(f"{count} have {UNPAIRED[why]}" for why, count in without.items()) or "every row has one"
    console.print(f"{len(found)} pairs of {len(pairs)} rows, {recipe.dpo.samples} completions each; {said}.", soft_wrap=True)
    if not found:
        raise RunError(
            f"{run.path}: no row has both a right and a wrong completion to make a pair of ({said}). {_advice(without)}"
        )
    return found


def pair_of(row: int, sample: Sample, prompt: str, judged: Sequence[Judged], seed: int) -> Pair:
    """The pair of one row: a seeded choice among the right and whole, and one among the wrong that say something else."""
    exact = [[one.text for one in side if one.exact] for side in _sides(judged)]
    draw = random.Random(seed_of(seed, "pair", sample.id))
    chosen, rejected, why = None, None, None
    if all(exact):
        chosen, rejected = (draw.choice(texts) for texts in exact)
    else:
        why = _why(judged)
    counts = Counter(one.outcome.value if one.exact else "inexact" for one in judged)
    return Pair(row, sample.id, sample.images, prompt, sample.golds[0], chosen, rejected, why, dict(sorted(counts.items())))


def _sides(judged: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """The right and whole, and the wrong that say something else."""
    right = [one for one in judged if one.outcome is Outcome.CORRECT and one.whole]
    texts = {one.text for one in right}
    return right, [one for one in judged if one.outcome is Outcome.INCORRECT and one.text not in texts]


def _why(judged: Sequence[Judged]) -> str:
    """Why there is no pair, as UNPAIRED calls it: what is missing even with those that are not exact, or that they are not."""
    right, wrong = _sides(judged)
    if right:
        return "inexact" if wrong else "none_wrong"
    return "none_right" if any(one.outcome is not Outcome.UNJUDGED for one in judged) else "unjudged"


def _judged(vlm: VLM, sample: Sample, sampled: Sampled, strategy: Strategy, grader: Grader) -> Judged:
    completion, tokenizer = completion_of(vlm, sampled), vlm.processor.tokenizer
    parsed = strategy.of(sample).parse(completion.text)
    text = completion.text + ("" if sampled.truncated else tokenizer.decode(sampled.ids[-1:]))
    whole = parsed.well_formed and not sampled.truncated
    exact = tokenizer(text, add_special_tokens=False)["input_ids"] == sampled.ids
    return Judged(text, grader(sample, parsed).outcome, whole, exact)


def _advice(without: dict[str, int]) -> str:
    """What to do where no row has a pair, by what most of them lack."""
    most = max(without, key=lambda why: without[why])
    if most == "none_right":
        return "Start from a model that is right at times (init: an SFT run), or raise dpo.samples or rollout.max_tokens."
    if most == "none_wrong":
        return "The start solves these rows already: train on harder ones, or raise dpo.samples or rollout.temperature."
    if most == "inexact":
        return "The start samples words in pieces that it would not be taught: lower rollout.temperature, or raise dpo.samples."
    return "Nothing could be judged: see that the grader works on these rows."
