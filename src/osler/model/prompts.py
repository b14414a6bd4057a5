"""A prompt as the language model sees it: token ids, M-RoPE positions and the features of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from osler.errors import DataError
from osler.model.attention import base_model
from osler.model.family import VLM, chat
from osler.model.features import Features, FeatureStore, ImageLike

Prompt = tuple[str, Sequence[ImageLike]] | tuple[str, Sequence[ImageLike], str]
"""The user's text, and the images (references, or PIL) that stand before it; a third part is how the completion begins."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt of S tokens: `ids_S`, `positions_3S` (temporal, height, width), and its images in their order.

    A completion's first token has the position `next_position` on all three axes (Qwen2-VL, Wang et al. 2024, section 2.1).
    """

    ids_S: Tensor
    positions_3S: Tensor
    images: tuple[Features, ...]

    @property
    def length(self) -> int:
        """S, the number of tokens."""
        return len(self.ids_S)

    @property
    def next_position(self) -> int:
        """One beyond the largest position of the prompt."""
        return int(self.positions_3S.max()) + 1


def encode(vlm: VLM, store: FeatureStore, prompt: Prompt) -> Encoded:
    """`prompt` encoded, on the CPU; the features come from `store`. What its completion begins with is tokenised by itself.

    Errors: DataError where an image cannot be opened, or the text itself holds the token that stands for an image.
    """
    text, images = prompt[:2]
    features = tuple(store.of(image) for image in images)
    ids = token_ids(vlm, text, [one.grid for one in features])
    asked = Encoded(torch.tensor(ids), _positions(vlm, ids, [one.grid for one in features]), features)
    return (
        begun(asked, vlm.processor.tokenizer(prompt[2], add_special_tokens=False)["input_ids"]) if len(prompt) == 3 else asked
    )


def begun(prompt: Encoded, ids: Sequence[int]) -> Encoded:
    """`prompt` and the first tokens of its completion, `ids`, so that whoever completes it goes on from there.

    Hand in the ids that a model said itself to have it say the rest of it: text that is tokenised anew may be cut elsewhere.
    """
    added = torch.tensor(ids, dtype=prompt.ids_S.dtype)
    positions_3T = (prompt.next_position + torch.arange(len(added))).expand(3, -1)
    return Encoded(torch.cat([prompt.ids_S, added]), torch.cat([prompt.positions_3S, positions_3T], 1), prompt.images)


def processor_inputs(vlm: VLM, prompts: Sequence[tuple[str, Sequence[Image]]]) -> Any:
    """The model's inputs for rows of prompts as its own processor makes them: left-padded, on its device."""
    tokenizer = vlm.processor.tokenizer
    texts = [
        tokenizer.apply_chat_template(chat(text, images), add_generation_prompt=True, tokenize=False)
        for text, images in prompts
    ]
    images = [list(images) for _, images in prompts] if any(images for _, images in prompts) else None
    return vlm.processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt").to(vlm.device)


def token_ids(vlm: VLM, text: str, grids: Sequence[tuple[int, int, int]]) -> list[int]:
    """The token ids of the user's turn, an image token for each merged patch; the same as the processor's."""
    tokenizer, image = vlm.processor.tokenizer, vlm.processor.image_token
    if image in text:
        raise DataError(f"a question holds {image}, which stands for an image: {text[:80]!r}. Take it out.")
    parts = tokenizer.apply_chat_template(chat(text, grids), add_generation_prompt=True, tokenize=False).split(image)
    merged = vlm.processor.image_processor.merge_size**2
    counts = [grid[0] * grid[1] * grid[2] // merged for grid in grids]
    expanded = "".join(part + image * count for part, count in zip(parts, [*counts, 0], strict=True))
    ids: list[int] = tokenizer(expanded)["input_ids"]
    return ids


def _positions(vlm: VLM, ids: list[int], grids: Sequence[tuple[int, int, int]]) -> Tensor:
    ids_1S = torch.tensor([ids])
    is_image_1S = (ids_1S == vlm.processor.image_token_id).int()
    model: Any = base_model(vlm.model).model
    grid = torch.tensor(grids) if grids else None
    positions_31S, _ = model.get_rope_index(ids_1S, mm_token_type_ids=is_image_1S, image_grid_thw=grid)
    positions_3S: Tensor = positions_31S[:, 0]
    return positions_3S
