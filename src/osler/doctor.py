"""What this machine has, and what keeps osler from using it."""

import os
import platform
import shutil
import subprocess
import sys
from typing import Any

import psutil

from osler.runs import environment


def examine() -> dict[str, Any]:
    """Versions, device and memory by name; `problems` holds one instruction for each thing to put right."""
    import torch

    gpus = visible_gpus()
    seen = torch.cuda.is_available()
    device = f"cuda: {torch.cuda.get_device_name()}" if seen else "cpu"
    memory = torch.cuda.get_device_properties(0).total_memory if seen else psutil.virtual_memory().total
    return {
        **environment()["versions"],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": device,
        "device_memory_gb": round(memory / 1024**3, 1),
        "free_disk_gb": round(shutil.disk_usage(".").free / 1024**3, 1),
        "gpus": gpus,
        "problems": gpu_problems(gpus, seen, torch.__version__, torch.version.cuda),
    }


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that the driver lists; none where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return ["nvidia-smi did not answer"]
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def gpu_problems(gpus: list[str], seen_by_torch: bool, version: str, cuda: str | None) -> list[str]:
    """What to do where the driver lists `gpus` that torch of this `version`, built for `cuda`, cannot see."""
    if not gpus or seen_by_torch:
        return []
    if cuda is None:
        install = f"{sys.executable} -m pip install --force-reinstall --no-cache-dir torch=={version.partition('+')[0]}"
        return [f"torch {version} has no CUDA. Install: {install}"]
    return [f"torch {version} is built for CUDA {cuda}, which the driver does not run. Update the driver, or install a torch "
            "for an older CUDA."]  # fmt: skip
