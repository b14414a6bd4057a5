"""Which rows are trained on, stopped on and reported on: never one image or patient on two sides by our own doing."""

from dataclasses import dataclass

import numpy as np

from osler.config import DataSettings, Spec
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The rows of one recipe: to train on, to stop on, to report on."""

    train: Samples
    val: Samples
    test: Samples


def load_splits(data: DataSettings, seed: int) -> Splits:
    """The rows of each split. Errors: DataError where there are none to train on.

    Where no validation rows are given or shipped, `val_share` of the training groups (patients, images) are held out.
    """
    source = load_data(data.train)
    train = part(source, "train")
    if not len(train):
        raise DataError(f"no training rows in {data.train!r}; its splits are {source.counts()['by_split']}.")
    test = part(load_data(data.test), "test") if data.test is not None else source.where(split="test")
    val = part(load_data(data.val), "val") if data.val is not None else source.where(split="val")
    if not len(val) and data.val_share:
        train, val = hold_out(train, data.val_share, seed)
    return Splits(train, val, test)


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """`samples` parted by group, `share` of the groups (at least one) in the second part. Seeded; order is kept."""
    groups = [sample.cluster for sample in samples]
    names = sorted(set(groups))
    chosen = np.random.default_rng(seed).permutation(len(names))[: max(1, round(share * len(names)))]
    held = {names[index] for index in chosen}
    rows = range(len(samples))
    return samples.take(r for r in rows if groups[r] not in held), samples.take(r for r in rows if groups[r] in held)


def load_part(data: Spec, split: str) -> Samples:
    """The rows of `split` in `data`, at least one. Errors: DataError."""
    samples = load_data(data)
    found = part(samples, split)
    if not len(found):
        raise DataError(f"no {split} rows in {data!r}; its splits are {samples.counts()['by_split']}.")
    return found


def part(samples: Samples, split: str) -> Samples:
    """The rows of `split`, or all of them where the data set has no splits at all."""
    return samples if set(samples.counts()["by_split"]) == {"none"} else samples.where(split=split)
