"""Attention over what rows do not fit: a group behind one shared prompt, and rows that decode in fixed memory.

A `Layout` says who sees whom. It rides through the language model as its attention mask, and every layer hands it queries,
keys and values; ordinary masks fall through to transformers' own attention. The function is registered once and for good:
switching it around a forward would break activation checkpointing, whose recompute would meet the restored one.
"""

from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from osler.errors import ModelError

NAME = "osler_layout"
"""What the language model's configuration calls this attention."""


@runtime_checkable
class Layout(Protocol):
    """Who sees whom. Queries have shape (b, H, S, d), keys and values (b, Hk, S, d) with Hk heads that H share."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, scaling: float) -> Tensor:
        """The attention's output, of the queries' shape."""
        ...


def layout_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **rest: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: output of shape (b, S, H, d), and no weights."""
    if not isinstance(attention_mask, Layout):
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attention_mask.attend(query, key, value, module.layer_idx, scale).transpose(1, 2), None


AttentionInterface.register(NAME, layout_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def language_model(model: Any) -> Any:
    """The text half of `model`, a conditional generator or a PEFT model around one."""
    return base_model(model).model.language_model


def base_model(model: Any) -> Any:
    """The conditional generator in `model`, which may be a PEFT model around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def install(model: Any) -> Any:
    """The text half of `model`, from now on with attention by layouts. Errors: ModelError where it would not be exact."""
    text = language_model(model)
    kinds = set(getattr(text.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(f"the model's layers attend by {sorted(kinds)}, and osler's engine knows full attention only.")
    if getattr(text.config, "attention_dropout", 0.0):
        raise ModelError(
            "the model's attention_dropout is not 0: a shared prompt would draw one mask where its rows draw many."
        )
    text.config._attn_implementation = NAME
    return text


def hidden_states(text: Any, embeds_BSD: Tensor, positions_3BS: Tensor, layout: Layout) -> Tensor:
    """The last hidden states of the text model, shape (B, S, D). Positions are always given: the module's own are state."""
    output = text(
        inputs_embeds=embeds_BSD, position_ids=positions_3BS, attention_mask={"full_attention": layout}, use_cache=False
    )
    states: Tensor = output.last_hidden_state
    return states


def attend(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention in which H query heads share Hk heads of keys and values.

    On a GPU the heads are repeated first: its fast kernels take either a mask or shared heads, not both.
    """
    shared = q.shape[1] != k.shape[1]
    if shared and q.is_cuda and mask is not None:
        repeats = q.shape[1] // k.shape[1]
        k, v, shared = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=shared)


def attend_one(q_BH1d: Tensor, k_BhSd: Tensor, v_BhSd: Tensor, bias_BS: Tensor, scaling: float) -> Tensor:
    """Attention of one query a row, shape (B, H, 1, d); `bias_BS` is added to its scores, -inf where it may not look.

    The query heads that share a head of keys stand in the place of queries, so that no key is repeated.
    """
    B, H, _, d = q_BH1d.shape
    grouped = q_BH1d.view(B, k_BhSd.shape[1], -1, d)
    out = F.scaled_dot_product_attention(grouped, k_BhSd, v_BhSd, attn_mask=bias_BS[:, None, None], scale=scaling)
    return out.reshape(B, H, 1, d)
