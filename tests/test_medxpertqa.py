"""MedXpertQA: rows in the form of its repository (its images, and the hub's form, are not at hand)."""

import json

import pytest
from PIL import Image

from osler.datasets.load import load_data
from osler.schema import Kind, Sample
from osler.taxonomy import QuestionType
from row_files import failure

TEXTS = {"A": 'Graves" disease', "B": "Iron deficiency", "C": "Sarcoidosis"}
LISTED = "\nAnswer Choices: " + " ".join(f"({letter}) {text}" for letter, text in TEXTS.items())
ROW = {
    "id": "MM-179",
    "question": f"Which condition is the most probable?{LISTED}",
    "options": [{"letter": letter, "content": text} for letter, text in TEXTS.items()],
    "label": ["B"],
    "images": [{"image_path": "MM-179-a.jpeg"}],
    "medical_task": "Diagnosis",
    "body_system": "Integumentary",
    "question_type": "Understanding",
}
HUB = {"options": TEXTS, "label": "B", "images": ["MM-179-a.jpeg"]}
"""The fields that differ on the hub, as its page describes them."""


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields, to a file; returns its path."""

    def rows_file(*rows, name="MM/medxpertqa_mm_input.jsonl"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(ROW | {"id": f"MM-{n}"} | row) + "\n" for n, row in enumerate(rows)))
        return file

    return rows_file


@pytest.mark.parametrize("form", [{}, HUB])
def test_every_field_of_a_row(write, form):
    file = write(form)
    assert load_data(f"medxpertqa:{file}")[0] == Sample(
        id="medxpertqa/MM-0",
        images=(),
        question="Which condition is the most probable?",
        golds=("Iron deficiency",),
        options=tuple(TEXTS.values()),
        gold_index=1,
        kind=Kind.CHOICE,
        question_type=QuestionType.DISEASE,
        source="MedXpertQA",
        extra={
            "body_system": "Integumentary",
            "medical_task": "Diagnosis",
            "demand": "Understanding",
            "paths": ["MM-179-a.jpeg"],
        },
        origin=f"{file}, row 1",
    )


@pytest.mark.parametrize("form", [{}, HUB])
def test_the_images_below_either_folder(write, tmp_path, form):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images/MM-179-a.jpeg")
    file = write(form)
    for root in (tmp_path, tmp_path / "images"):
        assert load_data(f"medxpertqa:{file}?images={root}")[0].images == (str(tmp_path / "images/MM-179-a.jpeg"),)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Which?", "Which?"),
        ("Which? (A) Graves", "Which? (A) Graves"),
        (f"Which?{LISTED} ?", f"Which?{LISTED} ?"),
        (f" Which?{LISTED}", "Which?"),
    ],
)
def test_only_the_rows_own_list_of_options_is_taken_off(write, text, question):
    assert load_data(f"medxpertqa:{write({'question': text})}")[0].question == question


def test_splits_tasks_and_rows_without_images(write, tmp_path):
    text = {"images": [], "medical_task": "Treatment"}
    write(text, name="Text/test.jsonl")
    write({"id": "MM-dev"}, name="MM/dev.jsonl")
    found = load_data(f"medxpertqa:{tmp_path}")
    assert [(row.split, row.question_type, row.extra["paths"]) for row in found] == [
        ("val", QuestionType.DISEASE, ["MM-179-a.jpeg"]),
        ("test", QuestionType.UNKNOWN, []),
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"label": "Z"}, "its label should be one of the letters ABC, not 'Z'."),
        ({"label": ["A", "B"]}, "its label should be one of the letters ABC"),
        ({"label": []}, "its label should be one of the letters ABC"),
        ({"label": 1}, "the field 'label'"),
        ({"options": {"A": "x"}}, "its options should be of the letters A, B, ... in turn"),
        ({"options": {"A": "x", "C": "y"}}, "its options should be of the letters A, B, ... in turn"),
        ({"options": [{"letter": "A", "content": "x"}] * 2}, "its options should be of the letters A, B, ... in turn"),
        ({"options": [*ROW["options"], ROW["options"][2]]}, "its options should be of the letters A, B, ... in turn"),
        ({"options": {"A": "x", "B": " "}, "label": "A"}, "it has an empty option."),
        ({"question": LISTED}, "the field 'question' is empty."),
        ({"id": " "}, "the field 'id' is empty."),
        ({"images": [{"file": "a"}]}, "the field 'images'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, fault)
    assert f"{file}, row 2: {message}" in failure(f"medxpertqa:{file}")


def test_an_image_that_is_absent(write, tmp_path):
    assert "row 1: there is no image" in failure(f"medxpertqa:{write({})}?images={tmp_path}")
