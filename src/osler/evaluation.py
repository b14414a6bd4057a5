"""Samples + strategy + policy + grader -> records: one JSON line a sample, written as it is made, resumable.

The rows are answered as they are first, then under each control (osler.controls), by the same policy in the same way. A policy
is whatever gives a completion for each prompt, in order: a model in memory, or a server. Behind them come what is asked for
besides: several answers to a row, answers that are forced (osler.reasoning.forcing), and the loss of the thoughts under a text
model.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from osler.config import ControlSettings
from osler.controls import CONTROLS, TWIN, Controlled, controls_of, thin
from osler.datasets.samples import Samples
from osler.errors import RecipeError
from osler.floor import Floor, Floors
from osler.paraphrases import rephrased
from osler.progress import bar
from osler.reading import Reading, reading_of
from osler.reasoning.forcing import FORCED, Forced, check_forcing, forced_rows
from osler.repeated import repeat
from osler.runs import Run
from osler.schema import Completion, Record, Sample
from osler.strategies import AnswerForm, Strategy, thought_in
from osler.summary import Passes, read_records, summarise

Answers = Callable[[Iterable[tuple[str, Sequence[str]]]], Iterator[Completion]]
"""A policy: one completion for each prompt (text, image references), in order; prompts are read as they are needed."""

Continues = Callable[[Iterable[tuple[str, Sequence[str], str]]], Iterator[Completion]]
"""A policy whose completions are begun for it: of each prompt (text, image references, beginning) what it adds."""

Losses = Callable[[Sequence[str]], Iterator[tuple[float, int]]]
"""A text model: of each text the summed loss of its tokens, and how many they are."""


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
        strategy = self.strategy.of(sample)
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
    continues: Continues | None = None,
    losses: Callable[[], Losses] | None = None,
) -> list[Record]:
    """The records of all `samples`, in their order; those that `run` already holds are not made again.

    `twin` loads the blind twin of the policy, where it has one; `sampled` is the policy at a temperature, where rows are to be
    answered several times; `continues` is the policy where completions are begun for it, for the forced-answer test; `losses`
    loads the text model that thoughts are scored under. What these leave is in `controls.jsonl`, `samples.jsonl`,
    `forced.jsonl` and `perplexity.jsonl`. A record's seconds are those since the record before. The summary is written to
    `run`: accuracies with their floor, what each control makes of them, and how completions reason.
    Errors: RecipeError where a forced answer is asked of a strategy that thinks first, or of a policy that cannot be begun for.
    """
    if asking.controls.forced_answer:
        check_forcing(asking.strategy)
        if continues is None:
            raise RecipeError("this policy's completions cannot be begun for it. Set controls.forced_answer=false.")
    controlled = controlled_rows(samples, asking, twin is not None)
    forced = _forced(samples, asking)
    run.save(controls=_facts(controlled, asking) | {"forced_left_out": dict(forced.left_out)})
    answer = _asked(answers, asking)
    _answer(answer, samples, asking, run, "records", f"Evaluate {run.name}")
    rows = [row.sample for name, made in controlled.items() if name != TWIN for row in made.rows]
    if rows:
        _answer(answer, rows, asking, run, "controls", f"Controls of {run.name}")
    if twin:
        _answer(_asked(twin(), asking), controlled[TWIN].samples, asking, run, "controls", f"Blind twin of {run.name}")
    if sampled and asking.controls.samples:
        repeated = repeat(samples, asking.controls.samples)
        _answer(_asked(sampled, asking), repeated, asking, run, "samples", f"Samples of {run.name}")
    if continues and len(forced.samples):
        _answer(_continued(continues, asking), forced.samples, asking, run, "forced", f"Forced answers of {run.name}")
    if losses:
        _score_thoughts(losses, run)
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


def _forced(samples: Samples, asking: Asking) -> Forced:
    """The rows whose completion is begun with another answer, as many as controls are run on; none where it is not asked."""
    if not asking.controls.forced_answer:
        return Forced(Samples.of(()), {})
    kept = thin(samples, asking.controls.max_rows_per_cell, asking.seed).samples
    return forced_rows(kept, asking.answer_form, asking.seed)


_Completes = Callable[[Sequence[Sample]], Iterator[Completion]]


def _asked(answers: Answers, asking: Asking) -> _Completes:
    return lambda samples: answers((asking.question(sample), sample.images) for sample in samples)


def _continued(continues: Continues, asking: Asking) -> _Completes:
    """Completions that begin with each row's forced answer; their tokens are those that the policy added."""

    def complete(samples: Sequence[Sample]) -> Iterator[Completion]:
        begun = [asking.strategy.begun(sample.extra[FORCED]) for sample in samples]
        prompts = ((asking.question(sample), sample.images, text) for sample, text in zip(samples, begun, strict=True))
        for text, added in zip(begun, continues(prompts), strict=True):
            yield replace(added, text=text + added.text)

    return complete


def _answer(complete: _Completes, samples: Sequence[Sample], asking: Asking, run: Run, file: str, title: str) -> None:
    """Append the records of those `samples` to `file` that it does not hold yet."""
    run.trim(file)
    done = {_key(record.sample) for record in read_records(run, file)}
    waiting = [sample for sample in samples if _key(sample) not in done]
    read, started = asking.reading, time.perf_counter()
    with bar(title, len(waiting)) as tick:
        for sample, completion in zip(waiting, complete(waiting), strict=True):
            ended = time.perf_counter()
            parsed, verdict = read(sample, completion.text)
            record = Record(
                sample=sample,
                prompt=asking.question(sample),
                completion=completion.text,
                parsed=parsed,
                verdict=verdict,
                strategy=asking.strategy.of(sample).name,
                tokens=completion.tokens,
                truncated=completion.truncated,
                seconds=round(ended - started, 4),
                blind=asking.floor.credits(sample) if asking.floor else {},
            )
            run.append(file, record.to_json())
            started = ended
            tick("")


def _score_thoughts(load: Callable[[], Losses], run: Run) -> None:
    """Append the loss and the tokens of those thoughts to `perplexity.jsonl` that it does not hold yet."""
    run.trim("perplexity")
    done = {row["id"] for row in run.rows("perplexity")}
    thoughts = {record.sample.id: thought_in(record.completion) for record in read_records(run)}
    waiting = {row: thought for row, thought in thoughts.items() if thought and row not in done}
    if waiting:
        with bar(f"Perplexity of {run.name}", len(waiting)) as tick:
            for row, (loss, tokens) in zip(waiting, load()(list(waiting.values())), strict=True):
                run.append("perplexity", {"id": row, "loss": loss, "tokens": tokens})
                tick("")


def _key(sample: Sample) -> tuple[str, str]:
    """Ids differ within a control."""
    return str(sample.extra.get("control", "")), sample.id
