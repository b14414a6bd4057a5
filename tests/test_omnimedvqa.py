"""OmniMedVQA's files are not at hand: the rows here are written after the fields that public programs read."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from osler.datasets.golds import place_of_gold
from osler.datasets.load import load_data
from osler.images import open_image
from osler.schema import Kind, Sample, fold_text
from osler.taxonomy import Modality, QuestionType
from row_files import ABSENT, failure, write_json

ROW = {
    "dataset": "ACRIMA",
    "question_id": "ACRIMA_0000",
    "question_type": "Modality Recognition",
    "question": "What imaging technique was used here?",
    "gt_answer": "Fundus photography",
    "image_path": "Images/ACRIMA/Im002_ACRIMA.png",
    "option_A": "MRI",
    "option_B": "Fundus photography",
    "option_C": "Endoscopy",
    "option_D": "CT",
    "modality_type": "Fundus Photography",
}


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields and its question_id its place, to a file; returns its path."""

    def rows_file(*rows, name="OmniMedVQA/QA_information/Open-access/ACRIMA.json"):
        return write_json(tmp_path / name, [_row(n, row) for n, row in enumerate(rows)])

    return rows_file


def _row(number, fields):
    return ROW | {"question_id": f"ACRIMA_{number:04d}"} | fields if isinstance(fields, dict) else fields


def test_every_field_of_a_row(write):
    file = write({"note": [1]})
    (found,) = load_data(f"omnimedvqa:{file}")
    assert found == Sample(
        id="omnimedvqa/ACRIMA/ACRIMA_0000",
        images=(),
        question="What imaging technique was used here?",
        golds=("Fundus photography",),
        options=("MRI", "Fundus photography", "Endoscopy", "CT"),
        gold_index=1,
        kind=Kind.CHOICE,
        modality=Modality.FUNDUS,
        question_type=QuestionType.MODALITY,
        source="ACRIMA",
        split=None,
        group="Images/ACRIMA/Im002_ACRIMA.png",
        extra={
            "question_id": "ACRIMA_0000",
            "question_type": "Modality Recognition",
            "modality_type": "Fundus Photography",
            "note": [1],
            "path": "Images/ACRIMA/Im002_ACRIMA.png",
        },
    )
    assert found.origin == f"{file}, row 1"


@pytest.mark.parametrize(
    ("fields", "options", "gold_index"),
    [
        ({"option_C": ABSENT, "option_D": ABSENT}, ("MRI", "Fundus photography"), 1),
        ({"option_C": "", "option_D": None}, ("MRI", "Fundus photography"), 1),
        ({"option_A": " ", "option_D": ABSENT}, ("Fundus photography", "Endoscopy"), 0),
        ({"option_A": "No", "option_B": "Yes", "option_C": ABSENT, "option_D": ABSENT, "gt_answer": "Yes"}, ("No", "Yes"), 1),
        ({"gt_answer": " fundus  Photography."}, ("MRI", "Fundus photography", "Endoscopy", "CT"), 1),
        ({"option_A": "fundus photography."}, ("fundus photography.", "Fundus photography", "Endoscopy", "CT"), 1),
        ({"option_A": 3, "gt_answer": 3}, ("3", "Fundus photography", "Endoscopy", "CT"), 0),
    ],
)
def test_options_and_gold_of_a_row(write, fields, options, gold_index):
    (found,) = load_data(f"omnimedvqa:{write(fields)}")
    assert (found.options, found.gold_index, found.golds) == (options, gold_index, (options[gold_index],))
    assert found.kind is Kind.CHOICE


@given(st.lists(st.text(min_size=1), min_size=2, max_size=10, unique_by=fold_text), st.data())
def test_the_gold_is_found_whatever_its_case_and_outer_blanks(options, data):
    assume(all(map(fold_text, options)))
    place = data.draw(st.integers(0, len(options) - 1))
    assert place_of_gold(options, f" {options[place]} ") == place
    assert place_of_gold(options, fold_text(options[place])) == place


def test_the_one_published_row_that_names_its_modality_otherwise(write):
    row = {"modality": "CT(Computed Tomography)", "modality_type": ABSENT, "dataset": "Chest CT Scan"}
    (found,) = load_data(f"omnimedvqa:{write(row)}")
    assert (found.modality, found.extra["modality_type"]) == (Modality.CT, "CT(Computed Tomography)")


@pytest.mark.parametrize("label", ["Colposcopy", "Digital Photography", "Endoscopy", "Infrared Reflectance Imaging", "PET", ""])
def test_a_modality_beyond_the_eight_is_unknown_counted_and_kept(write, label):
    samples = load_data(f"omnimedvqa:{write({}, {'modality_type': label, 'question_type': 'New'})}")
    counts = samples.counts()
    assert counts["by_modality"] == {"Fundus": 1, "unknown": 1}
    assert counts["by_question_type"] == {"Modality recognition": 1, "unknown": 1}
    assert samples[1].extra["modality_type"] == label


def test_of_the_published_folder_only_the_questions_are_read(write, tmp_path):
    write({}, {})
    write({"dataset": "AMOS2022"}, name="OmniMedVQA/QA_information/Restricted-access/3D Modality.json")
    write({"no": "row"}, name="OmniMedVQA/Images/about.json")
    assert load_data(f"omnimedvqa:{tmp_path}").counts()["by_source"] == {"ACRIMA": 2, "AMOS2022": 1}
    assert len(load_data(f"omnimedvqa:{tmp_path}/OmniMedVQA/QA_information/Open-access")) == 2
    assert len(load_data(f"omnimedvqa:{write({}, name='mine/rows.json')}")) == 1


def test_the_image_of_a_row_and_its_group_are_those_of_med_r1(write, tmp_path):
    odd = "Images/OCT & X-Ray 2017/a b #1 100% (2).png"
    (tmp_path / odd).parent.mkdir(parents=True)
    Image.new("L", (4, 3)).save(tmp_path / odd)
    file = write({"image_path": odd})
    (found,) = load_data(f"omnimedvqa:{file}?images={tmp_path}")
    assert open_image(found.images[0]).size == (4, 3)
    split = tmp_path / "X-Ray_test.json"
    split.write_text(json.dumps([{"image": odd, "problem": "Which? A)x, B)y", "solution": "<answer> A </answer>"}]))
    assert load_data(f"medr1:{split}")[0].group == found.group
    file = write({"image_path": odd}, {"image_path": "Images/none.png"})
    assert failure(f"omnimedvqa:{file}?images={tmp_path}").startswith(
        f"{file}, row 2: there is no image {tmp_path}/Images/none"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *[({name: ABSENT}, f"the field {name!r} is missing.") for name in ROW if not name.startswith("option_")],
        *[({name: [1]}, f"the field {name!r}: ") for name in ROW],
        *[({name: " "}, f"the field {name!r} is empty.") for name in ("dataset", "question_id", "question", "image_path")],
        *[({"gt_answer": value}, "'gt_answer'") for value in (None, "", float("nan"))],
        ({"gt_answer": "PET"}, "the gold 'PET' is not among the options ['MRI', 'Fundus photography', 'Endoscopy', 'CT']."),
        ({"option_A": "Fundus photography"}, "the gold 'Fundus photography' is 2 of the options"),
        (
            {"option_A": "fundus photography", "option_B": "FUNDUS photography"},
            "the gold 'Fundus photography' is 2 of the options",
        ),
        ({"option_A": "", "option_C": "", "option_D": ABSENT}, "it offers 1 options, but a choice needs 2 to 10"),
        ({"option_D": float("nan")}, "the field 'option_D': "),
        ({"question_id": "ACRIMA_0001"}, "the id 'omnimedvqa/ACRIMA/ACRIMA_0001' is taken by "),
        (["a"], "it is no JSON object"),
        (None, "it is no JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault, {})
    said = failure(f"omnimedvqa:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


@pytest.mark.parametrize(("old", "new"), [('"option_C": ', ""), ("[{", "{"), ("}]", "")])
def test_a_file_that_breaks_off_is_named(write, old, new):
    file = write({}, {})
    file.write_text(file.read_text().replace(old, new, 1))
    assert failure(f"omnimedvqa:{file}").startswith(f"{file}")


def test_restricted_files_have_no_images_and_are_left_out_where_images_are_asked_for(write, tmp_path, capsys):
    write({})
    closed = write({"dataset": "AIDA"}, name="OmniMedVQA/QA_information/Restricted-access/AIDA.json")
    image = tmp_path / "OmniMedVQA" / ROW["image_path"]
    image.parent.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(image)
    folder = tmp_path / "OmniMedVQA"
    assert [row.source for row in load_data(f"omnimedvqa:{folder}")] == ["ACRIMA", "AIDA"]
    assert f"omnimedvqa:{folder}?images={folder}." in capsys.readouterr().err
    for root in (folder, folder / "Images"):
        (found,) = load_data(f"omnimedvqa:{folder}?images={root}")
        assert (found.source, found.images) == ("ACRIMA", (str(image),))
        assert "left out 1 file of Restricted-access" in capsys.readouterr().err
    (folder / "QA_information/Open-access/ACRIMA.json").unlink()
    for path in (closed, folder):  # who has its images names the file, or has no others
        assert load_data(f"omnimedvqa:{path}?images={folder}")[0].source == "AIDA"
        assert capsys.readouterr().err == ""
