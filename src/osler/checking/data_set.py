"""A data set looked through before any GPU is: every row and every image, and all that is wrong, not only the first.

Rows are streamed: what is kept of each is a byte, and its id on disk. Images are decoded by other processes while the prompts
of earlier rows are cut into tokens here.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osler.checking.counts import Counts
from osler.checking.pictures import Pictures, stamp
from osler.checking.repeats import Repeats
from osler.checking.rows import Asking, row_problems, text_of
from osler.checking.seen import Known, Said, Seen, key_of
from osler.checking.tally import Kind, Tally
from osler.datasets import keeping
from osler.datasets.load import DataSpec, parse_spec, read_rows
from osler.datasets.problems import Problem, collecting, problem_at, problem_of
from osler.errors import DataError
from osler.progress import bar
from osler.schema import Sample

AHEAD = 256
"""Rows whose images are being decoded while earlier rows are looked at."""

SAVE_EVERY = 1024

_AGAIN = "Ids must differ: give each row one of its own."


@dataclass(frozen=True)
class Examined:
    """A row that was looked through, what is wrong with it, and whether that was known from an earlier check."""

    sample: Sample
    said: list[Said]
    known: bool


@dataclass(frozen=True)
class Checked:
    """`numbers` as `osler data check --json` prints them, the `kinds` of problems, and for each row whether it is `sound`.

    The rows are those of `osler.datasets.load.read_rows` that can be read and were asked for, in their order.
    """

    numbers: dict[str, Any]
    kinds: list[Kind]
    sound: bytes

    @property
    def n_problems(self) -> int:
        """How many problems there are; they may be more than are listed."""
        return int(self.numbers["n_problems"])


def examined(samples: Iterable[Sample], asking: Asking, known: Known) -> Iterator[Examined]:
    """`samples` in their order, looked through one after another; `known` is asked first, and told."""
    about, waiting = key_of(*asking.key).hex(), deque[tuple[Sample, bytes, list[Said] | None, list[bytes]]]()
    pictures, done = Pictures(known), 0
    try:
        for sample in samples:
            key = key_of(about, text_of(sample), [stamp(image) for image in sample.images])
            said = known.row(key)
            waiting.append((sample, key, said, [] if said is not None else list(map(pictures.ask, sample.images))))
            if len(waiting) > AHEAD:
                yield _ended(*waiting.popleft(), pictures, asking, known)
                done += 1
            if done % SAVE_EVERY == SAVE_EVERY - 1:
                known.save()
        while waiting:
            yield _ended(*waiting.popleft(), pictures, asking, known)
    finally:
        pictures.close()
        known.save()


def _ended(
    sample: Sample, key: bytes, said: list[Said] | None, images: list[bytes], pictures: Pictures, asking: Asking, known: Known
) -> Examined:
    if said is not None:
        return Examined(sample, said, True)
    found = row_problems(sample, list(map(pictures.found, images)), asking)
    known.keep_row(key, found)
    return Examined(sample, found, False)


def check_data(spec: str | Mapping[str, Any] | DataSpec, asking: Asking, split: str | None = None) -> Checked:
    """All that is wrong with the rows of `spec`, or with those of `split`; `limit` is not heeded, as any row may be drawn.

    Errors: DataError for a spec that stands for nothing.
    """
    asked_for = spec if isinstance(spec, DataSpec) else parse_spec(spec)
    counts, tally, seen, known, repeats = Counts(), Tally(), Seen(), Known(), Repeats()
    sound, images, n_known = bytearray(), 0, 0
    try:
        with collecting(tally.unread), bar("Check rows", None) as tick:
            for one in examined(rows_of(asked_for, split, tally), asking, known):
                sample, place = one.sample, _place(one.sample)
                counts.add(sample)
                repeats.add(sample, place)
                images += sum(map(seen.is_new, sample.images))
                n_known += one.known
                earlier = seen.earlier(sample.id, place)
                for what, fix in one.said:
                    tally.add(problem_at(place, what, fix))
                if earlier is not None:
                    tally.add(problem_at(place, f"the id {sample.id!r} is taken by {earlier}.", _AGAIN))
                sound.append(not one.said and earlier is None)
                tick("")
    finally:
        seen.close()
        repeats.close()
        known.close()
    _split_of_some(counts, tally)
    listed = [problem.to_json() for problem in tally.listed]
    further = {
        "n_problems": tally.n,
        "n_unreadable": tally.unreadable,
        "n_sound": sum(sound),
        "n_known": n_known,
        "problem_kinds": [kind.to_json() for kind in tally.kinds],
        "model": asking.target.name,
        "prompt_budget": asking.target.budget,
        **repeats.to_json(),
    }
    if asked_for.limit is not None:
        further["limit_heeded"] = False
    return Checked(counts.to_json(counts.n + tally.unreadable, images, listed) | further, tally.kinds, bytes(sound))


def rows_of(spec: DataSpec, split: str | None, tally: Tally) -> Iterator[Sample]:
    """The rows of `spec` that can be read, its `where` and `split` heeded; what ends the reading is told to `tally`.

    Errors: DataError before the first row for a spec that stands for nothing.
    """
    wanted = keeping.wanted_values(spec.where or {})
    rows = iter(read_rows(spec))
    while True:
        try:
            sample = next(rows, None)
        except (DataError, OSError) as error:
            tally.unread(_stopped(error))
            return
        if sample is None:
            return
        if split in (None, sample.split) and all(str(getattr(sample, key)) in wanted[key] for key in wanted):
            yield sample


def write_clean(
    spec: str | Mapping[str, Any] | DataSpec, checked: Checked, file: Path, split: str | None = None
) -> dict[str, int]:
    """How many rows of `spec` were written to the manifest `file`, those that `checked` found sound; and how many sound ones
    no manifest can hold, as they offer an option twice.

    Errors: DataError where `file` is there already, or cannot be written.
    """
    from osler.datasets.manifests import distinct_options, write_manifest
    from osler.datasets.samples import Samples

    if file.exists():
        raise DataError(f"{file} is there already, and nothing is written over. Name a new file.")
    asked_for = spec if isinstance(spec, DataSpec) else parse_spec(spec)
    with collecting(lambda _: None):
        rows = zip(rows_of(asked_for, split, Tally()), checked.sound, strict=True)
        sound = Samples.of(_renamed(sample) for sample, is_sound in rows if is_sound)
    told, twice = distinct_options(sound)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(told, file)
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror}). Name another file.") from error
    return {"written": len(told), "options_twice": len(twice)}


def _renamed(sample: Sample) -> Sample:
    """`sample`, to be read back as it is: what its `extra` has under a name of the manifest's is called NAME_as_published."""
    from osler.datasets.jsonl import FIELDS

    extra = {f"{name}_as_published" if name in FIELDS else name: value for name, value in sample.extra.items()}
    return replace(sample, extra=extra) if extra.keys() != sample.extra.keys() else sample


def _place(sample: Sample) -> str:
    return sample.origin or f"sample {sample.id!r}"


def _stopped(error: DataError | OSError) -> Problem:
    """What ended the reading of a data set, as a problem."""
    found = (
        problem_of(error) if isinstance(error, DataError) else problem_at(str(error.filename), f"it cannot be read ({error}).")
    )
    return Problem(found.file, found.row, f"{found.what} Nothing behind it was read.", found.fix)


def _split_of_some(counts: Counts, tally: Tally) -> None:
    """Tell of rows without a split in a data set where others have one: they would never be used."""
    there = counts.by("split")
    if "none" in there and len(there) > 1:
        what = f"{there['none']:,} rows have no split, but {counts.n - there['none']:,} others have one."
        tally.add(Problem(None, None, what, "Give every row a split, or none."))
