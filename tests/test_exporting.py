"""Exports: the same model for whoever has transformers or PEFT alone, whole or not at all, and a card that says what it is."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration
from typer.testing import CliRunner

from exported_runs import TEST, TRAIN, made_run
from osler.cli.app import app
from osler.config import FeatureSettings, ImageSettings, Recipe
from osler.errors import ModelError, RecipeError, RunError
from osler.exporting import cards, evaluations, folders, sharing, writing
from osler.exporting.adapters import A, B, _part, stack_of
from osler.exporting.answering import Job, answered
from osler.exporting.evaluations import data_label
from osler.exporting.writing import export
from osler.images import open_image
from osler.model.features import FeatureStore
from osler.model.generate import Generator, Request, greedy
from osler.model.load import TINY, load_policy
from osler.model.prompts import encode
from osler.pipeline import evaluate
from osler.runs import Run
from osler.summary import read_records

LARGE = ImageSettings(min_pixels=12_544)  # phantoms are smaller: whoever does not scale them sees others
JUDGE = {"model": "openai:http://127.0.0.1:8000/v1#seer"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on top of another, evaluated, and exported twice."""
    root = tmp_path_factory.mktemp("runs")
    first = made_run(root / "first", seed=1, method="sft", lora={"r": 4, "alpha": 8, "targets": "attention"})
    second = made_run(root / "second", seed=2, steps=(3, 5), init=f"run:{first.path}", judge=JUDGE, images=LARGE.model_dump())
    tested = evaluate(f"run:{second.path}", TEST, out=root / "second-test")
    whole = export(second.path, root / "exports" / "whole")
    adapter = export(second.path, root / "exports" / "adapter", adapter=True)
    return SimpleNamespace(root=root, first=first, second=second, tested=tested, whole=whole, adapter=adapter)


def spoken(vlm, records):
    """Token ids and log-probs of the greedy completion of each record's prompt."""
    store, generator = FeatureStore(vlm, FeatureSettings(disk_gb=0)), Generator(vlm, greedy(vlm), 12)
    requests = [Request(encode(vlm, store, (one.prompt, one.sample.images)), (0,)) for one in records]
    return [(one.ids, one.logps) for _, _, one in sorted(generator.run(requests), key=lambda found: found[0])]


# --- the model


def test_the_export_answers_as_the_evaluated_run_to_the_last_bit(made):
    records = read_records(made.tested)
    evaluated = load_policy(f"run:{made.second.path}", LARGE, dtype="float32", device="cpu")
    exported = load_policy(str(made.whole.path), dtype="float32", device="cpu")
    assert spoken(evaluated, records) == spoken(exported, records)
    other = load_policy(f"run:{made.second.path}@3", LARGE, dtype="float32", device="cpu")
    assert spoken(other, records) != spoken(exported, records)


PLAIN = """
import json, sys, torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

folder = sys.argv[1]
model, told = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype="auto", output_loading_info=True)
assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"], told
tokenizer, pixels = AutoTokenizer.from_pretrained(folder), Qwen2VLImageProcessorPil.from_pretrained(folder)
said = []
for row in json.load(sys.stdin):
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"]}]}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    image = pixels(images=[Image.open(row["image"])], return_tensors="pt")
    count = int(image["image_grid_thw"].prod()) // pixels.merge_size**2
    ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt")["input_ids"]
    shown = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=shown, **image)
    said.append([tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True), count])
assert not [name for name in sys.modules if name.partition(".")[0] == "osler"]
print(json.dumps(said))
"""


def test_transformers_alone_says_the_same(made, tmp_path):
    rows = []
    for number, record in enumerate(read_records(made.tested)):
        open_image(record.sample.images[0]).save(tmp_path / f"{number}.png")
        rows.append({"prompt": record.prompt, "image": str(tmp_path / f"{number}.png")})
    command = [sys.executable, "-c", PLAIN, str(made.whole.path)]
    ended = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    vlm = load_policy(f"run:{made.second.path}", LARGE, device="cpu")
    store, records = FeatureStore(vlm, FeatureSettings(disk_gb=0)), read_records(made.tested)
    assert said == [[record.completion, len(store.of(record.sample.images[0]).values_ND)] for record in records]
    assert len({text for text, _ in said}) > 1


def test_the_folder_has_transformers_files_and_no_pickle(made):
    files = {file.name for file in made.whole.path.iterdir()}
    assert files == set(made.whole.files)
    assert files == {"README.md", "chat_template.jinja", "config.json", "floor.json", "generation_config.json",
                     "model.safetensors", "osler.json", "preprocessor_config.json", "tokenizer.json",
                     "tokenizer_config.json"}  # fmt: skip
    generation = json.loads((made.whole.path / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["max_new_tokens"]) == (False, 12)
    assert generation["suppress_tokens"] == load_policy("tiny", device="cpu").banned_ids
    pictures = json.loads((made.whole.path / "preprocessor_config.json").read_text())
    assert (pictures["processor_class"], pictures["image_processor_type"]) == ("Qwen2VLProcessor", "Qwen2VLImageProcessor")
    assert len({file.stat().st_mode for file in made.whole.path.iterdir()}) == 1


def test_no_path_leaves_with_it(made):
    for file in (*made.whole.path.glob("*.json"), *made.whole.path.glob("*.md"), *made.adapter.path.glob("*.md")):
        assert str(made.root) not in file.read_text(), file
    assert sharing.shown_judge("chat:/models/lab/seer") == "chat:seer"
    assert [sharing.shown_judge(one) for one in ("chat:lab/seer", "phantoms", JUDGE["model"])] == [
        "chat:lab/seer",
        "phantoms",
        JUDGE["model"],
    ]
    assert data_label("medr1:/data/a/CT_train.json?images=/data/b") == "medr1:CT_train.json"
    assert data_label({"name": "jsonl", "path": "/x/rows.jsonl"}) == "jsonl:rows.jsonl"


def test_no_secret_and_no_path_of_a_setting_leaves_with_it(tmp_path):
    lexicon = {"lexicon": "/home/alice/ward7/lex.json", "more": ["~/ward7/b.json", {"/home/alice/c": r"C:\\alice\\d.txt"}]}
    settings = {**lexicon, "folder": "/home/alice/terms/", "api_key": "sk-SECRET", "max_tokens": 128, "mode": "strict"}
    passed = {"deepspeed": "/home/alice/ds.json", "hub_token": "hf_SECRET", "top_p": 0.9, "bf16": True,
              "nested": {"a": "/home/alice/x"}, "report_to": None}  # fmt: skip
    run = made_run(tmp_path / "run", trl=passed, rewards=[{"name": "accuracy", "settings": settings}],
                   judge={"model": "openai:http://alice:SECRET@host/v1?key=SECRET#seer"})  # fmt: skip
    done = export(run.path, tmp_path / "out", adapter=True)
    told = [(done.path / name).read_text() for name in ("osler.json", "README.md")]
    assert not [word for word in ("alice", "SECRET", "ward7") for text in told if word in text]
    recipe = done.about.recipe
    assert recipe["trl"] == {"deepspeed": "...", "hub_token": "...", "top_p": 0.9, "bf16": True, "nested": "...",
                             "report_to": "..."}  # fmt: skip
    assert recipe["rewards"][0]["settings"] == {
        "lexicon": "lex.json", "more": ["b.json", {"c": "d.txt"}], "folder": "terms", "api_key": "...", "max_tokens": 128,
        "mode": "strict"}  # fmt: skip
    assert done.about.judges == ["openai:http://host/v1#seer"]
    Recipe.model_validate(recipe)


@pytest.mark.parametrize(
    ("model", "shown"),
    [("../models/own", "own"), ("./own", "own"), ("models/lab/own", "own"), ("lab/own", "lab/own"), ("run:/x/y@3", "y@3")],
)
def test_a_model_is_named_without_its_folders(model, shown):
    assert sharing.shown_model(model) == shown


def test_a_large_model_is_cut_into_shards_that_are_the_same_model(made, tmp_path):
    shards = export(made.second.path, tmp_path / "cut", max_shard_size="1MB")
    assert (tmp_path / "cut" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 3
    whole, cut = (Qwen2VLForConditionalGeneration.from_pretrained(one.path).state_dict() for one in (made.whole, shards))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_bf16_is_what_an_evaluation_in_bf16_computes_with(made, tmp_path):
    half = export(made.second.path, tmp_path / "bf16", dtype="bf16")
    assert half.mb < 0.7 * made.whole.mb
    assert json.loads((half.path / "config.json").read_text())["dtype"] == "bfloat16"
    written = Qwen2VLForConditionalGeneration.from_pretrained(half.path, dtype="auto").state_dict()
    wanted = load_policy(f"run:{made.second.path}", dtype="bfloat16", device="cpu").model.state_dict()
    assert all(torch.equal(written[name], wanted[name]) for name in wanted)


def test_fp16_is_written_or_refused_where_it_cannot_hold_a_weight(made, tmp_path):
    export(made.second.path, tmp_path / "fp16", dtype="fp16")
    with safe_open(tmp_path / "fp16" / "model.safetensors", "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    copy = shutil.copytree(made.first.path, tmp_path / "huge")
    weights = load_file(copy / "adapter" / "adapter_model.safetensors")
    save_file({name: weight * 1e4 for name, weight in weights.items()}, copy / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="too large for fp16"):
        export(copy, tmp_path / "out", dtype="fp16")
    assert not (tmp_path / "out").exists()


def test_a_run_that_tuned_all_weights_is_exported_whole(tmp_path):
    run = made_run(tmp_path / "full", method="sft", full=True)
    done = export(run.path, tmp_path / "out")
    written = Qwen2VLForConditionalGeneration.from_pretrained(done.path).state_dict()
    wanted = load_policy(f"run:{run.path}", dtype="float32", device="cpu").model.state_dict()
    assert all(torch.equal(written[name], wanted[name]) for name in wanted)
    with pytest.raises(RunError, match="has no adapter"):
        export(run.path, tmp_path / "other", adapter=True)


def test_a_step_may_be_chosen(made, tmp_path):
    done = export(made.second.path, tmp_path / "three", step="3")
    assert done.about.step == "3"
    third = load_policy(f"run:{made.second.path}@3", dtype="float32", device="cpu").model.state_dict()
    written = Qwen2VLForConditionalGeneration.from_pretrained(done.path).state_dict()
    assert all(torch.equal(written[name], third[name]) for name in third)
    assert export(made.second.path, tmp_path / "last", step="last").about.step == "5"
    assert not done.about.evaluations  # those beside the run are of other weights


# --- the adapter


def test_the_adapter_on_its_base_is_the_merged_model(made):
    config = json.loads((made.adapter.path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(TINY), 20, 20)
    base = Qwen2VLForConditionalGeneration.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    worn = PeftModel.from_pretrained(base, made.adapter.path).merge_and_unload().state_dict()
    merged = Qwen2VLForConditionalGeneration.from_pretrained(made.whole.path).state_dict()
    bare = Qwen2VLForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32).state_dict()
    assert max(float((worn[name] - merged[name]).abs().max()) for name in merged) < 2e-6
    assert max(float((bare[name] - merged[name]).abs().max()) for name in merged) > 0.01
    osler = load_policy(f"peft:{made.adapter.path}", dtype="float32", device="cpu").model.state_dict()
    assert all(torch.allclose(osler[name], merged[name], atol=2e-6) for name in merged)


def test_a_single_adapter_is_handed_on_as_it_is(made, tmp_path):
    done = export(made.first.path, tmp_path / "one", adapter=True)
    own, written = (load_file(folder / "adapter_model.safetensors") for folder in (made.first.path / "adapter", done.path))
    assert own.keys() == written.keys()
    assert all(torch.equal(own[name], written[name]) for name in own)
    half = export(made.first.path, tmp_path / "half", adapter=True, dtype="bf16")
    assert {weight.dtype for weight in load_file(half.path / "adapter_model.safetensors").values()} == {torch.bfloat16}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.booleans()), min_size=2, max_size=4), st.integers(0, 99))
def test_adapters_add_up(shapes, seed):
    from osler.exporting.adapters import _summed

    generator = torch.Generator().manual_seed(seed)
    configs = [SimpleNamespace(r=r, lora_alpha=alpha) for r, alpha, _ in shapes]
    weights = [
        {f"x{A}": torch.randn(r, 3, generator=generator), f"x{B}": torch.randn(5, r, generator=generator)} if there else {}
        for r, _, there in shapes
    ]
    summed = _summed(configs, weights)
    wanted = sum((one[f"x{B}"] @ one[f"x{A}"] * c.lora_alpha / c.r for one, c in zip(weights, configs, strict=True) if one),
                 torch.zeros(5, 3))  # fmt: skip
    if not any(weights):
        assert summed == {}
        return
    assert summed[f"x{A}"].shape[0] == sum(c.r for c in configs)
    assert torch.allclose(summed[f"x{B}"] @ summed[f"x{A}"], wanted, atol=1e-4)
    assert all(_part(one, "x", c, weights)[0].shape == (c.r, 3) for one, c in zip(weights, configs, strict=True))


def test_a_stack_ends_at_a_model_that_anybody_can_load(made, tmp_path):
    assert stack_of(f"run:{made.second.path}").adapters == (made.first.path / "adapter", made.second.path / "adapter")
    assert stack_of("Qwen/Qwen2-VL-2B-Instruct").base == "Qwen/Qwen2-VL-2B-Instruct"
    full = made_run(tmp_path / "full", method="sft", full=True)
    assert stack_of(f"run:{full.path}").base == str(full.path.resolve() / "model")


def test_what_is_no_plain_lora_is_not_added_up(made, tmp_path):
    copy = shutil.copytree(made.first.path, tmp_path / "odd")
    file = copy / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_rslora": True}))
    with pytest.raises(ModelError, match="no plain LoRA"):
        export(copy, tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()


# --- the card


def test_the_card_says_what_is_known_and_what_is_not(made):
    card = (made.whole.path / "README.md").read_text()
    accuracy = made.tested.summary["accuracy"]
    for said in (
        "not a medical device", "For research only", "Not known to osler.", "**Trained on the scores of a judge**",
        JUDGE["model"], f"n = {made.second.manifest['trained_on']['n']}", made.second.manifest["trained_on"]["row_hash"],
        f"{100 * accuracy['value']:.1f} % [", f"], n = {accuracy['n']} |", "phantoms:7, test", "in fp32",
        "Give the right option inside <answer></answer> and nothing else.", "tiny (sha256 ",
    ):  # fmt: skip
        assert said in card, said
    row = next(line for line in card.splitlines() if line.startswith("| phantoms:7"))
    assert f"{100 * made.tested.summary['floor']['value']:.1f} %" in row


def test_the_card_invents_nothing(made, tmp_path):
    run = made_run(tmp_path / "alone", method="sft")
    card = (export(run.path, tmp_path / "out").path / "README.md").read_text()
    assert "None of the run at this checkpoint was found. Nothing is known of how well it answers." in card
    assert "judge**" not in card


def test_the_card_says_in_which_type_an_evaluation_was_made(made, tmp_path):
    (one,) = made.whole.about.evaluations
    assert (one["dtype"], one["device"]) == ("fp32", "cpu")
    whole, half = (
        (export(made.second.path, tmp_path / name, dtype=name).path / "README.md").read_text() for name in ("fp32", "bf16")
    )
    row = next(line for line in half.splitlines() if line.startswith("| phantoms:7"))
    assert "| fp32, cpu |" in row
    assert "Evaluated in fp32; this folder is in bf16 and was not evaluated itself." in half
    assert "not evaluated itself" not in whole + (made.adapter.path / "README.md").read_text()


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (("fp32", "bf16"), "rows evaluated in another type are of the run"),
        ((None,), "Evaluated in a type that was not recorded"),
    ],
)
def test_types_that_are_mixed_or_unknown_are_told(types, said):
    about = SimpleNamespace(dtype="bf16", evaluations=[{"dtype": one} for one in types])
    assert said in cards._other_types(about)


@pytest.mark.parametrize(
    ("asked", "device", "found"),
    [("auto", "cpu", "fp32"), ("auto", "NVIDIA H100", "bf16"), ("bfloat16", "cpu", "bf16"), (None, "cpu", None)],
)
def test_the_type_of_an_evaluation_is_what_it_computed_in(asked, device, found):
    assert evaluations._dtype(asked, device) == found


def test_an_evaluation_elsewhere_can_be_named_and_must_be_of_these_weights(made, tmp_path):
    moved = shutil.copytree(made.tested.path, tmp_path / "a" / "b")
    copy = shutil.copytree(made.second.path, tmp_path / "runs" / "second")
    assert len(export(copy, tmp_path / "one", evaluations=[moved]).about.evaluations) == 1
    assert len(export(copy, tmp_path / "two").about.evaluations) == 0
    with pytest.raises(RunError, match="no finished evaluation of these weights"):
        export(made.first.path, tmp_path / "three", evaluations=[moved])


# --- what can go wrong


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"step": "4"}, RunError, "Its checkpoints: [5, 3]"),
        ({"step": "3x"}, RunError, "Write last, best or the number"),
        ({"step": "best"}, RunError, "no best checkpoint"),
        ({"dtype": "int8"}, RecipeError, "unknown dtype 'int8'"),
    ],
)
def test_a_wrong_word_is_told_before_anything_is_written(made, tmp_path, given, error, said):
    with pytest.raises(error) as told:
        export(made.second.path, tmp_path / "out", **given)
    assert said in str(told.value)
    assert not list(tmp_path.iterdir())


def test_only_train_runs_can_be_exported_and_no_blind_twin(made, tmp_path):
    with pytest.raises(RunError, match="is no train run"):
        export(made.tested.path, tmp_path / "out")
    twin = shutil.copytree(made.first.path, tmp_path / "twin")
    Run.open(twin).save(blind=True)
    with pytest.raises(RunError, match="is a blind twin"):
        export(twin, tmp_path / "out")
    bare = shutil.copytree(made.first.path, tmp_path / "bare")
    (bare / "floor.json").unlink()
    with pytest.raises(RunError, match=r"floor\.json is missing"):
        export(bare, tmp_path / "out")


def test_of_a_chain_a_stage_is_to_be_named(made, tmp_path):
    chain = Run.create(tmp_path / "chain", "study", state="done")
    with pytest.raises(RunError, match="Nothing in it was trained"):
        export(chain.path)
    for number, (name, kind) in enumerate([("grpo", "train"), ("form", "train"), ("form-test", "eval")]):
        Run.create(chain.path / name, kind, started=f"{9 - number}")
    Run.create(chain.path / "form" / "blind_twin", "train", blind=True)
    with pytest.raises(RunError, match=rf"chain is a chain.*Name a stage: {chain.path}/form, {chain.path}/grpo\.$"):
        export(chain.path)


def test_the_working_directory_is_refused_before_any_work(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "loaded", None)
    with pytest.raises(RunError, match=r"^\. is the folder that you are in"):
        export(made.second.path, ".")
    assert tmp_path.is_dir()


def test_a_link_to_an_empty_folder_is_filled(made, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    done = export(made.first.path, tmp_path / "link", adapter=True)
    assert "adapter_config.json" in done.files
    assert (tmp_path / "link").is_symlink()
    assert {file.name for file in (tmp_path / "real").iterdir()} == set(done.files)


def test_a_folder_that_holds_something_is_left_alone(made, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"exists\. Name another folder"):
        export(made.second.path, tmp_path / "taken")
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert export(made.second.path, tmp_path / "empty", adapter=True).path == tmp_path / "empty"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_was_cut_off_leaves_nothing(made, tmp_path, monkeypatch, error):
    def cut_off(*_):
        raise error

    monkeypatch.setattr(writing, "card", cut_off)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RunError):
        export(made.second.path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_one_clear_error(made, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot be written \(.*\)\. Make room, or name another folder"):
            export(made.second.path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_made_or_is_too_small_is_told(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        export(made.second.path, tmp_path / "file" / "out", adapter=True)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(RunError, match=r"needs [5-6] MB, and 1 MB are free"):
        export(made.second.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command, and what answering takes


def test_the_command_prints_one_object(made, tmp_path, monkeypatch):
    shown = CliRunner().invoke(app, ["export", str(made.second.path), "--out", str(tmp_path / "out"), "--adapter", "--json"])
    found = json.loads(shown.stdout)
    assert (found["kind"], found["base"], found["judges"]) == ("adapter", "tiny", [JUDGE["model"]])
    assert found["sha256"]
    again = CliRunner().invoke(app, ["export", str(made.second.path), "--out", str(tmp_path / "out")])
    assert isinstance(again.exception, RunError)
    monkeypatch.chdir(tmp_path)
    table = CliRunner().invoke(app, ["export", str(made.second.path), "--adapter", "--dtype", "bf16"])
    assert table.stdout.splitlines()[-1] == "exports/second-adapter"


@pytest.mark.slow
def test_a_fresh_process_answers_as_the_evaluation_and_is_measured(made):
    records = read_records(made.tested)[:3]
    prompts = tuple((record.prompt, record.sample.images) for record in records)
    found = answered(Job(str(made.whole.path), prompts, 12, ImageSettings(), "float32"))
    assert found.completions == tuple(record.completion for record in records)
    assert found.tokens == tuple(record.tokens for record in records)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0
    assert found.peak_mb > 100
    assert found.device == "cpu"


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (1, "Traceback\nosler.errors.ModelError: no model at 'x'", "could not be measured: osler.errors.ModelError: no model"),
        (1, "torch.OutOfMemoryError: tried\nRuntimeError: capture", "ran out of memory"),
        (-9, "", "ran out of memory"),
        (3, "", "exit code 3"),
    ],
)
def test_a_model_that_cannot_be_measured_is_named(monkeypatch, code, stderr, said):
    ended = SimpleNamespace(returncode=code, stderr=stderr, stdout="")
    monkeypatch.setattr("osler.exporting.answering.subprocess.run", lambda *_, **__: ended)
    with pytest.raises(ModelError, match=r"^the/model ") as told:
        answered(Job("the/model", (("?", ()),), 4, ImageSettings()))
    assert said in str(told.value)


def test_train_rows_are_those_of_the_run(made):
    seen = json.loads((made.whole.path / "osler.json").read_text())["trained_on"]
    assert seen == made.second.manifest["trained_on"]
    assert TRAIN["train"] < seen["n"]
