"""What test and training rows have in common: images, pictures that nearly look the same, patients and other groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from osler.errors import DataError
from osler.findings import SHOWN, Finding, Part, finding, found_in, image_names, where
from osler.fingerprints import Fingerprint, fingerprints, near_pairs
from osler.images import is_drawn
from osler.schema import Sample
from osler.stats import proportion

Names = Sequence[tuple[str, ...]]
"""What tells the images of each row apart, one name an image; () of a row that names none."""

_DROP = (
    "Split by image and patient (`osler data split`), or leave these test rows out and say how many "
    "(`osler data split --drop-leaks`)."
)
_COPIES = "Look at them, and keep copies of one picture on one side: `osler data split`, or `osler data split --drop-leaks`."
_LOOK = (
    "Look at them by eye: copies of one picture belong on one side (`osler data split`), but pictures of different patients, "
    "retinas above all, look so too. A smaller --distance finds fewer."
)
_READ = "Name the folder that holds them: NAME:PATH?images=ROOT."


@dataclass(frozen=True)
class Rows:
    """Training and test rows; of each part what its rows call their images, and their fingerprints where they were read."""

    train: Sequence[Sample]
    test: Sequence[Sample]
    names: Sequence[Names]
    prints: Sequence[Sequence[tuple[Fingerprint, ...]]] | None

    @cached_property
    def all(self) -> list[Sample]:
        """The samples of train, then of test."""
        return [*self.train, *self.test]

    @cached_property
    def pictures(self) -> Sequence[Names]:
        """Of each part its images by their pixels, where these were read, else by their names."""
        if self.prints is None:
            return self.names
        return [[tuple(one.pixels for one in row) for row in part] for part in self.prints]


def read_rows(train: Sequence[Sample], test: Sequence[Sample], images: bool | None) -> Rows:
    """The rows with what is known of their images, which are read if `images`, or None and every row names one.

    Errors: DataError where an image cannot be read, or where pixels are asked for and a row names no image.
    """
    both = [*train, *test]
    bare = next((sample for sample in both if not sample.images), None)
    names = [image_names(part, published=bare is not None) for part in (train, test)]
    if images and bare:
        raise DataError(f"{where(bare)}: it has no image to compare. Give the images' root: NAME:PATH?images=ROOT.")
    if images is False or bare:
        return Rows(train, test, names, None)
    row_of = {image: where(sample) for sample in reversed(both) for image in sample.images}
    made = fingerprints((image for sample in both for image in sample.images), row_of)
    prints = [[tuple(made[image] for image in sample.images) for sample in part] for part in (train, test)]
    return Rows(train, test, names, prints)


def shared_images(rows: Rows) -> list[bool]:
    """For each test row whether one of its images is in train, by name or by pixels."""
    return [a or b for a, b in zip(_shared(*rows.names), _shared(*rows.pictures), strict=True)]


def _shared(train: Names, test: Names) -> list[bool]:
    """For each row of `test` whether one of its names is among those of `train`."""
    names = {name for row in train for name in row}
    return [not names.isdisjoint(row) for row in test]


def found_leaks(rows: Rows, shared: Sequence[bool], distance: int) -> Part:
    """What is on both sides, where `shared` says which test rows share an image: images, near-duplicates, groups."""
    known = any(map(any, rows.names))
    pairs = None if rows.prints is None else _near(rows, distance)
    near = {pair.test for pair in pairs or ()}
    groups: list[Names] = [[(sample.group,) if sample.group else () for sample in part] for part in (rows.train, rows.test)]
    same_group = _shared(*groups)
    rate = proportion(shared, [sample.cluster for sample in rows.test])
    numbers = {
        "shared_image_rows": sum(shared) if known else None,
        "shared_image_rate": rate if known else None,
        "near_duplicate_pairs": None if pairs is None else len(pairs),
        "near_duplicate_rows": None if pairs is None else sum(not near.isdisjoint(row) for row in rows.pictures[1]),
        "near_duplicate_distance": distance,
        "shared_group_rows": sum(same_group),
        "images_read": rows.prints is not None,
        "rows_without_image": sum(not row for part in rows.names for row in part),
        "rows_without_group": sum(not row for part in groups for row in part),
    }
    return numbers, [*_of_rows(rows, shared, same_group), *_of_pairs(rows, pairs or (), distance), *_unread(rows)]


def _of_rows(rows: Rows, shared: Sequence[bool], same_group: Sequence[bool]) -> list[Finding]:
    """Test rows whose image or group is in train; once, where the group is the image."""
    image, group = ([sample for sample, flag in zip(rows.test, flags, strict=True) if flag] for flags in (shared, same_group))
    found = [found_in("test {row shows|rows show} an image of train", image, _DROP, invalidates=True)]
    if shared != same_group:
        what = "test {row is|rows are} of a patient or group of train"
        found.append(found_in(what, group, _DROP, invalidates=True))
    return found


def _unread(rows: Rows) -> list[Finding]:
    """Rows without pixels: of a known path, and of none."""
    named = [bool(row) for part in rows.names for row in part]
    bare = [(sample, known) for sample, known in zip(rows.all, named, strict=True) if not sample.images]
    by_path, by_nothing = ([sample for sample, known in bare if known is wanted] for wanted in (True, False))
    return [
        found_in("{row was|rows were} read without pixels: images are compared by path only", by_path, _READ),
        found_in("{row names|rows name} no image, not even by path, and {is|are} compared with none", by_nothing, _READ),
    ]


class _Pair(NamedTuple):
    """Near-duplicates: the pixels' hashes of a test and of a train picture, and in how many bits their looks differ."""

    test: str
    train: str
    bits: int


def _near(rows: Rows, distance: int) -> list[_Pair]:
    """The near-duplicates whose pixels differ, the nearest first; none where no pixels were read."""
    there, here = ({one.pixels: one.look for row in part for one in row} for part in rows.prints or ((), ()))
    test, train = list(here), list(there)
    pairs = near_pairs(list(here.values()), list(there.values()), distance).tolist()
    found = [_Pair(test[i], train[j], bits) for i, j, bits in pairs if test[i] != train[j]]
    return sorted(found, key=lambda pair: pair.bits)


def _of_pairs(rows: Rows, pairs: Sequence[_Pair], distance: int) -> list[Finding]:
    """Near-duplicates: those that the hash does not tell apart, and those to look at, drawings among these.

    Two drawings whose pixels differ are no copies of one picture, however alike they look.
    """
    pictures = [*rows.pictures[0], *rows.pictures[1]]
    drawn = {name for sample, row in zip(rows.all, pictures, strict=True) if _drawn(sample) for name in row}
    same = [pair for pair in pairs if not pair.bits and not {pair.test, pair.train} <= drawn]
    others = [pair for pair in pairs if pair.bits or {pair.test, pair.train} <= drawn]
    what = "{pair|pairs} of a test and a train picture {is a near-duplicate|are near-duplicates}"
    return [
        finding(f"{what}, 0 bits apart", len(same), _told(rows, same), _COPIES, invalidates=True),
        finding(f"{what}, at most {distance} bits apart", len(others), _told(rows, others), _LOOK),
    ]


def _drawn(sample: Sample) -> bool:
    return all(map(is_drawn, sample.images))


def _told(rows: Rows, pairs: Sequence[_Pair]) -> list[str]:
    """The first few near-duplicates in words, each picture by its first row."""
    train, test = (_first_rows(*part) for part in zip((rows.train, rows.test), rows.pictures, strict=True))
    return [f"{test[pair.test]} and {train[pair.train]}, {pair.bits} bits apart" for pair in pairs[:SHOWN]]


def _first_rows(samples: Sequence[Sample], pictures: Names) -> Mapping[str, str]:
    """By picture the first row that shows it."""
    rows = list(zip(samples, pictures, strict=True))
    return {picture: where(sample) for sample, row in reversed(rows) for picture in row}
