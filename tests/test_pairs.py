"""Pairs of completions: a right and whole one before a wrong one, one pair a row; rows without one are counted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.baselines.pairs import UNPAIRED, Judged, _judged, make_pairs, pair_of
from osler.config import Recipe
from osler.datasets.phantoms import samples
from osler.errors import RunError
from osler.model.generate import Sampled
from osler.model.load import load_policy
from osler.runs import Run
from osler.schema import Outcome, Verdict
from osler.strategies import STRATEGIES
from osler.training.tries import attempts

ROWS = list(samples(0, {"train": 3}))
RIGHT, WRONG, UNJUDGED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNJUDGED
RAW = STRATEGIES["nothink_raw"]


def pair(*judged, seed=0, row=0):
    return pair_of(row, ROWS[row], "What?", [Judged(*one) for one in judged], seed)


def says(outcome):
    """A grader that finds everything `outcome`."""
    return lambda sample, parsed: Verdict(outcome, outcome, parsed.answer, sample.golds[0])


def by_length(sample, parsed):
    """A grader that likes an even number of letters."""
    return says(WRONG if len(parsed.lenient or "") % 2 else RIGHT)(sample, parsed)


@pytest.mark.parametrize(
    ("judged", "chosen", "rejected", "unpaired"),
    [
        ([("a", RIGHT, True), ("b", WRONG, True)], "a", "b", None),
        ([("a", RIGHT, True), ("b", WRONG, False)], "a", "b", None),
        ([("cut off", RIGHT, False), ("b", WRONG, True)], None, None, "none_right"),
        ([("a", RIGHT, True), ("a", WRONG, True)], None, None, "none_wrong"),
        ([("a", RIGHT, True), ("b", RIGHT, True)], None, None, "none_wrong"),
        ([("a", RIGHT, True), ("b", UNJUDGED, True)], None, None, "none_wrong"),
        ([("a", WRONG, True), ("b", UNJUDGED, True)], None, None, "none_right"),
        ([("a", UNJUDGED, True), ("b", UNJUDGED, True)], None, None, "unjudged"),
        ([("a", RIGHT, False), ("b", UNJUDGED, True)], None, None, "none_right"),
    ],
)
def test_a_right_and_whole_one_stands_before_a_wrong_one(judged, chosen, rejected, unpaired):
    found = pair(*judged)
    assert (found.chosen, found.rejected, found.unpaired) == (chosen, rejected, unpaired)
    assert sum(found.counts.values()) == len(judged)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Outcome), st.booleans()), min_size=2, max_size=8),
    st.integers(0, 9),
)
def test_what_is_chosen_was_right_and_what_is_rejected_was_wrong(judged, seed):
    found = pair(*judged, seed=seed)
    assert found == pair(*judged, seed=seed)
    assert (found.unpaired in UNPAIRED) == (found.chosen is None) == (found.rejected is None)
    if not found.unpaired:
        assert (found.chosen, RIGHT, True) in judged
        assert found.rejected in [text for text, outcome, _ in judged if outcome is WRONG]
        assert found.chosen != found.rejected


def test_the_choice_is_seeded_and_takes_any_of_them():
    judged = [(letter, RIGHT if letter in "abc" else WRONG, True) for letter in "abcdef"]
    drawn = {(one.chosen, one.rejected) for one in (pair(*judged, seed=seed) for seed in range(80))}
    assert drawn == {(a, b) for a in "abc" for b in "def"}


@pytest.mark.parametrize(
    ("judged", "chosen", "rejected", "unpaired"),
    [
        ([("a", RIGHT, True, False), ("b", RIGHT, True), ("c", WRONG, True)], "b", "c", None),
        ([("a", RIGHT, True), ("b", WRONG, True, False), ("c", WRONG, True)], "a", "c", None),
        ([("a", RIGHT, True, False), ("b", WRONG, True)], None, None, "inexact"),
        ([("a", RIGHT, True), ("b", WRONG, True, False)], None, None, "inexact"),
        ([("a", RIGHT, True, False), ("b", RIGHT, True)], None, None, "none_wrong"),
        ([("a", WRONG, True, False), ("b", WRONG, True)], None, None, "none_right"),
        ([("a", UNJUDGED, True, False), ("b", UNJUDGED, True)], None, None, "unjudged"),
    ],
)
def test_a_completion_that_does_not_give_its_tokens_back_is_on_neither_side(judged, chosen, rejected, unpaired):
    for seed in range(8):
        found = pair(*judged, seed=seed)
        assert (found.chosen, found.rejected, found.unpaired) == (chosen, rejected, unpaired)
    assert (found.counts["inexact"], sum(found.counts.values())) == (1, len(judged))


def test_a_character_that_was_cut_is_noticed(tiny):
    """A part of a character is shown as a mark that has tokens of its own; a word can be sampled in other pieces."""
    tokenizer = tiny.processor.tokenizer
    end, word, accented = tokenizer.eos_token_id, *(tokenizer(text)["input_ids"] for text in ("lung", "\u2603"))
    assert len(accented) > 1
    letters = [tokenizer(letter)["input_ids"][0] for letter in "lung"]
    assert letters != word

    def exact(*ids, truncated=False):
        return _judged(tiny, ROWS[0], Sampled(list(ids), [0.0] * len(ids), truncated), RAW, says(RIGHT)).exact

    assert exact(*word, end)
    assert exact(*accented, end)
    assert exact(*word, truncated=True)
    assert not exact(*accented[:-1], end)
    assert not exact(*word, *accented[:-1], truncated=True)
    assert not exact(*letters, end)


def test_what_is_not_exact_is_counted_and_what_is_paired_gives_its_tokens_back(tiny, tmp_path, monkeypatch):
    sampled = []
    monkeypatch.setattr(
        "osler.baselines.pairs.attempts",
        lambda *given: ((row, sampled.extend(found) or found) for row, found in attempts(*given)),
    )
    found, run = pairs_of(tiny, tmp_path / "r", by_length, dpo={"samples": 24})
    outcomes = run.manifest["pairs"]["outcomes"]
    assert sum(outcomes.values()) == 24 * len(ROWS) == len(sampled)
    assert outcomes["inexact"] > 0, "the tiny model samples some: else this test could not fail"
    ids = [tuple(one.ids) for one in sampled]
    for text in (text for one in found for text in (one.chosen, one.rejected)):
        assert tuple(tiny.processor.tokenizer(text)["input_ids"]) in ids


@pytest.fixture(scope="module")
def tiny():
    return load_policy("tiny")


def pairs_of(tiny, path, grader, **changes):
    recipe = Recipe(**{"model": "tiny", "method": "dpo", "dpo": {"samples": 4}, "rollout": {"max_tokens": 40}, **changes})
    run = Run.create(path, "train")
    return make_pairs(recipe, tiny, ROWS, RAW, grader, run), run


def test_every_row_leaves_a_line_and_a_pair_or_a_reason(tiny, tmp_path, capsys):
    found, run = pairs_of(tiny, tmp_path / "r", by_length)
    lines = run.rows("pairs")
    assert sorted(line["row"] for line in lines) == list(range(len(ROWS)))
    assert all(sum(line["counts"].values()) == 4 for line in lines)
    about = Run.open(run.path).manifest["pairs"]
    assert about["rows"] == len(ROWS) == about["pairs"] + sum(about["unpaired"].values())
    assert 0 < about["pairs"] == len(found)
    assert f"{len(found)} pairs of {len(ROWS)} rows, 4 completions each;" in capsys.readouterr().err
    assert [one.row for one in found] == sorted(line["row"] for line in lines if line["chosen"])
    for one in found:
        assert one.chosen.endswith("<|im_end|>")
        texts = [text.removesuffix("<|im_end|>") for text in (one.chosen, one.rejected)]
        assert [by_length(ROWS[one.row], RAW.parse(text)).outcome for text in texts] == [RIGHT, WRONG]
        assert json.loads(json.dumps(one.to_json())) in lines
    assert pairs_of(tiny, tmp_path / "again", by_length)[0] == found
    assert pairs_of(tiny, tmp_path / "other", by_length, seed=1)[0] != found


def test_one_that_was_cut_off_gets_no_end_and_is_never_chosen(tiny, tmp_path):
    with pytest.raises(RunError, match="none right and whole"):
        pairs_of(tiny, tmp_path / "r", by_length, rollout={"max_tokens": 1})
    cut = [one.rejected for one in pairs_of(tiny, tmp_path / "s", by_length, rollout={"max_tokens": 6})[0]]
    assert any(not text.endswith("<|im_end|>") for text in cut)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (WRONG, r"have none right.*init: an SFT run"),
        (RIGHT, r"have none wrong.*harder ones"),
        (UNJUDGED, "none judged.*grader"),
    ],
)
def test_no_pair_at_all_is_an_error_that_says_what_to_do(tiny, tmp_path, outcome, message):
    with pytest.raises(RunError, match=message):
        pairs_of(tiny, tmp_path / "r", says(outcome))
    assert len(Run.open(tmp_path / "r").rows("pairs")) == len(ROWS)
