"""The embedded model: what is shipped is what its log says, and it has not seen what it will be asked."""

import hashlib
import json

from osler.datasets.phantoms import samples
from osler.drawing.phantoms import draw_phantom
from osler.model.load import TINY, load_policy
from osler.model.tiny import build_tokenizer, caption_accuracy
from osler.recipe_files import load_recipe

LOG = json.loads((TINY / "training.json").read_text())


def test_what_is_shipped_is_what_the_log_describes():
    weights = (TINY / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == LOG["sha256"]
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 8_000_000
    assert {"steps", "images", "batch_size", "lr", "seed"} <= set(LOG["settings"])
    assert LOG["curve"][-1]["step"] == LOG["settings"]["steps"]


def test_the_tokenizer_is_built_the_same_again():
    shipped = load_policy("tiny").processor.tokenizer
    assert build_tokenizer().get_vocab() == shipped.get_vocab()
    for sample in samples(5, {"test": 8}):
        assert shipped.decode(shipped(sample.question)["input_ids"]) == sample.question


def test_it_describes_phantoms_that_it_never_saw():
    """A fresh draw, less than the log's 200: the shipped weights read images."""
    right = caption_accuracy(load_policy("tiny"), [f"phantom:pretrain/77/{index}" for index in range(40)])
    assert right["modality"] > 0.95
    assert right["anatomy"] > 0.9
    assert min(right.values()) > 0.6


def test_no_image_that_it_learnt_from_is_in_the_quickstart_at_seeds_0_to_4():
    seed, count = LOG["settings"]["seed"], LOG["settings"]["images"]
    learnt = {draw_phantom(f"phantom:pretrain/{seed}/{index}").tobytes() for index in range(count)}
    assert len(learnt) == count
    sizes = load_recipe("quickstart").stages["grpo"].data.train
    counts = {split: sizes[split] for split in ("train", "val", "test")}
    assert counts == {"train": 400, "val": 40, "test": 240}
    for other in range(5):
        asked = [draw_phantom(reference) for reference in _references(other, counts)]
        assert len(asked) == 400 + 40 + 240
        assert not any(image.tobytes() in learnt for image in asked)


def _references(seed, counts):
    """The images that the questions of these splits are about, each once."""
    return dict.fromkeys(reference for sample in samples(seed, counts) for reference in sample.images)
