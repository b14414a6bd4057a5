"""How far texts have the same words: against rouge-score, TRL's repetition penalty, and small cases by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from trl.rewards import get_repetition_penalty_reward

from osler.overlap import repetition, rouge_l, token_f1, words

ROUGE = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
ENGLISH = st.lists(
    st.sampled_from(["Left", "lung", "the", "the", "x-ray", "T2", "A", ",", "(b)", "left_sided", "."]), max_size=9
)
TEXT = ENGLISH.map(" ".join)


@given(text=TEXT, gold=TEXT)
def test_token_f1_is_rouge_1_and_rouge_l_is_rouge_l(text, gold):
    if words(text) or words(gold):
        wanted = ROUGE.score(gold, text)
        assert token_f1(text, gold) == pytest.approx(wanted["rouge1"].fmeasure)
        assert rouge_l(text, gold) == pytest.approx(wanted["rougeL"].fmeasure)


@given(text=TEXT, gold=TEXT)
def test_both_are_symmetric_and_an_order_can_only_lose(text, gold):
    for score in (token_f1, rouge_l):
        assert score(text, gold) == score(gold, text)
        assert score(text, text) == 1.0
    assert 0.0 <= rouge_l(text, gold) <= token_f1(text, gold) <= 1.0


@pytest.mark.parametrize(
    ("text", "gold", "f1", "rouge"),
    [
        ("the left lung", "left lung", 4 / 5, 4 / 5),
        ("lung left", "left lung", 1.0, 1 / 2),
        ("left left left", "left", 2 / 4, 2 / 4),  # a word counts as often as it stands in both
        ("Left, LUNG.", "left lung", 1.0, 1.0),
        ("liver", "left lung", 0.0, 0.0),
        ("", "left lung", 0.0, 0.0),
        ("+", "+", 1.0, 1.0),  # no word on either side
        ("+", "-", 0.0, 0.0),
        ("左肺结节", "右肺结节", 3 / 4, 3 / 4),  # each sign is a word
        ("2.5 cm", "2.5 mm", 4 / 6, 4 / 6),
    ],
)
def test_by_hand(text, gold, f1, rouge):
    assert token_f1(text, gold) == pytest.approx(f1)
    assert rouge_l(text, gold) == pytest.approx(rouge)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c d", 3, 0.0),
        ("a b a b a b", 2, 3 / 5),  # ab ba ab ba ab: two of five are new
        ("no no no no", 1, 3 / 4),
        ("No, no; NO no", 1, 3 / 4),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
        ("肺肺肺", 1, 2 / 3),
    ],
)
def test_repetition_by_hand(text, n, share):
    assert repetition(text, n) == pytest.approx(share)


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_repetition_is_trls_penalty_where_a_word_is_a_token(ids, n):
    penalty = get_repetition_penalty_reward(ngram_size=n, max_penalty=-1.0)([ids])[0]
    assert repetition(" ".join(map(str, ids)), n) == pytest.approx(-penalty)


@given(TEXT.filter(lambda text: len(words(text)) >= 3))
def test_saying_it_twice_over_repeats_all_but_the_seam(text):
    count = len(words(text))
    assert repetition(f"{text} {text}") >= (count - 2) / (2 * count - 2)
