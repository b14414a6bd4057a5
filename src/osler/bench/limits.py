"""What a step would cost at least: bytes and floating-point operations counted, and the rates that the card reaches.

Counting is pure arithmetic on a model's configuration. Rates are measured on the card itself, never taken from a data sheet.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from osler.bench.workload import build, raw_config

DEFINITIONS = {
    "step_s": "one optimizer step: rollouts, rewards, reference, update. Median over the rounds.",
    "rollout_s": "from prompts to completions; in packed all of the step that is not named here, folding of LoRA included; in "
    "TRL its _generate.",
    "reference_s": "log-probs under the start of training; 0 where beta is 0.",
    "update_s": "forward, backward and optimizer; in TRL all that follows its rollouts.",
    "other_s": "rewards; in TRL also opening images, and preprocessing them for the second time.",
    "tokens_per_s": "completion tokens of a step / step_s.",
    "peak_mb": "the process's peak over idle during its first two steps, in a process of its own. Idle: the model is loaded, a "
    "forward and a backward of eight tokens are done. On a GPU what torch reserved. peak_total_mb counts what was idle too.",
    "processor_s": "the processor time of a step, of all threads. Waiting while other work has the processor is not in it.",
    "step_s_by_rows_a_forward": "the quicker of two steps in trials before the rounds, one engine after the other; with one "
    "thread on a CPU in processor time, which does not grow with what else runs on the machine.",
    "decode floor": "(decode steps x bytes of the language model with LoRA folded in, LM head included + keys and values that "
    "the completions must read) / the card's measured copy rate.",
    "decode_share": "decode floor / decode_s, the seconds of the rollout after the prefill. At its floor decode would have 1.",
    "rollout_share": "decode floor / rollout_s.",
    "update MFU": "4 N FLOPs per packed token, as LoRA leaves N's own gradients out, N the language model's parameters without "
    "embeddings, recompute and attention scores not counted, plus 4 V D per scored token for the LM head, / update_s / the "
    "card's measured matmul rate.",
    "ratio": "trl / packed: above 1 packed is faster, or smaller. Seconds: each engine with the rows a forward that were "
    "fastest for it. Memory: each with the largest batch that fits. ratio_of_memory: every setting that both have; as timed: "
    "each at the rows a forward that it was timed with; the least of each, for which TRL may cut a group and packed may not.",
    "parity": "both engines on the same completions in float32, with a LoRA that is not zero: the largest difference of a "
    "token's log-prob, the relative L2 error of LoRA's gradient, the difference of the losses.",
}
"""What the result's names mean; printed with it."""


@dataclass(frozen=True)
class Size:
    """Parameters of a model by what they cost, and the numbers a token leaves in the cache of keys and values.

    `layers` are the language model's without its embeddings, `head` is the LM head's (V D), whether tied or not.
    """

    layers: int
    head: int
    kv: int


def size_of(name: str) -> Size:
    """The size of the model `name`, counted without making its weights."""
    with torch.device("meta"):
        model = build(raw_config(name), torch.bfloat16)
    text, config = model.model.language_model, model.config.text_config
    head_dim = config.hidden_size // config.num_attention_heads
    return Size(
        layers=sum(weight.numel() for weight in text.parameters()) - text.embed_tokens.weight.numel(),
        head=config.vocab_size * config.hidden_size,
        kv=2 * config.num_hidden_layers * config.num_key_value_heads * head_dim,
    )


def decode_bytes(size: Size, prompt_tokens: int, lengths: Sequence[int], element_bytes: int) -> int:
    """Bytes that decoding completions of `lengths` side by side must read.

    A row's first token comes from the prefill. For each later one the weights are read, once for all rows, and the row's keys
    and values: those of its prompt and of its tokens so far.
    """
    weights = (max(lengths) - 1) * (size.layers + size.head)
    cached = sum(prompt_tokens + token for length in lengths for token in range(1, length))
    return (weights + cached * size.kv) * element_bytes


def update_flops(size: Size, packed_tokens: int, scored_tokens: int) -> int:
    """FLOPs of an update by the definition above."""
    return 4 * (size.layers * packed_tokens + size.head * scored_tokens)


def packed_tokens(prompt_tokens: int, lengths_PG: Sequence[Sequence[int]]) -> int:
    """Tokens of all groups when each prompt stands once."""
    return sum(prompt_tokens + sum(lengths_G) for lengths_G in lengths_PG)


def copy_rate(device: torch.device, mb: int = 2048, repeats: int = 20) -> float:
    """Bytes a second, read and written ones counted, of a large copy on the card."""
    source = torch.empty(mb << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), repeats)


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 8192, repeats: int = 20) -> float:
    """FLOPs a second of a large square matrix product on the card."""
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), repeats)


def _seconds(work: Any, repeats: int) -> float:
    """Seconds of one `work` on the card, the first three not counted."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats
