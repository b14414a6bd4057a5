"""Numbers of the rows' own, such as an age, in bands: a slice for each band, not one for each number.

    extra:age              each value is a slice, as long as there are at most `MANY` different numbers
    extra:age@18,40,65     <18, 18-39, 40-64, >=65: a band begins with its edge, and 39.5 is in 18-39
    extra:site@each        the numbers are codes: each is a slice, however many there are

What is no number has no band, and keeps a slice of its own ("90+"), as have rows that do not say. More than `MANY_TEXTS`
different values are no slices either, unless each is asked for.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from osler.errors import RecipeError

MANY = 12
"""More different numbers than this are not sliced one by one unless that is asked for; our default."""

MANY_TEXTS = 50
"""More different values than this, texts as well, are not sliced one by one unless that is asked for; our default."""

SEPARATOR, EACH, UNKNOWN = "@", "each", "unknown"

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d{1,2})", re.ASCII)  # with three digits behind it, it may be one of thousands
_AGE = re.compile(r"(\d{3})([DWMY])|(\d{1,2})(Y)", re.ASCII | re.IGNORECASE)
_IN_A_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True)
class Bands:
    """The bands between ascending `edges`, one more than there are edges. Errors: RecipeError where they do not ascend."""

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.edges or not all(map(math.isfinite, self.edges)) or any(a >= b for a, b in pairwise(self.edges)):
            raise RecipeError(f"bands {', '.join(map(_written, self.edges))} do not ascend. Write their edges as 18,40,65.")

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each band, in order."""
        inner = [_between(low, high) for low, high in pairwise(self.edges)]
        return (f"<{_written(self.edges[0])}", *inner, f">={_written(self.edges[-1])}")

    def of(self, number: float) -> str:
        """The name of the band that `number` is in."""
        return self.labels[bisect_right(self.edges, number)]


def parted(field: str) -> tuple[str, Bands | None, bool]:
    """Of KEY, KEY@18,40,65 or KEY@each: the key, its bands (None where there are none), and whether each number is a slice.

    An @ that is followed by anything else belongs to the key. Errors: RecipeError where the edges of bands do not ascend.
    """
    key, _, said = field.rpartition(SEPARATOR)
    if key and said == EACH:
        return key, None, True
    if key and all(_NUMBER.fullmatch(edge.strip()) for edge in said.split(",")):
        return key, Bands(tuple(map(float, said.split(",")))), False
    return field, None, False


def banded(axis: str, bands: str) -> str:
    """`axis` with `bands` ("18,40,65" or "each") written behind it. Errors: RecipeError where it cannot take them."""
    name, _, field = axis.partition(":")
    if name != "extra" or not field:
        raise RecipeError(f"bands divide a number of the rows' own, which {axis!r} is not. Name it: --axis extra:KEY.")
    if parted(field)[0] != field:
        raise RecipeError(f"the axis {axis!r} has bands already. Give them once.")
    whole = f"{axis}{SEPARATOR}{bands.replace(' ', '')}"
    if parted(whole.partition(":")[2])[0] != field:
        raise RecipeError(f"bands {bands!r} are not understood. Write their ascending edges as 18,40,65, or {EACH}.")
    return whole


def number_in(value: Any) -> float | None:
    """The number that `value` is, or is written as; None where it is none. An age as DICOM writes it is in years.

    "20,5" is 20.5. Source: DICOM PS3.5, value representation AS: three digits and D, W, M or Y. One or two digits and Y, and
    small letters, are taken too.
    """
    if isinstance(value, bool):
        return None
    text = value.strip() if isinstance(value, str) else str(value)
    if age := _AGE.fullmatch(text):
        count, unit = age[1] or age[3], age[2] or age[4]
        return int(count) / _IN_A_YEAR[unit.upper()]
    if comma := _DECIMAL_COMMA.fullmatch(text):
        text = f"{comma[1]}.{comma[2]}"
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def require_few(field: str, labels: Collection[str]) -> None:
    """Errors: RecipeError where `field` says nothing of `labels` that are more than `MANY` different numbers or `MANY_TEXTS`
    different values; or has bands, and of its values none is a number, or more than `MANY_TEXTS` are texts."""
    key, bands, each = parted(field)
    said = set(labels) - {UNKNOWN}
    if bands and said and not said & set(bands.labels):
        what = f"no value of {key!r} is a number: there is {min(said)!r}, for instance."
        raise RecipeError(f"{what} Write numbers as 20.5 or 20,5; where they are texts, leave out the bands.")
    numbers = {number for label in labels if (number := number_in(label)) is not None}
    if bands or each or len(numbers) <= MANY:
        _require_few_texts(key, said - set(bands.labels if bands else ()), each, bands is not None)
        return
    raise RecipeError(
        f"{key!r} has {len(numbers)} different numbers, from {_written(min(numbers))} to {_written(max(numbers))}, and a slice "
        f"for each would be too small. Give the edges of bands, as in --bands 18,40,65 (or the axis extra:{key}@18,40,65); "
        f"where they are codes and no amounts, --bands {EACH}."
    )


def _require_few_texts(key: str, texts: Collection[str], each: bool, banded: bool) -> None:
    if each or len(texts) <= MANY_TEXTS:
        return
    other = " that are no numbers" if banded else ""
    do = "Write them as numbers" if banded else f"Name a column of fewer; where each is to be a slice, --bands {EACH}"
    raise RecipeError(
        f"{key!r} has {len(texts)} different values{other}, as {min(texts)!r}, and a slice for each would be too small. {do}."
    )


def _between(low: float, high: float) -> str:
    """The name of the band from `low` to below `high`: 18-39 where both are whole, as ages are."""
    if low < 0 or not (low.is_integer() and high.is_integer()):
        return f"{_written(low)} to <{_written(high)}"
    return _written(low) if high == low + 1 else f"{_written(low)}-{_written(high - 1)}"


def _written(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)
