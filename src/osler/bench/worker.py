"""Measurements in a process of their own: `python -m osler.bench.worker`, a job as JSON on stdin, its result on stdout.

A job is {"job": "memory", "settings": {...}, "engine": "packed"} or the like; `run_job` starts it and waits.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from osler.errors import OslerError
from osler.memory import peak_memory

TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""For glibc: what is freed leaves the process at once, so that its resident memory is what it uses."""

OUT_OF_MEMORY = "out of memory"


class OutOfMemory(OslerError):
    """The device has not the memory that a measurement needs."""


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """What `work` makes of `job`, in a process of its own. Errors: OutOfMemory; OslerError where it fails otherwise."""
    command = [sys.executable, "-m", "osler.bench.worker"]
    ended = subprocess.run(command, input=json.dumps(job), env=os.environ | TIDY, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return result
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    if (
        "OutOfMemoryError" in ended.stderr or ended.returncode == -9
    ):  # where a capture runs out of memory, another error is last
        raise OutOfMemory(f"the measurement of {job.get('engine')} ran out of memory. Choose fewer groups or a smaller G.")
    raise OslerError(f"the measurement {job['job']} of {job.get('engine')} failed: {last}")


def work(job: dict[str, Any]) -> dict[str, Any]:
    """The result of `job`, in this process."""
    from osler.bench.parity import parity
    from osler.bench.workload import BenchSettings, Workload
    from osler.model.family import set_threads

    settings = BenchSettings(**job["settings"])
    set_threads(settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(settings, Path(folder))
        if job["job"] == "parity":
            return dict(parity(workload))
        return memory(workload, job["engine"], **job["options"])


def memory(workload: Any, engine: str, **options: Any) -> dict[str, Any]:
    """peak_mb: the peak over idle of making the engine and of two steps; peak_total_mb: with what was there before."""
    from osler.bench.engines import made_engine

    loaded = workload.load()
    _touch(loaded)
    workload.load = lambda dtype=None: loaded
    lengths = [workload.settings.lengths.draw(workload.settings.groups, workload.settings.G, step) for step in range(2)]
    with peak_memory(loaded.device.type) as found, made_engine(engine, workload, **options) as made:
        for lengths_PG in lengths:
            made.step(lengths_PG)
    return found


def _touch(vlm: Any) -> None:
    """A forward and a backward of eight tokens, so that the libraries' own memory is there already."""
    import torch

    ids = torch.arange(20, 28, device=vlm.device)[None]
    embeds = vlm.model.get_input_embeddings()(ids).detach().requires_grad_()
    vlm.model(inputs_embeds=embeds, position_ids=torch.arange(8, device=vlm.device).expand(3, 1, -1)).logits.sum().backward()
    for weight in vlm.model.parameters():
        weight.grad = None


if __name__ == "__main__":
    print(json.dumps(work(json.loads(sys.stdin.read()))))
