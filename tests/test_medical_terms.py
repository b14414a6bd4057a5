"""Medical words in texts, what is marked in a completion, and what is not."""

from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.comparing.marking import repeated_places, take_apart
from osler.comparing.medical_terms import find_terms, phrase_of, vocabulary, words_of
from osler.overlap import repetition, words
from osler.schema import Sample
from osler.taxonomy import MODALITY_SPELLINGS, Modality

TEXTS = st.text(alphabet=st.sampled_from("ab CT.-_<>\n一肺é2"), max_size=60)


def found(text, *known):
    return [text[start:end] for start, end in find_terms(text, frozenset(map(phrase_of, known)))]


def sample(*options, gold=0, **rest):
    return Sample(id="s", images=(), question="?", options=options, golds=(options[gold],), gold_index=gold, **rest)


# --- terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Signs of appendicitis after a cholecystectomy.", ["appendicitis", "cholecystectomy"]),
        ("hepatocellular carcinomas, anaemia and anemia", ["hepatocellular", "carcinomas", "anaemia", "anemia"]),
        ("Cardiomegaly with a cardiothoracic ratio", ["Cardiomegaly", "cardiothoracic"]),
        ("An opacity, two nodules and masses in the lungs", ["opacity", "nodules", "masses", "lungs"]),
        ("a chest X-ray; a chest  x ray", ["chest X-ray", "chest  x ray"]),
        ("optical coherence tomography (OCT)", ["optical coherence tomography", "OCT"]),
        ("CT and US tell us more, MR too", ["CT", "US", "MR"]),
        ("We did it, and it is not in the picture.", []),
        ("Sympathy, aroma, academia and technologists", []),
        ("Let us direct the others.", []),
        ("", []),
    ],
)
def test_terms_of_english(text, terms):
    assert found(text) == terms


def test_every_modality_is_known_by_its_published_spellings():
    named = {value: spellings for value, spellings in MODALITY_SPELLINGS.items() if value is not Modality.UNKNOWN}
    missed = [one for spellings in named.values() for one in spellings if found(f"so {one.upper()} it is") != [one.upper()]]
    assert missed == []


def test_the_longest_phrase_wins_and_ends_with_its_sentence():
    assert found("a simple liver cyst here", "liver cyst", "simple liver cyst", "cyst") == ["simple liver cyst"]
    assert found("It is simple. Liver cyst", "simple liver cyst") == ["Liver", "cyst"]


@pytest.mark.parametrize("text", ["左肺有肺炎。", "左 肺有肺炎"])
def test_a_language_without_blanks_has_the_terms_of_its_options(text):
    assert found(text, "肺炎") == ["肺炎"]


def test_the_vocabulary_is_of_options_and_golds_that_say_something():
    rows = [sample("Liver cyst", "Yes", "None of the above", "B", "12", "Dot", "upper left"), sample("肺炎", "是", gold=0)]
    assert vocabulary(rows) == {("liver", "cyst"), ("肺", "炎")}
    opened = Sample(id="s", images=(), question="?", golds=("Gastric band",), kind="open")
    assert vocabulary([opened]) == {("gastric", "band")}


def test_an_option_as_long_as_a_paragraph_is_no_phrase():
    assert vocabulary([sample(" ".join(["pneumonia"] * 13))]) == frozenset()
    assert len(vocabulary([sample(" ".join(["pneumonia"] * 12))])) == 1


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_terms_are_apart_in_order_and_whole_words(text, options):
    known = frozenset(map(phrase_of, options)) - {()}
    spans = find_terms(text, known)
    starts, ends = {word.start for word in words_of(text)}, {word.end for word in words_of(text)}
    assert all(start in starts and end in ends and start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(TEXTS)
def test_words_are_those_that_overlap_counts(text):
    assert [word.folded for word in words_of(text)] == words(text)


# --- repetition


def test_the_second_time_is_marked_and_not_the_first():
    text = "The lung is clear. The lung is clear, but the heart is large."
    assert [text[start:end] for start, end in repeated_places(text)] == ["The lung is clear"]
    assert repeated_places("a b a b") == []
    assert repeated_places("a b a b", 2) == [(4, 7)]


@given(TEXTS, st.integers(1, 4))
def test_the_share_of_repeated_groups_is_that_of_the_places(text, n):
    found = words_of(text)
    groups = max(0, len(found) - n + 1)
    places = repeated_places(text, n)
    inside = [word for word in found if any(start <= word.start < end for start, end in places)]
    share = repetition(text, n)
    assert bool(places) == (share > 0)
    assert len(inside) >= round(share * groups)  # a repeated group has n words, and the next one at least one more


# --- parts


def parts(completion):
    return [(part.role, part.text, part.closed) for part in take_apart(completion)]


@pytest.mark.parametrize(
    ("completion", "apart"),
    [
        ("<think>why</think><answer>B</answer>", [("thought", "why", True), ("answer", "B", True)]),
        ("<answer>B</answer>\n<think>why</think>", [("answer", "B", True), ("thought", "why", True)]),
        ("So: <answer>B</answer>.", [("rest", "So: ", True), ("answer", "B", True), ("rest", ".", True)]),
        ("<think>on and on", [("thought", "on and on", False)]),
        ("<think>why<answer>B</answer>", [("thought", "why", False), ("answer", "B", True)]),
        ("<think>in <answer> tags</think> B", [("thought", "in <answer> tags", True), ("rest", " B", True)]),
        ("B</answer>", [("rest", "B</answer>", True)]),
        ("just B", [("rest", "just B", True)]),
        (" \n ", []),
        ("a\x00b\x1b[31m\u202ec\r\n\td", [("rest", "a\ufffdb\ufffd[31m\ufffdc\n\td", True)]),
    ],
)
def test_parts_are_what_the_tags_say(completion, apart):
    assert parts(completion) == apart


PROSE = st.lists(st.sampled_from(["the lung is clear ", "so ", "a CT ", "\n", "lung "]), max_size=8).map("".join)


@given(PROSE, PROSE)
def test_marks_are_cut_where_they_stand(before, inside):
    """Every character of the pieces against terms and repetitions of the whole, a tag in its midst."""
    completion = f"{before}<think>{inside}"
    terms, places = find_terms(completion), repeated_places(completion)
    pieces = [piece for part in take_apart(completion) for piece in part.pieces]
    spots = [*range(len(before) * bool(before.strip())), *range(len(before) + 7, len(completion) * bool(inside.strip()))]
    shown = [(letter, piece.term, piece.repeated) for piece in pieces for letter in piece.text]
    marks = [[any(start <= spot < end for start, end in spans) for spans in (terms, places)] for spot in spots]
    assert shown == [(completion[spot], *mark) for spot, mark in zip(spots, marks, strict=True)]


def test_a_degenerate_completion_is_taken_apart_in_no_time():
    start = process_time()
    assert len(take_apart("<think> lung mass " * 3000)) == 3000
    assert process_time() - start < 5


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "CT ", "so it is ", "\n", "<b"]), max_size=25))
def test_nothing_but_tags_and_blanks_is_lost(pieces):
    completion = "".join(pieces)
    shown = "".join(part.text for part in take_apart(completion))
    drop = str.maketrans("", "", "<>/ \nthinkaswer")  # letters of the tags, and blanks
    assert shown.translate(drop) == completion.translate(drop)
    assert shown.count("CT") == completion.count("CT")


def test_a_piece_is_a_term_a_repetition_or_both():
    text = "<think>the lung is clear and the lung is clear</think>"
    (thought,) = take_apart(text)
    assert [(piece.text, piece.term, piece.repeated) for piece in thought.pieces] == [
        ("the ", False, False),
        ("lung", True, False),
        (" is clear and ", False, False),
        ("the ", False, True),
        ("lung", True, True),
        (" is clear", False, True),
    ]
