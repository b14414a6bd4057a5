"""What a good rationale names, and the share of it that a text does name."""

import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.datasets.phantoms import describe, samples
from osler.drawing.phantoms import phantom_case
from osler.errors import DataError
from osler.reasoning.keywords import keyword_recall, keywords_of
from osler.schema import Sample
from osler.taxonomy import Modality

PHANTOMS = list(islice(samples(3, {"train": 12}), 40))


def sample(rationale=None, golds=("cyst",), **extra):
    return Sample("row 1", (), "What is shown?", golds, rationale=rationale, extra=extra, origin="rows.jsonl, row 4")


# --- which keywords there are


def test_given_keywords_come_first_each_once():
    shown = {"anatomy": "chest", "disease": "normal", "grade": "none", "location": "no lesion"}
    given_ones = Sample(
        "1", (), "?", ("x",), modality=Modality.CT, rationale="A cyst.", extra={"keywords": ["Cyst", "MRI", "cyst."], **shown}
    )
    assert keywords_of(given_ones) == ("Cyst", "MRI")
    assert keywords_of(sample(rationale="A cyst.", keywords=[])) == ()


@pytest.mark.parametrize("bad", ["cyst", {"cyst": 1}, [1], ["cyst", ""], ["."], [None], None])
def test_keywords_that_are_no_texts_are_an_error_with_its_row(bad):
    with pytest.raises(DataError, match=r"rows\.jsonl, row 4: its keywords are no list of texts"):
        keywords_of(sample(keywords=bad))


@pytest.mark.parametrize("row", PHANTOMS, ids=lambda row: row.id)
def test_keywords_of_a_phantom_are_what_its_description_says(row):
    described = describe(phantom_case(row.images[0]))
    assert keywords_of(row) == tuple(finding for finding, _ in described)
    everything = " ".join(sentence for _, sentence in described)
    assert keyword_recall(row, everything) == 1
    for finding, sentence in described:
        inside = [other for other, _ in described if other != finding and other in finding]  # a breast cyst names the breast
        assert keyword_recall(row, sentence) == pytest.approx((1 + len(inside)) / len(described)), finding
        rest = everything.replace(sentence, "")
        held = any(finding in other for other, _ in described if other != finding)
        assert keyword_recall(row, rest) == pytest.approx(1 if held else 1 - 1 / len(described))


def test_phantoms_with_and_without_a_lesion_are_tested_above():
    assert {len(keywords_of(row)) for row in PHANTOMS} == {3, 5}


def test_else_the_medical_terms_of_the_rationale_count():
    row = sample("The kidney shows a round Cyst and, near the Kidney, hydronephrosis. It looks like the sky.")
    assert keywords_of(row) == ("kidney", "Cyst", "hydronephrosis")


def test_what_a_rationale_denies_is_no_keyword():
    row = sample("No fracture or effusion is seen; there is a nodule of the lung. It is not a cyst.")
    assert keywords_of(row) == ("nodule", "lung")
    both = sample("At first no nodule is seen. On the next slice there is a nodule.")
    assert keywords_of(both) == ("nodule",)


@pytest.mark.parametrize("rationale", [None, "", "  ", "Because it looks so."])
def test_without_anything_to_name_there_is_no_recall(rationale):
    assert keywords_of(sample(rationale)) == ()
    assert keyword_recall(sample(rationale), "a cyst of the kidney") is None


# --- what a text names


@pytest.mark.parametrize(
    ("text", "recall"),
    [
        ("", 0),
        ("Nothing of note.", 0),
        ("A bone cyst in the HAND.", 1),
        ("A bone-cyst. The hand.", 1),
        ("A hand with a bone.", 1 / 2),
        ("A bone cystic thing at hands.", 0),
        ("There is no bone cyst in this hand.", 1 / 2),
        ("No fracture, bone cyst or mass. The hand.", 1 / 2),
        ("It rules out a bone cyst. But then the bone cyst is seen.", 1 / 2),
        ("A bone cyst is unlikely, the hand is not shown", 0),
    ],
)
def test_recall_by_hand(text, recall):
    assert keyword_recall(sample(keywords=["bone cyst", "hand"]), text) == recall


def test_a_keyword_inside_another_is_named_with_it():
    row = sample(keywords=["edema", "corneal edema", "lung"])
    assert keyword_recall(row, "corneal edema") == pytest.approx(2 / 3)
    assert keyword_recall(row, "edema") == pytest.approx(1 / 3)
    assert keyword_recall(row, "no corneal edema. A lung nodule") == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", ["by radiography", "X-Ray", "a chest x ray", "an XRAY", "a film"])
def test_a_modality_has_its_usual_spellings(text):
    row = sample(keywords=["X-ray"])
    assert keyword_recall(row, "an MRI of the chest") == 0
    assert (keyword_recall(row, text) == 1) == (text != "a film")


def test_keywords_in_other_scripts():
    row = sample(keywords=["肺炎", "胸部"])
    assert keyword_recall(row, "胸部X线显示肺炎。") == 1
    assert keyword_recall(row, "胸部没有肺炎。") == 1 / 2


@given(st.lists(st.sampled_from(["cyst", "kidney", "mass", "nodule", "spleen"]), min_size=1, unique=True), st.text(max_size=60))
def test_a_list_of_all_keywords_names_all_and_recall_is_a_share(keywords, text):
    row = sample(keywords=keywords)
    assert keyword_recall(row, ", ".join(keywords)) == 1
    assert 0 <= keyword_recall(row, text) <= 1
    assert keyword_recall(row, text) * len(keywords) == pytest.approx(round(keyword_recall(row, text) * len(keywords)))


def test_the_module_is_light_for_rewards():
    code = "import sys, osler.reasoning.keywords; print(*{'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
