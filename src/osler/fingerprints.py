"""What tells whether two files show the same picture: a hash of the exact pixels, and one that survives re-encoding.

The perceptual hash is of the whole picture, the 8 x 8 lowest frequencies of its cosine transform (imagehash's phash). It
finds a picture that was re-encoded, scaled or slightly brightened, and none that was cropped, turned or mirrored. Pictures
of other patients can come close too: a near-duplicate is a pair to look at, and no proof.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise

import imagehash
import numpy as np
from numpy.typing import NDArray

from osler.errors import DataError
from osler.images import open_image
from osler.progress import bar

BITS = 64
"""The length of a perceptual hash."""

NEAR = 4
"""The largest distance, in bits, at which two pictures are near-duplicates unless another is asked for."""

FEW = 256
"""Up to this many images are read in this process: to start others would take longer."""

_AT_ONCE = 1024  # references that wait in the pool at one time
_CANDIDATES = 1 << 20  # pairs that are compared at one time, about 50 MB
_ONES = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Fingerprint:
    """Of one picture: `pixels`, the SHA-256 of its size and RGB pixels in hexadecimal, and `look`, its perceptual hash."""

    pixels: str
    look: int


def fingerprint(reference: str) -> Fingerprint:
    """The fingerprint of the image that `reference` names. Errors: DataError where it cannot be opened."""
    image = open_image(reference)
    pixels = hashlib.sha256(f"{image.width} x {image.height} ".encode())
    pixels.update(image.tobytes())
    look = int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")
    return Fingerprint(pixels.hexdigest(), look)


def fingerprints(references: Iterable[str], where: Mapping[str, str] | None = None) -> dict[str, Fingerprint]:
    """The fingerprint of each different reference, read once, by as many processes as there are cores.

    One image a core is held at a time. `where` says which row shows a reference. Errors: DataError about the first one that
    cannot be opened, which names its path, and its row where that is known.
    """
    names = list(dict.fromkeys(references))
    found: dict[str, Fingerprint] = {}
    with bar("Fingerprint images", len(names)) as tick, closing(_each(names)) as made:
        for name, result in zip(names, made, strict=True):
            if isinstance(result, DataError):
                raise DataError(f"{where[name]}: {result}" if where and name in where else str(result))
            found[name] = result
            tick("")
    return found


def _each(names: Sequence[str]) -> Generator[Fingerprint | DataError, None, None]:
    """What `_attempt` makes of `names`, in order. Processes are started afresh: a fork of one that has threads may hang."""
    if len(names) <= FEW:
        yield from map(_attempt, names)
        return
    rest = iter(names)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        while part := list(islice(rest, _AT_ONCE)):
            yield from pool.map(_attempt, part, chunksize=16)


def _attempt(reference: str) -> Fingerprint | DataError:
    """The fingerprint, or what is wrong as a value: raised in a pool, it would not tell which image of a chunk it is about."""
    try:
        return fingerprint(reference)
    except DataError as error:
        return error


def near_pairs(a: Sequence[int], b: Sequence[int], distance: int = NEAR) -> Places:
    """Every (place in `a`, place in `b`, Hamming distance) of two perceptual hashes at most `distance` apart, P x 3, sorted.

    Exact: the bits are cut into `distance` + 1 bands, and two hashes that differ in at most `distance` bits agree in one of
    them, so that only hashes that share a band are compared. Errors: ValueError where `distance` is not in 0..63.
    """
    if not 0 <= distance < BITS:
        raise ValueError(f"the distance of two hashes of {BITS} bits must be 0 to {BITS - 1}, not {distance}")
    hashes_a, place_a = np.unique(np.asarray(a, dtype=np.uint64), return_inverse=True)
    hashes_b, place_b = np.unique(np.asarray(b, dtype=np.uint64), return_inverse=True)
    found = [part for band in _bands(distance + 1) for part in _sharing(hashes_a, hashes_b, band, distance)]
    different = np.unique(np.concatenate([np.empty((0, 3), np.int64), *found]), axis=0)
    return _spread(different, place_a, place_b)


def _bands(count: int) -> list[np.uint64]:
    """`count` masks that cut the bits into parts of nearly equal length."""
    ends = [BITS * at // count for at in range(count + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(ends)]


def _sharing(a: Hashes, b: Hashes, band: np.uint64, distance: int) -> Iterator[Places]:
    """The near ones among all pairs of `a` and `b` that agree in `band`, a bounded number of pairs at a time."""
    order = np.argsort(b & band)
    keys = (b & band)[order]
    low, high = (np.searchsorted(keys, a & band, side) for side in ("left", "right"))
    block = np.cumsum(high - low) // _CANDIDATES
    for part in np.split(np.arange(len(a)), np.flatnonzero(np.diff(block)) + 1):
        times = (high - low)[part]
        left = np.repeat(part, times)
        right = order[np.arange(times.sum()) + np.repeat(low[part] - (np.cumsum(times) - times), times)]
        apart = _apart(a[left], b[right])
        near = apart <= distance
        yield np.stack([left[near], right[near], apart[near]], axis=1)


def _apart(a: Hashes, b: Hashes) -> Places:
    """The number of bits in which each of `a` differs from the one beside it in `b`."""
    ones: Places = _ONES[(a ^ b).view(np.uint8).reshape(-1, BITS // 8)].sum(axis=1, dtype=np.int64)
    return ones


def _spread(pairs: Places, place_a: Places, place_b: Places) -> Places:
    """`pairs` of different hashes as pairs of all that have these hashes: `place_a[i]` is the hash that the i-th of a has."""
    holders_a, holders_b = _holders(place_a), _holders(place_b)
    spread = [(i, j, apart) for x, y, apart in pairs.tolist() for i in holders_a[x] for j in holders_b[y]]
    return np.array(sorted(spread), dtype=np.int64).reshape(-1, 3)


def _holders(place: Places) -> list[list[int]]:
    holders: list[list[int]] = [[] for _ in range(int(place.max(initial=-1)) + 1)]
    for at, which in enumerate(place.tolist()):
        holders[which].append(at)
    return holders
