"""Samples + strategy + policy + grader -> records: one JSON line a sample, written as it is made, resumable."""

import time
from collections.abc import Iterator, Sequence

from osler.floor import OptionPrior
from osler.images import open_image
from osler.model.family import VLM
from osler.model.generate import Completion, generate
from osler.progress import bar
from osler.runs import Run
from osler.schema import Grader, Record, Sample
from osler.strategies import AnswerForm, Strategy
from osler.summary import read_records, summarise


def evaluate(
    vlm: VLM,
    samples: Sequence[Sample],
    strategy: Strategy,
    answer_form: AnswerForm,
    grader: Grader,
    run: Run,
    max_tokens: int,
    prior: OptionPrior | None = None,
    batch_size: int = 64,
) -> list[Record]:
    """The records of all `samples`, in their order; those that `run` already holds are not made again.

    The summary is written to `run`: accuracies with the floor of `prior`, the blind attacker fitted on the training rows.
    """
    run.trim("records")
    done = {row["sample"]["id"] for row in run.rows("records")}
    waiting = [sample for sample in samples if sample.id not in done]
    with bar(f"Evaluate {run.name}", len(waiting)) as tick:
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            run.append("records", *(r.to_json() for r in _records(vlm, batch, strategy, answer_form, grader, max_tokens)))
            for _ in batch:
                tick("")
    by_id = {record.sample.id: record for record in read_records(run)}
    records = [by_id[sample.id] for sample in samples]
    run.finish(summarise(records, prior))
    return records


def _records(
    vlm: VLM, batch: Sequence[Sample], strategy: Strategy, answer_form: AnswerForm, grader: Grader, max_tokens: int
) -> Iterator[Record]:
    questions = [strategy.question(sample, answer_form) for sample in batch]
    images = [[open_image(reference) for reference in sample.images] for sample in batch]
    started = time.perf_counter()
    completions = list(generate(vlm, list(zip(questions, images, strict=True)), max_tokens, len(batch)))
    seconds = (time.perf_counter() - started) / len(batch)
    for sample, question, completion in zip(batch, questions, completions, strict=True):
        yield _record(sample, question, completion, strategy, grader, seconds)


def _record(
    sample: Sample, question: str, completion: Completion, strategy: Strategy, grader: Grader, seconds: float
) -> Record:
    parsed = strategy.parse(completion.text)
    return Record(
        sample=sample,
        prompt=question,
        completion=completion.text,
        parsed=parsed,
        verdict=grader(sample, parsed),
        strategy=strategy.name,
        tokens=completion.tokens,
        truncated=completion.truncated,
        seconds=round(seconds, 4),
    )
