"""The size at which a model sees an image: the rule of the image processor of Qwen2-VL and Qwen2.5-VL, as plain arithmetic.

Sides are whole numbers of units (a unit is a merged patch, 28 pixels), as near to the image's own as may be, and the area keeps
to the budget. Nothing heavy is loaded, unless it is for the budget of a recipe's own model.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from osler.config import Chain, ImageSettings, Recipe
from osler.errors import DataError, RecipeError
from osler.images import MOST_ELONGATED

UNIT_PX = 28
"""The side of a merged patch in pixels: patches of 14, two by two; of Qwen2-VL and Qwen2.5-VL."""


@dataclass(frozen=True)
class Budget:
    """How an image is scaled: the least and largest area in pixels, the side of a unit, and Pillow's number of the filter."""

    min_pixels: int
    max_pixels: int
    unit_px: int = UNIT_PX
    resample: int = int(Image.Resampling.BICUBIC)

    @classmethod
    def of(cls, images: ImageSettings) -> "Budget":
        """The budget of `images`, for a model that has no narrower one."""
        return cls(images.min_pixels, images.max_pixels)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height at which a model sees an image of `width` x `height`. Errors: DataError for one too narrow."""
        if max(width, height) > MOST_ELONGATED * min(width, height):
            raise DataError(f"it is {width} by {height} pixels, too narrow for the processor. Crop it.")
        rounded = self._units(round, width, height)
        if math.prod(rounded) > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            across, down = self._units(math.floor, width / shrink, height / shrink)
            return max(self.unit_px, across), max(self.unit_px, down)
        if math.prod(rounded) < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            return self._units(math.ceil, width * grow, height * grow)
        return rounded

    def settled(self, width: int, height: int) -> bool:
        """Whether the processor leaves an image as it is that has been scaled to `size_of`.

        It does not where a narrow image meets a small budget: its shorter side is held at one unit, so that the area is above
        the budget, and the longer side would shrink again.
        """
        size = self.size_of(width, height)
        return max(size) <= MOST_ELONGATED * min(size) and self.size_of(*size) == size

    def scaled(self, image: Image.Image) -> Image.Image:
        """What the processor makes the same of as of `image`: that, scaled; itself, where the processor would scale again."""
        if not self.settled(*image.size):
            return image
        size = self.size_of(*image.size)
        return image if size == image.size else image.resize(size, self.resample)

    def _units(self, to_whole: Any, width: float, height: float) -> tuple[int, int]:
        return to_whole(width / self.unit_px) * self.unit_px, to_whole(height / self.unit_px) * self.unit_px


def recipe_budget(loaded: Recipe | Chain) -> Budget:
    """The budget of the model that `loaded` trains: the recipe's, and never above the checkpoint's own.

    Errors: RecipeError where the stages of a chain have different ones; ModelError where the checkpoint has no processor.
    """
    found: dict[str, Budget] = {}
    starts: dict[str, str] = {}
    for name, recipe in (loaded.stages if isinstance(loaded, Chain) else {"": loaded}).items():
        starts[name] = _start(recipe, starts)
        found[name] = _budget(starts[name], recipe.images)
    first, *others = set(found.values())
    if others:
        said = "; ".join(f"{name}: {one.min_pixels} to {one.max_pixels}" for name, one in found.items())
        raise RecipeError(f"the stages see images in different sizes ({said}). Prepare for one of them: --max-pixels N.")
    return first


def _start(recipe: Recipe, starts: Mapping[str, str]) -> str:
    """The model that `recipe` starts from; after an earlier stage, what that one started from. Errors: RecipeError."""
    start = recipe.init or recipe.model
    if not start.startswith("stage:"):
        return start
    if (name := start.removeprefix("stage:")) not in starts:
        raise RecipeError(f"init {start!r} is no earlier stage; there are {list(starts) or 'none'}.")
    return starts[name]


def _budget(start: str, images: ImageSettings) -> Budget:
    from osler.model.load import load_processor

    processor: Any = load_processor(_checkpoint(start), images).image_processor
    size, unit = processor.size, processor.patch_size * processor.merge_size
    return Budget(size["shortest_edge"], size["longest_edge"], unit, int(processor.resample))


def _checkpoint(spec: str) -> str:
    """The folder or the hub name of the checkpoint whose processor a policy `spec` has. Errors: ModelError, RunError."""
    from osler.model.adapters import is_model, peft_base, split_step, weights_of
    from osler.model.load import TINY
    from osler.runs import Run

    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        weights: Path = weights_of(folder, step)
        recipe = Run.open(folder, "train").manifest["recipe"]
        return str(weights) if is_model(weights) else _checkpoint(recipe["init"] or recipe["model"])
    if spec.startswith("peft:"):
        return _checkpoint(peft_base(spec))
    return str(TINY) if spec == "tiny" else spec
