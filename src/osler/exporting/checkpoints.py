"""A merged model on disk as transformers itself lays one, to answer there as it does here."""

from pathlib import Path

import torch
from transformers import GenerationConfig

from osler.config import ImageSettings
from osler.errors import ModelError
from osler.model.family import VLM
from osler.model.load import load_policy
from osler.runs import read_json, write_json

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_MERGED = {"bf16": "bfloat16", "fp16": "float32", "fp32": "float32"}
"""The type that a model is merged to; fp16 is rounded from fp32."""

SHARD = "4GB"
"""The largest file of weights."""


def loaded(spec: str, images: ImageSettings, dtype: str) -> VLM:
    """The model `spec` on the CPU, merged as it is for an evaluation at that `dtype` (of DTYPES).

    Errors: as `load_policy`; ModelError where fp16 cannot hold a weight.
    """
    vlm = load_policy(spec, images, _MERGED[dtype], "cpu")
    for name, weight in vlm.model.named_parameters() if dtype == "fp16" else ():
        weight.data = weight.data.half()
        if not torch.isfinite(weight.data).all():
            raise ModelError(f"{spec}: {name} is too large for fp16. Export it in bf16.")
    return vlm


def write_model(vlm: VLM, folder: Path, max_tokens: int, max_shard_size: str = SHARD) -> None:
    """Write model, tokenizer with chat template, and image processor to `folder`; safetensors only.

    Whoever generates with its defaults does so as osler: greedily, at most `max_tokens`, no special token but the ends of a
    turn. The processor is Qwen's own, with the pixel budget of `vlm`.
    """
    own = vlm.model.generation_config
    vlm.model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        bos_token_id=own.bos_token_id,
        do_sample=False,
        max_new_tokens=max_tokens,
        suppress_tokens=vlm.banned_ids,
    )
    try:
        vlm.model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    finally:
        vlm.model.generation_config = own
    vlm.processor.tokenizer.save_pretrained(str(folder))
    images = vlm.processor.image_processor
    images.save_pretrained(str(folder))
    file = folder / "preprocessor_config.json"
    budget = {
        "min_pixels": images.size["shortest_edge"],
        "max_pixels": images.size["longest_edge"],
    }  # as older versions read it
    write_json(file, read_json(file) | budget | {"processor_class": "Qwen2VLProcessor"})
