"""Scores that judges gave, on disk, so that none is paid for twice: OSLER_CACHE/judge/scores.sqlite.

A key stands for everything that the scores depend on (`osler.judging.client.Judge.key`). Only scores are kept, never failures.
Several processes may read and write at the same time.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from osler.errors import ModelError
from osler.judging.replies import Reply, read_reply

WAIT_S = 30.0
"""How long a process waits for another that writes."""


def scores_folder() -> Path:
    """Where scores are kept: OSLER_CACHE/judge, else ~/.cache/osler/judge."""
    chosen = os.environ.get("OSLER_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "osler") / "judge"


class ScoreCache:
    """The scores kept in `folder`; by default `scores_folder`. Errors: ModelError where the disk refuses."""

    def __init__(self, folder: Path | None = None) -> None:
        self.file = (folder or scores_folder()) / "scores.sqlite"

    def find(self, key: str) -> Reply | None:
        """The scores under `key`, None where there are none."""
        if not self.file.exists():
            return None
        rows = self._execute("SELECT reply FROM scores WHERE key = ?", key)
        return read_reply(rows[0][0]) if rows else None

    def keep(self, key: str, reply: Reply) -> None:
        """Keep `reply` under `key`."""
        self._execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", key, reply.model_dump_json())

    def _execute(self, command: str, *values: str) -> list[tuple[str]]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=WAIT_S)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
                return connection.execute(command, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise ModelError(f"{self.file}: scores cannot be kept there ({error}). Set OSLER_CACHE to a folder "
                             "that can be written, or remove the file where it is damaged.") from error  # fmt: skip
