"""Silvar-Med's file is not at hand: the rows here are written after what is known of it, in a form of our own."""

import json

import pytest
from PIL import Image

from osler.datasets.dividing import drop_leaks
from osler.datasets.load import load_data
from osler.datasets.silvar_med import ALIASES, slake_name
from osler.images import open_image
from osler.leaks import found_leaks, read_rows, shared_images
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType
from row_files import ABSENT, failure

ROW = {
    "image": "xmlab102/source.jpg",
    "question": "Is the lung healthy?",
    "answer": "No",
    "rationale": "The left lower lung is denser than the right. No healthy lung looks like that.",
}


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields, to a file, as lines where its name says so; returns its path."""

    def rows_file(*rows, name="train.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        values = [_row(row) for row in rows]
        lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n"
        file.write_text(lines if name.endswith("l") else json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return file

    return rows_file


def _row(fields):
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in (ROW | fields).items() if value is not ABSENT}


@pytest.mark.parametrize("name", ["train.json", "train_866.jsonl"])
def test_every_field_of_a_row(write, name):
    more = {"modality": "X-Ray", "organ": "Lung", "question_type": "Abnormality", "sex": "f", "language": "en"}
    file = write({}, more | {"id": 7, "split": "test", "image": ABSENT, "images": ["a.png", "xmlab2.jpg"]}, name=name)
    first, second = load_data(f"silvar_med:{file}")
    stem = name.partition(".")[0]
    assert first == Sample(
        id=f"silvar_med/{stem}/1",
        images=(),
        question="Is the lung healthy?",
        golds=("No",),
        kind=Kind.YESNO,
        rationale=ROW["rationale"],
        source="Silvar-Med",
        split="train",
        group="xmlab102/source.jpg",
        extra={"path": "xmlab102/source.jpg"},
    )
    assert (second.id, second.split, second.group) == ("7", "test", "a.png")
    assert (second.modality, second.question_type) == (Modality.XRAY, QuestionType.DISEASE)
    assert second.extra == {"organ": "Lung", "sex": "f", "paths": ["a.png", "xmlab2.jpg"]}
    assert second.origin == f"{file}, row 2"


@pytest.mark.parametrize(("name", "other"), [(name, other) for name, others in ALIASES.items() for other in others])
def test_a_field_by_its_other_name(write, name, other):
    value = ROW[name]
    expected = load_data(f"silvar_med:{write({})}")
    assert load_data(f"silvar_med:{write({name: ABSENT, other: value})}") == expected
    assert f"row 1: it has both {name!r} and {other!r}. Keep one." in failure(f"silvar_med:{write({other: value})}")


@pytest.mark.parametrize("answer", ["Lung cancer", " lung CANCER.", "B", "B) Lung cancer"])
def test_a_row_with_options(write, answer):
    (found,) = load_data(f"silvar_med:{write({'options': ['Pneumonia', 'Lung cancer'], 'answer': answer})}")
    assert (found.kind, found.gold_index, found.golds) == (Kind.CHOICE, 1, ("Lung cancer",))


@pytest.mark.parametrize(("answer", "kind"), [("no", Kind.YESNO), ("Lung Cancer", Kind.OPEN), (3, Kind.OPEN)])
def test_the_kind_of_a_row_without_options(write, answer, kind):
    (found,) = load_data(f"silvar_med:{write({'answer': answer})}")
    assert (found.kind, found.golds) == (kind, (str(answer),))


def test_the_images_of_a_row(write, tmp_path):
    for place in ("imgs/xmlab102/source.jpg", "imgs/b.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / place)
    file = write({}, {"image": ABSENT, "images": ["xmlab102/source.jpg", "b.png"]})
    found = load_data(f"silvar_med:{file}?images={tmp_path}/imgs")
    assert [len(sample.images) for sample in found] == [1, 2]
    assert all(open_image(image).size == (4, 3) for sample in found for image in sample.images)
    file = write({}, {"image": "c.png"})
    assert failure(f"silvar_med:{file}?images={tmp_path}/imgs").startswith(
        f"{file}, row 2: there is no image {tmp_path}/imgs/c"
    )


def test_a_folder_of_both_forms(write, tmp_path):
    write({}, name="deep/test_a.jsonl")
    write({}, name="deep/validation.json")
    found = load_data(f"silvar_med:{tmp_path}")
    assert [(sample.id, sample.split) for sample in found] == [
        ("silvar_med/test_a/1", "test"),
        ("silvar_med/validation/1", None),
    ]
    (tmp_path / "empty").mkdir()
    assert "the folder holds no .json" in failure(f"silvar_med:{tmp_path}/empty")


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("xmlab102/source.jpg", "xmlab102/source.jpg"),
        ("Slake1.0/imgs/xmlab102/source.jpg", "xmlab102/source.jpg"),
        ("test/imgs_test_abnormal/xmlab102.jpg", "xmlab102/source.jpg"),
        ("xmlab102_1.JPG", "xmlab102/source.jpg"),
        ("xmlab1020.png", "xmlab1020/source.jpg"),
        ("mine/my_xmlab102.jpg", "mine/my_xmlab102.jpg"),
        ("xmlab102/other.jpg", "xmlab102/other.jpg"),
    ],
)
def test_slakes_name_of_an_image(image, name):
    assert slake_name(image) == name


def test_the_overlap_with_slake_is_found(write, shared_data):
    """Rows about images of SLAKE's test are tied to these, however the images are named; others are not."""
    test = load_data(f"slake:{shared_data}/original/slake").where(split="test")
    groups = sorted({sample.group for sample in test})
    taken, names = groups[:4], ("{}/source.jpg", "imgs/{}.jpg", "{}_2.jpg", "a/{}/source.jpg")
    rows = [{"image": name.format(group.split("/")[0])} for group, name in zip(taken, names, strict=True)]
    train = load_data(f"silvar_med:{write(*rows, {'image': 'mine.jpg'})}")
    kept, dropped = drop_leaks(train, test)
    tied = [sample.id for sample in test if sample.group in taken]
    assert sorted(dropped["group"]) == sorted(tied)
    assert len(kept) == len(test) - len(tied)
    both = read_rows(list(train), list(test), images=None)
    numbers, findings = found_leaks(both, shared_images(both), distance=4)
    assert numbers["shared_group_rows"] == len(tied)
    assert any(finding.invalidates for finding in findings)


def test_a_row_of_slake_keeps_what_it_calls_its_image(shared_data):
    for sample in load_data(f"slake:{shared_data}/original/slake/test.json"):
        assert sample.group == sample.extra["path"] == slake_name(sample.extra["path"])


# --- faults ---


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *[({name: ABSENT}, f"the field {name!r} is missing.") for name in ("question", "answer", "rationale")],
        *[({name: None}, f"the field {name!r}: ") for name in ("question", "answer", "rationale")],
        *[({name: " "}, f"the field {name!r} is empty.") for name in ("question", "answer", "rationale")],
        *[({"image": value}, "the field 'image' is missing or empty.") for value in (ABSENT, None, "", " ")],
        *[({"image": ABSENT, "images": value}, "the field 'image' is missing or empty.") for value in ([], ["a.png", ""])],
        ({"images": ["b.png"]}, "it has both 'image' and 'images'."),
        ({"image": 3}, "the field 'image': "),
        ({"options": ["Yes"]}, "it offers 1 options"),
        ({"options": ["Yes", "Maybe"]}, "the gold 'No' is not among the options"),
        ({"options": ["no", "No."], "answer": "NO"}, "the gold 'NO' is 2 of the options"),
        ({"split": "validation"}, "unknown split 'validation'."),
        ({"modality": "XRy"}, "unknown modality 'XRy'."),
        ({"question_type": "??x"}, "unknown question type '??x'."),
        ({"id": "silvar_med/rows/2"}, "the id 'silvar_med/rows/2' is taken by "),
        (["a"], "it is no JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, name, fault, message):
    file = write({}, {}, fault, {}, name=name)
    said = failure(f"silvar_med:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_empty_file(write, name):
    file = write(name=name)
    file.write_bytes(b" \n")
    assert failure(f"silvar_med:{file}") == f"{file}: it is empty."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"image": "a.png"', "it is no JSON ("),
        (b'{"image": "\xff.png"}', "UTF-8"),
        (b'{"image": "\\ud800"}', "it is no JSON ("),
    ],
)
def test_a_line_that_is_no_json(write, line, message):
    file = write({}, name="rows.jsonl")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\n" + line + b"\n")
    said = failure(f"silvar_med:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said
