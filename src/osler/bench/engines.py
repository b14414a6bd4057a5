"""The engines as they are measured: the product's own paths with lengths forced, rewards scripted and a clock on each phase."""

import queue
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PrinterCallback, TrainerCallback
from trl import GRPOConfig
from trl.trainer import utils as trl_utils

from osler.bench.workload import ScriptedRewards, Workload
from osler.grading import grader
from osler.model.adapters import lora_config
from osler.model.attention import base_model
from osler.model.family import set_threads
from osler.model.generate import Generator
from osler.rl.engine import Engine
from osler.rl.trl_engine import RecordingTrainer, TotalReward, grpo_fields, prompt_rows
from osler.rl.trl_trainer import build_config, machine_fields

LengthsPG = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Phases:
    """Seconds of a step and of its phases. `processor_s` is the step's processor time, of all threads; `decode_s` is the part
    of the rollout after the prefill, where it is known."""

    step_s: float
    rollout_s: float
    reference_s: float
    update_s: float
    other_s: float
    processor_s: float
    decode_s: float | None = None


def now() -> float:
    """Seconds on a clock that is read once the GPU is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class ForcedGenerator(Generator):
    """A generator whose rows end where they are told to, and nowhere else. It counts the seconds of its decode steps."""

    lengths_PG: LengthsPG = ()
    decode_s = 0.0

    @classmethod
    def like(cls, generator: Generator, captured: bool | None = None) -> "ForcedGenerator":
        """One that samples as `generator` does, but for the ends, which are banned."""
        banned = (*generator.sampling.banned, *generator.ends)
        chosen = generator.captured if captured is None else captured
        return cls(generator.vlm, replace(generator.sampling, banned=banned), generator.max_tokens, generator.rows, chosen)

    def _add(self, row: Any, token: int, logp: float) -> bool:
        super()._add(row, token, logp)
        return bool(len(row.ids) == self.lengths_PG[row.request][row.completion])

    def _decode(self) -> list[Any]:
        started = time.perf_counter()
        ended = super()._decode()  # it ends with numbers on the host, so nothing is left running
        self.decode_s += time.perf_counter() - started
        return ended


class Packed:
    """The packed engine. At most `rows_a_forward` completions go through a forward, whole groups; with `by_group` a group's are
    generated at a time too, which takes less memory. `prepare_s`: LoRA, optimizer, and the vision features of every image."""

    def __init__(self, work: Workload, rows_a_forward: int, by_group: bool = False, dtype: str | None = None) -> None:
        vlm = work.load(dtype)
        samples, judge, recipe = work.samples(vlm), grader("text"), work.recipe(rows_a_forward, by_group)
        started = now()
        self.engine = Engine(recipe, vlm, samples, work.strategy, judge)
        self.prepare_s = now() - started
        self.engine.roller.scorer = ScriptedRewards(recipe, work.strategy, judge)
        self.engine.roller.generator = self.generator = ForcedGenerator.like(self.engine.roller.generator)

    def __enter__(self) -> "Packed":
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to stop."""

    def step(self, lengths_PG: LengthsPG, cached: bool = True) -> Phases:
        """One optimizer step; with `cached` false every image goes through the vision tower again."""
        self.generator.lengths_PG, self.generator.decode_s = lengths_PG, 0.0
        with self._tower(cached):
            started, processor = now(), time.process_time()
            metrics, _ = self.engine.step()
            step_s, processor_s = now() - started, time.process_time() - processor
        reference_s, update_s, other_s = (metrics.get(name, 0.0) for name in ("reference_s", "update_s", "reward_s"))
        update_s += step_s - metrics["step_time"]  # what the GPU still had to do
        rollout_s = step_s - reference_s - update_s - other_s
        return Phases(step_s, rollout_s, reference_s, update_s, other_s, processor_s, self.generator.decode_s)

    @contextmanager
    def _tower(self, cached: bool) -> Iterator[None]:
        """Inside, features are kept or not. The engine has let the tower go where it keeps them."""
        store = self.engine.store
        tower = base_model(self.engine.learner.vlm.model).model.visual
        home = tower.device
        try:
            store.cached = cached
            if not cached:
                tower.to(self.engine.learner.vlm.device)
            yield
        finally:
            store.cached = True
            tower.to(home)


class ScriptedTotal(ScriptedRewards, TotalReward):
    """TRL's reward function with scripted totals."""


class ForcedEnds(LogitsProcessor):  # type: ignore[misc]
    """Lets each row of TRL's generation end at its length, and nowhere else."""

    def __init__(self, lengths_B: Tensor, end_ids: Sequence[int]) -> None:
        self.lengths_B, self.end_ids, self.step = lengths_B, list(end_ids), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        scores = scores.clone()
        scores[:, self.end_ids] = -torch.inf
        ending = (self.lengths_B == self.step).nonzero()[:, 0]  # on the CPU: the GPU need not wait for it
        if len(ending):
            ending = ending.to(scores.device)
            scores[ending] = -torch.inf
            scores[ending, self.end_ids[0]] = 0.0
        return scores


class TimedTrainer(RecordingTrainer):
    """TRL's trainer with a clock; nothing of the algorithm is changed."""

    lengths_PG: LengthsPG = ()
    end_ids: Sequence[int] = ()

    def begin(self) -> None:
        """Set the clock at the beginning of a step."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.began, self.processor = now(), time.process_time()
        self.sampling_from: float | None = None

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = now()
        yield
        self.seconds[name] += now() - started

    def _generate(self, prompts: list[Any]) -> Any:
        lengths_B = torch.tensor([length for lengths_G in self.lengths_PG for length in lengths_G])
        chosen_B = lengths_B[self._done : self._done + len(prompts)]  # fewer than all where it generates group by group
        self._done = (self._done + len(prompts)) % len(lengths_B)
        base = base_model(self.model)
        own = type(base).generate

        def generate(**inputs: Any) -> Any:
            return own(base, logits_processor=LogitsProcessorList([ForcedEnds(chosen_B, self.end_ids)]), **inputs)

        base.generate = generate
        with self._clock("rollout_s"):
            return super()._generate(prompts)

    _done = 0

    def _get_per_token_logps_and_entropies(self, *inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*inputs, **named)
        with self._clock("reference_s"):
            return super()._get_per_token_logps_and_entropies(*inputs, **named)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.sampling_from = self.sampling_from or now()
        with self._clock("sampling"):
            return super()._generate_and_score_completions(inputs)

    def phases(self) -> Phases:
        """The step that ends now."""
        step_s = now() - self.began
        opening_s = (self.sampling_from or self.began) - self.began
        update_s = step_s - opening_s - self.seconds["sampling"]
        rollout_s, reference_s = self.seconds["rollout_s"], self.seconds["reference_s"]
        other_s = step_s - rollout_s - reference_s - update_s
        return Phases(step_s, rollout_s, reference_s, update_s, other_s, time.process_time() - self.processor)


class Gate(TrainerCallback):  # type: ignore[misc]
    """Holds TRL's training loop between two steps until the next one is asked for."""

    def __init__(self) -> None:
        self.asked: queue.Queue[bool] = queue.Queue()
        self.ended: queue.Queue[Phases | None] = queue.Queue()
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first step."""
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand the step over, and wait for the next."""
        self.ended.put(self.trainer.phases())
        self._wait(control)

    def _wait(self, control: Any) -> None:
        if not self.asked.get():
            control.should_training_stop = True
            self.asked.put(False)  # should it come here again
        else:
            self.trainer.begin()


class Trl:
    """TRL's trainer, with the settings of `Packed`, but that a forward may also take a part of a group. Its training loop runs
    in a thread of its own, of which one step is let through at a time."""

    def __init__(self, work: Workload, rows_a_forward: int, by_group: bool = False, dtype: str | None = None) -> None:
        vlm = work.load(dtype)
        recipe, samples = work.recipe(rows_a_forward), work.samples(vlm)
        self.gate = Gate()
        fields = grpo_fields(recipe)
        if by_group:
            fields["steps_per_generation"] = max(1, recipe.rollout.G // rows_a_forward)  # a whole group is the least it takes
        banned = {"generation_kwargs": {"suppress_tokens": vlm.banned_ids}}
        self.trainer = self.gate.trainer = TimedTrainer(
            model=vlm.model,
            processing_class=vlm.processor,
            reward_funcs=ScriptedTotal(recipe, samples, work.strategy, grader("text")),
            args=build_config(GRPOConfig, recipe, fields | banned | machine_fields(vlm, work.folder)),
            train_dataset=prompt_rows(recipe, samples, work.strategy),
            peft_config=lora_config(vlm, recipe.lora),
            callbacks=[self.gate],
        )
        self.trainer.end_ids = vlm.end_ids
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.on_rollouts = lambda advantages, step: None
        self.threads = recipe.threads

    _running: Future[Any]

    def __enter__(self) -> "Trl":
        self._pool = ThreadPoolExecutor(1, initializer=set_threads, initargs=(self.threads,))
        self._running = self._pool.submit(self.trainer.train)
        self._running.add_done_callback(lambda _: self.gate.ended.put(None))
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.asked.put(False)
        self._pool.shutdown()

    def step(self, lengths_PG: LengthsPG, scored_head: bool = False) -> Phases:
        """One optimizer step. With `scored_head` the LM head runs on completions only on a CPU too, as it does on a GPU."""
        self.trainer.lengths_PG = lengths_PG
        own = trl_utils._use_triton
        try:
            if scored_head:
                trl_utils._use_triton = lambda device: True
            self.gate.asked.put(True)
            phases = self.gate.ended.get()
        finally:
            trl_utils._use_triton = own
        if phases is None:
            self._running.result()  # raises what stopped it
            raise RuntimeError("TRL ended its training by itself.")
        return phases


def made_engine(name: str, work: Workload, rows_a_forward: int, by_group: bool = False) -> Packed | Trl:
    """The engine called `name`, to be entered."""
    return Packed(work, rows_a_forward, by_group) if name == "packed" else Trl(work, rows_a_forward, by_group)
