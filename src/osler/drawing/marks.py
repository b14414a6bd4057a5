"""Marks: a small glyph in a corner of an image, as a scanner or a site burns one in, that names a diagnosis.

A planted mark is the shortcut of which the truth is known. Where it goes with the diagnosis in training, a model can learn to
read it instead of the image; where it goes against the diagnosis in test, that shows. `GLYPHS` has one glyph a diagnosis
class: the two diseases of an anatomy in their order (osler.drawing.phantoms), then normal, the same three for all anatomies.
So a mark says nothing by itself about the modality, the anatomy, or anything of a lesion but whether there is one.

All glyphs have as many bright pixels on as large a plate: images that differ in their mark only have one mean colour, and what
is left of them under the control blank is the same.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from osler.drawing.canvas import SIZE_PX
from osler.drawing.phantoms import diagnoses, phantom_case, phantom_generator
from osler.errors import DataError, unknown

Planting = Literal["with", "against", "none"]
"""What marks say: the diagnosis, another one, or there are none."""

PLANTINGS: tuple[Planting, ...] = get_args(Planting)

CELL_PX = 3
"""Width and height of one of the nine cells of a glyph, on a phantom."""

SIDE_PX = 3 * CELL_PX + 2
"""Width and height of the plate on a phantom, with a rim of one pixel; of a larger image it takes the same share.

That is 4 % of the image. A linear probe on the embedded model's features, fitted on 300 images, tells the glyphs apart in 97 %
of 240 others; with cells of 2 pixels it did in 74 %.
"""

EDGE_PX = 1
"""The free pixels between the plate and the upper and left edge of a phantom."""

_CELLS = {
    "plus": (".#.", "###", ".#."),
    "times": ("#.#", ".#.", "#.#"),
    "wedge": ("###", "##.", "..."),
}
_PURPOSE = 100
"""The generator of a phantom that decides about its mark; its questions have those from 1."""


def _plate(cells: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """The plate, SIDE_PX x SIDE_PX: 255 where the glyph is, 0 elsewhere and on the rim."""
    bright = np.array([[255 * (cell == "#") for cell in row] for row in cells], np.uint8)
    return np.pad(bright.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1), 1)


GLYPHS: dict[str, npt.NDArray[np.uint8]] = {name: _plate(cells) for name, cells in _CELLS.items()}
"""The glyphs by name, in the order of the diagnoses that they stand for."""


@dataclass(frozen=True)
class Mark:
    """The mark of one image: its `glyph`, the `diagnosis` that it names, and whether that is the right one."""

    glyph: str
    diagnosis: str
    agrees: bool


def mark_of(reference: str, planting: Planting, share: float = 1.0) -> Mark | None:
    """The mark of the phantom `reference`: of its diagnosis under `with`, of another under `against`; None under `none`.

    Under `with` a `share` of the images, drawn at random, has it so, the others as under `against`. One draw a phantom decides:
    its mark under `against` is always the same, and a larger share keeps the images that agree under a smaller one.
    Errors: DataError for a bad reference or planting.
    """
    if planting not in PLANTINGS:
        raise DataError(unknown("planting of marks", planting, PLANTINGS))
    if planting == "none":
        return None
    case, rng = phantom_case(reference), phantom_generator(reference, _PURPOSE)
    possible = diagnoses(case.modality, case.anatomy)
    others = [diagnosis for diagnosis in possible if diagnosis != case.disease]
    other, draw = others[rng.integers(len(others))], rng.random()
    named = case.disease if planting == "with" and draw < share else other
    return Mark(list(GLYPHS)[possible.index(named)], named, named == case.disease)


def stamp(pixels_HWC: npt.NDArray[np.uint8], glyph: str) -> npt.NDArray[np.uint8]:
    """A copy of the RGB pixels with the plate of `glyph` in the upper left corner, a fifth of the shorter side large.

    The plate is enlarged by a whole number. Errors: DataError for an unknown glyph, or an image too small for it.
    """
    if glyph not in GLYPHS:
        raise DataError(unknown("mark", glyph, GLYPHS))
    shorter = min(pixels_HWC.shape[:2])
    if shorter < SIDE_PX + EDGE_PX:
        raise DataError(f"the image is {shorter} pixels on its shorter side; a mark needs {SIDE_PX + EDGE_PX}.")
    scale = max(1, round(shorter / SIZE_PX))
    plate = GLYPHS[glyph].repeat(scale, axis=0).repeat(scale, axis=1)
    place = slice(EDGE_PX * scale, (EDGE_PX + SIDE_PX) * scale)
    marked = pixels_HWC.copy()
    marked[place, place] = plate[..., None]
    return marked
