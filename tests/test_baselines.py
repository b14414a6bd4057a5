"""SFT: what is learnt from is the completion alone, behind the image and the question; the best checkpoint is the one kept."""

import dataclasses
import json
import math
import re
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from osler import pipeline
from osler.baselines.sft import BaselineCallback, completion_rows, sft_config, sft_fields, train_sft
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RecipeError, RunError
from osler.model.adapters import lora_config
from osler.model.load import load_policy
from osler.rl.trl_trainer import RunCallback, WholeModel, unless_refused
from osler.runs import Run
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

ROWS = list(samples(0, {"train": 6}))
THINK = STRATEGIES["think"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return Recipe(
        method="sft",
        model=str(folder),
        answer_form="text",
        dtype="float32",
        max_steps=4,
        save_steps=100,
        lr=1e-3,
        sft={"batch_size": 4, "micro_batch": 2, "eval_steps": 1},
    )


def test_the_loss_is_on_the_completion_only_behind_image_and_question(recipe, tmp_path):
    vlm = load_policy(recipe.model, dtype="float32")
    trainer = SFTTrainer(
        model=vlm.model,
        processing_class=vlm.processor,
        args=sft_config(recipe, vlm, tmp_path, False),
        train_dataset=completion_rows(recipe, ROWS, THINK),
        peft_config=lora_config(vlm, recipe.lora),
    )
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    tokenizer = vlm.processor.tokenizer
    for ids, labels, sample in zip(batch["input_ids"], batch["labels"], ROWS, strict=False):
        text = tokenizer.decode(ids[labels == -100])
        assert tokenizer.decode(labels[labels != -100]).strip() == THINK.completion(sample, "text") + "<|im_end|>"
        assert text.index("<|image_pad|>") < text.index(sample.question)
        assert text.count("<|image_pad|>") == 4
        assert sample.golds[0] not in text.split("Reason inside")[1]


def test_the_adapter_of_the_lowest_validation_loss_is_kept(recipe, tmp_path):
    run = Run.create(tmp_path / "r", "train", recipe=recipe.model_dump(mode="json"))
    train_sft(recipe, load_policy(recipe.model, dtype="float32"), ROWS[:12], ROWS[12:20], THINK, run)
    losses = {row["step"]: row["eval_loss"] for row in run.rows("metrics") if "eval_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert sorted(losses) == [1, 2, 3, 4]
    assert run.manifest["best_step"] == best
    kept, wanted = (run.path / where / "adapter_model.safetensors" for where in ("adapter", f"checkpoints/{best}"))
    assert kept.read_bytes() == wanted.read_bytes()


def test_sft_stops_when_the_validation_loss_has_not_fallen_for_so_long(recipe, tmp_path):
    patient = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"patience": 2})})
    callback = BaselineCallback(Run.create(tmp_path / "r", "train"), patient, lambda note: None)
    saved, stopped = [], []
    callback.save = lambda model, step: saved.append(step)
    for step, loss in enumerate([0.9, 0.5, 0.6, 0.4, 0.4, 0.41], 1):
        control = SimpleNamespace(should_training_stop=False)
        callback.on_evaluate(None, SimpleNamespace(global_step=step), control, metrics={"eval_loss": loss})
        stopped.append(control.should_training_stop)
    assert stopped == [False, False, False, False, False, True]
    assert callback.best_step == 4
    assert saved == [1, 2, 4]


def test_sft_stops_when_its_time_is_up(recipe, tmp_path):
    hurried = recipe.model_copy(update={"max_steps": 50, "sft": recipe.sft.model_copy(update={"max_seconds": 0.0})})
    run = Run.create(tmp_path / "r", "train", recipe=hurried.model_dump(mode="json"))
    train_sft(hurried, load_policy(recipe.model, dtype="float32"), ROWS[:8], ROWS[12:16], THINK, run)
    assert run.rows("metrics")[-1]["step"] == 1


def test_every_field_of_the_objective_is_decided(recipe, tmp_path):
    own = {field.name for field in dataclasses.fields(SFTConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    harmless = (  # where and how it runs, and what text-only rows and packing need
        "model_init_kwargs|trust_remote_code|router_aux|chat_template_path|dataset_|eos_token|pad_to|pad_token|truncation_mode"
        "|shuffle_dataset|packing_strategy|activation_offloading"
    )
    left = {name for name in own - set(sft_fields(recipe, True)) if not re.match(harmless, name)}
    assert not left, "a field of TRL's that nobody decided: set it in sft_fields, or call it harmless"


def whole(recipe, **changes):
    return recipe.model_copy(update={"full": True, "lr": 1e-4, **changes})


def weights(spec, dtype="float32"):
    return load_policy(spec, dtype=dtype).model.state_dict()


def changed(one, other):
    """The parts of the model in which two states differ."""
    names = {name for name in one if not torch.equal(one[name], other[name])}
    parts = {"merger": "visual.merger", "tower": "visual.blocks", "language": "language_model"}
    return {part for part, within in parts.items() if any(within in name for name in names)}


@pytest.mark.parametrize(
    ("train_vision", "parts"),
    [("none", {"language"}), ("merger", {"language", "merger"}), ("all", {"language", "merger", "tower"})],
)
def test_full_tuning_trains_the_language_model_and_of_the_tower_what_is_asked(recipe, tmp_path, train_vision, parts):
    full = whole(recipe, train_vision=train_vision, max_steps=2)
    run = Run.create(tmp_path / "r", "train", recipe=full.model_dump(mode="json"))
    train_sft(full, load_policy(recipe.model, dtype="float32"), ROWS[:8], [], THINK, run)
    assert changed(weights(recipe.model), weights(f"run:{run.path}")) == parts
    assert not (run.path / "adapter").exists()


def test_of_whole_models_the_best_and_the_last_are_kept_and_the_best_is_the_runs(recipe, tmp_path):
    full = whole(recipe, lr=1e-2, max_steps=5, save_steps=1)
    run = Run.create(tmp_path / "r", "train", recipe=full.model_dump(mode="json"))
    train_sft(full, load_policy(recipe.model, dtype="float32"), ROWS[:8], ROWS[12:16], THINK, run)
    losses = {row["step"]: row["eval_loss"] for row in run.rows("metrics") if "eval_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert run.manifest["best_step"] == best
    assert {folder.name for folder in (run.path / "checkpoints").iterdir()} == {str(best), "5"}
    kept, wanted = (run.path / where / "model.safetensors" for where in ("model", f"checkpoints/{best}"))
    assert kept.samefile(wanted), "a model would lie on the disk twice"
    assert changed(weights(f"run:{run.path}"), weights(f"run:{run.path}@last")) == (set() if best == 5 else {"language"})


def test_the_best_of_whole_models_is_not_the_last_where_the_loss_rises(recipe, tmp_path):
    """The callback alone, with losses that are given."""
    vlm, full = load_policy(recipe.model, dtype="float32"), whole(recipe, save_steps=1)
    run = Run.create(tmp_path / "r", "train")
    callback = BaselineCallback(run, full, lambda note: None, WholeModel(full, vlm))
    for step, loss in enumerate([0.9, 0.5, 0.6, 0.7], 1):
        state, control = SimpleNamespace(global_step=step), SimpleNamespace(should_training_stop=False)
        vlm.model.lm_head.weight.data.fill_(step)
        callback.on_step_end(None, state, control, model=vlm.model)
        callback.on_evaluate(None, state, control, metrics={"eval_loss": loss}, model=vlm.model)
    callback.on_train_end(None, state, control, model=vlm.model)
    callback.leave()
    assert {folder.name for folder in (run.path / "checkpoints").iterdir()} == {"2", "4"}
    for where, step in (("model", 2), ("checkpoints/2", 2), ("checkpoints/4", 4)):
        assert load_policy(str(run.path / where)).model.lm_head.weight.unique().tolist() == [step]


@pytest.mark.parametrize("train_vision", ["none", "all"])
def test_full_tuning_in_bf16_keeps_what_bf16_would_round_away(recipe, tmp_path, train_vision):
    """Six updates of 2e-5 beside weights of 2e-2: not one is half of the distance between two bf16 numbers."""
    full = whole(recipe, train_vision=train_vision, dtype="bfloat16", lr=2e-5, lr_schedule="constant", max_steps=6)
    vlm = load_policy(recipe.model, dtype="bfloat16")
    before = {name: weight.clone() for name, weight in vlm.model.named_parameters()}
    run = Run.create(tmp_path / "r", "train", recipe=full.model_dump(mode="json"))
    train_sft(full, vlm, ROWS[:4], [], THINK, run)
    for name, weight in vlm.model.named_parameters():
        frozen = "visual" in name and train_vision == "none"
        assert weight.dtype == (torch.bfloat16 if frozen else torch.float32), name
    after, trained = dict(vlm.model.named_parameters()), [name for name in before if "language_model.layers" in name]
    moved = [float((after[name] - before[name]).detach().abs().median()) for name in trained if "proj.weight" in name]
    assert min(moved) > 5e-5, "updates were rounded away"
    stored = load_policy(f"run:{run.path}", dtype="float32").model
    assert json.loads((run.path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    for name, weight in stored.named_parameters():
        assert torch.equal(weight, after[name].bfloat16().float()), name


@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])
def test_a_run_that_diverged_says_so_and_writes_no_number_that_is_none(recipe, tmp_path, full):
    wild = recipe.model_copy(update={"lr": 1e30, "lr_schedule": "constant", "max_steps": 6, "full": full})
    run = Run.create(tmp_path / "r", "train", recipe=wild.model_dump(mode="json"))
    with pytest.raises(RunError, match=r"training has diverged \(loss is (nan|inf)\)\. Lower lr"):
        train_sft(wild, load_policy(recipe.model, dtype="float32"), ROWS[:8], [], THINK, run)
    text = (run.path / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["loss"] > 0
    assert not re.search("NaN|Infinity", text)
    assert not (run.path / "adapter").exists()
    assert not (run.path / "model").exists()


@pytest.mark.parametrize(
    ("logs", "written"),
    [
        ({"loss": 0.5, "reward": math.nan, "note": "text"}, {"loss": 0.5, "reward": None, "note": "text"}),
        ({"loss": "0.5", "entropy": "nan"}, {"loss": "0.5", "entropy": None}),
        ({"loss": math.inf}, None),
        ({"loss": "nan"}, None),
        ({"loss": 1.0, "grad_norm": math.nan}, None),
        ({"eval_loss": -math.inf}, None),
    ],
)
def test_only_loss_and_gradient_tell_of_divergence_and_other_empty_numbers_are_null(recipe, tmp_path, logs, written):
    run = Run.create(tmp_path / "r", "train")
    callback, args = RunCallback(run, recipe, lambda note: None, "loss"), SimpleNamespace(fp16=False)
    if written is None:
        with pytest.raises(RunError, match="training has diverged"):
            callback.on_log(args, SimpleNamespace(global_step=3), None, logs=logs)
    else:
        callback.on_log(args, SimpleNamespace(global_step=3), None, logs=logs)
    assert run.rows("metrics") == ([] if written is None else [{"step": 3, **written}])


def test_an_overflow_of_a_scaled_gradient_is_no_divergence(recipe, tmp_path):
    callback = RunCallback(Run.create(tmp_path / "r", "train"), recipe, lambda note: None, "loss")
    callback.on_log(SimpleNamespace(fp16=True), SimpleNamespace(global_step=1), None, {"loss": 1.0, "grad_norm": math.inf})
    assert callback.run.rows("metrics") == [{"step": 1, "loss": 1.0, "grad_norm": None}]


@pytest.mark.parametrize(
    ("method", "field"),
    [("sft", {"optim": "bogus"}), ("dpo", {"optim": "bogus"}), ("grpo", {"optim": "bogus"}), ("sft", {"deepspeed": "no.json"})],
)
def test_what_trl_refuses_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch, method, field):
    monkeypatch.chdir(tmp_path)
    asked = Recipe(method=method, engine="trl" if method == "grpo" else "packed", model=recipe.model, trl=field)
    with pytest.raises(RecipeError, match="TRL refuses these settings: "):
        pipeline.train(asked, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_trainer_lacks_is_a_refusal():
    def lacks(**_):
        raise PackageNotFoundError("deepspeed")

    with pytest.raises(RecipeError, match=r"TRL refuses these settings: .*deepspeed"):
        unless_refused(lacks, args=None)


@pytest.mark.slow
def test_real_images_go_through_the_whole_chain(shared_data, tmp_path):
    """Real files, few steps: base, SFT, GRPO, by-patient split, report."""
    from osler.chains import run_chain
    from osler.recipe_files import load_recipe

    short = [f"data.train=jsonl:{shared_data / 'real' / 'manifest.jsonl'}", "sft.max_steps=3", "grpo.max_steps=2"]
    result = run_chain(load_recipe("real_images", short), tmp_path / "real")
    assert {run.summary["n"] for run in result.evaluated.values()} == {916}
    assert result.evaluated["grpo"].summary["floor"]["n"] == 916
    groups = [{json.dumps(row["sample"]["group"]) for row in run.rows("records")} for run in result.evaluated.values()]
    assert groups[0] == groups[1]
    assert (result.run.path / "report.html").is_file()
