"""An image file opened safely: a path or bytes in, 8-bit RGB pixels out, or one error that says what is wrong with it.

The format and the number of pixels are checked from the header, before anything is decoded. Of a file with several frames
the first one counts. The image is turned upright as its EXIF data says. Transparency is laid over white; where a whole image
is transparent, its colours show. Grey of more than 8 bits is scaled (osler.grey_levels). Colour profiles are not heeded.
"""

import os
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from osler.errors import DataError
from osler.file_kinds import HEAD, kind_of_file
from osler.grey_levels import eight_bits

MAX_PIXELS = 80_000_000
"""The largest image that is decoded, about 240 MB as RGB; a whole mammogram has 25 million pixels. A JPEG of up to twice as
many is decoded at half its width and height."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000", "ICO") + (
    ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()
)
"""The formats that are read. Pillow knows more, some of which run other programs, or tell no broken file from a whole one."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".ppm", ".pgm", ".avif")
"""What the names of image files end in; a name with another, or with none, may mean one of these."""

LONGEST_NAME = 300
"""Of a longer path only so many characters are said."""

_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,  # of a damaged header; one image that is read fits
    RuntimeError,
    AssertionError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339
_FADED = 16  # colours of 16 bits that are all below 1 / 16 of white: they are of 12 bits or fewer
_PNG, _PIECE = b"\x89PNG\r\n\x1a\n", 1 << 20
_PADDED = 512  # so many zero bytes at the end are no part of what a compressed image says

_ENDS = "|".join(re.escape(one) for one in EXTENSIONS)
_SEVERAL = re.compile(rf"(?:{_ENDS})['\"]?\s*[,|;\s]\s*\S.*(?:{_ENDS})|[^|/]\|[^|/]", re.IGNORECASE)  # a.png, b.png or a|b

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here


def read_rgb(path: str) -> Image.Image:
    """The image in the file at `path`, RGB. Errors: DataError that begins with `path`."""
    _require_file(path)
    try:
        stream = open(path, "rb")  # noqa: SIM115 (only what goes wrong with opening is told here)
    except OSError as error:
        raise DataError.at(path, None, f"the image cannot be read ({error.strerror}).", "Check its rights.") from error
    with stream, _opened(stream, path) as image:
        if image.format == "PNG":
            _require_whole_png(stream)
        elif image.format in ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"):
            _require_no_padding(stream, str(image.format))
        shown = _rgb(image)
        shown.info = {}  # a comment or a profile of the file is not handed on
        return shown


def format_of(content: bytes, name: str) -> str:
    """The format, one of FORMATS, of the image file whose bytes are `content`, from its header; nothing is decoded.

    Errors: DataError that begins with `name` where it has too many pixels, or no format that is read.
    """
    with _opened(BytesIO(content), name) as image:
        return str(image.format)


def why_absent(path: str) -> tuple[str, str] | None:
    """Why there may be no image file at `path`, as in `it is a folder`, and what to do about it; None where nothing tells."""
    if os.path.isdir(path):
        return "it is a folder", "Name the image in it."
    if os.path.islink(path):
        return "it is a link that leads to no file", "Correct the link."
    if os.path.exists(path):
        return "it is a pipe or a device", "Put an image file in its place."
    if "data:image/" in path:
        return "it is an image written out as text", "Save it as a file, and name its path."
    if "://" in path:
        return "it is an address, and nothing is downloaded", "Download the images, and name their paths."
    if (near := _near(path)) is not None:
        return f"but there is {near!r}", "Write the path as the file is called."
    if _SEVERAL.search(path):
        return "it reads as several images in one name", "Write several as a list, or in a cell of a table parted by ';'."
    return None


def short(path: str) -> str:
    """`path`, or its beginning where it is too long to be said."""
    return path if len(path) <= LONGEST_NAME else f"{path[:LONGEST_NAME]}..."


def _near(path: str) -> str | None:
    """The file that `path` may mean: written with other slashes, accents, cases, escapes or another extension."""
    stem, suffix = os.path.splitext(path)
    tried = [path.replace("\\", "/"), unquote(path), path.strip()]
    tried += [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    tried += [stem + suffix.lower(), stem + suffix.upper()]
    bare = stem if suffix.lower() in (*EXTENSIONS, ".dcm") else path  # 1.2.840 is a name without an extension
    tried += [bare + end for one in EXTENSIONS for end in (one, one.upper())]
    return next((one for one in tried if one != path and os.path.isfile(one)), None)


def _require_file(path: str) -> None:
    if os.path.isfile(path):
        return
    why, do = why_absent(path) or ("", "Check the path and the images root (?images=ROOT).")
    raise DataError.at(short(path), None, f"there is no such image file{', ' * bool(why)}{why}.", do)


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    """The image in `stream`, not decoded yet; whatever goes wrong inside the block is a DataError that begins with `name`."""
    head = _head(stream, name)
    if not head:
        raise DataError.at(name, None, "the image file is empty, it has no bytes.", "Replace the file, or leave the row out.")
    try:
        with Image.open(stream, formats=FORMATS) as image:
            _require_few_pixels(image)
            yield image
    except _TOO_LARGE as error:
        raise DataError.at(
            name, None, f"the image is too large ({error}).", f"Scale it below {MAX_PIXELS:,} pixels."
        ) from error
    except UnidentifiedImageError as error:
        raise _of_no_format(head, name) from error
    except _DAMAGED as error:
        what = f"the image cannot be decoded ({error or type(error).__name__})."
        raise DataError.at(name, None, what, _replace()) from error


def _head(stream: BinaryIO, name: str) -> bytes:
    try:
        head = stream.read(HEAD)
        stream.seek(0)
        return head
    except OSError as error:
        raise DataError.at(name, None, f"the image cannot be read ({error.strerror}).", "Check its disk.") from error


def _of_no_format(head: bytes, name: str) -> DataError:
    found = kind_of_file(head)
    what = "the image cannot be decoded (of no format that is read)"
    if found is None:
        return DataError.at(name, None, f"{what}.", _replace())
    return DataError.at(name, None, f"{what}: it is {found[0]}.", found[1])


def _replace() -> str:
    return f"Replace the file, or convert it to PNG (formats read: {', '.join(FORMATS)})."


def _require_few_pixels(image: Image.Image) -> None:
    """Errors: DecompressionBombError above MAX_PIXELS. Of a JPEG half the width and height are taken instead."""
    count = image.width * image.height
    if count > MAX_PIXELS and image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // 2, image.height // 2))
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _require_whole_png(stream: BinaryIO) -> None:
    """Errors: ValueError where a chunk of the picture is not as it was written, or the last is missing; Pillow skips both."""
    back = stream.tell()
    stream.seek(len(_PNG))
    kind = b""
    while kind != b"IEND":
        header = stream.read(8)
        if len(header) < 8:
            raise ValueError("the PNG ends before its last chunk: the file was cut short")
        length, kind = struct.unpack(">I4s", header)
        check = zlib.crc32(kind)
        while length and (piece := stream.read(min(length, _PIECE))):
            check, length = zlib.crc32(piece, check), length - len(piece)
        written = stream.read(4)
        if length or len(written) < 4:
            raise ValueError("the PNG ends in the middle of a chunk: the file was cut short")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS") and written != check.to_bytes(4, "big"):
            raise ValueError(f"the checksum of a chunk {kind.decode()} of the PNG is wrong: the file was damaged")
    stream.seek(back)


def _require_no_padding(stream: BinaryIO, kind: str) -> None:
    """Errors: ValueError where zeros stand in place of the end, as in a file that was downloaded in part."""
    back = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _PIECE))
    tail = stream.read()
    stream.seek(back)
    told = tail.rstrip(b"\0")
    ended = kind in ("JPEG", "MPO") and told.endswith(b"\xff\xd9")
    if len(tail) - len(told) >= _PADDED and not ended:
        raise ValueError(f"its last {len(tail) - len(told):,} bytes are zeros: the file is not whole")


def _rgb(image: Image.Image) -> Image.Image:
    """`image` decoded, upright, RGB. Errors: as of Pillow, and ValueError where nothing could be seen."""
    about = _about(image)
    image.load()
    _require_seen(image, about)
    upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep(upright, about, image.info.get("transparency"))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(upright, lab, srgb, outputMode="RGB") or upright
    return _over_white(upright) if upright.has_transparency_data else upright.convert("RGB")


def _about(image: Image.Image) -> dict[str, Any]:
    """What the header says and Pillow does not heed: `bits` a channel, whether 0 is `white`, whether numbers are `unsigned`."""
    if image.format == "PNG":
        tiles: Any = getattr(image, "tile", ())
        return {"bits": 16 if any(str(tile[3]).endswith("16B") for tile in tiles) else 8}
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    unsigned = image.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    return {"bits": max(tags.get(_BITS, (8,))), "white": tags.get(_PHOTOMETRIC) == 0, "unsigned": unsigned and bool(tags)}


def _require_seen(image: Image.Image, about: dict[str, Any]) -> None:
    """Errors: ValueError where 16 bits hold colours of fewer: of each Pillow keeps the upper 8, so that the image is black."""
    if about["bits"] < 16 or image.mode not in ("RGB", "RGBA", "LA"):
        return
    colours = image.convert("L") if image.mode == "LA" else image.convert("RGB")
    brightest = max(int(np.asarray(colours).max()), 0)
    if brightest < 256 // _FADED:
        raise ValueError("its channels of 16 bits hold 12 bits or fewer, which would show as black: scale them up")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _deep(image: Image.Image, about: dict[str, Any], transparent: Any) -> Image.Image:
    """Grey of more than 8 bits as RGB; what is `transparent`, a value, is white."""
    values = np.asarray(image)
    if about.get("unsigned"):
        values = values.astype(np.int32).view(np.uint32)
    shown = eight_bits(values)
    if about.get("white"):
        shown = 255 - shown
    if isinstance(transparent, int):
        shown = np.where(values == transparent, np.uint8(255), shown)
    return Image.fromarray(shown).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """`image` laid over white; where all of it is transparent, its colours, as a page of white says nothing."""
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    colours = rgba.convert("RGB")
    if rgba.getchannel("A").getextrema() == (0, 0) and colours.getcolors(1) is None:
        return colours
    page = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(page, rgba).convert("RGB")
