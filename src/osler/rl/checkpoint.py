"""The state of a run in training, on disk: what inference needs, and what the next step depends on.

    RUN/checkpoints/STEP/                    the adapter in PEFT's layout, or the whole model
    RUN/checkpoints/STEP/state.safetensors   weights in full precision, the optimizer's moments, torch's random state
    RUN/checkpoints/STEP/state.json          the rest

A checkpoint is written beside its place and renamed, so that it is there whole or not at all. The two newest keep
their states.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from osler.errors import RunError
from osler.runs import Run, write_json

PARTS = {"steps", "tokens", "place", "optimizer", "random", "batch"}
"""What state.json holds."""

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and everything else as JSON."""


def save_checkpoint(run: Run, step: int, save_weights: Callable[[Path], None], state: State) -> None:
    """Write checkpoints/`step` whole; the states of all but the two newest are deleted, their weights stay."""
    folder = run.path / "checkpoints" / str(step)
    part = folder.with_name(f"{step}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_weights(part)
    tensors, rest = state
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part / "state.safetensors")
    write_json(part / "state.json", rest)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    for older in _with_state(run)[:-2]:
        for file in older.glob("state.*"):
            file.unlink()


def _with_state(run: Run) -> list[Path]:
    """The checkpoints that have a state, from the oldest to the newest."""
    found = [file.parent for file in (run.path / "checkpoints").glob("*/state.json") if file.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def load_state(run: Run) -> State | None:
    """The state of the newest checkpoint; None where there is none yet. Errors: RunError where it is damaged."""
    found = _with_state(run)
    if not found:
        return None
    folder = found[-1]
    advice = f"Remove this folder to go on from {found[-2].name}." if len(found) > 1 else "Train again into another folder."
    try:
        rest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if missing := sorted(PARTS - rest.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
        return load_file(folder / "state.safetensors"), rest
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder}: its state is damaged ({error}). {advice}") from error


def random_state() -> State:
    """The state of every generator that a user's reward might draw from."""
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    kind, keys, *place = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *place]}


def set_random_state(tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, keys, gauss = rest["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *place = rest["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *place))
