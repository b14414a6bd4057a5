"""Text encoders that look both ways (BERT and the like), and the vectors that they give each token of a text.

An encoder is any that transformers loads as a masked language model, a folder or a hub name; its weights are safetensors, and
no code of a checkpoint is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from osler.errors import ModelError
from osler.model.adapters import UNREADABLE, reason, some

LONGEST = 512
"""Tokens of a text that are read, at most, whatever the encoder could read."""

_ON_A_GPU = 32
"""Texts a forward."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder with its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    def vectors(self, texts: Sequence[str], layer: int | None = None) -> list[Tensor]:
        """Of each text the vectors of its tokens behind `layer` (0: what goes into the first one; None: the last), [S, D] each.

        Tokens that the tokenizer adds (`[CLS]`, `[SEP]`) are left out, so that a blank text has none; tokens behind the
        longest that the encoder reads are too (`cut`). Errors: ModelError for a layer that it lacks.
        """
        layers: int = self.model.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= layers:
            raise ModelError(f"{self.name} has no layer {layer}: it has 0 to {layers}.")
        size = texts_at_once(self.model.device.type)
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found: dict[int, Tensor] = {}
        for at in range(0, len(by_length), size):
            together = by_length[at : at + size]
            vectors = self._forward([texts[place] for place in together], layers if layer is None else layer)
            found.update(zip(together, vectors, strict=True))
        return [found[place] for place in range(len(texts))]

    def cut(self, text: str) -> bool:
        """Whether `text` is longer than the encoder reads."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) > self.longest

    @property
    def longest(self) -> int:
        """The tokens of the longest text, with those that the tokenizer adds."""
        own = self.tokenizer.model_max_length  # 1e30 where the tokenizer does not know
        positions = getattr(self.model.config, "max_position_embeddings", None) or LONGEST
        return min(LONGEST, own if own <= positions else positions - 2)  # RoBERTa's positions begin at 2

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str], layer: int) -> list[Tensor]:
        read = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        words_BS = (read.pop("special_tokens_mask") == 0) & (read["attention_mask"] == 1)
        states_BSD = self.model(**read, output_hidden_states=True).hidden_states[layer]
        if not states_BSD[words_BS].isfinite().all():
            raise ModelError(f"{self.name} gives vectors that are not finite. Use another encoder.")
        return [states_SD[words_S].float() for states_SD, words_S in zip(states_BSD, words_BS, strict=True)]


def check_encoder(name: str) -> None:
    """Nothing, where `name` is a text encoder, told by its config.json and tokenizer alone. Errors: ModelError."""
    require_folder(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)  # None would ask on the terminal
    except UNREADABLE as error:
        raise unusable(name, f"no config.json of it can be read ({reason(error)})") from error
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise unusable(
            name, f"it is of type {config.model_type!r}, which transformers loads as no text encoder (BERT and the like)"
        )
    _tokenizer(name)


def load_encoder(name: str, device: str = "auto") -> Encoder:
    """The text encoder called `name`, a folder or a hub name, in float32.

    Errors: ModelError where it is none, a file is absent or damaged, or a weight would be left random.
    """
    check_encoder(name)
    return Encoder(name, load_weights(name, name).to(chosen_device(device)).eval(), _tokenizer(name))


def load_weights(name: str, path: str) -> Any:
    """The encoder at `path`, on the CPU in float32; `name` is for messages. Errors: ModelError, as `load_encoder`."""
    try:
        model, info = AutoModel.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them below
            trust_remote_code=False,
        )
    except UNREADABLE as error:
        raise unusable(name, f"its weights cannot be read as safetensors ({reason(error)})") from error
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # of no use here, and often left out
    if lacking := [*missing, *(key for key, *_ in info["mismatched_keys"])]:
        raise unusable(name, f"weights that its config.json asks for are missing or of another shape: {some(lacking)}")
    return model


def chosen_device(device: str) -> str:
    """`device`; for auto a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def texts_at_once(device_type: str) -> int:
    """Texts that go through a model together.

    On a CPU one alone: it takes twice the time, but what comes out does not depend on what else is asked, to the last digit, so
    that a run that is resumed goes on as if it had not stopped.
    """
    return 1 if device_type == "cpu" else _ON_A_GPU


def require_folder(name: str) -> None:
    """Errors: ModelError where `name` can only be meant as a folder, and is none."""
    if not name or (name.startswith(("/", ".", "~")) and not Path(name).is_dir()):
        raise unusable(name or "''", "there is no such folder")


def unusable(name: str, why: str) -> ModelError:
    """The error of a model called `name` that cannot compare texts."""
    return ModelError(
        f"{name} cannot compare texts: {why}. Name another model, a folder or a hub name, or copy this one again."
    )


def _tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except UNREADABLE as error:
        raise unusable(name, f"its tokenizer cannot be read ({reason(error)})") from error
