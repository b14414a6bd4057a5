"""Completions to rewards, in both engines: parsed, judged, every part of the reward and their weighted total."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from osler.config import Recipe
from osler.errors import RunError
from osler.progress import console
from osler.rewards.answered import Answered
from osler.rewards.terms import Term, terms_of, total
from osler.rewards.users import called, columns_of, numbers
from osler.rl.experts import Experts, Scored
from osler.schema import Completion, Grader, Sample
from osler.strategies import Strategy

GRID = 2**16
"""Rewards are rounded to 1/GRID: the float32 mean of equal ones is then exact, and a group without spread has none at all."""

CONSTANT_STEPS = 20
"""So many rollouts running without spread in any group, and a reward is called constant."""

BLANK_STEPS = 5
"""So many rollouts running in which nothing could be scored, and training stops."""

LEAST_SPREAD = 0.01
"""A standard deviation in a group below this is none: scores that have collapsed to nearly one value (ARMed, 2508.12957)."""

Row = dict[str, Any]
Scores = Sequence[Sequence[Mapping[str, float | None]]]
"""For each completion of each group what the engine measured beforehand, by name."""


@dataclass(frozen=True)
class StepState:
    """Where training stands, under TRL's names: steps made before this one, and all that will be made."""

    global_step: int
    max_steps: int


def on_grid(value: float) -> float:
    """`value` to the nearest 1/GRID."""
    return round(value * GRID) / GRID


class Scorer:
    """What a recipe pays for completions, and what it notes beside them. `experts` are asked first, inside their `with` block.

    `apart` names the rewards that are normalised each by itself (aggregation gdpo); it is empty where their sum is. `constant`
    counts for each reward the steps running in which no group had any spread.
    """

    def __init__(self, recipe: Recipe, strategy: Strategy, grader: Grader) -> None:
        self.strategy, self.grader, self.answer_form = strategy, grader, recipe.answer_form
        self.terms, self.min_scored = terms_of(recipe), recipe.rollout.min_scored
        self.experts = Experts(recipe, self.terms)
        paid = {term.name: term.weight for term in self.terms if term.weight}
        self.apart = paid if recipe.objective.aggregation == "gdpo" else {}
        self.constant = dict.fromkeys(paid, 0)
        self.state: Any = StepState(0, recipe.max_steps)
        self._noted: defaultdict[str, list[float]] = defaultdict(list)
        self._blank = 0

    def begin(self, step: int) -> None:
        """Tell rewards that `step` steps have been made."""
        self.state = StepState(step, self.state.max_steps)

    def score(
        self,
        samples: Sequence[Sample],
        completions: Sequence[Sequence[Completion]],
        ids: Sequence[Sequence[Sequence[int]]],
        scores: Scores | None = None,
    ) -> list[list[Row]]:
        """Rows for rollouts.jsonl, group by group: each part of the reward and the total, None where it could not be scored.

        `completions` are groups, one a sample, `ids` their tokens. A group with fewer than `min_scored` totals is dropped: they
        become None, and are kept as `dropped`. Errors: RunError where a reward raises, or returns what is no finite number; it
        names the reward and the row. JudgeError where a judge stays away.
        """
        known: Scores = scores or [[{}] * len(group) for group in completions]
        answered = [
            self._read(sample, completion, score)
            for sample, group, found in zip(samples, completions, known, strict=True)
            for completion, score in zip(group, found, strict=True)
        ]
        asked = self.experts.score(answered)
        answered = [replace(one, scores={**one.scores, **more.scores}) for one, more in zip(answered, asked, strict=True)]
        prompts = [self._prompt(s) for s, group in zip(samples, completions, strict=True) for _ in group]
        columns = partial(columns_of, answered, prompts, [row for group in ids for row in group])
        extra: dict[str, list[Any]] = {}
        parts = {term.name: self._parts(term, answered, columns, extra) for term in self.terms}
        rows = iter(
            self._row(one, prompt, _at(parts, place), _at(extra, place), asked[place])
            for place, (one, prompt) in enumerate(zip(answered, prompts, strict=True))
        )
        return [self._enough([next(rows) for _ in group]) for group in completions]

    def _enough(self, group: list[Row]) -> list[Row]:
        """`group`, its totals put aside where too few of them are known to compare with.

        Nor are there enough where the judge has left too few of those that it was asked about: what it need not be asked
        about, as a completion without a thought, would be compared with its like alone, and paid for that.
        """
        asked = [row["reward"] is not None for row in group if "judgement" in row]
        if sum(row["reward"] is not None for row in group) >= self.min_scored and sum(asked) >= min(
            self.min_scored, len(asked)
        ):
            return group
        return [{**row, "reward": None, "dropped": row["reward"]} for row in group]

    def _prompt(self, sample: Sample) -> str:
        return self.strategy.question(sample, self.answer_form)

    def _read(self, sample: Sample, completion: Completion, scores: Mapping[str, float | None]) -> Answered:
        parsed = self.strategy.of(sample).parse(completion.text)
        return Answered(sample, completion, parsed, self.grader(sample, parsed), scores)

    def _parts(
        self, term: Term, answered: Sequence[Answered], columns: Callable[[], dict[str, Any]], extra: dict[str, list[Any]]
    ) -> list[float | None]:
        """What `term` pays for each completion, gated; `extra` takes what a user's function logs beside them."""
        if term.own:
            values = [term.function(one, **term.settings) for one in answered]
        else:
            logged: dict[str, Sequence[Any]] = {}
            rest = {"trainer_state": self.state, "log_metric": self._log_metric, "log_extra": logged.__setitem__}
            values = called(term.name, term.function, answered, columns(), {**rest, **term.settings})
            extra |= {column: _logged(term.name, column, kept, len(answered)) for column, kept in logged.items()}
        found = numbers(term.name, values, answered)
        return [term.gated(value, one) for value, one in zip(found, answered, strict=True)]

    def _row(self, answered: Answered, prompt: str, parts: dict[str, Any], extra: dict[str, Any], scored: Scored) -> Row:
        reward = total(list(parts.values()), [term.weight for term in self.terms])
        return {
            "sample_id": answered.sample.id,
            "images": list(answered.sample.images),
            "prompt": prompt,
            "strategy": self.strategy.of(answered.sample).name,
            "gold": answered.verdict.gold,
            "completion": answered.completion.text,
            "rewards": parts,
            "reward": None if reward is None else on_grid(reward),
            **({"extra": extra} if extra else {}),
            **({"judgement": scored.judgement.to_json()} if scored.judgement else {}),
        }

    def _log_metric(self, name: str, value: float) -> None:
        if name == "step" or not math.isfinite(value):
            raise ValueError(f"log_metric was given {value} as {name}")
        self._noted[name].append(float(value))

    def metrics(self, groups: Iterable[Sequence[Row]]) -> dict[str, float]:
        """What a step's `groups` came to, under TRL's names; call it once a step, as it counts the steps without spread.

        rewards/NAME and rewards/NAME/mean, over the completions that have the part; rewards/NAME/group_std, the mean over
        groups of its standard deviation in them; what users' rewards logged and what the judge took; `unscored` completions,
        and `dropped_groups` of which too few were scored; and alarms/NAME with the steps that NAME has been constant for, in
        the step in which that is noticed.
        """
        rows = list(groups)
        self._require_scores(rows)
        found = {name: statistics.fmean(values) for name, values in self._noted.items()}
        self._noted.clear()
        for term in self.terms:
            parts = [[row["rewards"][term.name] for row in group if row["rewards"][term.name] is not None] for group in rows]
            spreads = [statistics.stdev(group) for group in parts if len(group) > 1]
            if any(parts):
                mean = statistics.fmean(part for group in parts for part in group)
                found |= {f"rewards/{term.name}": mean, f"rewards/{term.name}/mean": mean}
            if spreads:
                found[f"rewards/{term.name}/group_std"] = statistics.fmean(spreads)
                found |= self._alarm(term.name, max(spreads) >= LEAST_SPREAD)
        unscored = sum(row["reward"] is None and row.get("dropped") is None for group in rows for row in group)
        return {**found, **self.experts.metrics(), "unscored": unscored, "dropped_groups": sum("dropped" in g[0] for g in rows)}

    def _require_scores(self, groups: Sequence[Sequence[Row]]) -> None:
        """Errors: RunError where not one completion has a total, BLANK_STEPS rollouts running."""
        self._blank = 0 if any(row["reward"] is not None for group in groups for row in group) else self._blank + 1
        if self._blank >= BLANK_STEPS:
            lacking = [name for name in self.constant if all(row["rewards"][name] is None for group in groups for row in group)]
            raise RunError(f"not one completion could be scored in {BLANK_STEPS} rollouts running, for the rewards "
                           f"{', '.join(lacking) or 'of too few in each group'}: nothing is learned. Where a reward compares "
                           "with rationales, keywords or golds, these rows have none; else see rollouts.jsonl.")  # fmt: skip

    def _alarm(self, name: str, spread: bool) -> dict[str, float]:
        """The alarm of a reward that has been constant for CONSTANT_STEPS steps now, said once; else nothing."""
        if name not in self.constant:
            return {}
        self.constant[name] = 0 if spread else self.constant[name] + 1
        if self.constant[name] != CONSTANT_STEPS:
            return {}
        console.print(
            f"warning: the reward {name} has been (nearly) the same within every group for {CONSTANT_STEPS} rollouts: it "
            "teaches nothing. Where it stands at its best it has done its work; else give rows on which completions differ, a "
            "higher rollout.temperature, or another form of the reward.",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return {f"alarms/{name}": CONSTANT_STEPS}


def _at(columns: Mapping[str, Sequence[Any]], place: int) -> dict[str, Any]:
    return {name: values[place] for name, values in columns.items()}


def _logged(name: str, column: str, values: Sequence[Any], count: int) -> list[Any]:
    """What a user's reward logged beside `count` completions, as plain JSON. Errors: RunError where some are missing."""
    if not isinstance(values, Sequence):
        raise RunError(f"reward {name!r} logged a {type(values).__name__} as {column!r}. Log a list, one value a completion.")
    if len(values) != count:
        raise RunError(f"reward {name!r} logged {len(values)} values of {column!r} for {count} completions. Log one each.")
    return [value if _is_plain(value) else str(value) for value in values]


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
