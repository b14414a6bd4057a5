import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.datasets.load import load_data
from osler.datasets.vqa_rad import FILES
from osler.images import open_image
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType
from row_files import ABSENT, failure, present, write_json

RAD, MED = "osler.datasets.vqa_rad:read", "osler.datasets.vqa_rad:read_vqa_med"
ROW = {
    "qid": 1,
    "image_name": "a.jpg",
    "image_organ": "HEAD",
    "answer": "Yes",
    "answer_type": "CLOSED",
    "question_type": "PRES",
    "question": "Is it there?",
    "phrase_type": "freeform",
}


@pytest.fixture
def write(tmp_path):
    """Writes rows, numbered by their qid unless they have one, to a file of this name; returns its path."""

    def rows_file(*rows, name="trainset.json"):
        numbered = [{"qid": n} | row if isinstance(row, dict) else row for n, row in enumerate(rows, 1)]
        return write_json(tmp_path / name, numbered)

    return rows_file


def row(**fields):
    """A valid row but for `fields`; ABSENT takes a key away."""
    return present({**ROW, "qid": ABSENT} | fields)


# --- the published files ---


@pytest.fixture(scope="module")
def published(shared_data):
    """The published rows of each split, read without osler, and the folder."""
    folder = shared_data / "original/vqa_rad"
    return folder, {split: json.loads((folder / f"{split}set.json").read_text()) for split in ("train", "test")}


def test_the_published_files(published):
    folder, _ = published
    samples = load_data(f"{RAD}:{folder}")
    assert samples.counts() | {"by_question_type": None} == {
        "n": 3515,
        "images": 0,
        "by_split": {"test": 451, "train": 3064},
        "by_modality": {"unknown": 3515},
        "by_question_type": None,
        "by_source": {"VQA-RAD": 3515},
        "by_kind": {"open": 1551, "yesno": 1964},
        "options": {0: 3515},
        "groups": 314,
    }
    assert [load_data(f"{RAD}:{folder}/{name}").counts()["n"] for name in ("trainset.json", "testset.json")] == [3064, 451]
    assert samples.where(split="test").counts()["by_question_type"] == {
        "Anatomy identification": 36,
        "Disease diagnosis": 56,
        "Modality recognition": 33,
        "Other biological attributes": 137,
        "unknown": 189,
    }


def test_every_published_row_comes_back_as_it_is(published):
    folder, rows = published
    samples = {sample.extra["qid"]: sample for sample in load_data(f"{RAD}:{folder}")}
    for split, number, said in ((split, n, said) for split, these in rows.items() for n, said in enumerate(these, 1)):
        found = samples.pop(said["qid"])
        assert (found.id, found.split, found.group) == (f"vqa_rad/{said['qid']}", split, said["image_name"])
        assert (found.question, found.golds) == (said["question"], (str(said["answer"]),))
        assert (found.extra["organ"], found.extra["path"]) == (said["image_organ"], said["image_name"])
        assert found.extra["question_type"] == said["question_type"]
        assert found.origin == f"{folder}/{split}set.json, row {number}"
    assert not samples


def test_the_odd_values_of_the_published_files(published):
    """Ten answers are whole numbers, CLOSED ends in a blank twice, and 131 closed questions want neither yes nor no."""
    folder, rows = published
    said = {row["qid"]: row for row in rows["train"] + rows["test"]}
    samples = load_data(f"{RAD}:{folder}")
    numbers = [sample for sample in samples if isinstance(said[sample.extra["qid"]]["answer"], int)]
    assert Counter(sample.golds for sample in numbers) == {("4",): 2, ("2",): 4, ("12",): 4}
    assert [sample.kind for sample in samples if sample.extra["qid"] in (3371, 3372)] == [Kind.OPEN, Kind.YESNO]
    assert Counter((sample.extra["answer_type"], str(sample.kind)) for sample in samples) == {
        ("CLOSED", "yesno"): 1964,
        ("CLOSED", "open"): 131,
        ("OPEN", "open"): 1420,
    }
    prse = [sample.question_type for sample in samples if sample.extra["question_type"] == "PRSE"]
    assert prse == [QuestionType.UNKNOWN] * 2


def test_every_published_test_image_is_also_one_of_train(published):
    samples = load_data(f"{RAD}:{published[0]}")
    train, test = ({sample.cluster for sample in samples.where(split=split)} for split in ("train", "test"))
    assert (len(train), len(test), len(test - train)) == (314, 203, 0)


def test_published_rows_with_their_images(published, tmp_path):
    folder, rows = published
    here = {file.name for file in (folder / "images").iterdir()}
    kept = [said for said in rows["test"] if said["image_name"] in here]
    (tmp_path / "testset.json").write_text(json.dumps(kept))
    samples = load_data(f"{RAD}:{tmp_path}/testset.json?images={folder}/images")
    assert len(kept) == len(samples) == 105
    assert samples[0].images == (f"{folder}/images/{kept[0]['image_name']}",)
    assert min(open_image(samples[0].images[0]).size) > 100
    number = next(n for n, said in enumerate(rows["test"], 1) if said["image_name"] not in here)
    said = failure(f"{RAD}:{folder}/testset.json?images={folder}/images")
    assert said.startswith(f"{folder}/testset.json, row {number}: there is no image ")


def test_vqa_med_2019_in_this_schema(shared_data):
    folder = shared_data / "original/vqa_med_2019_in_vqa_rad_schema"
    counts = load_data(f"{MED}:{folder}").counts()
    assert (counts["by_split"], counts["by_source"]) == ({"test": 2000, "train": 12792}, {"VQA-Med 2019": 14792})
    assert (counts["by_kind"], counts["groups"]) == ({"open": 13296, "yesno": 1496}, 3700)
    assert counts["by_question_type"] == {
        "Anatomy identification": 7400,
        "Disease diagnosis": 3692,
        "Modality recognition": 3700,
    }
    assert "row 1: the field 'image_organ' is missing." in failure(f"{RAD}:{folder}")


# --- rows ---


def test_every_field_of_a_row(write):
    file = write(row(answer=4, answer_type="open ", question_type="SIZE, PRES", question=" How\tmany? ", note=[1]))
    (found,) = load_data(f"{RAD}:{file}")
    assert found == Sample(
        id="vqa_rad/1",
        images=(),
        question=" How\tmany? ",
        golds=("4",),
        kind=Kind.OPEN,
        modality=Modality.UNKNOWN,
        question_type=QuestionType.ATTRIBUTE,
        source="VQA-RAD",
        split="train",
        group="a.jpg",
        group_is_patient=True,
        extra={
            "qid": 1,
            "question_type": "SIZE, PRES",
            "answer_type": "OPEN",
            "phrase_type": "freeform",
            "organ": "HEAD",
            "path": "a.jpg",
            "note": [1],
        },
    )
    assert found.origin == f"{file}, row 1"


@pytest.mark.parametrize(
    ("answer", "answer_type", "kind", "gold"),
    [
        ("Yes", "CLOSED", Kind.YESNO, "Yes"),
        (" no. ", "CLOSED ", Kind.YESNO, " no. "),
        ("Maybe", "CLOSED", Kind.OPEN, "Maybe"),
        ("yes", "OPEN", Kind.OPEN, "yes"),
        (0, "OPEN", Kind.OPEN, "0"),
        (3.5, "OPEN", Kind.OPEN, "3.5"),
    ],
)
def test_kind_and_gold_of_a_row(write, answer, answer_type, kind, gold):
    (found,) = load_data(f"{RAD}:{write(row(answer=answer, answer_type=answer_type))}")
    assert (found.kind, found.golds) == (kind, (gold,))


@pytest.mark.parametrize(
    ("label", "question_type"),
    [
        ("ABN, POS", QuestionType.UNKNOWN),
        ("PRES, POS", QuestionType.ATTRIBUTE),
        ("no such type", QuestionType.UNKNOWN),
        ("", QuestionType.UNKNOWN),
        ("ORGAN", QuestionType.ANATOMY),
    ],
)
def test_a_question_type_that_is_not_told_is_unknown_and_counted(write, label, question_type):
    samples = load_data(f"{RAD}:{write(row(question_type=label))}")
    assert samples.counts()["by_question_type"] == {question_type.value: 1}


def test_the_split_of_a_row(write, tmp_path):
    """The files that most papers use name it themselves; in the one that the authors publish, the phrase type does."""
    types = ("freeform", "test_freeform", "para", "test_para")
    for name in ("VQA_RAD Dataset Public.json", "any.json"):
        samples = load_data(f"{RAD}:{write(*(row(phrase_type=phrase) for phrase in types), name=name)}")
        assert [sample.split for sample in samples] == ["train", "test", "train", "test"]
    for name, split in (("trainset.json", "train"), ("testset.json", "test"), ("mine.json", None)):
        assert [sample.split for sample in load_data(f"{RAD}:{write(row(), name=name)}")] == [split]


def test_of_a_folder_only_files_of_published_names_are_rows(write, tmp_path):
    write(row(qid=1), name="deep/trainset.json")
    write(row(qid=2), name="deep/testset.json")
    write("yes", "no", name="deep/answer_all_list.json")
    assert {sample.id: sample.split for sample in load_data(f"{RAD}:{tmp_path}")} == {"vqa_rad/1": "train", "vqa_rad/2": "test"}
    (tmp_path / "deep/trainset.json").unlink()
    (tmp_path / "deep/testset.json").unlink()
    said = failure(f"{RAD}:{tmp_path}")
    assert said.startswith(f"{tmp_path}: the folder holds none of ")
    assert all(name in said for name in FILES)


def test_ids_across_the_files(write, tmp_path):
    write(row(qid=7), name="trainset.json")
    write(row(qid=8), row(qid=7), name="testset.json")
    said = failure(f"{RAD}:{tmp_path}")
    assert "'vqa_rad/7' is taken by" in said
    assert "testset.json, row 2" in said
    assert "trainset.json, row 1" in said
    assert [sample.id for sample in load_data(f"{MED}:{tmp_path}")] == ["testset/8", "testset/7", "trainset/7"]


def test_the_image_of_a_row(write, tmp_path):
    odd = "a b & c #1 100% é.jpg"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / odd)
    file = write(row(image_name=odd))
    assert open_image(load_data(f"{RAD}:{file}?images={tmp_path}")[0].images[0]).size == (4, 3)


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *[(row(**{name: ABSENT}) | {"qid": 3}, f"the field {name!r} is missing.") for name in ROW if name != "qid"],
        *[(row(qid=3, **{name: 7}), f"the field {name!r}: ") for name in ("question", "image_name", "phrase_type")],
        *[(row(qid=3) | {name: " "}, f"the field {name!r} is empty.") for name in ("question", "image_name", "qid", "answer")],
        (row(qid=3, answer="."), "the field 'answer' is empty."),
        *[(row(answer=value), "the field 'answer': ") for value in (None, True, ["a"], {}, float("nan"), float("inf"))],
        (row(qid=True), "the field 'qid': "),
        (row(qid=2), "the id 'vqa_rad/2' is taken by "),
        (row(answer_type="CLOSD"), "unknown answer type 'CLOSD'. Did you mean 'CLOSED'?"),
        (["a"], "it is no JSON object"),
        ("a", "it is no JSON object"),
        (None, "it is no JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, fault, message):
    file = write(row(), row(), fault, row())
    said = failure(f"{RAD}:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


def test_a_qid_is_needed(write):
    file = write(row())
    file.write_text(json.dumps([row(qid=1), row()]))
    assert failure(f"{RAD}:{file}") == f"{file}, row 2: the field 'qid' is missing."


def test_an_image_that_is_absent(write, tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    file = write(row(), row(image_name="b.jpg"))
    assert failure(f"{RAD}:{file}?images={tmp_path}").startswith(f"{file}, row 2: there is no image {tmp_path / 'b.jpg'}.")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_breaks_off_is_named_by_its_row(write, seed, indent):
    """Whatever is cut out of a row, the error names that row."""
    rng = np.random.default_rng(seed)
    file, rows = write(), [row(qid=n, question="Is [it], {there}?") for n in range(1, 31)]
    texts = [json.dumps(one, indent=indent) for one in rows]
    place, fault = int(rng.integers(30)), rng.choice(['"qid"', '"question":', "{\n" if indent else '{"', '"HEAD"'])
    texts[place] = texts[place].replace(fault, "", 1)
    file.write_text(f"[\n{', '.join(texts)}]\n")
    said = failure(f"{RAD}:{file}")
    assert said.startswith(f"{file}, row {place + 1}: it is no JSON (")
    assert said.endswith("It should be one JSON array of rows, in UTF-8.")


@pytest.mark.parametrize("seed", range(10))
def test_a_file_that_ends_too_early(write, seed):
    file = write(*[row() for _ in range(50)])
    text = file.read_text()
    begins = [at for at in range(len(text)) if text.startswith("{", at)]
    cut = int(np.random.default_rng(seed).integers(begins[0] + 1, begins[-1]))
    file.write_text(text[:cut])
    begun = sum(at < cut for at in begins)
    after = "}," in text[begins[begun - 1] : cut]  # the row is whole, and the next one has not begun
    assert failure(f"{RAD}:{file}").startswith(f"{file}, row {begun + after}: it is no JSON (")


def test_a_file_without_its_last_bracket(write):
    file = write(row(), row())
    file.write_text(file.read_text().removesuffix("]"))
    assert failure(f"{RAD}:{file}").startswith(f"{file}, row 2: it is no JSON (")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ": it is no JSON ("),
        (b" \n", ": it is no JSON ("),
        (b"{}", ": it holds no JSON array."),
        (b'{"qid": 1}\n{"qid": 2}\n', ": it is no JSON ("),
        (b"not [json]", ": it is no JSON ("),
        (b'[{"qid": 1}, {"qid": "\xff"}, {"qid": 3}]', ", row 2: byte 22 is no utf-8 text."),
    ],
)
def test_a_file_that_is_no_array(tmp_path, data, message):
    (tmp_path / "trainset.json").write_bytes(data)
    assert failure(f"{RAD}:{tmp_path}").startswith(f"{tmp_path / 'trainset.json'}{message}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_unicode_encodings_are_read(write, encoding):
    file = write(row(question="Où est-ce ?"))
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert load_data(f"{RAD}:{file}")[0].question == "Où est-ce ?"


def test_half_a_surrogate_is_no_text(write):
    file = write(row(), row())
    file.write_text(json.dumps([row(qid=1), row(qid=2, answer="\ud800")]))
    assert failure(f"{RAD}:{file}").startswith(f"{file}, row 2: it escapes half a surrogate pair")


def test_the_file_may_have_any_name(write, tmp_path):
    assert len(load_data(f"{RAD}:{write(row(), name='odd name [1].json')}")) == 1
    assert Path(tmp_path / "odd name [1].json").is_file()


@pytest.mark.parametrize("blank", [" ", "_", "%20"])
def test_the_public_file_as_downloads_name_it(write, tmp_path, blank):
    write(row(qid=1), row(qid=2, phrase_type="test_freeform"), name=f"VQA_RAD{blank}Dataset{blank}Public.json")
    assert [sample.split for sample in load_data(f"vqa_rad:{tmp_path}")] == ["train", "test"]


@pytest.mark.parametrize("name", ["VQA_RAD Image Folder", "images"])
def test_the_unzipped_folder_is_a_root_too(write, tmp_path, name):
    write(row(qid=1))
    (tmp_path / name).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / name / ROW["image_name"])
    for root in (tmp_path, tmp_path / name):
        assert load_data(f"vqa_rad:{tmp_path}?images={root}")[0].images == (str(tmp_path / name / ROW["image_name"]),)
