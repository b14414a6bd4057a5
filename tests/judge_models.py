"""Tiny models on disk that judge: they say what a test wants them to, whatever they are asked."""

import json
import math
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BioGptConfig,
    BioGptForCausalLM,
    BioGptTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from osler.model.load import TINY
from osler.model.tiny import build_model, build_tokenizer

REPLY = '{"correct": 1, "sound": 0, "why": "as told"}'
READS = 1024
LEANING = {"Ġyes": 30, "Ġno": 20, "Ġ": 600, "Y": 300, "es": 600, "N": 100, "o": 200}
"""How much likelier than other tokens some are."""
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
RANDOM = {"initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 0}
FAMILIES = {
    "gpt2": lambda size: GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=READS, vocab_size=size, **RANDOM)
    ),
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(max_position_embeddings=READS, vocab_size=size, **SHAPE, **RANDOM)),
    "mistral": lambda size: MistralForCausalLM(
        MistralConfig(max_position_embeddings=READS, vocab_size=size, num_key_value_heads=1, **SHAPE, **RANDOM)
    ),
    "biogpt": lambda size: BioGptForCausalLM(
        BioGptConfig(max_position_embeddings=READS, vocab_size=size, **SHAPE, **RANDOM | {"bos_token_id": 0, "eos_token_id": 2})
    ),
}


def save_causal(folder, family):
    """A model with random weights and no chat template; BioGPT's has its own kind of tokenizer."""
    tokenizer = _biogpt_tokenizer(folder) if family == "biogpt" else AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = None
    torch.manual_seed(0)
    model = FAMILIES[family](len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def save_leaning(folder):
    """A Llama to which each token is as likely as its weight says, whatever stands before; and p(yes) of p(yes) + p(no)."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = None
    model = _constant_llama(tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1  # every token is the same to it, of length sqrt(16) behind the norm
        for token, weight in LEANING.items():
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token), 0] = math.log(weight) / 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    total = len(tokenizer) - len(LEANING) + sum(LEANING.values())
    yes = 30 / total + 600 * 300 * 600 / total**3  # " yes" is one token, " Yes" and " No" are three
    no = 20 / total + 600 * 100 * 200 / total**3
    return yes / (yes + no)


def save_talking(folder, reply=REPLY, template=None, **sizes):
    """A Llama that says `reply`, which is one token to it, and ends."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens([reply])
    tokenizer.chat_template = template or (TINY / "chat_template.jinja").read_text()
    model, said, end = _constant_llama(tokenizer, **sizes), tokenizer.convert_tokens_to_ids(reply), tokenizer.eos_token_id
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[said] = torch.eye(16)[1]
        model.lm_head.weight[said, 0] = model.lm_head.weight[end, 1] = 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_seeing(folder, reply=REPLY):
    """A Qwen2-VL that says `reply`, which is one token to it, and ends. Its embeddings are tied."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([reply])
    tokenizer.chat_template = (TINY / "chat_template.jinja").read_text()
    model, said, end = build_model(tokenizer, 0), tokenizer.convert_tokens_to_ids(reply), tokenizer.eos_token_id
    with torch.no_grad():
        _silence(model)
        weight = model.get_input_embeddings().weight
        weight[:, 0] = 1
        weight[said, 0], weight[said, 1], weight[end, 1] = 2, 10, 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (Path(folder) / "preprocessor_config.json").write_text((TINY / "preprocessor_config.json").read_text())


def _constant_llama(tokenizer, max_position_embeddings=8192):
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = SHAPE | {"num_hidden_layers": 1, "max_position_embeddings": max_position_embeddings}
    model = LlamaForCausalLM(LlamaConfig(bos_token_id=None, tie_word_embeddings=False, **shape, **size))
    with torch.no_grad():
        _silence(model)
    return model


def _silence(model):
    """All weights 0, but of the norms: attention and MLPs add nothing, so that the last token alone decides the next."""
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)


def _biogpt_tokenizer(folder):
    """Characters, and the words yes and no; small yes is one token, Yes is two."""
    signs = [chr(number) for number in range(33, 127)]
    words = ["ye", "yes</w>", "no</w>", "es</w>"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *signs, *(f"{sign}</w>" for sign in signs), *words]
    Path(folder).mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\ny e\nye s</w>\nn o</w>\ne s</w>\n")
    return BioGptTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
