"""Rewards to advantages to a loss: pure functions of tensors, in the notation of the papers.

    P prompts of a step, G completions a prompt, B = P G completions, T tokens of the longest one.
    old, ref: the policy that sampled, and the start of training.

    GRPO      Shao et al. 2024 (arXiv 2402.03300), eq. 3; Med-R1    std_norm group   length_norm sequence
    Dr. GRPO  Liu et al. 2025 (arXiv 2503.20783), eq. 3; Zhu et al. std_norm none    length_norm constant
    DAPO      Yu et al. 2025 (arXiv 2503.14476), eq. 8              std_norm group   length_norm token   clip_high 0.28, beta 0
    GSPO      Zheng et al. 2025 (arXiv 2507.18071), eq. 5 and 7     ratio sequence
    GDPO      arXiv 2601.05242: several rewards, each normalised    aggregation gdpo

A completion that could not be scored has the reward NaN: it leaves its group's mean and standard deviation, its advantage is
0, and its tokens still count in the loss's denominator.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-4
"""Added to the standard deviation of rewards, as GRPO's first implementations and TRL do."""


@dataclass(frozen=True)
class Objective:
    """The switches of the objective; each is independent of the others.

    `clip_low` and `clip_high` bound the ratio to [1 - clip_low, 1 + clip_high]; `beta` weighs the KL to the reference;
    `max_tokens` is the divisor of length_norm constant.
    """

    std_norm: str = "group"
    length_norm: str = "sequence"
    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.04
    ratio: str = "token"
    max_tokens: int = 256


@dataclass(frozen=True)
class Totals:
    """What a loss is divided by: completions and tokens of the whole step, however it is cut into micro-batches."""

    completions: int
    tokens: int


def group_advantages(rewards_PG: Tensor, std_norm: str) -> Tensor:
    """A = (r - mean r) / (std r + EPS) over each group, NaN rewards left out of both; shape (P, G), 0 where r is NaN.

    std_norm: `group` takes the group's own standard deviation (unbiased; GRPO), `batch` that of all P G rewards
    (REINFORCE++, Hu 2025), `none` divides by nothing (Dr. GRPO: a group's weight must not grow as its spread shrinks).
    """
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if std_norm == "group":
        centred_PG = centred_PG / (nan_std(rewards_PG) + EPS)
    elif std_norm == "batch":
        centred_PG = centred_PG / (nan_std(rewards_PG.reshape(1, -1)) + EPS)
    return centred_PG.nan_to_num(0.0)


def gdpo_advantages(rewards_PGK: Tensor, weights_K: Tensor) -> Tensor:
    """Each of K rewards normalised within its group, their weighted sum normalised over all P G; shape (P, G).

    So a reward of little spread, or a rare one, is not drowned by another (GDPO, arXiv 2601.05242; as TRL's
    `normalize_then_sum` computes it, EPS beside each deviation). 0 where all K are NaN, and exactly 0 in a group in which no
    reward has spread: the mean over all P G is 0 but for rounding, which must not teach.
    """
    P, G, K = rewards_PGK.shape
    rewards_RG = rewards_PGK.transpose(1, 2).reshape(P * K, G)
    normal_RG = (rewards_RG - rewards_RG.nanmean(1, keepdim=True)) / (nan_std(rewards_RG) + EPS)
    normal_PGK = normal_RG.reshape(P, K, G).transpose(1, 2)
    summed_PG = (normal_PGK * weights_K).nansum(2)
    summed_PG[rewards_PGK.isnan().all(2)] = torch.nan
    advantages_PG = (summed_PG - summed_PG.nanmean()) / (nan_std(summed_PG.reshape(1, -1)) + EPS)
    taught_P1 = normal_PGK.nan_to_num(0.0).any(2).any(1)[:, None]
    return torch.where(taught_P1, advantages_PG.nan_to_num(0.0), 0.0)


def nan_std(rewards_PG: Tensor) -> Tensor:
    """The unbiased standard deviation of each row without its NaNs, shape (P, 1); NaN where fewer than two are left."""
    count_P1 = (~rewards_PG.isnan()).sum(1, keepdim=True)
    squares_PG = (rewards_PG - rewards_PG.nanmean(1, keepdim=True)) ** 2
    return (squares_PG.nansum(1, keepdim=True) / (count_P1 - 1).clamp(min=0)).sqrt()


def log_ratio(logps_BT: Tensor, old_logps_BT: Tensor, mask_BT: Tensor, level: str) -> Tensor:
    """log of policy over old policy: of each token, or (`sequence`) their mean over a completion, shape (B, 1): GSPO, eq. 7."""
    difference_BT = (logps_BT - old_logps_BT) * mask_BT
    if level == "token":
        return difference_BT
    return difference_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def surrogate(log_ratio_BT: Tensor, advantages_B: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), the clipped surrogate (PPO, Schulman et al. 2017, eq. 7)."""
    ratio_BT, advantages_B1 = log_ratio_BT.exp(), advantages_B[:, None]
    return torch.min(ratio_BT * advantages_B1, ratio_BT.clamp(1 - clip_low, 1 + clip_high) * advantages_B1)


def clipped(log_ratio_BT: Tensor, advantages_B: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Where the clip acts, as a boolean of the ratio's shape: such a token has no gradient from the surrogate."""
    ratio_BT, advantages_B1 = log_ratio_BT.exp(), advantages_B[:, None]
    return ((ratio_BT < 1 - clip_low) & (advantages_B1 < 0)) | ((ratio_BT > 1 + clip_high) & (advantages_B1 > 0))


def kl_k3(logps_BT: Tensor, ref_logps_BT: Tensor) -> Tensor:
    """ref/policy - log(ref/policy) - 1 of each token: unbiased for KL(policy, ref), never negative (Schulman 2020, k3)."""
    difference_BT = ref_logps_BT - logps_BT
    return difference_BT.exp() - difference_BT - 1


def token_weights(mask_BT: Tensor, length_norm: str, totals: Totals, max_tokens: int) -> Tensor:
    """What each token's term weighs in the loss, shape (B, T): 1 / (B |o_i|), 1 / (B max_tokens), or 1 / sum of |o_i|.

    `sequence` is GRPO's, under which a token of a long wrong completion is punished less; `constant` is Dr. GRPO's;
    `token` is DAPO's. `mask_BT` holds 1.0 at the completions' tokens. The weights of micro-batches add up to those of the step.
    """
    if length_norm == "sequence":
        return mask_BT / mask_BT.sum(1, keepdim=True).clamp(min=1) / totals.completions
    return mask_BT / (totals.completions * max_tokens if length_norm == "constant" else totals.tokens)


def importance_weights(old_logps_BT: Tensor, sampled_logps_BT: Tensor, cap: float) -> Tensor:
    """min(old / sampler, cap) of each token: corrects for a sampler that is not exactly the old policy.

    Truncated importance sampling, Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy training").
    """
    return (old_logps_BT - sampled_logps_BT).exp().clamp(max=cap)


def policy_loss(
    objective: Objective,
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    ref_logps_BT: Tensor | None,
    advantages_B: Tensor,
    mask_BT: Tensor,
    totals: Totals,
    weights_BT: Tensor | None = None,
) -> Tensor:
    """L = sum over i, t of w_it (- c_it min(rho A, clip(rho) A) + beta KL), a scalar; sum it over the step's micro-batches.

    `mask_BT` is true at the completions' tokens, `weights_BT` are the importance weights c (1 where None), and
    `ref_logps_BT` may be None where beta is 0.
    """
    mask_BT = mask_BT.to(logps_BT.dtype)
    ratio_BT = log_ratio(logps_BT, old_logps_BT, mask_BT, objective.ratio)
    terms_BT = -surrogate(ratio_BT, advantages_B, objective.clip_low, objective.clip_high)
    if weights_BT is not None:
        terms_BT = terms_BT * weights_BT
    if objective.beta and ref_logps_BT is not None:
        terms_BT = terms_BT + objective.beta * kl_k3(logps_BT, ref_logps_BT)
    return (terms_BT * token_weights(mask_BT, objective.length_norm, totals, objective.max_tokens)).sum()
