"""Other systems' completions: read from a file, scored by our grader or as Med-R1's released evaluation reads.

{"id": "CT_test/12", "completion": "<answer>B</answer>"}      the id that `osler data show` and records use, or
{"row": 12, "completion": "B"}                                the row's place in the data set, from 0
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from osler.config import Spec
from osler.datasets.load import load_data
from osler.datasets.manifests import row_hash
from osler.datasets.samples import Samples
from osler.datasets.splits import load_part
from osler.errors import DataError
from osler.floor import Floor
from osler.reading import form_of, reading_of
from osler.runs import Run
from osler.schema import Record, Sample
from osler.strategies import AnswerForm, Strategy, strategy_of
from osler.summary import Passes, summarise


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    id: str | None = None
    row: int | None = None
    completion: str

    @model_validator(mode="after")
    def _named(self) -> "_Line":
        if (self.id is None) == (self.row is None):
            raise ValueError('it needs either "id" or "row"')
        return self


@dataclass(frozen=True)
class Scored:
    """The records of completions, what they come to, and how they were read.

    `readable` of them could be read strictly; `missing` rows of the data set have no completion, and count nowhere.
    """

    records: tuple[Record, ...]
    summary: dict[str, Any]
    strategy: str
    answer_form: AnswerForm
    scorer: str
    readable: int
    missing: int

    def to_json(self) -> dict[str, Any]:
        """n, accuracy (strict), strict, lenient, unparseable, unjudged, floor, and how the completions were read."""
        parts = {
            name: self.summary[name] for name in ("n", "accuracy", "lenient", "unparseable", "unjudged", "floor", "attacker")
        }
        reading = {name: getattr(self, name) for name in ("scorer", "strategy", "answer_form", "readable", "missing")}
        return {**parts, "strict": self.summary["accuracy"], **reading}


def score(
    file: Path,
    data: Spec,
    scorer: str = "osler",
    strategy: str | None = None,
    answer_form: AnswerForm | None = None,
    train: Spec | None = None,
) -> Scored:
    """What the completions in `file` score on the rows of `data` that they name.

    How they were asked for is not known here: where it is not told, the strategy and the answer form are those under which most
    of them can be read. The floor is fitted on the training rows of `train`, or of `data`; there is none where neither has any,
    or where those very rows are scored. Errors: DataError that names file and line.
    """
    samples = load_data(data)
    pairs = read_completions(file, samples)
    chosen, form = _form(pairs, strategy, "letter" if scorer == "medr1" and answer_form is None else answer_form)
    read, floor = reading_of(scorer, chosen, form), _floor(samples, [sample for sample, _ in pairs], train)
    records = tuple(_record(sample, text, chosen, read, floor) for sample, text in pairs)
    return Scored(
        records=records,
        summary=summarise(Passes(records, answer_form=form)),
        strategy=chosen.name,
        answer_form=form,
        scorer=scorer,
        readable=sum(record.verdict.compared is not None for record in records),
        missing=len(samples) - len(pairs),
    )


def keep(scored: Scored, run_path: Path, file: Path, data: Spec, label: str) -> Run:
    """An evaluation run of what was scored, so that it is a row like any other in a matrix and a report."""
    trial = {"strategy": scored.strategy, "answer_form": scored.answer_form, "scorer": scored.scorer}
    rows = [record.sample for record in scored.records]
    facts = {
        "model": {"label": label, "spec": f"completions:{file}", "sha256": None},
        "trained_on": {},  # not known, which is not the same as nothing
        "data": {"spec": data, "split": None, "n": len(rows), "row_hash": row_hash(rows)},
        "trial": trial,
    }
    with Run.create(run_path, "eval", **facts).recording() as run:
        run.append("records", *(record.to_json() for record in scored.records))
        run.finish(scored.summary)
    return run


def read_completions(file: Path, samples: Samples) -> list[tuple[Sample, str]]:
    """Each sample that `file` has a completion of, with it, in the order of the file.

    Errors: DataError that names the line: no JSON, a key missing, a row or id that is not there or comes twice.
    """
    if not file.is_file():
        raise DataError.at(file, None, "there is no such file.", "Give a JSONL file of completions.")
    places = {sample.id: place for place, sample in enumerate(samples)}
    seen: dict[int, int] = {}
    pairs = []
    for number, text in enumerate(file.read_bytes().split(b"\n"), 1):
        if not text.strip():
            continue
        place, completion = _line(file, number, text, places)
        if place in seen:
            raise DataError.at(file, number, f"line {seen[place]} is about the same row.", "Keep one of them.")
        seen[place] = number
        pairs.append((samples[place], completion))
    if not pairs:
        raise DataError.at(file, None, "it holds no completion.", 'A line is {"id": ..., "completion": ...}.')
    return pairs


def _line(file: Path, number: int, text: bytes, places: dict[str, int]) -> tuple[int, str]:
    """The place of the row that a line is about, and the completion."""
    form = 'A line is {"id": ..., "completion": ...}, or with "row", from 0.'
    try:
        line = _Line.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise DataError.at(file, number, f"{named}{first['msg']}.", form) from error
    except ValueError as error:
        raise DataError.at(file, number, f"it is no JSON ({error}).", form) from error
    place = places.get(line.id, -1) if line.id is not None else line.row
    if place is None or not 0 <= place < len(places):
        wrong = f"the id {line.id!r}" if line.id is not None else f"row {line.row}"
        raise DataError.at(file, number, f"{wrong} is not in the data ({len(places)} rows).", "Score against the same data.")
    return place, line.completion


def _form(pairs: Sequence[tuple[Sample, str]], strategy: str | None, form: AnswerForm | None) -> tuple[Strategy, AnswerForm]:
    """The strategy and the answer form that were told, what was not told being guessed."""
    guessed, guessed_form, _ = form_of([sample for sample, _ in pairs], [text for _, text in pairs])
    return strategy_of(strategy) if strategy else guessed, form or guessed_form


def _floor(samples: Samples, scored: Sequence[Sample], train: Spec | None) -> Floor | None:
    rows = load_part(train, "train") if train is not None else samples.where(split="train")
    overlap = train is None and any(sample.split == "train" for sample in scored)
    return Floor.fit(rows) if len(rows) and not overlap else None


def _record(sample: Sample, completion: str, strategy: Strategy, read: Any, floor: Floor | None) -> Record:
    parsed, verdict = read(sample, completion)
    return Record(
        sample=sample,
        prompt="",
        completion=completion,
        parsed=parsed,
        verdict=verdict,
        strategy=strategy.name,
        tokens=None,
        truncated=False,
        seconds=None,
        blind=floor.credits(sample) if floor else {},
    )
