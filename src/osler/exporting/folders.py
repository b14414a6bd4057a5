"""A folder that is there whole or not at all, and errors of the disk that say what to do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from osler.errors import RunError
from osler.memory import MB
from osler.runs import require_free


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, which becomes `out` when the block ends well, and is gone when it does not.

    Errors: RunError where `out` is taken, cannot be made, or the disk refuses what is written.
    """
    out = require_place(out).resolve()
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()  # it is empty; not every system renames over it
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{out} cannot be written ({_why(error)}). Make room, or name another folder with --out.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def require_place(out: str | Path) -> Path:
    """`out`, where a folder may be put. Errors: RunError where something is there, or it is the working directory.

    An empty folder is replaced, and whoever works in it would be left in one that is gone.
    """
    path = require_free(out)
    if path.resolve() == Path.cwd():
        raise RunError(f"{out} is the folder that you are in, and cannot be replaced. Name another folder with --out.")
    return path


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


def require_room(out: Path, size: int) -> None:
    """Errors: RunError where the disk that `out` will be on has less than `size` bytes free."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise RunError(
            f"{out} needs {size / MB:,.0f} MB, and {free / MB:,.0f} MB are free. Make room, or name another folder with --out."
        )
