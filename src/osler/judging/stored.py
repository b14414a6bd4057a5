"""Judges over the stored records of an evaluation, resumable: what is scored is never asked again.

judged.jsonl    one line a record, judge and repeat: its scores, why, or the reason that there are none
judge.json      the summary (osler.judging.summaries, osler.judging.parts)

Both are in the run, or in a folder of their own, which is of one evaluation alone: names of runs repeat (a/eval, b/eval).
"""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from osler.errors import RunError
from osler.judging.judges import Judging
from osler.judging.prompts import item_of
from osler.judging.replies import Judgement
from osler.progress import bar
from osler.runs import Run, read_json, write_whole
from osler.schema import Record
from osler.summary import read_records

FILE = "judged"
"""The name of the file of lines, without its ending."""

Asking = tuple[Judging, int]
"""A judge, and the number of the time that it is asked about the same records."""


def records_of(run: Run, rows: int | None) -> tuple[list[Record], int]:
    """At most `rows` records of `run`, in its order, and how many it has; fewer rows are always among more.

    Errors: RunError where it has none.
    """
    records = read_records(run)
    if not records:
        raise RunError(f"{run.path} has no records.jsonl, or an empty one. Evaluate first: osler eval --out {run.path}.")
    by_draw = sorted(range(len(records)), key=lambda place: sha256(records[place].sample.id.encode()).hexdigest())
    return [records[place] for place in sorted(by_draw[:rows])], len(records)


def judge_records(
    run: Run, records: Sequence[Record], askings: Sequence[Asking], folder: Path, max_seconds: float | None = None
) -> list[list[Judgement]]:
    """The judgement of each of `records`, for each of `askings`; every one is in `folder`/judged.jsonl as soon as it is made.

    `run` is the evaluation that they are of. Lines of the file that have scores, and are of the same texts asked in the same
    way, are taken as they are. `max_seconds` is for all askings together. To be called inside `alone`.
    Errors: ModelError before the first record is sent; RunError where the file is damaged.
    """
    ends = None if max_seconds is None else time.monotonic() + max_seconds
    lines = Lines(folder, None if _is_own(run, folder) else path_of(run))
    rows = [_Rows(run.name, records, judge, repeat, lines) for judge, repeat in askings]
    for row in rows:
        row.check()
    for row in rows:
        row.ask(None if ends is None else max(0.0, ends - time.monotonic()))
    lines.sort(place for together in zip(*(row.places for row in rows), strict=True) for place in together)
    return [[lines.of[place][1] for place in row.places] for row in rows]


def _made_folder(folder: Path) -> None:
    """Make `folder`, where it is not there. Errors: RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made ({error.strerror}). Name another folder with --out.") from error


def path_of(run: Run) -> str:
    """The folder of `run`, by which it is told from others of its name."""
    return str(run.path.resolve())


def require_own(run: Run, folder: Path) -> None:
    """Nothing, where `folder` is that of `run`, or what is in it was said of `run`. Errors: RunError."""
    if _is_own(run, folder):
        return
    if (folder / "manifest.json").exists():
        raise RunError(f"{folder} is another run, whose own judged.jsonl belongs there. Name another folder with --out.")
    of = set(map(_said_of, Run(folder, {}).rows(FILE)))
    if (folder / "judge.json").is_file():
        summary = read_json(folder / "judge.json")
        of.add(_said_of({"path": str(Path(str(summary.get("run"))).resolve()), **summary}))
    if others := of - {run.name, path_of(run)}:
        raise RunError(f"{folder} holds what was said of another evaluation, {min(others)}. Name a folder of its own for "
                       f"{run.path} with --out.")  # fmt: skip


def _said_of(line: Mapping[str, Any]) -> str:
    """The folder of the run that `line` is of, or the name alone in a line of an older version."""
    return str(line.get("path") or line.get("run"))


def _is_own(run: Run, folder: Path) -> bool:
    return folder.resolve() == run.path.resolve()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing judged.jsonl and judge.json in `folder` inside the block, which is made.

    Errors: RunError where another does, or it cannot be made.
    """
    _made_folder(folder)
    with (folder / f"{FILE}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"another osler judge writes to {folder}. Wait for it, or name another folder with --out."
            ) from error
        yield


Place = tuple[str, str, str, int]
"""What a line is about: the run, the record's id, the judge, the repeat."""


class Lines:
    """The lines of judged.jsonl in `folder`: of each place its key and its judgement, the last one where there are several.

    All name the `path` of the run that they are of, if it is not `folder`.
    """

    def __init__(self, folder: Path, path: str | None) -> None:
        self._of_run = {"path": path} if path else {}
        self.of: dict[Place, tuple[str, Judgement]] = {}
        self._run = Run(folder, {})
        for number, line in enumerate(self._run.rows(FILE), 1):
            try:
                self._read(dict(line))
            except (KeyError, TypeError, ValueError) as error:
                where = f"{self._run.path / FILE}.jsonl, line {number}"
                raise RunError(f"{where} is no judgement ({error}). Remove the line, or the file.") from error
        self._run.trim(FILE)

    def lacks(self, place: Place, key: str) -> bool:
        """Whether there are no scores for `place` under `key`."""
        found = self.of.get(place)
        return found is None or found[0] != key or found[1].unscored is not None

    def add(self, place: Place, key: str, judgement: Judgement) -> None:
        """Append a line."""
        self.of[place] = (key, judgement)
        self._run.append(FILE, self._line(place))

    def sort(self, order: Iterable[Place]) -> None:
        """Rewrite the file: one line a place, in `order`, then what other commands left there."""
        places = dict.fromkeys([*order, *self.of])
        lines = (json.dumps(self._line(place), ensure_ascii=False) + "\n" for place in places)
        write_whole(self._run.path / f"{FILE}.jsonl", "".join(lines))

    def _read(self, line: dict[str, Any]) -> None:
        line.pop("path", None)
        place = (str(line.pop("run")), str(line.pop("id")), str(line.pop("judge")), int(line.pop("repeat")))
        self.of[place] = (str(line.pop("key")), Judgement(**line))

    def _line(self, place: Place) -> dict[str, Any]:
        key, judgement = self.of[place]
        about = dict(zip(("run", "id", "judge", "repeat"), place, strict=True))
        return {**about, **self._of_run, **judgement.to_json(), "key": key}


class _Rows:
    """One asking of all records: their places, keys and items."""

    def __init__(self, run: str, records: Sequence[Record], judge: Judging, repeat: int, lines: Lines) -> None:
        self._judge, self._repeat, self._lines = judge, repeat, lines
        items = [item_of(record) for record in records]
        self._asked = [(item, judge.key(item, repeat)) for item in items]
        self.places: list[Place] = [(run, record.sample.id, judge.name, repeat) for record in records]
        together = list(zip(self.places, self._asked, strict=True))
        self._waiting = [(place, key, item) for place, (item, key) in together if lines.lacks(place, key)]

    def check(self) -> None:
        """Check the judge where it will be asked. Errors: ModelError."""
        if any(self._judge.kept(item, key) is None for _, key, item in self._waiting):
            self._judge.check()

    def ask(self, max_seconds: float | None) -> None:
        """Add a line for all that have no scores yet."""
        items = [item for _, _, item in self._waiting]
        with bar(f"{self._judge.name}, time {self._repeat + 1}", len(items)) as tick:
            for number, judgement in self._judge.as_scored(items, max_seconds, self._repeat):
                place, key, _ = self._waiting[number]
                self._lines.add(place, key, judgement)
                tick("")
