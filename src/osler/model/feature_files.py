"""The files of cached vision features: where they lie, what of a folder is the cache's, how they are written and removed.

    FOLDER/VISION/about.json             what the features were made with
    FOLDER/VISION/IMAGE.safetensors      one image (osler.model.features)
    FOLDER/VISION/*.part                 a file that is being written, or was when its process died

VISION is 24 hexadecimal digits and IMAGE 64. Whatever else lies below FOLDER is somebody's: it is neither counted nor removed.
Loads no torch.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from osler.config import FeatureSettings
from osler.errors import ModelError

MB = 1 << 20

SHARE = 50
"""The size of the folder is measured anew after a process has written this part of the limit itself, as others write too."""

_VISION = re.compile(r"[0-9a-f]{24}")
_IMAGE = re.compile(r"[0-9a-f]{64}\.safetensors")
_PART = re.compile(r"([0-9a-f]{64}\.safetensors|about\.json)\.[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class Kept:
    """What is kept of one vision tower: its folder, what about.json says ({} where it is damaged), images and bytes."""

    folder: Path
    about: dict[str, Any]
    images: int
    size: int


@dataclass(frozen=True)
class Cleared:
    """What was removed, images and bytes; and what was not, as it holds something that the cache did not make."""

    images: int
    size: int
    left: list[Path]


class Room:
    """Bytes that may still be written below `folder`: `limit`, less what everybody has written there.

    Processes that write at the same time can each overshoot the limit by one part in `SHARE`.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.full = False
        self._granted = 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` more bytes, which then count as written. Once full it stays so. Errors: OSError."""
        if not self.full and size > self._granted:
            free = self.limit - used_bytes(self.folder)
            self.full = size > free
            self._granted = min(free, max(size, self.limit // SHARE))
        if self.full:
            return False
        self._granted -= size
        return True


def cache_folder(settings: FeatureSettings) -> Path:
    """Where features are kept: features.folder, else OSLER_CACHE, else ~/.cache/osler/features."""
    chosen = settings.folder or os.environ.get("OSLER_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "osler" / "features"


def kept_in(folder: Path) -> list[Kept]:
    """What is kept of each vision tower. Errors: ModelError where `folder` cannot be looked into."""
    found = []
    for path in _looked_into(folder):
        files = list(_own_files(path))
        images = sum(_is_image(file) for file in files)
        found.append(Kept(path, read_about(path), images, sum(map(_size, files))))
    return found


def used_bytes(folder: Path) -> int:
    """The size of what the cache keeps below `folder`; 0 where there is no such folder. Errors: OSError."""
    return sum(_size(file) for path in _vision_folders(folder) for file in _own_files(path))


def clear(folder: Path) -> Cleared:
    """Remove all that the cache keeps below `folder`, and nothing else. Errors: ModelError where the disk refuses.

    about.json goes last, so that a folder that was cleared by half is known as the cache's the next time.
    """
    images = size = 0
    left = []
    for path in _looked_into(folder):
        for file in sorted(_own_files(path), key=lambda file: file.name == "about.json"):
            freed = _size(file)
            try:
                Path(file).unlink(missing_ok=True)
            except OSError as error:
                raise ModelError(f"{file.path} cannot be removed ({error.strerror}). Check whose the folder is.") from error
            images += _is_image(file)
            size += freed
        try:
            path.rmdir()
        except OSError:  # something that is not ours, or a process that writes to it now
            left.append(path)
    return Cleared(images, size, left)


def write_whole(file: Path, content: bytes) -> None:
    """Write `content` to `file` whole or not at all, whoever else writes it at the same time. Errors: OSError."""
    part = file.with_name(f"{file.name}.{uuid4().hex[:8]}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def read_about(folder: Path) -> dict[str, Any]:
    """What about.json of `folder` says; {} where it is absent or damaged."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _looked_into(folder: Path) -> list[Path]:
    try:
        return _vision_folders(folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: no features can be looked for there ({error.strerror}). Name the cache's folder."
        ) from error


def _vision_folders(folder: Path) -> list[Path]:
    """The folders below `folder` that the cache made: so named, with an about.json, and no links to elsewhere."""
    try:
        entries = [entry for entry in os.scandir(folder) if _VISION.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    own = (entry for entry in entries if entry.is_dir(follow_symlinks=False))
    return sorted(path for path in map(Path, own) if os.path.isfile(path / "about.json"))


def _own_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:  # cleared by another process meanwhile
        for entry in entries:
            if entry.name == "about.json" or _IMAGE.fullmatch(entry.name) or _PART.fullmatch(entry.name):
                yield entry


def _is_image(file: os.DirEntry[str]) -> bool:
    return file.name.endswith(".safetensors")


def _size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_size
    except OSError:  # removed meanwhile
        return 0
