"""Every spelling of a modality or a question type in the real files has one value; which are unknown is named here."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.datasets.load import load_data
from osler.taxonomy import (
    MODALITY_SPELLINGS,
    QUESTION_TYPE_SPELLINGS,
    Modality,
    QuestionType,
    fold,
    modality_of,
    question_type_of,
)

MED_R1_FILES = {
    "CT(Computed Tomography)": Modality.CT,
    "Dermoscopy": Modality.DERMOSCOPY,
    "Fundus Photography": Modality.FUNDUS,
    "MR (Mag-netic Resonance Imaging)": Modality.MRI,
    "Microscopy Images": Modality.MICROSCOPY,
    "OCT (Optical Coherence Tomography": Modality.OCT,
    "X-Ray": Modality.XRAY,
    "ultrasound": Modality.ULTRASOUND,
    "Anatomy Identification": QuestionType.ANATOMY,
    "Disease Diagnosis": QuestionType.DISEASE,
    "Lesion Grading": QuestionType.GRADING,
    "Modality Recognition": QuestionType.MODALITY,
    "Other Biological Attributes": QuestionType.ATTRIBUTE,
}
"""How Med-R1 names the files of its splits, and what their rows are."""

UNKNOWN = {
    "KG",
    "PRES",
    "OTHER",
    "Other",
    "PRSE",
    "VQA-RAD:PRES",
    "VQA-RAD:OTHER",
    "VQA-RAD:PRSE",
    "VQA-RAD:ABN, POS",
    "ABN, POS",
    "POS, ABN",
    "Radiology (modality not stated)",
}
"""Every label of the real files that says nothing of the two axes, or several things at once."""


def of_json(folder, names, field):
    """Every value of a field in the rows of these files."""
    return {str(row[field]) for name in names for row in json.loads((folder / name).read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def labels(shared_data):
    """Every spelling of a modality and of a question type in the real files, read without osler."""
    original = shared_data / "original"
    manifest = [json.loads(line) for line in (shared_data / "real/manifest.jsonl").read_text().splitlines()]
    slake, sets = ("train.json", "validate.json", "test.json"), ("trainset.json", "testset.json")
    answered = original / "vqa_med_2019/VQAMed2019_Test_Questions_w_Ref_Answers.txt"
    files = [file.stem.rpartition("_")[0] for file in (original / "medr1_splits").rglob("*.json")]
    modalities = {row["modality"] for row in manifest} | of_json(original / "slake", slake, "modality")
    types = {row["question_type"] for row in manifest} | of_json(original / "slake", slake, "content_type")
    types |= of_json(original / "vqa_rad", sets, "question_type")
    types |= of_json(original / "vqa_med_2019_in_vqa_rad_schema", sets, "question_type")
    types |= {line.split("|")[1] for line in answered.read_text().splitlines()}
    return modalities | {name for name in files if modality_of(name)}, types | {name for name in files if not modality_of(name)}


def test_every_spelling_of_the_real_files_has_one_value(labels):
    modalities, types = labels
    assert len(modalities) > 10
    assert len(types) > 40
    assert {label for label in modalities if modality_of(label) is None} == set()
    assert {label for label in types if question_type_of(label) is None} == set()


def test_which_spellings_of_the_real_files_are_unknown(labels):
    modalities, types = labels
    unknown = {label for label in modalities if modality_of(label) is Modality.UNKNOWN} - {"unknown"}
    unknown |= {label for label in types if question_type_of(label) is QuestionType.UNKNOWN}
    assert unknown == UNKNOWN


def test_every_real_row_is_counted_under_the_value_of_its_label(shared_data):
    rows = [json.loads(line) for line in (shared_data / "real/manifest.jsonl").read_text().splitlines()]
    counts = load_data(f"jsonl:{shared_data}/real/manifest.jsonl").counts()
    assert counts["by_modality"] == Counter(str(modality_of(row["modality"])) for row in rows)
    assert counts["by_question_type"] == Counter(str(question_type_of(row["question_type"])) for row in rows)
    assert counts["by_modality"]["unknown"] == sum(row["modality"] == "Radiology (modality not stated)" for row in rows) == 169


@pytest.mark.parametrize("name", MED_R1_FILES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_name_of_a_file_of_med_r1(tmp_path, name, split):
    """All odd names, of files that are not at hand too."""
    value = MED_R1_FILES[name]
    folder = tmp_path / ("modality" if isinstance(value, Modality) else "question_type") / split
    folder.mkdir(parents=True)
    row = {"image": "Images/Mura/a.png", "problem": "Which? A)x, B)y", "solution": "<answer> B </answer>"}
    (folder / f"{name}_{split}.json").write_text(json.dumps([row]))
    (found,) = load_data(f"medr1:{folder / f'{name}_{split}.json'}")
    axis = found.modality if isinstance(value, Modality) else found.question_type
    assert (axis, found.split) == (value, split)
    assert [found.modality, found.question_type].count("unknown") == 1


def test_a_file_of_one_source_of_med_r1_states_neither_axis(tmp_path):
    rows = [
        {"image": f"Images/{source}/a.png", "problem": "Which? A)x, B)y", "solution": "<answer> B </answer>"}
        for source in ("Mura", "Chest CT Scan")
    ]
    (tmp_path / "Mura_filtered_test.json").write_text(json.dumps(rows))
    counts = load_data(f"medr1:{tmp_path}").counts()
    assert (counts["by_modality"], counts["by_split"]) == ({"CT": 1, "unknown": 1}, {"test": 2})


def test_the_real_files_of_med_r1_have_the_rows_that_they_should(shared_data):
    folder = shared_data / "original/medr1_splits"
    modality = load_data(f"medr1:{folder}/modality")
    counted = {
        (split, axis): len(modality.where(split=split, modality=axis))
        for split in ("test", "train")
        for axis in ("X-ray", "OCT", "ultrasound", "CT")
    }
    assert counted == {
        ("test", "X-ray"): 1615,
        ("train", "X-ray"): 6301,
        ("test", "OCT"): 848,
        ("train", "OCT"): 3798,
        ("test", "ultrasound"): 2074,
        ("train", "ultrasound"): 8917,
        ("test", "CT"): 0,
        ("train", "CT"): 1,
    }
    (unknown,) = load_data(f"medr1:{folder}/modality/train/unknown_train.json")
    assert (unknown.modality, unknown.source) == (Modality.CT, "Chest CT Scan")
    grading = load_data(f"medr1:{folder}/question_type").where(question_type="Lesion Grading")
    assert grading.counts()["by_split"] == {"test": 436, "train": 1662}


def test_no_spelling_has_two_values_and_each_is_folded():
    for table in (MODALITY_SPELLINGS, QUESTION_TYPE_SPELLINGS):
        spellings = [spelling for found in table.values() for spelling in found]
        assert len(set(spellings)) == len(spellings)
        assert all(fold(spelling) == spelling for spelling in spellings)
    assert all(modality_of(value) is value for value in Modality)
    assert all(question_type_of(value) is value for value in QuestionType)


BLANK = st.sampled_from(["-", "_", " ", " (", ") ", "/"])


@given(st.sampled_from([(s, value) for value, found in MODALITY_SPELLINGS.items() for s in found]), BLANK, st.booleans())
def test_case_and_punctuation_do_not_matter(pair, blank, upper):
    spelling, value = pair
    label = spelling.replace(" ", blank)
    assert modality_of(f"{blank}{label.upper() if upper else label} ") is value


@pytest.mark.parametrize(
    ("label", "value"),
    [("Endoscopy", Modality.UNKNOWN), (None, Modality.UNKNOWN), ("Dermo", Modality.DERMOSCOPY), ("PET", None), ("CTT", None)],
)
def test_what_a_label_is(label, value):
    assert modality_of(label) is value
