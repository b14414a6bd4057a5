"""The families of models that osler knows, and a loaded model of one. A third family is one entry of `FAMILIES`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Family:
    """What differs between model families: the class, and the linears of the language model that LoRA adapts."""

    model_class: str
    lora_targets: dict[str, str]


_LANGUAGE = r".*language_model\.layers\.\d+\."


_QWEN_TARGETS = {
    "language": _LANGUAGE + r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    "attention": _LANGUAGE + r"self_attn\.(q|k|v|o)_proj",
}


FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family("Qwen2VLForConditionalGeneration", _QWEN_TARGETS),
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", _QWEN_TARGETS),
}


@dataclass
class VLM:
    """A policy: model, processor and what is known of its family. `name` is the spec that it was loaded from."""

    name: str
    model: Any
    processor: Any
    family: Family

    @property
    def device(self) -> torch.device:
        """Where the language model is, and its inputs go; the vision tower may have left for another place."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def hardware(self) -> str:
        """The name of the device, for a manifest."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def banned_ids(self) -> list[int]:
        """Special tokens that no completion may hold: all but the ends of a turn. A sampled image token, say, would make
        the next forward look for an image that is not there."""
        ends = self.end_ids
        return sorted({token for token in _special_ids(self.processor.tokenizer) if token not in ends})

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a completion."""
        ends: list[int] = self.model.generation_config.eos_token_id
        return ends


TURNS = """\
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
"""The turns of a conversation as Qwen's instruct models take them, for checkpoints whose own template takes none."""

TURN_END = "<|im_end|>"
"""What ends a turn."""


def chat(question: str, images: Sequence[Any]) -> list[dict[str, Any]]:
    """The user's turn as messages: the images first, then `question`."""
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _special_ids(tokenizer: Any) -> list[int]:
    return [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]


def set_threads(threads: int) -> None:
    """Threads for this process's tensors; two on a shared core can be ten times slower than one."""
    torch.set_num_threads(threads)
