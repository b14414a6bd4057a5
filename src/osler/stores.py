"""What osler keeps on disk between runs, by kind: how much it is, and how a kind is removed. `osler cache` shows and clears it.

    features    vision features of frozen towers (osler.model.feature_files)
    images      images that came inside a data file (osler.datasets.embedded); written again when the file is read again
    checked     what checks of rows and images found (osler.checking.seen)
    judge       scores that judges gave (osler.judging.cache): asked for again they cost again

Only files that osler made are counted or removed; features, which have towers to tell, are cleared by osler.caching.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from osler.checking.seen import checked_folder
from osler.config import FeatureSettings
from osler.datasets.embedded import images_folder
from osler.errors import ModelError
from osler.judging.cache import scores_folder
from osler.model.feature_files import MB, cache_folder, kept_in

KINDS = ("features", "images", "checked", "judge")
"""The kinds, by the names by which they are cleared."""

_TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "checked": ("checked.sqlite", ("rows", "images")),
    "judge": ("scores.sqlite", ("scores",)),
}
_BESIDE = ("", "-journal", "-wal", "-shm")
_SHELF = re.compile(r"[0-9a-f]{2}")
_IMAGE = re.compile(r"[0-9a-f]{64}\.[0-9a-z]+")
_PART = re.compile(r"[0-9a-f]{64}\.[0-9a-z]+\.[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class Store:
    """One kind: where it is kept, how many entries (None where they cannot be counted) and how many MB."""

    kind: str
    folder: str
    entries: int | None
    mb: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def stores(features: Path | None = None) -> list[Store]:
    """All kinds; vision features are those in the folder `features`, by default the user's. Errors: ModelError."""
    folder = features or cache_folder(FeatureSettings())
    kept = kept_in(folder)
    found = Store("features", str(folder), sum(one.images for one in kept), _mb(sum(one.size for one in kept)))
    return [found, *(store(kind) for kind in KINDS[1:])]


def store(kind: str) -> Store:
    """What is kept of `kind`, which is not features. Errors: ModelError where its folder cannot be looked into."""
    folder, files = _folder(kind), list(_files(kind))
    if kind == "images":
        return _images(folder, files)
    name, tables = _TABLES[kind]
    return Store(kind, str(folder), _rows(folder / name, tables), _size(files))


def clear_store(kind: str) -> Store:
    """What was removed of `kind`, which is not features; an image only where its bytes are those of its name.

    Errors: ModelError where its folder is a link, or the disk refuses.
    """
    folder = _folder(kind)
    if folder.is_symlink():
        raise ModelError(f"{folder} is a link, and nothing behind one is removed. Set OSLER_CACHE to the folder in which the "
                         f"real {folder.name} lies, or remove the link.")  # fmt: skip
    if kind != "images":
        found, files = store(kind), list(_files(kind))
    else:
        files = [file for file in _files(kind) if _is_ours(file)]
        found = _images(folder, files)
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(file, error) from error
    for shelf in {file.parent for file in files} if kind == "images" else ():
        if not any(shelf.iterdir()):
            shelf.rmdir()
    return found


def _folder(kind: str) -> Path:
    return {"images": images_folder, "checked": checked_folder, "judge": scores_folder}[kind]()


def _files(kind: str) -> Iterator[Path]:
    """The files of `kind` that osler made."""
    folder = _folder(kind)
    if kind == "images":
        inside = (file for shelf in _shelves(folder) for file in shelf.iterdir())
        yield from (file for file in inside if _is_named(file) and file.is_file() and not file.is_symlink())
        return
    files = (folder / f"{_TABLES[kind][0]}{end}" for end in _BESIDE)
    yield from (file for file in files if file.is_file())


def _is_named(file: Path) -> bool:
    """Whether `file` is called as an image that is kept, whole or in part, and stands on the shelf of its first two digits."""
    named = _IMAGE.fullmatch(file.name) or _PART.fullmatch(file.name)
    return bool(named) and file.name[:2] == file.parent.name


def _is_ours(file: Path) -> bool:
    """Whether `file`, so named, is the image of that hash, or a part of one. Errors: ModelError where it cannot be read."""
    if _PART.fullmatch(file.name):
        return True
    try:
        with file.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest() == file.name[:64]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(file, error) from error


def _refused(file: Path, error: OSError) -> ModelError:
    return ModelError(f"{file} cannot be removed ({error.strerror}). Check whose the folder is.")


def _images(folder: Path, files: Sequence[Path]) -> Store:
    return Store("images", str(folder), sum(bool(_IMAGE.fullmatch(file.name)) for file in files), _size(files))


def _shelves(folder: Path) -> list[Path]:
    """The folders in which images lie, by the first two digits of their names; no links to elsewhere."""
    try:
        inside = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{folder}: no images can be looked for there ({error.strerror}). Set OSLER_CACHE.") from error
    return [path for path in inside if _SHELF.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _rows(file: Path, tables: tuple[str, ...]) -> int | None:
    """How many rows the `tables` of `file` have; None where it is damaged."""
    if not file.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return sum(int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in tables)
    except sqlite3.Error:
        return None


def _size(files: Sequence[Path]) -> float:
    return _mb(sum(file.stat().st_size for file in files))


def _mb(size: int) -> float:
    return round(size / MB, 2)
