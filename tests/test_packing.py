"""Packed groups against separate rows: each completion alone, unpadded, through transformers' own forward of a second copy of
the model, which the engine never touched. The weights are scaled up, so that a wrong position or mask is not lost in noise."""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from PIL import Image

from osler.config import FeatureSettings, LoraSettings
from osler.model import packing
from osler.model.adapters import lora_config
from osler.model.attention import NAME, base_model, language_model
from osler.model.family import FAMILIES, VLM
from osler.model.features import FeatureStore
from osler.model.load import load_policy
from osler.model.packing import Group, PackedPolicy, micro_batches, pack
from osler.model.prompts import encode, processor_inputs
from real_layout import save_real_layout

TEMPERATURE = 0.7


def noise(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PROMPTS = [
    ("Is there a lesion?", [noise(112, 84, 0)]),
    ("Which of the two is the brighter one?", [noise(56, 112, 1), noise(84, 56, 2)]),
    ("How many bones has a hand?", []),
]
LENGTHS = [(5, 1, 3), (2, 7), (1, 4)]  # of each prompt's completions: ragged, two of a single token


@dataclass
class Twins:
    """One model twice: `vlm` for the engine, `oracle` for transformers alone; and the same completions for both."""

    vlm: VLM
    oracle: Any
    completions: list[list[torch.Tensor]]

    def packed(self, which=(0, 1, 2), trained=False):
        store = FeatureStore(self.vlm, FeatureSettings(disk_gb=0), trained=trained)
        groups = [Group(encode(self.vlm, store, PROMPTS[n]), self.completions[n]) for n in which]
        return pack(groups, self.vlm.processor.image_token_id)

    def row_logits(self, which=(0, 1, 2)):
        """The oracle's logits at temperature TEMPERATURE that score each completion, and the completion."""
        for n in which:
            inputs = processor_inputs(self.vlm, [PROMPTS[n]])
            images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
            for completion in self.completions[n]:
                ids = torch.cat([inputs["input_ids"][0], completion])[None]
                types = (ids == self.vlm.processor.image_token_id).int()
                base_model(self.oracle).model.rope_deltas = None  # of the row before
                logits = self.oracle(input_ids=ids, mm_token_type_ids=types, use_cache=False, **images).logits
                yield logits[0, -len(completion) - 1 : -1] / TEMPERATURE, completion

    def row_logps(self, which=(0, 1, 2)):
        return [logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0] for logits, ids in self.row_logits(which)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in folders.items():
        save_real_layout(folder, family)
    return folders


def loaded(folder, dtype, lora):
    vlm = load_policy(str(folder), dtype="float32")
    for weight in vlm.model.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    vlm.model.to(dtype).requires_grad_(not lora)
    for module in language_model(vlm.model).modules():
        if dtype == torch.float64 and "RMSNorm" in type(module).__name__:
            module.forward = partial(wide_norm, module)
    if not lora:
        return vlm
    model = get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=4, alpha=8)))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return VLM(vlm.name, model, vlm.processor, vlm.family)


def wide_norm(norm, states):
    """RMSNorm in the dtype of its input. transformers' own computes in float32, which would leave 1e-7 in float64 gradients."""
    return F.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)


def twins(folder, dtype=torch.float32, lora=True):
    vlm, other = (loaded(folder, dtype, lora) for _ in range(2))
    draw = torch.Generator().manual_seed(0)
    completions = [[torch.randint(300, 690, (length,), generator=draw) for length in lengths] for lengths in LENGTHS]
    return Twins(vlm, other.model, completions)


@pytest.fixture(scope="module")
def pair(checkpoints):
    """Twins for tests that leave them as they are."""
    return twins(checkpoints["qwen2_vl"])


def unpacked(values_RT, mask_RT):
    return [row[seen] for row, seen in zip(values_RT, mask_RT, strict=True)]


def furthest(ours, theirs):
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


def backward(rows):
    """Gradients of a sum in which every token has a weight of its own, so that no two errors cancel."""
    draw = torch.Generator().manual_seed(1)
    sum((row * torch.randn(len(row), generator=draw).to(row)).sum() for row in rows).backward()


def gradients(model):
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    return found


def assert_same_gradients(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 0, name
        assert (ours[name] - gradient).norm() / gradient.norm() <= tolerance, name


def through_both(pair, packed):
    """Log-probs row by row, and gradients, of the packed policy and of the oracle."""
    logps_RT, _ = PackedPolicy(pair.vlm.model, TEMPERATURE)(packed)
    ours, theirs = unpacked(logps_RT, packed.mask_RT), pair.row_logps()
    assert not logps_RT[~packed.mask_RT].any()
    backward(ours)
    backward(theirs)
    return (ours, gradients(pair.vlm.model)), (theirs, gradients(pair.oracle))


@contextmanager
def calls_of(module):
    """How often `module` was called inside, as a list of its outputs' shapes."""
    shapes = []
    handle = module.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    yield shapes
    handle.remove()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # 5.17 has no other name
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["fp32", "fp64"])
def test_log_probs_and_lora_gradients_are_those_of_separate_rows(checkpoints, family, checkpointing, dtype, tolerance):
    pair = twins(checkpoints[family], dtype)
    text = language_model(pair.vlm.model)
    if checkpointing:
        text.gradient_checkpointing_enable({"use_reentrant": False})
    pair.vlm.model.train()
    with calls_of(text.layers[0].input_layernorm) as calls:
        (ours, our_gradients), (theirs, their_gradients) = through_both(pair, pair.packed())
    assert len(calls) == 1 + checkpointing  # the second is the recompute
    assert language_model(pair.oracle).config._attn_implementation != NAME == text.config._attn_implementation
    assert furthest(ours, theirs) <= tolerance
    assert len(our_gradients) == 2 * 7 * len(text.layers)
    assert_same_gradients(our_gradients, their_gradients, tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", [False, True], ids=["language", "all"])
def test_full_tuning_has_the_gradients_of_separate_rows(checkpoints, family, tower):
    pair = twins(checkpoints[family], torch.float64, lora=False)
    for model in (pair.vlm.model, pair.oracle):
        model.model.visual.requires_grad_(tower)
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight  # one gradient from both its uses
    (ours, our_gradients), (theirs, their_gradients) = through_both(pair, pair.packed(trained=tower))
    assert furthest(ours, theirs) <= 1e-11
    assert any("visual.patch_embed" in name for name in our_gradients) == tower
    assert_same_gradients(our_gradients, their_gradients, 1e-6 if tower else 1e-11)  # the tower rotates in float32


def by_place(packed):
    """Positions that count places in the sequence, as those of text do."""
    return torch.arange(packed.ids_1S.shape[1]).expand(3, 1, -1)


def run_on(packed):
    """Right ones for the one prompt, but each completion goes on where the one before it stopped."""
    length = int(packed.last_N[0]) + 1
    after = packed.positions_31S[..., :length].max() + 1 + torch.arange(packed.ids_1S.shape[1] - length)
    return torch.cat([packed.positions_31S[..., :length], after.expand(3, 1, -1)], 2)


@pytest.mark.parametrize("positions", [by_place, run_on])
def test_wrong_positions_would_be_seen(pair, positions):
    packed = pair.packed([0])
    with torch.no_grad():
        right, _ = PackedPolicy(pair.vlm.model, TEMPERATURE)(packed)
        wrong, _ = PackedPolicy(pair.vlm.model, TEMPERATURE)(replace(packed, positions_31S=positions(packed)))
        theirs = pair.row_logps([0])
    assert furthest(unpacked(right, packed.mask_RT), theirs) <= 1e-5
    assert furthest(unpacked(wrong, packed.mask_RT), theirs) > 1e-2


class Dense:
    """Attention under a whole mask: query i sees key j where `seen_SS[i, j]`."""

    def __init__(self, seen_SS):
        self.seen_SS = seen_SS

    def biased(self, dtype):
        return self

    def attend(self, q, k, v, layer, scaling):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen_SS, scale=scaling, enable_gqa=True)


def seen_by_hand(pair, packed):
    """Who sees whom, from the order of the sequence alone: a list of (group, completion), None for a prompt's tokens."""
    owners = []
    for group, (prompt, lengths) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        owners += [(group, None)] * processor_inputs(pair.vlm, [prompt])["input_ids"].shape[1]
        owners += [(group, completion) for completion, length in enumerate(lengths) for _ in range(length)]
    sees = [[a[0] == b[0] and b[1] in (None, a[1]) for b in owners] for a in owners]
    return torch.tensor(sees).tril(), owners


def test_a_mask_that_leaks_would_be_seen(pair):
    packed, policy = pair.packed(), PackedPolicy(pair.vlm.model, TEMPERATURE)
    seen_SS, owners = seen_by_hand(pair, packed)
    leaking_SS, reader = seen_SS.clone(), 2
    for i, owner in enumerate(owners):
        for j, other in enumerate(owners):
            leaking_SS[i, j] |= (owner, other) == ((0, reader), (0, 0))  # the first group's third completion sees its first
    with torch.no_grad():
        dense, leaking = (policy(replace(packed, layout=Dense(mask)))[0] for mask in (seen_SS, leaking_SS))
        theirs = pair.row_logps()
    errors = [furthest([a], [b]) for a, b in zip(unpacked(leaking, packed.mask_RT), theirs, strict=True)]
    assert furthest(unpacked(dense, packed.mask_RT), theirs) <= 1e-5
    assert errors.pop(reader) > 1e-2
    assert max(errors) <= 1e-5


def test_entropies_are_those_of_the_whole_distribution(pair):
    packed = pair.packed()
    _, entropy_RT = PackedPolicy(pair.vlm.model, TEMPERATURE)(packed)
    assert not entropy_RT.requires_grad
    with torch.no_grad():
        rows = [logits.double().softmax(-1).numpy() for logits, _ in pair.row_logits()]
    by_hand = [torch.tensor(-(p * np.log(p)).sum(-1)) for p in rows]
    assert furthest(unpacked(entropy_RT, packed.mask_RT), by_hand) <= 1e-5
    assert not entropy_RT[~packed.mask_RT].any()
    assert float(torch.cat(by_hand).max() - torch.cat(by_hand).min()) > 0.1  # they do differ


@contextmanager
def kept_for_backward():
    """Last axes of the tensors that the graph made inside keeps."""
    axes = defaultdict(int)

    def keep(tensor):
        axes[tensor.shape[-1] if tensor.ndim else 1] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield axes


def test_the_head_in_chunks_has_the_same_gradients_and_never_all_logits(pair, monkeypatch):
    packed, head = pair.packed(), base_model(pair.vlm.model).lm_head
    V, tokens = head.weight.shape[0], int(packed.mask_RT.sum())
    found = []
    for size in (tokens, 3):
        monkeypatch.setattr(packing, "CHUNK_ELEMENTS", size * V + V // 2)
        with calls_of(head) as calls, kept_for_backward() as kept:
            logps_RT, _ = PackedPolicy(pair.vlm.model, TEMPERATURE)(packed)
        assert [shape[0] for shape in calls] == [size] * (tokens // size) + [tokens % size] * (tokens % size > 0)
        assert bool(kept[V]) == (size == tokens)  # in several chunks, none is kept for the backward
        backward(unpacked(logps_RT, packed.mask_RT))
        found.append((unpacked(logps_RT.detach(), packed.mask_RT), gradients(pair.vlm.model)))
    (whole, whole_gradients), (chunked, chunked_gradients) = found
    assert furthest(whole, chunked) <= 1e-6
    assert_same_gradients(chunked_gradients, whole_gradients, 1e-6)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_micro_batches_are_neighbours_as_many_as_the_budget_holds(tokens, budget):
    batches = micro_batches(tokens, budget)
    assert [number for batch in batches for number in batch] == list(range(len(tokens)))
    sizes = [sum(tokens[number] for number in batch) for batch in batches]
    assert all(len(batch) == 1 or 0 < size <= budget for batch, size in zip(batches, sizes, strict=True))
    following = [tokens[batch.stop] for batch in batches[:-1]]
    assert all(size + more > budget for size, more in zip(sizes, following, strict=False))
