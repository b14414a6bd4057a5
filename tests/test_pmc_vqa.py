"""PMC-VQA's files are not at hand: the rows here are written after the columns and blanks that its data card documents."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.datasets.load import load_data
from osler.datasets.pmc_vqa import FILES, MOST_LEFT_OUT
from osler.images import open_image
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType
from row_files import ABSENT, failure

PMC, USABLE = "osler.datasets.pmc_vqa:read", "osler.datasets.pmc_vqa:read_usable"
ONE = {
    "Figure_path": "PMC1064097_F1.jpg",
    "Question": " What is the uptake pattern in the breast? ",
    "Answer": " Focal uptake pattern ",
    "Choice A": " A:Diffuse uptake pattern ",
    "Choice B": " B:Focal uptake pattern ",
    "Choice C": " C:No uptake pattern ",
    "Choice D": " D:Cannot determine from the information given ",
    "Answer_label": "B",
}
TWO = {
    "index": "62",
    "Figure_path": "PMC8253867_Fig2_41.jpg",
    "Caption": "CT pulmonary angiogram reveals encasement, and displacement, of the artery.",
    "Question": " What is the name of the artery encased and displaced in the image? ",
    "Choice A": " A: Right Coronary Artery ",
    "Choice B": " B: Left Anterior Descending Coronary Artery ",
    "Choice C": " C: Circumflex Coronary Artery ",
    "Choice D": " D: Superior Mesenteric Artery ",
    "Answer": "B",
    "split": "test",
}


def as_csv(rows, columns) -> str:
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return lines.getvalue()


@pytest.fixture
def write(tmp_path):
    """Writes rows of version 1, or of 2 where the name says so, each valid but for the given fields; returns the path."""

    def rows_file(*rows, name="train.csv", encoding="utf-8"):
        file, valid = tmp_path / name, TWO if "_2" in name else ONE
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = [column for column in valid if not any(row.get(column) is ABSENT for row in rows)]
        file.write_bytes(as_csv([valid | row for row in rows], columns).encode(encoding))
        return file

    return rows_file


# --- rows ---


def test_every_field_of_a_row_of_version_1(write):
    file = write({})
    (found,) = load_data(f"{PMC}:{file}")
    assert found == Sample(
        id="pmc_vqa/train/1",
        images=(),
        question="What is the uptake pattern in the breast?",
        golds=("Focal uptake pattern",),
        options=(
            "Diffuse uptake pattern",
            "Focal uptake pattern",
            "No uptake pattern",
            "Cannot determine from the information given",
        ),
        gold_index=1,
        kind=Kind.CHOICE,
        modality=Modality.UNKNOWN,
        question_type=QuestionType.UNKNOWN,
        source="PMC-VQA",
        split="train",
        group="PMC1064097",
        group_is_patient=False,
        extra={"Answer_label": "B", "path": "PMC1064097_F1.jpg"},
    )
    assert found.origin == f"{file}, row 1"


def test_a_row_of_version_2_has_a_letter_for_its_answer_and_a_caption(write):
    (found,) = load_data(f"{PMC}:{write({}, name='test_2.csv')}")
    assert (found.golds, found.gold_index, found.split) == (("Left Anterior Descending Coronary Artery",), 1, "test")
    assert (found.id, found.group, len(found.options)) == ("pmc_vqa/test_2/1", "PMC8253867", 4)
    assert found.extra == {"index": "62", "Caption": TWO["Caption"], "split": "test", "path": "PMC8253867_Fig2_41.jpg"}


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=4, max_size=4),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(0, 3),
)
def test_whatever_the_cells_hold_comes_back_but_for_outer_blanks_and_the_letter(tmp_path_factory, texts, question, gold):
    """Quotes, commas, line ends, marks of byte order, letters with colons: of the options and of the question."""
    options, question = [f"x{text}x" for text in texts], f"?{question}?"
    fields = {f"Choice {letter}": f" {letter} :  {text}\t" for letter, text in zip("ABCD", options, strict=True)}
    row = TWO | fields | {"Question": f"\n{question} ", "Answer": f" {'ABCD'[gold]}", "Caption": f"\n\ufeff{question}"}
    file = tmp_path_factory.mktemp("cells") / "train_2.csv"
    file.write_bytes(as_csv([TWO, row, TWO], TWO).encode())
    _, found, last = load_data(f"{PMC}:{file}")
    assert (found.options, found.gold_index, found.golds) == (tuple(options), gold, (options[gold],))
    assert (found.question, found.extra["Caption"], last.id) == (question, row["Caption"], "pmc_vqa/train_2/3")


@pytest.mark.parametrize("letter", "ABCD")
def test_letter_or_text_or_both_tell_the_gold(write, letter):
    text = ONE[f"Choice {letter}"].strip()[2:]
    ways = [
        {"Answer": f" {text} ", "Answer_label": letter},
        {"Answer": f"'{text.upper()}.'", "Answer_label": f" {letter} "},
        {"Answer": "", "Answer_label": letter},
        {"Answer": text, "Answer_label": ""},
        {"Answer": text, "Answer_label": "'"},  # so in ten published rows of test.csv
    ]
    assert [found.gold_letter for found in load_data(f"{PMC}:{write(*ways)}")] == [letter] * 5
    without = [{"Answer": f" {letter} ", "Answer_label": ABSENT}, {"Answer": text, "Answer_label": ABSENT}]
    assert [found.gold_letter for found in load_data(f"{PMC}:{write(*without)}")] == [letter] * 2


def test_words_that_other_readers_take_for_missing_stay_text(write):
    row = {"Answer": "nan", "Choice A": " A:None ", "Choice B": " B:nan ", "Choice C": "C:NA", "Choice D": "D:N/A"}
    (found,) = load_data(f"{PMC}:{write(row)}")
    assert (found.options, found.golds) == (("None", "nan", "NA", "N/A"), ("nan",))


def test_only_the_letter_of_its_place_is_taken_off_an_option(write):
    row = {"Choice A": "A: B: x", "Choice B": "Focal uptake pattern", "Choice C": "C:c:x", "Choice D": "D. x"}
    (found,) = load_data(f"{PMC}:{write(row)}")
    assert found.options == ("B: x", "Focal uptake pattern", "c:x", "D. x")


def test_options_that_are_empty_at_the_end_are_none(write):
    last, two = {"Choice D": " D: "}, {"Choice D": "", "Choice C": "C:."}
    assert load_data(f"{PMC}:{write(last, two)}").counts()["options"] == {2: 1, 3: 1}


def test_options_that_are_the_same_are_kept_and_the_letter_tells_which(write):
    row = {"Choice C": "C:Focal uptake pattern", "Answer_label": "C"}
    (found,) = load_data(f"{PMC}:{write(row)}")
    assert (found.options[1], found.options[2], found.gold_index) == ("Focal uptake pattern", "Focal uptake pattern", 2)
    assert "fit 2 of the options" in failure(f"{PMC}:{write(row | {'Answer_label': ''})}")


@pytest.mark.parametrize(
    ("figure", "group"),
    [("PMC1_F1.jpg", "PMC1"), ("sub/PMC12_FIG1.jpg", "PMC12"), ("mine.jpg", "mine.jpg"), (" PMC7_Fig2_41.jpg ", "PMC7")],
)
def test_the_figures_of_an_article_belong_together(write, figure, group):
    (found,) = load_data(f"{PMC}:{write({'Figure_path': figure})}")
    assert (found.group, found.extra["path"]) == (group, figure.strip())


def test_the_images(write, tmp_path):
    odd = "PMC1_a & b #1 100% é.jpg"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / odd)
    file = write({"Figure_path": odd}, {"Figure_path": odd}, {})
    for name in (PMC, USABLE):
        said = failure(f"{name}:{file}?images={tmp_path}")
        assert said.startswith(f"{file}, row 3: there is no image {tmp_path}/PMC1064097_F1.jpg.")
    file = write({"Figure_path": f" {odd}"})
    assert open_image(load_data(f"{PMC}:{file}?images={tmp_path}")[0].images[0]).size == (4, 3)


# --- files ---


def test_the_split_is_told_by_the_file_else_by_the_row(write):
    names = ["train.csv", "test.csv", "test_clean.csv", "train_10k.csv", "val.csv", "mine.csv"]
    names += ["train2.csv", "train (1).csv", "valve.csv", "trainees.csv", "testé.csv", "my_test.csv"]
    splits = [load_data(f"{PMC}:{write({}, name=name)}")[0].split for name in names]
    assert splits == ["train", "test", "test", "train", "val", None, "train", "train", None, None, None, None]
    assert load_data(f"{PMC}:{write({}, name='valve_2.csv')}")[0].split == "test"  # as its row says
    rows = load_data(f"{PMC}:{write({}, {'split': 'train'}, {'split': 'all'}, name='mine_2.csv')}")
    assert [row.split for row in rows] == ["test", "train", None]


@pytest.mark.parametrize("version", [1, 2])
def test_below_a_folder_the_files_of_one_version_are_read(write, tmp_path, version):
    for name in [name for name, of in FILES.items() if of == version]:
        write({}, {}, name=f"deep/{name}")
    write({}, name="deep/test_clean.csv")
    write({}, name="deep/oa_comm_use_file_list.csv").write_text("File,Article\n")
    assert load_data(f"{PMC}:{tmp_path}").counts()["by_split"] == {"test": 2, "train": 2}


def test_a_folder_of_both_versions_or_of_none_is_refused(write, tmp_path):
    write({}, name="test_clean.csv")
    said = failure(f"{PMC}:{tmp_path}")
    assert said == f"{tmp_path}: the folder holds none of {', '.join(FILES)}. Name the file itself."
    for name in ("train.csv", "test_2.csv"):
        write({}, name=name)
    assert failure(f"{PMC}:{tmp_path}").startswith(f"{tmp_path}: the folder holds both versions, test_2.csv, train.csv.")


def test_line_ends_marks_blank_lines_and_blanks_in_the_header(write):
    file = write({}, {"Question": "two\r\nlines"}, encoding="utf-8-sig")
    expected = load_data(f"{PMC}:{file}")
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in data
    file.write_bytes(data.replace(b"\r\n", b"\n\n").replace(b"two\n\n", b"two\r\n").replace(b",Choice A", b", Choice A "))
    found = load_data(f"{PMC}:{file}")
    assert list(found) == list(expected)
    assert [row.origin for row in found] == [f"{file}, row 1 (to line 3)", f"{file}, row 2 (to line 6)"]


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"Answer_label": "C"}, "its letter 'C' and its text ' Focal uptake pattern ' fit none of the options"),
        ({"Answer": "Other"}, "its letter 'B' and its text 'Other' fit none"),
        ({"Answer_label": "E"}, "its letter 'E'"),
        ({"Answer_label": "AB"}, "its letter 'AB'"),
        ({"Answer_label": "b"}, "its letter 'b'"),
        ({"Answer_label": "'", "Answer": "Other"}, "fit none"),
        ({"Answer_label": "", "Answer": ""}, "its letter '' and its text '' fit 4 of the options"),
        ({"Answer_label": "D", "Answer": "", "Choice D": "D:"}, "its letter 'D' and its text '' fit none"),
        ({"Choice C": " B:No uptake pattern "}, "the option ' B:No uptake pattern ' stands in the place of C."),
        ({"Choice A": " A: "}, "an option before the last is empty"),
        ({"Choice B": "B:", "Choice C": "", "Choice D": "", "Answer": "", "Answer_label": "A"}, "or all but one are"),
        ({"Question": " "}, "the field 'Question' is empty."),
        ({"Figure_path": ""}, "the field 'Figure_path' is empty."),
    ],
)
def test_a_broken_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault, {})
    said = failure(f"{PMC}:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said
    assert "pmc_vqa_usable" in said


def test_a_broken_row_after_rows_of_many_lines_is_named_by_its_line_too(write):
    file = write({"Caption": "a\nb\nc"}, {}, {"Answer": "E", "Question": "one\ntwo"}, {}, name="train_2.csv")
    assert failure(f"{PMC}:{file}").startswith(f"{file}, row 3 (to line 7): its letter '' and its text 'E' fit none")


def test_broken_rows_are_left_out_where_that_is_asked_for_and_counted(write, capsys):
    rows = [{} for _ in range(round(2 / MOST_LEFT_OUT))]
    rows[4], rows[10] = {"Answer_label": "'", "Answer": "?"}, {"Answer_label": "D"}
    file = write(*rows)
    samples = load_data(f"{USABLE}:{file}")
    assert (len(samples), samples[4].id, samples[9].id) == (len(rows) - 2, "pmc_vqa/train/6", "pmc_vqa/train/12")
    said = capsys.readouterr().err
    assert said.startswith(f"2 of the 2,000 rows of {file} are broken and left out. The first: {file}, row 5: its letter")
    write(*rows[:-1])
    assert failure(f"{USABLE}:{file}").startswith(
        f"2 of the 1,999 rows of {file} are broken, too many to leave out. The first: "
    )
    samples = load_data(f"{USABLE}:{write({})}")
    assert (len(samples), capsys.readouterr().err) == (1, "")


@pytest.mark.parametrize("column", [*(name for name in ONE if name != "Answer_label")])
def test_a_column_that_is_missing_is_named(write, column):
    file = write({column: ABSENT})
    assert failure(f"{PMC}:{file}").startswith(f"{file}: it has no column {column!r}, but ")


@pytest.mark.parametrize("again", [b"Answer", b" Figure_path ", b"Caption"])
def test_a_column_that_is_named_twice_is_refused(write, again):
    file = write({}, name="test_2.csv")
    head, _, rows = file.read_bytes().partition(b"\r\n")
    file.write_bytes(head + b"," + again + b"\r\n" + rows.rstrip() + b",A\r\n")
    name = again.decode().strip()
    assert failure(f"{PMC}:{file}") == f"{file}: its header names the column {name!r} twice. Keep one of the two."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"PMC3_F1.jpg,", b"", ", row 3: it has 7 fields, the header 8. "),
        (b"PMC3_F1.jpg,", b'"PMC3_F1.jpg,', ", row 3 (to line 5): it has 1 fields, the header 8. "),
        (b"PMC3_F1.jpg,", b"PMC3\xff.jpg,", ", row 3: from line 4 on it is no CSV in UTF-8 ('utf-8' codec"),
        (b"PMC3_F1.jpg,", b"x" * 200_000, ", row 3: from line 4 on it is no CSV in UTF-8 (field larger"),
        (b"Figure_path", b"\xff", ": from line 1 on it is no CSV in UTF-8 ("),
    ],
)
def test_a_file_that_breaks_is_named_by_the_row_at_which_it_does(write, old, new, message):
    file = write({}, {}, {"Figure_path": "PMC3_F1.jpg"}, {})
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    for name in (PMC, USABLE):
        assert failure(f"{name}:{file}").startswith(f"{file}{message}")


def test_a_file_of_nothing(write):
    file = write()
    assert len(load_data(f"{PMC}:{file}")) == 0
    file.write_bytes(b"")
    assert failure(f"{PMC}:{file}") == f"{file}: it is empty."


@pytest.mark.parametrize(("name", "folder"), [("train.csv", "images"), ("test_2.csv", "figures")])
def test_the_unzipped_folder_is_a_root_too(write, tmp_path, name, folder):
    figure = (TWO if "_2" in name else ONE)["Figure_path"].strip()
    for place in ("images", "figures"):
        (tmp_path / place).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / folder / figure)
    file = write({}, name=name)
    for root in (tmp_path, tmp_path / folder):
        assert load_data(f"{PMC}:{file}?images={root}")[0].images == (str(tmp_path / folder / figure),)


def test_where_both_versions_are_one_file_to_name_is_told(write, tmp_path):
    write({}, name="train.csv")
    write({}, name="test_2.csv")
    assert f"Name one file, as {PMC}:{tmp_path / 'test_2.csv'}, or move" in failure(f"{PMC}:{tmp_path}")
