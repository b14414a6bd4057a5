"""Images opened and decoded, by as many processes as there are cores; this module loads nothing heavy, as each of them does.

An image is asked for as soon as its row is read, and looked at when the row is checked.
"""

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import PIL

from osler import __version__
from osler.checking.seen import Known, Said, key_of
from osler.datasets.problems import problem_at
from osler.drawing.canvas import SIZE_PX
from osler.drawing.phantoms import phantom_case
from osler.errors import DataError
from osler.images import MADE, MOST_ELONGATED, PHANTOM, open_image, underlying

FEW = 48
"""Up to this many images are decoded in this process: to start others would take longer."""

FORMAT = 2
"""Changed when an image is opened otherwise, so that what earlier checks found of it does not count."""

Found = tuple[int, int] | Said
"""Width and height in pixels; or what is wrong with an image, and what to do about it."""

_ENDED = (
    "a process that decodes images was ended from outside, for want of memory or as the script that started it does not keep "
    'what it runs below if __name__ == "__main__". Make room, or put it there, and start again: what was found is kept.'
)


def picture(reference: str) -> Found:
    """What is found when the image of `reference` is decoded; a drawn one is not drawn for that."""
    try:
        if (inner := underlying(reference)).startswith(PHANTOM):
            phantom_case(inner)
            return SIZE_PX, SIZE_PX
        width, height = open_image(reference).size
    except (DataError, ValueError) as error:  # the latter for a path that no file can have
        return _said(str(error))
    if max(width, height) > MOST_ELONGATED * min(width, height):
        return _said(f"{reference} is {width} by {height} pixels, too narrow for the processor. Crop it.")
    return width, height


def _said(text: str) -> Said:
    problem = problem_at(None, text)
    return problem.what, problem.fix


def stamp(reference: str) -> tuple[str, int, int]:
    """What tells whether the file of `reference` is still the one that was checked: its absolute path, size and time.

    A drawn image is its name; a file that is not there has no size.
    """
    try:
        inner = underlying(reference) if reference.startswith(MADE) else reference
        if inner.startswith(PHANTOM):
            return reference, 0, 0
        found = os.stat(inner)
        return reference.removesuffix(inner) + os.path.abspath(inner), found.st_size, found.st_mtime_ns
    except (OSError, ValueError, DataError):  # ValueError: a path that no file can have
        return reference, -1, 0


class Pictures:
    """Images that are asked for now and found later, each once as long as `known` has it or somebody waits for it."""

    def __init__(self, known: Known) -> None:
        self._known, self._asked = known, 0
        self._waiting: dict[bytes, Found | Future[Found]] = {}
        self._pool: ProcessPoolExecutor | None = None

    def ask(self, reference: str) -> bytes:
        """Begin to decode `reference`, unless that is known; the key to find it by."""
        key = key_of(__version__, PIL.__version__, FORMAT, *stamp(reference))
        if key not in self._waiting and self._known.image(key) is None:
            drawn = PHANTOM in reference
            self._asked += not drawn
            here = drawn or self._asked <= FEW
            self._waiting[key] = picture(reference) if here else self._submit(reference)
        return key

    def found(self, key: bytes) -> Found:
        """What was found of the image of `key`."""
        if key in self._waiting:
            one = self._waiting.pop(key)
            found = _result(one) if isinstance(one, Future) else one
            self._known.keep_image(key, found)
            return found
        known = self._known.image(key)
        if known is None:
            raise LookupError("an image was not asked for")
        return known

    def _submit(self, reference: str) -> Future[Found]:
        try:
            return self._processes.submit(picture, reference)
        except BrokenProcessPool as error:
            raise DataError(_ENDED) from error

    @property
    def _processes(self) -> ProcessPoolExecutor:
        """Started afresh: a fork of a process that has threads may hang."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
        return self._pool

    def close(self) -> None:
        """End the processes; what was not begun is not done."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def _result(one: Future[Found]) -> Found:
    try:
        return one.result()
    except BrokenProcessPool as error:
        raise DataError(_ENDED) from error


def sizes_of(found: Iterable[Found]) -> list[tuple[int, int]]:
    """The sizes of the sound images, in their order."""
    return [(one[0], one[1]) for one in found if isinstance(one[0], int) and isinstance(one[1], int)]


def said_of(found: Iterable[Found]) -> list[Said]:
    """What is wrong with the others, in their order, once each."""
    return list(dict.fromkeys((one[0], one[1]) for one in found if isinstance(one[0], str) and isinstance(one[1], str)))
