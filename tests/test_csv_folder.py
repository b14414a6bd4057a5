"""A CSV of one's own and a folder of images; and what a column can be, for Hugging Face data sets too."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.datasets.columns import columns_of, manifest_row
from osler.datasets.lettered import without_letters
from osler.datasets.load import DataSpec, load_data, parse_spec
from osler.datasets.questions import list_in, told_place
from osler.errors import DataError
from osler.images import open_image
from osler.schema import LETTERS, Kind, Sample
from osler.taxonomy import Modality, QuestionType
from row_files import failure

ROW = {"id": "", "image": "x.png", "question": "Which organ is enlarged?", "A": "Liver", "B": "Spleen", "C": "", "answer": "B"}


@pytest.fixture
def write(tmp_path):
    """Writes rows, each valid but for the given fields and its id its place, to a CSV beside x.png; returns its path."""
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png")

    def rows_file(*rows, name="rows.csv", encoding="utf-8"):
        full = [ROW | {"id": f"q{n}"} | row for n, row in enumerate(rows, 1)]
        columns = list(dict.fromkeys(column for row in full for column in row))
        lines = io.StringIO(newline="")
        writer = csv.writer(lines)
        writer.writerow(columns)
        writer.writerows([row.get(column, "") for column in columns] for row in full)
        (tmp_path / name).write_bytes(lines.getvalue().encode(encoding))
        return tmp_path / name

    return rows_file


# --- rows ---


def test_every_field_of_a_row(write, tmp_path):
    row = {
        "image": "x.png; x.png",
        "question": "Is it\nlarge?",
        "A": "Yes",
        "B": "No",
        "answer": "no",
        "modality": "MR",
        "question_type": "Disease Diagnosis",
        "split": "val",
        "patient": "p7",
        "rationale": "It is small.",
        "language": "de",
        "kind": "choice",
        "source": "ward 3",
        "site": "north",
    }
    file = write({}, row, encoding="utf-8-sig")
    _, found = load_data(f"csv:{file}")
    assert found == Sample(
        id="q2",
        images=(str(tmp_path / "x.png"),) * 2,
        question="Is it\nlarge?",
        golds=("No",),
        options=("Yes", "No"),
        gold_index=1,
        kind=Kind.CHOICE,
        rationale="It is small.",
        modality=Modality.MRI,
        question_type=QuestionType.DISEASE,
        source="ward 3",
        split="val",
        group="p7",
        group_is_patient=True,
        language="de",
        extra={"site": "north"},
    )
    assert found.origin == f"{file}, row 2 (to line 4)"


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=2, max_size=10
    ),
    gold=st.integers(0, 9),
)
def test_whatever_the_cells_hold_comes_back(tmp_path_factory, texts, gold):
    options = [f"{n} {text}!" for n, text in enumerate(texts)]
    gold %= len(options)
    row = {"image": "x.png", "question": f"?{texts[0]}", **dict(zip(LETTERS, options, strict=False)), "answer": options[gold]}
    folder = tmp_path_factory.mktemp("cells")
    Image.new("RGB", (2, 2)).save(folder / "x.png")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row.keys(), row.values()])
    (found,) = load_data(f"csv:{folder}/a.csv")
    assert (found.id, found.question, found.options, found.gold_index) == ("a/1", row["question"], tuple(options), gold)


def test_columns_of_any_name(tmp_path, write):
    text = "Datei,Frage,Befund,Label,Patient\nx.png,Was?,egal,Leber,7\n"
    (tmp_path / "a.csv").write_text(text)
    columns = {"image": "Datei", "question": "Frage", "answer": "Label"}
    (found,) = load_data({"name": "csv", "path": f"{tmp_path}/a.csv", "columns": columns})
    assert (found.question, found.golds, found.group, found.group_is_patient) == ("Was?", ("Leber",), "7", True)
    assert found.extra == {"Befund": "egal"}
    same = "{name: csv, path: %s, columns: {image: Datei, question: Frage, answer: Label, group: Patient}}" % (
        tmp_path / "a.csv"
    )
    assert load_data(same)[0].group_is_patient is False
    said = failure(f"csv:{tmp_path}/a.csv")
    assert said.startswith(f"{tmp_path}/a.csv: it has no column 'question', but 'Datei', 'Frage', ")
    assert "columns: {question: ...}" in said


def test_a_column_that_gave_its_name_away_is_kept_under_another(tmp_path, write):
    (tmp_path / "a.csv").write_text("image,question,answer,label\nx.png,What?,raw,liver\n")
    (found,) = load_data({"name": "csv", "path": f"{tmp_path}/a.csv", "columns": {"answer": "label"}})
    assert (found.golds, found.extra) == (("liver",), {"column_answer": "raw"})


def test_names_of_columns_in_either_case(tmp_path, write):
    (tmp_path / "a.csv").write_text("Image,QUESTION, a ,b,Answer,Question Type\nx.png,Which?,l,r,b,dd\n")
    (found,) = load_data(f"csv:{tmp_path}/a.csv")
    assert (found.options, found.gold_index, found.question_type) == (("l", "r"), 1, QuestionType.DISEASE)


def test_options_in_one_column(tmp_path, write):
    (tmp_path / "a.csv").write_text(
        "image,question,options,answer,A\n"
        'x.png,Which?,left|right,right,1\nx.png,Which?,"[""l|m"", ""r""]",A,\nx.png,Is it?,,yes,3\n'
    )
    one, two, three = load_data(f"csv:{tmp_path}/a.csv")
    assert (one.options, one.gold_index, one.extra) == (("left", "right"), 1, {"A": "1"})
    assert (two.options, two.golds) == (("l|m", "r"), ("l|m",))
    assert (three.options, three.kind) == ((), Kind.YESNO)


def test_the_gold_by_its_place(write, tmp_path):
    rows = [{"answer": "", "answer_index": "1"}, {"answer": "A", "answer_index": "0"}]
    assert [row.gold_index for row in load_data(f"csv:{write(*rows)}")] == [1, 0]
    assert "its golds disagree: answer 'B' but answer_index 0" in failure(f"csv:{write({'answer_index': '0'})}")
    for bad in ("-1", "1.0", "x", "²"):
        assert "'answer_index' should be a whole number from 0" in failure(f"csv:{write({'answer_index': bad})}")
    assert "answer_index 2 is none of the 2 options" in failure(f"csv:{write({'answer': '', 'answer_index': '2'})}")


def test_images_with_odd_names_and_a_root(write, tmp_path):
    root, odd = tmp_path / "root #1?", "a;b & c 100% é.png"
    root.mkdir()
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(root / odd)
    Image.new("RGB", (5, 5)).save(root / "y.png")
    file = write({"image": odd}, {"image": "y.png;y.png"})
    one, two = load_data(f"csv:{file}?images={root}")
    assert open_image(one.images[0]).size == (4, 3)
    assert two.images == (str(root / "y.png"),) * 2
    assert failure(f"csv:{file}").startswith(f"{file}, row 1: there is no image {tmp_path}/a.")


def test_labels_that_are_not_known_count_as_unknown_and_are_told(write, capsys):
    file = write({"modality": "PET"}, {"modality": "ct"}, {"modality": "PET", "question_type": "odd"}, {"modality": ""})
    rows = load_data(f"csv:{file}")
    assert [row.modality for row in rows] == [Modality.UNKNOWN, Modality.CT, Modality.UNKNOWN, Modality.UNKNOWN]
    assert rows[2].extra == {"modality_as_written": "PET", "question_type_as_written": "odd"}
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"{file}: the modality of 2 rows is not known and counts as unknown: 'PET' (2).",
        f"{file}: the question type of 1 row is not known and counts as unknown: 'odd' (1).",
    ]


def test_what_the_taxonomy_says_is_unknown_is_not_told(write, capsys):
    assert load_data(f"csv:{write({'modality': 'Radiology (modality not stated)'})}")[0].modality == Modality.UNKNOWN
    assert capsys.readouterr().err == ""


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"id": "q1"}, "the id 'q1' is taken by"),
        ({"question": ""}, "'question'"),
        ({"question": "nan"}, "the field 'question' (column 'question') is NaN"),
        ({"id": "NaN"}, "the field 'id' (column 'id') is NaN"),
        ({"image": "nan"}, "the field 'image' (column 'image') is NaN"),
        ({"rationale": " nan "}, "the field 'rationale' (column 'rationale') is NaN"),
        (
            {"A": "", "B": ""},
            "its answer 'B' is the letter of an option, but its options (A, B, C) are empty. Fill them in, or",
        ),
        ({"A": "", "B": "", "answer": "(b)"}, "its answer '(b)' is the letter of an option"),
        ({"A": "", "B": "", "answer": "B) Spleen"}, "its answer 'B) Spleen' is the letter of an option"),
        ({"A": "B) Spleen", "B": "A) Liver"}, "its options carry the letters B, A, not A, B, ... in turn"),
        ({"A": "A) Liver", "B": "B) Spleen", "answer": "A) Spleen"}, "the gold 'A) Spleen' is not among the options"),
        ({"image": ""}, "the field 'image' is missing or empty"),
        ({"image": "x.png;"}, "the field 'image' is missing or empty"),
        ({"image": "y.png"}, "there is no image"),
        ({"answer": ""}, "it has no gold"),
        ({"answer": "D"}, "the gold letter D is not among the 2 options"),
        ({"answer": "Kidney"}, "the gold 'Kidney' is not among the options"),
        ({"answer": "nan"}, "the gold 'nan' is not among the options"),
        ({"answer": "NaN", "A": "", "B": ""}, "the field 'answer' is NaN"),
        ({"A": ""}, "its option A is empty, but a later one is not"),
        ({"B": ""}, "the gold letter B is not among the 1 options"),
        ({"A": "B", "B": "A"}, "the answer 'B' is the letter of one option and the text of another"),
        ({"A": "spleen."}, "two of its options are the same"),
        ({"split": "validation"}, "unknown split 'validation'. Known: test, train, val. Write 'val'."),
        ({"kind": "open"}, "the kind 'open' does not go with"),
        ({"patient": "p", "group": "g"}, "it has both a patient and a group"),
    ],
)
def test_a_broken_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault)
    said = failure(f"csv:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"imgae": "image"}, "columns: unknown name 'imgae'. Did you mean 'image'"),
        ({"image": "imagge"}, "columns: image is said to be 'imagge'. unknown column 'imagge'. Did you mean 'image'"),
        ({}, "columns: it is empty"),
        ({"image": 3}, "the field 'columns'"),
    ],
)
def test_columns_that_cannot_be(write, columns, message):
    assert message in failure({"name": "csv", "path": str(write({})), "columns": columns})


@pytest.mark.parametrize("name", ["jsonl", "medr1", "tsv", "conversations", "phantoms"])
def test_other_data_sets_take_no_columns(name):
    with pytest.raises(DataError, match="unknown key 'columns'"):
        parse_spec({"name": name, "columns": {"image": "a"}})
    assert parse_spec({"name": "csv", "columns": {"image": "a"}}) == DataSpec("csv", columns={"image": "a"})


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(DataError, match=r"its columns 'Image' and 'image' are both image\. Name one"):
        columns_of(["Image", "image", "question", "answer"], {})


@pytest.mark.parametrize("column", ["patient_id", "Patient ID", "patientid", "PatientID", "Subject", "subject-id", "case_id"])
def test_other_names_of_the_patient(column, write):
    found = load_data(f"csv:{write({column: 'p1'})}")[0]
    assert (found.group, found.group_is_patient, found.extra) == ("p1", True, {})


@pytest.mark.parametrize(("said", "is_patient"), [("true", True), ("False", False), ("1", True), ("", False)])
def test_the_manifests_own_names_of_the_group(said, is_patient, write):
    found = load_data(f"csv:{write({'patient_or_group_id': 'p1', 'group_is_patient': said})}")[0]
    assert (found.group, found.group_is_patient, found.extra) == ("p1", is_patient, {})


def test_two_columns_of_one_meaning(write):
    file = write({"patient": "p", "Subject ID": "s"})
    said = "its columns 'patient' and 'Subject ID' are both patient. Name one: columns: {patient: ...}."
    assert failure(f"csv:{file}") == f"{file}: {said}"
    found = load_data({"name": "csv", "path": str(file), "columns": {"patient": "Subject ID"}})[0]
    assert (found.group, found.extra) == ("s", {"patient": "p"})


@pytest.mark.parametrize("names", [("option_a", "option_b"), ("option A", "Option B"), ("opa", "opb"), ("choices",)])
def test_other_names_of_the_options(names, tmp_path, write):
    cells = "l,r" if len(names) == 2 else "l|r"
    (tmp_path / "a.csv").write_text(f"image,question,{','.join(names)},answer\nx.png,Which?,{cells},B\n")
    (found,) = load_data(f"csv:{tmp_path}/a.csv")
    assert (found.options, found.gold_index, found.extra) == (("l", "r"), 1, {})


def test_a_letter_may_be_what_an_open_question_asks_for(write):
    found = load_data(f"csv:{write({'A': '', 'B': '', 'answer': 'B', 'image_option': '', 'kind': 'open'})}")[0]
    assert (found.options, found.golds) == ((), ("B",))
    found = load_data(f"csv:{write({'A': '', 'B': '', 'answer': 'E. coli'})}")[0]
    assert (found.options, found.golds) == ((), ("E. coli",))


def test_a_letter_is_an_answer_where_no_column_holds_options(tmp_path, write):
    (found,) = load_data(table_in(tmp_path, write, f"{HEAD}\nx.png,Which hepatitis?,B\n"))
    assert (found.options, found.golds) == ((), ("B",))


def test_a_place_in_a_cell_of_text_is_told(write):
    file = write({"answer": "1"})
    do = "Name the column answer_index where it is a place, from 0."
    said = "the answer '1' is text, as every cell of a CSV is, and none of the options ['Liver', 'Spleen']."
    assert failure(f"csv:{file}") == f"{file}, row 1: {said} {do}"
    assert load_data(f"csv:{write({'A': '1', 'B': '2', 'answer': '1'})}")[0].gold_index == 0  # as it is written


# --- tables as spreadsheets save them ---

HEAD = "image,question,answer"


def table_in(tmp_path, write, text):
    write({})
    (tmp_path / "a.csv").write_text(text)
    return f"csv:{tmp_path}/a.csv"


def test_last_columns_and_rows_that_are_empty_are_none(tmp_path, write):
    (found,) = load_data(table_in(tmp_path, write, f"{HEAD},,\nx.png,What?,liver,, \n,,,,\n , ,,,\n"))
    assert (found.golds, found.extra) == (("liver",), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}\nx.png,What?,a\n,,\nx.png,What?,b\n", ", row 2: all its cells are empty, but rows follow. Remove it"),
        (f"{HEAD},\nx.png,What?,a,\nx.png,What?,a,b\n", ", row 2: its cell 'b' is in a column that the header does not name"),
        (f"{HEAD},\nx.png,What?,a\n", ", row 1: it has 3 fields, the header 4"),
        (f"{HEAD}\n,,\n", ": it has no row below its header."),
        (f",,\n{HEAD}\nx.png,What?,a\n", ": the cells of its first line are empty. Name the columns there."),
        (f"sep=;\n{HEAD}\n", ": its first line, 'sep=;', names the separator, not the columns. Remove that line, and save it"),
        (f"sep=,\n{HEAD}\n", ": its first line, 'sep=,', names the separator, not the columns. Remove that line, and save it"),
    ],
)
def test_empty_cells_elsewhere_are_told(text, message, tmp_path, write):
    assert failure(table_in(tmp_path, write, text)).startswith(f"{tmp_path}/a.csv{message}")


def test_a_folder_is_no_image(tmp_path, write):
    (tmp_path / "scans").mkdir()
    assert f"row 1: there is no image {tmp_path}/scans" in failure(f"csv:{write({'image': 'scans'})}")


# --- answers ---


@given(st.lists(st.text(), min_size=2, max_size=10), st.text())
def test_an_answer_tells_one_option_or_is_an_error_that_is_told(options, answer):
    try:
        place = told_place(options, answer)
    except DataError:
        return
    assert 0 <= place < len(options)


@pytest.mark.parametrize("answer", ["C", "c", "(C)", "C)", "C.", " C ", "right", "RIGHT.", "C) right", "(C) Right", "C: right"])
def test_ways_to_tell_the_third_option(answer):
    assert told_place(["left", "none", "right"], answer) == 2


def test_a_letter_that_is_also_a_text():
    assert told_place(["A", "B"], "B") == 1
    assert told_place(["x", "E"], "E") == 1
    with pytest.raises(DataError, match="the letter of one option and the text of another"):
        told_place(["B", "A"], "A")
    assert told_place(["B", "A"], "A", letters_first=True) == 0


@given(st.lists(st.text()))
def test_lists_in_cells(texts):
    assert list_in(json.dumps(texts)) == list_in(repr(texts)) == texts


@pytest.mark.parametrize("cell", ["", "[", "[]x", "[1]", "['a', 1]", "[__import__('os')]", "[" * 5000 + "]" * 5000, "['a' 'b"])
def test_what_is_no_list_of_texts(cell):
    assert list_in(cell) is None


@pytest.mark.parametrize(
    ("cells", "fields"),
    [
        ({"answer": 1, "options": ["x", "y"]}, {"answer_index": 1, "options": ["x", "y"]}),
        ({"answer": 1, "options": ["0", "1", "2"]}, {"answer_index": 1}),
        ({"answer": 2, "answer_index": 1, "options": ["1", "2", "3"]}, {"answer_index": 1}),
        ({"answer": ["y"], "options": {"A": "x", "B": "y", "C": None}}, {"answer_index": 1, "options": ["x", "y"]}),
        ({"answer": 7}, {"answers": ["7"]}),
        ({"answer": ["a", "b"]}, {"answers": ["a", "b"]}),
        ({"answer": 0.5, "id": 3}, {"answers": ["0.5"], "id": "3"}),
        ({"answer": "x", "mine": None, "more": [1]}, {"more": [1]}),
    ],
)
def test_cells_that_are_no_text(cells, fields):
    cells = {"question": "?", "image": "a"} | cells
    found = manifest_row(cells, columns_of(cells, {}), "name")
    assert fields.items() <= found.items()
    assert "mine" not in found


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"answer": float("nan")}, "is NaN"),
        ({"answer": True}, "should be a text, not True"),
        ({"question": 3.5, "answer": float("inf")}, "should be a text, not inf"),
        ({"answer": ["x", "y"], "options": ["x", "y"]}, "names 2 answers"),
        ({"answer": "x", "options": 3}, "should be a list of texts"),
        ({"answer": 1, "options": ["1", "2", "3"]}, "the answer 1 is the place of one option (from 0) and the text of another"),
        ({"answer": 2, "options": ["2", "3", "4"]}, "Name the column answer_index where it is the place, or write it as text."),
        ({"answer": 0, "answer_index": 1, "options": ["x", "y"]}, "its golds disagree: answer 0 but answer_index 1"),
        ({"answer": 3, "options": ["x", "y", "3"], "answer_index": 1}, "its golds disagree: answer 3 but answer_index 1"),
        ({"answer": "A", "option_1": "x"}, "but it has no options, and its column 'option_1' is not used. Name the options"),
        ({"answer": ["B"], "Answer Choices": "x/y"}, "and its column 'Answer Choices' is not used"),
        ({"answer": "x", "patient_or_group_id": "g", "group_is_patient": "maybe"}, "should be true or false, not 'maybe'"),
    ],
)
def test_cells_that_cannot_be(cells, message):
    cells = {"question": "?", "image": "a"} | cells
    with pytest.raises(DataError) as error:
        manifest_row(cells, columns_of(cells, {}), "name")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("cell", "group"), [("Anatomy", None), ("Internal medicine", None), ("sub-01", "sub-01"), ("17", "17")]
)
@pytest.mark.parametrize("column", ["subject", "Subject"])
def test_a_subject_without_a_digit_is_a_topic(column, cell, group, write, capsys):
    first, second = load_data(f"csv:{write({column: cell}, {column: 'Surgery 2'})}")
    assert (first.group, first.group_is_patient) == (group, group is not None)
    assert first.extra == ({} if group else {column: cell})
    assert (second.group is None) == (group is None)
    said = " ".join(capsys.readouterr().err.split())
    assert ("which is no id, and is kept in extra. If it is the patient, say so: columns: {patient: " in said) == (
        group is None
    )


def test_a_subject_that_is_named_is_the_patient(write, capsys):
    file = write({"subject": "Anna"})
    (found,) = load_data({"name": "csv", "path": str(file), "columns": {"patient": "subject"}})
    assert (found.group, found.group_is_patient) == ("Anna", True)
    assert capsys.readouterr().err == ""


def test_a_topic_beside_a_patient(write):
    (found,) = load_data(f"csv:{write({'subject': 'Anatomy', 'patient': 'p1'})}")
    assert (found.group, found.extra) == ("p1", {"subject": "Anatomy"})


def test_a_first_subject_that_is_empty_is_a_topic_and_told(write, capsys):
    first, second = load_data(f"csv:{write({'subject': ''}, {'subject': 's2'})}")
    assert (first.group, second.group, second.extra) == (None, None, {"subject": "s2"})
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("the column 'subject' has an empty first cell, which is no id, and is kept in extra.")


def test_a_subject_that_is_taken_for_the_patient_is_told(write, capsys):
    load_data(f"csv:{write({'subject': 'sub-01'})}")
    said = " ".join(capsys.readouterr().err.split())
    assert said == "the column 'subject' holds 'sub-01' and is taken for the patient. If it is a topic, rename the column."


def test_a_patient_column_that_is_not_taken_stays_in_extra(write):
    file = write({"patient": "p1", "site": "s"})
    (found,) = load_data({"name": "csv", "path": str(file), "columns": {"group": "site"}})
    assert (found.group, found.group_is_patient, found.extra) == ("s", False, {"patient": "p1"})


# --- cells that read NA ---


@pytest.mark.parametrize("cell", ["NA", "n/a", " nan ", "NULL", "#N/A"])
def test_what_reads_na_is_empty(cell, write):
    names = ("source", "language", "split", "modality", "question_type", "patient", "group")
    (found,) = load_data(f"csv:{write(dict.fromkeys(names, cell))}")
    assert (found.source, found.language, found.split, found.group, found.group_is_patient) == ("", "en", None, None, False)
    assert (found.modality, found.question_type, found.extra) == (Modality.UNKNOWN, QuestionType.UNKNOWN, {})


def test_what_reads_na_elsewhere_is_text(write):
    (found,) = load_data(f"csv:{write({'id': 'NA', 'question': 'NA', 'rationale': 'NA', 'A': '', 'B': '', 'answer': 'NA'})}")
    assert (found.id, found.question, found.rationale, found.golds) == ("NA", "NA", "NA", ("NA",))


@pytest.mark.parametrize(
    ("cells", "answer", "options"),
    [
        (("Liver", "Spleen", "NA", "NA"), "B", ("Liver", "Spleen")),
        (("Liver", "Spleen", "", "nan"), "Spleen", ("Liver", "Spleen")),
        (("Liver", "Spleen", "Kidney", "null"), "C", ("Liver", "Spleen", "Kidney")),
        (("Yes", "No", "N/A", ""), "C", ("Yes", "No", "N/A")),
        (("Yes", "No", "N/A", ""), "n/a", ("Yes", "No", "N/A")),
        (("Yes", "NA", "", ""), "A", ("Yes", "NA")),
        (("Liver", "NA", "Kidney", ""), "A", ("Liver", "NA", "Kidney")),
    ],
)
def test_last_options_that_read_na_are_none(cells, answer, options, write):
    (found,) = load_data(f"csv:{write(dict(zip('ABCD', cells, strict=True)) | {'answer': answer})}")
    assert found.options == options


# --- options that carry letters ---


@pytest.mark.parametrize("form", ["{}) {}", "({}) {}", "{}. {}", "{}: {}", "{}){}"])
@pytest.mark.parametrize("answer", ["B", "Spleen", "B) Spleen", "B. spleen"])
def test_letters_of_the_options_are_taken_out(form, answer, write):
    first, second = form.format("A", "Liver"), form.format("B", "Spleen")
    for row in ({"A": first, "B": second}, {"A": "", "B": "", "options": f"{first}|{second}"}):
        (found,) = load_data(f"csv:{write(row | {'answer': answer})}")
        assert (found.options, found.gold_index) == (("Liver", "Spleen"), 1)


@pytest.mark.parametrize("options", [["E. coli", "C. difficile"], ["A) x", "y"], ["A", "B"], ["A.M.", "B.M."], ["A) x"], []])
def test_what_carries_no_letters_stays(options):
    assert without_letters(options) == options


# --- separators ---


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n"])
def test_a_csv_with_other_separators(mark, begin, tmp_path, write):
    cells = ("Is it 2,5 cm; or more?", "x.png;x.png", "größer", "kleiner", "B")
    text = f"{begin}question{mark}image{mark}A{mark}B{mark}answer\n" + mark.join(f'"{cell}"' for cell in cells) + "\n"
    (found,) = load_data(table_in(tmp_path, write, text))
    assert (found.question, found.options, found.gold_index) == (cells[0], cells[2:4], 1)
    assert len(found.images) == 2


def test_semicolons_in_the_code_page_of_windows(tmp_path, write):
    write({})
    (tmp_path / "a.csv").write_bytes("image;question;answer\nx.png;Wo?;Überall\n".encode("cp1252"))
    said = failure(f"csv:{tmp_path}/a.csv")
    assert said.startswith(f"{tmp_path}/a.csv, row 1: from line 2 on it is not in UTF-8")
    assert said.endswith("Save it as CSV in UTF-8.")
