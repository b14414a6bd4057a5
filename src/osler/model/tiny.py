"""The embedded model: a Qwen2-VL of 1.5 million parameters, in the real checkpoint's layout, taught to describe phantoms.

`python -m osler.model.tiny` (or `make tiny-model`) builds it from nothing in some minutes on one CPU core and writes
`osler/assets/tiny`: config.json, model.safetensors (fp16), tokenizer.json, preprocessor_config.json, generation_config.json,
and training.json with seeds, settings, the learning curve and the weights' hash.

It learns to describe phantoms of the `pretrain` split, a sentence a finding in any order; behind every other sentence the
finding is named once more, half of the time in `<answer>` tags, so that these are no strangers to it (the real models have
read plenty of tagged text). It never sees a question, an option, a whole completion of any strategy, nor a phantom of any
other split. It does not learn to match shuffled options to letters, so recipes on it answer with the option's text
(`answer_form: text`).
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from osler.datasets.phantoms import describe, samples
from osler.drawing.phantoms import phantom_case
from osler.images import open_image
from osler.model.family import FAMILIES, TURNS, VLM
from osler.model.generate import generate
from osler.model.load import TINY, ImageOnlyProcessor
from osler.model.prompts import processor_inputs
from osler.progress import bar
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
        chat_template=TURNS,
    )


def _words() -> Iterator[str]:
    """Text of the domain for the tokenizer; which phantoms it comes from does not matter, their words are all the same."""
    for sample in samples(0, {"pretrain": 240}):
        for strategy in STRATEGIES.values():
            yield strategy.question(sample, "letter") + f"\n{sample.rationale} {sample.golds[0]}"
            yield strategy.question(sample, "text") + f" {sample.golds[0]}. yes or no. the answer."
        yield " ".join(sentence for _, sentence in describe(phantom_case(sample.images[0]))) + CAPTION_REQUEST
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
    processor = ImageOnlyProcessor(image_processor, tokenizer, TURNS)
    return VLM("tiny", build_model(tokenizer, seed), processor, FAMILIES["qwen2_vl"])


class Curriculum:
    """Phantoms of the `pretrain` split and their descriptions, the sentences of each in an order drawn anew every time."""

    def __init__(self, vlm: VLM, images: int, seed: int) -> None:
        self.tokenizer = vlm.processor.tokenizer
        self.rng = np.random.default_rng(seed)
        self.references = [f"phantom:pretrain/{seed}/{index}" for index in range(images)]
        drawn = [vlm.processor.image_processor(open_image(one), return_tensors="pt") for one in self.references]
        self.pixels = torch.stack([one["pixel_values"] for one in drawn])
        self.grids = torch.cat([one["image_grid_thw"] for one in drawn])
        self.prompt = processor_inputs(vlm, [(CAPTION_REQUEST, [open_image(self.references[0])])])["input_ids"][0].tolist()

    def row(self, index: int) -> tuple[list[int], int]:
        """The token ids of a phantom's prompt and description, and where the description begins."""
        text = self.tell(describe(phantom_case(self.references[index]))) + "<|im_end|>"
        return self.prompt + self.tokenizer(text, add_special_tokens=False)["input_ids"], len(self.prompt)

    def tell(self, findings: list[tuple[str, str]]) -> str:
        """The sentences in a random order; behind every other one its finding is named once more, plainly or in tags."""
        chosen = [findings[k] for k in self.rng.permutation(len(findings))]
        return " ".join(sentence + self._echo(finding) for finding, sentence in chosen)

    def _echo(self, finding: str) -> str:
        return ("", "", f" {finding}.", f"<answer>{finding}</answer>")[self.rng.integers(4)]


def train(
    vlm: VLM, steps: int = 800, images: int = 3000, batch_size: int = 40, lr: float = 2e-3, seed: int = 0
) -> dict[str, Any]:
    """The training log: the loss every 50 steps, and how many held-out phantoms are described rightly, by field."""
    curriculum = Curriculum(vlm, images, seed)
    model = vlm.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    curve: list[dict[str, float]] = []
    with bar("Teach the embedded model", steps) as tick:
        for step in range(1, steps + 1):
            loss = _loss(vlm, curriculum, curriculum.rng.integers(images, size=batch_size))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0:
                curve.append({"step": step, "loss": round(loss.item(), 4)})
            tick(f"loss {loss.item():.3f}")
    held_out = caption_accuracy(vlm, [f"phantom:pretrain/{seed + 1}/{index}" for index in range(200)])
    settings = {"steps": steps, "images": images, "batch_size": batch_size, "lr": lr, "seed": seed}
    return {"settings": settings, "held_out_captions": held_out, "curve": curve}


def _loss(vlm: VLM, curriculum: Curriculum, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
    """Mean cross-entropy of the descriptions of the `chosen` phantoms."""
    rows = [curriculum.row(int(index)) for index in chosen]
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
        pixel_values=curriculum.pixels[chosen].flatten(0, 1),
        image_grid_thw=curriculum.grids[chosen],
    ).loss
    return loss


def caption_accuracy(vlm: VLM, references: list[str]) -> dict[str, float]:
    """The share of phantoms whose greedy description has each sentence right, where it has that sentence at all."""
    prompts = [(CAPTION_REQUEST, [open_image(reference)]) for reference in references]
    right: dict[str, list[bool]] = {}
    for reference, completion in zip(references, generate(vlm, prompts, max_tokens=64), strict=True):
        for _, sentence in describe(phantom_case(reference)):
            right.setdefault(sentence.split()[1], []).append(sentence in completion.text)
    return {field: round(float(np.mean(values)), 3) for field, values in right.items()}


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
