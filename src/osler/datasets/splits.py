"""Which rows are trained on, stopped on and reported on: never one image or patient on two sides by our own doing."""

from dataclasses import dataclass

import numpy as np

from osler.config import DataSettings, Spec
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.errors import DataError, unknown
from osler.schema import SPLITS, Sample


@dataclass(frozen=True)
class Splits:
    """The rows of one recipe: to train on, to stop on, to report on; the last two may be empty."""

    train: Samples
    val: Samples
    test: Samples


def load_splits(data: DataSettings, seed: int, with_test: bool = True) -> Splits:
    """The rows of each split. Errors: DataError where there are none to train on, or none in a spec that is given.

    Where no validation rows are given or shipped, `val_share` of the training groups (patients, images) are held out. Where
    no test spec is given, test rows are those of `data.train` that say so: rows without splits are all trained on, and never
    tested on. Without `with_test`, `data.test` is not read and test is empty.
    """
    source = load_data(data.train)
    train = part(source, "train")
    if not len(train):
        raise _no_rows("training", data.train, source)
    val = load_part(data.val, "val") if data.val is not None else source.where(split="val")
    if not len(val) and data.val_share:
        train, val = hold_out(train, data.val_share, seed)
    return Splits(train, val, _test(data, source) if with_test else source[:0])


def _test(data: DataSettings, source: Samples) -> Samples:
    return load_part(data.test, "test") if data.test is not None else source.where(split="test")


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """`samples` parted by group, `share` of the groups (at least one) in the second part. Seeded; order is kept.

    Errors: DataError where either part would be empty.
    """
    groups = [sample.cluster for sample in samples]
    names = sorted(set(groups))
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise DataError(
            f"of {len(names)} training group{'s' * (len(names) != 1)} (patients, images) {count} would be held out to stop on, "
            "which leaves none to train on. Give data.val, or set data.val_share=0."
        )
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    held = {names[index] for index in chosen}
    rows = range(len(samples))
    return samples.take(r for r in rows if groups[r] not in held), samples.take(r for r in rows if groups[r] in held)


def load_part(data: Spec, split: str) -> Samples:
    """The rows of `split` in `data`, a spec given for that split, at least one. Errors: DataError."""
    samples = load_data(data)
    found = part(samples, split)
    if not len(found):
        raise _no_rows(split, data, samples)
    return found


def part(samples: Samples, split: str) -> Samples:
    """The rows of `split`, or all of them where the data set has no splits at all.

    Errors: DataError where only some rows have one, or one that is unknown, as those rows would never be used.
    """
    found = samples.counts()["by_split"]
    if set(found) == {"none"}:
        return samples
    for row in samples if set(found) - set(SPLITS) else ():
        if row.split is None:
            raise DataError(
                f"{_where(row)}: it has no split, but {len(samples) - found['none']} other rows of the data set have one. "
                "Give every row a split, or none."
            )
        if row.split not in SPLITS:
            raise DataError(f"{_where(row)}: {unknown('split', row.split, SPLITS)}")
    return samples.where(split=split)


def _where(row: Sample) -> str:
    return row.origin or f"sample {row.id!r}"


def _no_rows(split: str, data: Spec, samples: Samples) -> DataError:
    return DataError(f"no {split} rows in {data!r}; its splits are {samples.counts()['by_split']}.")
