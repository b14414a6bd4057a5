"""A random Qwen2-VL, or Qwen2.5-VL, on disk exactly as the published checkpoints lie there, but small.

What differs from what transformers 5 writes itself: a flat config.json with `rope_scaling: {type: mrope}` and `torch_dtype`,
the weights' old names (`visual.*`, `model.layers.*`), several shards with an index, a preprocessor_config.json with
min_pixels and max_pixels, a generation_config.json that is all but greedy, and a chat template with Qwen's branches, both in
tokenizer_config.json and in chat_template.json.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from osler.model.tiny import SPECIAL, build_tokenizer

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
GENERATION = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.0}

CHAT_TEMPLATE = """\
{%- set image_count = namespace(value=0) -%}
{%- set video_count = namespace(value=0) -%}
{%- for message in messages -%}
  {%- if loop.first and message['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
  {%- endif -%}
  {{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for content in message['content'] -%}
      {%- if content['type'] == 'image' or 'image' in content or 'image_url' in content -%}
        {%- set image_count.value = image_count.value + 1 -%}
        {%- if add_vision_id -%}{{- 'Picture ' ~ image_count.value ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif content['type'] == 'video' or 'video' in content -%}
        {%- set video_count.value = video_count.value + 1 -%}
        {%- if add_vision_id -%}{{- 'Video ' ~ video_count.value ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in content -%}
        {{- content['text'] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""What Qwen2-VL's own does, in other words: a text part that carries a key `image`, even an empty one, becomes an image."""


def flat_config(ids: dict[str, int], vocabulary: int) -> dict:
    """config.json in the published layout: text settings at the top, vision settings below."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": vocabulary,
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "mlp_ratio": 4,
            "num_heads": 2,
            "in_chans": 3,
            "hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def flat_config_2_5(ids: dict[str, int], vocabulary: int) -> dict:
    """The same of Qwen2.5-VL, whose vision tower has windows and an MLP of its own size."""
    vision = {
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    changed = {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], "vision_config": vision}
    return flat_config(ids, vocabulary) | changed


FAMILIES = {
    "qwen2_vl": (flat_config, Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (flat_config_2_5, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}


def save_real_layout(folder: Path, family: str = "qwen2_vl", seed: int = 0) -> PreTrainedModel:
    """The model that was written to `folder`, in bf16, in three shards."""
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    flat, config_class, model_class = FAMILIES[family]
    config = flat(ids, len(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    ends = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]}
    for name, value in (
        ("config", config),
        ("preprocessor_config", PREPROCESSOR),
        ("generation_config", GENERATION | ends),
        ("chat_template", {"chat_template": CHAT_TEMPLATE}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    torch.manual_seed(seed)
    model = model_class(config_class.from_pretrained(folder)).to(torch.bfloat16)
    _save_shards(model, folder)
    return model


def _save_shards(model: PreTrainedModel, folder: Path, shards: int = 3) -> None:
    weights = {_published_name(k): v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    names = sorted(weights)
    index = {name: f"model-{1 + i * shards // len(names):05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(index.values())):
        save_file({n: weights[n] for n in names if index[n] == file}, folder / file, metadata={"format": "pt"})
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def _published_name(name: str) -> str:
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
