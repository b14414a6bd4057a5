"""Hugging Face data sets, built and saved here in every form that is read."""

import io
import json
import socket
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from osler.datasets.load import DataSpec, load_data, parse_spec
from osler.errors import DataError
from osler.images import open_image
from osler.schema import Kind
from osler.taxonomy import Modality
from row_files import failure

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def picture(colour, kind="PNG") -> Image.Image:
    data = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(data, kind)
    return Image.open(data)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A cache of one's own, and no way to a network."""

    def refuse(*_, **__):
        pytest.fail("it asks the network")

    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def made(**columns):
    """Two rows: a choice about red, an open question about blue; with other `columns`."""
    features = {
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "options": datasets.List(datasets.Value("string")),
        "answer": datasets.Value("string"),
        "modality": datasets.ClassLabel(names=["CT", "MR"]),
    }
    rows = {
        "image": [picture(colour) for colour in COLOURS],
        "question": ["Which colour?", "What colour?"],
        "options": [["green", "red"], None],
        "answer": ["red", "blue"],
        "modality": [1, 0],
    }
    features |= {name: feature for name, (feature, _) in columns.items()}
    rows |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


# --- forms ---


def save_to_disk(folder):
    datasets.DatasetDict({"train": made(), "test": made()}).save_to_disk(folder)


def save_parquet(folder):
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        made().to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def save_picture_folder(folder):
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = []
        for row in made().cast_column("modality", datasets.Value("int64")):
            name = f"{row['answer']}.png"
            row.pop("image").save(folder / split / name)
            lines.append(json.dumps(row | {"file_name": name, "modality": "CT"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def save_json_lines(folder):
    folder.mkdir()
    for colour in COLOURS:
        picture(colour).save(folder / f"{colour}.png")
    for split in ("train", "test"):
        rows = [
            {"image": "red.png", "question": "Which colour?", "options": ["green", "red"], "answer": "red"},
            {"image": "blue.png", "question": "What colour?", "options": None, "answer": "blue"},
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize("save", [save_to_disk, save_parquet, save_picture_folder, save_json_lines])
def test_every_form_gives_the_same_rows(save, tmp_path):
    save(tmp_path / "set")
    found = load_data(f"hub:{tmp_path}/set")
    assert found.counts()["by_split"] == {"test": 2, "train": 2}
    for split in ("train", "test"):
        one, two = found.where(split=split)
        assert (one.id, one.question, one.options, one.gold_index) == (f"{split}/1", "Which colour?", ("green", "red"), 1)
        assert (two.question, two.options, two.golds, two.kind) == ("What colour?", (), ("blue",), Kind.OPEN)
        assert [open_image(row.images[0]).getpixel((0, 0)) for row in (one, two)] == list(COLOURS.values())
        assert one.origin == f"{tmp_path}/set, split {split}, row 1"
        assert one.extra == {}


@pytest.mark.parametrize("form", ["parquet", "arrow", "one"])
def test_one_file_or_one_split(form, tmp_path):
    file = tmp_path / f"mine.{form}"
    if form == "parquet":
        made().to_parquet(file)
    else:
        made().save_to_disk(file)
    if form == "arrow":
        file = next(file.glob("*.arrow"))
    rows = load_data(f"hub:{file}")
    assert [row.golds for row in rows] == [("red",), ("blue",)]
    assert [row.modality for row in rows] == [Modality.MRI, Modality.CT]


def test_images_are_the_bytes_that_were_saved_written_once(tmp_path):
    made(image=(datasets.Image(), [picture("red", "JPEG"), picture("red", "JPEG")])).save_to_disk(tmp_path / "set")
    one, two = load_data(f"hub:{tmp_path}/set")
    data = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(data, "JPEG")
    assert one.images == two.images
    assert one.images[0].endswith(".jpg")
    assert Path(one.images[0]).read_bytes() == data.getvalue()


def test_several_images_a_question(tmp_path):
    slices = [[picture("red"), picture("blue")] * 12, [picture("blue")]]
    made(image=(datasets.List(datasets.Image()), slices)).save_to_disk(tmp_path / "set")
    one, two = load_data(f"hub:{tmp_path}/set")
    assert (len(one.images), len(set(one.images)), two.images) == (24, 2, (one.images[1],))
    (tmp_path / "0.png").write_bytes(Path(two.images[0]).read_bytes())
    made(image=(datasets.List(datasets.Value("string")), [["0.png"] * 3, ["0.png"]])).save_to_disk(tmp_path / "paths")
    assert load_data(f"hub:{tmp_path}/paths?images={tmp_path}")[0].images == (str(tmp_path / "0.png"),) * 3


def test_columns_of_any_name_and_type(tmp_path, capsys):
    rows = made(
        text=(datasets.Value("string"), ["One?", "Two?"]),
        label=(datasets.ClassLabel(names=["red", "blue"]), [0, 1]),
        place=(datasets.Value("int64"), [1, None]),
        mask=(datasets.Image(), [picture("red"), None]),
        when=(datasets.Value("date32"), [date(2020, 1, 2), None]),
        score=(datasets.Value("float64"), [0.5, float("nan")]),
        case=(datasets.Value("int64"), [7, 8]),
    ).remove_columns("answer")
    rows.save_to_disk(tmp_path / "set")
    columns = {"question": "text", "answer": "label", "patient": "case"}
    one, two = load_data({"name": "hub", "path": f"{tmp_path}/set", "columns": columns})
    assert (one.question, one.gold_index, one.golds, two.golds) == ("One?", 1, ("red",), ("blue",))
    assert (one.group, one.group_is_patient) == ("7", True)
    assert one.extra == {"column_question": "Which colour?", "place": 1, "when": "2020-01-02", "score": 0.5}
    assert two.extra == {"column_question": "What colour?"}
    assert "the bytes in 'mask' are left out" in capsys.readouterr().err
    columns = {"question": "text", "answer_index": "place", "answer": "label"}
    assert load_data({"name": "hub", "path": f"{tmp_path}/set", "columns": columns})[0].gold_index == 1


def test_one_split_and_splits_of_other_names(tmp_path):
    parts = {"train": made(), "validation": made(), "extra": made()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    spec = {"name": "hub", "path": f"{tmp_path}/set"}
    assert load_data({**spec, "split": "validation"}).counts()["by_split"] == {"val": 2}
    assert load_data({**spec, "split": "extra"}).counts()["by_split"] == {"none": 2}
    assert "unknown split 'extra'" in failure(spec)
    assert "unknown split 'tset'" in failure({**spec, "split": "tset"})


def with_split(*values):
    return made(split=(datasets.Value("string"), list(values)))


def test_a_column_split_is_read_as_the_hubs_own_names_are(tmp_path):
    parts = {"train": with_split("train", None), "validation": with_split("validation", "dev")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert load_data(f"hub:{tmp_path}/set").counts()["by_split"] == {"train": 2, "val": 2}
    with_split("Validation", "test").save_to_disk(tmp_path / "one")
    assert [row.split for row in load_data(f"hub:{tmp_path}/one")] == ["val", "test"]
    with_split("test", "fold 3").save_to_disk(tmp_path / "odd")
    assert "split all, row 2: unknown split 'fold 3'" in failure(f"hub:{tmp_path}/odd")


def test_a_column_split_that_differs_from_the_part(tmp_path):
    datasets.DatasetDict({"train": with_split("train", "test")}).save_to_disk(tmp_path / "set")
    said = "row 2: its column split says 'test', but the row is in the part train. Correct one, or remove or rename the column."
    assert failure(f"hub:{tmp_path}/set") == f"{tmp_path}/set, split train, {said}"


def test_a_config_of_a_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        made(question=(datasets.Value("string"), [name, name])).to_parquet(tmp_path / "set" / name / "train.parquet")
    head = "---\nconfigs:\n- config_name: a\n  data_files: a/*.parquet\n- config_name: b\n  data_files: b/*.parquet\n---\n"
    (tmp_path / "set" / "README.md").write_text(head)
    spec = {"name": "hub", "path": f"{tmp_path}/set"}
    assert load_data({**spec, "config": "b"})[0].question == "b"
    assert "it cannot be read as a Hugging Face data set (" in failure(spec)
    assert "it cannot be read as a Hugging Face data set (" in failure({**spec, "config": "c"})
    (tmp_path / "set" / "README.md").write_text(head.replace("a/*", "https://example.org/*"))
    assert "README.md: it names files that are not in the folder" in failure({**spec, "config": "b"})


# --- what is not looked up ---


@pytest.mark.parametrize(
    "path", ["{tmp}/none", "./none", "none", "here/none", "a/b/c", "../none/none", "here/", "~/none", "none/", "a b/c"]
)
def test_a_folder_that_is_not_there_is_never_looked_up(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    path = path.format(tmp=tmp_path)
    said = failure(f"hub:{path}")
    assert said.startswith((f"there is no {path}", f"{path}: it cannot be read as a Hugging Face data set"))


def test_a_name_of_the_hub_is_asked_for_as_it_is(monkeypatch, tmp_path):
    asked = []

    def load(*parts):
        asked.append(parts)
        return datasets.DatasetDict({"train": made(), "validation": made()})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = load_data({"name": "hub", "path": "owner/some.name-1", "config": "x"})
    assert asked == [("owner/some.name-1", "x")]
    assert rows.counts()["by_split"] == {"train": 2, "val": 2}
    assert rows[0].origin == "owner/some.name-1, split train, row 1"
    (tmp_path / "owner").mkdir()
    assert failure("hub:owner/some.name-1").startswith("there is no owner/some.name-1")
    assert len(asked) == 1


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("no such set"), RuntimeError("scripts")])
def test_what_the_hub_answers_is_one_clear_error(monkeypatch, tmp_path, error):
    def load(*_):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    said = failure("hub:owner/name")
    assert said == f"owner/name: it cannot be read as a Hugging Face data set ({error}). Check the name, config and files."


def test_nothing_that_a_folder_brings_is_run(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    made().to_parquet(tmp_path / "set" / "train.parquet")
    with suppress(DataError):  # some versions of datasets refuse such a folder
        load_data(f"hub:{tmp_path}/set")
    assert not (tmp_path / "ran").exists()


# --- faults ---


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("question", ["One?", None], "'question'"),
        ("answer", ["red", None], "it has no gold"),
        ("answer", ["red", "nan"], "the field 'answer' is NaN"),
        ("options", [["green", "red"], ["one"]], "it offers 1 options, but a choice needs 2 to 10"),
        ("options", [["green", "red"], ["x", "y"]], "the gold 'blue' is not among the options ['x', 'y']"),
        ("options", [["green", "red"], ["blue", "Blue"]], "two of its options are the same"),
        ("image", [{"bytes": picture("red").tobytes()[:0], "path": None}, None], "its image is missing"),
        ("id", ["a", "a"], "the id 'a' is taken by"),
        ("group_is_patient", [1.0, float("nan")], "the field 'group_is_patient' (column 'group_is_patient') is NaN"),
        ("answer_index", [1, 2], "answer_index"),
    ],
)
def test_a_broken_row_is_named_by_its_number(tmp_path, column, values, message):
    feature = made().features.get(column) or datasets.Value(
        {"id": "string", "group_is_patient": "float64"}.get(column, "int64")
    )
    rows = made(**{column: (feature, [picture("red"), None] if column == "image" else values)})
    rows.save_to_disk(tmp_path / "set")
    said = failure(f"hub:{tmp_path}/set")
    assert said.startswith(f"{tmp_path}/set, split all, row 2: ")
    assert message in said


def test_a_patient_that_is_nan_is_none(tmp_path):
    made(patient=(datasets.Value("float64"), [1.0, float("nan")])).save_to_disk(tmp_path / "set")
    assert [row.group for row in load_data(f"hub:{tmp_path}/set")] == ["1.0", None]


def test_bytes_that_are_no_image(tmp_path):
    rows = made(image=(datasets.Image(), [picture("red"), {"bytes": b"no image at all", "path": None}]))
    rows.save_to_disk(tmp_path / "set")
    said = failure(f"hub:{tmp_path}/set")
    assert said.startswith(
        f"{tmp_path}/set, split all, row 2: its image: the image cannot be decoded (of no format that is read)"
    )


def test_folders_that_are_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    assert failure(f"hub:{tmp_path}/empty").startswith(f"{tmp_path}/empty: it cannot be read as a Hugging Face data set (")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 no parquet PAR1")
    assert failure(f"hub:{tmp_path}/bad").startswith(f"{tmp_path}/bad")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("a\n")
    assert "its files are of the form 'text'" in failure(f"hub:{tmp_path}/text")
    (tmp_path / "a.csv").write_text("a\n")
    assert "it is neither a folder nor a file of .parquet or .arrow" in failure(f"hub:{tmp_path}/a.csv")
    assert "needs a folder or a name of the hub" in failure("hub")
    made().select([]).save_to_disk(tmp_path / "none")
    assert failure(f"hub:{tmp_path}/none").startswith(f"{tmp_path}/none")
    made().select([]).to_parquet(tmp_path / "none.parquet")
    assert failure(f"hub:{tmp_path}/none.parquet") == f"{tmp_path}/none.parquet, split all: it has no rows."


def test_a_folder_above_saved_data_sets_names_them(tmp_path):
    datasets.DatasetDict({"train": made()}).save_to_disk(tmp_path / "sets" / "dd")
    for name in ("odd", "one"):
        made().save_to_disk(tmp_path / "sets" / name)
    said = "it holds saved data sets: {}. Name one: hub:{}."
    assert failure(f"hub:{tmp_path}/sets") == f"{tmp_path}/sets: " + said.format("dd, odd, one", f"{tmp_path}/sets/dd")
    assert said.format("sets/dd, sets/odd, sets/one", f"{tmp_path}/sets/dd") in failure(f"hub:{tmp_path}")
    assert len(load_data(f"hub:{tmp_path}/sets/one")) == 2
    for split in ("train", "test"):
        made().save_to_disk(tmp_path / "parts" / split)
    assert load_data(f"hub:{tmp_path}/parts").counts()["by_split"] == {"test": 2, "train": 2}


def test_files_of_several_kinds_in_a_folder_are_refused_and_not_one_kind_taken(tmp_path):
    (tmp_path / "set").mkdir()
    made().to_parquet(tmp_path / "set" / "a.parquet")
    (tmp_path / "set" / "notes.json").write_text("{}")
    assert len(load_data(f"hub:{tmp_path}/set")) == 2
    for name in ("b.csv", "c.jsonl"):
        (tmp_path / "set" / name).write_text("question,answer\na?,b\n")
    said = "it holds files of .parquet and of .csv, .jsonl, of which only .parquet would be read. Keep one kind in the folder."
    assert failure(f"hub:{tmp_path}/set") == f"{tmp_path}/set: {said}"
    (tmp_path / "set" / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: '*.parquet'\n---\n")
    assert len(load_data(f"hub:{tmp_path}/set")) == 2


def test_a_column_that_is_missing_is_named(tmp_path):
    made().remove_columns("question").save_to_disk(tmp_path / "set")
    assert failure(f"hub:{tmp_path}/set").startswith(f"{tmp_path}/set, split all: it has no column 'question', but 'image', ")


def test_the_keys_of_a_spec():
    spec = parse_spec({"name": "hub", "path": "a/b", "config": "c", "split": "d", "columns": {"image": "e"}})
    assert spec == DataSpec("hub", "a/b", config="c", split="d", columns={"image": "e"})
    for name in ("csv", "jsonl"):
        with pytest.raises(DataError, match="unknown key 'config'"):
            parse_spec({"name": name, "config": "c"})


# --- rows that are conversations ---


def saved_rows(folder, rows, **features):
    datasets.Dataset.from_list(rows, datasets.Features(features)).save_to_disk(str(folder))
    return load_data(f"hub:{folder}")


def test_problem_and_solution_as_med_r1_saves_them(tmp_path):
    text, image = datasets.Value("string"), datasets.Image()
    rows = [
        {"image": picture("red"), "problem": "Which colour? A)Green, B)Red", "solution": "<answer> B </answer>"},
        {"image": picture("blue"), "problem": "How many?", "solution": "<answer> 3 </answer>"},
    ]
    choice, count = saved_rows(tmp_path / "set", rows, image=image, problem=text, solution=text)
    assert (choice.question, choice.options, choice.gold_index) == ("Which colour?", ("Green", "Red"), 1)
    assert (count.question, count.golds, count.kind) == ("How many?", ("3",), Kind.OPEN)
    assert open_image(choice.images[0]).getpixel((0, 0)) == COLOURS["red"]
    assert (choice.id, choice.extra) == ("all/1", {})


def test_messages_with_images_and_columns_of_other_bytes(tmp_path, capsys):
    text = datasets.Value("string")
    turn = {"role": text, "content": text}
    said = [{"role": "user", "content": "<image><image>Do they differ?"}, {"role": "assistant", "content": "yes"}]
    rows = [{"messages": said, "images": [picture("red"), picture("blue")], "raw": b"x", "site": "A", "split": "train"}]
    features = {"messages": [turn], "images": datasets.List(datasets.Image()), "raw": datasets.Value("binary")}
    (found,) = saved_rows(tmp_path / "set", rows, site=text, split=text, **features)
    assert (found.question, found.golds, found.kind, len(found.images)) == ("Do they differ?", ("yes",), Kind.YESNO, 2)
    assert (found.extra, found.split) == ({"site": "A"}, "train")
    assert "the bytes in 'raw' are left out" in " ".join(capsys.readouterr().err.split())


def test_a_broken_conversation_is_named_by_its_row(tmp_path):
    text = datasets.Value("string")
    rows = [{"problem": "a?", "solution": "x", "image": picture("red")}, {"problem": "b?", "solution": " ", "image": None}]
    with pytest.raises(DataError, match="split all, row 2: "):
        saved_rows(tmp_path / "set", rows, problem=text, solution=text, image=datasets.Image())


def test_a_column_question_counts_before_a_conversation(tmp_path):
    text = datasets.Value("string")
    rows = [{"question": "a?", "prompt": "not this", "answer": "x", "image": picture("red")}]
    (found,) = saved_rows(tmp_path / "set", rows, question=text, prompt=text, answer=text, image=datasets.Image())
    assert (found.question, found.extra) == ("a?", {"prompt": "not this"})


def test_columns_that_are_named_are_no_conversation(tmp_path):
    text = datasets.Value("string")
    rows = [{"problem": "Which? A)x, B)y", "solution": "y", "image": picture("red")}]
    saved_rows(tmp_path / "set", rows, problem=text, solution=text, image=datasets.Image())
    named = {"question": "problem", "answer": "solution"}
    (found,) = load_data({"name": "hub", "path": str(tmp_path / "set"), "columns": named})
    assert (found.question, found.options, found.golds) == ("Which? A)x, B)y", (), ("y",))
