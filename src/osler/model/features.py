"""Vision features, computed once an image: kept in RAM under a budget and on disk as memory-mapped safetensors.

    FOLDER/VISION/about.json             what the features were made with
    FOLDER/VISION/IMAGE.safetensors      one image: `features` (N, D) and `grid` (temporal, height, width in patches)

VISION is a hash of all that a feature depends on but the image (`describe`); IMAGE is the hash of the file's bytes, or of the
pixels of an image that is no file. So a feature can be stale in no way but by damage: a file that does not fit its name, the
model or its own checksum is made again, and that is said. Each image goes through the tower by itself, cached or not: both ways
give the same bits.
"""

import hashlib
import json
import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from osler.config import FeatureSettings
from osler.errors import ModelError
from osler.model.attention import base_model
from osler.model.family import VLM
from osler.model.feature_files import MB, Room, cache_folder, read_about, write_whole
from osler.model.feature_keys import Digests, ImageLike, describe, opened
from osler.progress import bar, console

__all__ = ["FeatureStore", "Features", "ImageLike", "cache_folder", "describe", "image_features"]

MAPS = 16_384
"""Features that are kept as maps of their files; further ones are copied. Linux gives a process 65,530 maps for everything."""


@dataclass(frozen=True, eq=False)
class Features:
    """One image as the language model sees it: `values_ND`, N merged patches, on the CPU; `grid` in patches before merging.

    Where the tower or the merger is trained there are `pixels` instead, the tower's inputs, for the policy to send through it.
    """

    grid: tuple[int, int, int]
    values_ND: Tensor
    pixels: Tensor | None = None


class FeatureStore:
    """Features of images under one vision tower. Where `cached` is false (a tower that is `trained`, or features.cache=false)
    each is computed whenever it is asked for."""

    def __init__(self, vlm: VLM, settings: FeatureSettings | None = None, trained: bool = False) -> None:
        self.vlm, self.settings = vlm, settings or FeatureSettings()
        self.trained = trained
        self.cached = self.settings.cache is not False and not trained
        self._device: torch.device = _tower(vlm).device
        self._held: OrderedDict[str, Features] = OrderedDict()
        self._held_bytes = 0
        self._digest = Digests().of
        self._sound: set[str] = set()  # looked at on disk, or written, by this store
        self._said: set[str] = set()
        self._lost = False  # whether a feature had to be dropped that is nowhere else

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
            if isinstance(image, str) and self._digest(image) != digest:  # the file was changed meanwhile
                return self.of(image)
            self._write(digest, features)
        return self._hold(digest, features)

    def build(self, images: Iterable[ImageLike]) -> int:
        """Compute what is not kept yet of `images`, with progress; how many that were.

        It ends early, and says so, where neither RAM nor disk takes more: what came next would drop what came before.
        """
        images, made = list(images), 0
        if not (self.cached and images):
            return 0
        with bar("Vision features", len(images)) as tick:
            for number, image in enumerate(images, 1):
                if not self.holds([image]):
                    self.of(image)
                    made += 1
                    if self._lost:
                        self._say("lost", f"the features of {number - 1} of {len(images)} images are kept: features.ram_mb and "
                                  "features.disk_gb hold no more. Others are computed whenever they are used.")  # fmt: skip
                        break
                tick("")
        return made

    def holds(self, images: Iterable[ImageLike]) -> bool:
        """Whether none of `images` would have to be computed again. A file is looked at once, by its shape and length."""
        return self.cached and all(digest in self._held or self._on_disk(digest) for digest in map(self._digest, images))

    def grid(self, image: ImageLike) -> tuple[int, int, int]:
        """The patches of `image` before merging: temporal, height, width. Nothing goes through the tower."""
        temporal, height, width = self._inputs(image)["image_grid_thw"][0].tolist()
        return temporal, height, width

    def _inputs(self, image: ImageLike) -> Any:
        return self.vlm.processor.image_processor(images=[opened(image)], return_tensors="pt")

    @torch.no_grad()
    def _compute(self, image: ImageLike) -> Features:
        inputs = self._inputs(image)
        grid = tuple(inputs["image_grid_thw"][0].tolist())
        if self.trained:
            return Features(grid, torch.empty(0), inputs["pixel_values"])
        with _brought_to(self._device, _tower(self.vlm)):
            values_ND = image_features(self.vlm.model, inputs["pixel_values"], inputs["image_grid_thw"])
        return Features(grid, values_ND.cpu())

    def _hold(self, digest: str, features: Features) -> Features:
        """`features`, now kept in RAM; those that were used longest ago are dropped until the budget is kept."""
        size, budget = features.values_ND.nbytes, self.settings.ram_mb * MB
        if size > budget:
            self._lost = self._lost or not self._on_disk(digest)
            return features
        if len(self._held) >= MAPS:
            features = Features(features.grid, features.values_ND.clone())
        self._held[digest] = features
        self._held_bytes += size
        while self._held_bytes > budget:
            dropped, gone = self._held.popitem(last=False)
            self._held_bytes -= gone.values_ND.nbytes
            self._lost = self._lost or not self._on_disk(dropped)
        return features

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the features are made with."""
        return describe(self.vlm, self._device)

    @cached_property
    def folder(self) -> Path:
        """Where this tower's features are on disk; made when the first one is written."""
        return cache_folder(self.settings) / hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:24]

    @cached_property
    def _room(self) -> Room:
        return Room(self.folder.parent, int(self.settings.disk_gb * 1024 * MB))

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"

    def _on_disk(self, digest: str) -> bool:
        """Whether there are features on disk that fit, as far as can be told without reading them through."""
        known = digest in self._sound and os.path.isfile(self._file(digest))
        return known or self._read(digest, through=False) is not None

    def _read(self, digest: str, through: bool = True) -> Features | None:
        """The features on disk; None where there are none, or (said aloud) the file is damaged or of something else."""
        if not self.settings.disk_gb or not os.path.isfile(self._file(digest)):
            return None
        try:
            features = self._load(digest, through)
        except (OSError, ValueError, SafetensorError) as error:
            self._sound.discard(digest)
            self._say(digest, f"{self._file(digest)}: the features are damaged ({error}); they are made again.")
            return None
        self._sound.add(digest)
        return features

    def _load(self, digest: str, through: bool) -> Features:
        """The features in the file of `digest`, mapped. Errors: OSError, ValueError, SafetensorError."""
        with safe_open(self._file(digest), "pt") as stored:
            facts = stored.metadata() or {}
            if facts.get("made_for") != self._made_for(digest):
                raise ValueError("they are another image's, or of another vision tower")
            values_ND, grid = stored.get_tensor("features"), tuple(stored.get_tensor("grid").flatten().tolist())
        model, merged = base_model(self.vlm.model), self.vlm.processor.image_processor.merge_size**2
        wanted = (math.prod(grid) // merged, model.config.get_text_config().hidden_size)
        if len(grid) != 3 or min(grid) < 1 or values_ND.shape != wanted:
            raise ValueError(f"{list(values_ND.shape)} does not fit the grid {list(grid)} and this model's {list(wanted)}")
        if values_ND.dtype != model.model.visual.dtype:
            raise ValueError(f"{values_ND.dtype}, where this model computes in {model.model.visual.dtype}")
        if through and facts.get("crc32") != _checksum(values_ND, grid):
            raise ValueError("their checksum is another")
        return Features(grid, values_ND)

    def _write(self, digest: str, features: Features) -> None:
        if not self.settings.disk_gb:
            return
        tensors = {"features": features.values_ND.contiguous(), "grid": torch.tensor(features.grid)}
        checksum = _checksum(tensors["features"], features.grid)
        content = save(tensors, {"made_for": self._made_for(digest), "crc32": checksum})
        try:
            room = self._room.take(len(content))
            if room:
                self._make_folder()
                write_whole(self._file(digest), content)
        except OSError as error:
            raise ModelError(
                f"{self.folder}: vision features cannot be kept there ({error.strerror or error}). Make room, name another "
                "folder in features.folder or OSLER_CACHE, or set features.disk_gb=0 to keep them in RAM only."
            ) from error
        if room:
            self._sound.add(digest)
        else:
            self._say("full", f"{self.folder.parent} holds features.disk_gb={self.settings.disk_gb:g} GB already: further "
                      "features are kept in RAM only. Raise it, or make room with `osler cache clear`.")  # fmt: skip

    def _make_folder(self) -> None:
        """The folder with its about.json, which are also made again where somebody cleared the cache meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if read_about(self.folder).get("vision_weights") != self.about["vision_weights"]:
            about = json.dumps({"model": self.vlm.name, **self.about}, indent=2, ensure_ascii=False)
            write_whole(self.folder / "about.json", about.encode())

    def _made_for(self, digest: str) -> str:
        """What a file of features says that it is, so that a copy under another name is found out."""
        return f"{self.folder.name}/{digest}"

    def _say(self, what: str, text: str) -> None:
        """Say `text`, once for each `what`."""
        if what not in self._said:
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        self._said.add(what)


def image_features(model: Any, pixels: Tensor, grid_thw: Tensor) -> Tensor:
    """The merged features (N, D) of one image's patches, in the language model's dtype; on the tower's device."""
    inner = base_model(model).model
    device = inner.visual.device
    output = inner.get_image_features(pixels.to(device), grid_thw.to(device), return_dict=True)
    values_ND: Tensor = torch.cat(tuple(output.pooler_output))
    return values_ND


def _tower(vlm: VLM) -> Any:
    return base_model(vlm.model).model.visual


@contextmanager
def _brought_to(device: torch.device, tower: Any) -> Iterator[None]:
    """Inside, `tower` is on `device` again if it had left for the CPU: a feature is always computed in one place."""
    away = tower.device.type == "cpu" and device.type != "cpu"
    if away:
        tower.to(device)
    try:
        yield
    finally:
        if away:
            tower.to("cpu")


def _checksum(values_ND: Tensor, grid: tuple[int, ...]) -> str:
    content: Any = values_ND.view(torch.uint8).numpy()
    return str(zlib.crc32(content, zlib.crc32(repr(grid).encode())))
