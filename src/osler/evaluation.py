"""Samples + strategy + policy + grader -> records: one JSON line a sample, written as it is made, resumable.

The rows are answered as they are first, then under each control (osler.controls), by the same policy in the same way. A policy
is whatever gives a completion for each prompt, in order: a model in memory, or a server.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from osler.config import ControlSettings
from osler.controls import CONTROLS, TWIN, Controlled, controls_of, thin
from osler.datasets.samples import Samples
from osler.floor import Floor, Floors
from osler.paraphrases import rephrased
from osler.progress import bar
from osler.reading import Reading, reading_of
from osler.repeated import repeat
from osler.runs import Run
from osler.schema import Completion, Record, Sample
from osler.strategies import AnswerForm, Strategy
from osler.summary import Passes, read_records, summarise

Answers = Callable[[Iterable[tuple[str, Sequence[str]]]], Iterator[Completion]]
"""A policy: one completion for each prompt (text, image references), in order; prompts are read as they are needed."""


@dataclass(frozen=True)
class Asking:
    """How rows are asked, how what comes back is read, what is taken away afterwards, and the blind attackers beside it."""

    strategy: Strategy
    answer_form: AnswerForm
    scorer: str = "osler"
    floor: Floor | Floors | None = None
    controls: ControlSettings = field(default_factory=lambda: ControlSettings(names="none"))
    seed: int = 0

    def question(self, sample: Sample) -> str:
        """What is asked about `sample`; a row of the control `prompts` is asked in the words of its paraphrase."""
        strategy = self.strategy
        if sample.extra.get("control") == "prompts":
            strategy = rephrased(strategy, sample.extra["variant"])
        return strategy.question(sample, self.answer_form)

    @property
    def reading(self) -> Reading:
        """How completions are read."""
        return reading_of(self.scorer, self.strategy, self.answer_form)


def evaluate(
    answers: Answers,
    samples: Samples,
    asking: Asking,
    run: Run,
    twin: Callable[[], Answers] | None = None,
    sampled: Answers | None = None,
) -> list[Record]:
    """The records of all `samples`, in their order; those that `run` already holds are not made again.

    `twin` loads the blind twin of the policy, where it has one; `sampled` is the policy at a temperature, where rows are to be
    answered several times. Their records are in `controls.jsonl` and `samples.jsonl`. A record's seconds are those since the
    record before. The summary is written to `run`: accuracies with their floor, and what each control makes
    of them.
    """
    controlled = controlled_rows(samples, asking, twin is not None)
    run.save(controls=_facts(controlled, asking))
    _answer(answers, samples, asking, run, "records", f"Evaluate {run.name}")
    rows = [row.sample for name, made in controlled.items() if name != TWIN for row in made.rows]
    if rows:
        _answer(answers, rows, asking, run, "controls", f"Controls of {run.name}")
    if twin:
        _answer(twin(), controlled[TWIN].samples, asking, run, "controls", f"Blind twin of {run.name}")
    if sampled and asking.controls.samples:
        repeated = repeat(samples, asking.controls.samples)
        _answer(sampled, repeated, asking, run, "samples", f"Samples of {run.name}")
    passes = Passes.read(run)
    by_id = {record.sample.id: record for record in passes.real}
    records = [by_id[sample.id] for sample in samples]
    run.finish(summarise(replace(passes, real=records)))
    return records


def controlled_rows(samples: Samples, asking: Asking, twin: bool = False) -> dict[str, Controlled]:
    """The rows of each control that is asked for, of at most `max_rows_per_cell` rows of a modality and question type.

    Errors: RecipeError for a control that there is none of.
    """
    controls = controls_of(asking.controls.names)
    if twin:
        controls = (*controls, CONTROLS[TWIN])
    kept = thin(samples, asking.controls.max_rows_per_cell, asking.seed).samples if controls else samples
    return {control.name: control.make(kept, asking.seed) for control in controls}


def _facts(controlled: dict[str, Controlled], asking: Asking) -> dict[str, object]:
    """For the manifest: which controls, of how many rows, and what each could not be applied to."""
    return {
        "names": list(controlled),
        "rows": {name: len(made.rows) for name, made in controlled.items()},
        "left_out": {name: dict(made.left_out) for name, made in controlled.items()},
        "max_rows_per_cell": asking.controls.max_rows_per_cell,
        "seed": asking.seed,
    }


def _answer(answers: Answers, samples: Sequence[Sample], asking: Asking, run: Run, file: str, title: str) -> None:
    """Append the records of those `samples` to `file` that it does not hold yet."""
    run.trim(file)
    done = {_key(record.sample) for record in read_records(run, file)}
    waiting = [sample for sample in samples if _key(sample) not in done]
    questions, read = [asking.question(sample) for sample in waiting], asking.reading
    prompts = ((question, sample.images) for question, sample in zip(questions, waiting, strict=True))
    started = time.perf_counter()
    with bar(title, len(waiting)) as tick:
        for sample, question, completion in zip(waiting, questions, answers(prompts), strict=True):
            ended = time.perf_counter()
            parsed, verdict = read(sample, completion.text)
            record = Record(
                sample=sample,
                prompt=question,
                completion=completion.text,
                parsed=parsed,
                verdict=verdict,
                strategy=asking.strategy.name,
                tokens=completion.tokens,
                truncated=completion.truncated,
                seconds=round(ended - started, 4),
                blind=asking.floor.credits(sample) if asking.floor else {},
            )
            run.append(file, record.to_json())
            started = ended
            tick("")


def _key(sample: Sample) -> tuple[str, str]:
    """Ids differ within a control."""
    return str(sample.extra.get("control", "")), sample.id
