"""Rewards whose scores come from a judge, an embedding model or keywords: what they pay, and what they are asked about."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RunError
from osler.grading import grader
from osler.images import blank_of
from osler.judging.replies import Judgement, unscored
from osler.rewards.answered import Answered
from osler.rewards.judged import (
    CORRECT,
    NEAR_GOLD,
    NEAR_RATIONALE,
    SOUND,
    open_accuracy,
    reasoning_quality,
    semantic_alignment,
)
from osler.rl import experts, scoring
from osler.rl.experts import Experts
from osler.rl.scoring import Scorer
from osler.schema import Completion, Kind
from osler.strategies import STRATEGIES

CLOSED = next(row for row in samples(0, {"test": 3}) if row.question_type == "Disease diagnosis")
OPEN = replace(CLOSED, options=(), gold_index=None, kind=Kind.OPEN)
THINK = STRATEGIES["think"]


def answered(sample, text, scores=None):
    parsed = THINK.parse(text)
    return Answered(sample, Completion(text, 5, False), parsed, grader("text")(sample, parsed), scores or {})


def said(answer, thought="It is round."):
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(("score", "paid"), [(1.0, 1.0), (0.0, 0.0), (0.51, 1.0), (0.49, 0.0), (None, None)])
def test_alignment_is_one_or_nothing(score, paid):
    assert semantic_alignment(answered(CLOSED, said("x"), {SOUND: score})) == paid


def test_quality_by_a_judge_is_its_score_and_a_probability_stays_one():
    assert reasoning_quality(answered(CLOSED, said("x"), {SOUND: 0.73}), by="judge") == 0.73
    assert reasoning_quality(answered(CLOSED, said("x"), {NEAR_RATIONALE: 0.4}), by="embedding") == 0.4
    assert reasoning_quality(answered(CLOSED, said("x"), {SOUND: None}), by="judge") is None


@pytest.mark.parametrize("by", ["judge", "embedding", "keywords"])
@pytest.mark.parametrize("text", ["<answer>x</answer>", "<think></think><answer>x</answer>"])
def test_no_thought_is_no_good_thought_and_no_outage(by, text):
    assert reasoning_quality(answered(CLOSED, text), by=by) == 0.0
    assert semantic_alignment(answered(CLOSED, text)) == 0.0


def test_quality_by_keywords_is_the_share_of_findings_that_are_named():
    named = f"The diagnosis is {CLOSED.extra['disease']}. The anatomy is the {CLOSED.extra['anatomy']}."
    keywords = 3 if CLOSED.extra["disease"] == "normal" else 5
    assert reasoning_quality(answered(CLOSED, said("x", named)), by="keywords") == pytest.approx(2 / keywords)
    assert (
        reasoning_quality(answered(replace(CLOSED, extra={}, rationale=None, golds=("x",)), said("x")), by="keywords") is None
    )


def test_closed_questions_are_graded_and_open_ones_scored_where_no_gold_is_met():
    wrong = next(option for option in CLOSED.options if option != CLOSED.golds[0])
    scores = {CORRECT: 1.0, NEAR_GOLD: 0.9}
    for by in ("judge", "embedding"):
        assert open_accuracy(answered(CLOSED, said(wrong), scores), by=by) == 0.0
        assert open_accuracy(answered(OPEN, said(OPEN.golds[0].upper()), {CORRECT: 0.0, NEAR_GOLD: 0.0}), by=by) == 1.0
        assert open_accuracy(answered(OPEN, "no form at all", scores), by=by) == 0.0
        assert open_accuracy(answered(OPEN, said("something near")), by=by) is None
    assert open_accuracy(answered(OPEN, said("near"), scores), by="judge") == 1.0
    assert open_accuracy(answered(OPEN, said("near"), scores), by="embedding") == 0.9
    assert open_accuracy(answered(OPEN, said("near"), scores), by="embedding", threshold=0.9) == 1.0
    assert open_accuracy(answered(OPEN, said("near"), scores), by="embedding", threshold=0.91) == 0.0


# who is asked about what


def recipe(*rewards, **changes):
    listed = [{"name": one} if isinstance(one, str) else one for one in rewards]
    given = {"model": "tiny", "answer_form": "text", "rewards": listed, "judge": {"model": "phantoms"}}
    return Recipe.model_validate(given | changes)


class Scripted:
    """A judge by a script; it keeps what it was asked."""

    def __init__(self, script):
        self.script, self.items, self.batches = script, [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def check(self):
        pass

    def score(self, items, max_seconds=None, repeat=0):
        self.items += items
        self.batches += 1
        return [self.script(item, self.batches) for item in items]


@pytest.fixture
def judge(monkeypatch):
    def install(script=lambda item, batch: Judgement(1, 1, "so")):
        made = Scripted(script)
        monkeypatch.setattr(experts, "_judge_of", lambda given: made)
        return made

    return install


def scored(recipe, texts, sample=OPEN, sleep=None):
    terms = Scorer(recipe, THINK, grader("text")).terms
    with Experts(recipe, terms, sleep or (lambda seconds: None)) as asked:
        return asked.score([answered(sample, text) for text in texts]), asked.metrics()


def test_a_judge_is_asked_only_what_a_reward_waits_for(judge):
    made = judge()
    texts = [said("near"), "<answer>near</answer>", "no form", said(OPEN.golds[0])]
    found, metrics = scored(recipe({"name": "open_accuracy", "settings": {"by": "judge"}}), texts)
    assert [item.answer for item in made.items] == ["near"]
    assert [one.judgement is not None for one in found] == [True, False, False, False]
    assert metrics["judge/items"] == 1
    made.items.clear()
    scored(recipe("semantic_alignment"), texts, CLOSED)
    assert [(item.thought, item.answer) for item in made.items] == [
        ("It is round.", "near"),
        ("It is round.", OPEN.golds[0]),
    ]
    made.items.clear()
    scored(recipe({"name": "semantic_alignment", "gate": "correct"}), texts, CLOSED)
    assert [item.answer for item in made.items] == [CLOSED.golds[0]]


def test_where_only_the_answer_is_paid_the_thought_is_not_shown(judge):
    made = judge()
    scored(recipe({"name": "open_accuracy", "settings": {"by": "judge"}}), [said("near")])
    assert made.items[0].thought is None


def test_a_probability_comes_before_the_verdict_that_was_made_of_it(judge):
    judge(lambda item, batch: replace(Judgement(1, 0, "so"), p_correct=0.7, p_sound=0.2))
    found, _ = scored(recipe("semantic_alignment"), [said("near")])
    assert found[0].scores == {SOUND: 0.2, CORRECT: 0.7}


def test_pauses_grow_twofold_and_never_beyond_the_patience(judge):
    judge(lambda item, batch: unscored("down") if batch < 4 else Judgement(1, 1, "so"))
    slept = []
    asked = recipe("semantic_alignment", judge={"model": "phantoms", "pause_s": 10, "patience_s": 55})
    found, metrics = scored(asked, [said("a"), said("b")], CLOSED, slept.append)
    assert slept == [10, 20, 25]
    assert metrics["judge/paused_s"] == 55
    assert all(one.scores[SOUND] == 1.0 for one in found)


def test_only_what_has_no_score_is_asked_again(judge):
    made = judge(lambda item, batch: Judgement(1, 1, "so") if item.answer == "a" or batch > 1 else unscored("deadline"))
    scored(recipe("semantic_alignment", judge={"model": "phantoms", "max_unscored": 0.1}), [said("a"), said("b")], CLOSED)
    assert [item.answer for item in made.items] == ["a", "b", "b"]


def test_similarities_go_to_their_rewards_and_several_golds_to_the_nearest(monkeypatch):
    near = {"gold one": 0.2, "gold two": 0.8, OPEN.rationale: 0.5}
    embedder = SimpleNamespace(similarities=lambda pairs: [near[b] for _, b in pairs])
    monkeypatch.setattr("osler.model.embeddings.load_embedder", lambda name: embedder)
    both = recipe(
        {"name": "open_accuracy", "settings": {"by": "embedding"}},
        {"name": "reasoning_quality", "settings": {"by": "embedding"}},
        judge=None,
        embedder="x",
    )
    sample = replace(OPEN, golds=("gold one", "gold two"))
    found, _ = scored(both, [said("near"), "no form"], sample)
    assert found[0].scores == {NEAR_GOLD: 0.8, NEAR_RATIONALE: 0.5}
    assert found[1].scores == {}
    found, _ = scored(both, [said("near")], replace(sample, rationale=None))
    assert found[0].scores == {NEAR_GOLD: 0.8, NEAR_RATIONALE: None}


# what is done with scores


def test_scores_that_have_collapsed_to_nearly_one_value_raise_an_alarm(judge, capsys):
    values = iter(range(10**6))
    judge(lambda item, batch: replace(Judgement(1, 1, "so"), p_sound=0.9 + 0.001 * (next(values) % 3)))
    scorer = Scorer(recipe({"name": "reasoning_quality", "settings": {"by": "judge"}}), THINK, grader("text"))
    ids = [[[1]] * 3]
    found = []
    with scorer.experts:
        for step in range(scoring.CONSTANT_STEPS):
            texts = [Completion(said(f"{step} {k}"), 5, False) for k in range(3)]
            found.append(scorer.metrics(scorer.score([CLOSED], [texts], ids)))
    assert "alarms/reasoning_quality" not in found[-2]
    assert found[-1]["alarms/reasoning_quality"] == scoring.CONSTANT_STEPS
    assert 0 < found[-1]["rewards/reasoning_quality/group_std"] < scoring.LEAST_SPREAD
    assert "(nearly) the same within every group" in capsys.readouterr().err


def test_where_the_judge_leaves_all_thoughts_the_thoughtless_are_not_paid_for_that(judge):
    judge(lambda item, batch: unscored("unparseable"))
    scorer = Scorer(recipe("accuracy", "semantic_alignment"), THINK, grader("text"))
    gold = CLOSED.golds[0]
    texts = [said(gold), said("x"), f"<think></think><answer>{gold}</answer>", "<answer>x</answer>", "x"]
    with scorer.experts:
        (group,) = scorer.score([CLOSED], [[Completion(text, 5, False) for text in texts]], [[[1]] * 5])
    assert [row["reward"] for row in group] == [None] * 5
    assert [row["dropped"] for row in group] == [None, None, 1.0, 0.0, 0.0]


def test_a_row_without_a_rationale_has_no_quality_by_embedding_thought_or_not():
    bare = replace(CLOSED, rationale=None)
    for text in (said("x"), "<answer>x</answer>"):
        assert reasoning_quality(answered(bare, text, {NEAR_RATIONALE: None}), by="embedding") is None


def test_rollouts_in_which_nothing_can_be_scored_stop_the_run():
    rows = replace(CLOSED, extra={}, rationale=None, golds=("x",))
    keywords = {"name": "reasoning_quality", "settings": {"by": "keywords"}}
    scorer = Scorer(recipe(keywords, judge=None), THINK, grader("text"))
    texts = [[Completion(said("x"), 5, False)] * 2]
    for _ in range(scoring.BLANK_STEPS - 1):
        scorer.metrics(scorer.score([rows], texts, [[[1]] * 2]))
    with pytest.raises(RunError, match=r"not one completion could be scored in 5 rollouts running.*reasoning_quality"):
        scorer.metrics(scorer.score([rows], texts, [[[1]] * 2]))


def test_a_blind_twin_is_judged_beside_the_real_image(judge):
    made = judge()
    blind = replace(CLOSED, images=tuple(map(blank_of, CLOSED.images)))
    scored(recipe("semantic_alignment"), [said("near")], blind)
    assert made.items[0].images == CLOSED.images
