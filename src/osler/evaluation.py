"""Samples + strategy + policy + grader -> records: one JSON line a sample, written as it is made, resumable."""

import time
from collections.abc import Sequence

from osler.floor import OptionPrior
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Completion, generate
from osler.progress import bar
from osler.runs import Run
from osler.schema import Grader, Record, Sample
from osler.strategies import AnswerForm, Strategy
from osler.summary import read_records, summarise


def evaluate(
    vlm: VLM,
    store: FeatureStore,
    samples: Sequence[Sample],
    strategy: Strategy,
    answer_form: AnswerForm,
    grader: Grader,
    run: Run,
    max_tokens: int,
    prior: OptionPrior | None = None,
    rows: int = 64,
) -> list[Record]:
    """The records of all `samples`, in their order; those that `run` already holds are not made again.

    Up to `rows` completions are decoded side by side; a record's seconds are those since the record before. The summary is
    written to `run`: accuracies with the floor of `prior`, the blind attacker fitted on the training rows.
    """
    run.trim("records")
    done = {row["sample"]["id"] for row in run.rows("records")}
    waiting = [sample for sample in samples if sample.id not in done]
    questions = [strategy.question(sample, answer_form) for sample in waiting]
    prompts = ((question, sample.images) for question, sample in zip(questions, waiting, strict=True))
    started = time.perf_counter()
    with bar(f"Evaluate {run.name}", len(waiting)) as tick:
        completions = generate(vlm, prompts, max_tokens, rows, store)
        for sample, question, completion in zip(waiting, questions, completions, strict=True):
            ended = time.perf_counter()
            run.append("records", _record(sample, question, completion, strategy, grader, ended - started).to_json())
            started = ended
            tick("")
    by_id = {record.sample.id: record for record in read_records(run)}
    records = [by_id[sample.id] for sample in samples]
    run.finish(summarise(records, prior))
    return records


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
