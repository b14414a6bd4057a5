"""`osler study`: a study file -> runs -> the table that a paper prints, with intervals, floors, controls and tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler import __version__
from osler.errors import RecipeError, RunError, unknown
from osler.runs import Run, write_whole
from osler.study.exports import measured
from osler.study.files import StudySettings, load_study
from osler.study.grid import Entry, check_tests, entries_of
from osler.study.judged import assessed, check_judges, check_judging, flagged
from osler.study.matrices import SeedMatrix, matrices, write_matrix
from osler.study.metrics import METRICS
from osler.study.overlaps import Overlap, overlaps
from osler.study.results import Comparison, MeanResult, RowResult, comparisons, means_of, results_of
from osler.study.running import Done, Runner, slug
from osler.study.tables import markdown, to_csv
from osler.summary import axis_of


@dataclass(frozen=True)
class StudyResult:
    """What a study came to so far: `results` of the `entries` that are done. `path` is None where nothing was run."""

    study: StudySettings
    entries: list[Entry]
    results: list[RowResult]
    means: list[MeanResult]
    tests: list[Comparison]
    matrices: list[SeedMatrix]
    tuned: dict[str, dict[str, Any]]
    failed: dict[tuple[str, int], str]
    path: Path | None
    flagged: frozenset[str] = frozenset()
    overlaps: tuple[Overlap, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """study, rows (a run each; without metrics where not done), means over seeds, tests, matrices, overlaps, flagged (rows
        that were trained on the scores of the judge that judges them), tuned, failed, path."""
        done = {(one.name, one.seed) for one in self.results}
        waiting = [_planned(one) for one in self.entries if (one.name, one.seed) not in done]
        return {
            "study": self.study.name,
            "rows": [*(one.to_json() for one in self.results), *waiting],
            "means": [one.to_json() for one in self.means],
            "tests": [one.to_json() for one in self.tests],
            "matrices": [one.to_json() for one in self.matrices],
            "overlaps": [one.to_json() for one in self.overlaps],
            "flagged": sorted(self.flagged),
            "tuned": self.tuned,
            "failed": [{"name": name, "seed": seed, "error": error} for (name, seed), error in self.failed.items()],
            "path": None if self.path is None else str(self.path),
        }


def _planned(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "group": entry.group, "recipe": entry.source, "seed": entry.seed}


def run_study(
    file: str | Path,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    max_runs: int | None = None,
    dry_run: bool = False,
) -> StudyResult:
    """The study in `file`, its runs below `out` (runs/NAME): those that are done there are kept, the others made.

    At most `max_runs` runs are made that were not done; with `dry_run` none. Errors: any OslerError, before a model is loaded,
    where a row cannot be run, or rows are tested on different rows.
    """
    study, path = load_study(file, overrides)
    for metric in study.metrics:
        if metric not in METRICS:
            raise RecipeError(f"{path}: {unknown('metric', metric, METRICS)}")
    for axis in study.matrix:
        axis_of(axis)  # or it is none
    check_judging(study)
    entries = entries_of(study, path)
    check_tests(study, entries)
    if dry_run:
        return StudyResult(study, entries, [], [], [], [], {}, {}, None)
    check_judges(study)
    run = _folder(study, Path(out or Path("runs") / study.name))
    runner = Runner(study, run.path, max_runs, tuned=dict(run.manifest.get("tuned", {})))
    done: list[Done] = []

    def finish(one: Done) -> None:
        for evaluated in one.evaluated.values():
            assessed(study, evaluated)
        measured(study, one)
        done.append(one)
        run.save(tuned=runner.tuned, rows={**run.manifest.get("rows", {}), **_folders(one)})

    with run.recording():
        runner.run(entries, finish)
        result = _concluded(study, entries, done, runner, run.path)
        run.finish(result.to_json())
    if len(done) < len(entries):
        run.save(state="interrupted")
    return result


def _folder(study: StudySettings, path: Path) -> Run:
    """The run of `study` at `path`, made where there is none. Errors: RunError where another study is there."""
    settings = study.model_dump(mode="json")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return Run.create(path, "study", study=settings)
    run = Run.open(path, "study")
    if run.manifest.get("study", {}).get("name") != study.name:
        raise RunError(f"{path} is no run of the study {study.name!r}. Name another folder with --out.")
    if run.manifest["study"].get("tune") != study.tune:
        run.save(tuned={})
    run.save(state="running", study=settings)
    return run


def _folders(one: Done) -> dict[str, Any]:
    """For the manifest: where the runs of an entry are, from the study's folder."""
    trained = {name: f"train/{run.path.name}" for name, run in one.trained.items()}
    evaluated = {name: f"eval/{run.path.name}" for name, run in one.evaluated.items()}
    return {f"{one.entry.name}, seed {one.entry.seed}": {"trained": trained, "evaluated": evaluated}}


def _concluded(study: StudySettings, entries: list[Entry], done: list[Done], runner: Runner, path: Path) -> StudyResult:
    """The numbers of what is done, and their files beside it."""
    results, means, tests = results_of(study, done), means_of(study, done), comparisons(study, done)
    main = next(iter(dict.fromkeys(one.test for one in results)), "test")
    built = matrices(study, done, main)
    devices = sorted({str(run.manifest.get("device")) for one in done for run in one.evaluated.values()})
    failed = [f"{name}, seed {seed}: {error}" for (name, seed), error in runner.failed.items()]
    flags, shared = flagged(study, entries), overlaps(entries, runner.trained_on, runner.tested_on) if study.overlap else []
    about = {"version": __version__, "device": " and ".join(devices), "done": len(done), "runs": len(entries)}
    page = markdown(
        study, means, tests, built, {**about, "tuned": runner.tuned, "failed": failed, "flagged": flags, "overlaps": shared}
    )
    write_whole(path / "table.md", page)
    write_whole(path / "table.csv", to_csv(results, flags))
    for matrix in built:
        name = "-".join(filter(None, (matrix.axis, matrix.group, matrix.minus and f"less-{matrix.minus}")))
        write_matrix(matrix, path / f"{slug(name)}.svg")
    return StudyResult(study, entries, results, means, tests, built, runner.tuned, runner.failed, path, flags, tuple(shared))
