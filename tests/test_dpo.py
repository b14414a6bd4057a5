"""DPO: TRL scores what was sampled, its loss is the paper's, the reference is the start, and training widens the margin."""

import dataclasses
import math
import re
import time

import pytest
import torch
from transformers import TrainingArguments
from trl import DPOConfig

from osler import pipeline
from osler.baselines.dpo import dpo_config, dpo_fields, dpo_trainer, train_dpo
from osler.baselines.pairs import Pair
from osler.check import check
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RecipeError, RunError
from osler.grading import grader
from osler.model.features import FeatureStore
from osler.model.load import load_policy
from osler.model.packing import Group, PackedPolicy, pack
from osler.model.prompts import encode
from osler.rl.trl_trainer import WholeModel
from osler.runs import Run
from osler.schema import Outcome, Verdict
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

ROWS = list(samples(0, {"train": 3}))
THINK, RAW = STRATEGIES["think"], STRATEGIES["nothink_raw"]
END = "<|im_end|>"
TEXTS = [
    (f"<answer>nodule</answer>{END}", f"<answer>left lung</answer> and a mass{END}"),
    (f"yes{END}", "no, it is a long story of what was cut off"),  # without an end
    (f"CT{END}", f"MRI{END}"),
]
PAIRS = [
    Pair(row, ROWS[row].id, ROWS[row].images, THINK.question(ROWS[row], "text"), "", chosen, rejected, None, {})
    for row, (chosen, rejected) in enumerate(TEXTS)
]
FULL = pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def recipe(checkpoint, **changes):
    settings = {
        "method": "dpo",
        "model": checkpoint,
        "answer_form": "text",
        "dtype": "float32",
        "dpo": {"samples": 4, "beta": 0.3, "batch_size": 4, "micro_batch": 4},
        "rollout": {"max_tokens": 24},
        "lr": 1e-3,
        "lr_schedule": "constant",
        "max_steps": 4,
        "save_steps": 100,
    }
    return Recipe.model_validate(settings | changes)


def trainer_of(checkpoint, folder, pairs=PAIRS, **changes):
    """A trainer before its first step, and what it trains."""
    made = recipe(checkpoint, **changes)
    vlm = load_policy(checkpoint, dtype=made.dtype)
    args = dpo_config(made, vlm, folder)
    if made.full:
        WholeModel(made, vlm)
    return dpo_trainer(made, vlm, args, pairs), vlm


def batch_of(trainer):
    return trainer.data_collator([trainer.train_dataset[row] for row in range(len(trainer.train_dataset))])


def loss_of(trainer):
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch_of(trainer))))


def shaken(trainer):
    """The policy moved away from its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)


def packed_logps(vlm, model):
    """Log-probs of chosen and rejected under `model`, by osler's own forward over a shared prompt: shape (pairs, 2)."""
    policy, store, found = PackedPolicy(model), FeatureStore(vlm), []
    for pair in PAIRS:
        prompt = encode(vlm, store, (pair.prompt, pair.images))
        ids = [torch.tensor(vlm.processor.tokenizer(text)["input_ids"]) for text in (pair.chosen, pair.rejected)]
        packed = pack([Group(prompt, ids)], vlm.processor.image_token_id)
        with torch.no_grad():
            found.append(policy(packed)[0].double().sum(1))
    return torch.stack(found)


@FULL
def test_the_first_loss_is_log_2(checkpoint, tmp_path, full):
    assert loss_of(trainer_of(checkpoint, tmp_path, full=full)[0]) == pytest.approx(math.log(2), abs=1e-6)


@FULL
def test_the_loss_is_the_papers(checkpoint, tmp_path, full):
    """Equation 7 from osler's own log-probs; the reference is a model that nothing was ever done to."""
    trainer, vlm = trainer_of(checkpoint, tmp_path, full=full)
    shaken(trainer)
    start = load_policy(checkpoint, dtype="float32")
    moved = packed_logps(vlm, trainer.model) - packed_logps(start, start.model)
    wanted = -torch.nn.functional.logsigmoid(0.3 * (moved[:, 0] - moved[:, 1])).mean()
    assert abs(float(wanted) - math.log(2)) > 0.01
    assert loss_of(trainer) == pytest.approx(float(wanted), abs=2e-5)


def test_trl_scores_the_prompt_and_the_completions_that_were_sampled(checkpoint, tmp_path):
    trainer, vlm = trainer_of(checkpoint, tmp_path)
    batch, store = batch_of(trainer), FeatureStore(vlm)
    ids, scored = batch["input_ids"], batch["completion_mask"].bool()
    wanted = [chosen for chosen, _ in TEXTS] + [rejected for _, rejected in TEXTS]
    for number, text in enumerate(wanted):
        pair = PAIRS[number % len(PAIRS)]
        assert vlm.processor.tokenizer.decode(ids[number][scored[number]]) == text
        prompt = ids[number][batch["attention_mask"][number].bool() & ~scored[number]]
        assert prompt.tolist() == encode(vlm, store, (pair.prompt, pair.images)).ids_S.tolist()


def test_nothing_is_cut_to_a_length(checkpoint, tmp_path):
    long = dataclasses.replace(PAIRS[0], prompt="what " * 1500 + PAIRS[0].prompt, chosen="yes " * 1500 + END)
    batch = batch_of(trainer_of(checkpoint, tmp_path, [long])[0])
    assert int(batch["completion_mask"][0].sum()) >= 1500
    assert batch["input_ids"].shape[1] >= 3000


def test_every_field_of_the_objective_is_decided(checkpoint, tmp_path):
    made = recipe(checkpoint, lora={"dropout": 0.25})
    config = dpo_config(made, load_policy(checkpoint), tmp_path)
    assert (config.beta, config.loss_type, config.label_smoothing, config.max_length) == (0.3, ["sigmoid"], 0.0, None)
    assert (config.learning_rate, config.max_steps, config.weight_decay) == (1e-3, 4, 0.0)
    own = {field.name for field in dataclasses.fields(DPOConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    harmless = (  # where and how it runs, and the constants of losses that are not ours
        "model_init_kwargs|trust_remote_code|router_aux|dataset_num_proc|truncation_mode|pad_to|precompute_ref_batch"
        "|f_alpha|discopop|activation_offloading|ref_model_|pad_token"
    )
    left = {name for name in own - set(dpo_fields(made)) if not re.match(harmless, name)}
    assert not left, "a field of TRL's that nobody decided: set it in dpo_fields, or call it harmless"
    with pytest.raises(RecipeError, match=r"trl\.loss_type is decided"):
        dpo_config(made.model_copy(update={"trl": {"loss_type": "ipo"}}), load_policy(checkpoint), tmp_path)


def test_the_dropout_of_the_recipe_stays(checkpoint, tmp_path):
    trainer, _ = trainer_of(checkpoint, tmp_path, lora={"dropout": 0.25})
    found = {module.p for name, module in trainer.model.named_modules() if name.endswith("lora_dropout.default")}
    assert found == {0.25}


def even(sample, parsed):
    """A grader that likes an even number of letters."""
    outcome = Outcome.INCORRECT if len(parsed.lenient or "") % 2 else Outcome.CORRECT
    return Verdict(outcome, outcome, parsed.answer, sample.golds[0])


@FULL
def test_training_widens_the_margin_and_leaves_a_whole_run(tmp_path, full):
    made = recipe("tiny", full=full, max_steps=8, lr=5e-4 if full else 5e-3)
    run = Run.create(tmp_path / "r", "train", recipe=made.model_dump(mode="json"))
    train_dpo(made, load_policy("tiny", dtype="float32"), ROWS, RAW, even, run)
    metrics = run.rows("metrics")
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert [row["step"] for row in metrics] == list(range(1, 9))
    assert metrics[-1]["rewards/margins"] > 0.1 > metrics[0]["rewards/margins"]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert len(run.rows("pairs")) == len(ROWS)
    assert [folder.name for folder in (run.path / "checkpoints").iterdir()] == ["8"]
    kept = "model/model.safetensors" if full else "adapter/adapter_model.safetensors"
    assert (run.path / kept).is_file()
    start, after = (load_policy(spec, dtype="float32").model for spec in ("tiny", f"run:{run.path}"))
    changed = {name for name, weight in after.state_dict().items() if not torch.equal(weight, start.state_dict()[name])}
    assert changed
    assert not any("visual" in name for name in changed)
    summary = pipeline.training_summary(run, 1.0)
    assert summary["margin"]["last"] > summary["margin"]["first"]


def test_a_run_that_diverged_says_so_and_writes_no_number_that_is_none(tmp_path, monkeypatch):
    made = recipe("tiny", lr=1e30)
    run = Run.create(tmp_path / "r", "train", recipe=made.model_dump(mode="json"))
    monkeypatch.setattr("osler.baselines.dpo.make_pairs", lambda *_: PAIRS)
    with pytest.raises(RunError, match=r"training has diverged \(loss is (nan|inf)\)\. Lower lr"):
        train_dpo(made, load_policy("tiny", dtype="float32"), ROWS, RAW, even, run)
    assert not re.search("NaN|Infinity", (run.path / "metrics.jsonl").read_text())
    assert not (run.path / "adapter").exists()


def test_dpo_stops_when_its_time_is_up_counting_the_pairs(tmp_path, monkeypatch):
    """The second that the pairs take is all that there is, and a step takes less."""
    made = recipe("tiny", max_steps=50, sft={"max_seconds": 1.0})
    run = Run.create(tmp_path / "r", "train", recipe=made.model_dump(mode="json"))
    monkeypatch.setattr("osler.baselines.dpo.make_pairs", lambda *_: time.sleep(1.0) or PAIRS[:1])
    train_dpo(made, load_policy("tiny", dtype="float32"), ROWS, RAW, even, run)
    assert run.rows("metrics")[-1]["step"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dpo": {"batch_size": 8, "micro_batch": 3}}, "dpo.micro_batch=3 does not divide dpo.batch_size=8"),
        ({"method": "grpo", "dpo": {"beta": 0.3}}, "dpo.beta is a setting of method=dpo; method=grpo would not heed it"),
        ({"method": "sft", "dpo": {"samples": 4}}, "dpo.samples is a setting of method=dpo; method=sft would not heed it"),
        ({"full": True, "lora": {"r": 8}}, "full=true trains no LoRA"),
        ({"method": "grpo", "dpo": {}, "engine": "trl", "full": True}, "method=grpo with full=true needs engine=packed"),
    ],
)
def test_what_does_not_go_together_is_refused(checkpoint, changes, says):
    with pytest.raises(RecipeError, match=says):
        check(recipe(checkpoint, **changes))


def test_what_goes_together_is_not_refused(checkpoint):
    for method in ("sft", "dpo", "grpo"):
        check(recipe(checkpoint, method=method, dpo={}, full=True, train_vision="merger"))


def test_a_misspelt_setting_of_trl_is_found_before_anything_is_loaded(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"trl\.label_smoothin"):
        pipeline.train(recipe(checkpoint, trl={"label_smoothin": 0.1}), tmp_path / "out")
    with pytest.raises(RecipeError, match="SFT, DPO and engine=trl"):
        pipeline.train(recipe(checkpoint), tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_the_recipes_grader_judges(checkpoint):
    """The reward that GRPO is paid and the right of a pair are one function."""
    assert grader("text")(ROWS[0], RAW.parse(ROWS[0].golds[0])).outcome is Outcome.CORRECT
