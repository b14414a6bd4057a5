"""The most memory that a piece of work took: of the GPU, or of this process on a CPU."""

import gc
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

MB = 1 << 20


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, Any]]:
    """After the block, the largest memory inside it, in MB: over what there was before (peak_mb), in all (peak_total_mb), and
    what there was before (idle_mb). On a GPU what torch has reserved there, else the resident memory of this process."""
    found: dict[str, Any] = {}
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_reserved()
        yield found
        peak = torch.cuda.max_memory_reserved()  # with what captured graphs hold, which counts as free between their runs
    else:
        idle = psutil.Process().memory_info().rss
        with _resident() as seen:
            yield found
        peak = seen[0]
    found |= {"peak_mb": round((peak - idle) / MB, 1), "peak_total_mb": round(peak / MB, 1), "idle_mb": round(idle / MB, 1)}


@contextmanager
def _resident() -> Iterator[list[int]]:
    """After the block, the largest resident size of this process inside it: the kernel's own mark where there is one, else
    the largest of samples taken every few milliseconds."""
    seen = [0]
    if _reset_mark():
        yield seen
        seen[0] = _mark()
        return
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(seen, stop), daemon=True)
    sampler.start()
    try:
        yield seen
    finally:
        stop.set()
        sampler.join()


def _reset_mark() -> bool:
    """Set the kernel's high-water mark of resident memory back; whether that can be done (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _mark() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _sample(seen: list[int], stop: threading.Event) -> None:
    process = psutil.Process()
    while not stop.is_set():
        seen[0] = max(seen[0], process.memory_info().rss)
        time.sleep(0.005)
