"""What a user's own columns say of a row is there in every form that is read, and slices what comes out."""

import csv
import json
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from osler.cli.app import app
from osler.datasets.load import load_data
from osler.errors import OslerError, RecipeError
from osler.matrix import build_matrix
from osler.omnibus import slice_test
from osler.runs import Run
from osler.slices import require_said, slices_differ
from test_matrix import RIGHT, UNJUDGED, WRONG, record, written

OWN = ("site", "scanner", "sex", "age", "organ")
AGES = ("063Y", "63", "", "7", "40", "90+")
N = 24


def facts(k):
    """What the columns of a user's own say of row `k`."""
    return {
        "site": ("North", "South [old]", "East")[k % 3],
        "scanner": ("GE", "")[k % 2],
        "sex": "MF"[k // 2 % 2],
        "age": AGES[k % 6],
        "organ": ("liver", "spleen")[k % 2],
        "language": ("en", "de")[k // 3 % 2],
    }


def table(file, rows, separator=","):
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, and the same questions about them in every form."""
    home = tmp_path_factory.mktemp("user")
    for k in range(N):
        Image.effect_noise((56, 56), 20 + 8 * k).convert("RGB").save(home / f"{k}.png")
    asked = {"question": "Which?", "A": "red", "B": "green", "answer": "A"}
    choice = {"question": "Which?", "options": ["red", "green"], "answer_index": 0}
    said = [{"image": f"{k}.png", **facts(k)} for k in range(N)]
    table(home / "q.csv", [{**one, **asked, "patient": f"p{k // 2}"} for k, one in enumerate(said)])
    table(home / "q.tsv", [{"index": k, **asked, "image_path": f"{k}.png", **facts(k)} for k in range(N)], "\t")
    table(home / "labels.csv", [{**one, "label": ("cyst", "air")[k % 2]} for k, one in enumerate(said)])
    turns = [{"role": "user", "content": "<image>Which?\nA) red\nB) green"}]
    conversations = [{"messages": turns, "images": [one.pop("image")], "solution": "A", **one} for one in map(dict, said)]
    for name, rows in (("m", [{"id": k, **choice, **one} for k, one in enumerate(said)]), ("c", conversations)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hub = home / "hub"
    hub.mkdir()
    (hub / "train.jsonl").write_text(
        "".join(json.dumps({**one, **choice, "image": str(home / one["image"])}) + "\n" for one in said)
    )
    return home


def osler(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def assert_said(samples):
    """All own columns of every row, where the first is row 0."""
    assert len(samples) == N
    for k, sample in enumerate(samples):
        expected = facts(k)
        assert sample.language == expected.pop("language")
        assert {name: sample.extra.get(name) or "" for name in OWN} == expected


@pytest.mark.parametrize("spec", ["csv:{}/q.csv", "tsv:{}/q.tsv", "jsonl:{}/m.jsonl", "conversations:{}/c.jsonl", "hub:{}/hub"])
def test_every_form_keeps_columns_of_the_users_own(folder, spec):
    assert_said(load_data(spec.format(folder)))


def test_checked_rows_and_prepared_rows_keep_them(folder, tmp_path):
    osler("data", "check", f"csv:{folder}/q.csv", "--write", tmp_path / "clean.jsonl")
    osler("data", "prepare", f"csv:{folder}/q.csv", "--max-pixels", 3136, "--out", tmp_path / "prepared")
    assert_said(load_data(f"jsonl:{tmp_path}/clean.jsonl"))
    assert_said(load_data(f"jsonl:{tmp_path}/prepared"))


def test_questions_made_of_labels_keep_them(folder, tmp_path):
    osler(
        "data",
        "ask",
        folder / "labels.csv",
        "--images",
        folder,
        "--out",
        tmp_path / "data",
        "--fractions",
        "0.5,0.25,0.25",
        "--no-near",
    )
    samples = load_data(f"jsonl:{tmp_path}/data")
    assert len(samples) > N / 2
    for sample in samples:
        expected = facts(int(sample.extra["image_name"].removesuffix(".png")))
        told = expected.pop("language")
        assert {name: sample.extra.get(name) or "" for name in OWN} == expected
        assert (sample.language, sample.extra["column_language"]) == ("en", told)  # the words are ours, and English


def test_from_a_table_to_slices_of_an_evaluation(folder, tmp_path):
    counts = json.loads(osler("data", "show", f"csv:{folder}/q.csv", "--json"))
    assert counts["by_language"] == {"de": 12, "en": 12}
    spec, out = f"csv:{folder}/q.csv", tmp_path / "run"
    osler("eval", "--model", "tiny", "--data", spec, "--max-tokens", 2, "--controls", "blank", "--out", out)
    expected = {
        "language": {"de": 12, "en": 12},
        "extra:site": {"East": 8, "North": 8, "South [old]": 8},
        "extra:scanner": {"GE": 12, "unknown": 12},
        "extra:sex": {"F": 12, "M": 12},
        "extra:organ": {"liver": 12, "spleen": 12},
        "extra:age@18,40,65": {"<18": 4, "40-64": 12, "90+": 4, "unknown": 4},
    }
    for axis, sizes in expected.items():
        built = json.loads(osler("matrix", out, "--axis", axis, "--json"))
        ((_, cells),) = built["cells"].items()
        assert {column: cell["n"] + cell["unjudged"] for column, cell in cells.items()} == sizes
        assert all(cell["controls"]["blank"]["n"] == cell["n"] for cell in cells.values())
        assert (built["columns"], built["slices_differ"]["slices"]) == (list(sizes), len(sizes.keys() - {"unknown"}))
    assert list(Run.open(out).summary["by_language"]) == ["de", "en"]
    assert "South [old]" in osler("matrix", out, "--axis", "extra:site")


# --- slices of records made by hand


def sliced(folder, *parts, made=()):
    """The run of records, `(label, right, wrong, unparseable, unjudged)` a slice, a patient each row; with its records."""
    records = []
    for label, right, wrong, unparseable, unjudged in parts:
        kinds = [(RIGHT, "A")] * right + [(WRONG, "B")] * wrong + [(WRONG, None)] * unparseable + [(UNJUDGED, "A")] * unjudged
        for k, (outcome, answer) in enumerate(kinds):
            one = record(outcome, answer=answer, id=f"{label} {k}", images=(f"{label} {k}",), extra={"age": label, "site": "X"})
            records.append(replace(one, blind={"option_prior": 1.0}))
    return written(folder, records, made=made)


def test_every_slice_shows_n_interval_floor_unparseable_unjudged_and_whether_it_is_small(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = sliced(tmp_path / "run", (30, 60, 30, 10, 2), ("070Y", 3, 1, 0, 0), (None, 1, 1, 0, 0), (85.0, 0, 0, 0, 4))
    cells = build_matrix([run], "extra:age@40,80").cells["zero-shot · grpo"]
    told = {
        name: (cell.n, cell.unparseable, cell.unjudged, cell.small, cell.floor and cell.floor.n) for name, cell in cells.items()
    }
    assert told == {
        "<40": (100, 10, 2, False, 100),
        "40-79": (4, 0, 0, True, 4),
        ">=80": (0, 0, 4, True, None),
        "unknown": (2, 0, 0, True, 2),
    }
    assert (cells["<40"].accuracy.value, cells["40-79"].accuracy.value) == (0.6, 0.75)
    text = " ".join(osler("matrix", run.path, "--axis", "extra:age", "--bands", "40,80").split())
    for part in (
        "60.0 [",
        "(100)",
        "floor 100.0",
        "unparseable 10",
        "unjudged 2",
        "75.0 [",
        "(4)",
        "n<100",
        "unjudged 4",
        "unknown",
    ):
        assert part in text


def test_one_run_is_tested_for_any_difference_between_slices_that_are_known(tmp_path):
    apart = sliced(tmp_path / "apart", ("A", 40, 5, 0, 9), ("B", 5, 35, 5, 0), (None, 50, 0, 0, 0))
    found = slices_differ(apart, "extra:age")
    assert (found.n, found.slices, found.clusters) == (90, 2, 90)
    assert found == slice_test([True] * 40 + [False] * 5 + [True] * 5 + [False] * 40, ["A"] * 45 + ["B"] * 45)
    text = " ".join(osler("matrix", apart.path, "--axis", "extra:age").split())
    assert "Of 2 slices some differ by chance" in text
    assert "That none differs: p < 0.001, by 1,000 exchanges of 90 clusters (90 judged rows" in text
    assert "do not confirm" in text
    alike = sliced(tmp_path / "alike", ("A", 20, 20, 0, 0), ("B", 20, 20, 0, 0))
    assert slices_differ(alike, "extra:age").p == 1
    assert "p = 1.000" in osler("matrix", alike.path, "--axis", "extra:age")


def test_several_runs_and_single_slices_are_not_tested(tmp_path):
    runs = [sliced(tmp_path / name, ("A", 4, 4, 0, 0), ("B", 4, 4, 0, 0)) for name in "ab"]
    assert "slices_differ" not in json.loads(osler("matrix", *(run.path for run in runs), "--axis", "extra:age", "--json"))
    assert "That none differs" not in osler("matrix", *(run.path for run in runs), "--axis", "extra:age")
    assert "That none differs" not in osler("matrix", runs[0].path, "--axis", "extra:site")
    assert slices_differ(runs[0], "extra:site").p is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("extra:Age",), "unknown field of the rows 'Age'. Did you mean 'age'? Known: age, site."),
        (("extra:age",), "'age' has 20 different numbers, from 1 to 20"),
        (("extra:age", "--bands", "40,18"), "do not ascend"),
        (("extra:site", "--bands", "40"), "no value of 'site' is a number: there is 'X'"),
        (("modality", "--bands", "40"), "bands divide a number of the rows' own"),
        (("organ",), "unknown axis 'organ'"),
    ],
)
def test_a_slice_that_cannot_be_is_one_error(tmp_path, options, said):
    run = sliced(tmp_path / "run", *((age, 1, 1, 0, 0) for age in range(1, 21)))
    with pytest.raises(OslerError) as error:
        osler("matrix", run.path, "--axis", *options)
    assert said in str(error.value)


def test_numbers_that_are_codes_may_each_be_a_slice(tmp_path):
    run = sliced(tmp_path / "run", *((code, 1, 1, 0, 0) for code in range(1, 21)))
    matrix = build_matrix([run], "extra:age@each")
    assert matrix.columns == tuple(str(code) for code in range(1, 21))


def test_a_field_that_is_there_but_empty_is_unknown_and_no_error(tmp_path):
    run = sliced(tmp_path / "run", (None, 1, 1, 0, 0))
    assert build_matrix([run], "extra:age").columns == ("unknown",)
    with pytest.raises(RecipeError, match="unknown field of the rows 'ages'"):
        require_said([run], "extra:ages@18", ["unknown"])
