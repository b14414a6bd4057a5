"""The policy in training: masters of bf16 weights, what is open, the reference, a state that goes on bit for bit, and several
trainers in one process."""

import json
from copy import deepcopy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from PIL import Image

from osler.baselines.sft import train_sft
from osler.config import FeatureSettings, Recipe
from osler.datasets.phantoms import samples
from osler.errors import RunError
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.load import load_policy
from osler.model.packing import Group, PackedPolicy, pack
from osler.model.prompts import encode
from osler.rl.learner import Learner
from osler.runs import Run
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
BF16, FP32 = torch.bfloat16, torch.float32
ALONE = {"full": True, "objective": {"beta": 0.0}}
"""Full tuning without a reference."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of each family a model, in float32, with weights scaled up so that an update shows."""
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        save_real_layout(folder, family)
        found[family] = load_policy(str(folder), dtype="float32")
        for weight in found[family].model.parameters():
            weight.data *= 4 if weight.ndim > 1 else 1
    return found


def copy_of(models, dtype, family="qwen2_vl"):
    vlm = models[family]
    return VLM(vlm.name, deepcopy(vlm.model).to(dtype), vlm.processor, vlm.family)


def learner(models, dtype=FP32, family="qwen2_vl", **changes):
    settings = {"model": models[family].name, "lora": {"r": 4}, "lr": 1e-3, "lr_schedule": "constant", "max_steps": 10}
    return Learner(Recipe.model_validate(settings | changes), copy_of(models, dtype, family))


def batch_for(vlm, seed=0, trained=False):
    """A packed prompt with an image, and two completions."""
    store = FeatureStore(vlm, FeatureSettings(disk_gb=0), trained=trained)
    draw = torch.Generator().manual_seed(seed)
    completions = [torch.randint(300, 690, (length,), generator=draw) for length in (5, 3)]
    prompt = encode(
        vlm, store, ("Which of the two?", [Image.effect_mandelbrot((84, 56), (-2, -1, 1, 1), 30 + seed).convert("RGB")])
    )
    return pack([Group(prompt, completions)], vlm.processor.image_token_id)


def backward(one, batch):
    one.vlm.model.train()
    logps_RT, _ = one.policy(batch)
    one.accelerator.backward(-logps_RT.sum())


def step(one, *batches):
    for batch in batches:
        backward(one, batch)
        one.update()


@torch.no_grad()
def logps(one, batch):
    return one.policy(batch)[0]


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def moved(before, after):
    return {name for name, weight in before.items() if not weight.equal(after[name])}


def share_moved(model, take_step):
    """Of the language model's weights above 2**-10, the share that ten steps move."""
    before = weights_of(model)
    for _ in range(10):
        take_step()
    after = weights_of(model)
    pairs = [(weight, after[name], weight.abs() > 2**-10) for name, weight in before.items() if "visual" not in name]
    return sum(int((a != b)[large].sum()) for a, b, large in pairs) / sum(int(large.sum()) for *_, large in pairs)


def test_a_bf16_weight_moves_by_steps_that_are_too_short_for_it(models):
    """Above 2**-10 neighbouring bf16 numbers are 2**-17 apart or more, and a step of 1e-6 is less than half of that."""
    ours = learner(models, BF16, lr=1e-6, **ALONE)
    batch = batch_for(ours.vlm)
    assert share_moved(ours.vlm.model, lambda: step(ours, batch)) > 0.002

    plain = copy_of(models, BF16).model.train()
    policy, optimizer = PackedPolicy(plain), torch.optim.AdamW(plain.parameters(), lr=1e-6, weight_decay=0.0)

    def plain_step():
        (-policy(batch)[0].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    assert share_moved(plain, plain_step) == 0.0


def taken(one):
    """The masters' gradients, which are cleared."""
    found = [weight.grad.clone() for weight in one.masters.weights if weight.grad is not None]
    one.optimizer.zero_grad()
    return found


def test_gradients_of_bf16_weights_come_together_in_fp32(models):
    one = learner(models, BF16, **ALONE)
    batches, apart = [batch_for(one.vlm, seed) for seed in (0, 1)], []
    for batch in batches:
        backward(one, batch)
        apart.append(taken(one))
    for batch in batches:
        backward(one, batch)
    assert all(weight.grad is None for weight in one.vlm.model.parameters())
    together = taken(one)
    assert len(together) == len(one.masters.weights)
    assert {gradient.dtype for gradient in together} == {FP32}
    assert all(both.equal(a + b) for both, a, b in zip(together, *apart, strict=True))
    assert any(not both.equal(both.bfloat16().float()) for both in together)  # no sum was rounded to bf16


def test_publishing_rounds_the_masters(models):
    one = learner(models, BF16, **ALONE)
    step(one, batch_for(one.vlm))
    stored = [weight for weight in one.vlm.model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in stored} == {BF16}
    assert {weight.dtype for weight in one.masters.weights} == {FP32}
    assert all(weight.equal(master.bfloat16()) for weight, master in zip(stored, one.masters.weights, strict=True))
    assert any(not master.equal(master.bfloat16().float()) for master in one.masters.weights)


def test_a_lora_on_bf16_is_its_own_master(models):
    one = learner(models, BF16)
    trained = [weight for weight in one.vlm.model.parameters() if weight.requires_grad]
    assert all(weight is master for weight, master in zip(trained, one.masters.weights, strict=True))
    assert {weight.dtype for weight in trained} == {FP32}


def written(state):
    """`state` as it comes back from disk: other tensors, and what JSON makes of the rest."""
    tensors, rest = state
    return {name: value.detach().clone() for name, value in tensors.items()}, json.loads(json.dumps(rest))


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("kind", [{}, ALONE], ids=["LoRA", "full"])
def test_a_fresh_learner_goes_on_bit_for_bit(models, kind, dtype):
    settings = {"lr_schedule": "linear", "warmup_steps": 3, **kind}
    first = learner(models, dtype, **settings)
    batches = [batch_for(first.vlm, seed) for seed in range(4)]
    step(first, *batches[:2])
    state = written(first.state_dict())
    step(first, *batches[2:])
    second = learner(models, dtype, seed=1, **settings)
    second.load_state_dict(*state)
    step(second, *batches[2:])
    assert not moved(weights_of(first.vlm.model), weights_of(second.vlm.model))
    ends = [written(one.state_dict()) for one in (first, second)]
    assert ends[0][1] == ends[1][1]
    assert ends[0][0].keys() == ends[1][0].keys()
    assert all(value.equal(ends[1][0][name]) for name, value in ends[0][0].items())
    assert any(not value.equal(ends[0][0][name]) for name, value in state[0].items())  # the two steps did something


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])
def test_the_reference_is_the_start_wherever_the_policy_has_gone(models, full, dtype):
    one = learner(models, dtype, full=full, lr=1e-2)
    batch = batch_for(one.vlm)
    start = logps(one, batch)  # a fresh LoRA adds nothing
    step(one, *[batch] * 3)
    gone = logps(one, batch)
    assert (gone - start).abs().max() > 0.1
    assert one.reference_logps(batch).equal(start)
    assert logps(one, batch).equal(gone)  # and the policy is as it was


OPEN = {"none": ("language_model.",), "merger": ("language_model.", "visual.merger."), "all": ("language_model.", "visual.")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train_vision", OPEN)
def test_train_vision_opens_exactly_those_weights(models, family, train_vision):
    one = learner(models, family=family, train_vision=train_vision, **ALONE)
    before = weights_of(one.vlm.model)
    step(one, batch_for(one.vlm, trained=train_vision != "none"))
    wanted = {name for name in before if any(part in name for part in OPEN[train_vision])}
    assert {name for name, weight in one.vlm.model.named_parameters() if weight.requires_grad} == wanted
    assert moved(before, weights_of(one.vlm.model)) == wanted
    assert any("visual" in name for name in set(before) - wanted) == (train_vision != "all")


def assert_works(one, precision):
    """A step moves the policy; the reference stays."""
    batch = batch_for(one.vlm)
    start = one.reference_logps(batch)
    before = logps(one, batch)
    step(one, batch)
    assert one.accelerator.mixed_precision == precision
    assert (logps(one, batch) - before).abs().max() > 1e-3
    assert one.reference_logps(batch).equal(start)


@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])
def test_learners_of_different_precision_one_after_the_other(models, full):
    for dtype, precision in ((BF16, "bf16"), (FP32, "no"), (BF16, "bf16")):
        assert_works(learner(models, dtype, full=full), precision)


@pytest.mark.parametrize("dtypes", [(BF16, FP32), (FP32, BF16)], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])
def test_a_second_learner_changes_nothing_of_the_first(models, full, dtypes):
    """accelerate keeps one state a process, which the second one resets."""

    def after_two_steps(one, between=lambda: None):
        batch = batch_for(one.vlm)
        step(one, batch)
        between()
        step(one, batch)
        return [logps(one, batch), one.reference_logps(batch)]

    alone = after_two_steps(learner(models, dtypes[0], full=full))
    beside = after_two_steps(learner(models, dtypes[0], full=full), lambda: learner(models, dtypes[1], full=full))
    for wanted, got in zip(alone, beside, strict=True):
        assert got.equal(wanted)


@pytest.mark.parametrize(("theirs", "ours"), [(BF16, FP32), (FP32, BF16)], ids=str)
def test_a_learner_after_trl_has_trained_in_another_precision(models, tmp_path, theirs, ours):
    vlm = copy_of(models, theirs)
    sft = {"batch_size": 2, "micro_batch": 1, "eval_steps": 1}
    recipe = Recipe.model_validate({"method": "sft", "model": vlm.name, "answer_form": "text", "max_steps": 1, "sft": sft})
    rows = list(samples(0, {"train": 2}))[:2]
    train_sft(recipe, vlm, rows, rows, STRATEGIES["think"], Run.create(tmp_path / "run", "train"))
    assert_works(learner(models, ours), "bf16" if ours == BF16 else "no")


def test_a_trainer_that_broke_off_amid_its_micro_batches_does_not_stop_the_next(models):
    """accelerate's optimizers skip every step while gradients are said to be still coming together."""
    broken = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with broken.accumulate(torch.nn.Linear(1, 1)):
        pass
    assert not GradientState().sync_gradients
    assert_works(learner(models), "no")


def test_a_gradient_that_is_not_finite_changes_no_weight(models):
    one = learner(models)
    backward(one, batch_for(one.vlm))
    before = [weight.detach().clone() for weight in one.masters.weights]
    one.masters.weights[0].grad[0] = float("nan")
    with pytest.raises(RunError, match="norm is nan: training has diverged"):
        one.update()
    assert all(torch.equal(was, now) for was, now in zip(before, one.masters.weights, strict=True))


def test_the_environment_does_not_scale_the_gradient(models, monkeypatch):
    norms = []
    for steps in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
        one = learner(models)
        backward(one, batch_for(one.vlm))
        norms.append(one.update()[0])
    assert norms[0] == norms[1] > 0
