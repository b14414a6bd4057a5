"""Where something made from a data set may be written: outside the folder that is read for it."""

import os
from pathlib import Path

from osler.datasets.load import parse_spec
from osler.errors import RunError


def require_outside(spec: str, out: Path) -> None:
    """Errors: RunError where `out` is below the folder that `spec` reads, as it would be read as more of its rows next time."""
    path = parse_spec(spec).path
    if path is None:
        return
    roots = (Path(), Path(os.environ.get("OSLER_DATA") or ""))  # as load_data looks for it
    folder = next((root / path for root in roots if (root / path).exists()), None)
    if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        what = f"{out} is in the folder {folder} that {spec} reads: from then on it would be read as part of the data set."
        raise RunError(f"{what} Name a place outside that folder with --out.")
