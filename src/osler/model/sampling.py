"""From logits to the next token: temperature, then top-k, top-p and min-p, then one uniform number a token.

Each row draws with a stream of its own, so that what it says depends on its prompt and its seed, and not on its neighbours.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from osler.model.packing import log_softmax


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy.

    `top_k` keeps the k likeliest tokens (0 all); `top_p` the smallest set that holds that much probability (1 all; Holtzman et
    al. 2020); `min_p` those of at least min_p times the likeliest one's probability (0 all; Nguyen et al. 2024). `banned` are
    token ids that are never chosen. Filters act in this order, each on what the one before has left, renormalised.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    banned: tuple[int, ...] = ()

    @property
    def filters(self) -> bool:
        """Whether any token but the banned is left out."""
        return bool(self.top_k) or self.top_p < 1 or self.min_p > 0


GREEDY = Sampling(temperature=0.0)


def choose(logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor, banned_V: Tensor) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob, both of shape (B).

    The log-prob is the policy's, at its temperature and over the whole vocabulary, as the update computes it again; what the
    filters left out does not change it. `banned_V` is true at the banned tokens; `uniform_B` lies in [0, 1).
    """
    logps_BV = log_softmax(logits_BV, sampling.temperature or 1.0)
    open_BV = logps_BV.masked_fill(banned_V, -torch.inf)
    if sampling.temperature == 0:
        tokens_B = open_BV.argmax(-1)
    else:
        tokens_B = _draw(_filtered(open_BV, sampling) if sampling.filters else open_BV, uniform_B)
    return tokens_B, logps_BV.gather(-1, tokens_B[:, None])[:, 0]


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """`length` uniform numbers in [0, 1) for each seed, shape (B, length), on the CPU."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def seed_of(*parts: object) -> int:
    """A seed that is the same for the same parts and unrelated otherwise, below 2**63."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def _filtered(logps_BV: Tensor, sampling: Sampling) -> Tensor:
    """`logps_BV` with minus infinity where the filters say so; at least the likeliest token stays."""
    if sampling.top_k and sampling.top_k < logps_BV.shape[-1]:
        least_B1 = logps_BV.topk(sampling.top_k, -1).values[:, -1:]
        logps_BV = logps_BV.masked_fill(logps_BV < least_B1, -torch.inf)
    if sampling.top_p < 1:
        ordered_BV, order_BV = logps_BV.softmax(-1).sort(-1, descending=True)
        before_BV = ordered_BV.cumsum(-1) - ordered_BV  # the probability of everything likelier
        drop_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV >= sampling.top_p)
        logps_BV = logps_BV.masked_fill(drop_BV, -torch.inf)
    if sampling.min_p:
        probabilities_BV = logps_BV.softmax(-1)
        least_B1 = sampling.min_p * probabilities_BV.amax(-1, keepdim=True)
        logps_BV = logps_BV.masked_fill(probabilities_BV < least_B1, -torch.inf)
    return logps_BV


def _draw(logps_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulated probability first exceeds the row's uniform number (inverse transform sampling).

    Summed in float64: over a vocabulary of 150,000 a float32 sum would lose its rarest tokens.
    """
    cumulated_BV = logps_BV.double().exp().cumsum(-1)
    threshold_B1 = uniform_B.double()[:, None] * cumulated_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulated_BV, threshold_B1, right=True)
    return tokens_B1[:, 0].clamp(max=logps_BV.shape[-1] - 1)
