"""How long a model takes to answer and how much memory: measured in a process of its own, one row at a time.

`python -m osler.exporting.answering` takes a job as JSON on stdin and gives its result on stdout; `answered` starts it and
waits. The model is loaded once and generates as transformers does it, without osler's engine, so that the numbers are those of
whoever loads the folder. A row's seconds are prefill (the vision tower with it) and decode; opening and scaling the image is
not in them, nor is the first answer, which makes what a library makes once.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.config import ImageSettings
from osler.errors import ModelError
from osler.memory import peak_memory


@dataclass(frozen=True)
class Job:
    """Which model answers which prompts (text, image references), how."""

    model: str
    prompts: tuple[tuple[str, tuple[str, ...]], ...]
    max_tokens: int
    images: ImageSettings
    dtype: str = "auto"
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "images": self.images.model_dump()}


@dataclass(frozen=True)
class Answered:
    """Completions in the order of the prompts, the seconds and tokens of each, the peak while answering, and the device."""

    completions: tuple[str, ...]
    seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    peak_mb: float
    device: str


def answered(job: Job) -> Answered:
    """What came of `job`, in a fresh process. Errors: ModelError where that fails, or runs out of memory."""
    command = [sys.executable, "-m", "osler.exporting.answering"]
    given = json.dumps(job.to_json())
    ended = subprocess.run(command, input=given, env=dict(os.environ), capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        found = json.loads(ended.stdout.splitlines()[-1])
        texts, seconds, tokens = (tuple(found[name]) for name in ("completions", "seconds", "tokens"))
        return Answered(texts, seconds, tokens, found["peak_mb"], found["device"])
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    if "OutOfMemoryError" in ended.stderr or ended.returncode == -9:
        raise ModelError(f"{job.model} ran out of memory when it answered one row at a time. Free the device's memory.")
    raise ModelError(f"{job.model} could not be measured: {last}")


def work(job: dict[str, Any]) -> Answered:
    """The result of `job`, in this process."""
    from osler.model.family import set_threads
    from osler.model.load import load_policy

    set_threads(job["threads"])
    vlm = load_policy(job["model"], ImageSettings(**job["images"]), job["dtype"])
    prompts, longest = job["prompts"], job["max_tokens"]
    with peak_memory(vlm.device.type) as memory:
        _answer(vlm, prompts[0], longest)
        answers = [_answer(vlm, prompt, longest) for prompt in prompts]
    texts, seconds, tokens = zip(*answers, strict=True)
    return Answered(texts, seconds, tokens, memory["peak_total_mb"], vlm.hardware)


def _answer(vlm: Any, prompt: tuple[str, Sequence[str]], max_tokens: int) -> tuple[str, float, int]:
    """The greedy completion of one prompt, its seconds from prefill to the last token, and its tokens."""
    from osler.images import open_image
    from osler.model.prompts import processor_inputs

    text, images = prompt
    inputs = processor_inputs(vlm, [(text, [open_image(image) for image in images])])
    started = time.perf_counter()
    output = vlm.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, suppress_tokens=vlm.banned_ids)
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()  # waits for the device
    ended = time.perf_counter()
    return vlm.processor.tokenizer.decode(ids, skip_special_tokens=True), ended - started, len(ids)


if __name__ == "__main__":
    print(json.dumps(asdict(work(json.loads(sys.stdin.read())))))
