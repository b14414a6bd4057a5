import json

import pytest
from PIL import Image

from osler.datasets.load import load_data
from osler.datasets.pathvqa import FILES
from osler.images import open_image
from osler.schema import Kind, Sample
from row_files import ABSENT, failure

ROW = {
    "img_id": "test_0001",
    "labelf": {"pvqa": [{"squamous cell carcinoma": 1}, {"yes": 1}]},
    "sentf": {"pvqa": ["What is seen?", "Is it a carcinoma?"]},
}


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields and the number of its image, to a file; returns its path."""

    def rows_file(*rows, name="pvqa_test.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([_row(n, row) for n, row in enumerate(rows)]), encoding="utf-8")
        return file

    return rows_file


def _row(number, fields):
    if not isinstance(fields, dict):
        return fields
    row = ROW | {"img_id": f"test_{number:04d}"} | fields
    return {name: value for name, value in row.items() if value is not ABSENT}


def of(labels, questions):
    """The fields of a row with these labels and questions."""
    return {"labelf": {"pvqa": labels}, "sentf": {"pvqa": questions}}


# --- the published files ---


@pytest.fixture(scope="module")
def published(shared_data):
    """The folder and its samples."""
    folder = shared_data / "original/pathvqa_lxmert"
    return folder, load_data(f"pathvqa:{folder}")


def test_the_published_files(published):
    folder, samples = published
    assert samples.counts() == {
        "n": 32795,
        "images": 0,
        "by_split": {"test": 6761, "train": 19755, "val": 6279},
        "by_modality": {"unknown": 32795},
        "by_question_type": {"unknown": 32795},
        "by_source": {"PathVQA": 32795},
        "by_kind": {"open": 16463, "yesno": 16332},
        "options": {0: 32795},
        "groups": 4289,
    }
    rows = {split: json.loads((folder / name).read_text()) for name, split in FILES.items()}
    bare = {split: sum(not row["sentf"]["pvqa"] for row in these) for split, these in rows.items()}
    assert bare == {"train": 422, "val": 160, "test": 133}
    assert sum(map(len, rows.values())) - sum(bare.values()) == samples.counts()["groups"]


def test_every_published_question_comes_back_as_it_is(published):
    folder, samples = published
    found = {sample.id: sample for sample in samples}
    for name, split in FILES.items():
        for number, row in enumerate(json.loads((folder / name).read_text(encoding="utf-8")), 1):
            for place, (question, label) in enumerate(zip(row["sentf"]["pvqa"], row["labelf"]["pvqa"], strict=True), 1):
                sample = found.pop(f"pathvqa/{row['img_id']}/{place}")
                assert (sample.question, sample.golds, sample.split) == (question, tuple(label), split)
                assert (sample.group, sample.extra) == (row["img_id"], {"path": row["img_id"]})
                assert sample.origin == f"{folder}/{name}, row {number}, question {place}"
                assert (sample.kind is Kind.YESNO) == (sample.golds[0] in ("yes", "no"))
    assert not found


def test_no_published_image_is_in_two_splits(published):
    groups = [{sample.group for sample in published[1].where(split=split)} for split in ("train", "val", "test")]
    assert len(set().union(*groups)) == sum(map(len, groups)) == 4289


# --- rows ---


def test_every_field_of_a_row(write, tmp_path):
    for place in ("test/test_0000.jpg", "flat/test_0000.jpg"):
        (tmp_path / "images" / place).parent.mkdir(parents=True)
        Image.new("L", (4, 3)).save(tmp_path / "images" / place)
    file = write(of([{"a lung": 1, "lung": 0.6}], [" What? "]) | {"new": 1})
    (found,) = load_data(f"pathvqa:{file}?images={tmp_path}/images")
    assert found == Sample(
        id="pathvqa/test_0000/1",
        images=(f"{tmp_path}/images/test/test_0000.jpg",),
        question=" What? ",
        golds=("a lung", "lung"),
        kind=Kind.OPEN,
        source="PathVQA",
        split="test",
        group="test_0000",
        extra={"path": "test_0000", "new": 1},
    )
    assert found.origin == f"{file}, row 1, question 1"
    for root in ("images/test", "images/flat"):
        (found,) = load_data(f"pathvqa:{file}?images={tmp_path}/{root}")
        assert open_image(found.images[0]).size == (4, 3)


@pytest.mark.parametrize(
    ("label", "kind"),
    [({"Yes": 1}, Kind.YESNO), ({"no": 1}, Kind.YESNO), ({"yes, it is": 1}, Kind.OPEN), ({"no": 1, "none": 1}, Kind.OPEN)],
)
def test_the_kind_of_a_question(write, label, kind):
    assert load_data(f"pathvqa:{write(of([label], ['Is it?']))}")[0].kind is kind


def test_an_image_without_questions_needs_no_file(write, tmp_path):
    file = write(of([], []))
    assert len(load_data(f"pathvqa:{file}?images={tmp_path}")) == 0


def test_of_a_folder_only_files_of_published_names_are_rows(write, tmp_path):
    write({}, name="deep/pvqa_train.json")
    write({"ans": "x"}, name="deep/pvqa_ans.json")
    samples = load_data(f"pathvqa:{tmp_path}")
    assert [(sample.id, sample.split) for sample in samples] == [(f"pathvqa/test_0000/{n}", "train") for n in (1, 2)]
    assert load_data(f"pathvqa:{write({}, name='mine.json')}")[0].split is None
    assert failure(f"pathvqa:{write({}, name='other/x.json').parent}").endswith("Name the file itself.")


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *[({name: ABSENT}, f"the field {name!r} is missing.") for name in ROW],
        *[({name: None}, f"the field {name!r}: ") for name in ROW],
        ({"img_id": " "}, "the field 'img_id' is empty."),
        ({"img_id": "test_0001"}, "the id 'pathvqa/test_0001/1' is taken by "),
        (of([{"yes": 1}], ["Is it?", "Is it?"]), "it has 2 questions in 'sentf', but 1 answers in 'labelf' ('pvqa')."),
        ({"sentf": {"other": ["Is it?"]}}, "'labelf' is of ['pvqa'], but 'sentf' of ['other']."),
        (of([{"yes": 1}, {" .": 1}], ["Is it?", "What?"]), "the answer of its question 2 is empty."),
        (of([{"yes": 1}], [" "]), "the question of its question 1 is empty."),
        (of([{}], ["Is it?"]), "the field 'labelf': "),
        *[(of([{"yes": value}], ["Is it?"]), "the field 'labelf': ") for value in ("1", True, None, float("nan"))],
        (of(["yes"], ["Is it?"]), "the field 'labelf': "),
        (of([{"yes": 1}], [3]), "the field 'sentf': "),
        ([], "it is no JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault, {})
    said = failure(f"pathvqa:{file}")
    assert said.startswith(f"{file}, row 3")
    assert message in said


def test_an_image_that_is_absent(write, tmp_path):
    file = write({})
    assert failure(f"pathvqa:{file}?images={tmp_path}").startswith(f"{file}, row 1: there is no image {tmp_path}/test_0000.jpg")
