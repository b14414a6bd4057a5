"""What answering takes once a model has left osler: each trained row of a study is exported, asked, and removed again."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osler.averages import mean
from osler.exporting.answering import Job, answered
from osler.runs import Run, read_json, write_json
from osler.schema import Record
from osler.stats import Estimate
from osler.study.files import StudySettings
from osler.study.running import Done
from osler.summary import read_records

OF_EXPORT = frozenset({"export_s", "export_mb", "export_disk_mb"})
"""The metrics for which rows are exported."""

ROWS = 32
"""Test rows that an export is asked, evenly spaced; those of the evaluation where it has fewer."""

FILE = "export.json"


@dataclass(frozen=True)
class Measured:
    """What an export of the weights with this hash took: seconds a row over n rows, the peak in MB while it answered, its size.

    `same` of the rows got the very completion of the evaluation, which ran on osler's engine. `tokens` are a row's mean.
    """

    weights: str | None
    seconds: Estimate
    tokens: float
    same: int
    peak_mb: float
    disk_mb: float
    dtype: str
    device: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name; the estimate as value, ci_low, ci_high, n."""
        return asdict(self)


def measured(study: StudySettings, done: Done) -> None:
    """Nothing; export.json of each evaluation of `done` is there, where the study asks for it and the row was trained.

    What is there is kept, unless it is of other weights. Errors: any OslerError where the run cannot be exported or asked.
    """
    waiting = [run for run in done.evaluated.values() if export_of(run) is None]
    if not (set(study.metrics) & OF_EXPORT and done.entry.stages and waiting):
        return
    from osler.exporting.writing import export

    trained = done.trained[done.entry.stages[-1].name]
    folder = trained.path.with_name(f".export-{trained.path.name}")
    shutil.rmtree(folder, ignore_errors=True)  # of a study that was killed
    try:
        exported = export(trained.path, folder)
        for run in waiting:
            found = _measure(done, run, folder, exported.mb, exported.about.dtype)
            write_json(run.path / FILE, found.to_json())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export_of(run: Run) -> dict[str, Any] | None:
    """What export.json of the evaluation `run` says; None where there is none, or it is of other weights."""
    file = run.path / FILE
    found = read_json(file) if file.is_file() else None
    return found if found and found["weights"] == _weights(run) else None


def _weights(run: Run) -> str | None:
    return (run.manifest.get("model") or {}).get("sha256")


def _measure(done: Done, run: Run, folder: Path, disk_mb: float, dtype: str) -> Measured:
    """What the export in `folder` takes to answer some rows of the evaluation `run`, as they were asked there."""
    trial, records = done.entry.trial, _some(read_records(run))
    prompts = tuple((record.prompt, record.sample.images) for record in records)
    job = Job(str(folder), prompts, trial.max_tokens, trial.images, trial.dtype, trial.threads)
    found = answered(job)
    return Measured(
        weights=_weights(run),
        seconds=mean(found.seconds, [record.sample.cluster for record in records]),
        tokens=sum(found.tokens) / len(records),
        same=sum(record.completion == text for record, text in zip(records, found.completions, strict=True)),
        peak_mb=found.peak_mb,
        disk_mb=disk_mb,
        dtype=dtype,
        device=found.device,
    )


def _some(records: list[Record]) -> list[Record]:
    """At most ROWS of `records`, evenly spaced."""
    count = min(ROWS, len(records))
    return [records[at * len(records) // count] for at in range(count)]
