"""Vision features, computed once an image: kept in RAM under a budget and on disk as memory-mapped safetensors.

    FOLDER/VISION/about.json             what the features were made with
    FOLDER/VISION/IMAGE.safetensors      one image: `features` (N, D) and `grid` (temporal, height, width in patches)

VISION is a hash of the vision weights, the image processor and its backend, the dtype and the kind of device; IMAGE is the hash
of the file's bytes, or of the pixels of an image that is no file. So a feature can be stale in no way but by damage: a file
that does not fit its name is made again, and that is said. Each image goes through the tower by itself, cached or not: both
ways give the same bits.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from PIL.Image import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from osler.config import FeatureSettings
from osler.errors import ModelError
from osler.images import PHANTOM, open_image
from osler.model.attention import base_model
from osler.model.family import VLM
from osler.progress import bar, console
from osler.runs import write_json

ImageLike = str | Image
"""A reference (osler.images) or an RGB image."""

FORMAT = 1
"""Changed when what is in a file, or how an image is opened, changes."""

MB = 1 << 20


@dataclass(frozen=True, eq=False)
class Features:
    """One image as the language model sees it: `values_ND`, N merged patches, on the CPU; `grid` in patches before merging.

    `pixels` are the tower's inputs, kept only where the tower or the merger is trained and must see them again.
    """

    grid: tuple[int, int, int]
    values_ND: Tensor
    pixels: Tensor | None = None


class FeatureStore:
    """Features of images under one vision tower. `cached=False` computes each time anew, as a trained tower needs."""

    def __init__(self, vlm: VLM, settings: FeatureSettings | None = None, trained: bool = False) -> None:
        self.vlm, self.settings = vlm, settings or FeatureSettings()
        self.trained = trained
        self.cached = self.settings.cache is not False and not trained
        self._held: OrderedDict[str, Features] = OrderedDict()
        self._held_bytes = 0
        self._digests: dict[str, str] = {}

    def of(self, image: ImageLike) -> Features:
        """The features of `image`. Errors: DataError where it cannot be opened; ModelError where the disk refuses."""
        if not self.cached:
            return self._compute(image)
        digest = self._digest(image)
        if digest in self._held:
            self._held.move_to_end(digest)
            return self._held[digest]
        features = self._read(digest)
        if features is None:
            features = self._compute(image)
            self._write(digest, features)
        self._hold(digest, features)
        return features

    def build(self, images: Iterable[ImageLike]) -> int:
        """Compute what is not on disk yet of `images`, with progress; how many that were."""
        waiting = [image for image in images if not self.holds([image])]
        if waiting:
            with bar("Vision features", len(waiting)) as tick:
                for image in waiting:
                    self.of(image)
                    tick("")
        return len(waiting)

    def holds(self, images: Iterable[ImageLike]) -> bool:
        """Whether none of `images` would have to be computed again."""
        if not self.cached:
            return False
        digests = map(self._digest, images)
        return all(d in self._held or (self.settings.disk_gb > 0 and self._file(d).is_file()) for d in digests)

    @torch.no_grad()
    def _compute(self, image: ImageLike) -> Features:
        opened = open_image(image) if isinstance(image, str) else image
        inputs = self.vlm.processor.image_processor(images=[opened], return_tensors="pt")
        values_ND = image_features(self.vlm.model, inputs["pixel_values"], inputs["image_grid_thw"])
        grid = tuple(inputs["image_grid_thw"][0].tolist())
        return Features(grid, values_ND.cpu(), inputs["pixel_values"] if self.trained else None)

    def _hold(self, digest: str, features: Features) -> None:
        self._held[digest] = features
        self._held_bytes += features.values_ND.nbytes
        while self._held_bytes > self.settings.ram_mb * MB and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= dropped.values_ND.nbytes

    def _digest(self, image: ImageLike) -> str:
        """The hash of a file's bytes, or of pixels; that of a reference is taken once."""
        if not isinstance(image, str):
            return _pixel_hash(image)
        if image not in self._digests:
            is_file = not image.startswith(PHANTOM) and Path(image).is_file()
            self._digests[image] = _file_hash(image) if is_file else _pixel_hash(open_image(image))
        return self._digests[image]

    @cached_property
    def folder(self) -> Path:
        """Where this tower's features are on disk, with about.json. Errors: ModelError where it cannot be made."""
        about = describe(self.vlm)
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        folder = cache_folder(self.settings) / key[:24]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "about.json", {"model": self.vlm.name, **about})
        except OSError as error:
            raise _no_room(folder, error) from error
        return folder

    @cached_property
    def _room(self) -> int:
        """Bytes that may still be written below the cache folder."""
        return int(self.settings.disk_gb * 1024 * MB) - folder_bytes(cache_folder(self.settings))

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"

    def _read(self, digest: str) -> Features | None:
        """The features on disk; None where there are none, or (said aloud) the file is damaged or of something else."""
        if not self.settings.disk_gb:
            return None
        file = self._file(digest)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("made_with") != self.folder.name:
                    raise ValueError("it was made with another vision tower")
                values_ND, grid = stored.get_tensor("features"), stored.get_tensor("grid").tolist()
            merged = self.vlm.processor.image_processor.merge_size**2
            if len(grid) != 3 or values_ND.shape[0] != grid[0] * grid[1] * grid[2] // merged:
                raise ValueError(f"{values_ND.shape[0]} features do not fill the grid {grid}")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            console.print(f"[yellow]{file}: the features are damaged ({error}); they are made again.[/]")
            return None
        return Features(tuple(grid), values_ND)

    def _write(self, digest: str, features: Features) -> None:
        if not self.settings.disk_gb:
            return
        size = features.values_ND.nbytes + 512
        if self._room < size:
            self._say_full()
            return
        file = self._file(digest)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            tensors = {"features": features.values_ND.contiguous(), "grid": torch.tensor(features.grid)}
            save_file(tensors, part, metadata={"made_with": self.folder.name})
            os.replace(part, file)
        except (OSError, SafetensorError) as error:
            raise _no_room(file, error) from error
        self.__dict__["_room"] -= size

    def _say_full(self) -> None:
        if not getattr(self, "_said_full", False):
            console.print(
                f"[yellow]{cache_folder(self.settings)} holds features.disk_gb={self.settings.disk_gb:g} GB already: further "
                "features are kept in RAM only. Raise it, or make room with `osler cache clear`.[/]"
            )
        self._said_full = True


def image_features(model: Any, pixels: Tensor, grid_thw: Tensor) -> Tensor:
    """The merged features (N, D) of one image's patches, in the language model's dtype; on the tower's device."""
    inner = base_model(model).model
    device = inner.visual.device
    output = inner.get_image_features(pixels.to(device), grid_thw.to(device), return_dict=True)
    values_ND: Tensor = torch.cat(tuple(output.pooler_output))
    return values_ND


def describe(vlm: VLM) -> dict[str, Any]:
    """Everything that a feature depends on but the image: by its hash the features' folder is called."""
    visual, processor = base_model(vlm.model).model.visual, vlm.processor.image_processor
    return {
        "format": FORMAT,
        "vision_weights": _weights_hash(visual),
        "vision_config": json.loads(visual.config.to_json_string()),
        "processor": json.loads(processor.to_json_string()),
        "backend": [type(processor).__name__, f"transformers {transformers.__version__}", f"pillow {PIL.__version__}"],
        "dtype": str(visual.dtype),
        "device": visual.device.type,
    }


def cache_folder(settings: FeatureSettings) -> Path:
    """Where features are kept: features.folder, else OSLER_CACHE, else ~/.cache/osler/features."""
    chosen = settings.folder or os.environ.get("OSLER_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "osler" / "features"


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _weights_hash(module: Any) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _file_hash(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pixel_hash(image: Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def _no_room(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: vision features cannot be kept there ({error}). Name another folder in features.folder or OSLER_CACHE, or "
        "set features.disk_gb=0 to keep them in RAM only."
    )
