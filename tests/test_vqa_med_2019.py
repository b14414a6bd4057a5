"""The tests of train and validation are on lines written after their published description; those of test on the real files."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.datasets.load import load_data
from osler.datasets.vqa_med_2019 import CATEGORIES, FILES, IMAGES, accepted
from osler.images import open_image
from osler.schema import Kind, Sample
from osler.taxonomy import QuestionType
from row_files import failure

MED = "vqa_med_2019"
TEST, ANSWERED = "VQAMed2019_Test_Questions.txt", "VQAMed2019_Test_Questions_w_Ref_Answers.txt"


@pytest.fixture
def write(tmp_path):
    """Writes lines to a file of this name; returns its path."""

    def lines_file(*lines, name="All_QA_Pairs_train.txt", encoding="utf-8"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
        return file

    return lines_file


# --- the published files ---


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "original/vqa_med_2019"


def test_the_published_test_with_its_answers(folder):
    samples = load_data(f"{MED}:{folder}")
    assert samples == load_data(f"{MED}:{folder}/{ANSWERED}")
    assert samples.counts() == {
        "n": 500,
        "images": 0,
        "by_split": {"test": 500},
        "by_modality": {"unknown": 500},
        "by_question_type": {"Anatomy identification": 250, "Disease diagnosis": 125, "Modality recognition": 125},
        "by_source": {"VQA-Med 2019": 500},
        "by_kind": {"open": 436, "yesno": 64},
        "options": {0: 500},
        "groups": 500,
    }
    assert Counter(sample.extra["category"] for sample in samples) == dict.fromkeys(CATEGORIES.values(), 125)


def test_every_published_line_comes_back(folder):
    for sample, line in zip(load_data(f"{MED}:{folder}"), (folder / ANSWERED).read_text().splitlines(), strict=True):
        assert f"{sample.group}|{sample.extra['category']}|{sample.question}|{sample.extra['answer']}" == line
        assert sample.golds[0] == sample.extra["answer"].split("#")[0]


def test_the_published_answers_that_accept_several(folder):
    samples = load_data(f"{MED}:{folder}")
    assert sum("#" in sample.extra["answer"] for sample in samples) == 12
    assert sum("(" in sample.extra["answer"] for sample in samples) == 20
    assert sum(len(sample.golds) > 1 for sample in samples) == 32
    golds = {sample.group: sample.golds for sample in samples}
    assert golds["synpic43535"] == ("heart and great vessels", "lung, mediastinum, pleura", "spine and contents")
    assert golds["synpic35171"] == (
        "(angioinvasive aspergillosis with) septic cerebral emboli",
        "angioinvasive aspergillosis with septic cerebral emboli",
        "septic cerebral emboli",
    )
    assert golds["synpic31510"] == ("(iatrogenic) pneumoperitoneum", "iatrogenic pneumoperitoneum", "pneumoperitoneum")


def test_the_published_test_without_answers_is_read_and_that_is_told(folder, capsys):
    samples = load_data(f"{MED}:{folder}/{TEST}")
    answered = load_data(f"{MED}:{folder}")
    assert [(one.group, one.question) for one in samples] == [(one.group, one.question) for one in answered]
    assert {(sample.golds, sample.kind) for sample in samples} == {(("",), Kind.OPEN)}
    assert f"{TEST}: its 500 rows have no answer" in capsys.readouterr().err


# --- rows ---


def test_every_field_of_a_row_of_one_category(write):
    file = write("synpic1|Is it a ct (with contrast)?| yes ", name="C1_Modality_train.txt")
    (found,) = load_data(f"{MED}:{file}")
    assert found == Sample(
        id="vqa_med_2019/C1_Modality_train/1",
        images=(),
        question="Is it a ct (with contrast)?",
        golds=("yes",),
        kind=Kind.YESNO,
        question_type=QuestionType.MODALITY,
        source="VQA-Med 2019",
        split="train",
        group="synpic1",
        extra={"path": "synpic1", "category": "modality", "answer": "yes"},
    )
    assert found.origin == f"{file}, row 1"


def test_an_answer_of_train_is_one_gold_as_published(write):
    (found,) = load_data(f"{MED}:{write('synpic1|what?|ct w/contrast (iv)#2')}")
    assert (found.golds, found.question_type) == (("ct w/contrast (iv)#2",), QuestionType.UNKNOWN)
    assert "category" not in found.extra


@pytest.mark.parametrize(
    ("name", "split", "question_type"),
    [
        ("C2_Plane_val.txt", "val", QuestionType.ANATOMY),
        ("C3_Organ_train.txt", "train", QuestionType.ANATOMY),
        ("C4_Abnormality_val.txt", "val", QuestionType.DISEASE),
        ("All_QA_Pairs_val.txt", "val", QuestionType.UNKNOWN),
    ],
)
def test_the_name_of_a_file_tells_split_and_category(write, name, split, question_type):
    (found,) = load_data(f"{MED}:{write('synpic1|what?|this', name=name)}")
    assert (found.split, found.question_type) == (split, question_type)


def test_each_split_of_a_folder_is_read_once(write, tmp_path, capsys):
    parts = [f"{begin}_train.txt" for begin in CATEGORIES]
    for name in ("All_QA_Pairs_train.txt", *parts, "All_QA_Pairs_val.txt", "C1_Modality_val.txt", "README.txt"):
        write("synpic1|what?|this", name=f"deep/{name}")
    write("synpic1|what?", name=f"deep/{TEST}")

    def stems():
        return {sample.id.split("/")[1] for sample in load_data(f"{MED}:{tmp_path}")}

    assert stems() == {*(name.removesuffix(".txt") for name in parts), "All_QA_Pairs_val", "VQAMed2019_Test_Questions"}
    (tmp_path / "deep/C2_Plane_train.txt").unlink()
    assert stems() == {"All_QA_Pairs_train", "All_QA_Pairs_val", "VQAMed2019_Test_Questions"}
    (tmp_path / "deep/All_QA_Pairs_train.txt").unlink()
    write("synpic1|organ|what?|this", name=f"deep/{ANSWERED}")
    capsys.readouterr()
    assert stems() == {
        "C1_Modality_train",
        "C3_Organ_train",
        "C4_Abnormality_train",
        "All_QA_Pairs_val",
        ANSWERED.removesuffix(".txt"),
    }
    assert capsys.readouterr().err == ""
    again = write("synpic1|what?|this", name="copy/All_QA_Pairs_val.txt")
    assert str(again) in failure(f"{MED}:{tmp_path}")


def test_images_that_lie_in_the_unzipped_folder_are_told(write, tmp_path, capsys):
    file = write("synpic1|what?|this", name="ImageClef-2019-VQA-Med-Training/All_QA_Pairs_train.txt")
    load_data(f"{MED}:{tmp_path}")
    assert capsys.readouterr().err == ""
    (file.parent / "Train_images").mkdir()
    for folder in (tmp_path, file.parent):
        assert load_data(f"{MED}:{folder}")[0].images == ()
        assert f"write {MED}:{folder}?images={folder}." in capsys.readouterr().err


@pytest.mark.parametrize("root", ["", "Train_images", "ImageClef-2019-VQA-Med-Training", "flat"])
def test_the_image_of_a_row(write, tmp_path, root):
    below = {"": "ImageClef-2019-VQA-Med-Training/Train_images", "ImageClef-2019-VQA-Med-Training": f"{root}/Train_images"}
    place = tmp_path / "images" / below.get(root, root)
    place.mkdir(parents=True)
    Image.new("L", (4, 3)).save(place / "synpic1.jpg")
    file = write("synpic1|what?|this")
    (found,) = load_data(f"{MED}:{file}?images={tmp_path}/images/{root}")
    assert open_image(found.images[0]).size == (4, 3)
    file = write("synpic1|what?|this", "synpic2|what?|this")
    said = failure(f"{MED}:{file}?images={tmp_path}/images/{root}")
    assert said.startswith(f"{file}, row 2: there is no image {place}/synpic2.jpg.")


def test_blank_lines_marks_and_line_ends(write):
    file = write("synpic1|what?|this", "", "synpic2|où?|là\r", "  ", encoding="utf-8-sig")
    assert [(row.group, row.golds, row.id.split("/")[-1]) for row in load_data(f"{MED}:{file}")] == [
        ("synpic1", ("this",), "1"),
        ("synpic2", ("là",), "3"),
    ]


WORD = st.text("abc ,-/", min_size=1).filter(str.strip)


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=4))
def test_what_a_reference_answer_accepts(parts):
    answer = "#".join(f"({optional}) {kept}" for optional, kept in parts)
    found = accepted(answer)
    assert len(set(found)) == len(found)
    for optional, kept in parts:
        assert {" ".join(form.split()) for form in (f"({optional}) {kept}", f"{optional} {kept}", kept)} <= set(found)


def test_an_answer_that_is_only_optional_stays():
    assert accepted("(a)") == ("(a)", "a")
    assert accepted("a##b") == ("a", "b")


# --- faults ---


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("All_QA_Pairs_train.txt", "synpic1|what?", "it has 2 fields, not 3: image|question|answer."),
        ("All_QA_Pairs_train.txt", "synpic1|what?|a|b", "it has 4 fields, not 3"),
        ("All_QA_Pairs_train.txt", "synpic1|what?| . ", "the field 'answer' is empty."),
        ("C1_Modality_val.txt", "|what?|this", "the field 'image' is empty."),
        ("C1_Modality_val.txt", "synpic1| |this", "the field 'question' is empty."),
        (TEST, "synpic1", "it has 1 fields, not 2: image|question."),
        (ANSWERED, "synpic1|what?|this", "it has 3 fields, not 4: image|category|question|answer."),
        (ANSWERED, "synpic1|organs?|what?|this", "unknown category 'organs?'. Known: modality, plane, organ, abnormality."),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(write, name, fault, message):
    good = {2: "synpic0|what?", 3: "synpic0|what?|this", 4: "synpic0|organ|what?|this"}[len(FILES[name].fields)]
    file = write(good, "", fault, good, name=name)
    said = failure(f"{MED}:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


def test_another_encoding_is_named_by_its_row(write):
    file = write("synpic1|what?|this", "synpic2|what?|crohn\u2019s disease", encoding="cp1252")
    assert failure(f"{MED}:{file}").startswith(f"{file}, row 2: it is no UTF-8 text (")


def test_an_empty_file(write):
    file = write("", " ", name=ANSWERED)
    assert failure(f"{MED}:{file}") == f"{file}: it is empty."


def test_a_file_of_another_name_says_which_there_are(write, tmp_path):
    said = failure(f"{MED}:{write('synpic1|what?|this', name='mine.txt')}")
    assert all(name in said for name in FILES)
    assert "that is none of the files of VQA-Med 2019" in failure(f"{MED}:{tmp_path}")


def test_every_published_file_has_a_folder_of_images():
    assert {form.split for form in FILES.values()} == set(IMAGES)
