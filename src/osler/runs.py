"""A run folder: the only place that knows the files of one.

    RUN/manifest.json    what ran, on what, from where; `state`: running | done | interrupted | failed
    RUN/metrics.jsonl    one line a training step
    RUN/rollouts.jsonl   completions with their reward parts and advantages
    RUN/records.jsonl    one line an evaluated sample
    RUN/controls.jsonl, samples.jsonl, forced.jsonl, perplexity.jsonl    what else was asked in an evaluation
    RUN/judged.jsonl, judge.json    what LLM judges said of the records (osler.judging.stored)
    RUN/summary.json     the few numbers to quote, written last
    RUN/pairs.jsonl, pass_rates.jsonl    what DPO, or a filter by difficulty, chose of the training rows
    RUN/adapter/         the trained LoRA, in PEFT's layout; RUN/model/ after full tuning
    RUN/checkpoints/STEP/

JSON files are written whole beside the old one and renamed; a line of a JSONL file is flushed as it is written, and a last
line that a crash cut short is dropped when it is read back.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from osler.errors import RunError

VERSIONED = ("osler", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pillow", "openai",
            "sentence-transformers")  # fmt: skip


class Run:
    """A run folder on disk. `Run.create` makes one, `Run.open` reads one."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: str | Path, kind: str, **facts: Any) -> "Run":
        """A fresh run folder of `kind` (train | eval | study). Errors: RunError where the folder exists and is not empty."""
        path = require_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be made ({error.strerror}). Name another folder with --out.") from error
        run = cls(path, {"kind": kind, "state": "running", "started": now(), **environment(), **facts})
        run.save()
        return run

    @classmethod
    def open(cls, path: str | Path, kind: str | None = None) -> "Run":
        """The run at `path`. Errors: RunError where there is none, its manifest cannot be read, or it is not of `kind`."""
        file = Path(path) / "manifest.json"
        if not file.is_file():
            raise RunError(f"{path} is no run folder: it has no manifest.json.")
        run = cls(Path(path), read_json(file))
        if kind not in (None, run.manifest.get("kind")):
            raise RunError(f"{path} is no {kind} run, but of kind {run.manifest.get('kind')!r}.")
        return run

    def save(self, **facts: Any) -> None:
        """Write the manifest, with `facts` added."""
        self.manifest.update(facts)
        write_json(self.path / "manifest.json", self.manifest)

    @contextmanager
    def recording(self) -> Iterator["Run"]:
        """Set `state` when the block ends: done, interrupted (Ctrl-C) or failed; the error goes on."""
        state = "failed"
        try:
            yield self
            state = "done"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            self.save(state=state, finished=now())

    def append(self, file: str, *rows: dict[str, Any]) -> None:
        """Append `rows` to `file` (metrics, rollouts, records, ...), one JSON line each."""
        with (self.path / f"{file}.jsonl").open("a", encoding="utf-8", newline="\n") as out:
            out.write(_lines(rows))

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The rows of `file`, or none where it was never written. Errors: RunError at a damaged line before the last."""
        path = self.path / f"{file}.jsonl"
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line.decode()))
            except ValueError as error:  # no JSON, or a character that was cut in two
                if number == len(lines):
                    break  # the line that a crash cut short
                raise RunError(f"{path}, line {number} is damaged ({error}).") from error
        return rows

    def trim(self, file: str) -> None:
        """Rewrite `file` without the last line that a crash cut short, so that appending goes on cleanly."""
        path = self.path / f"{file}.jsonl"
        if path.exists():
            write_whole(path, _lines(self.rows(file)))

    def rewind(self, step: int) -> None:
        """Drop what metrics and rollouts hold of steps after `step`: they are made again."""
        for file in ("metrics", "rollouts"):
            path = self.path / f"{file}.jsonl"
            if path.exists():
                write_whole(path, _lines(row for row in self.rows(file) if row["step"] <= step))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", summary)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json. Errors: RunError where the run has not finished."""
        file = self.path / "summary.json"
        if not file.is_file():
            raise RunError(f"{self.path} has no summary.json: its state is {self.manifest.get('state')!r}.")
        return read_json(file)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name


def require_free(path: str | Path) -> Path:
    """`path`, where a run may be made. Errors: RunError where something is there already."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists. Name another folder with --out, or remove it.")
    return path


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def write_named(file: Path, content: str | bytes) -> Path:
    """`file`, which a user named, holding `content` whole. Errors: RunError where it cannot be written."""
    if file.is_dir():
        raise RunError(f"{file} is a folder. Name the file to write.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise RunError(f"{file} cannot be written ({error}). Name another file.") from error
    return file


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`. Errors: RunError where it is damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}). Restore it or run again.") from error
    if not isinstance(value, dict):
        raise RunError(f"{file} is damaged (it holds no JSON object). Restore it or run again.")
    return value


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def default_path(name: str) -> Path:
    """runs/NAME-TIMESTAMP, unused so far."""
    stem = f"runs/{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    return next(p for k in range(1000) if not (p := Path(stem + (f"-{k}" if k else ""))).exists())


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, machine, command, commit."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONED}},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that osler runs from, or None where it is installed without one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None  # installed, perhaps inside somebody else's checkout
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
