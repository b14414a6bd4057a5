"""Images that come inside a data file, as bytes or base64: each is written once, and is a file like any other from then on.

    OSLER_CACHE/images/AB/ABCD....png     without OSLER_CACHE: ~/.cache/osler/images

A file is named by the SHA-256 of its bytes, which are those of the data file, unchanged. Size, format and number of pixels are
checked before anything is decoded.
"""

import base64
import binascii
import os
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from osler.errors import DataError
from osler.image_files import format_of

MAX_BYTES = 64 * 2**20
"""The largest image file that is taken out of a data file; ours. A whole mammogram of 16 bits is about 50 MB."""

_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")
_BLANKS = re.compile(r"\s+")


def images_folder() -> Path:
    """Where images out of data files are kept: OSLER_CACHE/images, else ~/.cache/osler/images; always absolute."""
    chosen = os.environ.get("OSLER_CACHE")
    return ((Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "osler") / "images").absolute()


def keep_base64(text: str, name: str = "its image") -> str:
    """The path at which the image is kept that `text` is in base64, bare or as a `data:image/...` address.

    Errors: DataError that begins with `name`: too long, no base64, no image.
    """
    found = _DATA_URI.match(text)
    coded = _BLANKS.sub("", text[found.end() :] if found else text)
    _require_small(len(coded) // 4 * 3 - coded.count("=", -2), name)
    try:
        content = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:  # the latter where it is not ASCII
        raise DataError(f"{name} is no base64 ({error}).") from error
    return keep_bytes(content, name)


def keep_bytes(content: bytes, name: str = "its image") -> str:
    """The path at which the image file whose bytes are `content` is kept. Errors: DataError that begins with `name`."""
    if not content:
        raise DataError(f"{name} is empty.")
    _require_small(len(content), name)
    digest, kind = sha256(content).hexdigest(), format_of(content, name)
    file = images_folder() / digest[:2] / f"{digest}.{_SUFFIXES.get(kind, kind.lower())}"
    if not file.exists():
        _write(file, content)
    return str(file)


def _require_small(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{name} has {size:,} bytes, above {MAX_BYTES:,}. Keep it as a file, and name its path.")


def _write(file: Path, content: bytes) -> None:
    """Write `content` to `file` whole or not at all, whoever else writes it at the same time. Errors: DataError."""
    part = file.with_name(f"{file.name}.{uuid4().hex[:8]}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(
            f"{file}: the image cannot be kept there ({error.strerror}). Set OSLER_CACHE to a folder that can be written."
        ) from error
