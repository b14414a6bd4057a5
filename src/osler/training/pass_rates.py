"""How often the start of training solves each training row, and the rows that it solves neither always nor never.

Each row is sampled K times as a rollout would be: the strategy's prompt, the recipe's sampling, the recipe's grader. A group
whose completions are all right or all wrong has no advantages, so that such rows cost time and teach nothing.

    RUN/pass_rates.jsonl    id, solved, samples, unjudged, seconds: one line a row, in the order in which they were done

Completions draw by seeds of the recipe's seed and the row's id, so that a row is solved as often whatever other rows there are,
and a run that was cut off goes on with the rows that are not there yet.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.config import PassRateSettings, Recipe
from osler.datasets.samples import Samples
from osler.errors import RunError
from osler.model.family import VLM
from osler.model.generate import completion_of
from osler.progress import bar, console
from osler.runs import Run
from osler.schema import Grader, Outcome, Sample
from osler.strategies import Strategy
from osler.training.rows import drawn, listed, rows_needed
from osler.training.tries import attempts

FILE = "pass_rates"


@dataclass(frozen=True)
class PassRate:
    """Of `samples` completions of the row `id`, `solved` were right and `unjudged` could not be judged."""

    id: str
    solved: int
    samples: int
    unjudged: int = 0
    seconds: float = 0.0

    @property
    def share(self) -> float | None:
        """The share that was right of those that were judged; None where none was."""
        judged = self.samples - self.unjudged
        return self.solved / judged if judged else None

    def to_json(self) -> dict[str, Any]:
        """A line of pass_rates.jsonl."""
        return asdict(self)


def solvable(recipe: Recipe, vlm: VLM, samples: Samples, strategy: Strategy, grader: Grader, run: Run) -> Samples:
    """The rows of `samples` that the start, `vlm`, solves as often as `against_shortcuts.pass_rate` wants; all where it is off.

    What was left out is counted in the manifest (`pass_rates`) and printed. Errors: RunError where less is left than a step
    needs.
    """
    settings = recipe.against_shortcuts.pass_rate
    if settings is None:
        return samples
    rates = measure(recipe, vlm, samples, strategy, grader, run, settings.samples)
    kept, left_out = within(samples, rates, settings)
    solved = Counter(rate.solved for rate in rates.values())
    seconds = round(sum(rate.seconds for rate in rates.values()), 1)
    run.save(
        pass_rates={
            "n": len(samples),
            "kept": len(kept),
            "left_out": left_out,
            "solved": {str(count): solved[count] for count in sorted(solved)},
            "seconds": seconds,
        }
    )
    _say(f"pass rates: {len(kept):,} of {len(samples):,} training rows; left out: {listed(left_out)}; {seconds:g} s.")
    if len(kept) < rows_needed(recipe):
        raise RunError(
            f"against_shortcuts.pass_rate leaves {len(kept)} of {len(samples)} training rows, and a step needs "
            f"{rows_needed(recipe)} ({listed(left_out)}). Widen low and high, give other rows, or start from a model that "
            "solves some of them (init)."
        )
    return kept


def kept_rows(recipe: Recipe, samples: Samples, run: Run) -> Samples:
    """The rows of `samples` that `run`, a run of `recipe` on them, was trained on."""
    settings = recipe.against_shortcuts.pass_rate
    return within(samples, measured(run), settings)[0] if settings else samples


def within(samples: Samples, rates: dict[str, PassRate], settings: PassRateSettings) -> tuple[Samples, dict[str, int]]:
    """The rows whose share of solved completions lies in [low, high], and how many do not, by reason."""
    reasons = [_reason(rates[sample.id], settings) for sample in samples]
    left_out = {reason: count for reason, count in sorted(Counter(reasons).items()) if reason}
    return samples.take(at for at, reason in enumerate(reasons) if not reason), left_out


def _reason(rate: PassRate, settings: PassRateSettings) -> str:
    """Why a row is left out; empty where it is not."""
    if rate.share is None:
        return "no completion could be judged"
    if rate.share < settings.low:
        return f"solved in less than {settings.low:g} of {settings.samples} completions"
    return f"solved in more than {settings.high:g} of {settings.samples} completions" if rate.share > settings.high else ""


def measured(run: Run) -> dict[str, PassRate]:
    """The pass rates that `run` holds so far, by the row's id."""
    return {row["id"]: PassRate(**row) for row in run.rows(FILE)}


def measure(
    recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, run: Run, count: int
) -> dict[str, PassRate]:
    """How often `vlm` solves each of `samples` in `count` completions, by id; those that `run` holds are not sampled again."""
    run.trim(FILE)
    known = measured(run)
    missing = [sample for sample in samples if sample.id not in known]
    with bar("Pass rates", len(missing)) as tick:
        for rate in _sampled(recipe, vlm, missing, strategy, grader, count) if missing else ():
            run.append(FILE, rate.to_json())
            tick("")
    return measured(run)


def _sampled(
    recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader, count: int
) -> Iterator[PassRate]:
    """The pass rate of each of `samples`, in the order in which their last completions end."""
    asked = [drawn(sample, recipe.against_shortcuts, recipe.seed, 0, recipe.strategy) for sample in samples]
    before = time.perf_counter()
    for row, sampled in attempts(recipe, vlm, asked, strategy, count, FILE):
        parsed = [strategy.of(asked[row]).parse(completion_of(vlm, one).text) for one in sampled]
        outcomes = [grader(asked[row], one).outcome for one in parsed]
        now = time.perf_counter()
        solved, unjudged = outcomes.count(Outcome.CORRECT), outcomes.count(Outcome.UNJUDGED)
        yield PassRate(asked[row].id, solved, count, unjudged, round(now - before, 4))
        before = now


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
