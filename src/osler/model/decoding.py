"""Rows that decode side by side in fixed memory: keys and values, the step that adds a token to each, and its captured form.

A slot holds one row: its prompt's keys and values first, then its own, each at the next free place. Nothing is allocated and no
shape changes from step to step, so on a GPU the step is captured once as a CUDA graph and replayed: eager decode of a 2B model
is bound by the launch of its kernels, not by its weights. Elsewhere the same step runs as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from osler.model.attention import attend_one, base_model, hidden_states
from osler.model.sampling import Sampling, choose

SPAN = 64
"""Places that a step looks at are rounded up to a multiple of this, so that few different graphs are captured."""


class Prefill:
    """A layout that remembers the keys and values which pass through it; `inner` says who sees whom."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.layers: dict[int, Tensor] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, scaling: float) -> Tensor:
        """As `inner` attends."""
        self.layers[layer] = torch.stack([k[0], v[0]])
        out: Tensor = self.inner.attend(q, k, v, layer, scaling)
        return out

    @property
    def kv_L2hSd(self) -> Tensor:
        """Keys and values of all layers over the whole sequence."""
        return torch.stack([self.layers[layer] for layer in sorted(self.layers)])


class Slots:
    """`rows` slots of `length` places each, the first `live` of which decode. Also the layout of their decode step.

    `kv_L2BhSd` are the keys and values; of each row `tokens_B` is its last token, not yet in the cache; `filled_B` counts the
    places taken, `position_B` is the last token's M-RoPE position, `drawn_B` counts its tokens so far, `uniform_BT` are the
    numbers that it draws with.
    """

    def __init__(self, text: Any, rows: int, length: int, max_tokens: int) -> None:
        self._text = text
        config, weight = text.config, text.embed_tokens.weight
        heads, d = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        where: dict[str, Any] = {"device": weight.device}
        self.kv_L2BhSd = torch.zeros(config.num_hidden_layers, 2, rows, heads, length, d, dtype=weight.dtype, **where)
        self.tokens_B, self.filled_B, self.position_B, self.drawn_B = (
            torch.zeros(rows, dtype=torch.long, **where) for _ in range(4)
        )
        self.logps_B = torch.zeros(rows, dtype=torch.promote_types(weight.dtype, torch.float32), **where)
        self.uniform_BT = torch.zeros(rows, max_tokens, **where)
        self.place_S = torch.arange(length, **where)
        self.live, self.span = 0, length
        self._bias_BS = self._bias(rows, length)

    @property
    def rows(self) -> int:
        """How many rows there is room for."""
        return self.kv_L2BhSd.shape[2]

    @property
    def length(self) -> int:
        """Places a row."""
        return self.kv_L2BhSd.shape[4]

    def place(self, at: slice, kv_L2hSd: Tensor, tokens_B: Tensor, next_position: int, uniform_BT: Tensor) -> None:
        """Put rows that share a prompt into the slots `at`: its keys and values, their first tokens, their numbers."""
        filled = kv_L2hSd.shape[3]
        self.kv_L2BhSd[:, :, at, :, :filled] = kv_L2hSd[:, :, None]
        self.tokens_B[at], self.filled_B[at], self.position_B[at], self.drawn_B[at] = tokens_B, filled, next_position, 1
        self.uniform_BT[at, : uniform_BT.shape[1]] = uniform_BT.to(self.uniform_BT.device)

    def grown(self, length: int, max_tokens: int) -> "Slots":
        """The same rows with `length` places each."""
        wider = Slots(self._text, self.rows, length, max_tokens)
        wider.kv_L2BhSd[..., : self.length, :] = self.kv_L2BhSd
        wider.uniform_BT[:, : self.uniform_BT.shape[1]] = self.uniform_BT
        wider.restore(self.state())
        return wider

    def move(self, source: int, target: int) -> None:
        """Copy the row in slot `source` to slot `target`."""
        for part in (self.tokens_B, self.filled_B, self.position_B, self.drawn_B, self.uniform_BT):
            part[target] = part[source].clone()
        self.kv_L2BhSd[:, :, target] = self.kv_L2BhSd[:, :, source].clone()

    def look(self, live: int, span: int) -> None:
        """Let the next step decode the first `live` slots and look at the first `span` places, and make its mask."""
        self.live, self.span = live, span
        self._bias_BS = self._bias(live, span)

    def _bias(self, live: int, span: int) -> Tensor:
        """What is added to the attention's scores: 0 at filled places and the next, else -inf. Made once for all layers."""
        unseen_BS = self.place_S[None, :span] > self.filled_B[:live, None]
        return torch.zeros_like(unseen_BS, dtype=self.kv_L2BhSd.dtype).masked_fill_(unseen_BS, -torch.inf)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, scaling: float) -> Tensor:
        """Write each live row's new key and value at its next place, and attend to all places that are filled."""
        keys, values = self.kv_L2BhSd[layer, :, : self.live]
        at_Bh1d = self.filled_B[: self.live, None, None, None].expand_as(k)
        keys.scatter_(2, at_Bh1d, k)
        values.scatter_(2, at_Bh1d, v)
        return attend_one(q, keys[:, :, : self.span], values[:, :, : self.span], self._bias_BS, scaling)

    def advance(self, tokens_B: Tensor, logps_B: Tensor) -> None:
        """Take each live row's next token: the last one is in the cache now."""
        live = slice(0, self.live)
        self.tokens_B[live], self.logps_B[live] = tokens_B, logps_B
        self.filled_B[live] = (self.filled_B[live] + 1).clamp(max=self.length - 1)  # a row that is done may run on unread
        self.position_B[live] += 1
        self.drawn_B[live] += 1

    def state(self) -> list[Tensor]:
        """What a step changes, the keys and values aside (a step writes the same ones again)."""
        return [part.clone() for part in (self.tokens_B, self.filled_B, self.position_B, self.drawn_B, self.logps_B)]

    def restore(self, state: list[Tensor]) -> None:
        """Set back what `state` kept."""
        parts = (self.tokens_B, self.filled_B, self.position_B, self.drawn_B, self.logps_B)
        for part, kept in zip(parts, state, strict=True):
            part.copy_(kept)


class Decoder:
    """The decode step of a model over slots: eager, or captured as CUDA graphs, one for each (live rows, span)."""

    def __init__(self, model: Any, text: Any, slots: Slots, sampling: Sampling, captured: bool) -> None:
        self.head, self.text, self.slots, self.sampling = base_model(model).lm_head, text, slots, sampling
        self.captured = captured
        self.banned_V = banned_mask(sampling, self.head)
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}
        self._pool: Any = None  # one for all graphs, as each of them makes anew whatever it reads there

    def step(self, live: int, filled: int) -> None:
        """Add a token to each of the first `live` rows, the fullest of which has `filled` places taken before."""
        span = min(-(-(filled + 1) // SPAN) * SPAN, self.slots.length)
        if not self.captured:
            self._step(live, span)
            return
        live = min(_power_of_two(live), self.slots.rows)
        if (live, span) not in self._graphs:
            self._graphs[live, span] = self._capture(live, span)
        self._graphs[live, span]()

    def _step(self, live: int, span: int) -> None:
        slots = self.slots
        slots.look(live, span)
        embeds_B1D = self.text.embed_tokens(slots.tokens_B[:live, None])
        positions_3B1 = slots.position_B[:live, None].expand(3, -1, -1)
        states_BD = hidden_states(self.text, embeds_B1D, positions_3B1, slots)[:, 0]
        uniform_B = slots.uniform_BT[:live].gather(1, slots.drawn_B[:live, None].clamp(max=slots.uniform_BT.shape[1] - 1))[:, 0]
        slots.advance(*choose(self.head(states_BD), self.sampling, uniform_B, self.banned_V))

    def _capture(self, live: int, span: int) -> Callable[[], None]:
        """The step as a graph. A warm-up runs first on a side stream, as CUDA asks; what it changed is set back."""
        kept = self.slots.state()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(live, span)
        torch.cuda.current_stream().wait_stream(stream)
        self.slots.restore(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(live, span)
        self._pool = self._pool or graph.pool()
        self.slots.restore(kept)
        replay: Callable[[], None] = graph.replay
        return replay


def banned_mask(sampling: Sampling, head: Any) -> Tensor:
    """True at the token ids that are never chosen, shape (V)."""
    mask_V = torch.zeros(head.weight.shape[0], dtype=torch.bool, device=head.weight.device)
    mask_V[list(sampling.banned)] = True
    return mask_V


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
