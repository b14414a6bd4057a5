"""Prepared images as files: named by their pixels, equal ones once, written whole or not at all.

    DIR/images/AB/ABCD....png      ABCD... is the SHA-256 of size and pixels, as in osler.fingerprints

A file is a PNG of the pixels alone, with no EXIF, text or colour profile; of grey pixels a grey one, which is read as the same
RGB. So the bytes of a file, by which vision features are known again, say nothing of where it lies or what it was called.
"""

import os
import re
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osler.errors import DataError
from osler.images import PHANTOM, open_image, underlying
from osler.model.feature_files import write_whole
from osler.preparing.budget import Budget

IMAGES = "images"
"""The folder of the images, below that of the rows."""

COMPRESSION = 1
"""PNG's: a fifth larger files than Pillow's own 6 on images of this field, in a fifth of the time."""

_PART = re.compile(r"[0-9a-f]{64}\.png\.[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class Picture:
    """One prepared image: its `file` below the folder with the file's hash and size, and what it was made of.

    `original` is the reference with an absolute path; its hash is that of the file, None where the image is drawn, or made
    from another. Sizes are (width, height).
    """

    file: str
    sha256: str
    size: tuple[int, int]
    original: str
    original_sha256: str | None
    original_size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "size": list(self.size), "original_size": list(self.original_size)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Picture":
        """The inverse of `to_json`. Errors: KeyError, TypeError, ValueError where `value` is none."""
        (width, height), (of_width, of_height) = value["size"], value["original_size"]
        return cls(**{**value, "size": (int(width), int(height)), "original_size": (int(of_width), int(of_height))})

    def stands_for(self, reference: str, folder: Path) -> bool:
        """Whether this is what would be made of `reference` again: neither its file nor the prepared one has changed.

        What is drawn or made may come out otherwise in another version of osler, and is always made again.
        """
        file = folder / self.file
        if self.original_sha256 is None or not (os.path.isfile(reference) and file.is_file()):
            return False
        return _hash_of(reference) == self.original_sha256 and _hash_of(file) == self.sha256


def original_of(reference: str) -> str:
    """`reference` with the absolute path of the file that it is, or is made from."""
    inner = underlying(reference)
    return reference if inner.startswith(PHANTOM) else reference.removesuffix(inner) + os.path.abspath(inner)


def made(reference: str, budget: Budget, folder: Path) -> tuple[Picture, bool]:
    """The image of `reference` as a file below `folder`, and whether that had to be written.

    Errors: DataError where it cannot be opened, is too narrow, or cannot be written.
    """
    is_file = underlying(reference) == reference and not reference.startswith(PHANTOM)
    original = _hash_of(reference) if is_file and os.path.isfile(reference) else None
    image = open_image(reference)
    try:
        scaled = budget.scaled(image)
    except DataError as error:
        raise DataError(f"{reference}: {error}") from error
    name = pixel_hash(scaled)
    file = f"{IMAGES}/{name[:2]}/{name}.png"
    written = not _shows(folder / file, name)
    if written:
        _write(folder / file, _png(scaled))
    return Picture(file, _hash_of(folder / file), scaled.size, original_of(reference), original, image.size), written


def pixel_hash(image: Image.Image) -> str:
    """The SHA-256 of the size and the RGB pixels of `image`, in hexadecimal."""
    digest = sha256(f"{image.width} x {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what a process that was killed left half-written below `folder`, and nothing else."""
    for part in (folder / IMAGES).glob("??/*.part"):
        if _PART.fullmatch(part.name):
            part.unlink(missing_ok=True)


def _png(image: Image.Image) -> bytes:
    pixels, stream = np.asarray(image), BytesIO()
    grey = bool((pixels == pixels[..., :1]).all())
    Image.fromarray(pixels[..., 0] if grey else pixels).save(stream, "PNG", compress_level=COMPRESSION)
    return stream.getvalue()


def _shows(file: Path, name: str) -> bool:
    """Whether the image in `file` has the pixels that it is named by; False where it is absent or damaged."""
    try:
        return file.is_file() and pixel_hash(open_image(str(file))) == name
    except DataError:
        return False


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        what, do = f"the image cannot be written ({error.strerror}).", "Make room, or name another folder."
        raise DataError.at(file, None, what, do) from error


def _hash_of(path: str | Path) -> str:
    try:
        with open(path, "rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError.at(path, None, f"the image cannot be read ({error.strerror}).", "Check its rights.") from error
