"""SFT: what is learnt from is the completion alone, behind the image and the question; the best checkpoint is the one kept."""

import json
from types import SimpleNamespace

import pytest
from trl import SFTTrainer

from osler.baselines import SftCallback, completion_rows, sft_config, train_sft
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.model.adapters import lora_config
from osler.model.load import load_policy
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
    callback = SftCallback(Run.create(tmp_path / "r", "train"), patient, lambda note: None)
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


@pytest.mark.slow
def test_real_images_go_through_the_whole_chain(shared_data, tmp_path):
    """Real files, few steps: base, SFT, GRPO, by-patient split, report."""
    from osler.chains import run_chain
    from osler.config import load_recipe

    short = [f"data.train=jsonl:{shared_data / 'real' / 'manifest.jsonl'}", "sft.max_steps=3", "grpo.max_steps=2"]
    result = run_chain(load_recipe("real_images", short), tmp_path / "real")
    assert {run.summary["n"] for run in result.evaluated.values()} == {916}
    assert result.evaluated["grpo"].summary["floor"]["n"] == 916
    groups = [{json.dumps(row["sample"]["group"]) for row in run.rows("records")} for run in result.evaluated.values()]
    assert groups[0] == groups[1]
    assert (result.run.path / "report.html").is_file()
