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
from osler.model.generate import generate
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
{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
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


class Curriculum:
    """Batches of the three tasks, as (token ids, labels, phantom numbers), drawn by one seeded generator."""

    def __init__(self, vlm: VLM, images: int, seed: int) -> None:
        self.tokenizer = vlm.processor.tokenizer
        self.rng = np.random.default_rng(seed)
        self.cases = [f"phantom:pretrain/{seed}/{index}" for index in range(images)]
        drawn = [vlm.processor.image_processor(open_image(case), return_tensors="pt") for case in self.cases]
        self.pixels = torch.stack([one["pixel_values"] for one in drawn])
        self.grids = torch.cat([one["image_grid_thw"] for one in drawn])
        image_tokens = int(self.grids[0].prod()) // vlm.processor.image_processor.merge_size**2
        self.caption_prompt = self._prompt(CAPTION_REQUEST, image_tokens)[0]
        self.before, self.behind = self._prompt("\0")
        self.words = [i for t, i in self.tokenizer.get_vocab().items() if i >= len(SPECIAL) and t not in TAGS]

    def caption(self, index: int) -> tuple[list[int], int]:
        """A phantom's prompt and description; the loss begins behind the prompt."""
        text = caption(phantom_case(self.cases[index])) + "<|im_end|>"
        return self.caption_prompt + self._ids(text), len(self.caption_prompt)

    def repeat(self) -> tuple[list[int], int]:
        """Random tokens that come a second time after a random gap; the loss is on the second time, less its first token."""
        before, once, gap = (self._random(*span) for span in ((0, 12), (2, 9), (0, 24)))
        return before + once + gap + once, len(before) + len(once) + len(gap) + 1

    def match(self) -> tuple[list[int], int]:
        """Made-up options, one of them restated in the thought: the loss is on the answer, by letter or by text."""
        options = [self._random(1, 4) for _ in range(self.rng.integers(2, 5))]
        chosen = int(self.rng.integers(len(options)))
        form = "letter" if self.rng.random() < 0.5 else "text"
        lines = self._random(3, 9)
        for letter, option in zip(LETTERS, options, strict=False):
            lines += self._ids(f"\n{letter})" if form == "letter" else "\n-") + option
        what = "the letter of the right option" if form == "letter" else "the right option"
        instruction = self._ids("\n" + STRATEGIES["think"].instruction.format(what=what))
        prompt = self.before + lines + instruction + self.behind
        thought = self._ids("<think>The") + self._random(1, 3) + self._ids(" is") + options[chosen] + self._ids(".</think>")
        answer = self._ids(LETTERS[chosen]) if form == "letter" else options[chosen]
        return prompt + thought + self._ids("<answer>") + answer + self._ids("</answer><|im_end|>"), len(prompt) + len(
            thought
        ) + 1

    def _random(self, low: int, high: int) -> list[int]:
        return [int(i) for i in self.rng.choice(self.words, int(self.rng.integers(low, high)))]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _prompt(self, question: str, image_tokens: int = 0) -> list[list[int]]:
        """The chat prompt of `question`, cut at a NUL character where it holds one."""
        messages = chat(question, [None] if image_tokens else [])
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return [self._ids(part) for part in text.replace("<|image_pad|>", "<|image_pad|>" * image_tokens).split("\0")]


def train(vlm: VLM, steps: int = 800, images: int = 4000, lr: float = 2e-3, seed: int = 0) -> dict[str, Any]:
    """The training log: losses by task every 50 steps, and how many held-out phantoms are described rightly, by field."""
    curriculum = Curriculum(vlm, images, seed)
    model = vlm.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    curve: list[dict[str, float]] = []
    started = time.perf_counter()
    for step in range(1, steps + 1):
        losses = _step_losses(vlm, curriculum)
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            curve.append({"step": step, **{task: round(loss.item(), 4) for task, loss in losses.items()}})
            print(json.dumps(curve[-1] | {"seconds": round(time.perf_counter() - started)}), file=sys.stderr)
    held_out = caption_accuracy(vlm, [f"phantom:pretrain/{seed + 1}/{index}" for index in range(160)])
    settings = {"steps": steps, "images": images, "lr": lr, "seed": seed}
    return {"settings": settings, "held_out_captions": held_out, "curve": curve}


def _step_losses(vlm: VLM, curriculum: Curriculum) -> dict[str, torch.Tensor]:
    """The loss of one batch of each task: 32 captions; 12 repeats with 20 matches."""
    chosen = curriculum.rng.integers(len(curriculum.cases), size=32)
    pixels = {"pixel_values": curriculum.pixels[chosen].flatten(0, 1), "image_grid_thw": curriculum.grids[chosen]}
    return {
        "caption": _loss(vlm, [curriculum.caption(int(index)) for index in chosen], **pixels),
        "text": _loss(vlm, [curriculum.repeat() for _ in range(12)] + [curriculum.match() for _ in range(20)]),
    }


def _loss(vlm: VLM, rows: list[tuple[list[int], int]], **pixels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the tokens behind each row's start."""
    longest = max(len(ids) for ids, _ in rows)
    pad: int = vlm.processor.tokenizer.pad_token_id
    ids_BT = torch.full((len(rows), longest), pad)
    labels_BT = torch.full((len(rows), longest), -100)
    for row, (ids, start) in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        labels_BT[row, start : len(ids)] = torch.tensor(ids[start:])
    loss: torch.Tensor = vlm.model(
        input_ids=ids_BT,
        attention_mask=(ids_BT != pad).long(),
        mm_token_type_ids=(ids_BT == vlm.model.config.image_token_id).long(),
        labels=labels_BT,
        **pixels,
    ).loss
    return loss


def caption_accuracy(vlm: VLM, references: list[str]) -> dict[str, float]:
    """The share of phantoms whose greedy description names each field rightly."""
    prompts = [(CAPTION_REQUEST, [open_image(reference)]) for reference in references]
    texts = [completion.text for completion in generate(vlm, prompts, max_tokens=48)]
    cases = [phantom_case(reference) for reference in references]
    fields = {
        "modality": [f"{case.modality} of" in text for case, text in zip(cases, texts, strict=True)],
        "anatomy": [f"of the {case.anatomy}." in text for case, text in zip(cases, texts, strict=True)],
        "disease": [f"Finding: {case.disease}." in text for case, text in zip(cases, texts, strict=True)],
        "grade": [f"Severity: {case.grade}." in text for case, text in zip(cases, texts, strict=True)],
        "location": [f"Location: {case.location}." in text for case, text in zip(cases, texts, strict=True)],
    }
    return {name: round(float(np.mean(right)), 3) for name, right in fields.items()}


def save(vlm: VLM, folder: Path, log: dict[str, Any]) -> None:
    """Write the checkpoint in fp16, and its log with the weights' hash."""
    vlm.model.half().save_pretrained(folder)
    vlm.processor.tokenizer.save_pretrained(folder)
    vlm.processor.image_processor.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "training.json").write_text(json.dumps({"sha256": digest, **log}, indent=1) + "\n")


def main(folder: Path = TINY) -> None:
    """Build, train and save the embedded model."""
    torch.set_num_threads(1)
    vlm = build()
    save(vlm, folder, train(vlm))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
