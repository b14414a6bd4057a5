"""The TSV of VLMEvalKit. None of its files is at hand: the rows here are written after the columns that its guide documents."""

import base64
import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.datasets import embedded, tables
from osler.datasets.embedded import images_folder, keep_base64, keep_bytes
from osler.datasets.load import load_data
from osler.datasets.tables import table_rows
from osler.errors import DataError
from osler.images import open_image
from osler.schema import Kind, Sample
from osler.taxonomy import QuestionType
from row_files import failure


def picture(colour="red", kind="PNG", size=(9, 7)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, kind)
    return data.getvalue()


def coded(colour="red", kind="PNG") -> str:
    return base64.b64encode(picture(colour, kind)).decode()


ROW = {
    "index": "0",
    "question": "Which organ is enlarged?",
    "hint": "",
    "A": "Liver",
    "B": "Spleen",
    "C": "",
    "answer": "B",
    "category": "abnormality",
    "split": "test",
    "image": coded(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def write(tmp_path):
    """Writes rows, each a valid one but for the given fields and its index its place, to a TSV; returns its path."""

    def rows_file(*rows, name="rows.tsv", quoting=csv.QUOTE_ALL, encoding="utf-8"):
        full = [ROW | {"index": str(n)} | row for n, row in enumerate(rows, 1)]
        columns = list(dict.fromkeys(column for row in full for column in row))
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, delimiter="\t", quoting=quoting)
        writer.writerow(columns)
        writer.writerows([row.get(column, "") for column in columns] for row in full)
        (tmp_path / name).write_bytes(lines.getvalue().encode(encoding))
        return tmp_path / name

    return rows_file


def without(row: dict, *names) -> dict:
    return {name: value for name, value in row.items() if name not in names}


# --- rows ---


def test_every_field_of_a_row(write, cache):
    file = write({"hint": "The patient has a fever.", "l2-category": "grading", "split": "dev", "source": "x"})
    (found,) = load_data(f"tsv:{file}")
    assert found == Sample(
        id="1",
        images=found.images,
        question="The patient has a fever.\nWhich organ is enlarged?",
        golds=("Spleen",),
        options=("Liver", "Spleen"),
        gold_index=1,
        kind=Kind.CHOICE,
        question_type=QuestionType.DISEASE,
        source="x",
        split="val",
        extra={"hint": "The patient has a fever.", "category": "abnormality", "l2-category": "grading"},
    )
    assert Path(found.images[0]).is_relative_to(cache)
    assert Path(found.images[0]).read_bytes() == picture()
    assert found.origin == f"{file}, row 1"


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
@given(question=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), gold=st.integers(0, 2))
def test_whatever_the_cells_hold_comes_back_but_for_outer_blanks(tmp_path_factory, quoting, question, gold):
    options = [f"x{question}{n}" for n in range(3)]
    row = ROW | dict(zip("ABC", options, strict=True)) | {"question": f"?{question}?", "answer": "ABC"[gold]}
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, delimiter="\t", quoting=quoting)
    writer.writerows([row.keys(), row.values()])
    file = tmp_path_factory.mktemp("cells") / "rows.tsv"
    file.write_bytes(lines.getvalue().encode())
    (found,) = load_data(f"tsv:{file}")
    assert (found.question, found.options, found.gold_index) == (f"?{question}?", tuple(options), gold)


@pytest.mark.parametrize(
    ("fields", "golds", "kind"),
    [
        ({"answer": "b"}, ("Spleen",), Kind.CHOICE),
        ({"answer": "B. spleen"}, ("Spleen",), Kind.CHOICE),
        ({"answer": "spleen"}, ("Spleen",), Kind.CHOICE),
        ({"A": "B", "B": "A", "answer": "A"}, ("B",), Kind.CHOICE),  # the letter counts, as VLMEvalKit documents
        ({"A": "None", "B": "nan", "answer": "A"}, ("None",), Kind.CHOICE),
        ({"A": "Liver", "B": "liver", "answer": "B"}, ("liver",), Kind.CHOICE),
        ({"A": "Yes", "B": "No", "answer": "A"}, ("Yes",), Kind.YESNO),
        ({"A": "", "B": "", "answer": "Yes"}, ("Yes",), Kind.YESNO),
        ({"A": "", "B": "", "answer": "the liver"}, ("the liver",), Kind.OPEN),
        ({"A": "", "B": "", "answer": "['a', \"b's\"]"}, ("a", "b's"), Kind.OPEN),
        ({"A": "", "B": "", "answer": '["a", "b"]'}, ("a", "b"), Kind.OPEN),
        ({"A": "", "B": "", "answer": "[1, 2]"}, ("[1, 2]",), Kind.OPEN),
    ],
)
def test_gold_and_kind(write, fields, golds, kind):
    (found,) = load_data(f"tsv:{write(fields)}")
    assert (found.golds, found.kind) == (golds, kind)


@pytest.mark.parametrize(
    ("name", "split"), [("train", "train"), ("validation", "val"), ("dev", "val"), ("TEST", "test"), ("all", None), ("", None)]
)
def test_splits(write, name, split):
    assert load_data(f"tsv:{write({'split': name})}")[0].split == split


# --- images ---


def test_several_images_and_images_of_other_rows(write, cache):
    red, blue = coded(), coded("blue", "JPEG")
    file = write({"image": "3"}, {"image": blue}, {"image": f"['{red}', '{blue}']"}, {"image": "2"}, {"image": f'["{blue}"]'})
    rows = load_data(f"tsv:{file}")
    assert [len(row.images) for row in rows] == [2, 1, 2, 1, 1]
    assert rows[0].images == rows[2].images
    assert rows[3].images == rows[1].images == rows[4].images == (rows[2].images[1],)
    assert sorted(path.suffix for path in cache.rglob("*.*")) == [".jpg", ".png"]
    assert open_image(rows[2].images[0]).getpixel((0, 0)) == (255, 0, 0)


def test_images_as_paths(write, tmp_path):
    (tmp_path / "in").mkdir()
    for place in ("a.png", "in/a.png"):
        (tmp_path / place).write_bytes(picture())
    row = {"image": "", "image_path": "a.png"}
    assert load_data(f"tsv:{write(row)}")[0].images == (str(tmp_path / "a.png"),)
    file = write(row | {"image_path": "['a.png', 'a.png']"})
    assert load_data(f"tsv:{file}?images={tmp_path}/in")[0].images == (str(tmp_path / "in" / "a.png"),) * 2
    assert "row 1: there is no image" in failure(f"tsv:{write(row | {'image_path': 'b.png'})}")
    both = {"image": coded("blue"), "image_path": "a.png"}
    assert open_image(load_data(f"tsv:{write(both)}")[0].images[0]).getpixel((0, 0)) == (0, 0, 255)


def test_an_image_is_written_once_and_its_path_does_not_depend_on_the_file(write, cache):
    (first,) = load_data(f"tsv:{write({})}")
    before = os.stat(first.images[0])
    (again,) = load_data(f"tsv:{write({}, name='other.tsv')}")
    after = os.stat(again.images[0])
    assert again.images == first.images
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(list(cache.rglob("*.png"))) == 1


@given(st.binary(max_size=300), st.integers(0, 2))
def test_bytes_that_are_no_image_are_refused_and_leave_nothing(tmp_path_factory, content, cut):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OSLER_CACHE", str(tmp_path_factory.mktemp("cache")))
        with pytest.raises(DataError, match=r"^its image"):
            keep_bytes(b"\0" * cut + content)
        assert not list(images_folder().rglob("*"))


def test_sizes_are_checked_before_anything_is_decoded(monkeypatch, cache):
    for size in (len(picture()) - 1, 10):
        monkeypatch.setattr(embedded, "MAX_BYTES", size)
        with pytest.raises(DataError, match=r"its image has .* bytes, above"):
            keep_bytes(picture())
        with monkeypatch.context() as patched:
            patched.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
            with pytest.raises(DataError, match=r"its image has .* bytes, above"):
                keep_base64(coded())
    monkeypatch.setattr(embedded, "MAX_BYTES", len(picture()))
    assert keep_bytes(picture()) == keep_base64(coded()) == keep_base64(f"data:image/png;base64,{coded()}\n")
    for side in (9_000, 20_000):
        with pytest.raises(DataError, match=r"^its image: the image is too large .* Scale it below 80,000,000 pixels"):
            keep_bytes(f"P5 {side} {side} 255\n".encode())


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"the image cannot be kept there .* Set OSLER_CACHE"):
        keep_bytes(picture())


def test_a_relative_cache_gives_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OSLER_CACHE", "here")
    assert keep_bytes(picture()).startswith(f"{tmp_path}/here/images/")


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"answer": "C"}, "the gold letter C is not among the 2 options"),
        ({"answer": "Kidney"}, "the gold 'Kidney' is not among the options"),
        ({"answer": "B) Liver"}, "the gold 'B) Liver' is not among the options"),
        ({"answer": ""}, "the field 'answer' is empty"),
        ({"question": " "}, "the field 'question' is empty"),
        ({"index": ""}, "the field 'index' is empty"),
        ({"index": "1"}, "the id '1' is taken by"),
        ({"B": "", "answer": "A"}, "only one option"),
        ({"A": "", "answer": "B"}, "its option A is empty, but a later one is not"),
        ({"image": ""}, "it has no image"),
        ({"image": "99"}, "the row with the index '99', which holds none"),
        ({"image": "!" * 100}, "its image is no base64"),
        ({"image": coded()[:-1]}, "its image is no base64"),
        ({"image": base64.b64encode(b"no image at all" * 9).decode()}, "cannot be decoded (of no format that is read)"),
        ({"image": f"['{coded()}', '{'A' * 80}']"}, "its image 2 of 2: the image cannot be decoded"),
    ],
)
def test_a_broken_row_is_named_by_file_and_row(write, fault, message):
    file = write({}, {}, fault)
    said = failure(f"tsv:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


def test_a_broken_image_is_named_by_its_own_row_where_an_earlier_row_needs_it(write):
    file = write({"image": "3"}, {}, {"image": "!" * 100})
    assert "row 3: its image is no base64" in failure(f"tsv:{file}")


@pytest.mark.parametrize("column", ["index", "question", "answer"])
def test_a_column_that_is_missing_is_named(tmp_path, column):
    row = without(ROW, column)
    (tmp_path / "a.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    assert f"the file has no column {column!r}, but " in failure(f"tsv:{tmp_path}/a.tsv")


# --- tables ---


def test_places_of_rows_over_several_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfq,a\r\n"one\r\ntwo",x\r\n\r\n,y\r\n')
    rows = list(table_rows(tmp_path / "a.csv"))
    assert [row.cells for row in rows] == [{"q": "one\r\ntwo", "a": "x"}, {"q": "", "a": "y"}]
    assert [row.where.removeprefix(f"{tmp_path}/a.csv, ") for row in rows] == ["row 1 (to line 3)", "row 2 (to line 5)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv: it is empty."),
        (b"\n\n", "a.csv: it is empty."),
        (b"q,a\n", "a.csv: it has no row below its header."),
        (b"q,a\n1,2\n3\n", "a.csv, row 2: it has 1 fields, the header 2."),
        (b'q,a\n1,2\n"3,4\n', "a.csv, row 2: it has 1 fields, the header 2."),
        (b"q,a\n1,2\n3,\xe9t\xe9\n", "a.csv, row 2: from line 3 on it is not in UTF-8 (invalid continuation byte at byte 2)"),
        (
            "q,a\n1,2\n".encode("utf-16"),
            "from line 1 on it is not in UTF-8 (invalid start byte at byte 0). It begins as UTF-16",
        ),
        (b"q|a\n1|2\n", "a.csv: its header has no comma, but bars: 'q|a'. Save it with commas."),
        (b"q,a, q\n1,2,3\n", "a.csv: its header names the column 'q' twice."),
        (b"q,a\n1," + b"x" * 400 + b"\n", "a.csv, row 1: from line 2 on it is no CSV (field larger than field limit (300))."),
        (b"q,a\n1," + b"x" * 900 + b"\n", "a.csv, row 1: from line 2 on it is no CSV (a line has more than 600 bytes)."),
    ],
)
def test_a_table_that_breaks_is_named_by_the_row_at_which_it_does(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(tables, "MAX_CELL", 300)
    monkeypatch.setattr(tables, "MAX_LINE", 600)
    (tmp_path / "a.csv").write_bytes(content)
    before = csv.field_size_limit()
    with pytest.raises(DataError) as error:
        list(table_rows(tmp_path / "a.csv"))
    assert message in str(error.value)
    assert csv.field_size_limit() == before
