"""Loading: the published layout, the pixel budget, LoRA, merging, and what must not leak or be sampled."""

import json
import shutil

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from osler.config import FeatureSettings, ImageSettings, LoraSettings
from osler.errors import ModelError, RunError
from osler.images import open_image
from osler.model import load
from osler.model.adapters import lora_config, merge_adapter, weights_of
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Generator, Request, generate, greedy
from osler.model.load import load_policy, load_processor
from osler.model.prompts import encode, processor_inputs
from osler.runs import Run
from real_layout import CHAT_TEMPLATE, save_real_layout

PROMPT = ("What imaging modality is this?\n- CT\n- MRI\nGive the right option.", [open_image("phantom:test/0/0")])


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def layout(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_real_layout(folder, request.param)


def test_the_published_layout_loads_with_every_weight_in_its_place(layout):
    folder, saved = layout
    loaded = load_policy(str(folder), dtype="float32")
    assert len(list(folder.glob("model-*.safetensors"))) == 3
    inputs = processor_inputs(loaded, [PROMPT])
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
        ids = processor_inputs(vlm, [("?", [large])])["input_ids"]
        counts.append(int((ids == vlm.model.config.image_token_id).sum()))
    assert counts == [400, 4]


def test_image_stands_before_the_text_and_padding_is_left(layout):
    vlm = load_policy(str(layout[0]))
    ids = processor_inputs(vlm, [PROMPT, ("?", PROMPT[1])])["input_ids"]
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
    inputs = processor_inputs(vlm, [PROMPT])
    adapted = _with_lora(vlm)
    with torch.no_grad():
        wanted = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = load_policy(str(layout[0]), dtype="float32")
    with torch.no_grad():
        plain = fresh.model(**inputs).logits
        merged = merge_adapter(fresh, tmp_path / "adapter")(**inputs).logits
    torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)
    assert (merged - plain).abs().max() > 0.01


def test_merging_in_bf16_rounds_weights_only(layout, tmp_path):
    """A rotary frequency rounded to bf16 is off by whole turns at the positions of a long prompt."""
    family = transformers.AutoConfig.from_pretrained(layout[0]).architectures[0]
    plain = getattr(transformers, family).from_pretrained(layout[0], dtype=torch.bfloat16)
    _with_lora(load_policy(str(layout[0]), dtype="bfloat16")).save_pretrained(tmp_path / "adapter")
    merged = load_policy(f"peft:{tmp_path / 'adapter'}", dtype="bfloat16")
    assert {weight.dtype for weight in merged.model.parameters()} == {torch.bfloat16}
    buffers, wanted = (dict(model.named_buffers()) for model in (merged.model, plain))
    assert list(buffers) == list(wanted)
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, wanted[name], rtol=0, atol=0)  # the dtype, too
    inputs = processor_inputs(merged, [PROMPT])
    with torch.no_grad():
        ours, base = merged.model(**inputs).logits, plain(**inputs).logits
        unmerged = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))(**inputs).logits
    moved = (unmerged - base).abs().max()
    assert moved > 0.1
    assert (ours - unmerged).abs().max() < 0.1 * moved


def test_special_tokens_are_never_generated(layout, monkeypatch):
    vlm = load_policy(str(layout[0]), dtype="float32")
    image = vlm.model.config.image_token_id
    with torch.no_grad():  # make the image token by far the likeliest; tied as it is, its row is never read as an input
        state = vlm.model(**processor_inputs(vlm, [PROMPT]), output_hidden_states=True).hidden_states[-1][0, -1]
        vlm.model.get_output_embeddings().weight[image] = 100 * state
    assert image in vlm.banned_ids
    assert not set(vlm.banned_ids) & set(vlm.end_ids)
    ids = _generated_ids(vlm, 8)
    assert 1 <= len(ids) <= 8
    assert not set(ids) & set(vlm.banned_ids)
    monkeypatch.setattr(VLM, "banned_ids", [])
    assert _generated_ids(vlm, 1) == [image]


def _generated_ids(vlm, max_tokens):
    """The raw ids of PROMPT's completion: its text would hide a special token."""
    prompt = encode(vlm, FeatureStore(vlm, FeatureSettings(disk_gb=0)), PROMPT)
    generator = Generator(vlm, greedy(vlm), max_tokens)
    ((_, _, sampled),) = generator.run([Request(prompt, (0,))])
    return sampled.ids


def test_a_batch_gives_what_single_prompts_give(layout):
    vlm = load_policy(str(layout[0]), dtype="float32")
    prompts = [PROMPT, ("Where?", [open_image("phantom:test/0/1")]), ("Why is that so?", [open_image("phantom:test/0/2")])]
    together = list(generate(vlm, prompts, max_tokens=6))
    assert together == [c for prompt in prompts for c in generate(vlm, [prompt], max_tokens=6)]


def test_the_processors_chat_template_is_read_where_the_tokenizer_has_none(layout, tmp_path):
    folder = shutil.copytree(layout[0], tmp_path / "copy")
    wanted = processor_inputs(load_policy(str(folder)), [PROMPT])["input_ids"]
    _without(folder / "tokenizer_config.json", "chat_template")
    processor = load_processor(str(folder), ImageSettings())
    assert processor.chat_template == processor.tokenizer.chat_template == CHAT_TEMPLATE
    assert torch.equal(processor_inputs(load_policy(str(folder)), [PROMPT])["input_ids"], wanted)
    (folder / "chat_template.json").write_text("{")
    with pytest.raises(ModelError, match=r"no chat template: .*JSONDecodeError"):
        load_processor(str(folder), ImageSettings())
    (folder / "chat_template.json").unlink()
    with pytest.raises(ModelError, match=r"no chat template: .*copy chat_template.json"):
        load_processor(str(folder), ImageSettings())


SHARD = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no image processor"),
        (lambda folder: _edit(folder / "config.json", model_type="bert"), "unknown model family 'bert'"),
        (lambda folder: _edit(folder / "config.json", hidden_size="wide"), r"config.json cannot be used .*hidden_size"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json cannot be parsed \(JSONDecodeError"),
        (lambda folder: (folder / "config.json").unlink(), r"no model at .*has no config.json"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be read"),
        (lambda folder: _reshape(folder / SHARD), r"of another shape: .*input_layernorm"),
        (lambda folder: (folder / SHARD).unlink(), r"cannot be read; .*No such file"),
        (lambda folder: (folder / SHARD).write_bytes(b""), r"cannot be read; .*SafetensorError"),
        (
            lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:9000]),
            "cannot be read; .*SafetensorError",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), r"cannot be read; .*no file named model"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "cannot be read; .*weight_map"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_says_why(layout, tmp_path, break_it, says):
    folder = shutil.copytree(layout[0], tmp_path / "broken")
    break_it(folder)
    with pytest.raises(ModelError, match=says) as raised:
        load_policy(str(folder))
    assert str(folder) in str(raised.value)


def test_a_processor_of_a_checkpoint_that_is_not_there_says_that_and_not_which_file_is_missing(tmp_path):
    with pytest.raises(ModelError, match=r"no model at .*there is no such folder"):
        load_processor(str(tmp_path / "nowhere"), ImageSettings())


def test_no_weight_is_left_random(layout, tmp_path):
    folder = shutil.copytree(layout[0], tmp_path / "broken")
    for shard in folder.glob("model-*.safetensors"):
        save_file({n: w for n, w in load_file(shard).items() if "model.layers.0." not in n}, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"are missing: model.language_model.layers.0.input_layernorm.weight, .* and 9 more"):
        load_policy(str(folder))


@pytest.mark.parametrize("path", ["/no/such/folder", "./folder", "../folder", "."])
def test_a_path_is_never_looked_for_on_the_hub(path, monkeypatch, tmp_path):
    def asked(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("osler.model.load.AutoConfig.from_pretrained", asked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="it is no checkpoint folder"):
        load_policy(path)


ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: _keep(folder / ADAPTER, lambda name: "layers.0." not in name), "it lacks .*layers.0.* and 11 more"),
        (lambda folder: _edit(folder / "adapter_config.json", target_modules=["q_proj"]), "its base does not take,.*down_proj"),
        (lambda folder: _edit(folder / "adapter_config.json", target_modules=["nothing"]), "another base .*nothing"),
        (lambda folder: _edit(folder / "adapter_config.json", r=8), "damaged or of another base .*RuntimeError"),
        (lambda folder: _edit(folder / "adapter_config.json", peft_type="NONE"), "adapter_config.json cannot be used"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be used"),
        (lambda folder: (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:900]), "SafetensorError"),
        (lambda folder: (folder / ADAPTER).unlink(), "has no weights"),
    ],
)
def test_an_adapter_that_cannot_be_used_says_why(layout, tmp_path, break_it, says):
    vlm = load_policy(str(layout[0]), dtype="float32")
    folder = tmp_path / "adapter"
    _with_lora(vlm).save_pretrained(folder)
    break_it(folder)
    with pytest.raises(ModelError, match=says) as raised:
        merge_adapter(load_policy(str(layout[0]), dtype="float32"), folder)
    assert str(folder) in str(raised.value)


def test_a_run_without_an_adapter_says_so(tmp_path):
    with pytest.raises(RunError, match="no adapter"):
        weights_of(tmp_path)


def test_a_run_without_a_best_step_says_so(tmp_path):
    run = Run.create(tmp_path / "run", "train")
    run.finish({"steps": 2})
    with pytest.raises(RunError, match="no best checkpoint"):
        weights_of(run.path, "best")


@pytest.mark.parametrize(("native", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_chosen_only_where_the_gpu_computes_in_it(native, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert load.dtype_of("auto", "cuda:0") == wanted
    assert load.dtype_of("auto", "cpu") == load.dtype_of("auto", "mps") == torch.float32
    assert load.dtype_of("bfloat16", "cpu") == torch.bfloat16


def _with_lora(vlm):
    """`vlm`'s model with a LoRA that is not zero."""
    adapted = get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=4)))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return adapted


def _edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _without(file, key):
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key}))


def _keep(file, wanted):
    save_file({name: weight for name, weight in load_file(file).items() if wanted(name)}, file, metadata={"format": "pt"})


def _reshape(file):
    cut = {name: weight[:-2].clone() if "layernorm" in name else weight for name, weight in load_file(file).items()}
    save_file(cut, file, metadata={"format": "pt"})


def test_a_pickle_is_never_opened(layout, tmp_path):
    """Neither a checkpoint's nor an adapter's: only safetensors are read."""
    folder = shutil.copytree(layout[0], tmp_path / "pickled")
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="weights cannot be read"):
        load_policy(str(folder))
    vlm = load_policy(str(layout[0]))
    get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=2))).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        merge_adapter(load_policy(str(layout[0])), tmp_path / "adapter")
