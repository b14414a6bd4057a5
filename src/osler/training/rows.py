"""What of a recipe's rows is trained on, in what order and form (`against_shortcuts`, all of it off by default).

    debias            training rows asked again under options that say nothing of the gold (osler.debiasing)
    shuffle_options   another order of the options each time a row is drawn (osler.options)
    curriculum        closed_first: choice and yes/no rows before open ones in every epoch, shuffled within each part
    pass_rate         rows that the start solves neither always nor never (osler.training.pass_rates, which needs the model)

Validation and test rows are left as they are. What is left out, or keeps its options' order, is counted by its reason.

The packed engine knows the epoch of a draw. TRL's trainers see a row's number only: there a row has one order of its options,
drawn once, whatever the epoch. DPO could have no other: its completions name letters.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from osler.config import Recipe, ShortcutSettings
from osler.datasets.samples import Samples
from osler.debiasing import REASONS, debias
from osler.errors import RecipeError
from osler.model.sampling import seed_of
from osler.options import NAMED, fixed_because, shuffled
from osler.progress import console
from osler.schema import Kind, Sample
from osler.strategies import strategy_of


@dataclass(frozen=True)
class TrainingRows:
    """The rows to train on, `samples`, of the `n` that the recipe names.

    `left_out` counts those that debiasing could not use, `unshuffled` those whose options keep their order, both by reason.
    """

    samples: Samples
    n: int
    left_out: Mapping[str, int]
    unshuffled: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """n, kept, left_out, unshuffled; and by_kind, the kept rows of each kind, which a curriculum parts."""
        by_kind = self.samples.counts()["by_kind"]
        counts = {"left_out": dict(self.left_out), "unshuffled": dict(self.unshuffled), "by_kind": by_kind}
        return {"n": self.n, "kept": len(self.samples), **counts}


def select(recipe: Recipe, samples: Samples) -> TrainingRows:
    """What `recipe` trains on of `samples`: debiased, where it says so. Options stay in their order (`drawn`, `drawn_once`).

    Errors: RecipeError where debiasing leaves less than a step needs.
    """
    settings, kept, left_out = recipe.against_shortcuts, samples, {}
    if settings.debias:
        taught = teaches_rationales(recipe)  # one that names a letter would name another option's among new options
        fit = samples.take(at for at, row in enumerate(samples) if fixed_because(row, taught) != NAMED)
        found = debias(fit, recipe.seed)
        kept, left_out = found.samples, {REASONS[reason]: len(ids) for reason, ids in found.left_out.items() if ids}
        if named := len(samples) - len(fit):
            left_out[NAMED] = named
        if len(kept) < rows_needed(recipe):
            raise RecipeError(
                f"against_shortcuts.debias leaves {len(kept)} of {len(samples)} training rows, and a step needs "
                f"{rows_needed(recipe)} ({listed(left_out)}). Give more rows of one question, or set it to false."
            )
    return TrainingRows(kept, len(samples), left_out, _unshuffled(recipe, kept) if settings.shuffle_options else {})


def rows_needed(recipe: Recipe) -> int:
    """How few training rows `recipe` can do with: what a step of GRPO draws, else one."""
    return recipe.rollout.prompts_per_step if recipe.method == "grpo" else 1


def _unshuffled(recipe: Recipe, samples: Samples) -> dict[str, int]:
    taught = teaches_rationales(recipe)
    reasons = Counter(fixed_because(sample, taught) for sample in samples)
    return {reason: count for reason, count in sorted(reasons.items()) if reason}


def teaches_rationales(recipe: Recipe) -> bool:
    """Whether rationales are learnt from, which may name the letter of an option."""
    return recipe.method == "sft" and strategy_of(recipe.strategy).thinks


def tell(recipe: Recipe, rows: TrainingRows) -> None:
    """Print what `against_shortcuts` did to the training rows; nothing where it is off."""
    settings = recipe.against_shortcuts
    if settings.debias:
        _say(f"debiased: {len(rows.samples):,} of {rows.n:,} training rows; left out: {listed(rows.left_out)}.")
    if settings.shuffle_options:
        moved = len(rows.samples) - sum(rows.unshuffled.values())
        when = "whenever a row is drawn" if recipe.method == "grpo" and recipe.engine == "packed" else "once for each row"
        _say(f"options shuffled {when}: {moved:,} rows; as they are: {listed(rows.unshuffled)}.")
    if settings.curriculum == "closed_first":
        open_rows = sum(sample.kind is Kind.OPEN for sample in rows.samples)
        what = "" if 0 < open_rows < len(rows.samples) else ", so that it changes nothing"
        _say(f"curriculum: {len(rows.samples) - open_rows:,} closed rows before {open_rows:,} open ones{what}.")


def listed(counts: Mapping[str, int]) -> str:
    """`counts` in words, as in `3 (open question); 1 (yes/no question)`; `none` where it is empty."""
    return "; ".join(f"{count:,} ({reason})" for reason, count in counts.items()) or "none"


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def order(samples: Sequence[Sample], seed: int, epoch: int, curriculum: str) -> list[int]:
    """The places of `samples` in the order in which `epoch` draws them: a permutation, seeded.

    Without a curriculum (`none`) it is torch's random permutation. `closed_first` takes the same one apart, choice and yes/no
    rows first, open ones after them, each part in the order that it had (MedCCO's order, arXiv 2505.19213).
    """
    shuffle = torch.Generator().manual_seed(seed_of(seed, epoch))
    places: list[int] = torch.randperm(len(samples), generator=shuffle).tolist()
    if curriculum == "none":
        return places
    is_open = [sample.kind is Kind.OPEN for sample in samples]
    return sorted(places, key=is_open.__getitem__)


def drawn(sample: Sample, settings: ShortcutSettings, seed: int, epoch: int) -> Sample:
    """`sample` as `epoch` of GRPO on the packed engine asks it: its options in the epoch's order, where they are shuffled."""
    return shuffled(sample, seed, epoch) if settings.shuffle_options and not fixed_because(sample) else sample


def drawn_once(recipe: Recipe, samples: Samples) -> Samples:
    """`samples` as a trainer that does not know the epoch asks them: each with one order of its options, where they are
    shuffled. Ids stay."""
    if not recipe.against_shortcuts.shuffle_options:
        return samples
    taught = teaches_rationales(recipe)
    return Samples.of(row if fixed_because(row, taught) else shuffled(row, recipe.seed, 0) for row in samples)
