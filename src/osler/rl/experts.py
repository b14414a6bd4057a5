"""The judge and the embedding model that a recipe's rewards need: asked about a roll's completions before they are paid.

Only what a reward waits for is asked: a thought that is there and whose gate is open, an answer to an open question that no
gold equals. What cannot be scored has the score None, and says why; it is masked, never wrong.

Where the judge itself fails for more than `judge.max_unscored` of a step (down, late, garbage), training pauses and asks
again, twice as long each time; after `judge.patience_s` it stops, to be resumed where it stands. That is for all pauses of a
step together, however often it is rolled out (`rollout.resample`); the next step has as much again. Where the judge answers and
its replies cannot be used, the completions are masked and the user is told; after GIVE_UP such steps running it stops as well.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.config import JudgeSettings, Recipe
from osler.errors import JudgeError
from osler.images import BLANK
from osler.judging.prompts import Item, item_for
from osler.judging.replies import DOWN, REASONS, Judgement
from osler.model.endpoint import ENDPOINT
from osler.progress import console
from osler.rewards.answered import Answered
from osler.rewards.judged import CORRECT, NEAR_GOLD, NEAR_RATIONALE, OF_EMBEDDER, OF_JUDGE, SOUND, asks_for_answer
from osler.rewards.terms import Term

if TYPE_CHECKING:
    from osler.judging.judges import Judging
    from osler.model.embeddings import Embedder

OF_SERVER = DOWN | {"down", "deadline"}
"""The reasons for which it helps to wait and to ask again."""

GIVE_UP = 5
"""So many steps running in which the judge answers and most of it is of no use, and training stops."""


def check_experts(recipe: Recipe) -> None:
    """Nothing, where the judge and the embedding model of `recipe` are there: a server is asked, no weights are loaded.

    Errors: RecipeError; ModelError.
    """
    if recipe.judge:
        judge = _judge_of(recipe.judge)
        if recipe.judge.model.startswith(ENDPOINT):
            with judge:
                judge.check()
    if recipe.embedder:
        from osler.model.embeddings import check_embedder

        check_embedder(recipe.embedder)


def _judge_of(given: JudgeSettings) -> "Judging":
    from osler.judging.client import Settings
    from osler.judging.judges import judge_of

    names = ("see_images", "max_tokens", "concurrency", "timeout_s", "retries")
    return judge_of(given.model, Settings(**{name: getattr(given, name) for name in names}))


@dataclass(frozen=True)
class Scored:
    """The `scores` of a completion by name, and what the judge said of it, None where it was not asked."""

    scores: dict[str, float | None]
    judgement: Judgement | None = None


class Experts:
    """The judge and the embedding model of `recipe`, to be used in a `with` block; neither where its `terms` need none."""

    def __init__(self, recipe: Recipe, terms: Sequence[Term], sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings, self.embedder_name, self.terms = recipe.judge, recipe.embedder, terms
        self.needed = {term.score for term in terms if term.score}
        self._stack, self._sleep = ExitStack(), sleep
        self._judge: Judging | None = None
        self._embedder: Embedder | None = None
        self._useless = 0
        self._noted: dict[str, float] = {}

    def __enter__(self) -> "Experts":
        with ExitStack() as stack:
            if self.needed & OF_JUDGE and self.settings:
                self._judge = stack.enter_context(_judge_of(self.settings))
                self._judge.check()
            if self.needed & OF_EMBEDDER and self.embedder_name:
                from osler.model.embeddings import load_embedder

                self._embedder = load_embedder(self.embedder_name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        self._judge = self._embedder = None

    def score(self, answered: Sequence[Answered]) -> list[Scored]:
        """What each of `answered` is scored, in order. Errors: JudgeError where the judge stays away, or is of no use."""
        found = [Scored({}) for _ in answered]
        if self.needed & OF_JUDGE:
            found = self._judged(answered)
        if self.needed & OF_EMBEDDER:
            near = self._embedded(answered)
            found = [replace(one, scores={**one.scores, **more}) for one, more in zip(found, near, strict=True)]
        return found

    def metrics(self) -> dict[str, float]:
        """What asking took since it was last called: judge/items, asked, cached, unscored, seconds, tokens, pauses.

        It ends a step: patience begins anew.
        """
        noted, self._noted = self._noted, {}
        return noted

    def _judged(self, answered: Sequence[Answered]) -> list[Scored]:
        wanted = {place: item for place, one in enumerate(answered) if (item := self._item(one))}
        judgements = dict(zip(wanted, self._asked(list(wanted.values())), strict=True))
        return [_scored(judgements.get(place), wanted.get(place)) for place in range(len(answered))]

    def _item(self, answered: Answered) -> Item | None:
        """What the judge is asked about `answered`; None where no reward waits for it."""
        waiting = {term.score for term in self.terms if term.score in OF_JUDGE and term.passes(answered) is not False}
        thought = answered.parsed.thought if SOUND in waiting else None
        if not thought and not (CORRECT in waiting and asks_for_answer(answered)):
            return None
        item = item_for(answered.sample, answered.parsed, answered.completion.text)
        images = tuple(image.removeprefix(BLANK) for image in item.images)  # a blind twin is paid for what there is to see
        return replace(item, thought=thought or None, images=images)

    def _asked(self, items: list[Item]) -> list[Judgement]:
        """The judgements of `items`, after as many pauses as the judge needs and the recipe allows."""
        settings, judge = self.settings, self._judge
        if settings is None or judge is None:
            raise RuntimeError("the judge is asked inside its `with` block")
        started, paused, pauses, pause = time.monotonic(), 0.0, 0, settings.pause_s
        patience_s = settings.patience_s - self._noted.get("judge/paused_s", 0.0)
        found = judge.score(items, settings.deadline_s)
        while (late := _late(found)) and len(late) > settings.max_unscored * len(items):
            if paused >= patience_s:
                why = f"{len(late)} of {len(items)} completions without scores ({_why(found)})"
                waited = settings.patience_s - patience_s + paused
                raise JudgeError(f"{settings.model} left {why} after {waited:g} seconds of waiting. None was trained on.")
            pause = min(pause, patience_s - paused)
            _say(f"{settings.model}: {len(late)} of {len(items)} completions have no scores ({_why(found)}). "
                 f"Training pauses for {pause:g} seconds.")  # fmt: skip
            try:
                self._sleep(pause)
            except KeyboardInterrupt as stop:  # so that the step is kept, as when patience ends
                raise JudgeError(f"{settings.model}: stopped while waiting for it.") from stop
            paused, pauses, pause = paused + pause, pauses + 1, 2 * pause
            for place, judgement in zip(late, judge.score([items[place] for place in late], settings.deadline_s), strict=True):
                found[place] = judgement
        self._note(found, time.monotonic() - started, pauses, paused)
        self._require_use(found)
        return found

    def _require_use(self, found: Sequence[Judgement]) -> None:
        """Errors: JudgeError where most replies could not be used, GIVE_UP times running. Said the first time."""
        settings, useless = self.settings, [one for one in found if one.unscored is not None]
        if settings is None or len(useless) <= settings.max_unscored * len(found):
            self._useless = 0
            return
        self._useless += 1
        said = f"{settings.model}: {len(useless)} of {len(found)} completions have no scores ({_why(found)})"
        if self._useless >= GIVE_UP:
            raise JudgeError(f"{said}, and so it was for {GIVE_UP} steps. Nothing was trained on them. Try the judge on stored "
                             "records (osler judge RUN --judge ...), or train into another folder with another.")  # fmt: skip
        if self._useless == 1:
            _say(f"{said}; they are left out of their groups.")

    def _note(self, found: Sequence[Judgement], seconds: float, pauses: int, paused: float) -> None:
        asked = [one for one in found if one.seconds is not None]
        times = [one.seconds for one in asked if one.seconds is not None]
        noted: dict[str, float] = {
            "items": len(found),
            "asked": len(asked),
            "cached": sum(one.cached for one in found),
            "unscored": sum(one.unscored is not None for one in found),
            "seconds": seconds,
            "pauses": pauses,
            "paused_s": paused,
            "tokens_in": sum(one.tokens_in or 0 for one in found),
            "tokens_out": sum(one.tokens_out or 0 for one in found),
        }
        if times:
            noted |= {"seconds_median": statistics.median(times), "seconds_p95": float(np.percentile(times, 95))}
        for name, value in noted.items():
            key, summed = f"judge/{name}", not name.startswith("seconds_")
            self._noted[key] = self._noted.get(key, 0.0) + value if summed else value

    def _embedded(self, answered: Sequence[Answered]) -> list[dict[str, float | None]]:
        """Similarities of each completion, those that a reward waits for; None where there is nothing to compare with."""
        if self._embedder is None:
            raise RuntimeError("the embedding model is asked inside its `with` block")
        pairs = [self._pairs(one) for one in answered]
        texts = [pair for one in pairs for many in one.values() for pair in many]
        similar = iter(self._embedder.similarities(texts))
        return [{name: max((next(similar) for _ in many), default=None) for name, many in one.items()} for one in pairs]

    def _pairs(self, answered: Answered) -> dict[str, list[tuple[str, str]]]:
        """By score the texts that are compared; of several golds the nearest counts."""
        sample, parsed, pairs = answered.sample, answered.parsed, dict[str, list[tuple[str, str]]]()
        if NEAR_RATIONALE in self.needed and parsed.thought:
            pairs[NEAR_RATIONALE] = [(parsed.thought, sample.rationale)] if sample.rationale else []
        if NEAR_GOLD in self.needed and parsed.answer and asks_for_answer(answered):
            pairs[NEAR_GOLD] = [(parsed.answer, gold) for gold in sample.golds]
        return pairs


def _scored(judgement: Judgement | None, item: Item | None) -> Scored:
    """The scores of `judgement`: a causal judge's probabilities, else 0 or 1. `sound` only of an item with a thought."""
    if judgement is None or item is None:
        return Scored({})
    sound = judgement.sound if judgement.p_sound is None else judgement.p_sound
    correct = judgement.correct if judgement.p_correct is None else judgement.p_correct
    scores = {SOUND: sound, CORRECT: correct}
    return Scored({name: None if value is None else float(value) for name, value in scores.items()}, judgement)


def _late(found: Sequence[Judgement]) -> list[int]:
    """The places of what has no scores for a reason of the judge's own."""
    return [place for place, one in enumerate(found) if one.unscored in OF_SERVER]


def _why(found: Sequence[Judgement]) -> str:
    counts = Counter(one.unscored for one in found if one.unscored)
    return "; ".join(f"{count} x {REASONS.get(reason, reason)}" for reason, count in counts.most_common())


def _say(text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
