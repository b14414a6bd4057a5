"""The packed engine computes what TRL computes: the same loss, the same gradients, the same weights after several steps.

TRL's GRPOTrainer, as osler's trl engine sets it up, is given completions and rewards; the packed engine gets the same ones. The
prompts differ in length, number of images and image size; the completions are ragged, one is a single token, one could not be
scored. The weights are scaled up, so that a wrong position, mask or temperature is not lost in rounding.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trl.trainer.utils
from PIL import Image

from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.grading import grader
from osler.model.adapters import lora_config
from osler.model.attention import language_model
from osler.model.family import VLM
from osler.model.generate import Sampled
from osler.model.load import load_policy
from osler.model.prompts import encode
from osler.rl.engine import Engine
from osler.rl.objective import group_advantages
from osler.rl.rollout import Batch, Rolled
from osler.rl.trl_engine import RecordingTrainer, TotalReward, grpo_config, prompt_rows
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

G, P, MAX_TOKENS, TEMPERATURE = 4, 2, 6, 0.8
LENGTHS = [6, 2, 3, 1, 4, 6, 5, 2]  # of a step's completions
REWARDS = [1.25, 0.25, 0.0, 1.0, 0.25, 1.25, None, 0.5]
SIZES = [[(112, 84)], [(56, 112), (84, 56)], [(56, 56)], [(140, 56)]]
"""Of each sample's images, in pixels."""


@dataclass
class Start:
    """A model whose log-probs react to everything, samples, and LoRA weights that are not zero."""

    vlm: VLM
    rows: list
    lora: dict = field(default_factory=dict)

    def fresh(self, dtype):
        """A copy of the model."""
        model = deepcopy(self.vlm.model).to(dtype)
        return VLM(self.vlm.name, model, self.vlm.processor, self.vlm.family)

    def adapt(self, model, dtype):
        """Cast what is trained, and put this start's LoRA in it: the same numbers whatever they are asked for first."""
        model.to(dtype)
        draw = torch.Generator().manual_seed(0)
        for name, weight in sorted(lora_of(model).items()):
            if name not in self.lora:
                self.lora[name] = 0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64)
            weight.data.copy_(self.lora[name])
        if dtype == torch.float64:
            widen(model)


def lora_of(model):
    """The trained weights by the name that they have in any wrapping."""
    return {name[name.index("layers.") :]: w for name, w in model.named_parameters() if w.requires_grad}


def widen(model):
    """Let RMSNorm compute in float64: transformers' own rounds to float32 inside, and the comparison would end at 1e-7."""

    def wide(norm, states):
        return F.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)

    for module in language_model(model).modules():
        if "RMSNorm" in type(module).__name__:
            module.forward = partial(wide, module)


class WideHead:
    """TRL's fused head without its kernel, which accumulates in float32 on purpose: log-probs and entropies in float64."""

    @staticmethod
    def apply(hidden, weight, bias, labels, temperature, *rest):
        logps = F.linear(hidden, weight, bias).div(temperature).log_softmax(-1)
        entropies = -(logps.exp() * logps).sum(-1).detach()
        return logps.gather(-1, labels[:, None])[:, 0], entropies, None, None, None


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    vlm = load_policy(str(folder), dtype="float32")
    for weight in vlm.model.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    draw, rows = np.random.default_rng(0), []
    for sample, sizes in zip(samples(0, {"train": len(SIZES)}), SIZES, strict=False):
        files = [folder / f"{len(rows)}-{k}.png" for k in range(len(sizes))]
        for file, (width, height) in zip(files, sizes, strict=True):
            Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
        rows.append(replace(sample, images=tuple(map(str, files))))
    return Start(vlm, rows)


def recipe(start, objective=None, **changes):
    settings = {
        "model": start.vlm.name,
        "answer_form": "text",
        "objective": objective or {},
        "rollout": {"G": G, "prompts_per_step": P, "max_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
        "lora": {"r": 4, "alpha": 8},
        "features": {"disk_gb": 0},
        "max_steps": 5,
    }
    return Recipe.model_validate(settings | changes)


class Scripted(TotalReward):
    """The real reward, but the totals are given. It notes which rows were asked, what came, and what was paid."""

    def __init__(self, *args):
        super().__init__(*args)
        self.notes, self.totals = [], REWARDS

    def __call__(self, completions, row, log_metric, completion_ids, **kwargs):
        super().__call__(completions, completion_ids, row, log_metric)
        shift = len(self.notes)
        totals = self.totals[shift:] + self.totals[:shift]
        self.notes.append((row, completion_ids, totals))
        return totals


class Trainer(RecordingTrainer):
    """TRL's trainer on given completions. In float64 the advantages are taken in float64 too: its own are float32."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        draw = torch.Generator().manual_seed(len(self.reward_funcs[0].notes))
        words = torch.randint(300, 690, (len(prompt_ids), MAX_TOKENS), generator=draw).tolist()
        return [[*row[: n - 1], self.eos_token_ids[0]] for row, n in zip(words, LENGTHS, strict=True)], None

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        totals = self.reward_funcs[0].notes[-1][2]
        ours = group_advantages(totals_PG(totals, torch.float64), self.scale_rewards).flatten()
        torch.testing.assert_close(output["advantages"].double(), ours, rtol=1e-5, atol=1e-6)
        if self.model.dtype == torch.float64:
            output["advantages"] = ours
        return output


def totals_PG(totals, dtype):
    return torch.tensor([float("nan") if r is None else r for r in totals], dtype=dtype).view(-1, G)


def trl_trainer(start, recipe, folder, dtype=torch.float32, reward_funcs=None, kind=Trainer):
    vlm = start.fresh(dtype)
    strategy = STRATEGIES["think"]
    trainer = kind(
        model=vlm.model,
        processing_class=vlm.processor,
        reward_funcs=reward_funcs or Scripted(recipe, start.rows, strategy, grader("text")),
        args=grpo_config(recipe, vlm, folder),
        train_dataset=prompt_rows(recipe, start.rows, strategy),
        peft_config=lora_config(vlm, recipe.lora),
    )
    trainer.on_rollouts = lambda advantages, step: None
    start.adapt(trainer.model, dtype)
    return trainer


def packed_engine(start, recipe, dtype=torch.float32):
    engine = Engine(recipe, start.fresh(dtype), start.rows, STRATEGIES["think"], grader("text"))
    start.adapt(engine.learner.vlm.model, dtype)
    return engine


def batch_of(engine, note):
    """What TRL was given, as the packed engine's roller would hand it over."""
    asked, completion_ids, totals = note
    groups = []
    for first in range(0, len(asked), G):
        sample = engine.roller.samples[asked[first]]
        prompt = encode(engine.roller.vlm, engine.store, engine.roller.prompt(sample))
        sampled = [Sampled(list(ids), [0.0] * len(ids), False) for ids in completion_ids[first : first + G]]
        scored = [{"reward": total} for total in totals[first : first + G]]
        groups.append(Rolled(first // G, sample, prompt, sampled, scored))
    rewards_PG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
    return Batch(groups, group_advantages(rewards_PG, engine.recipe.objective.std_norm))


@dataclass
class Result:
    """A loss, the LoRA's gradients by name, and what was reported beside them."""

    loss: float
    gradients: dict
    metrics: dict

    def differs(self, other):
        """The largest relative difference of a gradient, by norms."""
        assert self.gradients.keys() == other.gradients.keys()
        pairs = [(self.gradients[name], gradient) for name, gradient in other.gradients.items()]
        assert all(gradient.norm() > 0 for _, gradient in pairs)
        return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def gradients_of(model):
    return {name: weight.grad.clone() for name, weight in lora_of(model).items()}


def through_trl(start, recipe, folder, old_BT, totals=REWARDS):
    """One pass over the rows 0 and 1, with the old policy's log-probs given; and the note of what was scored."""
    trainer = trl_trainer(start, recipe, folder)
    scripted = trainer.reward_funcs[0]
    scripted.totals = totals
    return graded(trainer, old_BT), scripted.notes[0]


def graded(trainer, old_BT):
    """The loss and the gradients of `trainer` on what it makes of the rows 0 and 1."""
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in (0, 1) for _ in range(G)])
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 1
    loss = trainer._compute_loss(trainer.model, batch | {"old_per_token_logps": old_BT})
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    return Result(loss.item(), gradients_of(trainer.model), metrics)


def through_engine(start, recipe, note, old_BT, change=lambda engine: None):
    """The same through the packed engine."""
    engine = packed_engine(start, recipe)
    change(engine)
    return updated(engine, batch_of(engine, note), old_BT)


def updated(engine, batch, old_BT):
    """The loss and the gradients of `engine` on `batch`."""
    batch.old_B = [row[:length] for row, length in zip(old_BT, LENGTHS, strict=True)]
    engine.learner.update = lambda: (0.0, 0.0)  # gradients are left where they are
    engine.score_reference(batch)
    metrics = engine.update(batch)
    return Result(metrics["loss"], gradients_of(engine.learner.vlm.model), metrics)


@pytest.fixture(scope="module")
def old_BT(start, tmp_path_factory):
    """The start's own log-probs, shifted so that the clip acts on some tokens, and on some completions' means."""
    engine = packed_engine(start, recipe(start))
    trainer = trl_trainer(start, recipe(start), tmp_path_factory.mktemp("old"))
    trainer.model.train()
    trainer._generate_and_score_completions([trainer.train_dataset[row] for row in (0, 1) for _ in range(G)])
    with torch.no_grad():
        logps_BT, _ = engine.learner.policy(engine._packed(batch_of(engine, trainer.reward_funcs[0].notes[0]), range(P)))
    mask_BT = torch.arange(MAX_TOKENS) < torch.tensor(LENGTHS)[:, None]
    draw = torch.Generator().manual_seed(4)
    shift_BT = 0.3 * torch.randn(mask_BT.shape, generator=draw) + 0.3 * torch.randn(len(LENGTHS), 1, generator=draw)
    return logps_BT + shift_BT * mask_BT


RATIOS = ("token", "sequence")
OBJECTIVES = [  # all nine pairs of norms, each with and without a KL, each KL with both ratios
    {"std_norm": std_norm, "length_norm": length_norm, "beta": beta, "ratio": RATIOS[(number + bool(beta)) % 2]}
    for number, (std_norm, length_norm) in enumerate(product(("group", "batch", "none"), ("sequence", "constant", "token")))
    for beta in (0.0, 0.04)
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: "-".join(map(str, objective.values())))
def test_one_loss_and_one_gradient_for_every_objective(start, old_BT, tmp_path, objective):
    """TRL just as it comes, in float32."""
    settings = recipe(start, objective)
    theirs, note = through_trl(start, settings, tmp_path, old_BT)
    ours = through_engine(start, settings, note, old_BT)
    assert abs(theirs.loss) > 1e-3
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-6)
    assert ours.differs(theirs) < 1e-5
    assert 0.1 < ours.metrics["clip_ratio/region_mean"] < 0.9
    for name in reported(objective):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-5), name


PARTS = [(1, 1), (0, 1), (0.25, 0), (0, 0), (0.5, 1), (0.5, 0.25), (None, 1), (0.75, 0)]
"""Two rewards of each completion, of very different weight; one could not be scored."""


class Apart(TotalReward):
    """The real reward, but the two parts are given."""

    def score(self, *asked):
        rows = super().score(*asked)
        for row, parts in zip((row for group in rows for row in group), PARTS, strict=True):
            row["rewards"] = dict(zip(("accuracy", "format"), parts, strict=True))
            row["reward"] = None if None in parts else 2 * parts[0] + 0.1 * parts[1]
        return rows


@pytest.mark.parametrize("norms", [{}, {"length_norm": "constant", "beta": 0.0}], ids=str)
def test_one_loss_and_one_gradient_for_rewards_normalised_apart(start, old_BT, tmp_path, norms):
    """GDPO from the parts of the reward on: TRL's advantages are TRL's own, ours are the roller's."""
    weights = [{"name": "accuracy", "weight": 2.0}, {"name": "format", "weight": 0.1}]
    settings = recipe(start, {"aggregation": "gdpo", **norms}, rewards=weights)
    scorer = Apart(settings, start.rows, STRATEGIES["think"], grader("text"))
    trainer = trl_trainer(start, settings, tmp_path, reward_funcs=scorer.functions(), kind=RecordingTrainer)
    words = torch.randint(300, 690, (P * G, MAX_TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    given = [[*row[: n - 1], trainer.eos_token_ids[0]] for row, n in zip(words, LENGTHS, strict=True)]
    trainer._generate_single_turn = lambda *args, **kwargs: (given, None)
    theirs = graded(trainer, old_BT)
    engine = packed_engine(start, settings)
    sampled = [Sampled(ids, [0.0] * len(ids), False) for ids in given]
    groups = []
    for n, sample in enumerate(start.rows[:P]):
        prompt, own = encode(engine.roller.vlm, engine.store, engine.roller.prompt(sample)), slice(n * G, n * G + G)
        groups.append(Rolled(n, sample, prompt, sampled[own], scorer.scored[own], tuple(engine.roller.scorer.apart)))
    ours = updated(engine, Batch(groups, engine.roller._advantages(groups)), old_BT)
    assert abs(theirs.loss) > 1e-3
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-6)
    assert ours.differs(theirs) < 5e-5  # TRL's advantages are float32, and twice normalised
    rewards_PG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
    summed = updated(packed_engine(start, settings), Batch(groups, group_advantages(rewards_PG, "group")), old_BT)
    assert summed.differs(theirs) > 1e-2


def reported(objective):
    """What both report."""
    return ["entropy", "clip_ratio/region_mean", *(["kl"] if objective["beta"] else [])]


@pytest.mark.parametrize(
    "change",
    [
        {"objective": {"beta": 0.05}},
        {"objective": {"clip_low": 0.4}},
        {"objective": {"clip_high": 0.4}},
        {"objective": {"length_norm": "constant"}},
        {"objective": {"length_norm": "token"}},
        {"objective": {"std_norm": "none"}},
        {"objective": {"std_norm": "batch"}},
        {"objective": {"ratio": "sequence"}},
        {"rollout": {"temperature": 1.0}},
    ],
    ids=str,
)
def test_a_setting_that_differs_would_be_seen(start, old_BT, tmp_path, change):
    theirs, note = through_trl(start, recipe(start), tmp_path, old_BT)
    settings = recipe(start).model_dump()
    other = Recipe.model_validate(settings | {group: settings[group] | values for group, values in change.items()})
    assert through_engine(start, other, note, old_BT).differs(theirs) > 1e-2


DULL = [0.5, 0.5, 0.5, 0.5, 1.0, 0.0, None, 0.25]
"""The first group has no spread."""


@pytest.mark.parametrize("length_norm", ["sequence", "constant", "token"])
def test_a_group_that_is_skipped_still_counts(start, old_BT, tmp_path, length_norm):
    settings = recipe(start, {"beta": 0.0, "length_norm": length_norm})
    theirs, note = through_trl(start, settings, tmp_path, old_BT, DULL)
    asked = []

    def all_of_them(engine):
        skipping = engine._teaching
        engine._teaching = lambda batch: asked.append(skipping(batch)) or list(range(P))

    skipped, whole = (through_engine(start, settings, note, old_BT, change) for change in (lambda engine: None, all_of_them))
    assert asked == [[1]]
    assert skipped.loss == pytest.approx(whole.loss, rel=1e-6)
    assert skipped.differs(whole) < 1e-6
    assert skipped.differs(theirs) < 1e-5


def test_with_a_kl_a_group_without_spread_is_not_skipped(start, old_BT, tmp_path):
    settings = recipe(start, {"beta": 0.04})
    theirs, note = through_trl(start, settings, tmp_path, old_BT, DULL)
    assert through_engine(start, settings, note, old_BT).differs(theirs) < 1e-5

    def skip(engine):
        engine._teaching = lambda batch: [1]

    assert through_engine(start, settings, note, old_BT, skip).differs(theirs) > 1e-2


@pytest.mark.parametrize("objective", [{}, {"length_norm": "token", "beta": 0.0}, {"ratio": "sequence"}], ids=str)
@pytest.mark.parametrize("changes", [{"micro_tokens": 130}, {"checkpointing": True}], ids=str)
def test_memory_settings_change_no_gradient(start, old_BT, tmp_path, objective, changes):
    plain, changed = recipe(start, objective), recipe(start, objective, **changes)
    theirs, note = through_trl(start, plain, tmp_path, old_BT)
    forwards = []

    def count(engine):
        packed = engine._packed
        engine._packed = lambda batch, numbers: forwards.append(len(numbers)) or packed(batch, numbers)

    ours = [through_engine(start, settings, note, old_BT, count) for settings in (plain, changed)]
    passes = 2 if plain.objective.beta else 1  # the reference's is one
    assert forwards == [P] * passes + ([1] * P if "micro_tokens" in changes else [P]) * passes
    assert ours[1].loss == pytest.approx(ours[0].loss, rel=1e-6)
    assert ours[1].differs(ours[0]) < 1e-5
    assert ours[1].differs(theirs) < 1e-5


RUNS = {
    "GRPO": {},
    "GRPO, two updates a rollout": {"num_iterations": 2},
    "Dr. GRPO": {"std_norm": "none", "length_norm": "constant", "beta": 0.0},
    "DAPO": {"length_norm": "token", "clip_high": 0.28, "beta": 0.0, "num_iterations": 2},
    "GSPO": {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04, "beta": 0.0, "num_iterations": 2},
}
STEPS, LR = 5, 1e-3


def stepped(start, objective=None, **changes):
    """A recipe of five steps whose learning rate falls, and whose gradients are clipped."""
    return recipe(start, objective, **{"max_steps": STEPS, "lr": LR, "max_grad_norm": 0.5, **changes})


def run_trl(start, settings, folder):
    """TRL's own training loop in float64: the weights that it ends with, what it logged, and the notes of its rollouts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", WideHead)
        trainer = trl_trainer(start, settings, folder, torch.float64)
        trainer.train()
    return lora_of(trainer.model), trainer.state.log_history[:STEPS], trainer.reward_funcs[0].notes


@pytest.fixture(scope="module")
def trl_grpo(start, tmp_path_factory):
    return run_trl(start, stepped(start), tmp_path_factory.mktemp("trl"))


def run_packed(start, settings, notes):
    """The packed engine's loop on the same rollouts: the weights that it ends with, and its metrics."""
    engine, waiting = packed_engine(start, settings, torch.float64), list(notes)
    engine.roller.draw = lambda: (batch_of(engine, waiting.pop(0)), [], {})
    metrics = [engine.step()[0] for _ in range(STEPS)]
    assert not waiting
    return lora_of(engine.learner.vlm.model), metrics


def furthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - weight).detach().abs().max()) for name, weight in theirs.items())


@pytest.mark.parametrize("name", RUNS)
def test_the_same_weights_after_five_steps(start, tmp_path, request, name):
    """In float64, where Adam amplifies no noise."""
    settings = stepped(start, RUNS[name])
    run = request.getfixturevalue("trl_grpo") if name == "GRPO" else run_trl(start, settings, tmp_path)
    theirs, logged, notes = run
    ours, metrics = run_packed(start, settings, notes)
    iterations = settings.objective.num_iterations
    assert len(notes) == -(-STEPS // iterations)
    assert len({str(ids) for _, ids, _ in notes}) == len({str(totals) for _, _, totals in notes}) == len(notes)
    assert furthest({name: start.lora[name] for name in theirs}, theirs) > LR  # they moved, a step's length and more
    assert furthest(ours, theirs) < 1e-10
    for mine, other in zip(metrics, logged, strict=True):
        assert mine["grad_norm"] == pytest.approx(float(other["grad_norm"]), rel=1e-6)
        assert mine["learning_rate"] == pytest.approx(other["learning_rate"])
    assert len({mine["learning_rate"] for mine in metrics}) == STEPS
    assert all(mine["grad_norm"] > settings.max_grad_norm for mine in metrics[::iterations])
    clips = [mine["clip_ratio/region_mean"] for mine in metrics]
    assert not any(clips[::iterations])  # the first update on a rollout is on policy
    assert iterations == 1 or any(clips)


@pytest.mark.parametrize(
    "changes",
    [{"max_grad_norm": 1e9}, {"lr_schedule": "constant"}, {"lr": 1.01 * LR}, {"objective": {"beta": 0.05}}],
    ids=str,
)
def test_a_run_that_differs_would_be_seen(start, trl_grpo, changes):
    theirs, _, notes = trl_grpo
    ours, _ = run_packed(start, stepped(start, **changes), notes)
    assert furthest(ours, theirs) > 1e-6
