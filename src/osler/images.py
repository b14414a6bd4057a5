"""Open any image safely: an image reference in, 8-bit RGB pixels out.

A reference is a path, or `phantom:...`, which is drawn rather than read. The format and the number of pixels are checked
from the header, before anything is decoded; of a file with several frames the first one counts.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from osler.drawing import draw_phantom
from osler.errors import DataError

PHANTOM = "phantom:"
"""How a reference to a drawn image begins."""

MAX_PIXELS = 80_000_000
"""The largest image that is decoded, about 240 MB as RGB; a whole mammogram has 25 million pixels."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")
"""The formats that are read. Pillow knows more, some of which run other programs."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112


def open_image(reference: str) -> Image.Image:
    """The RGB image that `reference` names, upright as its EXIF data says, transparency laid over white.

    Errors: DataError where the file is missing, too large, damaged or of a format that is not read.
    """
    if reference.startswith(PHANTOM):
        return Image.fromarray(draw_phantom(reference))
    with _header(reference) as image:
        image.load()
        return _rgb(ImageOps.exif_transpose(image) if _orientation(image) != 1 else image)


@contextmanager
def _header(path: str) -> Iterator[Image.Image]:
    """The image at `path`, not decoded yet; whatever goes wrong with it inside the block is a DataError."""
    if not os.path.isfile(path):
        raise DataError.at(path, None, "there is no such image file.", "Check the path and the images root (?images=ROOT).")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except _TOO_LARGE as error:
        raise DataError.at(
            path, None, f"the image is too large ({error}).", f"Scale it below {MAX_PIXELS:,} pixels."
        ) from error
    except _DAMAGED as error:
        do = f"Replace the file, or convert it to PNG (formats read: {', '.join(FORMATS)})."
        raise DataError.at(path, None, f"the image cannot be decoded ({error}).", do) from error


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
