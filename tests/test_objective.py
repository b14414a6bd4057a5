"""Advantages and losses against the papers' formulas, written out in numpy, and the properties that they must have."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from osler.rl.objective import (
    EPS,
    Objective,
    Totals,
    clipped,
    gdpo_advantages,
    group_advantages,
    importance_weights,
    kl_k3,
    log_ratio,
    policy_loss,
    surrogate,
)
from osler.rl.scoring import GRID

NAN = float("nan")
G, MAX_TOKENS = 4, 7
LENGTHS = [7, 2, 3, 1, 4, 6, 5, 2]
REWARDS = [[1.2, 0.2, 0.0, 1.0], [0.5, 2.0, NAN, 0.5]]
TOTALS = Totals(len(LENGTHS), sum(LENGTHS))
MASK_BT = torch.arange(MAX_TOKENS) < torch.tensor(LENGTHS)[:, None]
LENGTH_NORMS = ("sequence", "constant", "token")


def drawn_logps():
    """Log-probs under policy, old policy and reference, with rubbish beyond the completions' ends; some ratios are clipped."""
    draw = torch.Generator().manual_seed(0)
    now, old, ref = (-3 * torch.rand(len(LENGTHS), MAX_TOKENS, generator=draw, dtype=torch.float64) for _ in range(3))
    return now, now + 0.2 * (old + 1.5), now + 0.3 * (ref + 1.5)


def rows(logps_BT):
    """What each completion has, as numpy arrays of its own length."""
    return [row[:length].numpy() for row, length in zip(logps_BT, LENGTHS, strict=True)]


def advantages_by_hand(std_norm):
    """r - mean, over the standard deviation of the group or of all rewards; an unscored completion is not there at all."""
    everyone, found = [r for group in REWARDS for r in group if r == r], []
    for group in REWARDS:
        scored = [r for r in group if r == r]
        spread = {"group": np.std(scored, ddof=1), "batch": np.std(everyone, ddof=1)}.get(std_norm)
        found += [0.0 if r != r else (r - np.mean(scored)) / (1 if spread is None else spread + 1e-4) for r in group]
    return np.array(found)


def clip_min(ratio, advantage, low=0.2, high=0.2):
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


def grpo(now, old, ref, A, beta=0.04):
    """Shao et al. 2024, eq. 3: each completion is the mean of its tokens."""
    kl = [np.exp(r - n) - (r - n) - 1 for n, r in zip(now, ref, strict=True)]
    return -np.mean([np.mean(clip_min(np.exp(n - o), a) - beta * k) for n, o, k, a in zip(now, old, kl, A, strict=True)])


def dr_grpo(now, old, ref, A):
    """Liu et al. 2025: tokens are summed, and the sum is divided by what no completion has a hand in."""
    return -sum(np.sum(clip_min(np.exp(n - o), a)) for n, o, a in zip(now, old, A, strict=True)) / (len(A) * MAX_TOKENS)


def dapo(now, old, ref, A):
    """Yu et al. 2025, eq. 8: the mean over all tokens of the step, and a clip that is wider upwards."""
    tokens = [clip_min(np.exp(n - o), a, 0.2, 0.28) for n, o, a in zip(now, old, A, strict=True)]
    return -np.mean(np.concatenate(tokens))


def gspo(now, old, ref, A):
    """Zheng et al. 2025, eq. 5 and 7: one ratio a completion, the geometric mean of its tokens'."""
    ratios = np.array([np.prod(np.exp(n - o)) ** (1 / len(n)) for n, o in zip(now, old, strict=True)])
    return -np.mean(clip_min(ratios, A, 3e-2, 4e-2))


PAPERS = {
    "GRPO": (grpo, "group", Objective(beta=0.04)),
    "Dr. GRPO": (dr_grpo, "none", Objective(length_norm="constant", beta=0.0, max_tokens=MAX_TOKENS)),
    "DAPO": (dapo, "group", Objective(length_norm="token", clip_high=0.28, beta=0.0)),
    "GSPO": (gspo, "group", Objective(ratio="sequence", clip_low=3e-2, clip_high=4e-2, beta=0.0)),
}


@pytest.mark.parametrize("paper", PAPERS)
def test_the_loss_is_the_papers(paper):
    formula, std_norm, objective = PAPERS[paper]
    now, old, ref = drawn_logps()
    advantages_B = group_advantages(torch.tensor(REWARDS, dtype=torch.float64), std_norm).flatten()
    wanted = formula(rows(now), rows(old), rows(ref), advantages_by_hand(std_norm))
    got = policy_loss(objective, now, old, ref if objective.beta else None, advantages_B, MASK_BT, TOTALS)
    assert got.item() == pytest.approx(wanted, rel=1e-12)
    others = [f(rows(now), rows(old), rows(ref), advantages_by_hand(s)) for f, s, _ in PAPERS.values() if f is not formula]
    assert min(abs(other - wanted) for other in others) > 1e-3  # on these numbers no paper could pass for another


@pytest.mark.parametrize("length_norm", LENGTH_NORMS)
@pytest.mark.parametrize("std_norm", ["group", "batch", "none"])
def test_the_two_normalisations_are_independent(std_norm, length_norm):
    """Zhu et al. take them apart: each of the two of Dr. GRPO's changes alone, and both."""
    now, old, _ = drawn_logps()
    advantages_B = group_advantages(torch.tensor(REWARDS, dtype=torch.float64), std_norm).flatten()
    np.testing.assert_allclose(advantages_B, advantages_by_hand(std_norm), rtol=1e-12)
    objective = Objective(length_norm=length_norm, beta=0.0, max_tokens=MAX_TOKENS)
    got = policy_loss(objective, now, old, None, advantages_B, MASK_BT, TOTALS)
    summed = [np.sum(clip_min(np.exp(n - o), a)) for n, o, a in zip(rows(now), rows(old), advantages_B.numpy(), strict=True)]
    divisors = {"sequence": np.array(LENGTHS) * 8, "constant": np.full(8, 8 * MAX_TOKENS), "token": np.full(8, sum(LENGTHS))}
    assert got.item() == pytest.approx(-np.sum(summed / divisors[length_norm]), rel=1e-12)


on_grid = st.integers(-3 * GRID, 3 * GRID).map(lambda k: k / GRID)
"""Rewards as the scorer hands them over."""
maybe_scored = st.one_of(on_grid, st.just(NAN))


def groups(reward, least=1):
    size = st.integers(2, 8)
    return size.flatmap(lambda n: st.lists(st.lists(reward, min_size=n, max_size=n), min_size=least, max_size=4))


def spread_of(group):
    scored = [r for r in group if r == r]
    return np.std(scored, ddof=1) if len(scored) > 1 else 0.0


@given(groups(maybe_scored), st.sampled_from(["group", "batch", "none"]))
def test_a_groups_advantages_sum_to_zero(rewards, std_norm):
    advantages_PG = group_advantages(torch.tensor(rewards, dtype=torch.float64), std_norm)
    assert not advantages_PG.isnan().any()
    assert float(advantages_PG.sum(1).abs().max()) < 1e-8
    assert not advantages_PG[torch.tensor(rewards).isnan()].any()


@given(groups(maybe_scored), st.sampled_from(["group", "batch", "none"]))
def test_what_was_not_scored_is_as_if_it_were_not_there(rewards, std_norm):
    """Mean and deviation are of what is left."""
    group = rewards[0]
    scored = [r for r in group if r == r]
    assume(len(scored) > 1)
    alone = group_advantages(torch.tensor([group], dtype=torch.float64), std_norm)[0]
    without = group_advantages(torch.tensor([scored], dtype=torch.float64), std_norm)[0]
    torch.testing.assert_close(alone[[r == r for r in group]], without, rtol=1e-9, atol=1e-9)


@given(groups(on_grid), st.floats(0.1, 10))
def test_dividing_by_the_groups_deviation_takes_the_rewards_scale_out(rewards, scale):
    spread = min(map(spread_of, rewards))
    assume(spread > 0.01)
    rewards_PG = torch.tensor(rewards, dtype=torch.float64)
    once, scaled = group_advantages(rewards_PG, "group"), group_advantages(rewards_PG * scale, "group")
    bound = EPS * max(1, 1 / scale) / spread  # what EPS beside the deviation can do
    assert float(((scaled - once).abs() - bound * once.abs()).max()) < 1e-9
    plain = group_advantages(rewards_PG, "none")
    torch.testing.assert_close(group_advantages(rewards_PG * scale, "none"), plain * scale)


@given(groups(on_grid, least=2))
def test_batch_takes_one_deviation_of_all_rewards(rewards):
    rewards_PG = torch.tensor(rewards, dtype=torch.float64)
    everyone = np.std(rewards, ddof=1)
    wanted = group_advantages(rewards_PG, "none") / (everyone + EPS)
    torch.testing.assert_close(group_advantages(rewards_PG, "batch"), wanted, rtol=1e-9, atol=1e-9)


@given(
    on_grid, st.integers(2, 16), st.sampled_from(["group", "batch", "none"]), st.sampled_from([torch.float32, torch.float64])
)
def test_a_group_without_spread_teaches_exactly_nothing(reward, size, std_norm, dtype):
    """Exactly: what is skipped where an advantage is 0 must not hang on the last bit of a mean."""
    rewards_PG = torch.tensor([[reward] * size, [NAN] + [reward] * (size - 1), [NAN] * size], dtype=dtype)
    assert not group_advantages(rewards_PG, std_norm).any()


@given(on_grid, st.integers(1, 8), st.sampled_from(["group", "batch", "none"]))
def test_one_scored_completion_alone_teaches_nothing(reward, unscored, std_norm):
    rewards_PG = torch.tensor([[reward] + [NAN] * unscored], dtype=torch.float64)
    assert group_advantages(rewards_PG, std_norm).tolist() == [[0.0] * (1 + unscored)]


logits = st.lists(st.floats(-4, 4), min_size=3, max_size=6)


@given(logits, st.randoms(use_true_random=False))
def test_k3_is_never_negative_and_its_mean_under_the_policy_is_the_kl(values, random):
    policy = torch.tensor(values, dtype=torch.float64).log_softmax(0)
    ref = torch.tensor(random.sample(values, len(values)), dtype=torch.float64).log_softmax(0)
    each = kl_k3(policy, ref)
    assert each.min() >= -1e-12
    assert not kl_k3(policy, policy).any()
    assert (policy.exp() * each).sum().item() == pytest.approx((policy.exp() * (policy - ref)).sum().item(), abs=1e-9)


def test_k3_of_a_token_by_hand():
    """The policy has 0.5, the reference 0.25: 1/2 - log(1/2) - 1."""
    assert kl_k3(torch.tensor(0.5).log(), torch.tensor(0.25).log()).item() == pytest.approx(np.log(2) - 0.5)


ratios = st.lists(st.floats(-0.6, 0.6), min_size=1, max_size=8)
advantage = st.floats(0.1, 3) | st.floats(-3, -0.1)


@given(ratios, advantage, st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_the_surrogate_has_no_gradient_exactly_where_it_is_clipped(logs, advantage, low, high):
    log_1T = torch.tensor([logs], dtype=torch.float64, requires_grad=True)
    ratio_1T = log_1T.detach().exp()
    assume((ratio_1T - (1 - low)).abs().min() > 1e-9 and (ratio_1T - (1 + high)).abs().min() > 1e-9)
    advantages_1 = torch.tensor([advantage], dtype=torch.float64)
    surrogate(log_1T, advantages_1, low, high).sum().backward()
    acts_1T = clipped(log_1T.detach(), advantages_1, low, high)
    assert (log_1T.grad == 0).equal(acts_1T)
    torch.testing.assert_close(log_1T.grad[~acts_1T], ratio_1T[~acts_1T] * advantage)


@pytest.mark.parametrize(
    ("advantage", "ratio", "acts"),
    [(1, 1.3, True), (1, 0.5, False), (-1, 0.5, True), (-1, 1.3, False), (1, 1.0, False), (-1, 1.0, False)],
)
def test_the_clip_holds_back_only_what_goes_further_the_same_way(advantage, ratio, acts):
    """PPO's one-sided clip: a step that was wrong may always be taken back."""
    log_11 = torch.tensor([[ratio]]).log()
    assert clipped(log_11, torch.tensor([float(advantage)]), 0.2, 0.2).item() is acts


@pytest.mark.parametrize("length_norm", LENGTH_NORMS)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_the_gradient_is_that_of_advantage_times_log_prob(level, length_norm):
    """REINFORCE: the ratio is 1, nothing is clipped, and only its derivative is left."""
    now, _, _ = drawn_logps()
    advantages_B = torch.tensor(advantages_by_hand("group"))
    objective = Objective(length_norm=length_norm, ratio=level, beta=0.0, max_tokens=MAX_TOKENS)
    logps_BT, plain_BT = now.clone().requires_grad_(), now.clone().requires_grad_()
    loss = policy_loss(objective, logps_BT, logps_BT.detach(), None, advantages_B, MASK_BT, TOTALS)
    loss.backward()
    lengths_B = torch.tensor(LENGTHS, dtype=torch.float64)
    divisor_B = {"sequence": 8 * lengths_B, "constant": torch.tensor(8.0 * MAX_TOKENS), "token": torch.tensor(sum(LENGTHS))}
    share_B = advantages_B / divisor_B[length_norm]
    (-share_B[:, None] * plain_BT * MASK_BT).sum().backward()
    torch.testing.assert_close(logps_BT.grad, plain_BT.grad)
    assert loss.item() == pytest.approx(-(share_B * lengths_B).sum().item())


@pytest.mark.parametrize("length_norm", LENGTH_NORMS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@given(places=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_no_cut_into_micro_batches_changes_loss_or_gradient(level, length_norm, places):
    now, old, ref = drawn_logps()
    advantages_B = torch.tensor(advantages_by_hand("group"))
    objective = Objective(length_norm=length_norm, ratio=level, beta=0.1, max_tokens=MAX_TOKENS)

    def parts(cut):
        logps_BT, found = now.clone().requires_grad_(), 0.0
        for part in cut:
            T = max(LENGTHS[b] for b in part)  # each micro-batch is as wide as its own longest completion
            own = [x[part, :T] for x in (logps_BT, old, ref)]
            loss = policy_loss(objective, *own, advantages_B[part], MASK_BT[part, :T], TOTALS)
            loss.backward()
            found += loss.item()
        return found, logps_BT.grad

    whole, cut = parts([list(range(8))]), parts([[b for b in range(8) if places[b] == p] for p in sorted(set(places))])
    assert cut[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-12, atol=0)
    assert not whole[1][~MASK_BT].any()


def test_importance_weights_are_capped_and_weigh_the_surrogate_only():
    old, sampled = torch.tensor([[-1.0, -1.0, -1.0]]), torch.tensor([[-1.0, -1.5, -9.0]])
    weights_1T = importance_weights(old, sampled, 2.0)
    np.testing.assert_allclose(weights_1T[0], [1, np.exp(0.5), 2], rtol=1e-6)
    ref, mask, advantage = torch.tensor([[-2.0, -0.5, -1.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([0.5])
    loss = policy_loss(Objective(beta=0.1), old, old, ref, advantage, mask, Totals(1, 3), weights_1T)
    d = np.array([-1.0, 0.5, 0.0])  # ref - now
    wanted = np.mean(-0.5 * np.array([1, np.exp(0.5), 2]) + 0.1 * (np.exp(d) - d - 1))
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_the_sequence_ratio_is_of_a_completion_and_padding_has_no_part_in_it():
    now = torch.tensor([[0.3, 0.1, 9.0], [0.2, 9.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_ratio(now, torch.zeros(2, 3), mask, "sequence"), [[0.2], [0.2]], rtol=1e-6)
    np.testing.assert_allclose(log_ratio(now, torch.zeros(2, 3), mask, "token"), [[0.3, 0.1, 0], [0.2, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays(dtype):
    now, old, ref = (x.to(dtype).requires_grad_() for x in drawn_logps())
    advantages_B = group_advantages(torch.tensor(REWARDS, dtype=dtype), "group").flatten()
    loss = policy_loss(Objective(), now, old, ref, advantages_B, MASK_BT, TOTALS, importance_weights(old, ref, 2.0))
    loss.backward()
    assert {advantages_B.dtype, loss.dtype, now.grad.dtype} == {dtype}


@pytest.mark.parametrize(("length_norm", "short_over_long"), [("sequence", 4.0), ("constant", 1.0), ("token", 1.0)])
def test_length_bias(length_norm, short_over_long):
    """Dr. GRPO's complaint: under GRPO a long wrong answer is pushed down less, token by token, than a short wrong one."""
    rewards_1G = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)  # right; wrong in 2 tokens; wrong in 8
    mask_BT = torch.arange(8) < torch.tensor([4, 2, 8])[:, None]
    logps_BT = torch.full((3, 8), -1.0, dtype=torch.float64, requires_grad=True)
    objective = Objective(length_norm=length_norm, beta=0.0, max_tokens=8)
    advantages_B = group_advantages(rewards_1G, "group")[0]
    policy_loss(objective, logps_BT, logps_BT.detach(), None, advantages_B, mask_BT, Totals(3, 14)).backward()
    short, long = logps_BT.grad[1, 0].item(), logps_BT.grad[2, 0].item()
    assert min(short, long) > 0  # both are pushed down
    assert short / long == pytest.approx(short_over_long)


def test_dividing_by_the_deviation_favours_questions_that_are_all_but_settled():
    """Dr. GRPO's other complaint: one success in eight outweighs a success of a group that stands at half and half."""
    rewards_PG = torch.tensor([[1.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4], dtype=torch.float64)
    push = {std_norm: group_advantages(rewards_PG, std_norm)[:, 0] for std_norm in ("group", "none")}
    assert (push["group"][0] / push["group"][1]).item() > 1.3 * (push["none"][0] / push["none"][1]).item()


# GDPO: several rewards, each normalised within its group


def gdpo_sums(rewards, weights, eps=1e-4):
    """Each reward standardised within its group, and their weighted sum; in numpy, NaN where nothing was scored."""
    rewards, K = np.array(rewards), len(weights)
    summed = np.full(rewards.shape[:2], NAN)
    for p, group in enumerate(rewards):
        known = ~np.isnan(group).all(1)
        summed[p, known] = 0.0
        for k in range(K):
            column = group[:, k]
            there = ~np.isnan(column)
            if there.sum() > 1:
                z = (column[there] - column[there].mean()) / (column[there].std(ddof=1) + eps)
                summed[p, there] += weights[k] * z
    return summed


def gdpo_by_hand(rewards, weights):
    """The sums standardised over all that was scored; in numpy."""
    summed = gdpo_sums(rewards, weights)
    everyone = summed[~np.isnan(summed)]
    spread = everyone.std(ddof=1) if len(everyone) > 1 else NAN
    return np.nan_to_num((summed - everyone.mean()) / (spread + 1e-4)) if len(everyone) else np.zeros(summed.shape)


def several(reward, least=1):
    """P groups of G completions with K rewards each, and K weights."""
    shape = st.tuples(st.integers(least, 3), st.integers(2, 5), st.integers(1, 3))

    def drawn(sizes):
        P, G, K = sizes
        one = st.lists(reward, min_size=K, max_size=K)
        return st.tuples(
            st.lists(st.lists(one, min_size=G, max_size=G), min_size=P, max_size=P),
            st.lists(st.floats(0.1, 3) | st.floats(-3, -0.1), min_size=K, max_size=K),
        )

    return shape.flatmap(drawn)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@given(several(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, NAN])))
def test_gdpo_is_its_formula(drawn):
    rewards, weights = drawn
    got = gdpo_advantages(f64(rewards), f64(weights))
    np.testing.assert_allclose(got, gdpo_by_hand(rewards, weights), rtol=1e-9, atol=1e-7)


@given(several(on_grid, least=2), st.floats(0.5, 4))
def test_gdpo_hears_a_quiet_reward_as_well_as_a_loud_one(drawn, scale):
    """The scale of a reward leaves no trace but that of EPS, where a sum is ruled by the loudest: without EPS, none at all.

    Rewards whose sums all but cancel are left out: there nothing but rounding is standardised.
    """
    rewards, weights = f64(drawn[0]), f64(drawn[1])
    assume(min(np.std([completion[0] for completion in group]) for group in drawn[0]) > 0.01)
    assume(np.std(gdpo_sums(*drawn, eps=1e-12)) > 0.01)
    louder = rewards.clone()
    louder[..., 0] *= scale
    with mock.patch("osler.rl.objective.EPS", 0.0):
        torch.testing.assert_close(gdpo_advantages(louder, weights), gdpo_advantages(rewards, weights), rtol=0, atol=1e-6)


def test_gdpo_and_a_sum_differ_where_one_reward_is_rare_and_small():
    """Right once in four (1.0), in form once in four (0.01): the sum all but forgets the form, GDPO does not."""
    rewards_PGK = f64([[[1.0, 0.0], [0.0, 0.01], [0.0, 0.0], [0.0, 0.0]]])
    apart = gdpo_advantages(rewards_PGK, f64([1.0, 1.0]))[0]
    together = group_advantages(rewards_PGK.sum(2), "group")[0]
    assert apart[1].item() == pytest.approx(apart[0].item(), rel=0.05)  # but for EPS
    assert together[1].item() < 0.0 < together[0].item()


@given(several(on_grid), st.sampled_from([torch.float32, torch.float64]))
def test_a_group_without_spread_in_any_reward_teaches_exactly_nothing(drawn, dtype):
    rewards_PGK, weights_K = torch.tensor(drawn[0], dtype=dtype), torch.tensor(drawn[1], dtype=dtype)
    rewards_PGK[0] = rewards_PGK[0, :1]
    advantages_PG = gdpo_advantages(rewards_PGK, weights_K)
    assert advantages_PG.dtype == dtype
    assert not advantages_PG[0].any()
    assert not gdpo_advantages(torch.full_like(rewards_PGK, NAN), weights_K).any()


@given(several(on_grid))
def test_gdpos_advantages_sum_to_zero_in_every_group(drawn):
    assert float(gdpo_advantages(f64(drawn[0]), f64(drawn[1])).sum(1).abs().max()) < 1e-6


def test_with_one_reward_gdpo_is_grpo_up_to_one_factor():
    rewards_PG = f64(REWARDS)
    once, twice = group_advantages(rewards_PG, "group"), gdpo_advantages(rewards_PG[..., None], f64([2.0]))
    factor = twice[0, 0] / once[0, 0]
    torch.testing.assert_close(twice, once * factor)
