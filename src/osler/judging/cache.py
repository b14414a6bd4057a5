"""Scores that judges gave, on disk, so that none is paid for twice: OSLER_CACHE/judge/scores.sqlite.

A key stands for everything that the scores depend on, the kind of judge first: a server's and a chat model's are a `Reply`, a
causal model's `Odds`, and neither is read as the other. Only scores are kept, never failures.
Several processes may read and write at the same time.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from osler.errors import ModelError
from osler.judging.replies import Odds, Reply, read_odds, read_reply

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
        """The reply under `key`, None where there is none."""
        text = self._text(key)
        return None if text is None else read_reply(text)

    def find_odds(self, key: str) -> Odds | None:
        """The probabilities under `key`, None where there are none."""
        text = self._text(key)
        return None if text is None else read_odds(text)

    def keep(self, key: str, scores: Reply | Odds) -> None:
        """Keep `scores` under `key`."""
        self._execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", key, scores.model_dump_json())

    def _text(self, key: str) -> str | None:
        rows = self._execute("SELECT reply FROM scores WHERE key = ?", key) if self.file.exists() else []
        return rows[0][0] if rows else None

    def _execute(self, command: str, *values: str) -> list[tuple[str]]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=WAIT_S)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
                return connection.execute(command, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise ModelError(f"{self.file}: scores cannot be kept there ({error}). Set OSLER_CACHE to a folder "
                             "that can be written, or remove the file where it is damaged.") from error  # fmt: skip
