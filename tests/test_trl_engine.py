"""From rewards to TRL's loss, against the papers' formulas written out by hand, and what a short run leaves behind."""

import dataclasses
import json
import math
import re
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import TrainingArguments
from trl import GRPOConfig

from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RecipeError, RunError
from osler.grading import grader
from osler.model.adapters import lora_config
from osler.model.load import load_policy
from osler.rl.engine import Engine
from osler.rl.objective import gdpo_advantages
from osler.rl.trl_engine import RecordingTrainer, TotalReward, grpo_config, grpo_fields, prompt_rows, train_grpo
from osler.runs import Run
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

G, MAX_TOKENS = 4, 6
LENGTHS = [6, 2, 3, 1, 4, 6, 5, 2]  # of the eight completions: ragged, one of a single token
REWARDS = [1.2, 0.2, 0.0, 1.0, 0.2, 1.2, None, 0.2]  # one could not be scored
ROWS = list(samples(0, {"train": 8}))


class Scripted(TotalReward):
    """The real reward, but the totals are given."""

    def __call__(self, *args, **kwargs):
        super().__call__(*args, **kwargs)
        return REWARDS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def recipe(checkpoint, **objective):
    return Recipe(
        model=checkpoint,
        answer_form="text",
        objective=objective,
        rollout={"G": G, "prompts_per_step": 2, "max_tokens": MAX_TOKENS},
        dtype="float32",
        max_steps=2,
    )


def scripted_trainer(recipe, tmp_path):
    """A trainer whose completions and rewards are given, with a LoRA that is not zero."""
    vlm = load_policy(recipe.model, dtype="float32")
    run = Run.create(tmp_path / "run", "train")
    scorer = Scripted(recipe, ROWS, STRATEGIES["think"], grader("text"))
    trainer = RecordingTrainer(
        model=vlm.model,
        processing_class=vlm.processor,
        reward_funcs=scorer.functions(),
        args=grpo_config(recipe, vlm, run.path),
        train_dataset=prompt_rows(recipe, ROWS, STRATEGIES["think"]),
        peft_config=lora_config(vlm, recipe.lora),
    )
    torch.manual_seed(0)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    words = torch.randint(300, 700, (len(LENGTHS), MAX_TOKENS)).tolist()
    given = [[*row[: n - 1], trainer.eos_token_ids[0]] for row, n in zip(words, LENGTHS, strict=True)]
    trainer._generate_single_turn = lambda *args, **kwargs: (given, None)
    trainer.advantages = []
    trainer.on_rollouts = lambda advantages, step: trainer.advantages.extend(advantages)
    return trainer


def rolled_out(trainer):
    inputs = [trainer.train_dataset[row] for row in (0, 3) for _ in range(G)]
    trainer.model.train()
    return trainer._generate_and_score_completions(inputs)


def token_logps(trainer, batch, adapter=True):
    """Log-probs of the completions' tokens, each completion alone and unpadded: an independent forward."""
    logps, rows = [], batch["pixel_values"].shape[0] // len(LENGTHS)
    for i, length in enumerate(LENGTHS):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        ids = torch.cat([prompt, batch["completion_ids"][i][:length]])[None]
        context = nullcontext() if adapter else trainer.model.disable_adapter()
        with torch.no_grad(), context:
            logits = trainer.model(
                input_ids=ids,
                pixel_values=batch["pixel_values"][i * rows : (i + 1) * rows],
                image_grid_thw=batch["image_grid_thw"][i : i + 1],
                mm_token_type_ids=(ids == trainer.model.config.image_token_id).long(),
            ).logits
        scored = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps.append(scored.gather(-1, ids[0, len(prompt) :, None])[:, 0].double().numpy())
    return logps


def by_hand(logps, old, ref, advantages, beta, length_norm, clip=0.2):
    """The loss of the papers, term by term: -mean_i 1/|o_i| sum_t [...] or -1/(B max) sum_i sum_t [...]."""
    per_sequence = []
    for new, before, start, advantage in zip(logps, old, ref, advantages, strict=True):
        ratio = np.exp(new - before)
        surrogate = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
        kl = np.exp(start - new) - (start - new) - 1
        terms = surrogate - beta * kl
        per_sequence.append(terms.mean() if length_norm == "sequence" else terms.sum() / MAX_TOKENS)
    return -np.mean(per_sequence)


def advantages_by_hand(std_norm):
    """Group by group, from the rewards that could be scored; one that could not has no advantage."""
    found = []
    for group in (REWARDS[:G], REWARDS[G:]):
        scored = np.array([r for r in group if r is not None])
        scale = scored.std(ddof=1) + 1e-4 if std_norm == "group" else 1.0
        found += [0.0 if r is None else (r - scored.mean()) / scale for r in group]
    return found


@pytest.mark.parametrize(
    ("std_norm", "length_norm", "beta"),
    [("group", "sequence", 0.04), ("none", "constant", 0.0), ("none", "constant", 0.1), ("group", "constant", 0.0)],
    ids=["GRPO", "Dr. GRPO", "Dr. GRPO with KL", "length bias removed only"],
)
def test_rewards_to_loss_is_the_papers_formula(checkpoint, tmp_path, std_norm, length_norm, beta):
    trainer = scripted_trainer(recipe(checkpoint, std_norm=std_norm, length_norm=length_norm, beta=beta), tmp_path)
    batch = rolled_out(trainer)
    np.testing.assert_allclose(trainer.advantages, advantages_by_hand(std_norm), rtol=1e-5, atol=1e-6)
    trainer.current_gradient_accumulation_steps = 1
    now = token_logps(trainer, batch)
    before = [logp + shift for logp, shift in zip(now, np.linspace(-0.5, 0.5, len(now)), strict=True)]  # some are clipped
    batch["old_per_token_logps"] = torch.zeros(len(LENGTHS), MAX_TOKENS)
    for i, logp in enumerate(before):
        batch["old_per_token_logps"][i, : len(logp)] = torch.tensor(logp)
    wanted = by_hand(now, before, token_logps(trainer, batch, adapter=False), trainer.advantages, beta, length_norm)
    got = trainer._compute_loss(trainer.model, batch).item()
    assert abs(wanted) > 1e-3
    assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_the_two_objectives_differ_on_these_rollouts(checkpoint):
    """The test above could not tell them apart if they agreed here."""
    logps = [np.full(n, -1.0) for n in LENGTHS]
    old = [np.full(n, -1.3) for n in LENGTHS]
    grpo = by_hand(logps, old, logps, advantages_by_hand("group"), 0.0, "sequence")
    dr_grpo = by_hand(logps, old, logps, advantages_by_hand("none"), 0.0, "constant")
    assert abs(grpo - dr_grpo) > 0.01


def test_every_objective_field_is_set(checkpoint, tmp_path):
    vlm = load_policy(checkpoint)
    config = grpo_config(recipe(checkpoint), vlm, tmp_path)
    assert (config.loss_type, config.scale_rewards, config.beta) == ("grpo", "group", 0.04)
    assert config.use_bias_correction_kl is False
    assert (config.temperature, config.top_p, config.top_k, config.min_p) == (1.0, 1.0, 0, None)
    assert config.generation_kwargs["suppress_tokens"] == vlm.banned_ids
    own = {field.name for field in dataclasses.fields(GRPOConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    left = {name for name in own - set(grpo_fields(recipe(checkpoint))) if not re.match(HARMLESS, name)}
    assert left == {"generation_kwargs"}, "a field of TRL's that nobody decided: set it in grpo_fields, or call it harmless"


HARMLESS = (  # where and how it runs, what it prints, and the constants of losses that are not ours
    "vllm_|use_vllm|use_transformers|transformers_|log_|num_completions_to_print|ds3_|cache_implementation|pad_to_multiple_of"
    "|model_init_kwargs|trust_remote_code|router_aux|cast_lm_head|shuffle_dataset|chat_template_kwargs|max_tool_calling"
    "|sapo_|vespo_|ref_model_|entropy_coef_|entropy_target"
)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"loss_type": "dapo"}, "trl.loss_type is decided"),
        ({"generation_kwargs": {"temperature": 0.1}}, "trl.generation_kwargs is decided"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_passthrough_cannot_change_the_objective(checkpoint, tmp_path, field, says):
    changed = recipe(checkpoint).model_copy(update={"trl": field})
    with pytest.raises(RecipeError, match=says):
        grpo_config(changed, load_policy(checkpoint), tmp_path)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is there")
def test_a_package_that_trl_misses_is_one_clear_refusal(checkpoint, tmp_path):
    asked = recipe(checkpoint).model_copy(update={"trl": {"use_vllm": True}})
    run = Run.create(tmp_path / "run", "train")
    with pytest.raises(RecipeError, match=r"TRL refuses these settings: .*vLLM"):
        train_grpo(asked, load_policy(checkpoint, dtype="float32"), ROWS, STRATEGIES["think"], grader("text"), run)


def test_sampling_is_at_the_recipes_temperature_and_bans_image_tokens(checkpoint, tmp_path):
    """The checkpoint's own generation config (top_k 1) would make all completions of a group equal."""
    trainer = scripted_trainer(recipe(checkpoint), tmp_path)
    del trainer._generate_single_turn
    batch = rolled_out(trainer)
    completions = {tuple(row) for row in batch["completion_ids"][:G].tolist()}
    assert len(completions) == G
    image = trainer.model.config.image_token_id
    assert image in trainer.generation_config.suppress_tokens
    assert not (batch["completion_ids"] == image).any()


def test_the_reference_is_the_adapter_switched_off(checkpoint, tmp_path):
    trainer = scripted_trainer(recipe(checkpoint), tmp_path)
    assert trainer.ref_model is None
    reference = rolled_out(trainer)["ref_per_token_logps"]
    wanted = token_logps(trainer, rolled_out(trainer), adapter=False)
    for row, logps in zip(reference, wanted, strict=True):
        np.testing.assert_allclose(row[: len(logps)].numpy(), logps, atol=1e-4)


def test_rollouts_hold_parts_totals_and_advantages(checkpoint):
    scorer = TotalReward(recipe(checkpoint), ROWS, STRATEGIES["think"], grader("text"))
    good = f"<think>I see.</think><answer>{ROWS[0].golds[0]}</answer>"
    logged = {}
    totals = scorer([[{"content": good}], [{"content": "no idea"}]], [[5], [5]], row=[0, 0], log_metric=logged.__setitem__)
    assert totals == [2.0, 0.0]
    spread = 0.5**0.5
    assert logged == {
        **{f"rewards/{name}{key}": 0.5 for name in ("accuracy", "format") for key in ("", "/mean")},
        **{f"rewards/{name}/group_std": pytest.approx(spread) for name in ("accuracy", "format")},
        "unscored": 0,
        "dropped_groups": 0,
    }
    first, second = json.loads(json.dumps(scorer.rollouts([0.7, -0.7], step=3)))
    assert first["rewards"] == {"accuracy": 1.0, "format": 1.0}
    assert (first["reward"], first["advantage"], first["step"]) == (2.0, 0.7, 3)
    assert second["completion"] == "no idea"


# --- several rewards, each normalised by itself (GDPO), and users' functions

TERMS = [{"name": "accuracy", "weight": 2.0}, {"name": "format", "weight": 0.5}, {"name": "ecr", "weight": 0.0}]
PARTS = [(1, 1), (0, 1), (0.25, 0), (0, 0), (0.5, 1), (0.5, 1), (None, 1), (0.5, 0.3)]
"""Accuracy and format of the eight completions; one could not be judged."""


class ScriptedParts(TotalReward):
    """The real reward, but the parts are given."""

    def score(self, *asked):
        rows = super().score(*asked)
        parts = iter(PARTS)
        for row in (row for group in rows for row in group):
            found = next(parts)
            row["rewards"] |= dict(zip(("accuracy", "format"), found, strict=True))
            row["reward"] = None if None in found else 2.0 * found[0] + 0.5 * found[1]
        return rows


def gdpo_trainer(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.Scripted", ScriptedParts)
    settings = recipe(checkpoint, aggregation="gdpo").model_copy(update={"rewards": Recipe(rewards=TERMS).rewards})
    return scripted_trainer(settings, tmp_path)


def parts_PGK():
    """What is normalised: NaN in all rewards where one that counts is missing."""
    known = [(math.nan, math.nan) if None in parts else parts for parts in PARTS]
    return torch.tensor(known, dtype=torch.float64).view(2, G, 2)


def test_trl_normalises_each_reward_as_our_formula_does(checkpoint, tmp_path, monkeypatch):
    """TRL's own code from rewards to advantages; a reward of weight 0 is not handed over, and one missing part is no 0."""
    trainer = gdpo_trainer(checkpoint, tmp_path, monkeypatch)
    assert len(trainer.reward_funcs) == 2
    rolled_out(trainer)
    wanted = gdpo_advantages(parts_PGK(), torch.tensor([2.0, 0.5], dtype=torch.float64)).flatten()
    np.testing.assert_allclose(trainer.advantages, wanted, rtol=1e-5, atol=1e-6)
    assert trainer.advantages[6] == 0.0
    assert abs(trainer.advantages[4]) > 1e-3
    assert not np.allclose(trainer.advantages, advantages_of_the_sum(), atol=1e-2)


def advantages_of_the_sum():
    totals = np.array([math.nan if None in parts else 2.0 * parts[0] + 0.5 * parts[1] for parts in PARTS]).reshape(2, G)
    scale = np.nanstd(totals, axis=1, ddof=1, keepdims=True) + 1e-4
    return np.nan_to_num((totals - np.nanmean(totals, axis=1, keepdims=True)) / scale).flatten()


def test_its_metrics_are_ours_where_names_are_the_same(checkpoint, tmp_path, monkeypatch):
    trainer = gdpo_trainer(checkpoint, tmp_path, monkeypatch)
    rolled_out(trainer)
    found = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    accuracies = [parts[0] for parts in PARTS if parts[0] is not None]
    formats = [parts[1] for parts in PARTS]
    assert found["rewards/accuracy/mean"] == pytest.approx(np.mean(accuracies))
    assert found["rewards/format/mean"] == pytest.approx(np.mean(formats))
    assert found["rewards/scored/format/mean"] == pytest.approx(np.mean(formats[:6] + formats[7:]))  # of what has a total
    assert found["rewards/format/group_std"] == pytest.approx(
        (np.std(formats[:G], ddof=1) + np.std(formats[G:], ddof=1)) / 2, rel=1e-6
    )
    assert found["unscored"] == 1


def told(completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
    """A user's function that notes where training stands, and what came beside the completions."""
    log_metric("mine", float(trainer_state.global_step))
    log_extra("tokens", [str(len(ids)) for ids in completion_ids])
    assert trainer_state.max_steps == 2
    return [len(ids) / 8 for ids in completion_ids]


def unlike(completions, **_):
    """A user's function whose rewards always differ, so that there is a gradient."""
    return [float(number) for number in range(len(completions))]


def test_a_run_that_diverged_says_so(checkpoint, tmp_path):
    """After one step of 1e30 there is nothing to sample from."""
    wild = recipe(checkpoint).model_copy(
        update={"rewards": Recipe(rewards=[{"name": f"{__name__}:unlike"}]).rewards, "lr": 1e30, "lr_schedule": "constant"}
    )
    run = Run.create(tmp_path / "run", "train")
    with pytest.raises(RunError, match=r"training has diverged .* Lower lr"):
        train_grpo(wild, load_policy(checkpoint, dtype="float32"), ROWS, STRATEGIES["think"], grader("text"), run)
    assert not re.search("NaN|Infinity", (run.path / "metrics.jsonl").read_text())
    assert not (run.path / "adapter").exists()


def test_a_users_function_gets_the_same_from_both_engines(checkpoint, tmp_path):
    """Trained for two steps on either engine: the state, the metrics and the rows that it leaves are alike."""
    left = {}
    for engine in ("trl", "packed"):
        settings = recipe(checkpoint).model_copy(
            update={"rewards": Recipe(rewards=[{"name": f"{__name__}:told"}]).rewards, "engine": engine, "save_steps": 2}
        )
        vlm, run = load_policy(checkpoint, dtype="float32"), Run.create(tmp_path / engine, "train")
        if engine == "trl":
            train_grpo(settings, vlm, ROWS, STRATEGIES["think"], grader("text"), run)
        else:
            Engine(settings, vlm, ROWS, STRATEGIES["think"], grader("text")).train(run)
        left[engine] = run.rows("metrics"), run.rows("rollouts")
    for metrics, rollouts in left.values():
        assert [row["mine"] for row in metrics] == [0.0, 1.0]
        assert all(row["reward"] == int(row["extra"]["tokens"]) / 8 for row in rollouts)
        assert len(rollouts) == 2 * len(LENGTHS)
    keys = [
        {key for row in metrics for key in row if key.startswith("rewards/") and "/total/" not in key}
        for metrics, _ in left.values()
    ]
    assert keys[0] == keys[1]
    rows = [set(rollouts[0]) for _, rollouts in left.values()]
    assert rows[0] == rows[1]
