"""Open any image safely: an image reference in, 8-bit RGB pixels out.

A reference is one of these, where REF is any reference again:

    PATH              a file, opened by osler.image_files
    phantom:...       drawn rather than read (osler.drawing.phantoms)
    blank:REF         as large as REF's image, every pixel the mean colour of it
    noise:SEED:REF    as large as REF's image, every value of every pixel drawn evenly from 0 to 255
    marked:GLYPH:REF  REF's image with a glyph burnt into its corner (osler.drawing.marks)
    grainy:PERCENT:REF    REF's image mixed with so much of the noise that noise:0:REF shows, from 1 to 99

Blank images and noise take away what there is to see (osler.controls), a mark adds to it, grain hides some of it. They are
made whenever they are opened, and are no files.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image

from osler.drawing.marks import GLYPHS, stamp
from osler.drawing.phantoms import draw_phantom
from osler.errors import DataError
from osler.image_files import read_rgb

PHANTOM = "phantom:"
"""How a reference to a drawn image begins."""

MOST_ELONGATED = 200
"""Qwen2-VL's processor refuses an image whose sides differ by more than this factor."""

BLANK = "blank:"
"""How a reference to the mean colour of another image begins."""

NOISE = "noise:"
"""How a reference to noise as large as another image begins; a seed comes next."""

MARKED = "marked:"
"""How a reference to an image with a glyph in its corner begins; the glyph's name comes next."""

GRAINY = "grainy:"
"""How a reference to an image mixed with noise begins; the percentage of noise comes next."""

MADE = (BLANK, NOISE, MARKED, GRAINY)
"""How references to what is made from another image begin."""

_KINDS = (
    BLANK,
    rf"{NOISE}(?P<seed>0|[1-9][0-9]*):",
    rf"{MARKED}(?P<glyph>{'|'.join(GLYPHS)}):",
    rf"{GRAINY}(?P<percent>[1-9][0-9]?):",
)
_MADE = re.compile(rf"({'|'.join(_KINDS)})(?P<inner>.+)", re.DOTALL)


def open_image(reference: str) -> Image.Image:
    """The RGB image that `reference` names; what all of osler sees of it.

    Errors: DataError where the file is missing, too large, damaged or of a format that is not read, and for a reference that
    begins like one of the kinds above and is none.
    """
    if reference.startswith(PHANTOM):
        return Image.fromarray(draw_phantom(reference))
    if reference.startswith(MADE):
        return _made(reference)
    return read_rgb(reference)


def blank_of(reference: str) -> str:
    """The reference to an image as large as that of `reference`, every pixel its mean colour."""
    return BLANK + reference


def noise_of(reference: str, seed: int) -> str:
    """The reference to noise as large as the image of `reference`; `seed` is a whole number from 0."""
    return f"{NOISE}{seed}:{reference}"


def marked_with(reference: str, glyph: str) -> str:
    """The reference to the image of `reference` with `glyph`, one of `osler.drawing.marks.GLYPHS`, burnt into its corner."""
    return f"{MARKED}{glyph}:{reference}"


def grainy_of(reference: str, percent: int) -> str:
    """The reference to the image of `reference` mixed with noise; `percent` is a whole number from 1 to 99."""
    return f"{GRAINY}{percent}:{reference}"


def underlying(reference: str) -> str:
    """The path or phantom that `reference` was made from: itself, unless it is made. Errors: DataError."""
    while reference.startswith(MADE):
        reference = _taken_apart(reference)["inner"]
    return reference


def is_drawn(reference: str) -> bool:
    """Whether the image of `reference`, or the one that it was made from, is drawn and no file. Errors: DataError."""
    return underlying(reference).startswith(PHANTOM)


def _made(reference: str) -> Image.Image:
    """The image that `reference` names, made from another. Errors: DataError."""
    parts = _taken_apart(reference)
    image = open_image(parts["inner"])
    if glyph := parts["glyph"]:
        return _marked(image, glyph, parts["inner"])
    if percent := parts["percent"]:
        return Image.blend(image, _noise(image, parts["inner"], 0), int(percent) / 100)
    if seed := parts["seed"]:
        return _noise(image, parts["inner"], int(seed))
    mean = np.rint(np.asarray(image).mean(axis=(0, 1))).astype(int).tolist()
    return Image.new("RGB", image.size, tuple(mean))


def _noise(image: Image.Image, reference: str, seed: int) -> Image.Image:
    """Noise as large as `image`, which is that of `reference`."""
    rng = np.random.default_rng([seed, *_content(reference)])
    return Image.fromarray(rng.integers(256, size=(image.height, image.width, 3), dtype=np.uint8))


def _marked(image: Image.Image, glyph: str, reference: str) -> Image.Image:
    try:
        return Image.fromarray(stamp(np.asarray(image), glyph))
    except DataError as error:
        raise DataError.at(reference, None, str(error), "Leave it unmarked.") from error


def _taken_apart(reference: str) -> re.Match[str]:
    """`inner`, the reference that it is made from, with the `seed` of noise, the `glyph` of a mark, ... Errors: DataError."""
    if found := _MADE.fullmatch(reference):
        return found
    raise DataError(
        f"{reference!r} names no image. Write blank:REF or noise:SEED:REF, as in noise:0:scans/a.png, grainy:60:REF, or "
        f"marked:GLYPH:REF with GLYPH one of {', '.join(GLYPHS)}."
    )


def _content(reference: str) -> bytes:
    """What tells the image of `reference` from others, wherever its file lies: a hash of the file, or of a phantom's name."""
    inner = underlying(reference)
    digest = hashlib.sha256(reference.removesuffix(inner).encode())
    digest.update(inner.encode() if inner.startswith(PHANTOM) else Path(inner).read_bytes())
    return digest.digest()
