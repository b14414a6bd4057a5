"""How well a causal text model predicts texts: the loss of each, from which `osler.reasoning.quality` makes a perplexity.

The model is any that transformers loads as a causal one, a folder or a hub name; its weights are safetensors, and no code of a
checkpoint is run. A text is tokenised by the model's own tokenizer, with the token that begins a text where it has one (else
the text's first token is not scored), and cut into pieces where it is longer than the model reads; each piece is scored alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from osler.errors import ModelError
from osler.model.adapters import UNREADABLE, reason, some
from osler.model.load import dtype_of
from osler.model.packing import CHUNK_ELEMENTS, log_softmax

LONGEST = 2048
"""Tokens that are scored in one piece, at most, whatever the model could read."""

SCORING = "controls.perplexity: {name} cannot score text"
"""How messages begin about a model that is to score text; who needs one for something else hands in words of their own."""

PROBE = 8
"""Tokens that a model is tried with, to see whether it looks ahead."""

LARGEST = 700.0
"""Nats a token, at most: exp of more is no finite number."""


@dataclass(frozen=True)
class TextModel:
    """A causal language model with its tokenizer, ready to score texts."""

    name: str
    model: Any
    tokenizer: Any

    def losses(self, texts: Sequence[str]) -> Iterator[tuple[float, int]]:
        """Of each text, in order, the summed negative log-likelihood of its tokens, in nats, and how many were scored.

        Errors: ModelError where a loss is not finite, or so large that its perplexity is not.
        """
        for text in texts:
            found = [self._loss(piece) for piece in self._pieces(text)]
            loss, tokens = sum(loss for loss, _ in found), sum(tokens for _, tokens in found)
            if not loss <= LARGEST * tokens:
                raise ModelError(
                    f"controls.perplexity: {self.name} gives no finite perplexity of a text ({loss} nats in {tokens} tokens). "
                    "Use dtype=float32, or another text model."
                )
            yield loss, tokens

    def _pieces(self, text: str) -> list[list[int]]:
        """The token ids of `text` in pieces that the model can read, each behind the token that begins a text, if any."""
        begin = self.tokenizer.bos_token_id
        first = [] if begin is None else [begin]
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        room = self.longest - len(first)
        return [first + ids[at : at + room] for at in range(0, len(ids), room)]

    @property
    def longest(self) -> int:
        """The tokens of the longest piece."""
        return min(LONGEST, getattr(self.model.config, "max_position_embeddings", None) or LONGEST)

    @torch.inference_mode()
    def _loss(self, piece: Sequence[int]) -> tuple[float, int]:
        """The summed loss of all tokens of `piece` but the first, and their number."""
        ids_1S = torch.tensor([piece], device=self.model.device)
        logits_SV = self.model(input_ids=ids_1S, use_cache=False).logits[0, :-1]
        return _summed_loss(logits_SV, ids_1S[0, 1:]), len(piece) - 1


def _summed_loss(logits_SV: Tensor, targets_S: Tensor) -> float:
    """Summed in float64, a chunk of rows at a time, as a vocabulary in float32 is large."""
    rows = max(1, CHUNK_ELEMENTS // logits_SV.shape[-1])
    total = 0.0
    for logits, targets in zip(torch.split(logits_SV, rows), torch.split(targets_S, rows), strict=True):
        total -= float(log_softmax(logits, 1.0).gather(-1, targets[:, None]).double().sum())
    return total


def config_of(name: str, purpose: str = SCORING) -> Any:
    """The configuration of the model called `name`, a folder or a hub name. Errors: ModelError where there is none."""
    if not name or (name.startswith(("/", ".", "~")) and not Path(name).is_dir()):
        raise _unusable(name or "''", "there is no such folder", purpose)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)  # None would ask on the terminal
    except UNREADABLE as error:
        raise _unusable(name, f"no config.json of it can be read ({reason(error)})", purpose) from error


def check_text_model(name: str, purpose: str = SCORING) -> Any:
    """The tokenizer of the causal text model called `name`. Errors: ModelError where it is none, told by its config.json."""
    kind = config_of(name, purpose).model_type
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _unusable(name, f"it is of type {kind!r}, which transformers loads as no causal text model", purpose)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (*UNREADABLE, ImportError) as error:  # BioGPT's needs sacremoses
        raise _unusable(name, f"its tokenizer cannot be read ({reason(error)})", purpose) from error


def load_text_model(name: str, dtype: str = "auto", device: str = "auto", purpose: str = SCORING) -> TextModel:
    """The text model called `name`, a folder or a hub name; `purpose` begins the messages.

    Errors: ModelError where it is none, a file is absent or damaged, or a weight would be left random.
    """
    tokenizer = check_text_model(name, purpose)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype_of(dtype, device),
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them below
            trust_remote_code=False,
        )
    except UNREADABLE as error:
        raise _unusable(name, f"its weights cannot be read as safetensors ({reason(error)})", purpose) from error
    if lacking := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
        what = f"weights that its config.json asks for are missing or of another shape: {some(lacking)}"
        raise _unusable(name, what, purpose)
    model = model.to(device).eval()
    if _looks_ahead(model):
        raise _unusable(name, "it looks ahead: what it predicts of a token depends on later ones", purpose)
    return TextModel(name, model, tokenizer)


@torch.inference_mode()
def _looks_ahead(model: Any) -> bool:
    """Whether the logits of `model` at a token change with the tokens behind it, as those of a masked model (BERT) do."""
    same, size = PROBE // 2, model.get_input_embeddings().num_embeddings
    ids_2S = torch.arange(PROBE, device=model.device).remainder(size).repeat(2, 1)
    ids_2S[1, same:] = ids_2S[1, same:].flip(0)
    logits_2SV = model(input_ids=ids_2S, use_cache=False).logits[:, :same].float()
    return bool((logits_2SV[0] - logits_2SV[1]).abs().max() > 0.05 * logits_2SV.std())


def _unusable(name: str, why: str, purpose: str) -> ModelError:
    return ModelError(f"{purpose.format(name=name)}: {why}. Give a causal text model, a folder or a hub name.")
