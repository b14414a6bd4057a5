"""Evaluation runs of the same rows, read and checked, so that their answers can stand beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osler.errors import RunError
from osler.matrix import model_of
from osler.runs import Run
from osler.schema import Record, Sample
from osler.strategies import AnswerForm, answer_form_of
from osler.summary import read_records

Numbered = tuple[int, Record]
"""A record, and its line in records.jsonl."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation run, the label that tells its model from the others, and its records by the row's id."""

    label: str
    run: Run
    rows: Mapping[str, Numbered]

    @property
    def records(self) -> list[Record]:
        """The records in the order of the rows."""
        return [record for _, record in self.rows.values()]

    @property
    def answer_form(self) -> AnswerForm | None:
        """How choices were answered; None where the manifest does not say."""
        return answer_form_of((self.run.manifest.get("trial") or {}).get("answer_form"))


def read_same(runs: Sequence[Run]) -> list[Evaluated]:
    """`runs` with their records, each in the order of the first.

    Errors: RunError for no run at all, one that is no evaluation, has no records, holds a row twice or is given twice; and
    where the ids, questions, options or golds of the rows are not those of the first run, with how they differ.
    """
    if not runs:
        raise RunError("there is no run to compare. Name evaluation runs, which osler eval and osler score make.")
    labels, (first, *others) = _labels(runs), [_rows(run) for run in runs]
    for run, rows in zip(runs[1:], others, strict=True):
        _require_same(runs[0], first, run, rows)
    ordered = [{one: rows[one] for one in first} for rows in (first, *others)]
    return [Evaluated(*each) for each in zip(labels, runs, ordered, strict=True)]


def _labels(runs: Sequence[Run]) -> list[str]:
    """The label of each run's model; with the run's name, then its number, where several share it. Errors: RunError."""
    if other := [run for run in runs if run.manifest.get("kind") != "eval"]:
        kind = other[0].manifest.get("kind")
        raise RunError(f"{other[0].path} is of kind {kind!r}: name evaluation runs, which osler eval and osler score make.")
    folders = [run.path.resolve() for run in runs]
    if twice := [run.path for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]:
        raise RunError(f"{twice[0]} is given twice. Name each run once.")
    plain = [model_of(run) for run in runs]
    named = [f"{label} ({run.name})" for label, run in zip(plain, runs, strict=True)]
    numbered = [f"{label} #{k}" for k, label in enumerate(named, 1)]
    choices = (plain, named, numbered)
    return [next(labels[k] for labels in choices if labels.count(labels[k]) == 1) for k in range(len(runs))]


def _rows(run: Run) -> dict[str, Numbered]:
    """The records of `run` by the row's id. Errors: RunError where there are none, or one row twice."""
    records = read_records(run)
    if not records:
        state = run.manifest.get("state")
        raise RunError(f"{run.path} has no records (its state is {state!r}). Evaluate it to the end, or leave it out.")
    rows = {record.sample.id: (line, record) for line, record in enumerate(records, 1)}
    if len(rows) < len(records):
        raise RunError(f"{run.path} holds a row twice. Evaluate again, each row once.")
    return rows


def _require_same(run: Run, rows: Mapping[str, Numbered], other: Run, others: Mapping[str, Numbered]) -> None:
    """Errors: RunError where the two runs are not of the same rows, with how they differ."""
    shared = rows.keys() & others.keys()
    changed = sum(_asked(rows[one]) != _asked(others[one]) for one in shared)
    if len(shared) == max(len(rows), len(others)) and not changed:
        return
    of_these = f" (of these, {changed} differ in question, options or golds)" if changed else ""
    states = "".join(f" {one.path} is {state}." for one in (run, other) if (state := one.manifest.get("state")) != "done")
    raise RunError(
        f"{run.path} and {other.path} are not of the same rows: they share {len(shared)}{of_these}, {len(rows) - len(shared)} "
        f"are only in the first and {len(others) - len(shared)} only in the second.{states} Evaluate both on the same data and "
        "split."
    )


def _asked(numbered: Numbered) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    sample: Sample = numbered[1].sample
    return sample.question, sample.options, sample.golds
