"""Labels to questions: balanced exactly whatever the labels, every image accounted for, bad tables told by file and row."""

import csv
import json
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from osler.asking.floors import floors
from osler.asking.labels import Labelled, Table, read_table
from osler.asking.making import ask, kinds_in
from osler.asking.templates import OURS, read_templates
from osler.attackers import ATTACKERS, choice_of
from osler.auditing import audit
from osler.cli.app import app
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.errors import DataError, OslerError, RecipeError
from osler.fingerprints import Fingerprint
from osler.runs import Run
from osler.schema import Kind, Sample
from osler.stats import proportion
from osler.taxonomy import Modality, QuestionType

KINDS = tuple(Kind)
LABELS = ("Normal", "Cyst", "Drusen", "Naevus", "Oedema")
SCANS = (Modality.CT, Modality.UNKNOWN)


def image(number, labels, split=None, column="label", **facts):
    if not isinstance(labels, dict):
        labels = {column: (labels,) if isinstance(labels, str) else tuple(labels)}
    return Labelled(
        name=f"{number:04}.png", path=f"/{number:04}.png", labels=labels, where=f"row {number}", split=split, **facts
    )


def table(images, columns=("label",), group_is=None):
    return Table("labels.csv", tuple(images), columns, ("image", *columns), group_is)


def asked(images, columns=("label",), kinds=KINDS, seed=0, words=None, **settings):
    made = table(images, columns)
    return ask(made, words or read_templates(None, made.header), kinds, seed, **settings)


def every(found):
    return [row for part in found.parts.values() for row in part]


def assert_balanced(rows):
    """Of all rows with the same words and options each answer is right equally often; so it is within source and modality."""
    for scope in (lambda row: (), lambda row: (row.source, row.modality)):
        golds, places = defaultdict(Counter), defaultdict(Counter)
        for row in rows:
            if choice := choice_of(row):
                key = (scope(row), choice.stem, frozenset(choice.options))
                golds[key][choice.gold] += 1
                places[(scope(row), frozenset(choice.options))][choice.place] += 1
        for (_, _, options), times in golds.items():
            assert set(times) == options
            assert len(set(times.values())) == 1
        for (_, options), times in places.items():
            assert (len(times), len(set(times.values()))) == (len(options), 1)


def assert_at_chance(train, test):
    found = audit(Samples.of(train), Samples.of(test), images=False)
    assert found["chance_accuracy"] is not None
    for name in ATTACKERS:
        assert found[f"{name}_accuracy"] == pytest.approx(found["chance_accuracy"])
        interval = found["intervals"][f"{name}_accuracy"]
        assert interval["ci_low"] <= found["chance_accuracy"] <= interval["ci_high"]
    assert not found.invalid


@st.composite
def images_of_splits(draw):
    one = st.tuples(
        st.sampled_from(["train", "test"]),
        st.sets(st.sampled_from(LABELS), min_size=1, max_size=2),
        st.sampled_from("ab"),
        st.sampled_from(SCANS),
    )
    drawn = draw(st.lists(one, min_size=30, max_size=90))
    skewed = [(split, {"Normal"}, "a", Modality.CT) for split in ("train", "test") for _ in range(draw(st.integers(3, 30)))]
    pair = [(split, {label}, "a", Modality.CT) for split in ("train", "test") for label in LABELS[:2]]
    facts = enumerate([*drawn, *skewed, *pair])
    return [image(n, sorted(labels), split, source=s, modality=m) for n, (split, labels, s, m) in facts]


@settings(max_examples=12)
@given(images_of_splits(), st.integers(0, 3))
def test_words_and_options_say_nothing_whatever_the_labels(images, seed):
    found = asked(images, seed=seed)
    for part in found.parts.values():
        assert_balanced(part)
    train, test = found.parts["train"], found.parts["test"]
    for attacker in ATTACKERS.values():
        fitted = attacker.fit(train)
        credits = [(fitted.credit(row), 1 / len(choice.options)) for row in test if (choice := choice_of(row))]
        assert sum(credit for credit, _ in credits) == pytest.approx(sum(chance for _, chance in credits))


@settings(max_examples=12)
@given(images_of_splits(), st.integers(0, 3))
def test_every_answer_is_true_and_every_label_is_asked_or_counted(images, seed):
    found = asked(images, seed=seed)
    labels_of = {one.name: set(one.labels["label"]) for one in images}
    for row in every(found):
        labels = labels_of[row.extra["image_name"]]
        if row.kind is Kind.YESNO:
            (about,) = [label for label in LABELS if label in row.question]
            assert row.golds == ("yes" if about in labels else "no",)
        else:
            assert labels == set(row.golds)
            assert not row.options or set(row.options) & labels == set(row.golds)
    times = Counter(row.kind for row in every(found) if row.golds != ("no",))
    for (_, kind, _), rows in found.left_out.items():
        times[kind] += len(rows)
    assert times == {Kind.CHOICE: len(images), Kind.OPEN: len(images), Kind.YESNO: sum(map(len, labels_of.values()))}


def skewed(n=500):
    """Nine of ten normal, one label in one scanner's images only, two modalities with labels of their own."""
    rng, images = np.random.default_rng(0), []
    for k in range(n):
        modality = (Modality.CT, Modality.FUNDUS)[k % 2]
        scanner = "ab"[int(rng.integers(2))]
        ill = {Modality.CT: ["Cyst", "Tumour"], Modality.FUNDUS: ["Drusen", "Bleeding"]}[modality]
        label = "Normal" if rng.random() < 0.9 else ill[1] if scanner == "b" else ill[0]
        images.append(image(k, label, modality=modality, source=scanner, group=f"p{k // 3}"))
    return images


SKEWED = {
    "nine of ten normal": [replace(one, source="") for one in skewed()],
    "a label in one scanner only": skewed(),
    "several labels": [image(k, LABELS[: 1 + (k % 7 == 0) + (k % 3 == 0)], group=f"p{k // 2}") for k in range(300)],
    "many labels": [image(k, f"type {k % 23 // (1 + k % 3)}", group=f"p{k}") for k in range(300)],
}


@pytest.mark.parametrize("name", SKEWED)
def test_the_audits_attackers_are_at_chance_on_skewed_labels(name):
    found = asked(SKEWED[name], fractions={"train": 0.6, "val": 0.1, "test": 0.3})
    assert len(found.parts["test"]) > 40
    assert_at_chance(found.parts["train"], found.parts["test"])
    for part in found.parts.values():
        assert_balanced(part)


def test_the_same_attackers_win_where_every_label_is_offered():
    """What the balance takes away."""
    images = SKEWED["nine of ten normal"]
    offered = ("Normal", "Cyst", "Tumour", "Drusen", "Bleeding")
    rows = [
        Sample(one.name, (one.path,), "What?", one.labels["label"], offered, offered.index(one.labels["label"][0]))
        for one in images
    ]
    found = audit(Samples.of(rows[:300]), Samples.of(rows[300:]), images=False)
    assert found["option_prior_accuracy"] > 0.85
    assert found.invalid


def test_no_group_and_no_image_is_on_two_sides():
    found = asked(skewed())
    sides = defaultdict(set)
    for row in every(found):
        sides[row.group].add(row.split)
        sides[row.images[0]].add(row.split)
    assert set(found.parts) == {"train", "val", "test"}
    assert all(len(splits) == 1 for splits in sides.values())


def test_the_same_for_any_order_of_rows_and_another_for_another_seed():
    images = skewed(120)
    found = asked(images)
    assert asked(images[::-1]).parts == found.parts
    assert asked(images, seed=1).parts != found.parts


def test_what_is_asked_by_hand():
    split = [image(0, "A1", "train"), image(1, "B1", "train"), image(2, "B1", "train"), image(3, ("A1", "B1"), "train")]
    found = asked([*split, image(4, "A1", "test"), image(5, "B1", "test")])
    train = found.parts["train"]
    assert Counter(row.kind for row in train) == {Kind.CHOICE: 2, Kind.YESNO: 6, Kind.OPEN: 3}
    assert {key: len(rows) for key, rows in found.left_out.items()} == {
        ("label", "choice", "several_labels"): 1,
        ("label", "choice", "surplus"): 1,
        ("label", "open", "several_labels"): 1,
        ("label", "yesno", "surplus"): 2,  # two have A1 and two do not; three have B1, one does not
    }
    about = Counter((row.question.partition("B1")[1] or "A1", row.golds[0]) for row in train if row.kind is Kind.YESNO)
    assert about == {("A1", "yes"): 2, ("A1", "no"): 2, ("B1", "yes"): 1, ("B1", "no"): 1}
    assert found.labels == {"label": {"A1": {"train": 2, "test": 1}, "B1": {"train": 3, "test": 1}}}


def test_labels_that_an_image_has_not_are_asked_about_all_images():
    found = asked([image(k, LABELS[k % 4], "train") for k in range(60)], kinds=(Kind.YESNO,))
    times = Counter(row.images for row in every(found) if row.golds == ("no",))
    assert times.total() == 60
    assert max(times.values()) <= 2
    assert len(times) > 50


def test_the_floor_of_open_questions_is_the_most_frequent_answer():
    images = [image(k, "Normal" if k % 10 else "Cyst", "train" if k < 100 else "test") for k in range(200)]
    found = asked(images)
    told = floors(found.parts["train"], found.parts["test"])
    assert (told["open"]["floor"]["value"], told["open"]["n"], told["open"]["chance"]) == (0.9, 100, None)
    assert told["yesno"]["floor"]["value"] == told["yesno"]["chance"] == 0.5
    assert told["choice"]["floor"]["value"] == told["choice"]["chance"] == 0.5


def test_one_spelling_for_a_label():
    texts = ["normal", "Normal", "Normal", "Choroidal neovascularization (CNV)", "CNV", "CNV"]
    found = asked([image(k, text, ("train", "test")[k % 2]) for k, text in enumerate(texts * 2)])
    assert set(found.labels["label"]) == {"Normal", "CNV"}
    assert any("'normal' (2 times) is asked as 'Normal'" in note for note in found.notes)


@pytest.mark.parametrize(("yes", "no"), [("Yes", "No"), ("1", "0"), ("1.0", "0.0"), ("True", "False"), ("present", "absent")])
def test_a_column_that_says_yes_or_no_is_asked_by_its_own_name(yes, no):
    images = [image(k, yes if k % 4 == 0 else no, "train" if k < 20 else "test", "pleural_effusion") for k in range(40)]
    found = asked(images, ("pleural_effusion",))
    rows = every(found)
    assert {row.kind for row in rows} == {Kind.YESNO}
    assert all("pleural effusion" in row.question for row in rows)
    assert Counter(row.golds[0] for row in rows) == {"yes": 10, "no": 10}
    assert len(found.left_out["pleural_effusion", "choice", "yes_no"]) == 40
    assert len(found.left_out["pleural_effusion", "yesno", "surplus"]) == 20


def halves(*labels, column="label"):
    return [image(k, labels[k % len(labels)], ("train", "test")[k // len(labels) % 2], column) for k in range(12)]


@pytest.mark.parametrize("column", ["label", "Finding", "findings"])
def test_yes_or_no_of_nothing_is_refused(column, tmp_path):
    images = halves("1", "0", column=column)
    with pytest.raises(RecipeError, match=f"labels.csv: its column '{column}' says yes or no of each image, but not of what"):
        asked(images, (column,))
    file = tmp_path / "words.yaml"
    for text in (f"columns: {{{column}: {{name: pneumonia}}}}", "default: {name: pneumonia}"):
        file.write_text(text)
        rows = every(asked(images, (column,), words=read_templates(file, (column,))))
        assert all("pneumonia" in row.question for row in rows)
    file.write_text('default: {labels: {"1": cyst, "0": normal}}')
    assert {row.kind for row in every(asked(images, (column,), words=read_templates(file, (column,))))} == set(KINDS)


def test_labels_that_may_mean_something_else_are_told(tmp_path):
    numbers = "the labels of 'label' are all numbers (0, 1, 2), and are asked as numbers. "
    assert any(note.startswith(numbers) for note in asked(halves("0", "1", "2")).notes)
    (note,) = (note for note in asked(halves("None", "Cyst")).notes if "--templates" in note)
    assert note.startswith("the label 'None' (6 times) is asked as any other label.")
    file = tmp_path / "words.yaml"
    file.write_text('default: {labels: {"0": none seen, "1": mild, "2": severe}}')
    found = asked(halves("0", "1", "2"), words=read_templates(file, ("label",)))
    assert not any("--templates" in note for note in found.notes)


def test_copies_of_a_picture_are_left_out_and_counted():
    images = [image(k, LABELS[k % 2], ("train", "test")[k // 2 % 2]) for k in range(8)]
    pixels = ["a", "b", "a", "c", "d", "d", "e", "f"]  # 0 and 2 agree across splits, 4 and 5 do not
    prints = {one.path: Fingerprint(text, ord(text)) for one, text in zip(images, pixels, strict=True)}
    found = asked(images, kinds=(Kind.OPEN,), prints=prints)
    assert {key[2]: rows for key, rows in found.left_out.items()} == {"copy": ["row 2"], "contradictory": ["row 4", "row 5"]}
    assert len(every(found)) == 5


def test_the_question_type_is_the_templates_the_rows_or_the_columns(tmp_path):
    pair = [{"severity": (a,), "plane": (a,)} for a in ("one", "two")]
    images = [image(k, pair[k % 2], ("train", "test")[k // 2 % 2], column="") for k in range(8)]
    file = tmp_path / "words.yaml"
    file.write_text("columns: {plane: {question_type: Other biological attributes, yesno: ['{label} as {column}?']}}")
    words = read_templates(file, ("severity", "plane"))
    rows = every(asked(images, ("severity", "plane"), words=words))
    assert {(row.extra["label_column"], row.question_type) for row in rows} == {
        ("severity", QuestionType.GRADING),
        ("plane", QuestionType.ATTRIBUTE),
    }


def test_where_the_modality_is_asked_for_no_word_says_it(tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(
        "default: {choice: ['Which scan, {modality}?', 'Which?'], yesno: ['{label}?'], open: ['{modality}: what?']}"
    )
    modalities = [Modality.CT, Modality.MRI]
    images = [image(k, modalities[k % 2], "train", "modality", modality=modalities[k % 2]) for k in range(8)]
    words = read_templates(file, ("modality",))
    rows = every(asked(images, ("modality",), (Kind.CHOICE,), words=words))
    assert {row.question for row in rows} == {"Which?"}
    with pytest.raises(RecipeError, match="every wording of open says"):
        asked(images, ("modality",), (Kind.OPEN,), words=words)


# --- templates ---


def test_another_language_has_words_and_answers_of_its_own(tmp_path):
    file = tmp_path / "de.yaml"
    file.write_text(
        "default:\n  language: de\n  yes: ja\n  no: nein\n  labels: {Normal: unauffällig, Junk: ''}\n"
        "  choice: ['Was zeigt das Bild: {labels}?']\n  yesno: ['Zeigt das Bild {label}?']\n",
        encoding="utf-8",
    )
    labels = ["Normal", "Zyste", "Junk"]
    images = [image(k, labels[k % 3], ("train", "test")[k % 2]) for k in range(24)]
    words = read_templates(file, ("label",))
    found = asked(images, kinds=(Kind.CHOICE, Kind.YESNO), words=words)
    rows = every(found)
    assert {row.language for row in rows} == {"de"}
    assert {row.options for row in rows if "Zeigt" in row.question} == {("ja", "nein")}
    assert {row.question for row in rows if "Was" in row.question} == {"Was zeigt das Bild: Zyste, unauffällig?"}
    assert len(found.left_out["", "", "no_label"]) == 8
    for part in found.parts.values():
        assert_balanced(part)
    with pytest.raises(RecipeError, match="nothing for open: in the language 'de'"):
        asked(images, words=words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: {choice: ['Which {colum}?']}", "unknown placeholder 'colum'. Did you mean 'column'"),
        ("default: {choice: ['Is it {label}?']}", "would tell the answer"),
        ("default: {yesno: ['Is it?']}", "does not say {label}"),
        ("default: {open: ['What {column!r}?']}", "holds a format"),
        ("default: {open: ['What {column.__class__}?']}", "unknown placeholder 'column.__class__'"),
        ("default: {open: ['What {column?']}", "cannot be filled in"),
        ("default: {opn: ['What?']}", "unknown key 'opn'. Did you mean 'open'"),
        ("colums: {}", "unknown key 'colums'. Did you mean 'columns'"),
        ("columns: {labl: {name: x}}", "unknown column 'labl'. Did you mean 'label'"),
        ("default: {open: What?}", "open"),
        ("default: {question_type: gradin}", "gradin"),
        ("default: [", "is no YAML"),
        ("- a", "holds no mapping"),
    ],
)
def test_words_that_cannot_be_asked_are_told(text, message, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(OslerError) as told:
        asked([image(0, "A1"), image(1, "B1")], words=read_templates(file, ("image", "label")))
    assert message in str(told.value)


def test_two_columns_in_the_same_words_are_refused():
    both = [image(k, {"left": (LABELS[k % 2],), "right": (LABELS[k // 2 % 2],)}, column="") for k in range(40)]
    with pytest.raises(RecipeError, match="'left' and 'right' are asked in the same words"):
        asked(both, ("left", "right"), (Kind.YESNO,))


def test_the_words_that_are_written_to_edit_are_ours(tmp_path):
    file = tmp_path / "words.yaml"
    done = CliRunner().invoke(app, ["data", "ask", "--write-templates", str(file)])
    assert (done.exit_code, file.read_text()) == (0, OURS)
    ours, written = (read_templates(one, ("label",)).of("label", KINDS) for one in (None, file))
    assert replace(written, where=ours.where) == ours
    assert set(ours.by_kind) == set(KINDS)


def test_kinds_are_told_apart():
    assert kinds_in("open, choice") == (Kind.CHOICE, Kind.OPEN)
    with pytest.raises(RecipeError, match="Did you mean 'choice'"):
        kinds_in("choise")


# --- tables ---


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


def written(folder, text, encoding="utf-8"):
    file = folder / "labels.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("image,label\na.png,x\nq.png,y\n", ", row 2", "there is no image 'q.png'"),
        ("image,label\na.png,x\nb.pgn,y\nq.png,y\n", ", row 2", "Did you mean 'b.png'? Nor are there those of 1 more rows"),
        ("image,label\na.png,x\nb.png,\n", ", row 2", "its 'label' is empty. Fill it in, delete the row"),
        ("image,label\na.png,x\nb.png,nan\n", ", row 2", "its 'label' is 'nan', which counts as empty"),
        ("image,label\na.png,x\nb.png,x;n/a\n", ", row 2", "an empty label between semicolons: 'x;n/a'"),
        ("image,label,patient\na.png,x,p\nb.png,x,NA\n", ", row 2", "its 'patient' is 'NA', which counts as empty"),
        ("image,label,patient_id,Subject\na.png,x,p,q\n", "", "its columns 'patient_id' and 'Subject' are both patient"),
        ("image,label,Patient No\na.png,x,p\n", "", "must not be in two splits. Say so: --column patient='Patient No'."),
        ("image,label,subject_key,patient_age\na.png,x,p,7\n", "", "--column patient=subject_key."),
        ("image,label,group,group_is_patient\na.png,x,p,p\n", ", row 1", "should be true or false, not 'p'"),
        ("image,label\na.png,x\nb.png,x;;y\n", ", row 2", "an empty label between semicolons"),
        ("image,label\na.png,x\n,y\n", ", row 2", "its 'image' is empty"),
        ("image,label\na.png,x\nb.png,x\na.png,y\n", ", row 3", "has the label 'y' here, and 'x' by"),
        ("image,label\na.png,x\nb.png,x\na.png,x\n", ", row 3", "is in"),
        ("image,label,patient\na.png,x,p\nb.png,x,\n", ", row 2", "its 'patient' is empty"),
        ("image,label,patient,split\na.png,x,p,train\nb.png,x,p,test\n", ", row 2", "'p' is in test here, and in train by"),
        ("image,label,split\na.png,x,train\nb.png,x,\n", ", row 2", "it has no split"),
        ("image,label,split\na.png,x,train\nb.png,x,validation\n", ", row 2", "Write 'val'"),
        ("image,labl\na.png,x\n", "", "it has no column 'label', but 'image', 'labl'"),
        ("img,label\na.png,x\n", "", "it has no column 'image', but 'img', 'label'. Name the one with the paths: --column"),
        ("image|label\na.png|x\n", "", "Save it with commas"),
        ("image,label,label\na.png,x,y\n", "", "names the column 'label' twice"),
        ("image,label\na.png,x,y\n", ", row 1", "it has 3 fields, the header 2"),
        ("image,label\n", "", "no row below its header"),
        ("", "", "it is empty"),
        ("image,label,patient,group\na.png,x,p,g\n", "", "both a patient and a group"),
    ],
)
def test_a_bad_table_is_told_by_file_and_row(text, where, message, folder):
    file = written(folder, text)
    with pytest.raises(DataError) as told:
        read_table(file, folder / "images")
    assert str(told.value).startswith(f"{file}{where}")
    assert message in str(told.value)


def test_another_encoding_is_told(folder):
    with pytest.raises(DataError, match=r"labels.csv, row 1: from line 2 on it is not in UTF-8"):
        read_table(written(folder, "image,label\na.png,Ödem\n", "latin-1"), folder / "images")


def test_a_column_that_is_not_there_is_told_with_the_nearest(folder):
    file = written(folder, "image,finding\na.png,x\n")
    with pytest.raises(DataError, match=r"unknown column 'findings'\. Did you mean 'finding'"):
        read_table(file, folder / "images", ["findings"])
    with pytest.raises(DataError, match=r"unknown name 'patiant'\. Did you mean 'patient'"):
        read_table(file, folder / "images", ["finding"], {"patiant": "finding"})
    with pytest.raises(DataError, match="holds the images"):
        read_table(file, folder / "images", ["image"])


def test_a_column_of_free_text_is_no_column_of_labels(tmp_path):
    (tmp_path / "a.png").touch()
    labels = [image(k, f"report {k}") for k in range(30)]
    file = tmp_path / "labels.csv"
    file.write_text("image,label\n" + "".join(f"{one.name},{one.labels['label'][0]}\n" for one in labels))
    for one in labels:
        (tmp_path / one.name).touch()
    with pytest.raises(DataError, match="each of the 30 labels of its column 'label' is there once"):
        read_table(file, tmp_path)


def test_a_table_is_read_with_what_else_it_says(folder):
    text = (
        "File,Finding,Case,modality,sex,answer\r\n"
        "a,Cyst; Oedema,p1,Radiology (modality not stated),f,1\r\nd.jpg,,p2,CT scan,m,\r\nc.png,Cyst,p2,Wobblescopy,,\r\n"
    )
    named = {"image": "File", "patient": "Case"}
    found = read_table(written(folder, text, "utf-8-sig"), folder / "images", ["Finding"], named, skip_empty=True)
    one, two, three = found.images
    assert one.path.endswith("a.png")  # named without its ending
    assert (one.labels, two.labels) == ({"Finding": ("Cyst", "Oedema")}, {"Finding": ()})
    assert [each.modality for each in found.images] == [Modality.UNKNOWN, Modality.CT, Modality.UNKNOWN]
    assert (one.group, one.group_is_patient, found.group_is) == ("p1", True, "patient")
    assert (one.extra, three.extra) == ({"sex": "f", "column_answer": "1"}, {"modality_as_written": "Wobblescopy"})
    assert found.notes == (
        "the modality 'Wobblescopy' of 1 rows is not known and counts as unknown",
        "2 of 3 images are of unknown modality",
    )


ALIASES = ["patient_id", "Patient ID", "patientid", "subject", "Subject_ID", "case_id"]


@pytest.mark.parametrize("column", ALIASES)
def test_other_names_of_the_patient(column, folder):
    found = read_table(written(folder, f"image,label,{column}\na.png,x,p\nb.png,x,p\n"), folder / "images")
    assert [(one.group, one.group_is_patient, one.extra) for one in found.images] == [("p", True, {})] * 2
    assert found.group_is == "patient"


@pytest.mark.parametrize(("said", "group_is"), [("true", "patient"), ("False", "group"), ("", "group")])
def test_the_manifests_own_names_of_the_group(said, group_is, folder):
    text = f"image,label,patient_or_group_id,group_is_patient\na.png,x,p,true\nb.png,x,q,{said}\n"
    found = read_table(written(folder, text), folder / "images")
    assert [one.group_is_patient for one in found.images] == [True, group_is == "patient"]
    assert ([one.group for one in found.images], found.group_is) == (["p", "q"], group_is)


@pytest.mark.parametrize(
    ("header", "labels", "named", "group"),
    [
        ("patient_age,PatientSex", ["label"], {}, None),
        ("patient_key,site", ["label"], {"patient": "patient_key"}, "1"),
        ("patient,subject", ["label"], {"patient": "subject"}, "2"),
        ("patient,group", ["label"], {"group": "group"}, "2"),
        ("patient,subject", ["subject"], {}, "1"),
        ("patient_key,group", ["patient_key"], {}, "2"),
    ],
)
def test_which_column_is_the_group(header, labels, named, group, folder):
    file = written(folder, f"image,label,{header}\na.png,x,1,2\n")
    assert read_table(file, folder / "images", labels, named).images[0].group == group


@pytest.mark.parametrize("cell", ["NA", "n/a", "#N/A", "nan", "NULL", "", "NA; na"])
def test_what_programs_write_for_an_absent_label_is_none(cell, folder):
    file = written(folder, f"image,label\na.png,Cyst\nb.png,{cell}\nc.png,none\n")
    found = read_table(file, folder / "images", skip_empty=True)
    assert [one.labels["label"] for one in found.images] == [("Cyst",), (), ("none",)]
    with pytest.raises(DataError, match=r"row 2: its 'label' is .*empty"):
        read_table(file, folder / "images")


# --- real labels ---


REAL = {
    "bccd": ("platelets", "rbc_count"),
    "chula_rbc12": ("rbc_type",),
    "chula_rbc_disease": ("disease",),
    "ham10000_224": ("dx",),
    "srahim_dr": ("eye", "grade", "maculopathy"),
    "mednist64": ("anatomy",),
    "pocus": ("lung",),
}


def real_table(shared_data, source, file):
    """The labels of the real images of one source as a user would have them: a CSV with a column for each question."""
    rows = map(json.loads, (shared_data / "real" / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    images = defaultdict(dict)
    for row in rows:
        if row["source"] == source:
            images[row["image"]].update({row["label_key"]: row["answer"], "about": row})
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["image", "group", "modality", *REAL[source]])
        for name, found in images.items():
            about = [found["about"]["patient_or_group_id"], found["about"]["modality"]]
            writer.writerow([name, *about, *(found.get(column, "") for column in REAL[source])])
    return read_table(file, shared_data / "real", REAL[source], skip_empty=True)


@pytest.mark.parametrize("source", REAL)
def test_the_attackers_are_at_chance_on_real_labels(shared_data, tmp_path, source):
    made = real_table(shared_data, source, tmp_path / "labels.csv")
    found = ask(made, read_templates(None, made.header), KINDS, 0, {"train": 0.7, "val": 0.1, "test": 0.2})
    assert_at_chance(found.parts["train"], found.parts["test"])
    for part in found.parts.values():
        assert_balanced(part)
    names = {one.name for one in made.images if any(one.labels.values())}
    assert len({row.images[0] for row in every(found)}) >= 0.8 * len(names)  # of mednist64 one modality has one label


def test_the_command_on_real_images_and_its_audit(shared_data, tmp_path):
    real_table(shared_data, "pocus", tmp_path / "labels.csv")
    command = ["data", "ask", str(tmp_path / "labels.csv"), "--images", str(shared_data / "real"), "--label", "lung"]
    command += ["--skip-empty", "--fractions", "0.7,0.1,0.2", "--out", str(tmp_path / "data"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["kind"] == "ask"
    assert {name: told[name] for name in ("labels", "left_out", "floors", "parts")} == {
        name: manifest[name] for name in ("labels", "left_out", "floors", "parts")
    }
    assert {"column": None, "kind": None, "reason": "no_label", "n": 32} in [
        {name: one[name] for name in ("column", "kind", "reason", "n")} for one in told["left_out"]
    ]
    rows = load_data(f"jsonl:{tmp_path / 'data'}")
    assert rows.counts()["by_split"] == {name: part["n"] for name, part in told["parts"].items()}
    train, test = (rows.where(split=split) for split in ("train", "test"))
    assert_at_chance(train, test)
    checked = audit(train, test)  # and with the pixels read
    assert (checked["shared_image_rows"], checked["near_duplicate_pairs"], checked["shared_group_rows"]) == (0, 0, 0)
    assert told["audit"]["floor"] == checked["floor"]
    open_rows = [row for row in test if row.kind is Kind.OPEN]
    answer = Counter(row.golds[0] for row in train if row.kind is Kind.OPEN).most_common(1)[0][0]
    right = proportion([row.golds == (answer,) for row in open_rows], [row.cluster for row in open_rows])
    assert told["floors"]["open"]["floor"] == pytest.approx(right.to_json())


# --- the command ---


def drawn(folder, count=90):
    """A folder of small pictures, each with a nodule, an effusion or neither, and a CSV of their labels."""
    rng, rows = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for n in range(count):
        label, (x, y) = ("Nodule", "Effusion", "Normal")[n % 3], rng.integers(12, 40, 2).tolist()
        picture = Image.fromarray(rng.integers(40, 120, (64, 64, 3), dtype=np.uint8))
        canvas = ImageDraw.Draw(picture)
        if label == "Nodule":
            canvas.ellipse((x, y, x + 12, y + 12), fill=(250, 250, 250))
        if label == "Effusion":
            canvas.rectangle((0, 36 + y // 4, 64, 64), fill=(230, 230, 230))
        picture.save(folder / "images" / f"{n:03}.png")
        rows.append((f"{n:03}.png", label, f"p{n // 2:02}", "X-ray"))
    with (folder / "labels.csv").open("w", newline="") as text:
        csv.writer(text).writerows([("image", "label", "patient", "modality"), *rows])
    return folder


def test_the_command_tells_what_it_made_left_out_and_found(tmp_path):
    work = drawn(tmp_path / "work", 45)
    (work / "images" / "copy.png").write_bytes((work / "images" / "000.png").read_bytes())
    with (work / "labels.csv").open("a") as text:
        text.write("copy.png,Nodule,p99,X-ray\n")
    command = ["data", "ask", str(work / "labels.csv"), "--images", str(work / "images"), "--out", str(tmp_path / "data")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for text in (
        "images by label",
        "copy: the picture is there already",
        "note: divided by patients",
        "chance",
        "Next: osler train",
    ):
        assert text in done.output
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == [
        "manifest.json",
        *(f"{s}.jsonl" for s in ("test", "train", "val")),
    ]
    again = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "again")])
    assert again.exit_code == 0
    for name in ("train.jsonl", "val.jsonl", "test.jsonl"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kinds", "choise"], "Did you mean 'choice'"),
        (["--fractions", "0.5,0.5"], "are not understood"),
        (["--fractions", "0.5,0.1,0.1"], "are no shares"),
        (["--column", "image"], "not of the form NAME=COLUMN"),
        (["--templates", "nowhere.yaml"], "cannot be read"),
        (["--images", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_bad_option_is_one_error(more, message, tmp_path):
    work = drawn(tmp_path / "work", 6)
    command = ["data", "ask", str(work / "labels.csv"), "--images", str(work / "images"), "--out", str(tmp_path / "data")]
    done = CliRunner().invoke(app, [*command, *more])
    assert isinstance(done.exception, OslerError)
    assert message in str(done.exception)
    assert not (tmp_path / "data").exists()


def osler(work, *arguments):
    command = [sys.executable, "-m", "osler", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_three_commands_from_a_folder_of_images_to_an_evaluated_model(tmp_path):
    work = drawn(tmp_path / "work")
    told = osler(work, "data", "ask", "labels.csv", "--images", "images", "--out", "data")
    assert all(line in told for line in ("floor", "option_prior", "most frequent answer"))
    few = ("sft.max_steps=20", "grpo.max_steps=2", "sft.sft.batch_size=8", "sft.sft.micro_batch=8", "rollout.G=4")
    osler(work, "train", "real_images", "data.train=jsonl:data", "--out", "runs/first", *few)
    summary = json.loads(
        osler(work, "eval", "--model", "run:runs/first/grpo", "--data", "jsonl:data", "--out", "runs/test", "--json")
    )
    trained = Run.open(work / "runs/first/grpo", "train")
    assert (trained.manifest["state"], trained.manifest["kind"]) == ("done", "train")
    assert trained.summary["steps"] == 2
    test = load_data(f"jsonl:{work / 'data'}").where(split="test")
    assert summary["accuracy"]["n"] == len(test) > 20
    chance = [1 / len(choice.options) for row in test if (choice := choice_of(row))]
    assert summary["floor"]["value"] == pytest.approx(sum(chance) / len(chance))
    assert {"blank", "shuffled"} <= set(summary["controls"])
    assert (work / "runs/first/report.html").stat().st_size > 100_000
