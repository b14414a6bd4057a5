"""The next token: against distributions computed by hand, and against transformers' own filters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from osler.model.sampling import GREEDY, Sampling, choose, seed_of, uniforms

LOGITS = [2.0, 1.5, 1.1, 0.8, 0.4, 0.1, -0.2, -0.5, -0.9, -1.4, -2.0, -3.0]
BANNED = (1, 6)
LAST = float(np.nextafter(np.float32(1), np.float32(0)))  # the largest number that a uniform one can be


def drawn(logits, sampling, uniform_B):
    """Tokens and log-probs of rows that share `logits`, one for each uniform number."""
    logits_BV = torch.as_tensor(logits).expand(len(uniform_B), -1)
    banned_V = torch.zeros(logits_BV.shape[1], dtype=torch.bool)
    banned_V[list(sampling.banned)] = True
    return choose(logits_BV, sampling, torch.as_tensor(uniform_B), banned_V)


def by_hand(logits, sampling):
    """The distribution of the next token, filter by filter, token by token."""
    p = np.exp(np.array(logits, dtype=float) / sampling.temperature)
    p[list(sampling.banned)] = 0
    if sampling.top_k:
        for token in np.argsort(-p)[sampling.top_k :]:
            p[token] = 0
    p = p / p.sum()
    likelier = 0.0
    for token in np.argsort(-p):
        mass, p[token] = p[token], p[token] if likelier < sampling.top_p else 0
        likelier += mass
    p = p / p.sum()
    p[p < sampling.min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), 12),
        (Sampling(temperature=0.6, banned=BANNED), 10),
        (Sampling(temperature=1.5, top_k=5), 5),
        (Sampling(top_p=0.8), 5),
        (Sampling(min_p=0.1), 7),
        (Sampling(temperature=1.3, top_p=0.85, top_k=7, min_p=0.25, banned=BANNED), 4),  # of 10, 7, 5,
    ],
    ids=["plain", "banned", "top_k", "top_p", "min_p", "all"],
)
def test_tokens_are_drawn_from_the_distribution_by_hand(sampling, kept):
    uniform_B = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    tokens_B, _ = drawn(LOGITS, sampling, uniform_B)
    counts, p = np.bincount(tokens_B, minlength=12), by_hand(LOGITS, sampling)
    assert (p > 0).sum() == kept
    assert not counts[p == 0].any()
    assert chisquare(counts[p > 0], 20_000 * p[p > 0]).pvalue > 0.01
    warmer = by_hand(LOGITS, replace(sampling, temperature=1.1 * sampling.temperature))
    if (warmer > 0).tolist() == (p > 0).tolist():  # otherwise it shows at once
        assert chisquare(counts[p > 0], 20_000 * warmer[p > 0]).pvalue < 1e-4


EDGE = 1e-6
"""How near to its bounds a token's interval of uniform numbers is tried; it is wider than 1e-5 in what is drawn below."""

settings_drawn = st.builds(
    Sampling,
    temperature=st.floats(0.7, 2.0),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
    top_k=st.integers(0, 16),
    min_p=st.one_of(st.just(0.0), st.floats(0.01, 0.9)),
    banned=st.sampled_from([(), (0,), (1,), (0, 1)]),
)
logits_drawn = st.lists(st.integers(-24, 24), min_size=3, max_size=14, unique=True).map(lambda eighths: np.array(eighths) / 8)


def by_transformers(logits, sampling):
    """The distribution that transformers' filters leave. A threshold that rounding decides is not what is tested."""
    scores = torch.tensor(logits[None]).index_fill(1, torch.tensor(sampling.banned, dtype=torch.long), -torch.inf)
    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        masses = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
        assume((masses - sampling.top_p).abs().min() > 1e-4)
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        p = scores.softmax(-1)
        assume((p - sampling.min_p * p.max()).abs().min() > 1e-4)
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores.softmax(-1)[0].numpy()


@given(logits_drawn, settings_drawn)
def test_filters_leave_the_tokens_that_transformers_leaves(logits, sampling):
    p = by_transformers(logits, sampling)
    kept, bounds = np.flatnonzero(p), np.cumsum(p)
    for uniform in (bounds[kept] - p[kept] + EDGE, bounds[kept] - EDGE):  # a token too many, or too few, moves the bounds
        tokens_B, _ = drawn(logits, sampling, uniform)
        assert tokens_B.tolist() == kept.tolist()


@given(logits_drawn, settings_drawn)
def test_the_extremes_of_uniform_numbers_draw_tokens_that_are_left(logits, sampling):
    kept = np.flatnonzero(by_transformers(logits, sampling))
    tokens_B, _ = drawn(logits, sampling, [0.0, LAST])
    assert tokens_B.tolist() == [kept[0], kept[-1]]


def test_the_extremes_hold_in_a_large_vocabulary_whose_ends_are_banned():
    logits = torch.randn(151_936, generator=torch.Generator().manual_seed(0))
    ends = (*range(1000), *range(151_000, 151_936))
    tokens_B, _ = drawn(logits.bfloat16(), Sampling(banned=ends), [0.0, LAST])
    assert tokens_B.tolist() == [1000, 150_999]


@given(logits_drawn, settings_drawn, st.floats(0, LAST, width=32))
def test_the_log_prob_is_the_policys_over_the_whole_vocabulary(logits, sampling, uniform):
    tokens_B, logps_B = drawn(logits, sampling, [uniform])
    whole = np.exp(logits / sampling.temperature) / np.exp(logits / sampling.temperature).sum()
    np.testing.assert_allclose(logps_B.numpy(), np.log(whole[tokens_B.numpy()]), rtol=1e-6, atol=1e-6)


@given(logits_drawn)
def test_greedy_is_the_likeliest_token_that_is_not_banned(logits):
    best = int(np.argmax(logits))
    whole = np.log(np.exp(logits) / np.exp(logits).sum())
    for banned in ((), (best,)):
        left = [token for token in range(len(logits)) if token not in banned]
        token = max(left, key=lambda token: logits[token])
        tokens_B, logps_B = drawn(logits, replace(GREEDY, banned=banned), [0.3])
        assert tokens_B.tolist() == [token]
        np.testing.assert_allclose(logps_B.numpy(), whole[token], rtol=1e-6, atol=1e-6)


def test_uniform_numbers_of_a_seed_are_its_own():
    together_BT, alone_BT = uniforms([3, 5, 7], 6), uniforms([5], 6)
    assert torch.equal(together_BT[1], alone_BT[0])
    assert torch.equal(uniforms([7, 5], 40)[1, :6], alone_BT[0])  # whatever stands beside it, and however many are asked for
    assert len(set(together_BT.flatten().tolist())) == 18
    many_BT = uniforms(range(50), 400)
    assert 0 <= many_BT.min() < 0.001 < 0.999 < many_BT.max() < 1


def test_seeds_are_the_same_everywhere_and_differ():
    assert seed_of(0, 3, 1) == 548815577452202644
    assert seed_of(0, 31) != seed_of(0, 3, 1) != seed_of(3, 0, 1)
    seeds = {seed_of(seed, place, completion) for seed in range(3) for place in range(200) for completion in range(8)}
    assert len(seeds) == 3 * 200 * 8
    assert max(seeds) < 2**63
    assert len({float(uniforms([seed], 1)) for seed in sorted(seeds)[:500]}) == 500
