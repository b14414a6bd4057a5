"""Controls: the same rows with something taken away. What a model still scores then, it scores without it.

A control is a pure function from rows and a seed to rows. Ids differ within a control; every row of it says in its `extra` what
it is, so that its record alone suffices to count it (osler.looking):

    control, of     the name of the control, and the id of the row that it was made from
    variant         which of several: a rotation, a paraphrase, how a donor was found; "" where there is one only
    donor_id, donor_gold    whose image a shuffled row shows, and what is right there

What a control cannot be applied to is left out and counted by its reason. Every row keeps the cluster of its origin.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from osler.datasets.samples import Samples
from osler.debiasing import REASONS, debias
from osler.donors import find_donors
from osler.errors import RecipeError, unknown
from osler.images import blank_of, noise_of
from osler.options import no_choice, offering, reordered, shuffled
from osler.paraphrases import VARIANTS
from osler.schema import Kind, Sample, fold_text

TWIN = "blind-twin"
"""The control that another model answers: the blind twin, where a recipe has trained one (controls.blind_twin)."""


@dataclass(frozen=True)
class ControlRow:
    """A row with something taken away: `of` is the id of the row that it was made from, `variant` which of several it is."""

    sample: Sample
    of: str
    variant: str = ""


@dataclass(frozen=True)
class Controlled:
    """The rows of a control, and how many rows it could not be applied to, by reason."""

    rows: tuple[ControlRow, ...]
    left_out: Mapping[str, int]

    @property
    def samples(self) -> Samples:
        """The rows to be evaluated."""
        return Samples.of(row.sample for row in self.rows)


@dataclass(frozen=True)
class Control:
    """A control: what it takes away, how, and what the score of an original row is.

    "one": that of its one row; "every": right only if the original and all rows made from it are; "mean": the mean of them.
    """

    name: str
    takes_away: str
    make: Callable[[Sequence[Sample], int], Controlled]
    score: Literal["one", "every", "mean"] = "one"


def controls_of(names: str | Iterable[str]) -> tuple[Control, ...]:
    """The controls called `names`, or "all", "default", "none". Errors: RecipeError for another name, with the nearest."""
    pure = [name for name in CONTROLS if name != TWIN]
    named: dict[str, Iterable[str]] = {"all": pure, "default": DEFAULT, "none": ()}
    wanted = named.get(names, names.split(",")) if isinstance(names, str) else names
    found = list(dict.fromkeys(wanted))
    for name in found:
        if name not in pure:
            raise RecipeError(unknown("control", name, [*pure, *named]))
    return tuple(CONTROLS[name] for name in found)


def blanked(samples: Iterable[Sample]) -> Samples:
    """`samples` with every image replaced by its mean colour: what a blind twin is trained and tested on. Ids stay."""
    return Samples.of(replace(s, images=tuple(map(blank_of, s.images)), group=s.cluster) for s in samples)


@dataclass(frozen=True)
class Thinned:
    """The rows that were kept out of `of`, at most `limit` of each modality x question type (None: all)."""

    samples: Samples
    of: int
    limit: int | None

    def __str__(self) -> str:
        if self.limit is None:
            return f"all {self.of:,} rows"
        return f"{len(self.samples):,} of {self.of:,} rows, at most {self.limit:,} of a modality and question type"


def thin(samples: Samples, max_rows_per_cell: int | None, seed: int) -> Thinned:
    """At most so many rows of each modality x question type, in their order. Seeded; a larger limit keeps what a smaller did.

    Errors: RecipeError for a limit below 1.
    """
    if max_rows_per_cell is None:
        return Thinned(samples, len(samples), None)
    if max_rows_per_cell < 1:
        raise RecipeError(f"controls.max_rows_per_cell={max_rows_per_cell} keeps no row. Give 1 or more, or leave it out.")
    cells: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    cell_of = [(row.modality, row.question_type) for row in samples]
    for at in np.random.default_rng(seed).permutation(len(samples)).tolist():
        cells[cell_of[at]].append(at)
    kept = sorted(at for cell in cells.values() for at in cell[:max_rows_per_cell])
    return Thinned(samples.take(kept), len(samples), max_rows_per_cell)


def _blank(samples: Sequence[Sample], seed: int) -> Controlled:
    return _each(samples, "blank", lambda s: replace(s, images=tuple(map(blank_of, s.images))) if s.images else "no image")


def _blind_twin(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row with its images blank, for a model that never saw others."""
    blank = _blank(samples, seed)
    rows = tuple(replace(row, sample=replace(row.sample, extra={**row.sample.extra, "control": TWIN})) for row in blank.rows)
    return Controlled(rows, blank.left_out)


def _noise(samples: Sequence[Sample], seed: int) -> Controlled:
    def noisy(sample: Sample) -> Sample | str:
        images = tuple(noise_of(image, seed) for image in sample.images)
        return replace(sample, images=images) if images else "no image"

    return _each(samples, "noise", noisy)


def _shuffled(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row under the images of its donor (osler.donors); the variant says how near the donor's question is."""
    samples, rows, left_out = list(samples), [], Counter[str]()
    for sample, found in zip(samples, find_donors(samples, seed), strict=True):
        if isinstance(found, str):
            left_out[found] += 1
        else:
            donor = samples[found.at]
            facts = {"donor_id": donor.id, "donor_gold": found.gold}
            rows.append(_row(replace(sample, images=donor.images), "shuffled", sample, found.match, **facts))
    return Controlled(tuple(rows), dict(left_out))


def _options_shuffled(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row with its options in an order drawn from all orders: the gold stands at any place as often as at another."""

    return _each(samples, "options-shuffled", lambda sample: no_choice(sample) or shuffled(sample, seed))


def _options_circular(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row once for every rotation of its options but none: r1 begins with the second option, r2 with the third, ..."""
    rows, left_out = [], Counter[str]()
    for sample in samples:
        if reason := no_choice(sample):
            left_out[reason] += 1
            continue
        places = list(range(len(sample.options)))
        for turn in places[1:]:
            turned = replace(reordered(sample, places[turn:] + places[:turn]), id=f"{sample.id}#r{turn}")
            rows.append(_row(turned, "options-circular", sample, f"r{turn}"))
    return Controlled(tuple(rows), dict(left_out))


def _options_normalised(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row with its options in lower case, without blanks at their ends or doubled, and without final full stops."""

    def normalised(sample: Sample) -> Sample | str:
        options = tuple(map(fold_text, sample.options))
        if reason := no_choice(sample):
            return reason
        if len(set(options)) < len(options):
            return "options alike but for case and punctuation"
        return offering(sample, options, sample.gold_index or 0)

    return _each(samples, "options-normalised", normalised)


def _no_options(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each choice as an open question, its options untold.

    The answer is right where it is the gold text, folded (`fold_text`), and nothing but it, whatever the answer form was. That
    is strict: another word for the same is wrong, so that the accuracy is a lower bound, to be compared between models only.
    """

    def opened(sample: Sample) -> Sample | str:
        if set(map(fold_text, sample.options)) <= {"yes", "no"}:
            return no_choice(sample) or "yes/no question"
        return no_choice(sample) or replace(sample, options=(), gold_index=None, kind=Kind.OPEN)

    return _each(samples, "no-options", opened)


def _options_debiased(samples: Sequence[Sample], seed: int) -> Controlled:
    """The rows that can be balanced (osler.debiasing), under options that say nothing about the gold."""
    found = debias(samples, seed)
    rows = tuple(_row(sample, "options-debiased", sample) for sample in found.samples)
    return Controlled(rows, {REASONS[reason]: len(ids) for reason, ids in found.left_out.items() if ids})


def _prompts(samples: Sequence[Sample], seed: int) -> Controlled:
    """Each row once for every paraphrase of the instruction; `osler.paraphrases.rephrased` gives the strategy of a variant."""
    rows = [_row(replace(s, id=f"{s.id}#{name}"), "prompts", s, name) for s in samples for name in VARIANTS]
    return Controlled(tuple(rows), {})


def _each(samples: Iterable[Sample], control: str, make: Callable[[Sample], Sample | str]) -> Controlled:
    """One row for each sample, or, counted, the reason why there is none."""
    rows, left_out = [], Counter[str]()
    for sample in samples:
        made = make(sample)
        if isinstance(made, str):
            left_out[made] += 1
        else:
            rows.append(_row(made, control, sample))
    return Controlled(tuple(rows), dict(left_out))


def _row(made: Sample, control: str, original: Sample, variant: str = "", **facts: Any) -> ControlRow:
    """`made` out of `original` by `control`, which it says from now on."""
    extra = {**made.extra, "control": control, "of": original.id, "variant": variant, **facts}
    return ControlRow(replace(made, extra=extra, group=original.cluster), original.id, variant)


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("blank", "the image: its size and its mean colour are all that is left", _blank),
        Control("noise", "the image: noise stands in its place", _noise),
        Control("shuffled", "the right image: another's stands in its place, for which another answer is right", _shuffled),
        Control("options-shuffled", "the order of the options", _options_shuffled),
        Control(
            "options-circular", "luck with the order of the options: right only in every rotation", _options_circular, "every"
        ),
        Control("options-normalised", "case and punctuation of the options", _options_normalised),
        Control("no-options", "the options", _no_options),
        Control("options-debiased", "what the options say about the gold", _options_debiased),
        Control("prompts", "the wording of the instruction", _prompts, "mean"),
        Control(TWIN, "the image, in training as well: the twin is the same recipe, trained on blank images", _blind_twin),
    )
}
"""Every control by its name."""

DEFAULT = ("blank", "shuffled", "options-debiased")
"""The controls of an evaluation that names none."""
