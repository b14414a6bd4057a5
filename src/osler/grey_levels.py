"""Grey of more than 8 bits, as scans are kept, brought to the 8 bits that a model is shown."""

import numpy as np
from numpy.typing import NDArray

NARROW = 8
"""Whole numbers that lie within this part of their scale, 1 / NARROW of it, are far from 0: kept with an offset."""

ROWS = 64


def eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey `values` of any depth as uint8, on a straight line.

    Whole numbers from 0 up are scaled by the smallest bit depth that holds the brightest, so that a 12-bit scan kept in
    16 bits is neither black nor stretched by its own contrast. Those that would all be of nearly one grey then, as a CT kept
    with 32768 added to it, run from lowest to highest; so do signed and fractional values. What is no number is shown as the
    lowest, and what is infinite as the end that it lies beyond.

    Errors: ValueError where there is no finite value.
    """
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if known.size == 0:
        raise ValueError("it holds no finite value")
    low, high = _ends(known)
    shown = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS):  # so many at a time, as fractions take up eight times the room
        wide = np.nan_to_num(values[start : start + ROWS].astype(np.float64), nan=low, posinf=high, neginf=low)
        shown[start : start + ROWS] = np.rint((wide - low) / ((high - low) or 1.0) * 255)
    return shown


def _ends(values: NDArray[np.generic]) -> tuple[float, float]:
    """The values that are shown as black and as white."""
    low, high = float(values.min()), float(values.max())
    if low < 0 or values.dtype.kind not in "iu":
        return low, high
    white = float(2 ** max(8, int(high).bit_length()) - 1)
    has_an_offset = 255 <= high - low < white / NARROW  # below 255 it is a flat image, whose noise would be stretched
    return (low, high) if has_an_offset else (0.0, white)
