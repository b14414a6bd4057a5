"""Open any image safely: an image reference in, 8-bit RGB pixels out.

A reference is one of these, where REF is any reference again:

    PATH              a file. Its format and the number of its pixels are checked from the header, before anything is decoded;
                      of a file with several frames the first one counts
    phantom:...       drawn rather than read (osler.drawing.phantoms)
    blank:REF         as large as REF's image, every pixel the mean colour of it
    noise:SEED:REF    as large as REF's image, every value of every pixel drawn evenly from 0 to 255
    marked:GLYPH:REF  REF's image with a glyph burnt into its corner (osler.drawing.marks)
    grainy:PERCENT:REF    REF's image mixed with so much of the noise that noise:0:REF shows, from 1 to 99

Blank images and noise take away what there is to see (osler.controls), a mark adds to it, grain hides some of it. They are
made whenever they are opened, and are no files.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from osler.drawing.marks import GLYPHS, stamp
from osler.drawing.phantoms import draw_phantom
from osler.errors import DataError

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

MAX_PIXELS = 80_000_000
"""The largest image that is decoded, about 240 MB as RGB; a whole mammogram has 25 million pixels."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")
"""The formats that are read. Pillow knows more, some of which run other programs."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112
_KINDS = (
    BLANK,
    rf"{NOISE}(?P<seed>0|[1-9][0-9]*):",
    rf"{MARKED}(?P<glyph>{'|'.join(GLYPHS)}):",
    rf"{GRAINY}(?P<percent>[1-9][0-9]?):",
)
_MADE = re.compile(rf"({'|'.join(_KINDS)})(?P<inner>.+)", re.DOTALL)


def open_image(reference: str) -> Image.Image:
    """The RGB image that `reference` names, upright as its EXIF data says, transparency laid over white.

    Errors: DataError where the file is missing, too large, damaged or of a format that is not read, and for a reference that
    begins like one of the kinds above and is none.
    """
    if reference.startswith(PHANTOM):
        return Image.fromarray(draw_phantom(reference))
    if reference.startswith(MADE):
        return _made(reference)
    with _header(reference) as image:
        image.load()
        return _rgb(ImageOps.exif_transpose(image) if _orientation(image) != 1 else image)


def format_of(content: bytes, name: str) -> str:
    """The format, one of FORMATS, of the image file whose bytes are `content`, from its header; nothing is decoded.

    Errors: DataError that begins with `name` where it has too many pixels, or no format that is read.
    """
    with _opened(BytesIO(content), name) as image:
        return str(image.format)


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


@contextmanager
def _header(path: str) -> Iterator[Image.Image]:
    """The image at `path`, not decoded yet; whatever goes wrong with it inside the block is a DataError."""
    if not os.path.isfile(path):
        raise DataError.at(path, None, "there is no such image file.", "Check the path and the images root (?images=ROOT).")
    with _opened(path, path) as image:
        yield image


@contextmanager
def _opened(file: str | BytesIO, name: str) -> Iterator[Image.Image]:
    """The image in `file`, not decoded yet; whatever goes wrong inside the block is a DataError that begins with `name`."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except _TOO_LARGE as error:
        raise DataError.at(
            name, None, f"the image is too large ({error}).", f"Scale it below {MAX_PIXELS:,} pixels."
        ) from error
    except _DAMAGED as error:
        what = "of no format that is read" if isinstance(file, BytesIO) and isinstance(error, UnidentifiedImageError) else error
        do = f"Replace the file, or convert it to PNG (formats read: {', '.join(FORMATS)})."
        raise DataError.at(name, None, f"the image cannot be decoded ({what}).", do) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # looking further would decode the whole file
    value = image.getexif().get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(page, rgba).convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey `values` of any depth as uint8, on a straight line.

    Whole numbers from 0 up are scaled by the smallest bit depth that holds the brightest, so that a 12-bit scan kept in
    16 bits is neither black nor stretched by its own contrast. Signed and fractional values run from lowest to highest.
    """
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and values.dtype.kind in "iu":
        low, high = 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    span = (high - low) or 1.0
    return np.rint((finite - low) / span * 255).astype(np.uint8)
