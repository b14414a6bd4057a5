"""Runs of a study, made one after the other: whatever is done already is found again and kept.

STUDY/manifest.json      kind: study; the settings, and each row's runs
STUDY/train/NAME-DIGEST/ a trained stage, shared by all rows that need it
STUDY/eval/NAME-DIGEST/  an evaluation on one set of test rows
STUDY/summary.json, table.md, table.csv, *.svg
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain as joined
from pathlib import Path
from typing import Any

from osler.chains import resolve
from osler.check import STAGE, check_machine, check_rows, verify_images
from osler.config import Recipe, Spec
from osler.controls import TWIN
from osler.datasets.manifests import row_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits, load_part, load_splits
from osler.errors import OslerError, RecipeError, RunError
from osler.floor import Floor
from osler.pipeline import evaluate_rows, selected, train
from osler.policies import check_model
from osler.progress import console
from osler.runs import Run
from osler.study.files import StudySettings
from osler.study.grid import Entry, Stage, rates, test_rows, test_specs, with_rate
from osler.trial import Trial


@dataclass(frozen=True)
class Done:
    """What an entry left: the runs of its stages by name, and its evaluation on each set of test rows."""

    entry: Entry
    trained: Mapping[str, Run]
    evaluated: Mapping[str, Run]

    @property
    def train_s(self) -> float | None:
        """Seconds of training, from the checkpoint on; None for a model that is not trained.

        A stage that was needed only because its seconds bound another's does not count.
        """
        if not self.entry.stages:
            return None
        by_name, name, total = {stage.name: stage for stage in self.entry.stages}, self.entry.stages[-1].name, 0.0
        while name:
            total += self.trained[name].summary["seconds"]
            before = STAGE.fullmatch(by_name[name].recipe.init or "")
            name = before["name"] if before else ""
        return total

    @property
    def train_mb(self) -> float | None:
        """The most memory of the stages that were trained, in MB; None where none was, or it was not measured."""
        peaks = [(self.trained[stage.name].manifest.get("memory") or {}).get("peak_total_mb") for stage in self.entry.stages]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def train_rows(self) -> int | None:
        """Different rows that the last stage was trained on."""
        return int(self.trained[self.entry.stages[-1].name].manifest["trained_on"]["n"]) if self.entry.stages else None


@dataclass
class Runner:
    """Makes the runs of `study` below `folder`. `max_runs` bounds how many entries are run that were not done before."""

    study: StudySettings
    folder: Path
    max_runs: int | None = None
    made: int = 0
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    _splits: dict[str, Splits] = field(default_factory=dict)
    _tests: dict[str, Samples] = field(default_factory=dict)

    def run(self, entries: list[Entry], finish: Callable[[Done], None]) -> None:
        """Each entry in turn; `finish` is called with what it left.

        A run that fails is noted in `failed`, and the others go on. Errors: any OslerError before the first run: rows, images
        and model files are looked through first.
        """
        self._check(entries)
        for number, entry in enumerate(entries, 1):
            if self._is_waiting(entry):
                if self.max_runs is not None and self.made >= self.max_runs:
                    continue
                self.made += 1
                console.print(f"[bold]{self.study.name} {number}/{len(entries)}[/]: {entry.name}, seed {entry.seed}")
            try:
                finish(self._run(self._tuned(entry)))
            except OslerError as error:
                self.failed[entry.name, entry.seed] = str(error)
                console.print(f"[red]failed[/]: {entry.name}, seed {entry.seed}: {error}")

    def _check(self, entries: list[Entry]) -> None:
        """Errors: any OslerError of what the entries need and is not there."""
        recipes = {stage.digest: stage.recipe for entry in entries for stage in entry.stages}
        for recipe in recipes.values():
            if recipe.data.max_problems:
                raise RecipeError("a study trains on all of its rows, so that data.max_problems must be 0. Write the rows "
                                  "without problems to a file first: osler data check SPEC --write FILE.")  # fmt: skip
            check_rows(recipe, self._rows(recipe))
            check_machine(recipe)
        for entry in entries:
            self._check_entry(entry)
            for name in test_specs(self.study, entry):
                self._test(entry, name)
        trained = [joined(part.train, part.val) for part in self._splits.values()]
        everything = {(sample.id, sample.images): sample for sample in joined(*trained, *self._tests.values())}
        verify_images(everything.values())

    def _check_entry(self, entry: Entry) -> None:
        """Errors: any OslerError where the model, the text model or the validation rows of `entry` are not there."""
        if entry.tuning and not len(self._rows(entry.recipe).val):
            raise RecipeError(f"row {entry.name!r}: learning rates are tried on validation rows, and there are none. Give "
                              "data.val, or data.val_share.")  # fmt: skip
        if entry.model:
            check_model(entry.model, with_images=True)
        if name := entry.trial.controls.perplexity:
            from osler.model.perplexity import check_text_model

            check_text_model(name)

    def _is_waiting(self, entry: Entry) -> bool:
        """Whether anything of `entry` has yet to be made."""
        return not all(_is_done(self.folder / "eval" / name) for name in self._eval_names(self._chosen(entry)).values())

    def _run(self, entry: Entry) -> Done:
        trained: dict[str, Run] = {}
        for stage in entry.stages:
            trained[stage.name] = self._train(stage, trained)
        return Done(entry, trained, self._evaluate(entry, self._model(entry, trained)))

    def _train(self, stage: Stage, trained: Mapping[str, Run]) -> Run:
        """The finished run of `stage`: found, gone on with, or made."""
        path = self._train_path(stage)
        if _is_done(path) and (not stage.recipe.controls.blind_twin or _is_done(path / TWIN)):
            return self._same_rows(
                Run.open(path, "train"), "trained_on", selected(stage.recipe, self._rows(stage.recipe))[0].train
            )
        recipe, packed = resolve(stage.recipe, trained), stage.recipe.method == "grpo" and stage.recipe.engine == "packed"
        if path.exists() and not (packed and (path / "manifest.json").is_file()):
            path.rename(_aside(path))  # it cannot be gone on with; nothing that was written is lost
        return train(recipe, path, self._rows(stage.recipe), resume=packed)

    def _train_path(self, stage: Stage) -> Path:
        return self.folder / "train" / f"{slug(stage.name)}-{stage.recipe.seed}-{stage.digest}"

    def _evaluate(self, entry: Entry, model: str) -> dict[str, Run]:
        found = {}
        for name, folder in self._eval_names(entry).items():
            path, spec = self.folder / "eval" / folder, test_specs(self.study, entry)[name]
            if _is_done(path):
                found[name] = self._same_rows(Run.open(path, "eval"), "data", self._test(entry, name))
                continue
            data = {"spec": spec, "split": "test", "name": name}
            found[name] = self._evaluated(entry, model, self._test(entry, name), entry.trial, path, data)
        return found

    def _same_rows(self, run: Run, what: str, rows: Samples) -> Run:
        """`run`, which is done. Errors: RunError where the rows that it was made with have changed since."""
        if run.manifest[what]["row_hash"] != row_hash(rows):
            raise RunError(f"{run.path} was made with other rows than are there now. Restore them, or run the study into "
                           "another folder.")  # fmt: skip
        return run

    def _evaluated(self, entry: Entry, model: str, rows: Samples, trial: Trial, path: Path, data: dict[str, Any]) -> Run:
        seen = None if entry.stages else Floor.fit(self._rows(entry.recipe).train)
        path.parent.mkdir(parents=True, exist_ok=True)
        return evaluate_rows(model, rows, trial, path, data, label=label_of(entry), seen=seen, resume=True)

    def _eval_names(self, entry: Entry) -> dict[str, str]:
        """The folder of each evaluation of `entry`: known by the model, how it is asked, and about what."""
        learnt = [entry.recipe.data.model_dump(mode="json"), entry.recipe.seed]  # the floor of a model that is not trained
        model = entry.stages[-1].digest if entry.stages else json.dumps([entry.model, learnt], sort_keys=True)
        asked, names = entry.trial.to_json(), {}
        for name, spec in test_specs(self.study, entry).items():
            digest = hashlib.sha256(json.dumps([model, asked, spec], sort_keys=True).encode()).hexdigest()[:12]
            names[name] = f"{slug(entry.name)}-{entry.seed}-{slug(name)}-{digest}"
        return names

    def _model(self, entry: Entry, trained: Mapping[str, Run]) -> str:
        return str(entry.model) if entry.model else f"run:{trained[entry.stages[-1].name].path}"

    def _rows(self, recipe: Recipe) -> Splits:
        """The training and validation rows of `recipe`, read once."""
        key = json.dumps([recipe.data.model_dump(mode="json"), recipe.seed], sort_keys=True)
        if key not in self._splits:
            self._splits[key] = load_splits(recipe.data, recipe.seed, with_test=False)
        return self._splits[key]

    def trained_on(self, entry: Entry) -> list[Samples]:
        """Training and validation rows of every stage of `entry`."""
        splits = [self._rows(stage.recipe) for stage in entry.stages]
        return [part for one in splits for part in (one.train, one.val)]

    def tested_on(self, entry: Entry) -> dict[str, Samples]:
        """The test rows of `entry` by name."""
        return {name: self._test(entry, name) for name in test_specs(self.study, entry)}

    def _test(self, entry: Entry, name: str) -> Samples:
        """The test rows called `name`, read once."""
        own = None if self.study.tests else [entry.recipe.data.model_dump(mode="json"), entry.recipe.seed]
        spec: Spec = test_specs(self.study, entry)[name]
        key = json.dumps([own, spec], sort_keys=True)
        if key not in self._tests:
            self._tests[key] = load_part(spec, "test") if self.study.tests else test_rows(entry.recipe)
        return self._tests[key]

    # --- learning rates

    def _chosen(self, entry: Entry) -> Entry:
        """`entry` at the learning rate that was chosen for its row, where one has been."""
        return with_rate(entry, self.tuned[entry.tuning]["lr"]) if entry.tuning in self.tuned else entry

    def _tuned(self, entry: Entry) -> Entry:
        """`entry` at the learning rate that is best on validation rows, of `study.tune` that are tried on the first seed.

        A rate at which training fails is noted, and not chosen. Errors: RunError where all fail.
        """
        if entry.tuning and entry.tuning not in self.tuned:
            if entry.seed != self.study.seeds[0]:
                raise RunError("no learning rate could be chosen on the first seed.")
            tried = {lr: self._validate(with_rate(entry, lr)) for lr in rates(entry.recipe, self.study.tune)}
            known = {lr: value for lr, value in tried.items() if value is not None}
            if not known:
                raise RunError("training failed at every learning rate that was tried.")
            best = max(known, key=lambda lr: (known[lr], -lr))
            told = {f"{lr:.3g}": value for lr, value in tried.items()}
            self.tuned[entry.tuning] = {"row": entry.name, "lr": best, "seed": entry.seed, "tried": told}
        return self._chosen(entry)

    def _validate(self, entry: Entry) -> float | None:
        """The accuracy of `entry` on its validation rows, asked as it was trained; None where training fails."""
        trained: dict[str, Run] = {}
        try:
            for stage in entry.stages:
                trained[stage.name] = self._train(stage, trained)
        except RunError as error:
            console.print(f"[yellow]not chosen[/]: {entry.name} at lr={entry.recipe.lr:.3g}: {error}")
            return None
        path = self.folder / "tune" / f"{slug(entry.name)}-{entry.stages[-1].digest}"
        if not _is_done(path):
            trial, rows = Trial.of(entry.recipe).with_controls("none"), self._rows(entry.recipe).val
            data = {"spec": entry.recipe.data.train, "split": "val"}
            self._evaluated(entry, self._model(entry, trained), rows, trial, path, data)
        return float(Run.open(path, "eval").summary["accuracy"]["value"])


def label_of(entry: Entry) -> str:
    """What `entry` is called in tables and reports."""
    return f"{entry.name}, seed {entry.seed}" if entry.stages else entry.name


def _is_done(path: Path) -> bool:
    return (path / "manifest.json").is_file() and Run.open(path).manifest["state"] == "done"


def _aside(path: Path) -> Path:
    """A free name beside `path` for a run that was cut off."""
    return next(other for k in range(1, 1000) if not (other := path.with_name(f"{path.name}.cut-off-{k}")).exists())


def slug(name: str) -> str:
    """`name` as a part of a file's name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-").lower() or "row"
