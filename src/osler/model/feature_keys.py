"""By what a feature is known again: all that it was made with, and the hash of the image that it is of."""

import hashlib
import json
import os
import stat
from itertools import chain
from typing import Any

import PIL
import torch
import transformers
from PIL.Image import Image

from osler.errors import DataError
from osler.images import PHANTOM, open_image, underlying
from osler.model.attention import base_model
from osler.model.family import VLM

ImageLike = str | Image
"""A reference (osler.images) or an image."""

FORMAT = 2
"""Changed when what is in a file of features, or how an image is opened, changes."""


def describe(vlm: VLM, device: torch.device | None = None) -> dict[str, Any]:
    """Everything that a feature depends on but the image: by its hash the features' folder is called.

    Versions and the device's name are in it, as another kernel rounds otherwise; `device` is the tower's unless it is given.
    """
    visual, processor = base_model(vlm.model).model.visual, vlm.processor.image_processor
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, transformers, PIL)]
    return {
        "format": FORMAT,
        "vision_weights": _weights_hash(visual),
        "vision_config": json.loads(visual.config.to_json_string()),
        "attention": visual.config._attn_implementation,
        "processor": json.loads(processor.to_json_string()),
        "backend": [type(processor).__name__, *versions],
        "dtype": str(visual.dtype),
        "device": _hardware(device or visual.device),
    }


class Digests:
    """The hash of a file's bytes, or of the pixels of what is no file. A file is read once, and again when it has changed.

    Blank images and noise go by their pixels: those that look alike are one image, so that few are computed of many.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...] | None, str]] = {}

    def of(self, image: ImageLike) -> str:
        """The hash of `image`. Errors: DataError where it cannot be read."""
        if not isinstance(image, str):
            return _pixel_hash(opened(image))
        stamp, known = _stamp(image), self._known.get(image)
        if known is None or known[0] != stamp:
            is_file = stamp is not None and underlying(image) == image
            known = self._known[image] = (stamp, _file_hash(image) if is_file else _pixel_hash(open_image(image)))
        return known[1]


def opened(image: ImageLike) -> Image:
    """The RGB image. Errors: DataError where it cannot be opened."""
    if isinstance(image, str):
        return open_image(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _weights_hash(module: Any) -> str:
    """The hash of weights and buffers, also of those that no checkpoint holds (RoPE's frequencies); one at a time in RAM."""
    digest = hashlib.sha256()
    for name, weight in sorted(chain(module.named_parameters(), module.named_buffers())):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _stamp(reference: str) -> tuple[int, ...] | None:
    """What changes when the file that `reference` is, or is made from, is written or replaced; None where there is none."""
    path = underlying(reference)
    if path.startswith(PHANTOM):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def _file_hash(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError.at(path, None, f"the image cannot be read ({error.strerror}).", "Check its rights.") from error


def _pixel_hash(image: Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
