"""What a check has seen: in this run, so that memory stays flat however many rows there are; and in earlier ones.

    OSLER_CACHE/checked/checked.sqlite     without OSLER_CACHE: ~/.cache/osler/checked
        rows      what is wrong with a row, by the hash of its text, its images' files, the processor and the version
        images    the size of an image, or what is wrong with it, by the hash of its path, its file's size and its time

Both are in SQLite. Where the folder cannot be written, what is known is forgotten at the end, and that is said.
"""

import json
import os
import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from osler.progress import console

WAIT_S = 30.0
"""How long a process waits for another that writes."""

Said = tuple[str, str]
"""What is wrong, and what to do about it."""


def checked_folder() -> Path:
    """Where it is kept what was checked: OSLER_CACHE/checked, else ~/.cache/osler/checked."""
    chosen = os.environ.get("OSLER_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "osler") / "checked"


def key_of(*parts: object) -> bytes:
    """A hash of `parts`, which JSON can hold."""
    return blake2b(json.dumps(parts, ensure_ascii=True).encode(), digest_size=16).digest()


class Seen:
    """The ids and images of one run, in a file that is gone with it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE ids (key BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._db.execute("CREATE TABLE images (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def earlier(self, name: str, place: str) -> str | None:
        """The place of the row that had the id `name` before; None for the first one, which is at `place`."""
        key = key_of(name)
        if self._db.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, place)).rowcount:
            return None
        return str(self._db.execute("SELECT place FROM ids WHERE key = ?", (key,)).fetchone()[0])

    def is_new(self, image: str) -> bool:
        """Whether the image `image` was not shown before."""
        return bool(self._db.execute("INSERT OR IGNORE INTO images VALUES (?)", (key_of(image),)).rowcount)

    def close(self) -> None:
        """Forget it all."""
        self._db.close()


class Known:
    """What earlier checks found, and what this one finds, by key; `folder` is `checked_folder` unless it is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.file = (folder or checked_folder()) / "checked.sqlite"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._db = _opened(str(self.file))
        except (OSError, sqlite3.Error) as error:
            said = f"{self.file}: what is checked cannot be kept there ({error}); the next check starts anew. Set OSLER_CACHE."
            console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
            self._db = _opened("")

    def row(self, key: bytes) -> list[Said] | None:
        """What is wrong with the row of `key`, nothing where that is empty; None where it was never checked."""
        found = self._text("rows", key)
        return None if found is None else [(what, fix) for what, fix in json.loads(found)]

    def image(self, key: bytes) -> tuple[int, int] | Said | None:
        """Width and height of the image of `key`, or what is wrong with it; None where it was never opened."""
        found = self._text("images", key)
        if found is None:
            return None
        first, second = json.loads(found)
        return (first, second)

    def keep_row(self, key: bytes, said: Sequence[Said]) -> None:
        """Keep what is wrong with the row of `key`."""
        self._db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (key, json.dumps(said)))

    def keep_image(self, key: bytes, found: tuple[int, int] | Said) -> None:
        """Keep the size of the image of `key`, or what is wrong with it."""
        self._db.execute("INSERT OR REPLACE INTO images VALUES (?, ?)", (key, json.dumps(found)))

    def save(self) -> None:
        """Write down what was found since the last time."""
        self._db.commit()

    def close(self) -> None:
        """Save, and let go of the file."""
        self._db.commit()
        self._db.close()

    def _text(self, table: str, key: bytes) -> str | None:
        found = self._db.execute(f"SELECT found FROM {table} WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])


def _opened(name: str) -> sqlite3.Connection:
    """The tables in the file `name`, made where they are not there. Errors: sqlite3.Error, OSError."""
    db = sqlite3.connect(name, timeout=WAIT_S)
    for table in ("rows", "images"):
        db.execute(f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, found TEXT NOT NULL) WITHOUT ROWID")
    db.commit()
    return db
