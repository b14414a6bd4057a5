"""A judge in training, behind a real server that fails in every way: what was scored teaches, and no failure does."""

import json
import time
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import islice

import pytest
import torch
from typer.testing import CliRunner

from osler import pipeline
from osler.check import check
from osler.cli.app import app
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import JudgeError, ModelError, RecipeError
from osler.judging import client
from osler.judging.breaker import Breaker
from osler.rewards.answered import Answered
from osler.rewards.terms import terms_of
from osler.rl import experts
from osler.runs import Run
from osler.schema import Completion, Kind, Outcome, Parsed, Verdict
from real_layout import save_real_layout
from test_endpoint import DROP, SECRET, SOON, _environment, failed, said, serving  # noqa: F401

TIMES = {"rollout_s", "reward_s", "reference_s", "update_s", "step_time"}


def open_rows(spec):
    """Phantoms' questions without their options."""
    for row in samples(0, {"train": 4}):
        yield replace(row, options=(), gold_index=None, kind=Kind.OPEN)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "Breaker", partial(Breaker, wait_s=0.01))


def of_item(request):
    return "model's answer" in json.dumps(request["messages"]) and "Is ice cold?" not in json.dumps(request["messages"])


def drawn(request):
    """A number that follows from what is judged, and from nothing else."""
    text = request["messages"][1]["content"][-1]["text"] if isinstance(request["messages"][1]["content"], list) else ""
    data = (text or request["messages"][1]["content"]).split("\n", 3)[-1].rsplit("\n", 3)[0]
    return int(sha256(data.encode()).hexdigest(), 16)


def verdict(request):
    return said(json.dumps({"correct": drawn(request) // 8 % 2, "sound": 1, "why": "so"}))


def judging(fault=None, share=3):
    """A server that judges, and answers every `share`-th item by `fault`."""

    def answer(request, number):
        if not of_item(request):
            return verdict(request) if len(request["messages"]) == 2 else said("yes")
        return fault(request) if fault and drawn(request) % share == 0 else verdict(request)

    return serving(answer)


def settings(checkpoint, server, judge=None, **changes):
    url = f"openai:{server.endpoint.url}#{server.endpoint.name}"
    return {
        "model": checkpoint,
        "strategy": "nothink_raw",
        "answer_form": "text",
        "data": {"train": {"name": f"{__name__}:open_rows"}, "val_share": 0},
        "rewards": [{"name": "open_accuracy", "settings": {"by": "judge"}}],
        "judge": {"model": url, "retries": 0, "timeout_s": 0.5, "max_unscored": 0.9, "pause_s": 0.01} | (judge or {}),
        "rollout": {"G": 6, "prompts_per_step": 3, "max_tokens": 6},
        "objective": {"beta": 0.0},
        "lora": {"r": 2},
        "lr": 1e-3,
        "max_steps": 2,
        "save_steps": 1,
        "controls": {"names": "none"},
    } | changes


def trained(out, *given, **changes):
    return pipeline.train(Recipe.model_validate(settings(*given, **changes)), out)


def by_hand(rewards):
    """(r - mean) / (std + 1e-4) over the rewards that are known, 0 for the others."""
    known = torch.tensor([one for one in rewards if one is not None], dtype=torch.float64)
    if len(known) < 2:
        return [0.0] * len(rewards)
    return [0.0 if one is None else float((one - known.mean()) / (known.std() + 1e-4)) for one in rewards]


def groups(run, G=6):
    rows = run.rows("rollouts")
    return [rows[at : at + G] for at in range(0, len(rows), G)]


def slow(request):
    time.sleep(1.0)
    return verdict(request)


FAULTS = {
    "500": (lambda request: failed(500), "failed"),
    "429": (lambda request: failed(429, **SOON), "failed"),
    "refused": (lambda request: failed(422), "refused"),
    "dropped": (lambda request: DROP, "failed"),
    "garbage": (lambda request: (200, {}, b"<html>busy</html>"), "garbage"),
    "prose": (lambda request: said("YES. I would score this 1."), "unparseable"),
    "lie": (lambda request: said('{"correct": 1, "sound": 1, "why": "so", "reward": 100}'), "unparseable"),
    "half": (lambda request: said('{"correct": 0.5, "sound": 1, "why": "so"}'), "unparseable"),
    "cut": (lambda request: said('{"correct": 1, "sound": 1, "why": "so"}', reason="length"), "truncated"),
    "slow": (slow, "failed"),
}


LIKE_ANOTHER = {"429": "500", "dropped": "500", "garbage": "prose", "half": "lie"}
"""Faults that take the same way as another; they run with the slow tests, as those of TRL's trainer do."""
BY_ENGINE = [
    *(pytest.param(fault, "packed", marks=pytest.mark.slow if fault in LIKE_ANOTHER else ()) for fault in FAULTS),
    *(pytest.param(fault, "trl", marks=pytest.mark.slow) for fault in ("500", "prose")),
]
"""Both engines have one scorer; two faults show that TRL's advantages follow it."""


@pytest.mark.parametrize(("fault", "engine"), BY_ENGINE)
def test_advantages_are_those_of_the_scored_members_only(checkpoint, tmp_path, fault, engine):
    reply, reason = FAULTS[fault]
    with judging(reply) as server:
        run = trained(tmp_path / "run", checkpoint, server, engine=engine)
    seen = 0
    for group in groups(run):
        assert [row["advantage"] for row in group] == pytest.approx(by_hand([row["reward"] for row in group]), abs=2e-5)
        for row in group:
            judgement = row["judgement"]
            scored = row.get("dropped", row["reward"])  # a group with one score is dropped: nothing can be learnt from it
            assert scored == (None if judgement["unscored"] else judgement["correct"])
            assert judgement["unscored"] in (None, reason)
            seen += judgement["unscored"] == reason
    assert seen >= 3
    rows = run.rows("metrics")
    assert sum(row["unscored"] for row in rows) == seen
    assert sum(row["judge/items"] for row in rows) == 36
    assert any(row["advantage"] > 0 for row in run.rows("rollouts"))


def test_a_failure_trained_on_as_wrong_would_be_seen(checkpoint, tmp_path):
    """The negative control: with None read as 0 the same rollouts have other advantages."""
    with judging(FAULTS["500"][0]) as server:
        run = trained(tmp_path / "run", checkpoint, server)
    wrong = [by_hand([row["reward"] or 0.0 for row in group]) for group in groups(run)]
    right = [[row["advantage"] for row in group] for group in groups(run)]
    assert max(abs(a - b) for one, other in zip(wrong, right, strict=True) for a, b in zip(one, other, strict=True)) > 0.1


def test_a_group_with_too_few_scores_is_dropped_and_counted(checkpoint, tmp_path):
    with judging(FAULTS["prose"][0], share=2) as server:
        rollout = {"G": 6, "prompts_per_step": 3, "max_tokens": 6, "min_scored": 4}
        run = trained(tmp_path / "run", checkpoint, server, rollout=rollout)
    dropped = [group for group in groups(run) if "dropped" in group[0]]
    assert 0 < len(dropped) < 6
    assert sum(row["dropped_groups"] for row in run.rows("metrics")) == len(dropped)
    for group in groups(run):
        known = [row["judgement"]["unscored"] is None for row in group]
        assert (group in dropped) == (sum(known) < 4)
        if group in dropped:
            assert {row["advantage"] for row in group} == {0.0}
            assert [row["dropped"] is not None for row in group] == known


def test_training_pauses_while_the_judge_is_away_and_trains_on_what_it_says_then(checkpoint, tmp_path, capsys):
    asked = []

    def away(request):
        asked.append(request)
        return failed(503) if len(asked) <= 25 else verdict(request)

    with judging(away, share=1) as server:
        run = trained(tmp_path / "run", checkpoint, server, {"max_unscored": 0.2})
    first, second = run.rows("metrics")
    assert first["judge/pauses"] >= 1
    assert first["judge/paused_s"] > 0
    assert first["unscored"] <= 0.2 * 18
    assert second["unscored"] == second["judge/pauses"] == 0
    assert "Training pauses" in capsys.readouterr().err


def answers(text):
    """Two completions of phantoms' rows that answer `text`, which is no gold."""
    parsed, verdict = Parsed(text, text, None, True), Verdict(Outcome.INCORRECT, Outcome.INCORRECT, text, "gold")
    return [Answered(row, Completion(text, 3, False), parsed, verdict) for row in islice(open_rows(None), 2)]


def test_patience_is_for_all_rolls_of_a_step_and_begins_anew_with_the_next(checkpoint):
    down, pauses = [True], []

    def away(request):
        return failed(503) if down else verdict(request)

    def back(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            down.clear()

    with judging(away, share=1) as server:
        judge = {"max_unscored": 0.2, "pause_s": 8.0, "patience_s": 30.0}
        recipe = Recipe.model_validate(settings(checkpoint, server, judge))
        with experts.Experts(recipe, terms_of(recipe), back) as asked:
            assert [one.judgement.unscored for one in asked.score(answers("a lump"))] == [None, None]
            assert pauses == [8.0, 16.0]
            down.append(True)
            with pytest.raises(JudgeError, match="after 30 seconds of waiting"):
                asked.score(answers("a cyst"))
            assert pauses == [8.0, 16.0, 6.0], "what the first roll waited is gone"
            assert asked.metrics()["judge/paused_s"] == 24.0
            with pytest.raises(JudgeError, match="after 30 seconds of waiting"):
                asked.score(answers("a cyst"))
            assert pauses[3:] == [8.0, 16.0, 6.0]


def test_a_judge_that_stays_away_stops_the_run_which_goes_on_where_it_stood(checkpoint, tmp_path):
    down = []

    def sometimes(request):
        return failed(503) if down else verdict(request)

    with judging(sometimes, share=1) as server:
        given = settings(checkpoint, server, {"max_unscored": 0.2, "patience_s": 0.02}, max_steps=4, save_steps=4)
        whole = pipeline.train(Recipe.model_validate(given), tmp_path / "whole")

        seen = len([request for request in server.requests if of_item(request)])
        assert seen

        original = experts.Experts.score

        def fails_at_step_3(self, answered):
            fails_at_step_3.calls += 1
            if fails_at_step_3.calls == 3:
                down.append(True)
            return original(self, answered)

        fails_at_step_3.calls = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OSLER_CACHE", str(tmp_path / "other cache"))
            patch.setattr(experts.Experts, "score", fails_at_step_3)
            with pytest.raises(JudgeError, match=r"Step 2 is kept. A single recipe goes on with --resume"):
                pipeline.train(Recipe.model_validate(given), tmp_path / "cut")
        assert Run.open(tmp_path / "cut").manifest["state"] == "failed"
        down.clear()
        more = {**given, "judge": {**given["judge"], "patience_s": 9.0, "concurrency": 2}}
        cut = pipeline.train(Recipe.model_validate(more), tmp_path / "cut", resume=True)
    drop = TIMES | {name for row in cut.rows("metrics") for name in row if name.startswith("judge/")}
    told = [[{k: v for k, v in row.items() if k not in drop} for row in run.rows("metrics")] for run in (whole, cut)]
    assert told[0] == told[1]
    weights = [(run.path / "adapter" / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    assert weights[0] == weights[1]


def test_a_judge_whose_replies_are_of_no_use_stops_the_run(checkpoint, tmp_path, capsys):
    with (
        judging(FAULTS["prose"][0], share=1) as server,
        pytest.raises(JudgeError, match=r"18 of 18 completions have no scores .*was not the JSON object.* for 5 steps"),
    ):
        trained(tmp_path / "run", checkpoint, server, max_steps=8)
    assert capsys.readouterr().err.count("left out of their groups") == 1
    rows = Run.open(tmp_path / "run").rows("rollouts")
    assert len(rows) == 4 * 18
    assert {row["advantage"] for row in rows} == {0.0}


@pytest.mark.parametrize("names", [("another",), None])
def test_a_judge_that_is_not_there_is_told_before_anything_is_written(checkpoint, tmp_path, names):
    def answer(request, number):
        return failed(404)

    with serving(answer, names=names) as server, pytest.raises(ModelError):
        trained(tmp_path / "run", checkpoint, server)
    assert not (tmp_path / "run").exists()


def test_the_key_stands_nowhere_in_a_run(checkpoint, tmp_path, capsys):
    def echo(request):
        return said(json.dumps({"correct": 1, "sound": 1, "why": f"your key is {SECRET}"}))

    with judging(echo, share=2) as server:
        run = trained(tmp_path / "run", checkpoint, server)
    written = b"".join(file.read_bytes() for file in run.path.rglob("*") if file.is_file())
    assert b"your key is" in written
    assert SECRET.encode() not in written
    assert SECRET not in "".join(capsys.readouterr())


def test_what_asking_took_is_in_the_metrics_and_equal_answers_are_paid_for_once(checkpoint, tmp_path):
    with judging() as server:
        run = trained(tmp_path / "run", checkpoint, server)
        asked = [request for request in server.requests if of_item(request)]
    rows = run.rows("metrics")
    assert sum(row["judge/asked"] for row in rows) == len(asked)
    assert sum(row["judge/asked"] + row["judge/cached"] for row in rows) == 36
    assert all(row["judge/tokens_out"] == 7 * row["judge/asked"] for row in rows)
    assert all(0 < row["judge/seconds_median"] <= row["judge/seconds_p95"] <= row["judge/seconds"] for row in rows)


def refusal(checkpoint, **changes):
    given = {"model": checkpoint, "strategy": "think", "rewards": [{"name": "semantic_alignment"}]} | changes
    with pytest.raises(RecipeError) as error:
        check(Recipe.model_validate(given))
    return str(error.value)


def test_what_cannot_be_paid_is_told_at_once(checkpoint):
    judge = {"model": "openai:http://127.0.0.1:9/v1#x"}
    assert "semantic_alignment is given by the recipe's judge, and it names none" in refusal(checkpoint)
    near = [{"name": "reasoning_quality", "settings": {"by": "embedding"}}]
    assert "reasoning_quality is given by the recipe's embedder" in refusal(checkpoint, rewards=near)
    assert "judge does nothing" in refusal(checkpoint, rewards=[{"name": "accuracy"}], judge=judge)
    assert "embedder does nothing" in refusal(checkpoint, judge=judge, embedder="x")
    assert "nothing to read" in refusal(checkpoint, strategy="nothink", judge=judge)
    assert "by" in refusal(checkpoint, rewards=[{"name": "reasoning_quality"}])


def test_stopped_while_it_waits_a_run_keeps_its_step(checkpoint, tmp_path, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(experts.Experts.__init__, "__defaults__", (stop,))
    asked = []

    def later_away(request):
        asked.append(request)
        return verdict(request) if len(asked) <= 18 else failed(503)

    with judging(later_away, share=1) as server, pytest.raises(JudgeError, match=r"stopped while waiting .* Step 1 is kept"):
        trained(tmp_path / "run", checkpoint, server, {"max_unscored": 0.2}, max_steps=3, save_steps=3)
    assert (tmp_path / "run" / "checkpoints" / "1" / "state.json").is_file()


def test_trls_engine_keeps_the_weights_where_the_judge_stays_away(checkpoint, tmp_path):
    with (
        judging(lambda request: failed(503), share=1) as server,
        pytest.raises(JudgeError, match="engine=trl cannot be resumed; the weights of step 0 are kept"),
    ):
        trained(tmp_path / "run", checkpoint, server, {"max_unscored": 0.2, "patience_s": 0.0}, engine="trl")
    assert (tmp_path / "run" / "checkpoints" / "0" / "adapter_model.safetensors").is_file()


def test_the_command_line_prints_what_the_judge_took(checkpoint, tmp_path):
    with judging() as server:
        (tmp_path / "recipe.yaml").write_text(json.dumps(settings(checkpoint, server, max_steps=1)))
        shown = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    assert "asked" in shown.stdout
