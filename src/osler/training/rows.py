"""What of a recipe's rows is trained on, in what order and form (`against_shortcuts`, all of it off by default).

    debias            training rows asked again under options that say nothing of the gold (osler.debiasing)
    shuffle_options   another order of the options each time a row is drawn (osler.options)
    curriculum        closed_first: choice and yes/no rows before open ones in every epoch, shuffled within each part
    pass_rate         rows that the start solves neither always nor never (osler.training.pass_rates, which needs the model)

Under `strategy: diverse` each row gets one of three prompts when it is drawn (osler.prompting).

Validation and test rows are left as they are. What is left out, keeps its options' order, or is never asked as an open
question, is counted by its reason.

The packed engine knows the epoch of a draw. TRL's trainers see a row's number only: there a row has one order of its options
and one prompt, drawn once, whatever the epoch. DPO could have no other: its completions name letters.
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
from osler.prompting import DIVERSE, OPEN, PROMPTS, closed_because, posed
from osler.schema import Kind, Sample
from osler.strategies import strategy_of


@dataclass(frozen=True)
class TrainingRows:
    """The rows to train on, `samples`, of the `n` that the recipe names.

    `left_out` counts those that debiasing could not use, `unshuffled` those whose options keep their order, and `unopened`
    those that diverse never asks as an open question, all by reason; None where that is not asked for.
    """

    samples: Samples
    n: int
    left_out: Mapping[str, int]
    unshuffled: Mapping[str, int]
    unopened: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """n, kept, left_out, unshuffled; by_kind, the kept rows of each kind, which a curriculum parts; unopened of diverse."""
        by_kind = self.samples.counts()["by_kind"]
        counts = {"left_out": dict(self.left_out), "unshuffled": dict(self.unshuffled), "by_kind": by_kind}
        unopened = {} if self.unopened is None else {"unopened": dict(self.unopened)}
        return {"n": self.n, "kept": len(self.samples), **counts, **unopened}


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
    unshuffled = _unshuffled(recipe, kept) if settings.shuffle_options else {}
    return TrainingRows(kept, len(samples), left_out, unshuffled, _unopened(recipe, kept))


def rows_needed(recipe: Recipe) -> int:
    """How few training rows `recipe` can do with: what a step of GRPO draws, else one."""
    return recipe.rollout.prompts_per_step if recipe.method == "grpo" else 1


def _unshuffled(recipe: Recipe, samples: Samples) -> dict[str, int]:
    taught = teaches_rationales(recipe)
    reasons = Counter(fixed_because(sample, taught) for sample in samples)
    return {reason: count for reason, count in sorted(reasons.items()) if reason}


def _unopened(recipe: Recipe, samples: Samples) -> dict[str, int] | None:
    if recipe.strategy != DIVERSE:
        return None
    taught = teaches_rationales(recipe)
    reasons = Counter(closed_because(sample, taught) for sample in samples)
    return {reason: count for reason, count in sorted(reasons.items()) if reason}


def teaches_rationales(recipe: Recipe) -> bool:
    """Whether rationales are learnt from, which may name the letter of an option."""
    return recipe.method == "sft" and strategy_of(recipe.strategy).thinks


def tell(recipe: Recipe, rows: TrainingRows) -> None:
    """Print what `against_shortcuts` and `strategy: diverse` did to the training rows; nothing where they are off."""
    settings = recipe.against_shortcuts
    if settings.debias:
        _say(f"debiased: {len(rows.samples):,} of {rows.n:,} training rows; left out: {listed(rows.left_out)}.")
    if settings.shuffle_options:
        moved = len(rows.samples) - sum(rows.unshuffled.values())
        _say(f"options shuffled {_when(recipe)}: {moved:,} rows; as they are: {listed(rows.unshuffled)}.")
    if settings.curriculum == "closed_first":
        open_rows = sum(sample.kind is Kind.OPEN for sample in rows.samples)
        what = "" if 0 < open_rows < len(rows.samples) else ", so that it changes nothing"
        _say(f"curriculum: {len(rows.samples) - open_rows:,} closed rows before {open_rows:,} open ones{what}.")
    if rows.unopened is not None:
        *others, last = PROMPTS
        said = f"{', '.join(others)} or {last}, drawn {_when(recipe)}: {len(rows.samples):,} rows"
        _say(f"prompts: {said}; never {OPEN}: {listed(rows.unopened)}.")


def _when(recipe: Recipe) -> str:
    return "whenever a row is drawn" if recipe.method == "grpo" and recipe.engine == "packed" else "once for each row"


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


def drawn(
    sample: Sample, settings: ShortcutSettings, seed: int, epoch: int, strategy: str = "", taught: bool = False
) -> Sample:
    """`sample` as `epoch` of GRPO on the packed engine asks it: its options in the epoch's order, where they are shuffled, and
    under the epoch's prompt, where the `strategy` is diverse. `taught`: rationales are learnt from."""
    moves = settings.shuffle_options and not fixed_because(sample, taught)
    row = shuffled(sample, seed, epoch) if moves else sample
    return posed(row, seed, epoch, taught) if strategy == DIVERSE else row


def drawn_once(recipe: Recipe, samples: Samples) -> Samples:
    """`samples` as a trainer that does not know the epoch asks them: each with one order of its options, where they are
    shuffled, and under one prompt, where the strategy is diverse. Ids stay."""
    settings, taught = recipe.against_shortcuts, teaches_rationales(recipe)
    if not settings.shuffle_options and recipe.strategy != DIVERSE:
        return samples
    return Samples.of(drawn(row, settings, recipe.seed, 0, recipe.strategy, taught) for row in samples)
