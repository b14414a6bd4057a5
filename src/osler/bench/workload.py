"""What the engines are measured on: the same model, images, prompts, lengths of completions and rewards for all of them.

A model of the real size (`--model-config`) has random weights and the embedded model's tokenizer: its vocabulary keeps its
size, and the ids of its special tokens are those of that tokenizer, so that every engine goes its ordinary way from text.
"""

import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from PIL import Image
from pydantic import Field, ValidationError
from transformers import CONFIG_MAPPING, GenerationConfig, Qwen2VLImageProcessorPil

from osler.config import ImageSettings, Recipe, Settings
from osler.errors import RecipeError, unknown
from osler.images import open_image
from osler.model.family import FAMILIES, VLM
from osler.model.load import TINY, dtype_of, load_policy, load_processor
from osler.model.prompts import token_ids
from osler.rl.scoring import GRID, Scorer
from osler.schema import Kind, Sample
from osler.strategies import STRATEGIES

MODELS = TINY.parent / "models"
"""Configurations of the real models, from their published figures, and their image processor's."""

KNOWN_ENGINES = ("packed", "trl", "trl-vllm", "unsloth")
STEPS = 100_000
"""More optimizer steps than anybody measures."""

LARGEST_PX = 3584
"""A square image of this side is the largest that the models' own image processor lets through."""

LONGEST_PROMPT = 32_768
"""Tokens that the models were made for."""


class BenchSettings(Settings):
    """What is measured, and how. The defaults take minutes on a CPU."""

    engines: tuple[str, ...] = Field(("packed", "trl"), min_length=1)
    model: str = "tiny"
    image_px: int = Field(448, ge=56, le=LARGEST_PX)
    prompt_tokens: int = Field(390, gt=0, le=LONGEST_PROMPT)
    completion: str = "64"
    G: int = Field(8, ge=2)
    groups: int = Field(4, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    beta: float = Field(0.04, ge=0)
    checkpointing: bool = False
    rounds: int = Field(5, ge=1)
    lora_r: int = Field(16, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    threads: int = Field(1, ge=1)

    @property
    def rows(self) -> int:
        """Completions a step."""
        return self.G * self.groups

    @property
    def lengths(self) -> "Lengths":
        """How long completions are."""
        return Lengths.parse(self.completion)


def settings_of(**options: Any) -> BenchSettings:
    """The settings that `options` ask for; None leaves a default. Errors: RecipeError that names the option."""
    try:
        settings = BenchSettings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}.") from error
    for engine in settings.engines:
        if engine not in KNOWN_ENGINES:
            raise RecipeError(unknown("engine", engine, KNOWN_ENGINES))
    if settings.model not in models():
        raise RecipeError(unknown("model configuration", settings.model, models()))
    Lengths.parse(settings.completion)
    return settings


def models() -> list[str]:
    """The models that can be measured: the embedded one, and those whose configuration is shipped."""
    return ["tiny", *sorted(file.stem for file in MODELS.glob("qwen*.json"))]


@dataclass(frozen=True)
class Lengths:
    """How many tokens completions have: `longest` all of them, or drawn around `mean` and cut off at `longest`."""

    longest: int
    mean: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """From `64` (all of them 64), or `80..256` (an exponential distribution of mean 80, cut off at 256)."""
        found = re.fullmatch(r"(?:([1-9]\d{0,5})\.\.)?([1-9]\d{0,5})", text)
        lengths = cls(int(found[2]), int(found[1]) if found[1] else None) if found else None
        if lengths is None or (lengths.mean or 0) > lengths.longest:
            raise RecipeError(
                f"completion={text!r} is no length: give a number of tokens (64), or the mean and the longest of a "
                "distribution (80..256)."
            )
        return lengths

    def draw(self, groups: int, G: int, seed: int) -> list[list[int]]:
        """A length for each completion of each group; the same for the same `seed`."""
        rng = random.Random(seed)
        return [[self._one(rng) for _ in range(G)] for _ in range(groups)]

    def _one(self, rng: random.Random) -> int:
        if self.mean is None:
            return self.longest
        return min(self.longest, max(1, math.ceil(-self.mean * math.log(1 - rng.random()))))


class Workload:
    """The settings made concrete, with images in `folder`: what every engine is given."""

    def __init__(self, settings: BenchSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.strategy = STRATEGIES["think"]

    def recipe(self, rows_a_forward: int, by_group: bool = False) -> Recipe:
        """The recipe that all engines run, at most so many completions a forward: whole groups, or for TRL a divisor of G as
        well. TRL's share of `by_group` is no setting of a recipe."""
        own = self.settings
        group_tokens = own.prompt_tokens + own.G * own.lengths.longest
        return Recipe(
            model=own.model,
            answer_form="text",
            objective={"beta": own.beta},
            lora={"r": own.lora_r, "alpha": 2 * own.lora_r},
            features={"disk_gb": 0},
            rollout={
                "G": own.G,
                "prompts_per_step": own.groups,
                "max_tokens": own.lengths.longest,
                "micro_batch": rows_a_forward,
                "rows": own.G if by_group else None,
            },
            micro_tokens=max(1, rows_a_forward // own.G) * group_tokens,
            checkpointing=own.checkpointing,
            max_steps=STEPS,
            save_steps=STEPS,
            lr_schedule="constant",
            dtype=own.dtype,
            threads=own.threads,
            seed=own.seed,
        )

    def load(self, dtype: str | None = None) -> VLM:
        """The model, the same weights each time, with room for images of the size that is asked for."""
        own, dtype = self.settings, dtype or self.settings.dtype
        vlm = load_policy("tiny", dtype=dtype) if own.model == "tiny" else random_policy(own.model, dtype, own.seed)
        vlm.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(MODELS)
        return vlm

    @cached_property
    def images(self) -> list[str]:
        """One drawn image for each group of a step, as a file."""
        return [self._draw(number) for number in range(self.settings.groups)]

    def _draw(self, number: int) -> str:
        side, file = self.settings.image_px, self.folder / f"{number}.png"
        if not file.exists():
            drawn = open_image(f"phantom:train/{self.settings.seed}/{number}")
            drawn.resize((side, side), Image.Resampling.BICUBIC).save(file)
        return str(file)

    def samples(self, vlm: VLM) -> list[Sample]:
        """One question an image, of as many words as the prompt needs. Errors: RecipeError where it is too short for them."""
        question = self._question(vlm)
        return [
            Sample(id=str(number), images=(image,), question=question, golds=("normal",), kind=Kind.OPEN)
            for number, image in enumerate(self.images)
        ]

    def grid(self, vlm: VLM) -> tuple[int, int, int]:
        """The patches of an image before merging: temporal, height, width."""
        made = vlm.processor.image_processor(images=[open_image(self.images[0])], return_tensors="pt")
        temporal, height, width = made["image_grid_thw"][0].tolist()
        return temporal, height, width

    def image_tokens(self, vlm: VLM) -> int:
        """Tokens of an image."""
        merged: int = vlm.processor.image_processor.merge_size**2
        return math.prod(self.grid(vlm)) // merged

    def prompt_length(self, vlm: VLM) -> int:
        """Tokens of a prompt; all have the same number."""
        return self._length(vlm, self.samples(vlm)[0].question, self.grid(vlm))

    def _length(self, vlm: VLM, question: str, grid: tuple[int, int, int]) -> int:
        sample = Sample(id="", images=(), question=question, golds=("",), kind=Kind.OPEN)
        return len(token_ids(vlm, self.strategy.question(sample, "text"), [grid]))

    def _question(self, vlm: VLM) -> str:
        """The longest question of whole words whose prompt has at most `prompt_tokens` tokens."""
        wanted, grid = self.settings.prompt_tokens, self.grid(vlm)
        words = "What does this image show? " + "Which anatomy is shown? Where is the lesion? How severe is it? " * wanted
        parts = words.split()

        def length(count: int) -> int:
            return self._length(vlm, " ".join(parts[:count]), grid)

        least = length(1)
        if least > wanted:
            raise RecipeError(
                f"prompt_tokens={wanted} is too few: an image of {self.settings.image_px} px and the instruction take {least} "
                "with a single word. Raise prompt_tokens, or lower image_px."
            )
        low, high = 1, wanted
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if length(middle) <= wanted else (low, middle - 1)
        return " ".join(parts[:low])


class ScriptedRewards(Scorer):
    """Rewards without regard to what was said: no two of a group are alike, so that no group could be skipped."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._script = script()

    def score(self, *asked: Any) -> list[list[dict[str, Any]]]:
        """As the recipe scores them, but for the totals."""
        return [[{**row, "reward": next(self._script)} for row in group] for group in super().score(*asked)]


def script() -> Iterator[float]:
    """Numbers in [0, 1) that never come twice in a row, on the grid of rewards: multiples of the golden ratio."""
    number = 0
    while True:
        number += 1
        yield int(number * 0.6180339887498949 % 1 * GRID) / GRID


def random_policy(name: str, dtype: str, seed: int) -> VLM:
    """A model of the real size of `name` with random weights, and the embedded model's tokenizer."""
    processor = load_processor(str(TINY), ImageSettings())
    raw = raw_config(name)
    tokenizer = processor.tokenizer
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in SPECIAL_IDS.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    with torch.device(device):
        model = build(raw | ids, dtype_of(dtype, device))
    ends = {"eos_token_id": [ids["eos_token_id"], ids["bos_token_id"]], "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)
    return VLM(name, model.eval(), processor, FAMILIES[raw["model_type"]])


SPECIAL_IDS = {
    "bos_token_id": "<|endoftext|>",
    "eos_token_id": "<|im_end|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}


def raw_config(name: str) -> dict[str, Any]:
    """The shipped configuration of `name`, or the embedded model's."""
    file = TINY / "config.json" if name == "tiny" else MODELS / f"{name}.json"
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def build(raw: dict[str, Any], dtype: torch.dtype) -> Any:
    """A model of the configuration `raw` with random weights, on the current device (`meta`: without weights)."""
    config = CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    model_class = getattr(transformers, FAMILIES[raw["model_type"]].model_class)
    return model_class._from_config(config, dtype=dtype, attn_implementation="sdpa")
