"""The pictures of a table: which file a cell means, and which files show one picture."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from osler.fingerprints import Fingerprint

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm", ".jp2"}
"""How files end that a cell may name without their ending."""

_MOST_NAMES = 5000
"""Among so many files of a folder the nearest name is looked for."""


class Pictures:
    """The image files below `root`; the folders that cells point into are read once."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._stems: dict[str, dict[str, list[str]]] = {}

    def path_of(self, cell: str) -> str | None:
        """The file that `cell` names, with its ending or, where only one file is called so, without; None for none."""
        path = os.path.join(self.root, cell)
        if os.path.isfile(path):
            return path
        folder, stem = os.path.split(path)
        alike = self._files_of(folder).get(stem, [])
        return os.path.join(folder, alike[0]) if len(alike) == 1 else None

    def nearest(self, cell: str) -> str:
        """A sentence with the file that is called most like `cell`; empty where none is."""
        folder, name = os.path.split(os.path.join(self.root, cell))
        names = [file for files in self._files_of(folder).values() for file in files]
        near = get_close_matches(name, names[:_MOST_NAMES], n=1)
        return f" Did you mean {os.path.join(os.path.dirname(cell), near[0])!r}?" if near else ""

    def _files_of(self, folder: str) -> dict[str, list[str]]:
        """By their names without ending the images in `folder`; none where there is no such folder."""
        if folder not in self._stems:
            found: defaultdict[str, list[str]] = defaultdict(list)
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in _SUFFIXES:
                    found[stem].append(name)
            self._stems[folder] = dict(found)
        return self._stems[folder]


def copies(labels_of: Mapping[str, object], prints: Mapping[str, Fingerprint]) -> tuple[set[str], set[str]]:
    """The paths that show the picture of an earlier path with the same labels, and all that show one with other labels.

    `labels_of` gives by path what is said of it, the paths to keep first at the front. Pictures are told by their pixels.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for path in labels_of:
        if path in prints:
            alike[prints[path].pixels].append(path)
    again, at_odds = set[str](), set[str]()
    for paths in alike.values():
        if _agree(labels_of[path] for path in paths):
            again.update(paths[1:])
        else:
            at_odds.update(paths)
    return again, at_odds


def _agree(said: Iterable[object]) -> bool:
    first, *others = said
    return all(one == first for one in others)
