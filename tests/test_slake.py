import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from osler.datasets.load import load_data
from osler.datasets.slake import FILES, UNANSWERED
from osler.images import open_image
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType
from row_files import ABSENT, failure, write_json

SLAKE = "osler.datasets.slake:read"
ROW = {
    "img_id": 1,
    "img_name": "xmlab1/source.jpg",
    "question": "Is it there?",
    "answer": "Yes",
    "q_lang": "en",
    "location": "Abdomen",
    "modality": "MRI",
    "answer_type": "CLOSED",
    "base_type": "vqa",
    "content_type": "Organ",
    "triple": ["vhead", "_", "_"],
    "qid": 0,
}


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields and its qid its place, to a file; returns its path."""

    def rows_file(*rows, name="train.json"):
        return write_json(tmp_path / name, [_row(n, row) for n, row in enumerate(rows)])

    return rows_file


def _row(number, fields):
    return ROW | {"qid": number} | fields if isinstance(fields, dict) else fields


# --- the published files ---


@pytest.fixture(scope="module")
def published(shared_data):
    """The folder, its rows by split as read without osler, and its samples."""
    folder = shared_data / "original/slake"
    names = {"train": "train", "val": "validate", "test": "test"}
    rows = {split: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for split, name in names.items()}
    return folder, rows, load_data(f"{SLAKE}:{folder}")


def test_the_published_files(published):
    _, _, samples = published
    assert samples.counts() | {"by_question_type": None} == {
        "n": 14028,
        "images": 0,
        "by_split": {"test": 2094, "train": 9835, "val": 2099},
        "by_modality": {"CT": 6639, "MRI": 3175, "X-ray": 4214},
        "by_question_type": None,
        "by_source": {"SLAKE": 14028},
        "by_kind": {"open": 11634, "yesno": 2394},
        "options": {0: 14028},
        "groups": 642,
    }
    assert Counter((sample.split, sample.language) for sample in samples) == {
        ("train", "en"): 4919,
        ("train", "zh"): 4916,
        ("val", "en"): 1053,
        ("val", "zh"): 1046,
        ("test", "en"): 1061,
        ("test", "zh"): 1033,
    }


def test_every_published_row_comes_back_as_it_is(published):
    folder, rows, found = published
    samples = {sample.extra["qid"]: sample for sample in found}
    for split, said in ((split, row) for split, these in rows.items() for row in these):
        sample = samples.pop(said["qid"])
        assert (sample.id, sample.split, sample.group) == (f"slake/{said['qid']}", split, said["img_name"])
        assert (sample.question, sample.golds, sample.language) == (said["question"], (said["answer"],), said["q_lang"])
        kept = {
            name: said[name] for name in ("qid", "img_id", "modality", "answer_type", "base_type", "content_type", "triple")
        }
        assert sample.extra == kept | {"path": said["img_name"], "organ": said["location"]}
    assert not samples
    assert found[0].origin == f"{folder}/test.json, row 1"


def test_question_types_of_the_published_rows(published):
    found = {(sample.extra["content_type"], sample.question_type) for sample in published[2]}
    known = {
        "Organ": QuestionType.ANATOMY,
        "Plane": QuestionType.ANATOMY,
        "Modality": QuestionType.MODALITY,
        "Abnormality": QuestionType.DISEASE,
        "Size": QuestionType.ATTRIBUTE,
        "Color": QuestionType.ATTRIBUTE,
        "KG": QuestionType.UNKNOWN,
    }
    assert {(label, value) for label, value in found if label in known} == set(known.items())
    assert {label for label, _ in found} - set(known) == {"Position", "Quantity", "Shape"}


def test_kinds_of_the_published_rows(published):
    found = Counter((sample.language, sample.extra["answer_type"], str(sample.kind)) for sample in published[2])
    assert found == {
        ("en", "CLOSED", "yesno"): 2394,
        ("en", "CLOSED", "open"): 387,
        ("en", "OPEN", "open"): 4252,
        ("zh", "CLOSED", "open"): 2780,
        ("zh", "OPEN", "open"): 4215,
    }


def test_the_one_published_row_without_an_answer_is_kept_and_no_other_is(published, write):
    samples = published[2]
    (found,) = (sample for sample in samples if not sample.golds[0].strip())
    assert (found.extra["qid"], found.golds, found.kind, found.split) == (UNANSWERED, ("",), Kind.OPEN, "train")
    assert found.origin is not None
    assert found.origin.endswith("train.json, row 1623")
    fault = {"qid": UNANSWERED, "question": ""}
    assert "row 1: the field 'question' is empty." in failure(f"{SLAKE}:{write(fault)}")


def test_how_many_published_test_images_are_also_in_train(published):
    samples = published[2]
    images = {split: {sample.cluster for sample in samples.where(split=split)} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in images.items()} == {"train": 586, "val": 174, "test": 180}
    assert len(images["test"] & images["train"]) == 142
    assert len(images["val"] & images["train"]) == 130
    assert len(images["test"] & (images["train"] | images["val"])) == 168
    assert sum(sample.cluster in images["train"] for sample in samples.where(split="test")) == 1517


def test_the_csv_files_repeat_the_english_test_rows(published):
    folder, _, samples = published
    for name, answer_type in (("close", "CLOSED"), ("open", "OPEN")):
        with (folder / f"test_{name}.csv").open(encoding="utf-8", newline="") as lines:
            repeated = [(row["img_name"], row["question"], row["answer"]) for row in csv.DictReader(lines)]
        test = [sample for sample in samples.where(split="test") if sample.language == "en"]
        of_type = [sample for sample in test if sample.extra["answer_type"] == answer_type]
        assert sorted(repeated) == sorted((sample.group or "", sample.question, sample.golds[0]) for sample in of_type)


# --- rows ---


def test_every_field_of_a_row(write, tmp_path):
    (tmp_path / "imgs/xmlab9").mkdir(parents=True)
    Image.new("L", (4, 3)).save(tmp_path / "imgs/xmlab9/source.jpg")
    row = {"qid": 5, "img_id": 9, "img_name": "xmlab9/source.jpg", "question": "图片中包含肝脏吗?", "answer": "包含"}
    file = write(row | {"q_lang": "zh", "location": "Pelvic Cavity", "modality": "X-Ray", "new": 1}, name="validate.json")
    (found,) = load_data(f"{SLAKE}:{file}?images={tmp_path}/imgs")
    assert found == Sample(
        id="slake/5",
        images=(f"{tmp_path}/imgs/xmlab9/source.jpg",),
        question="图片中包含肝脏吗?",
        golds=("包含",),
        kind=Kind.OPEN,
        modality=Modality.XRAY,
        question_type=QuestionType.ANATOMY,
        source="SLAKE",
        split="val",
        group="xmlab9/source.jpg",
        language="zh",
        extra={
            "qid": 5,
            "img_id": 9,
            "modality": "X-Ray",
            "answer_type": "CLOSED",
            "base_type": "vqa",
            "content_type": "Organ",
            "triple": ["vhead", "_", "_"],
            "path": "xmlab9/source.jpg",
            "organ": "Pelvic Cavity",
            "new": 1,
        },
    )
    assert found.origin == f"{file}, row 1"
    assert open_image(found.images[0]).size == (4, 3)


@pytest.mark.parametrize(
    ("answer", "answer_type", "kind", "gold"),
    [
        ("No", "CLOSED", Kind.YESNO, "No"),
        ("Right Kidney", "closed ", Kind.OPEN, "Right Kidney"),
        (2, "OPEN", Kind.OPEN, "2"),
        (0.5, "OPEN", Kind.OPEN, "0.5"),
    ],
)
def test_kind_and_gold_of_a_row(write, answer, answer_type, kind, gold):
    (found,) = load_data(f"{SLAKE}:{write({'answer': answer, 'answer_type': answer_type})}")
    assert (found.kind, found.golds) == (kind, (gold,))


def test_spellings_that_no_table_holds_are_unknown_and_counted(write):
    counts = load_data(f"{SLAKE}:{write({}, {'modality': 'MRT', 'content_type': 'Orgn'}, {'modality': ''})}").counts()
    assert counts["by_modality"] == {"MRI": 1, "unknown": 2}
    assert counts["by_question_type"] == {"Anatomy identification": 2, "unknown": 1}


@pytest.mark.parametrize("name", [*FILES, "slake_test_en.json"])
def test_the_split_is_in_the_name_of_the_file(write, name):
    expected = {"train.json": "train", "validate.json": "val", "validation.json": "val", "test.json": "test"}
    assert [sample.split for sample in load_data(f"{SLAKE}:{write({}, name=name)}")] == [expected.get(name)]


def test_of_a_folder_only_files_of_published_names_are_rows(write, tmp_path):
    write({"qid": 1}, name="Slake1.0/train.json")
    write({"qid": 2}, name="Slake1.0/validation.json")
    write({"no": "row"}, name="Slake1.0/imgs/xmlab1/question.json")
    write({"no": "row"}, name="Slake1.0/imgs/xmlab1/detection.json")
    assert {sample.id: sample.split for sample in load_data(f"{SLAKE}:{tmp_path}")} == {"slake/1": "train", "slake/2": "val"}
    assert failure(f"{SLAKE}:{tmp_path}/Slake1.0/imgs").startswith(f"{tmp_path}/Slake1.0/imgs: the folder holds none of train")


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *[({name: ABSENT}, f"the field {name!r} is missing.") for name in ROW],
        *[({name: None}, f"the field {name!r}: ") for name in ROW],
        *[({name: " "}, f"the field {name!r} is empty.") for name in ("qid", "img_name", "question", "answer", "q_lang")],
        *[({"answer": value}, "the field 'answer': ") for value in (False, [], float("nan"), float("-inf"))],
        *[({name: value}, f"the field {name!r}: ") for name in ("qid", "img_id") for value in (True, 1.0)],
        ({"triple": "vhead"}, "the field 'triple': "),
        ({"location": 3}, "the field 'location': "),
        ({"answer_type": "OPENED"}, "unknown answer type 'OPENED'. Did you mean 'OPEN'?"),
        ({"qid": 0}, "the id 'slake/0' is taken by "),
        ([], "it is no JSON object"),
        (3, "it is no JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault, {})
    said = failure(f"{SLAKE}:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


def test_an_id_that_is_taken_in_another_file(write, tmp_path):
    write({}, {}, name="test.json")
    write({"qid": 1}, name="train.json")
    assert failure(f"{SLAKE}:{tmp_path}").startswith(
        f"{tmp_path}/train.json, row 1: the id 'slake/1' is taken by {tmp_path}/test"
    )


def test_an_image_that_is_absent(write, tmp_path):
    file = write({})
    assert failure(f"{SLAKE}:{file}?images={tmp_path}").startswith(f"{file}, row 1: there is no image {tmp_path}/xmlab1/")


@pytest.mark.parametrize("seed", range(20))
def test_json_that_breaks_off_is_named_by_its_row(write, seed):
    rng = np.random.default_rng(seed)
    file = write(*[{"question": "它在 [这里] 吗?"}] * 20)
    rows = file.read_text(encoding="utf-8").split("}, {")
    place, fault = int(rng.integers(1, 19)), str(rng.choice(['"img_id": ', '"zh"', '"en"', '"answer"']))
    rows[place] = rows[place].replace(fault, "", 1) if fault in rows[place] else rows[place] + "}"
    file.write_text("}, {".join(rows), encoding="utf-8")
    assert failure(f"{SLAKE}:{file}").startswith(f"{file}, row {place + 1}: it is no JSON (")


@pytest.mark.parametrize("place", [0, 3, 9])
def test_text_in_another_encoding_is_named_by_its_row(write, place):
    file = write(*[{"question": "图片中包含肝脏吗?"} if number == place else {} for number in range(10)])
    file.write_text(file.read_text(encoding="utf-8"), encoding="gbk")
    assert failure(f"{SLAKE}:{file}").startswith(f"{file}, row {place + 1}: byte ")


def test_the_row_without_an_answer_is_told_and_what_to_do(write, capsys):
    file = write({}, {"qid": UNANSWERED, "answer": ""})
    load_data(f"{SLAKE}:{file}")
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"{file}, row 2: it is published without an answer")
    assert "data.max_problems=1 leaves it out of training" in said
    load_data(f"{SLAKE}:{write({})}")
    assert capsys.readouterr().err == ""


def test_the_unzipped_folder_is_a_root_too(write, tmp_path, capsys):
    write({})
    (tmp_path / "imgs/xmlab1").mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "imgs/xmlab1/source.jpg")
    for root in (tmp_path, tmp_path / "imgs"):
        assert load_data(f"{SLAKE}:{tmp_path}?images={root}")[0].images == (str(tmp_path / "imgs/xmlab1/source.jpg"),)
    assert capsys.readouterr().err == ""
    assert load_data(f"{SLAKE}:{tmp_path}")[0].images == ()
    assert f"?images={tmp_path / 'imgs'}." in capsys.readouterr().err
