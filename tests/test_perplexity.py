"""The loss of texts under a causal text model, against transformers' own loss."""

import json
import math

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from osler.errors import ModelError
from osler.model import perplexity
from osler.model.load import TINY
from osler.model.perplexity import check_text_model, load_text_model

TEXTS = ["The modality is CT.", "Dark and round, so a cyst. " * 4, "肺炎", "x", ""]


def saved(folder, kind, begins=True):
    """A tiny model with random weights and the embedded model's tokenizer, which begins texts or not."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.bos_token = "<|endoftext|>" if begins else None
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5, **size))
    else:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, initializer_range=0.5, **shape, **size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_losses_are_those_of_transformers(tmp_path, kind, begins):
    model, tokenizer = saved(tmp_path, kind, begins)
    found = list(load_text_model(str(tmp_path)).losses(TEXTS))
    for text, (loss, tokens) in zip(TEXTS, found, strict=True):
        ids = ([tokenizer.bos_token_id] if begins else []) + tokenizer(text)["input_ids"]
        assert tokens == max(0, len(ids) - 1)
        if tokens:
            ids = torch.tensor([ids])
            assert loss / tokens == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
        else:
            assert loss == 0
    assert {tokens == 0 for _, tokens in found} == {True, False}
    assert not any(math.isnan(loss) for loss, _ in found)


def test_a_text_that_is_longer_than_the_model_reads_is_cut(tmp_path, monkeypatch):
    model, tokenizer = saved(tmp_path, "gpt2")
    text = "Dark and round, so a cyst. " * 30
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > 2 * 63
    ((loss, tokens),) = load_text_model(str(tmp_path)).losses([text])
    pieces = [torch.tensor([[tokenizer.bos_token_id, *ids[at : at + 63]]]) for at in range(0, len(ids), 63)]
    assert tokens == len(ids)
    expected = sum(model(input_ids=one, labels=one).loss.item() * (one.shape[1] - 1) for one in pieces)
    assert loss == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(perplexity, "CHUNK_ELEMENTS", 1)  # a row of logits at a time
    assert next(load_text_model(str(tmp_path)).losses([text])) == pytest.approx((loss, tokens), rel=1e-6)


def test_what_is_no_text_model_is_told_in_words(tmp_path):
    with pytest.raises(ModelError, match=r"controls.perplexity: .*nowhere cannot score text: there is no such folder"):
        check_text_model(str(tmp_path / "nowhere"))
    for name, said in (("", "''"), ("~/no such", "~/no such"), ("./no", "./no")):
        with pytest.raises(ModelError, match=f"controls.perplexity: {said} cannot score text: there is no such folder"):
            check_text_model(name)
    with pytest.raises(ModelError, match=r"no config.json of it can be read"):
        check_text_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"type 'qwen2_vl', which transformers loads as no causal text model"):
        check_text_model(str(TINY))
    model, _ = saved(tmp_path / "a", "gpt2")
    check_text_model(str(tmp_path / "a"))
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "a" / "pytorch_model.bin")  # a pickle is never read
    with pytest.raises(ModelError, match="its weights cannot be read as safetensors"):
        load_text_model(str(tmp_path / "a"))


@pytest.mark.parametrize(("model", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)])
def test_a_model_that_looks_ahead_is_refused(tmp_path, model, config):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.5}
    model(config(**shape, **size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it looks ahead: what it predicts of a token depends on later ones"):
        load_text_model(str(tmp_path))


def test_code_of_a_checkpoint_is_neither_run_nor_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks whether to run code"))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import PretrainedConfig\nclass C(PretrainedConfig): ..."
    (tmp_path / "conf.py").write_text(code)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "conf.C"}}))
    with pytest.raises(ModelError, match=r"no config.json of it can be read"):
        check_text_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("loss", [math.nan, math.inf, 8_000.0])
def test_a_loss_without_a_finite_perplexity_is_an_error(tmp_path, monkeypatch, loss):
    saved(tmp_path, "gpt2")
    model = load_text_model(str(tmp_path))
    monkeypatch.setattr(perplexity, "_summed_loss", lambda *_: loss)
    with pytest.raises(ModelError, match=r"gives no finite perplexity of a text .* Use dtype=float32"):
        list(model.losses(["CT."]))


def test_weights_that_would_be_left_random_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing or of another shape: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_text_model(str(tmp_path))
