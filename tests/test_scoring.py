"""From groups of completions to rows and metrics: what users' functions are handed, what a bad one is told, what is alarmed."""

import json
import math
from dataclasses import replace

import pytest
import torch

from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RunError
from osler.grading import grader
from osler.model.load import load_policy
from osler.rl.engine import Engine
from osler.rl.objective import gdpo_advantages, group_advantages
from osler.rl.rollout import Rolled
from osler.rl.scoring import CONSTANT_STEPS, GRID, Scorer
from osler.schema import Completion, Outcome
from osler.strategies import STRATEGIES
from real_layout import save_real_layout

ROWS = [replace(sample, origin=f"rows.jsonl, row {n}") for n, sample in enumerate(samples(0, {"train": 3}), 1)]
CALLS = []


def seen(**given):
    """Keeps what it was called with; pays for length."""
    CALLS.append(given)
    return [len(ids) / 10 for ids in given["completion_ids"]]


def noting(completions, log_metric, log_extra, **columns):
    """Logs beside what it pays."""
    log_metric("mine/first", 2.0)
    log_metric("mine/first", 4.0)
    log_extra("note", [len(one[0]["content"]) / 2 for one in completions])
    return torch.arange(len(completions)) / 4


def scripted(value, **columns):
    """Pays what its setting says."""
    return value(columns) if callable(value) else value


def failing(completions, **columns):
    """Raises at a completion that says so."""
    if any("fail" in one[0]["content"] for one in completions):
        raise KeyError("fail")
    return [0.0] * len(completions)


def crowded(completions, **columns):
    """Raises only for many."""
    if len(completions) > 1:
        raise ValueError("too many")
    return [0.0]


def changing(completions, golds, **columns):
    """Changes what it was handed, and leaves no trace of that."""
    golds.clear()
    completions[0][0]["content"] = "changed"
    return [0.0] * 6


def unawaited(completions, **columns):
    async def later():
        return [0.0] * len(completions)

    return later()


def recipe(*rewards, **changes):
    settings = {"answer_form": "text", "rewards": list(rewards) or [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]}
    return Recipe.model_validate(settings | changes)


def scorer(*rewards, **changes):
    return Scorer(recipe(*rewards, **changes), STRATEGIES["think"], grader("text"))


def user(name, **listed):
    return {"name": f"{__name__}:{name}", **listed}


def right(sample):
    return f"<think>I see.</think><answer>{sample.golds[0]}</answer>"


def scored(one, *groups, scores=None):
    """Rows for `groups` of texts, one a sample."""
    completions = [[Completion(text, len(text), False) for text in group] for group in groups]
    ids = [[[7] * len(text) for text in group] for group in groups]
    return one.score(ROWS[: len(groups)], completions, ids, scores)


def test_a_row_has_every_part_and_the_weighted_total():
    first, second = scored(scorer(), [right(ROWS[0]), "no idea"], [right(ROWS[0]), "<think></think><answer>?</answer>"])
    assert [row["rewards"] for row in first] == [{"accuracy": 1.0, "format": 1.0}, {"accuracy": 0.0, "format": 0.0}]
    assert [row["reward"] for row in first + second] == [1.5, 0.0, 0.5 + float(ROWS[0].golds == ROWS[1].golds), 0.5]
    assert (first[1]["completion"], first[1]["gold"], first[1]["sample_id"]) == ("no idea", ROWS[0].golds[0], ROWS[0].id)
    assert first[0]["prompt"] == STRATEGIES["think"].question(ROWS[0], "text")
    json.dumps(first, allow_nan=False)


def test_totals_are_on_the_grid_and_a_part_that_is_none_leaves_none():
    values = {"value": [1 / 3, None, 0]}
    (group,) = scored(scorer(user("scripted", settings=values), {"name": "format"}), [right(ROWS[0])] * 3)
    assert group[0]["reward"] == round(4 / 3 * GRID) / GRID
    assert group[1]["rewards"] == {f"{__name__}:scripted": None, "format": 1.0}
    assert group[1]["reward"] is None


def test_a_group_of_which_too_few_are_scored_is_dropped_and_says_what_it_had():
    one = scorer(user("scripted", settings={"value": [0.5, None, None]}))
    (group,) = scored(one, [right(ROWS[0])] * 3)
    assert [row["reward"] for row in group] == [None] * 3
    assert [row["dropped"] for row in group] == [0.5, None, None]
    found = one.metrics([group])
    assert (found["unscored"], found["dropped_groups"]) == (2, 1)


def test_a_reward_that_is_not_paid_may_lack_a_value():
    unpaid = scorer(user("scripted", weight=0, settings={"value": [None, 0.5]}), {"name": "format"})
    assert [row["reward"] for row in scored(unpaid, [right(ROWS[0])] * 2)[0]] == [1.0, 1.0]


def test_a_gate_and_two_names_for_one_reward():
    one = scorer(
        {"name": "ecr", "settings": {"max_tokens": 100}}, {"name": "ecr", "gate": "correct", "settings": {"max_tokens": 50}}
    )
    text = right(ROWS[0])
    (group,) = scored(one, [text, "no idea"])
    assert group[0]["rewards"] == {"ecr": len(text) / 100, "ecr-2": min(1.0, len(text) / 50)}
    assert group[1]["rewards"] == {"ecr": 7 / 100, "ecr-2": 0.0}


def test_what_was_not_judged_is_not_scored():
    def unsure(sample, parsed):
        return replace(grader("text")(sample, parsed), outcome=Outcome.UNJUDGED)

    one = Scorer(recipe({"name": "accuracy"}, {"name": "format", "gate": "correct"}), STRATEGIES["think"], unsure)
    (group,) = scored(one, ["?", right(ROWS[0])])
    assert [row["rewards"] for row in group] == [{"accuracy": None, "format": None}] * 2
    assert one.metrics([group]) == {"unscored": 2, "dropped_groups": 1}


def test_the_engines_scores_reach_the_rewards():
    one = scorer({"name": "visual_reliance"}, {"name": "format"})
    measured = [[{"visual_reliance": 0.25}, {"visual_reliance": None}, {"visual_reliance": 0.5}]]
    (group,) = scored(one, ["a", right(ROWS[0]), "b"], scores=measured)
    assert [row["rewards"]["visual_reliance"] for row in group] == [0.25, None, 0.5]
    assert [row["reward"] for row in group] == [0.25, None, 0.5]


# --- users' functions


def test_a_users_function_is_called_once_a_batch_with_trls_arguments():
    CALLS.clear()
    one = scorer(user("seen", settings={"threshold": 3}))
    one.begin(17)
    rows = scored(one, ["ab", "c"], ["def", "g"])
    assert [row["reward"] for group in rows for row in group] == [round(n / 10 * GRID) / GRID for n in (2, 1, 3, 1)]
    (call,) = CALLS
    assert call["completions"][2] == [{"role": "assistant", "content": "def"}]
    assert call["prompts"][1] == [{"role": "user", "content": STRATEGIES["think"].question(ROWS[0], "text")}]
    assert call["completion_ids"] == [[7, 7], [7], [7, 7, 7], [7]]
    for place, sample in ((0, ROWS[0]), (3, ROWS[1])):
        wanted = {
            "sample_id": sample.id,
            "question": sample.question,
            "options": list(sample.options),
            "golds": list(sample.golds),
            "solution": sample.golds[0],
            "kind": str(sample.kind),
            "modality": str(sample.modality),
            "question_type": str(sample.question_type),
            "source": sample.source,
            "images": list(sample.images),
        }
        assert {name: call[name][place] for name in wanted} == wanted
    assert (call["trainer_state"].global_step, call["trainer_state"].max_steps) == (17, recipe().max_steps)
    assert call["threshold"] == 3
    assert set(call) - set(wanted) - {"threshold"} == {
        "prompts",
        "completions",
        "completion_ids",
        "trainer_state",
        "log_metric",
        "log_extra",
    }


def test_trls_own_rewards_are_users_functions():
    one = scorer({"name": "trl.rewards:think_format_reward"})
    (group,) = scored(one, ["<think>\nI see.\n</think>\nCT", "CT"])
    assert [row["reward"] for row in group] == [1.0, 0.0]


def test_what_it_logs_goes_to_metrics_and_rows():
    one = scorer(user("noting"))
    groups = scored(one, ["ab", "abcd"], ["", "a"])
    assert [row["reward"] for group in groups for row in group] == [0.0, 0.25, 0.5, 0.75]
    assert [row["extra"] for group in groups for row in group] == [{"note": note} for note in (1.0, 2.0, 0.0, 0.5)]
    assert one.metrics(groups)["mine/first"] == 3.0
    assert "mine/first" not in one.metrics(groups)  # it was of that step


def test_a_function_that_changes_its_arguments_changes_nothing():
    one = scorer(user("changing"), user("seen"))
    CALLS.clear()
    groups = scored(one, ["a"] * 3, ["b"] * 3)
    assert groups[0][0]["completion"] == "a"
    assert CALLS[0]["completions"][0][0]["content"] == "a"
    assert CALLS[0]["golds"][0] == list(ROWS[0].golds)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([0.0, math.nan, 0.0], "returned nan for sample {id} (rows.jsonl, row 1). Return a finite number, or None"),
        ([0.0, 0.0, math.inf], "returned inf for sample {id} (rows.jsonl, row 1)"),
        ([0.0, "1", 0.0], "returned '1' for sample {id} (rows.jsonl, row 1)"),
        ([[0.0, 1.0], 0.0, 0.0], "returned [0.0, 1.0] for sample {id}"),
        (
            [0.0, 1.0],
            "returned 2 values for 3 completions, the first of sample {id} (rows.jsonl, row 1). Return one a completion",
        ),
        ([0.0] * 4, "returned 4 values for 3 completions"),
        ([], "returned 0 values for 3 completions"),
        (None, "returned a NoneType, not a list of 3 numbers"),
        (1.0, "returned a float, not a list of 3 numbers"),
        ("123", "returned a str, not a list of 3 numbers"),
        (torch.tensor([0.0, 1.0, math.nan]), "returned tensor(nan) for sample {id}"),
    ],
)
def test_what_a_function_returns_is_looked_at(value, says):
    with pytest.raises(RunError) as error:
        scored(scorer(user("scripted", settings={"value": value})), ["a", "b", "c"])
    assert f"reward '{__name__}:scripted' " + says.format(id=repr(ROWS[0].id)) in str(error.value)


def test_the_row_is_that_of_the_completion():
    with pytest.raises(RunError, match=r"returned nan for sample '.*' \(rows.jsonl, row 2\)"):
        scored(scorer(user("scripted", settings={"value": [0.0, 1.0, math.nan, 0.0]})), ["a", "b"], ["c", "d"])


def test_osler_s_own_rewards_are_looked_at_as_well():
    one = scorer({"name": "visual_reliance"})
    with pytest.raises(RunError, match=r"reward 'visual_reliance' returned nan for sample '.*' \(rows.jsonl, row 1\)"):
        scored(one, ["a"], scores=[[{"visual_reliance": math.nan}]])


def test_a_function_that_raises_is_told_with_its_row():
    with pytest.raises(RunError, match=r"failing' raised KeyError: 'fail' on sample '.*' \(rows.jsonl, row 2\)") as error:
        scored(scorer(user("failing")), ["a", "b"], ["c", "fail"])
    assert isinstance(error.value.__cause__, KeyError)


def test_one_that_raises_for_the_batch_alone_is_told_with_the_batch():
    with pytest.raises(
        RunError, match=r"raised ValueError: too many on 3 completions, the first of sample .*none of them alone"
    ):
        scored(scorer(user("crowded")), ["a", "b", "c"])
    assert scored(scorer(user("crowded")), ["a"])[0][0]["dropped"] == 0.0


def test_a_coroutine_is_no_list():
    with pytest.raises(RunError, match="returned a coroutine, not a list of 2 numbers"):
        scored(scorer(user("unawaited")), ["a", "b"])


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (lambda columns: columns["log_extra"]("note", [1]), "logged 1 values of 'note' for 2 completions"),
        (lambda columns: columns["log_metric"]("mine", math.nan), "log_metric was given nan as mine"),
    ],
)
def test_what_is_logged_is_looked_at_too(log, says):
    with pytest.raises(RunError, match=says):
        scored(
            scorer(user("scripted", settings={"value": lambda columns: log(columns) or [0.0] * len(columns["golds"])})),
            ["a", "b"],
        )


# --- metrics and alarms


def rows(*groups):
    """Rows as `score` makes them, of one reward."""
    return [[{"rewards": {"accuracy": part}, "reward": part} for part in group] for group in groups]


def test_metrics_by_hand():
    one = scorer({"name": "accuracy"})
    found = one.metrics(rows([0.0, 1.0, None], [1.0, 1.0, 1.0], [0.5, None, None]))
    mean, spread = (0 + 1 + 3 + 0.5) / 6, (math.sqrt(0.5) + 0.0) / 2  # a group of one part has no deviation
    assert found == {
        "rewards/accuracy": pytest.approx(mean),
        "rewards/accuracy/mean": pytest.approx(mean),
        "rewards/accuracy/group_std": pytest.approx(spread),
        "unscored": 3,
        "dropped_groups": 0,
    }
    assert one.metrics(rows([None, None])) == {"unscored": 2, "dropped_groups": 0}
    assert "rewards/accuracy/group_std" not in one.metrics(rows([0.5, None]))


def dull_steps(one, count):
    return [one.metrics(rows([0.0, 0.0], [1.0, 1.0])) for _ in range(count)]


def test_a_reward_that_has_gone_constant_raises_an_alarm_once(capfd):
    one = scorer({"name": "accuracy"})
    alarms = [found.get("alarms/accuracy") for found in dull_steps(one, 50)]
    assert alarms == [None] * 19 + [CONSTANT_STEPS] + [None] * 30
    told = " ".join(capfd.readouterr().err.split())
    assert told.count("warning: the reward accuracy has been (nearly) the same within every group for 20 rollouts") == 1


def test_a_step_with_spread_begins_the_count_anew_and_one_without_numbers_leaves_it():
    one = scorer({"name": "accuracy"})
    assert not any("alarms/accuracy" in found for found in dull_steps(one, 19))
    one.metrics(rows([0.0, 0.0], [0.0, 1.0]))
    assert not any("alarms/accuracy" in found for found in dull_steps(one, 19))
    assert "alarms/accuracy" not in one.metrics(rows([0.5, None], [None, None]))
    assert "alarms/accuracy" in dull_steps(one, 1)[0]


def test_a_reward_without_weight_is_logged_and_never_alarmed():
    one = scorer({"name": "accuracy", "weight": 0}, {"name": "format"})
    both = [[{"rewards": {"accuracy": 0.0, "format": float(n)}, "reward": float(n)} for n in range(2)]]
    found = [one.metrics(both) for _ in range(30)]
    assert found[0]["rewards/accuracy/group_std"] == 0.0
    assert not any(name.startswith("alarms") for metrics in found for name in metrics)


def test_which_rewards_are_normalised_apart():
    listed = ({"name": "accuracy", "weight": 2}, {"name": "format", "weight": 0}, {"name": "ecr"})
    assert scorer(*listed, objective={"aggregation": "gdpo"}).apart == {"accuracy": 2, "ecr": 1}
    assert scorer(*listed).apart == {}


# --- in the packed engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def engine(checkpoint, *rewards, **changes):
    settings = {
        "model": checkpoint,
        "rollout": {"G": 3, "prompts_per_step": 2, "max_tokens": 6},
        "lora": {"r": 2},
        "max_steps": 4,
    }
    settings |= {"features": {"disk_gb": 0}, "lr": 1e-3}
    made = recipe(*rewards, **settings | changes)
    return Engine(made, load_policy(checkpoint, dtype="float32"), ROWS, STRATEGIES["think"], grader("text"))


LETTERS = user("letters", weight=2.0)
SHORT = {"name": "ecr", "weight": -0.5}


def letters(completions, **columns):
    """A reward in which a random model's completions differ."""
    return [sum(character.isalpha() for character in one[0]["content"]) / 100 for one in completions]


def gdpo(checkpoint, **objective):
    return engine(checkpoint, LETTERS, SHORT, {"name": "format", "weight": 0}, objective={"aggregation": "gdpo", **objective})


def test_the_packed_engine_normalises_each_reward_apart(checkpoint):
    one = gdpo(checkpoint, beta=0.0)
    metrics, rows = one.step()
    names = [f"{__name__}:letters", "ecr"]
    parts = torch.tensor([[row["rewards"][name] for name in names] for row in rows], dtype=torch.float64).view(2, 3, 2)
    wanted = gdpo_advantages(parts, torch.tensor([2.0, -0.5], dtype=torch.float64)).flatten().tolist()
    assert [row["advantage"] for row in rows] == pytest.approx(wanted, abs=1e-3)  # parts are rounded to the grid before
    assert any(abs(advantage) > 0.1 for advantage in wanted)
    assert {f"rewards/{name}/{what}" for name in (*names, "format") for what in ("mean", "group_std")} <= set(metrics)
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("std_norm", ["group", "none"])
def test_otherwise_it_normalises_the_total(checkpoint, std_norm):
    _, rows = engine(checkpoint, LETTERS, SHORT, objective={"beta": 0.0, "std_norm": std_norm}).step()
    rewards = torch.tensor([row["reward"] for row in rows], dtype=torch.float64).view(2, 3)
    assert [row["advantage"] for row in rows] == group_advantages(rewards, std_norm).flatten().tolist()
    assert any(abs(row["advantage"]) > 1e-3 for row in rows)


def test_what_has_no_total_is_normalised_in_no_reward():
    rows = [{"reward": 1.5, "rewards": {"a": 1.0, "b": 0.5}}, {"reward": None, "rewards": {"a": None, "b": 0.5}}]
    parts = Rolled(0, ROWS[0], None, [], rows, ("a", "b")).parts
    assert parts[0] == [1.0, 0.5]
    assert all(map(math.isnan, parts[1]))


def test_a_group_whose_totals_are_alike_teaches_where_its_parts_are_not():
    """+1 and -1 in one reward, -1 and +1 in the other: the sum has no spread, each of the rewards has."""
    rows = [{"reward": 0.0, "rewards": {"a": value, "b": -value}} for value in (1.0, -1.0)]
    assert not Rolled(0, ROWS[0], None, [], rows).spread
    assert Rolled(0, ROWS[0], None, [], rows, ("a", "b")).spread
    assert not Rolled(0, ROWS[0], None, [], [rows[0], {**rows[1], "reward": None}], ("a", "b")).spread


def test_a_state_between_two_updates_goes_on_bit_for_bit(checkpoint):
    whole, part = gdpo(checkpoint, num_iterations=2), gdpo(checkpoint, num_iterations=2)
    whole.step()
    part.step()
    tensors, rest = part.state_dict()
    fresh = gdpo(checkpoint, num_iterations=2)
    fresh.load_state_dict(({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(rest))))
    assert [group.apart for group in fresh.batch.groups] == [(f"{__name__}:letters", "ecr")] * 2
    assert torch.equal(fresh.batch.advantages_PG, whole.batch.advantages_PG)
    for _ in range(2):
        wanted, got = whole.step(), fresh.step()
        assert got[1] == wanted[1]
        assert got[0]["loss"] == wanted[0]["loss"]


def test_the_count_of_steps_without_spread_goes_on_too(checkpoint):
    one = engine(checkpoint, user("scripted", settings={"value": [0.5] * 6}), objective={"beta": 0.0})
    one.roller.scorer.constant[f"{__name__}:scripted"] = CONSTANT_STEPS - 2
    assert not any(name.startswith("alarms/") for name in one.step()[0])
    tensors, rest = one.state_dict()
    fresh = engine(checkpoint, user("scripted", settings={"value": [0.5] * 6}), objective={"beta": 0.0})
    fresh.load_state_dict(({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(rest))))
    assert fresh.step()[0][f"alarms/{__name__}:scripted"] == CONSTANT_STEPS
    older = {name: value for name, value in rest.items() if name != "constant"}
    fresh.load_state_dict((tensors, json.loads(json.dumps(older))))  # as it was written before there were alarms


def test_what_an_engine_measures_is_asked_for_once_a_roll_and_reaches_the_rewards(checkpoint):
    one, asked = engine(checkpoint, {"name": "visual_reliance"}), []

    def measure(samples, prompts, sampled):
        asked.append((len(samples), len(prompts), [len(group) for group in sampled]))
        return [[{"visual_reliance": len(row.ids) / 8} for row in group] for group in sampled]

    one.roller.measure = measure
    batch, _, _ = one.roller.draw()
    assert asked == [(2, 2, [3, 3])]
    paid = [row["reward"] for group in batch.groups for row in group.scored]
    assert paid == [length / 8 for length in batch.lengths]
