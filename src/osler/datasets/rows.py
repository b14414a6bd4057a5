"""What an adapter needs while it reads a row: where the row stands, for errors, and its image below a folder."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from osler.datasets.problems import names_row, refuse
from osler.errors import DataError
from osler.image_files import short, why_absent


def image_below(root: str | Path, image: str) -> str:
    """The path of `image` below `root`. Errors: DataError where there is no such file, or `root` is itself a file."""
    path = os.path.join(root, image)
    if not os.path.isfile(path):
        if os.path.isfile(root) and not os.path.isabs(image):
            do = "Name the folder that its path starts from: ?images=ROOT."
            raise DataError(f"there is no image {short(image)} below {root}, which is a file and no folder. {do}")
        why, do = why_absent(path) or ("", "Name the folder that its path starts from: ?images=ROOT.")
        raise DataError(f"there is no image {short(path)}{', ' * bool(why)}{why}. {do}")
    return path


@contextmanager
def at_row(file: Path, number: int) -> Iterator[None]:
    """Whatever is found wrong with a row inside the block becomes a DataError that names `file` and row `number`, from 1.

    Yield its sample inside as well: where problems are collected (osler.datasets.problems) the block just ends there.
    """
    with at_place(f"{file}, row {number}"):
        yield


@contextmanager
def at_place(where: str) -> Iterator[None]:
    """Whatever is found wrong inside the block becomes a DataError that begins with `where`, a file or (as `at_row`) a row."""
    try:
        yield
    except (DataError, ValidationError) as error:
        if not names_row(where):
            raise DataError(f"{where}: {in_words(error)}") from error
        refuse(where, in_words(error), error)


def in_words(error: DataError | ValidationError) -> str:
    """What `error` says is wrong; the first thing where pydantic found several."""
    if isinstance(error, DataError):
        return str(error)
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"it is no JSON object: {first['msg']}."
    field = f"the field {first['loc'][0]!r}"
    if isinstance(first["input"], float) and not math.isfinite(first["input"]):
        return f"{field}: it is NaN or infinite, and no value. Write one, or leave the row out."
    return f"{field} is missing." if first["type"] == "missing" else f"{field}: {first['msg']}."
