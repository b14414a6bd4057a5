"""The processor that prompts are checked with, and how long they may be. No weights are loaded."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import transformers
from transformers import AutoConfig

from osler.config import ImageSettings
from osler.errors import ModelError
from osler.model.adapters import is_model, peft_base, split_step, weights_of
from osler.model.endpoint import ENDPOINT
from osler.model.family import VLM
from osler.model.load import TINY, family_of, load_processor
from osler.model.prompts import token_ids
from osler.runs import Run


@dataclass(frozen=True)
class Target:
    """A processor, by the `name` of its model, and the longest prompt in tokens; None where that is not judged."""

    name: str
    vlm: VLM
    budget: int | None

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The tokens that stand for no text: a question that holds one would break its prompt."""
        tokens = self.vlm.processor.tokenizer.added_tokens_decoder.values()
        return tuple(sorted(str(token) for token in tokens if token.special))

    @cached_property
    def key(self) -> str:
        """A hash of all that a prompt's tokens depend on but its row."""
        processor = self.vlm.processor
        parts = (processor.tokenizer.backend_tokenizer.to_str(), processor.tokenizer.chat_template)
        digest = hashlib.sha256("\n".join((*map(str, parts), transformers.__version__)).encode())
        digest.update(processor.image_processor.to_json_string().encode())
        return f"{digest.hexdigest()} {self.budget}"

    def patches(self, size: tuple[int, int]) -> int:
        """The patches, before merging, that the processor makes of an image of this width and height in pixels."""
        count: int = self._patches(size)
        return count

    @cached_property
    def _patches(self) -> Any:
        processor = self.vlm.processor.image_processor
        return lru_cache(4096)(lambda size: int(processor.get_number_of_image_patches(size[1], size[0])))

    def tokens(self, text: str, patches: list[int]) -> tuple[int, int, int]:
        """Of the prompt that asks `text` about images of so many `patches`: its tokens, those of its images, and its features.

        Errors: DataError where the text holds the token that stands for an image.
        """
        ids = token_ids(self.vlm, text, [(1, 1, count) for count in patches])
        merged = self.vlm.processor.image_processor.merge_size**2
        return len(ids), ids.count(self.vlm.processor.image_token_id), sum(count // merged for count in patches)


def load_target(spec: str, images: ImageSettings, max_tokens: int | None) -> Target:
    """The processor of the model `spec`; a prompt leaves room for `max_tokens` in what the model can hold, None for any length.

    Errors: ModelError or RunError where `spec` names no model, or one that is not here.
    """
    path = checkpoint_of(spec)
    family = family_of(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    longest: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    budget = None if longest is None or max_tokens is None else longest - max_tokens
    return Target(spec, VLM(spec, None, load_processor(path, images), family), budget)


def checkpoint_of(spec: str) -> str:
    """The folder, or the hub's name, of the checkpoint whose processor the model `spec` uses. Errors: ModelError, RunError."""
    if spec.startswith("run:"):
        folder, step = split_step(spec.removeprefix("run:"))
        recipe, weights = Run.open(folder, "train").manifest["recipe"], weights_of(folder, step)
        return str(weights) if is_model(weights) else checkpoint_of(recipe["init"] or recipe["model"])
    if spec.startswith("peft:"):
        return checkpoint_of(peft_base(spec))
    if spec.startswith(ENDPOINT):
        raise ModelError(
            f"{spec}: how an endpoint cuts text into tokens is not known. Name its checkpoint, a folder or hub name."
        )
    return str(TINY) if spec == "tiny" else spec
