"""Greedy completions in batches, by transformers' own `generate`. (Group sampling with shared prompts comes with the packed
engine and replaces this body, not its signature.)"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from osler.model.family import VLM, chat

Prompt = tuple[str, Sequence[Any]]
"""The user's text, and the images (PIL, RGB) that stand before it."""


@dataclass(frozen=True)
class Completion:
    """A completion: its text without special tokens, its length in tokens with the end, and whether it was cut off."""

    text: str
    tokens: int
    truncated: bool


def generate(vlm: VLM, prompts: Sequence[Prompt], max_tokens: int, batch_size: int = 64) -> Iterator[Completion]:
    """One greedy completion a prompt, in order; special tokens other than the ends are banned."""
    for start in range(0, len(prompts), batch_size):
        yield from _batch(vlm, prompts[start : start + batch_size], max_tokens)


@torch.inference_mode()
def _batch(vlm: VLM, prompts: Sequence[Prompt], max_tokens: int) -> list[Completion]:
    inputs = encode(vlm, prompts)
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=vlm.end_ids,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
        suppress_tokens=vlm.banned_ids,
    )
    vlm.model.eval()
    ids_BT = vlm.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
    return [_completion(vlm, row) for row in ids_BT.tolist()]


def encode(vlm: VLM, prompts: Sequence[Prompt]) -> Any:
    """The model's inputs for `prompts`, left-padded, on its device."""
    tokenizer = vlm.processor.tokenizer
    texts = [
        tokenizer.apply_chat_template(chat(text, images), add_generation_prompt=True, tokenize=False)
        for text, images in prompts
    ]
    images = [list(images) for _, images in prompts] if any(images for _, images in prompts) else None
    return vlm.processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt").to(vlm.device)


def _completion(vlm: VLM, ids: list[int]) -> Completion:
    end = next((place for place, token in enumerate(ids) if token in vlm.end_ids), None)
    text: str = vlm.processor.tokenizer.decode(ids if end is None else ids[:end], skip_special_tokens=True)
    return Completion(text, len(ids) if end is None else end + 1, end is None)
