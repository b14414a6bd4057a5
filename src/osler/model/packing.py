"""Groups packed behind their prompts: one sequence, each prompt in it once, with log-probs equal to those of separate rows.

    [ prompt 1 | c11 | c12 | ... | c1G | prompt 2 | c21 | ... ]

A completion sees its own prompt and its own earlier tokens, nothing else. Its positions go on from its prompt's, whatever its
place in the sequence. The last state of the prompt scores the first token of all its completions. (docs/engine.md draws it.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from osler.model.attention import attend, base_model, hidden_states, install
from osler.model.features import image_features
from osler.model.prompts import Encoded

CHUNK_ELEMENTS = 1 << 26
"""Logits that exist at one time: 256 MB in float32, 441 tokens of Qwen2-VL's vocabulary of 151,936."""


@dataclass(frozen=True, eq=False)
class Group:
    """A prompt and its completions, each a tensor of token ids with its end."""

    prompt: Encoded
    completions: Sequence[Tensor]

    @property
    def tokens(self) -> int:
        """Tokens that the group takes in a packed sequence."""
        return self.prompt.length + sum(map(len, self.completions))


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Who sees whom in a packed sequence of S tokens: N prompts of up to P tokens, R completions of up to C.

    `prompts_NP` and `completions_RC` are places in the sequence, padded with 0; `group_R` says whose completion it is;
    `mask_R1CK` is true where a completion's token may look, K = P + C: its prompt, then itself; in a forward `bias_R1CK` says
    the same as what is added to the scores, made once for all layers. `restore_S` finds each token of the sequence among the
    N P + R C padded ones.
    """

    prompts_NP: Tensor
    completions_RC: Tensor
    group_R: Tensor
    mask_R1CK: Tensor
    restore_S: Tensor
    bias_R1CK: Tensor | None = None

    def biased(self, dtype: torch.dtype) -> "PackedLayout":
        """The layout with its mask as a bias: 0 or -inf. Rows begin at multiples of 8 numbers, as fast kernels want them."""
        R, _, C, K = self.mask_R1CK.shape
        bias_R1CK = torch.zeros(R, 1, C, -(-K // 8) * 8, dtype=dtype, device=self.mask_R1CK.device)[..., :K]
        return replace(self, bias_R1CK=bias_R1CK.masked_fill_(~self.mask_R1CK, -torch.inf))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, scaling: float) -> Tensor:
        """Prompts attend causally; completions to their prompt's keys, which they share, and causally to their own."""
        prompt_q, prompt_k, prompt_v = (_rows(x, self.prompts_NP) for x in (q, k, v))
        out = [_flat(attend(prompt_q, prompt_k, prompt_v, scaling, causal=True))]
        if len(self.group_R):
            mask = self.mask_R1CK if self.bias_R1CK is None else self.bias_R1CK
            own_q, own_k, own_v = (_rows(x, self.completions_RC) for x in (q, k, v))
            keys = torch.cat([prompt_k[self.group_R], own_k], 2)
            values = torch.cat([prompt_v[self.group_R], own_v], 2)
            out.append(_flat(attend(own_q, keys, values, scaling, mask=mask)))
        return torch.cat(out, 1).index_select(1, self.restore_S)[None]


@dataclass(frozen=True, eq=False)
class Packed:
    """A micro-batch: S tokens of N prompts and R completions, T tokens in the longest completion, `scored` ones in all.

    `scored_from` are the places whose states score `targets`; `mask_RT` is true at a completion's tokens; `last_N` are the
    places of the prompts' last tokens.
    """

    ids_1S: Tensor
    positions_31S: Tensor
    is_image_1S: Tensor
    features_ND: Tensor | None
    pixels: tuple[tuple[Tensor, Tensor], ...]
    layout: PackedLayout
    scored_from: Tensor
    targets: Tensor
    mask_RT: Tensor
    last_N: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on `device`."""
        return _to(self, device)  # type: ignore[no-any-return]


def pack(groups: Sequence[Group], image_token_id: int) -> Packed:
    """The groups as one sequence, on the CPU; a group may have no completions yet (a prefill)."""
    pieces, positions, prompts, completions, owner, scored_from = [], [], [], [], [], []
    start = 0
    for number, group in enumerate(groups):
        prompt = group.prompt
        pieces.append(prompt.ids_S)
        positions.append(prompt.positions_3S)
        prompts.append(torch.arange(start, start + prompt.length))
        last = start + prompt.length - 1
        start += prompt.length
        for completion in group.completions:
            places = torch.arange(start, start + len(completion))
            pieces.append(completion)
            positions.append((prompt.next_position + torch.arange(len(completion))).expand(3, -1))
            completions.append(places)
            owner.append(number)
            scored_from.append(torch.cat([torch.tensor([last]), places[:-1]]))
            start += len(completion)
    ids_S = torch.cat(pieces)
    images = [image for group in groups for image in group.prompt.images]
    trained = any(image.pixels is not None for image in images)
    empty = torch.zeros(0, dtype=torch.long)
    return Packed(
        ids_1S=ids_S[None],
        positions_31S=torch.cat(positions, 1)[:, None],
        is_image_1S=(ids_S == image_token_id)[None],
        features_ND=torch.cat([image.values_ND for image in images]) if images and not trained else None,
        pixels=tuple((image.pixels, torch.tensor([image.grid])) for image in images if image.pixels is not None),
        layout=_layout(prompts, completions, torch.tensor(owner, dtype=torch.long), start),
        scored_from=torch.cat(scored_from) if scored_from else empty,
        targets=torch.cat([ids_S[places] for places in completions]) if completions else empty,
        mask_RT=_mask([len(places) for places in completions]),
        last_N=torch.tensor([int(places[-1]) for places in prompts]),
    )


def micro_batches(tokens: Sequence[int], budget: int) -> list[range]:
    """Neighbouring groups of `tokens` tokens each, as many together as the budget holds; one that is larger goes alone."""
    batches, first, total = [], 0, 0
    for number, size in enumerate(tokens):
        if number > first and total + size > budget:
            batches.append(range(first, number))
            first, total = number, 0
        total += size
    return [*batches, range(first, len(tokens))] if tokens else []


class PackedPolicy(nn.Module):
    """The policy as one module: a packed micro-batch in, log-probs of its completions' tokens out.

    Everything that trains goes through this one `forward`, so that wrappers that hook a module's forward see it.
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.text = (install(model),)  # in a tuple: it is a part of `model`, and no second child of this module

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Log-probs of the completions' tokens at the policy's temperature, and entropies without gradient.

        Both have shape (R, T) and are 0 beyond a completion's end.
        """
        embeds_1SD = self.embed(packed)
        layout = packed.layout.biased(embeds_1SD.dtype)
        states_SD = hidden_states(self.text[0], embeds_1SD, packed.positions_31S, layout)[0]
        logps, entropies = self._score(states_SD.index_select(0, packed.scored_from), packed.targets)
        blank_RT = logps.new_zeros(packed.mask_RT.shape)
        return blank_RT.masked_scatter(packed.mask_RT, logps), blank_RT.masked_scatter(packed.mask_RT, entropies)

    def embed(self, packed: Packed) -> Tensor:
        """Token embeddings with the images' features in their places, shape (1, S, D)."""
        embeds_1SD: Tensor = self.text[0].embed_tokens(packed.ids_1S)
        if packed.pixels:
            features_ND = torch.cat([image_features(self.model, pixels, grid) for pixels, grid in packed.pixels])
        elif packed.features_ND is not None:
            features_ND = packed.features_ND
        else:
            return embeds_1SD
        return embeds_1SD.masked_scatter(packed.is_image_1S[..., None], features_ND.to(embeds_1SD.dtype))

    def _score(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, a chunk of the vocabulary's logits at a time; the backward makes each chunk again."""
        head = base_model(self.model).lm_head
        size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
        chunks = list(zip(torch.split(states, size), torch.split(targets, size), strict=True))
        again = torch.is_grad_enabled() and len(chunks) > 1
        scored = [
            checkpoint(self._score_chunk, head, *chunk, use_reentrant=False) if again else self._score_chunk(head, *chunk)
            for chunk in chunks
        ]
        logps, entropies = zip(*scored, strict=True)
        return torch.cat(logps), torch.cat(entropies)

    def _score_chunk(self, head: nn.Module, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logps_CV = log_softmax(head(states), self.temperature)
        with torch.no_grad():
            entropies = -(logps_CV.exp() * logps_CV).sum(-1)
        return logps_CV.gather(-1, targets[:, None])[:, 0], entropies


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last axis, in float32 at least."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide / temperature, -1)


def _layout(prompts: list[Tensor], completions: list[Tensor], group_R: Tensor, length: int) -> PackedLayout:
    prompts_NP = pad_sequence(prompts, batch_first=True)
    P = prompts_NP.shape[1]
    prompt_mask_NP = _mask([len(places) for places in prompts])
    restore_S = torch.empty(length, dtype=torch.long)
    padded_NP = torch.arange(prompts_NP.numel()).view_as(prompts_NP)
    restore_S[prompts_NP[prompt_mask_NP]] = padded_NP[prompt_mask_NP]
    if not completions:
        nothing = torch.zeros(0, 0, dtype=torch.long)
        return PackedLayout(prompts_NP, nothing, group_R, torch.zeros(0, 1, 0, P, dtype=torch.bool), restore_S)
    completions_RC = pad_sequence(completions, batch_first=True)
    mask_RC = _mask([len(places) for places in completions])
    padded_RC = prompts_NP.numel() + torch.arange(completions_RC.numel()).view_as(completions_RC)
    restore_S[completions_RC[mask_RC]] = padded_RC[mask_RC]
    R, C = completions_RC.shape
    own_CC = torch.ones(C, C, dtype=torch.bool).tril()
    seen = [prompt_mask_NP[group_R][:, None].expand(R, C, P), own_CC.expand(R, C, C)]
    return PackedLayout(prompts_NP, completions_RC, group_R, torch.cat(seen, 2)[:, None], restore_S)


def _mask(lengths: Sequence[int]) -> Tensor:
    """True at the first `lengths[i]` places of row i."""
    return torch.arange(max(lengths, default=0)) < torch.tensor(lengths, dtype=torch.long)[:, None]


def _rows(x_1hSd: Tensor, places_RC: Tensor) -> Tensor:
    """The tokens at `places_RC` as rows, shape (R, h, C, d)."""
    R, C = places_RC.shape
    h, d = x_1hSd.shape[1], x_1hSd.shape[3]
    return x_1hSd[0].index_select(1, places_RC.reshape(-1)).view(h, R, C, d).transpose(0, 1)


def _flat(x_RhCd: Tensor) -> Tensor:
    """Rows one behind the other, shape (h, R C, d)."""
    return x_RhCd.transpose(0, 1).flatten(1, 2)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)
    if isinstance(value, Packed | PackedLayout):
        return type(value)(**{field.name: _to(getattr(value, field.name), device) for field in fields(value)})
    return value
