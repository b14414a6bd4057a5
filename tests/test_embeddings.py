"""Embeddings against sentence-transformers' own, and BERTScore against torchmetrics, on models built here."""

import json
import warnings
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from osler.errors import ModelError, RecipeError
from osler.model import embeddings, encoders
from osler.model.bert_score import NONE, bert_scores
from osler.model.embeddings import Embedder, check_embedder, load_embedder
from osler.model.encoders import check_encoder, load_encoder
from osler.model.load import TINY

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "left", "right", "lung", "liver", "shows", "a", "dark", "round", "cyst", "nodule", "ct", "of", "large", "small"]
TEXTS = [
    "the left lung shows a nodule",
    "the right lung shows a nodule",
    "liver cyst",
    "ct",
    "a large dark round cyst of the liver and a small nodule of the left lung",
]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "initializer_range": 0.4}


def save_tokenizer(folder, longest=64):
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **names).save_pretrained(folder)
    return len(vocabulary)


def save_bert(folder, **more):
    torch.manual_seed(0)
    size = save_tokenizer(folder, **more)
    BertModel(BertConfig(vocab_size=size, max_position_embeddings=64, **SHAPE)).save_pretrained(folder)
    return folder


def save_embedder(folder, *more):
    save_bert(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, *more], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_encoder(str(save_bert(tmp_path_factory.mktemp("bert"))), device="cpu")


@pytest.fixture
def embedder(folder):
    return load_embedder(str(folder), device="cpu")


# --- embeddings


def test_similarities_are_cosines_of_sentence_transformers(folder, embedder):
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    vectors = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    expected = np.clip(vectors @ vectors.T, 0, 1).ravel()
    found = embedder.similarities(pairs)
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) <= 1
    assert min(found) < 0.95, "the texts of the test are told apart"


def test_a_similarity_depends_on_its_two_texts_alone(folder, embedder):
    pair = (TEXTS[0], TEXTS[4])
    together = embedder.similarities([(TEXTS[1], TEXTS[2]), pair, (TEXTS[3], TEXTS[4])])
    assert together[1] == load_embedder(str(folder), device="cpu").similarities([pair])[0] == embedder.similarities([pair])[0]
    assert embedder.similarities([]) == []


def test_a_blank_text_is_like_no_other(embedder):
    assert embedder.similarities([("", "liver"), ("liver", " \n"), ("liver", "liver")]) == [0.0, 0.0, pytest.approx(1)]


class Counting:
    """A model whose embeddings are drawn by the text, and which counts what it is asked for."""

    device, max_seq_length = torch.device("cpu"), None

    def __init__(self):
        self.asked = []

    def encode(self, texts, **settings):
        assert (settings["batch_size"], settings["normalize_embeddings"]) == (1, True)
        self.asked += texts
        return np.array([[len(text), -1.0] for text in texts], dtype=np.float32)


def test_each_text_is_embedded_once_and_the_oldest_are_forgotten():
    model = Counting()
    embedder = Embedder("counting", model, remembered=3)
    embedder.similarities([("aa", "b"), ("aa", "aa"), ("b", "ccc")])
    assert model.asked == ["b", "aa", "ccc"], "different ones, by length"
    embedder.similarities([("aa", "ccc")])
    assert len(model.asked) == 3
    embedder.similarities([("aa", "dddd")])
    assert model.asked[3:] == ["dddd"]
    embedder.similarities([("b", "aa")])
    assert model.asked[4:] == ["b"], "it was the one not used for longest"
    many = [(f"{'x' * n}", "aa") for n in range(1, 9)]
    assert len(embedder.similarities(many)) == 8, "more at once than are remembered"


def test_what_points_away_is_zero():
    class Opposed(Counting):
        def encode(self, texts, **settings):
            return np.array([[1.0 if "up" in text else -1.0] for text in texts], dtype=np.float32)

    assert Embedder("opposed", Opposed()).similarities([("up", "down"), ("down", "down")]) == [0.0, 1.0]


def test_embeddings_that_are_not_finite_are_an_error():
    class Broken(Counting):
        def encode(self, texts, **settings):
            return np.full((len(texts), 2), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="broken cannot compare texts: it gives embeddings that are not finite"):
        Embedder("broken", Broken()).similarities([("a", "b")])


def test_a_text_longer_than_the_model_reads_is_told(embedder, bert):
    long = " ".join(["liver"] * 63)
    for model in (embedder, bert):
        assert not model.cut(" ".join(["liver"] * 62)), "62 words, [CLS] and [SEP]"
        assert model.cut(long)
    assert embedder.similarities([(long, long + " cyst")]) == [pytest.approx(1)]
    assert len(bert.vectors([long])[0]) == 62


def test_a_folder_needs_no_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asks the network"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("it asks the network"))
    assert load_embedder(str(folder)).similarities([("ct", "ct")]) == [pytest.approx(1)]
    assert bert_scores([("ct", "ct")], load_encoder(str(save_bert(tmp_path))))[0].f1 == pytest.approx(1)


def test_a_hub_name_is_fetched_without_pickles(folder, monkeypatch):
    asked = []

    def fetched(name, allow_patterns):
        asked.append(name)
        assert not any(
            fnmatch(file, pattern) for file in ("pytorch_model.bin", "m.pt", "mine.py") for pattern in allow_patterns
        )
        files = ("modules.json", "1_Pooling/config.json", "vocab.txt", "spiece.model", "model.safetensors")
        assert all(any(fnmatch(file, pattern) for pattern in allow_patterns) for file in files)
        return str(folder)

    monkeypatch.setattr(embeddings, "cached_file", lambda name, file: str(folder / file))
    monkeypatch.setattr(embeddings, "snapshot_download", fetched)
    assert load_embedder("some/model").name == "some/model" == asked[0]
    monkeypatch.setattr(embeddings, "snapshot_download", lambda *_, **__: (folder / "absent").read_bytes())
    with pytest.raises(ModelError, match=r"some/model cannot compare texts: the hub did not give it \(FileNotFoundError"):
        load_embedder("some/model")


def test_a_missing_package_is_told(monkeypatch, folder):
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r'pip install "osler\[embed\]"'):
        load_embedder(str(folder))


def test_what_is_no_embedder_is_told_before_anything_is_loaded(tmp_path, folder):
    check_embedder(str(folder))
    for name in ("", "./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match="cannot compare texts: there is no such folder"):
            check_embedder(name)
    with pytest.raises(ModelError, match=r"has a modules\.json, and none of it can be read"):
        check_embedder(str(TINY))
    for said in ("{", '{"a": 1}', '[{"path": ""}]', "[1]"):
        (tmp_path / "modules.json").write_text(said)
        with pytest.raises(ModelError, match=r"has a modules\.json, and none of it can be read"):
            check_embedder(str(tmp_path))


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    folder = save_embedder(tmp_path)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: ...")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "mine.Module"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"asks for code of its own \(mine\.Module\), which is not run"):
        load_embedder(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_is_never_read(tmp_path):
    folder = save_embedder(tmp_path, Dense(32, 8))
    assert len(load_embedder(str(folder), device="cpu")._embedded(["ct"])["ct"]) == 8
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"its weights are a pickle \(2_Dense/\*\.bin\)"):
        load_embedder(str(folder))


def test_damaged_weights_of_an_embedder_are_told(tmp_path):
    folder = save_embedder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.1.output.dense.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing or of another shape: .*layer\.1\.output\.dense\.weight"):
        load_embedder(str(folder))
    (folder / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(ModelError, match="its weights cannot be read as safetensors"):
        load_embedder(str(folder))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="sentence-transformers does not load it"):
        load_embedder(str(folder))


# --- BERTScore


def oracle(text, reference, encoder, layer):
    """One pair at a time: in a batch torchmetrics 1.9 puts sorted texts back in another order than they came in."""
    from torchmetrics.functional.text import bert_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = {"model": encoder.model, "user_tokenizer": encoder.tokenizer, "num_layers": layer, "max_length": 64}
        found = bert_score([text], [reference], **how)
    return [float(found[name]) for name in ("precision", "recall", "f1")]


@pytest.mark.parametrize("layer", [None, 0, 1, 3])
def test_bert_scores_are_those_of_torchmetrics(bert, layer):
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    found = [(one.precision, one.recall, one.f1) for one in bert_scores(pairs, bert, layer)]
    expected = [oracle(*pair, bert, layer) for pair in pairs]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-5)
    assert len({round(f1, 3) for *_, f1 in found}) > 5


def test_layers_differ_and_the_last_is_the_default(bert):
    pair = [(TEXTS[0], TEXTS[4])]
    assert bert_scores(pair, bert) == bert_scores(pair, bert, 3) != bert_scores(pair, bert, 1)
    with pytest.raises(ModelError, match="has no layer 4: it has 0 to 3"):
        bert_scores(pair, bert, 4)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=6)), max_size=4)
)
def test_bert_scores_have_the_properties_of_a_match(bert, drawn):
    pairs = [(" ".join(one), " ".join(other)) for one, other in drawn]
    found, turned = bert_scores(pairs, bert), bert_scores([pair[::-1] for pair in pairs], bert)
    for (one, other), here, there in zip(pairs, found, turned, strict=True):
        assert (here.precision, here.recall) == pytest.approx((there.recall, there.precision))
        assert 0 <= min(here.precision, here.recall) <= here.f1 + 1e-12 <= max(here.precision, here.recall) + 2e-12 <= 1 + 1e-5
        if not one or not other:
            assert here == NONE
        elif one == other:
            assert here.f1 == pytest.approx(1)


def test_what_is_no_encoder_is_told(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        check_encoder("./nowhere")
    with pytest.raises(ModelError, match=r"no config\.json of it can be read"):
        check_encoder(str(tmp_path))
    with pytest.raises(ModelError, match="type 'qwen2_vl', which transformers loads as no text encoder"):
        check_encoder(str(TINY))
    T5ForConditionalGeneration(T5Config(vocab_size=10, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="type 't5'"):
        check_encoder(str(tmp_path))


def test_an_encoder_without_weights_in_safetensors_or_with_missing_ones_is_refused(tmp_path):
    save_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    load_encoder(str(tmp_path))  # a pooler is of no use here, and often left out
    del kept["encoder.layer.0.attention.self.query.weight"]
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing or of another shape: encoder\.layer\.0\.attention\.self\.query\.weight"):
        load_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="its weights cannot be read as safetensors"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize(("kind", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)])
def test_a_checkpoint_of_a_masked_language_model_serves(tmp_path, kind, config):
    size = save_tokenizer(tmp_path, longest=10**30)
    torch.manual_seed(0)
    kind(config(vocab_size=size, max_position_embeddings=32, pad_token_id=0, **SHAPE)).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), device="cpu")
    assert encoder.longest == 30
    assert bert_scores([(" ".join(["liver"] * 99), "cyst")], encoder)[0].f1 > 0
    assert encoders.texts_at_once("cpu") == 1
