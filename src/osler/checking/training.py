"""The same check before a recipe trains: known rows cost nothing, and what is wrong is refused above a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from osler.checking.data_set import examined
from osler.checking.rows import Asking
from osler.checking.seen import Known
from osler.checking.target import load_target
from osler.config import Recipe
from osler.datasets.problems import Problem, problem_at
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits
from osler.errors import DataError
from osler.progress import bar, console
from osler.schema import Sample
from osler.wordings import strategy_for


@dataclass(frozen=True)
class Problems:
    """All that is wrong with a recipe's rows, and the `rows` it is wrong with, by their places from 0."""

    listed: tuple[Problem, ...]
    rows: tuple[int, ...]

    def without(self, samples: Samples) -> Samples:
        """`samples`, the rows that were checked, without those that have a problem."""
        bad = set(self.rows)
        return samples.take(at for at in range(len(samples)) if at not in bad) if bad else samples


def asking_of(recipe: Recipe, with_budget: bool = True, needs_images: bool = True) -> Asking:
    """How `recipe` asks its rows, and with which processor. Errors: ModelError, RunError, RecipeError."""
    start = recipe.init if recipe.init and not recipe.init.startswith("stage:") else recipe.model
    target = load_target(start, recipe.images, recipe.rollout.max_tokens if with_budget else None)
    strategy = strategy_for(recipe.strategy, recipe.wording, "training")
    return Asking(strategy, (recipe.answer_form,), target, needs_images, recipe.method == "sft")


def checked(samples: Sequence[Sample], recipe: Recipe) -> Problems:
    """What is wrong with `samples` for `recipe`: their images, prompts and golds; what was checked before is not again."""
    asking, known = asking_of(recipe), Known()
    listed, rows = list[Problem](), list[int]()
    try:
        with bar("Check rows and images", len(samples)) as tick:
            for at, one in enumerate(examined(samples, asking, known)):
                where = one.sample.origin or f"sample {one.sample.id!r}"
                listed += [problem_at(where, what, fix) for what, fix in one.said]
                rows += [at] if one.said else []
                tick("")
    finally:
        known.close()
    return Problems(tuple(listed), tuple(rows))


def usable(splits: Splits, recipe: Recipe, most: int) -> Splits:
    """`splits` without the training and validation rows that have a problem, which stderr tells.

    Errors: DataError where there are more than `most` of these rows, about the first.
    """
    found = {name: checked(part, recipe) for name, part in (("train", splits.train), ("val", splits.val))}
    n = sum(len(problems.rows) for problems in found.values())
    if not n:
        return splits
    first = next(problems.listed[0] for problems in found.values() if problems.listed)
    if n > most:
        more = f" So have {n - 1:,} further rows: see osler data check." if n > 1 else ""
        raise DataError(f"{first}{more}")
    said = f"{n:,} rows have problems and are left out (data.max_problems={most}). The first: {first}"
    console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return replace(splits, train=found["train"].without(splits.train), val=found["val"].without(splits.val))
