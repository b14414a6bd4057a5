import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from osler import pipeline
from osler.cli.app import app
from osler.config import DataSettings, Recipe
from osler.datasets.load import DATASETS, DataSpec, load_data, parse_spec
from osler.datasets.manifests import write_manifest
from osler.datasets.medr1 import split_problem
from osler.datasets.samples import Samples
from osler.datasets.splits import hold_out, load_part, load_splits, part
from osler.errors import DataError
from osler.images import open_image
from osler.recipe_files import load_recipe
from osler.schema import LETTERS, Kind, Sample
from osler.taxonomy import Modality, QuestionType
from real_layout import save_real_layout

ODD = "odd names (1) [a]/a b & c #1 100% ?x=1 é.png"
ROW = {"id": "a", "image": "x.png", "question": "Where?", "options": ["Left", "Right"], "answer_index": 1}
ABSENT = object()


@pytest.fixture
def write(tmp_path):
    """Writes rows (dictionaries or raw lines) to a manifest beside one image, x.png; returns the manifest's path."""
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png")

    def manifest(*rows, name="rows.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return manifest


@pytest.fixture
def split_file(tmp_path):
    """Writes one of Med-R1's split files; returns its path."""

    def write_rows(*rows, name="X-Ray_test.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows))
        return file

    return write_rows


def medr1_row(problem="Which side? A)Left, B)Right", solution="<answer> B </answer>", image="Images/Mura/a.png"):
    return {"image": image, "problem": problem, "solution": solution}


def sample(number: int, **fields) -> Sample:
    return Sample(id=str(number), images=(f"{number}.png",), question="Where?", golds=("Left",), **fields)


# --- the data spec ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("jsonl:a.jsonl", ("jsonl", "a.jsonl", None)),
        ("jsonl:a.jsonl?images=/b c", ("jsonl", "a.jsonl", "/b c")),
        ("medr1:a:b?images=c?images=d", ("medr1", "a:b?images=c", "d")),
        ("medr1:CT(Computed Tomography)_train.json", ("medr1", "CT(Computed Tomography)_train.json", None)),
        ("my.package:rows", ("my.package:rows", None, None)),
        ("mine:rows:a:b?images=c", ("mine:rows", "a:b", "c")),
        ("jsonl:rows:a", ("jsonl", "rows:a", None)),
        ("nothing", ("nothing", None, None)),
    ],
)
def test_the_parts_of_a_spec(text, parts):
    assert parse_spec(text) == DataSpec(*parts)


PATH = (
    st.lists(st.sampled_from([*"? %&#[]():=a/", "?images=", "images=", "phantoms:"]) | st.text(max_size=2), min_size=1)
    .map("".join)
    .filter(bool)
)


@given(name=st.sampled_from(["jsonl", "medr1"]), path=PATH, root=st.none() | PATH)
def test_a_spec_takes_any_path_literally(name, path, root):
    assume("?images=" not in (path if root is None else root))
    text = f"{name}:{path}" + ("" if root is None else f"?images={root}")
    assert parse_spec(text) == DataSpec(name, path, root)
    assert parse_spec({"name": name, "path": path, "images": root}) == DataSpec(name, path, root)


def test_a_mapping_may_hold_what_separates_in_a_text():
    assert parse_spec({"name": "jsonl", "path": "a?images=b"}) == DataSpec("jsonl", "a?images=b")


def test_a_text_that_begins_with_a_brace_is_a_mapping_in_yaml():
    text = '{name: jsonl, path: "a, b?images=c", where: {modality: [CT, MRI]}, limit: {train: 3}, seed: 2}'
    spec = DataSpec("jsonl", "a, b?images=c", seed=2, where={"modality": ["CT", "MRI"]}, limit={"train": 3})
    assert parse_spec(text) == spec
    assert parse_spec('{"name": "phantoms", "mark": {"test": "against"}, "grain": 60}').grain == 60
    assert parse_spec("jsonl:{name: phantoms}") == DataSpec("jsonl", "{name: phantoms}")
    rows = load_data("{name: phantoms, seed: 3, train: 0, val: 0, test: 2, mark: against}")
    assert {row.extra["mark_agrees"] for row in rows} == {False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: phantoms", "is no YAML mapping (while parsing a flow mapping"),
        ("{name: phantoms} x", "is no YAML mapping ("),
        ("{name: jsonl, path: 2020-13-45}", "is no YAML mapping (month must be in 1..12)"),
        ("{name: phantoms, tst: 3}", "unknown key 'tst'. Did you mean 'test'"),
        ("{path: a}", "names no data set"),
        ("{}", "names no data set"),
        ("{1: 2}", "unknown key '1'"),
        (" {name: phantoms}", "unknown data set ' {name'"),
    ],
)
def test_a_text_that_begins_with_a_brace_and_is_no_spec(text, message):
    with pytest.raises(DataError) as error:
        load_data(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_phantoms_by_seed_and_by_mapping():
    assert parse_spec("phantoms:7") == DataSpec("phantoms", seed=7)
    assert parse_spec({"name": "phantoms", "seed": 7, "test": 3}) == DataSpec("phantoms", seed=7, test=3)
    assert set(load_data({"name": "phantoms", "train": 2, "val": 0, "test": 3}).counts()["by_split"]) == {"train", "test"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jsonnl:a", "Did you mean 'jsonl'"),
        ("jsonnl:a b.jsonl", "Did you mean 'jsonl'"),
        (
            "nothing",
            "Known: conversations, csv, hub, jsonl, medr1, medxpertqa, omnimedvqa, pathvqa, phantoms, pmc_vqa, pmc_vqa_usable, "
            "silvar_med, slake, tsv, vqa_med_2019, vqa_med_2019_rad, vqa_rad",
        ),
        ("osler.datasets.medr1:nothing", "has no function 'nothing'"),
        ({"name": ".medr1:read"}, "package.module:function"),
        ({"name": ""}, "unknown data set ''"),
        ("jsonl", "needs a file or a folder"),
        ("jsonl:", "empty part"),
        ("jsonl:a?images=", "empty part"),
        ("phantoms:x", "phantoms:SEED"),
        ("phantoms:7?images=a", "unknown key 'images'"),
        ("jsonl:/no/such/file.jsonl", "there is no /no/such/file.jsonl"),
        ({"name": "jsonl", "pth": "a"}, "Did you mean 'path'"),
        ({"name": "phantoms", "path": "a"}, "unknown key 'path'"),
        ({"name": "phantoms", "seed": -1}, "'seed'"),
        ({"name": "phantoms", "test": "3"}, "'test'"),
        ({"name": "jsonl", "path": 3}, "'path'"),
        ({"path": "a"}, "names no data set"),
    ],
)
def test_a_spec_that_cannot_be_used(spec, message):
    with pytest.raises(DataError) as error:
        load_data(spec)
    assert message in str(error.value)


def own_rows(spec: DataSpec):
    yield replace(sample(1), source=f"{Path(spec.path or '').name}")


def test_a_function_of_ones_own_is_a_data_set(write, monkeypatch):
    file = write(ROW)
    assert load_data(f"{__name__}:own_rows:{file}")[0].source == "rows.jsonl"
    assert load_data({"name": f"{__name__}:own_rows", "path": str(file)})[0].source == "rows.jsonl"
    monkeypatch.setitem(DATASETS, "own", own_rows)
    assert load_data(f"own:{file}")[0].source == "rows.jsonl"


def test_an_error_inside_ones_own_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_rows.py").write_text("import surely_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_absent"):
        load_data("broken_rows:rows")


def test_relative_paths_start_here_or_below_osler_data(write, tmp_path, monkeypatch):
    write(ROW)
    monkeypatch.chdir(tmp_path)
    assert load_data("jsonl:rows.jsonl?images=.")[0].images == ("./x.png",)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("OSLER_DATA", str(tmp_path))
    assert load_data("jsonl:rows.jsonl")[0].images == (str(tmp_path / "x.png"),)
    with pytest.raises(DataError, match=r"there is no none\.jsonl and no .*none\.jsonl"):
        load_data("jsonl:none.jsonl")


# --- which rows are kept ---

DOMAINS = [
    {"modality": "CT", "question_type": "Disease Diagnosis", "source": "north", "language": "en"},
    {"modality": "MRI", "question_type": "Disease Diagnosis", "source": "north", "language": "zh"},
    {"modality": "CT", "question_type": "Anatomy Identification", "source": "south", "language": "en"},
    {"modality": "Ultrasound", "question_type": "Lesion Grading", "source": "south", "language": "en"},
]


@pytest.fixture
def domains(write):
    """The spec of a manifest with one row for each of DOMAINS, and one about nothing that is asked openly."""
    bare = {"id": 4, "image": "x.png", "question": "What?", "answer": "a nodule"}
    return {"name": "jsonl", "path": str(write(*(ROW | {"id": k} | domain for k, domain in enumerate(DOMAINS)), bare))}


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"modality": "CT"}, "02"),
        ({"modality": "computed tomography"}, "02"),
        ({"modality": ["US", "MR (Mag-netic Resonance Imaging)"]}, "13"),
        ({"question_type": ["dd", "LESION GRADING"]}, "013"),
        ({"modality": "CT", "question_type": "diagnosis"}, "0"),
        ({"modality": "unknown"}, "4"),
        ({"source": "north", "language": ["zh", "en"]}, "01"),
        ({"kind": "open"}, "4"),
        ({"kind": ["open", "choice"]}, "01234"),
        ({"modality": ["CT", "Fundus"]}, "02"),
    ],
)
def test_where_keeps_the_rows_that_agree_with_every_key_in_their_order(domains, where, kept):
    assert "".join(row.id for row in load_data({**domains, "where": where})) == kept


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"modalty": "CT"}, "where: unknown key 'modalty'. Did you mean 'modality'"),
        ({"split": "train"}, "where: unknown key 'split'"),
        ({"modality": "Ultrasond"}, "unknown modality 'Ultrasond'. Did you mean 'Ultrasound'"),
        ({"question_type": ["dd", "gradin"]}, "unknown question type 'gradin'"),
        ({"kind": "chioce"}, "unknown kind 'chioce'. Did you mean 'choice'"),
        ({"source": ["north", "nroth"]}, "where: unknown source 'nroth'. Did you mean 'north'"),
        ({"language": "fr"}, "where: unknown language 'fr'. Known: en, zh"),
        ({"modality": ["OCT", "Fundus"]}, "none of the 5 rows has modality Fundus or OCT"),
        (
            {"modality": "MRI", "kind": "open"},
            "by modality {'CT': 2, 'MRI': 1, 'Ultrasound': 1, 'unknown': 1}; by kind {'choice'",
        ),
        ({"modality": []}, "where: the list of modality is empty. Name what is kept, or leave modality out."),
        ({"modality": "CT", "source": []}, "where: the list of source is empty."),
        ({}, "where: it is empty. Say something there, or leave where out."),
        ({"modality": 3}, "the field 'where'"),
        ("CT", "the field 'where'"),
    ],
)
def test_where_that_names_nothing_says_what_there_is(domains, where, message):
    with pytest.raises(DataError) as error:
        load_data({**domains, "where": where})
    assert message in str(error.value)
    assert domains["path"] in str(error.value)


def test_an_unknown_value_is_told_before_a_large_file_is_read(write):
    file = write("no row at all")
    with pytest.raises(DataError, match="unknown modality"):
        load_data({"name": "jsonl", "path": str(file), "where": {"modality": "CTT"}})


def test_where_works_for_phantoms_and_for_ones_own_function():
    rows = load_data({**PHANTOMS, "train": 16, "where": {"modality": ["CT", "OCT"], "question_type": "anatomy"}})
    assert {row.modality for row in rows} == {Modality.CT, Modality.OCT}
    assert {row.question_type for row in rows} == {QuestionType.ANATOMY}
    own = f"{__name__}:own_rows"
    assert len(load_data({"name": own, "path": __file__, "where": {"modality": "unknown"}, "limit": 5})) == 1


def test_one_domain_is_trained_and_stopped_on_and_all_are_tested_on():
    spec = {"name": "phantoms", "train": 24, "val": 16, "test": 16}
    for val, share in ((16, 0.1), (0, 0.5)):
        train = {**spec, "val": val, "where": {"modality": "CT"}}
        splits = load_splits(DataSettings(train=train, test=spec, val_share=share), seed=0)
        assert {row.modality for row in (*splits.train, *splits.val)} == {Modality.CT}
        assert {row.modality for row in splits.test} == set(Modality) - {Modality.UNKNOWN}
        assert not {row.group for row in splits.train} & {row.group for row in splits.val}
        assert len(splits.val)
        assert {row.modality for row in load_splits(DataSettings(train=train), seed=0).test} == {Modality.CT}


def test_the_keys_of_a_spec_can_be_set_from_the_command_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: {name: phantoms, train: 16}}\n")
    train = load_recipe(file, ["data.train.where.modality=CT", "data.train.limit={train: 3}"]).data.train
    assert {row.modality for row in load_data(train)} == {Modality.CT}
    assert load_data(train).counts()["by_split"]["train"] == 3


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"where": {"modality": "CT"}}, "where keeps 2 of 5 rows (1 of unknown modality left out)."),
        (
            {"where": {"modality": ["CT", "Fundus", "OCT"]}, "limit": 1},
            "where keeps 2 of 5 rows, limit 1 of these (no row has modality Fundus or OCT; 1 of unknown modality left out).",
        ),
        ({"where": {"modality": ["CT", "unknown"]}}, "where keeps 3 of 5 rows."),
        ({"where": {"kind": ["choice", "yesno"]}}, "where keeps 4 of 5 rows (no row has kind yesno)."),
        ({"where": {"source": "north"}}, "where keeps 2 of 5 rows."),
        ({"where": {"question_type": "dd"}}, "where keeps 2 of 5 rows (1 of unknown question type left out)."),
        ({"limit": 4}, "limit keeps 4 of 5 rows."),
        ({"limit": 9}, "limit keeps 5 of 5 rows."),
        ({}, ""),
    ],
)
def test_what_is_kept_is_told_once_a_load_and_never_on_stdout(domains, keys, said, capsys):
    load_data({**domains, **keys})
    told = capsys.readouterr()
    assert told.err == (f"jsonl:{domains['path']}: {said}\n" if said else "")
    assert told.out == ""


def test_a_command_takes_a_mapping_and_its_json_stays_one_object(domains):
    spec = json.dumps({**domains, "where": {"modality": "CT"}})
    done = CliRunner().invoke(app, ["data", "show", spec, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["by_modality"] == {"CT": 2}
    assert "where keeps 2 of 5 rows" in done.stderr


GIVEN: list[Sample] = []


def given_rows(spec: DataSpec):
    yield from GIVEN


def kept_of(rows, limit, seed=0):
    """The ids of `rows` that a limit keeps."""
    GIVEN[:] = rows
    return [row.id for row in load_data({"name": f"{__name__}:given_rows", "limit": limit, "seed": seed})]


@settings(max_examples=40)
@given(st.permutations(range(30)), st.integers(1, 32), st.integers(0, 3), st.sets(st.integers(0, 29)))
def test_a_limit_goes_by_id_and_not_by_order_or_by_what_other_rows_there_are(order, limit, seed, gone):
    rows = [sample(number) for number in range(30)]
    kept = kept_of(rows, limit, seed)
    assert len(kept) == min(limit, 30)
    assert kept == sorted(kept, key=int)
    mixed = kept_of([rows[at] for at in order], limit, seed)
    assert mixed == [str(at) for at in order if str(at) in set(kept)]
    assert set(kept) <= set(kept_of(rows, limit + 1, seed))
    fewer = kept_of([row for row in rows if int(row.id) not in gone], limit, seed)
    assert {name for name in kept if int(name) not in gone} <= set(fewer)


def test_a_limit_draws_evenly_and_by_its_seed():
    rows = [replace(sample(number), modality=("CT", "MRI")[number % 2]) for number in range(1000)]
    kept = [set(kept_of(rows, 200, seed)) for seed in range(3)]
    assert all(20 < len(one & other) < 60 for at, one in enumerate(kept) for other in kept[:at])
    for ids in kept:
        assert abs(sum(int(name) % 2 for name in ids) - 100) < 25
        assert abs(np.mean([int(name) for name in ids]) - 499.5) < 60


def test_a_limit_is_of_each_split_or_of_those_that_are_named():
    def by_split(**keys):
        return load_data({"name": "phantoms", "seed": 1, "train": 20, "val": 4, "test": 10, **keys}).counts()["by_split"]

    every = by_split()
    assert by_split(limit=7) == {"train": 7, "val": 7, "test": 7}
    assert by_split(limit={"train": 11, "test": 5}) == {"train": 11, "val": every["val"], "test": 5}
    assert by_split(limit=10_000) == every
    assert by_split(limit=3, where={"question_type": "grading"}) == {"train": 3, "val": 3, "test": 3}


def test_where_goes_before_the_limit():
    spec = {"name": "phantoms", "train": 40, "val": 0, "test": 0}
    rows = load_data({**spec, "limit": 6, "where": {"modality": "CT"}})
    assert [row.modality for row in rows] == [Modality.CT] * 6


def test_a_limit_without_splits_and_one_that_names_what_is_not_there(domains):
    assert len(load_data({**domains, "limit": 2, "seed": 3})) == 2
    with pytest.raises(DataError, match=r"limit: unknown split 'train'\. Known: none\. Where rows have none, give one number"):
        load_data({**domains, "limit": {"train": 2}})
    with pytest.raises(DataError, match=r"limit: unknown split 'trian'\. Did you mean 'train'"):
        load_data({**PHANTOMS, "limit": {"trian": 2}})


def test_an_empty_limit_is_refused(domains):
    with pytest.raises(DataError, match="limit: it is empty"):
        load_data({**domains, "limit": {}})


@pytest.mark.parametrize("limit", [0, -1, "3", 2.5, {"train": 0}, {"train": "3"}, True])
def test_a_limit_that_is_no_number_of_rows(domains, limit):
    with pytest.raises(DataError, match="the field 'limit'"):
        load_data({**domains, "limit": limit})


# --- the manifest ---


def test_every_field_of_a_manifest_row(write, tmp_path):
    row = {
        "id": 7,
        "images": ["x.png", "x.png"],
        "question": "Is it left?",
        "options": ["YES", " no "],
        "answer": "No",
        "source": "s",
        "modality": "MR (Mag-netic Resonance Imaging)",
        "question_type": "VQA-RAD:ORGAN",
        "split": "val",
        "group": 12,
        "group_is_patient": True,
        "rationale": "It is right.",
        "language": "zh",
        "licence": "MIT",
        "nested": {"a": [1, None, 0.5]},
    }
    assert load_data(f"jsonl:{write(row)}")[0] == Sample(
        id="7",
        images=(str(tmp_path / "x.png"),) * 2,
        question="Is it left?",
        golds=(" no ",),
        options=("YES", " no "),
        gold_index=1,
        kind=Kind.YESNO,
        rationale="It is right.",
        modality=Modality.MRI,
        question_type=QuestionType.ANATOMY,
        source="s",
        split="val",
        group="12",
        group_is_patient=True,
        language="zh",
        extra={"licence": "MIT", "nested": {"a": [1, None, 0.5]}},
    )


@pytest.mark.parametrize(
    ("fields", "kind", "golds"),
    [
        ({}, Kind.CHOICE, ("Right",)),
        ({"answer_index": None, "answers": ["right "]}, Kind.CHOICE, ("Right",)),
        ({"answer": "RIGHT"}, Kind.CHOICE, ("Right",)),
        ({"options": ["No", "yes"]}, Kind.YESNO, ("yes",)),
        ({"options": ["No", "yes"], "kind": "choice"}, Kind.CHOICE, ("yes",)),
        ({"options": ["No", "Yes", "Maybe"]}, Kind.CHOICE, ("Yes",)),
        ({"options": None, "answer_index": None, "answer": "Yes"}, Kind.YESNO, ("Yes",)),
        ({"options": [], "answer_index": None, "answer": "no", "kind": "open"}, Kind.OPEN, ("no",)),
        ({"options": [], "answer_index": None, "answers": ["left lung", "left"]}, Kind.OPEN, ("left lung", "left")),
        ({"options": [f"{n}" for n in range(len(LETTERS))]}, Kind.CHOICE, ("1",)),
    ],
)
def test_kind_and_gold_of_a_row(write, fields, kind, golds):
    found = load_data(f"jsonl:{write(ROW | fields)}")[0]
    assert (found.kind, found.golds) == (kind, golds)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "b", ', "no JSON object"),
        ('{"id": "b\\ud800"}', "no JSON object"),
        ("[1]", "no JSON object"),
        *[({name: ABSENT}, f"'{name}' is missing") for name in ("id", "question", "image")],
        ({"answer_index": None}, "no gold"),
        ({"answer_index": None, "answer": "  "}, "no gold"),
        ({"options": [], "answer_index": None}, "no gold"),
        ({"options": [], "answers": ["a"]}, "no options"),
        ({"image": ""}, "'image' is missing or empty"),
        ({"image": None, "images": []}, "'image' is missing or empty"),
        ({"images": ["x.png"]}, "both 'image' and 'images'"),
        ({"image": "y.png"}, "there is no image"),
        ({"question": " "}, "'question' is empty"),
        ({"question": 3}, "'question'"),
        ({"options": "Left"}, "'options'"),
        ({"options": ["Left", 2]}, "'options'"),
        ({"answer_index": "1"}, "'answer_index'"),
        ({"answer_index": True}, "'answer_index'"),
        ({"group_is_patient": "yes"}, "'group_is_patient'"),
        ({"answer_index": 2}, "answer_index 2 is none of the 2 options"),
        ({"answer_index": -1}, "answer_index -1"),
        ({"answer": "left"}, "its golds disagree"),
        ({"answer": "Up"}, "'Up' is not among the options"),
        ({"answer_index": None, "answers": ["left", "right"]}, "its golds disagree"),
        ({"options": ["Right"], "answer_index": 0}, "only one option"),
        ({"options": ["Left", " left "]}, "two of its options are the same"),
        ({"options": ["Left  lung.", "LEFT lung"]}, "two of its options are the same"),
        ({"options": ["Left", " . "]}, "an empty option"),
        ({"options": [], "answer_index": None, "answer": "."}, "no gold"),
        *[({"split": name}, f"unknown split '{name}'") for name in ("validation", "dev", "Test", "", "none")],
        ({"split": "validation"}, "Write 'val'."),
        ({"split": "Test"}, "Did you mean 'test'?"),
        ({"options": ["Left", ""]}, "an empty option"),
        ({"options": [f"{n}" for n in range(len(LETTERS) + 1)]}, "11 options"),
        ({"modality": "X-ry"}, "unknown modality 'X-ry'. Did you mean 'X-ray'?"),
        ({"question_type": "Lesion gradin"}, "Did you mean 'Lesion grading'?"),
        ({"kind": "chioce"}, "Did you mean 'choice'?"),
        ({"kind": "yesno"}, "does not go with"),
        ({"kind": "open"}, "does not go with"),
        ({"id": "first"}, "the id 'first' is taken by"),
    ],
)
def test_a_bad_manifest_row_is_named_by_file_and_row(write, row, message):
    bad = row if isinstance(row, str) else {name: value for name, value in (ROW | row).items() if value is not ABSENT}
    file = write(ROW | {"id": "first"}, "", bad)
    with pytest.raises(DataError) as error:
        load_data(f"jsonl:{file}")
    assert str(error.value).startswith(f"{file}, row 3: ")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["patient", "patient_id", "case_id", "subject_id", "PatientID"])
def test_the_patient_of_a_row_is_its_group(write, name):
    for fields in ({name: "p1"}, {name: "p1", "group_is_patient": True}, {name: "p1", "group": "p1", "case_id": "p1"}):
        (found,) = load_data(f"jsonl:{write(ROW | fields)}")
        assert (found.group, found.group_is_patient, found.extra) == ("p1", True, {})
    assert load_data(f"jsonl:{write(ROW | {name: 7})}")[0].group == "7"


@pytest.mark.parametrize("value", [None, "", "NA", {"age": 60}])
def test_a_patient_that_is_none(write, value):
    (found,) = load_data(f"jsonl:{write(ROW | {'patient': value})}")
    assert (found.group, found.group_is_patient) == (None, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patient": "p1", "group": "g"}, "it belongs to group 'g' but patient 'p1'. Keep one; or say group_is_patient"),
        ({"patient": "p1", "patient_or_group_id": 3}, "it belongs to patient_or_group_id '3' but patient 'p1'"),
        ({"patient": "p1", "case_id": "c"}, "it belongs to patient 'p1' but case_id 'c'"),
        ({"patient": True}, "the field 'patient' should be the id of a patient, not True"),
        ({"options": ["B) Left", "A) Right"]}, "its options carry the letters B, A, not A, B, ... in turn"),
    ],
)
def test_patients_and_letters_that_cannot_be(write, fields, message):
    with pytest.raises(DataError) as error:
        load_data(f"jsonl:{write(ROW | fields)}")
    assert message in str(error.value)


@pytest.mark.parametrize(("group", "is_patient"), [(None, False), ("g", False), ("g", True)])
def test_an_extra_called_patient_is_written_and_read_back(write, tmp_path, group, is_patient):
    one = replace(
        load_data(f"jsonl:{write(ROW)}")[0], group=group, group_is_patient=is_patient, extra={"patient": "x", "case_id": 3}
    )
    write_manifest(Samples.of([one]), tmp_path / "again.jsonl")
    assert load_data(f"jsonl:{tmp_path}/again.jsonl")[0] == one


@pytest.mark.parametrize("answer", ["Right", "B) Right", "B. right", "B"])
def test_letters_of_the_options_of_a_manifest_are_taken_out(write, answer):
    row = ROW | {"options": ["A) Left", "B) Right"], "answer": answer}
    for fields in (row, row | {"answer_index": None}):
        (found,) = load_data(f"jsonl:{write(fields)}")
        assert (found.options, found.golds, found.gold_index) == (("Left", "Right"), ("Right",), 1)


def test_a_folder_is_read_in_sorted_order_and_ids_are_unique_across_it(write, tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write(ROW | {"id": name}, name=name)
    assert [row.id for row in load_data(f"jsonl:{tmp_path}")] == ["a.jsonl", "b.jsonl"]
    write(ROW | {"id": "a.jsonl"}, name="b.jsonl")
    with pytest.raises(DataError, match=r"b\.jsonl, row 1: the id 'a\.jsonl' is taken by .*a\.jsonl, row 1"):
        load_data(f"jsonl:{tmp_path}")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_manifest(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"a\.jsonl: it is empty\. It should hold one JSON object a line"):
        load_data(f"jsonl:{tmp_path}/a.jsonl")


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.jsonl file"):
        load_data(f"jsonl:{tmp_path}")


def test_a_byte_order_mark_and_bytes_that_are_no_text(write, tmp_path):
    file = write(ROW)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load_data(f"jsonl:{file}")) == 1
    file.write_bytes(file.read_bytes() + b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match="row 2: it is no JSON object"):
        load_data(f"jsonl:{file}")


def test_odd_names_of_folders_and_images(tmp_path):
    root, rows = tmp_path / "root ?images= & #%20", tmp_path / "a ?b & [c] #d %41.jsonl"
    (root / ODD).parent.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(root / ODD)
    rows.write_text(json.dumps(ROW | {"image": ODD}))
    found = load_data({"name": "jsonl", "path": str(rows), "images": str(root)})[0]
    assert open_image(found.images[0]).size == (4, 3)
    root = root.rename(tmp_path / "root & #%20?")
    assert load_data(f"jsonl:{rows}?images={root}")[0].images == (str(root / ODD),)


def test_the_real_manifest(shared_data):
    rows = load_data(f"jsonl:{shared_data}/real/manifest.jsonl")
    counts = rows.counts()
    assert (counts["n"], counts["images"]) == (3670, 1726)
    assert counts["by_split"] == {"test": 916, "train": 2754}
    assert counts["options"] == {2: 1625, 3: 18, 4: 2027}
    assert counts["by_modality"]["unknown"] == 169
    train, test = ({row.group for row in rows.where(split=split)} for split in ("train", "test"))
    assert len(train | test) == counts["groups"]
    assert not train & test
    assert (rows[0].extra["width"], rows[0].extra["height"]) == open_image(rows[0].images[0]).size


# --- Med-R1 ---


@pytest.mark.parametrize(
    ("file", "rows", "options", "axis"),
    [
        ("modality/test/X-Ray_test.json", 1615, {2: 47, 4: 1568}, Modality.XRAY),
        ("modality/train/X-Ray_train.json", 6301, {2: 183, 4: 6118}, Modality.XRAY),
        ("modality/test/OCT (Optical Coherence Tomography_test.json", 848, {2: 32, 4: 816}, Modality.OCT),
        ("modality/train/OCT (Optical Coherence Tomography_train.json", 3798, {2: 129, 4: 3669}, Modality.OCT),
        ("modality/test/ultrasound_test.json", 2074, {4: 2074}, Modality.ULTRASOUND),
        ("modality/train/ultrasound_train.json", 8917, {4: 8917}, Modality.ULTRASOUND),
        ("modality/train/unknown_train.json", 1, {4: 1}, Modality.CT),
        ("question_type/test/Lesion Grading_test.json", 436, {3: 30, 4: 406}, QuestionType.GRADING),
        ("question_type/train/Lesion Grading_train.json", 1662, {3: 92, 4: 1570}, QuestionType.GRADING),
    ],
)
def test_the_published_split_files(shared_data, file, rows, options, axis):
    path = shared_data / "original/medr1_splits" / file
    found = load_data(f"medr1:{path}")
    counts = found.counts()
    assert (counts["n"], counts["options"]) == (rows, options)
    assert counts["by_split"] == {"test" if "_test" in file else "train": rows}
    assert counts["by_modality" if isinstance(axis, Modality) else "by_question_type"] == {axis.value: rows}
    assert len({row.id for row in found}) == rows
    for row, published in zip(found, json.loads(path.read_text()), strict=True):
        lettered = ", ".join(f"{letter}){text}" for letter, text in zip(LETTERS, row.options, strict=False))
        assert f"{row.question} {lettered}" == published["problem"]
        assert f"<answer> {row.gold_letter} </answer>" == published["solution"]
        assert (row.images, row.extra["path"], row.group) == ((), published["image"], published["image"])
        assert row.source == published["image"].split("/")[1]


def test_a_folder_of_split_files_gives_the_ids_of_its_files(shared_data):
    folder = shared_data / "original/medr1_splits/modality/test"
    everything = load_data(f"medr1:{folder}")
    assert everything.where(modality="X-Ray") == load_data(f"medr1:{folder}/X-Ray_test.json")


def test_yes_and_no_are_a_choice_by_letter_as_published(split_file):
    file = split_file(medr1_row("Is it so? A)No, B)Yes"), medr1_row("Is it so? A)No, B)Yes, it is"))
    assert [(row.kind, row.gold_letter) for row in load_data(f"medr1:{file}")] == [(Kind.CHOICE, "B")] * 2


def test_published_options_that_fold_alike_are_kept(split_file):
    (row,) = load_data(f"medr1:{split_file(medr1_row('Which? A)Benign, B)benign.'))}")
    assert row.options == ("Benign", "benign.")


def test_the_images_of_a_split_file(split_file, tmp_path):
    file = split_file(medr1_row(image=f"Images/Mura/{ODD}"), medr1_row(image="Images/Mura/none.png"))
    (tmp_path / "Images/Mura" / ODD).parent.mkdir(parents=True)
    Image.new("L", (4, 3)).save(tmp_path / "Images/Mura" / ODD)
    with pytest.raises(DataError, match=r"X-Ray_test\.json, row 2: there is no image .*none\.png.*\?images=ROOT"):
        load_data(f"medr1:{file}?images={tmp_path}")
    file = split_file(medr1_row(image=f"Images/Mura/{ODD}"))
    assert open_image(load_data(f"medr1:{file}?images={tmp_path}")[0].images[0]).size == (4, 3)


@pytest.mark.parametrize(
    ("name", "modality", "question_type", "split"),
    [
        ("MR (Mag-netic Resonance Imaging)_train.json", Modality.MRI, QuestionType.UNKNOWN, "train"),
        ("CT(Computed Tomography)_test.json", Modality.CT, QuestionType.UNKNOWN, "test"),
        ("MR_test.json", Modality.MRI, QuestionType.UNKNOWN, "test"),
        ("question_type/test/MR_test.json", Modality.UNKNOWN, QuestionType.MODALITY, "test"),
        ("Other Biological Attributes_train.json", Modality.UNKNOWN, QuestionType.ATTRIBUTE, "train"),
        ("unknown_val.json", Modality.UNKNOWN, QuestionType.UNKNOWN, "val"),
        ("Fundus.json", Modality.FUNDUS, QuestionType.UNKNOWN, None),
    ],
)
def test_what_the_name_of_a_split_file_says(split_file, name, modality, question_type, split):
    row = load_data(f"medr1:{split_file(medr1_row(), name=name)}")[0]
    assert (row.modality, row.question_type, row.split) == (modality, question_type, split)


def test_of_med_r1s_repository_the_splits_are_read_and_both_ways_to_split_are_told(split_file, tmp_path, capsys):
    split_file(medr1_row(), name="Splits/modality/train/X-Ray_train.json")
    split_file({"prompt": "x"}, name="src/eval/logs/counting.json")
    assert [row.modality for row in load_data(f"medr1:{tmp_path}")] == [Modality.XRAY]
    assert capsys.readouterr().err == ""
    split_file(medr1_row(), name="Splits/question_type/test/Lesion Grading_test.json")
    assert len(load_data(f"medr1:{tmp_path}")) == 2
    assert "train rows of one are test rows of the other. Name one of the two folders" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_folder_images_itself_is_a_root_of_med_r1_too(split_file, tmp_path):
    file = split_file(medr1_row(image=f"Images/Mura/{ODD}"))
    image = tmp_path / "Images/Mura" / ODD
    image.parent.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(image)
    found = [load_data(f"medr1:{file}?images={root}") for root in (tmp_path, tmp_path / "Images")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (medr1_row(solution="<answer> C </answer>"), "the gold letter C is not among the 2 options"),
        (medr1_row(solution="B"), "the solution should be"),
        (medr1_row(solution="<answer> G </answer>"), "the solution should be"),
        (medr1_row(problem="Which side?"), "none can be read"),
        (medr1_row(problem="Which side? A)Left"), "the letters A can be read"),
        (medr1_row(problem="Which side? A)Left, C)Right"), "the letters A, C can be read"),
        (medr1_row(problem="Which side? A)Left, B),C)Right"), "is empty"),
        (medr1_row(problem="A)Left, B)Right"), "is empty"),
        (medr1_row(image="a.png"), "names its source"),
        (medr1_row() | {"problem": 3}, "'problem'"),
        ({"image": "Images/Mura/a.png", "problem": "Which side? A)Left, B)Right"}, "'solution' is missing"),
        (["a"], "no JSON object"),
    ],
)
def test_a_bad_row_of_a_split_file_is_named_by_file_and_row(split_file, row, message):
    file = split_file(medr1_row(), row)
    with pytest.raises(DataError) as error:
        load_data(f"medr1:{file}")
    assert str(error.value).startswith(f"{file}, row 2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("X-Ray_test.json", "[", "it is no JSON"),
        ("X-Ray_test.json", "{}", "no JSON array"),
        ("X-Ray_filtered_test.json", "[]", "no known modality or question type"),
    ],
)
def test_a_bad_split_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        load_data(f"medr1:{tmp_path}")
    assert str(tmp_path / name) in str(error.value)
    assert message in str(error.value)


def test_two_split_files_of_one_name_clash(split_file, tmp_path):
    split_file(medr1_row(), name="a/X-Ray_test.json")
    split_file(medr1_row(), name="b/X-Ray_test.json")
    with pytest.raises(DataError, match="has the same name"):
        load_data(f"medr1:{tmp_path}")


WORDS = st.sampled_from(
    ["liver", "(H&E)", "H&E stain", "(AMD),", "a, b", "[x]", "(IQA)", "T2.", "CT (A)", "1,000", "é", "A", "B."]
)
OPTION = st.lists(WORDS, min_size=1, max_size=4).map(" ".join).filter(lambda text: not text.endswith(","))


@given(stem=OPTION.map(lambda text: f"{text}?"), options=st.lists(OPTION, min_size=2, max_size=6))
def test_the_options_come_back_out_of_a_problem(stem, options):
    problem = f"{stem} " + ", ".join(f"{letter}){text}" for letter, text in zip(LETTERS, options, strict=False))
    assert split_problem(problem) == (stem, tuple(options))


# --- Samples ---

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda part: st.lists(part) | st.dictionaries(TEXT, part))
SAMPLE = st.builds(
    Sample,
    id=TEXT,
    images=st.lists(TEXT, max_size=2).map(tuple),
    question=TEXT,
    golds=st.lists(TEXT, max_size=2).map(tuple),
    options=st.lists(TEXT, max_size=3).map(tuple),
    gold_index=st.none() | st.integers(0, 9),
    kind=st.sampled_from(Kind),
    rationale=st.none() | TEXT,
    modality=st.sampled_from(Modality),
    question_type=st.sampled_from(QuestionType),
    source=TEXT,
    split=st.none() | TEXT,
    group=st.none() | TEXT,
    group_is_patient=st.booleans(),
    language=TEXT,
    extra=st.dictionaries(TEXT, JSON, max_size=2),
)


@given(
    rows=st.lists(SAMPLE, max_size=5, unique_by=lambda row: row.id),
    start=st.integers(-7, 7),
    stop=st.integers(-7, 7),
    step=st.sampled_from([1, 2, -1]),
)
def test_samples_are_like_a_list_of_samples(rows, start, stop, step):
    samples = Samples.of(iter(rows))
    assert list(samples) == rows
    assert [samples[at] for at in range(-len(rows), len(rows))] == rows * 2
    assert isinstance(samples[start:stop:step], Samples)
    assert list(samples[start:stop:step]) == rows[start:stop:step]
    assert samples[:] == samples == pickle.loads(pickle.dumps(samples))
    assert all(row in samples for row in rows)


def test_an_id_comes_once():
    with pytest.raises(DataError, match=r"^sample 3: the id '0' is taken by sample 1\. Ids must differ\.$"):
        Samples.of(map(sample, (0, 1, 0)))
    with pytest.raises(DataError, match=r"^b, row 7: the id '0' is taken by a, row 1\."):
        Samples.of([sample(0, origin="a, row 1"), sample(0, origin="b, row 7")])


def test_samples_end_where_a_list_does():
    samples = Samples.of(map(sample, range(3)))
    for at in (3, -4):
        with pytest.raises(IndexError, match="no sample"):
            samples[at]
    with pytest.raises(IndexError, match="no sample 3"):
        samples.take([0, 3])
    assert samples[np.int64(1)].id == "1"
    assert samples != [samples[0], samples[1], samples[2]]


def test_more_samples_than_one_batch():
    samples = Samples.of(map(sample, range(10_000)))
    assert samples[9_999].id == "9999"
    assert [row.id for row in samples][4095:4097] == ["4095", "4096"]


def test_where_and_take():
    ct, mri = {"modality": Modality.CT}, {"modality": Modality.MRI, "question_type": QuestionType.GRADING}
    samples = Samples.of([sample(0, split="train", **ct), sample(1, split="test", **mri), sample(2, **mri)])
    assert [row.id for row in samples.where(modality="mr")] == ["1", "2"]
    assert [row.id for row in samples.where(modality=Modality.MRI, question_type="LG", split="test")] == ["1"]
    assert len(samples.where(split="val")) == 0
    assert samples.where() == samples
    assert [row.id for row in samples.take([2, 0, 2])] == ["2", "0", "2"]
    with pytest.raises(DataError, match="unknown modality 'MRT'"):
        samples.where(modality="MRT")


def test_counts():
    rows = [
        sample(0, options=("Left", "Right"), split="train", group="a", source="s", modality=Modality.CT),
        replace(sample(1, options=("Left", "Right"), group="a"), images=("0.png", "1.png")),
        sample(2, kind=Kind.OPEN),
    ]
    assert Samples.of(rows).counts() == {
        "n": 3,
        "images": 3,
        "by_split": {"none": 2, "train": 1},
        "by_modality": {"CT": 1, "unknown": 2},
        "by_question_type": {"unknown": 3},
        "by_source": {"": 2, "s": 1},
        "by_kind": {"choice": 2, "open": 1},
        "options": {0: 1, 2: 2},
        "groups": 1,
    }
    assert Samples.of([]).counts()["n"] == 0


# --- splits ---

PHANTOMS = {"name": "phantoms", "train": 3, "val": 2, "test": 2}


@pytest.fixture
def rows_of(write):
    """Writes a manifest with a row for each of these splits, none where None; returns its spec."""

    def write_rows(*splits, name="rows.jsonl"):
        named = enumerate(splits)
        return f"jsonl:{write(*(ROW | {'id': k, 'split': split, 'group': k} for k, split in named), name=name)}"

    return write_rows


def test_rows_without_splits_are_trained_on_and_never_tested_on(rows_of):
    splits = load_splits(DataSettings(train=rows_of(*[None] * 10), val_share=0.2), seed=0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [8, 2, 0]


def test_a_spec_given_for_a_split_is_used_whole_where_it_has_none(rows_of):
    bare = rows_of(None, None, name="bare.jsonl")
    splits = load_splits(DataSettings(train=rows_of("train", "test", "val"), val=bare, test=bare), seed=0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [1, 2, 2]
    assert len(load_part(bare, "test")) == 2
    assert len(load_part(rows_of("train", "test"), "test")) == 1


def test_a_spec_given_for_a_split_that_it_does_not_have(rows_of):
    train = rows_of("train", name="train.jsonl")
    for name in ("val", "test"):
        with pytest.raises(DataError, match=rf"no {name} rows in 'jsonl:.*; its splits are {{'train': 1}}"):
            load_splits(DataSettings(train=PHANTOMS, **{name: train}), seed=0)


def test_a_test_spec_is_left_unread_where_test_rows_are_not_wanted():
    data = DataSettings(train=PHANTOMS, test="jsonl:/no/such/file.jsonl")
    splits = load_splits(data, seed=0, with_test=False)
    assert (len(splits.test), {row.split for row in splits.train}) == (0, {"train"})
    with pytest.raises(DataError, match="there is no"):
        load_splits(data, seed=0)


def test_no_row_is_left_out_because_of_its_split(rows_of):
    spec = rows_of("train", None, "test")
    for load in (lambda: load_splits(DataSettings(train=spec), seed=0), lambda: load_part(spec, "test")):
        with pytest.raises(DataError, match=r"rows\.jsonl, row 2: it has no split, but 2 other rows"):
            load()
    with pytest.raises(DataError, match=r"sample '1': unknown split 'Test'\. Did you mean 'test'"):
        part(Samples.of([sample(0, split="train"), sample(1, split="Test")]), "train")


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (3, 0.9)])
def test_holding_out_leaves_something_to_train_on_or_says_what_to_do(count, share):
    with pytest.raises(DataError, match=rf"of {count} training groups? .* Give data\.val, or set data\.val_share=0"):
        hold_out(Samples.of(map(sample, range(count))), share, seed=0)


# --- images ---


@pytest.mark.parametrize("name", ["x.jpeg", "x.png", "x.tiff", "x.webp"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (5, 3)), (6, (3, 0)), (8, (0, 5))])
def test_an_image_is_turned_upright_and_its_size_with_it(tmp_path, name, orientation, corner):
    image, exif = Image.new("RGB", (6, 4)), Image.Exif()
    image.putpixel((0, 0), (255, 255, 255))
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif, quality=100)
    opened = open_image(str(tmp_path / name))
    assert opened.size == ((6, 4) if orientation < 5 else (4, 6))
    assert opened.getpixel(corner)[0] > 128


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 100, 200]], np.uint16), [0, 100, 200]),
        (np.array([[0, 0, 0]], np.uint16), [0, 0, 0]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, 1.0]], np.float32), [0, 0, 255]),
    ],
)
def test_deep_greys_become_eight_bits(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "x.tiff")
    opened = open_image(str(tmp_path / "x.tiff"))
    assert opened.mode == "RGB"
    assert np.asarray(opened)[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (2, 2), "white").convert("L" if mode in ("I;16", "PA") else mode).convert(mode).save(tmp_path / "x.tiff")
    assert open_image(str(tmp_path / "x.tiff")).getpixel((0, 0)) == (255, 255, 255)


def test_what_is_transparent_shows_white(tmp_path):
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "rgba.png")
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("rgba.png", "palette.png"):
        assert open_image(str(tmp_path / name)).getpixel((0, 0)) == (255, 255, 255)


def test_a_phantom_is_drawn():
    reference = load_data({"name": "phantoms", "seed": 3, "train": 1, "val": 0, "test": 0})[0].images[0]
    assert open_image(reference).size == (56, 56)
    assert open_image(reference).tobytes() == open_image(reference).tobytes()


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, message in (
        ("none.png", "no such image file"),
        (".", "no such"),
        ("text.png", "decoded"),
        ("page.eps", "decoded"),
    ):
        with pytest.raises(DataError) as error:
            open_image(str(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)
        assert message in str(error.value)


def test_a_truncated_image_is_named(tmp_path):
    for name in ("x.png", "x.jpeg", "x.tiff"):
        file = tmp_path / name
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:2000])
        with pytest.raises(DataError, match=r"cannot be decoded.*convert it to PNG"):
            open_image(str(file))


@pytest.mark.parametrize("side_px", [9_000, 10_000, 20_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_decoding(tmp_path, side_px):
    (tmp_path / "bomb.pgm").write_text(f"P5 {side_px} {side_px} 255\n")  # a header without one pixel
    with pytest.raises(DataError, match=r"bomb\.pgm: the image is too large .* Scale it below 80,000,000 pixels"):
        open_image(str(tmp_path / "bomb.pgm"))


# --- several images a question ---


def test_24_images_a_question_are_trained_on_and_evaluated(tmp_path, write):
    """On a small model of the published layout, beside questions about one image and about three."""
    save_real_layout(tmp_path / "model")
    drawn = [row.images[0] for row in load_data({"name": "phantoms", "train": 24, "val": 0, "test": 0})]
    split = {"train": [24, 3], "val": [3], "test": [24, 3, 1]}
    rows = [
        {"id": f"{name} {n}", "images": (drawn * 2)[:n], "question": "Which?", "options": ["l", "r"], "answer_index": n % 2}
        | {"split": name, "group": f"{name} {n}"}
        for name, counts in split.items()
        for n in counts
    ]
    settings = {
        "model": str(tmp_path / "model"),
        "data": {"train": f"jsonl:{write(*rows)}"},
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 4},
        "lora": {"r": 2},
        "max_steps": 1,
    }
    run = pipeline.train(Recipe.model_validate(settings), tmp_path / "run")
    assert [row["step"] for row in run.rows("metrics")] == [1]
    found = pipeline.evaluate(f"run:{run.path}", settings["data"]["train"], out=tmp_path / "evaluated").rows("records")
    assert [len(row["sample"]["images"]) for row in found] == split["test"]


def test_a_path_alone_is_told_how_to_be_written(tmp_path):
    with pytest.raises(DataError, match=r"is a path. Say what it holds, NAME:.*, NAME being one of conversations, csv, "):
        load_data(str(tmp_path))
