"""Loading: the published layout, the pixel budget, LoRA, merging, and what must not leak or be sampled."""

import json
import shutil

import pytest
import torch
from peft import get_peft_model

from osler.config import ImageSettings, LoraSettings
from osler.errors import ModelError, RunError
from osler.images import open_image
from osler.model.generate import encode, generate
from osler.model.load import adapter_of, load_policy, lora_config, merge_adapter
from real_layout import save_real_layout

PROMPT = ("What imaging modality is this?\n- CT\n- MRI\nGive the right option.", [open_image("phantom:test/0/0")])


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def layout(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_real_layout(folder, request.param)


def test_the_published_layout_loads_with_every_weight_in_its_place(layout):
    folder, saved = layout
    loaded = load_policy(str(folder), dtype="float32")
    assert len(list(folder.glob("model-*.safetensors"))) == 3
    inputs = encode(loaded, [PROMPT])
    with torch.no_grad():
        ours, theirs = loaded.model(**inputs).logits, saved.float()(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert loaded.model.config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]


def test_a_checkpoints_own_sampling_does_not_leak(layout):
    config = load_policy(str(layout[0])).model.generation_config
    assert json.loads((layout[0] / "generation_config.json").read_text())["top_k"] == 1
    assert (config.temperature, config.top_k, config.top_p, config.do_sample) in ((None,) * 4, (1.0, 50, 1.0, False))


def test_the_pixel_budget_bounds_the_image_tokens(layout):
    large = open_image("phantom:test/0/0").resize((560, 560))
    counts = []
    for most in (401_408, 56 * 56):
        vlm = load_policy(str(layout[0]), ImageSettings(max_pixels=most))
        ids = encode(vlm, [("?", [large])])["input_ids"]
        counts.append(int((ids == vlm.model.config.image_token_id).sum()))
    assert counts == [400, 4]


def test_image_stands_before_the_text_and_padding_is_left(layout):
    vlm = load_policy(str(layout[0]))
    ids = encode(vlm, [PROMPT, ("?", PROMPT[1])])["input_ids"]
    image, pad = vlm.model.config.image_token_id, vlm.processor.tokenizer.pad_token_id
    assert ids[1, 0] == pad
    assert ids[0, 0] != pad
    text = vlm.processor.tokenizer.decode(ids[0])
    assert text.index("<|image_pad|>") < text.index("What imaging")
    assert (ids == image).sum(1).tolist() == [4, 4]


def test_lora_touches_the_language_model_only(layout):
    vlm = load_policy(str(layout[0]))
    model = get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=4)))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 7 * 2  # two layers, seven linears, A and B
    assert all(".language_model.layers." in name for name in trained)
    assert not any("visual" in name for name in trained)


def test_unknown_lora_targets_are_refused(layout):
    with pytest.raises(ModelError, match="language"):
        lora_config(load_policy(str(layout[0])), LoraSettings(targets="langauge"))


def test_merging_gives_the_adapted_model(layout, tmp_path):
    vlm = load_policy(str(layout[0]), dtype="float32")
    inputs = encode(vlm, [PROMPT])
    adapted = get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=4)))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    with torch.no_grad():
        wanted = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = load_policy(str(layout[0]), dtype="float32")
    with torch.no_grad():
        plain = fresh.model(**inputs).logits
        merged = merge_adapter(fresh, tmp_path / "adapter")(**inputs).logits
    torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)
    assert (merged - plain).abs().max() > 0.01


def test_special_tokens_are_never_generated(layout):
    vlm = load_policy(str(layout[0]), dtype="float32")
    image = vlm.model.config.image_token_id
    with torch.no_grad():  # make the image token by far the likeliest
        vlm.model.get_output_embeddings().weight[image] = 5 * vlm.model.get_output_embeddings().weight.mean(0)
    assert image in vlm.banned_ids
    assert not set(vlm.banned_ids) & set(vlm.end_ids)
    for completion in generate(vlm, [PROMPT], max_tokens=8):
        assert "<|" not in completion.text
        assert 1 <= completion.tokens <= 8


def test_a_batch_gives_what_single_prompts_give(layout):
    vlm = load_policy(str(layout[0]), dtype="float32")
    prompts = [PROMPT, ("Where?", [open_image("phantom:test/0/1")]), ("Why is that so?", [open_image("phantom:test/0/2")])]
    together = list(generate(vlm, prompts, max_tokens=6))
    assert together == [c for prompt in prompts for c in generate(vlm, [prompt], max_tokens=6)]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no image processor"),
        (lambda folder: _edit(folder / "config.json", model_type="bert"), "unknown model family 'bert'"),
        (lambda folder: (folder / "config.json").unlink(), "no model at"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_says_why(layout, tmp_path, break_it, says):
    folder = shutil.copytree(layout[0], tmp_path / "broken")
    break_it(folder)
    with pytest.raises(ModelError, match=says):
        load_policy(str(folder))


def test_a_run_without_an_adapter_says_so(tmp_path):
    with pytest.raises(RunError, match="no adapter"):
        adapter_of(tmp_path)


def _edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
