"""Every error that osler raises on purpose, so that a caller can catch exactly as much as they mean to.

    OslerError              anything below; the command line prints it and exits with 2
    ├── DataError           a file, a row or an image of the user's data
    ├── RecipeError         a recipe, an override or a combination of settings
    ├── ModelError          a checkpoint, an adapter, a processor or an endpoint
    │   └── JudgeError      a judge that stays away, or is of no use, while a run trains on its scores
    └── RunError            a run folder, or a reward while it trains

A message says where (file and row), what is wrong, and what to do about it.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class OslerError(Exception):
    """Something that the user can put right; never a bug of osler."""


class DataError(OslerError):
    """A file, a row or an image of the user's data cannot be used."""

    @classmethod
    def at(cls, file: str | Path, row: int | None, what: str, do: str = "") -> "DataError":
        """An error that names `file` and `row` (counted from 1, as an editor shows lines)."""
        where = f"{file}" if row is None else f"{file}, row {row}"
        return cls(f"{where}: {what}" + (f" {do}" if do else ""))


class RecipeError(OslerError):
    """A recipe, an override or a combination of settings cannot be used."""


class ModelError(OslerError):
    """A checkpoint, an adapter, a processor or an endpoint cannot be used."""


class JudgeError(ModelError):
    """A judge gives no scores to train on; the run can be resumed."""


class RunError(OslerError):
    """A run folder is missing, taken, or not of the kind that was asked for."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """One sentence: `name` is no `kind`, the nearest known one, and the whole list."""
    names = sorted(map(str, known))
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {str(name)!r}.{hint} Known: {', '.join(names)}."
