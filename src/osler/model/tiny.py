"""The embedded model: a Qwen2-VL of 1.5 million parameters, in the real checkpoint's layout, taught to describe phantoms.

`python -m osler.model.tiny` (or `make tiny-model`) builds it from nothing in some minutes on one CPU core and writes
`osler/assets/tiny`: config.json, model.safetensors (fp16), tokenizer.json, preprocessor_config.json, generation_config.json,
and training.json with seeds, settings, the learning curve and the weights' hash.

It learns three things, and never sees a question about a phantom, nor a phantom of the quickstart:

    caption    phantoms of the `pretrain` split, described in a sentence each
    repeat     random text that repeats itself at a random distance (induction)
    match      made-up options of random text, one of them named in the thought: give its letter, or its text
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from osler.datasets.phantoms import caption, samples
from osler.drawing import phantom_case
from osler.images import open_image
from osler.model.load import TINY, VLM, Family, ImageOnlyProcessor, chat
from osler.schema import LETTERS
from osler.strategies import STRATEGIES

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CAPTION_REQUEST = "Describe the image."

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def build_tokenizer(vocabulary: int = 800) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about `vocabulary` tokens, learnt on the words that phantoms and instructions use, with Qwen's
    special tokens; the tags of the strategies are one token each, but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def _words() -> Iterator[str]:
    """Text of the domain for the tokenizer; which phantoms it comes from does not matter, their words are all the same."""
    for sample in samples(0, {"pretrain": 240}):
        for strategy in STRATEGIES.values():
            yield strategy.question(sample, "letter") + f"\n{sample.rationale} {sample.golds[0]}"
            yield strategy.question(sample, "text") + f" {sample.golds[0]}. yes or no. the answer."
        yield caption(phantom_case(sample.images[0])) + CAPTION_REQUEST
        yield "system\nYou are a helpful assistant.\nuser\nassistant\n"


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL with random weights: hidden 128, 4 layers, 4 heads on 2 keys; vision 96 x 3; 56 px give 4 image tokens."""
    torch.manual_seed(seed)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "initializer_range": 0.08,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.05,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def build(seed: int = 0) -> VLM:
    """The untrained model with its processor, as `load_policy` would give it."""
    tokenizer = build_tokenizer()
    image_processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112)
    processor = ImageOnlyProcessor(image_processor, tokenizer, CHAT_TEMPLATE)
    return VLM("tiny", build_model(tokenizer, seed), processor, Family("Qwen2VLForConditionalGeneration", {}))
