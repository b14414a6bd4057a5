"""How near two texts are in meaning, by a sentence-transformers model: the cosine of their embeddings.

sentence-transformers is no part of osler; `pip install "osler[embed]"` brings it. A model is a folder in its layout or a hub
name; weights are safetensors, and no code of a checkpoint is run.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from transformers import AutoConfig
from transformers.utils import cached_file

from osler.errors import RecipeError
from osler.model.adapters import UNREADABLE, reason
from osler.model.encoders import chosen_device, load_weights, require_folder, texts_at_once, unusable

REMEMBERED = 10_000
"""Texts whose embeddings are kept, the latest used; a model of 768 features then takes 30 MB."""

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OWN = "sentence_transformers."

Vector = NDArray[np.float32]


class Embedder:
    """A sentence-transformers model that remembers the texts it has embedded, for as long as the process lasts."""

    def __init__(self, name: str, model: Any, remembered: int = REMEMBERED) -> None:
        self.name, self._model, self._most = name, model, remembered
        self._known: OrderedDict[str, Vector] = OrderedDict()

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine of each pair's embeddings, 0 to 1. A negative one is 0, and so is a blank text beside one that is not.

        On a CPU a value depends on its two texts alone; on a GPU, where texts go in batches, on the others in its last digits.
        Errors: ModelError where the model gives embeddings that are not finite.
        """
        vectors = self._embedded(list(dict.fromkeys(text for pair in pairs for text in pair)))
        return [_cosine(one, other, vectors) for one, other in pairs]

    def cut(self, text: str) -> bool:
        """Whether `text` is longer than the model reads; what is behind has no part in its embedding."""
        longest = self._model.max_seq_length
        if longest is None or longest == math.inf:
            return False  # a static model reads all, and its tokenizer is of another kind
        return bool(len(self._model.tokenizer(text, verbose=False)["input_ids"]) > longest)

    def _embedded(self, texts: Sequence[str]) -> dict[str, Vector]:
        """The embedding of each of `texts`, all different; those not known are made, and the oldest forgotten."""
        new = sorted((text for text in texts if text not in self._known), key=len)
        found = {text: self._known[text] for text in texts if text in self._known} | self._encoded(new)
        for text in texts:
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found

    def _encoded(self, texts: Sequence[str]) -> dict[str, Vector]:
        if not texts:
            return {}
        vectors_ND = self._model.encode(
            list(texts),
            batch_size=texts_at_once(self._model.device.type),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        if not np.isfinite(vectors_ND).all():
            raise unusable(self.name, "it gives embeddings that are not finite")
        return dict(zip(texts, vectors_ND, strict=True))


def check_embedder(name: str) -> None:
    """Nothing, where `name` is a sentence-transformers model, told by its modules.json alone.

    Errors: ModelError; RecipeError where sentence-transformers is not installed.
    """
    if find_spec("sentence_transformers") is None:
        raise RecipeError('an embedding model needs sentence-transformers: pip install "osler[embed]".')
    require_folder(name)
    try:
        file = cached_file(name, "modules.json")
        modules = json.loads(Path(file).read_text(encoding="utf-8"))
        kinds = [module["type"] for module in modules]
    except UNREADABLE as error:
        why = "a model of sentence-transformers has a modules.json, and none of it can be read"
        raise unusable(name, f"{why} ({reason(error)})") from error
    if others := [kind for kind in kinds if not str(kind).startswith(_OWN)]:
        raise unusable(name, f"its modules.json asks for code of its own ({others[0]}), which is not run")


def load_embedder(name: str, device: str = "auto") -> Embedder:
    """The embedding model called `name`, a folder or a hub name, in float32.

    Errors: as `check_embedder`; ModelError where a file is absent or damaged, or a weight would be left random.
    """
    check_embedder(name)
    folder = _folder(name)
    _require_safe(name, folder)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder),
            device=chosen_device(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": "float32", "use_safetensors": True},
        )
    except (*UNREADABLE, ImportError, AttributeError) as error:
        raise unusable(name, f"sentence-transformers does not load it ({reason(error)})") from error
    return Embedder(name, model.eval())


def _folder(name: str) -> Path:
    """Where the files of `name` are; those of a hub name are fetched, but for pickles."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except UNREADABLE as error:
        raise unusable(name, f"the hub did not give it ({reason(error)})") from error


def _require_safe(name: str, folder: Path) -> None:
    """Errors: ModelError where a module has a pickle for its weights, or one of the encoder's would be left random."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module in modules:
        part = folder / str(module.get("path", ""))
        if list(part.glob("*.bin")) and not list(part.glob("*.safetensors")):
            raise unusable(name, f"its weights are a pickle ({part.name}/*.bin), and only safetensors are read")
        if module["type"].endswith(".Transformer") and (part / "config.json").is_file() and not _in_two_parts(name, part):
            load_weights(name, str(part))


def _in_two_parts(name: str, folder: Path) -> bool:
    """Whether the model at `folder` has an encoder and a decoder (T5), of which only the first is used."""
    try:
        return bool(AutoConfig.from_pretrained(str(folder), trust_remote_code=False).is_encoder_decoder)
    except UNREADABLE as error:
        raise unusable(name, f"its config.json cannot be read ({reason(error)})") from error


def _cosine(one: str, other: str, vectors: dict[str, Vector]) -> float:
    if bool(one.strip()) != bool(other.strip()):
        return 0.0
    cosine = float(np.dot(vectors[one].astype(np.float64), vectors[other].astype(np.float64)))
    return min(1.0, max(0.0, cosine))
