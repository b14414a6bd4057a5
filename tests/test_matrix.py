"""Records and run folders made by hand, and the numbers that they must come to."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from osler import summary as numbers
from osler.cli.matrix import matrix as matrix_command
from osler.errors import RecipeError, RunError
from osler.matrix import CONTROL_COLUMNS, CSV_HEADER, FOLLOW_COLUMNS, build_matrix, detectable
from osler.power import (
    design_effect,
    intracluster_correlation,
    minimum_detectable_difference,
    power_of_difference,
    sd_of_pairs,
)
from osler.runs import Run
from osler.schema import Outcome, Parsed, Record, Sample, Verdict
from osler.significance import sign_flip
from osler.slices import slices_differ
from osler.summary import AXES, SMALL, Passes, read_records

RIGHT, WRONG, UNJUDGED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNJUDGED
EMPTY_JSON = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
BLIND = {"option_prior": 1.0, "stem_table": 0.5}  # what the blind attackers score on each record


def cell(records):
    return numbers.cell(Passes(records))


def summarise(records):
    return numbers.summarise(Passes(records))


def floored(records):
    return [replace(one, blind=BLIND) for one in records]


def record(strict=RIGHT, lenient=None, *, answer="A", found="A", truncated=False, tokens=10, **sample):
    sample = {
        "id": "s",
        "images": ("a.png",),
        "modality": "CT",
        "question_type": "Disease diagnosis",
        "source": "hospital",
    } | sample
    return Record(
        sample=Sample(question="What?", golds=("cyst",), options=("cyst", "air"), gold_index=0, **sample),
        prompt="What?",
        completion="...",
        parsed=Parsed(answer=answer, lenient=found, thought=None, well_formed=answer is not None),
        verdict=Verdict(outcome=strict, lenient=lenient or strict, compared=answer, gold="A"),
        strategy="nothink",
        tokens=tokens,
        truncated=truncated,
        seconds=0.1,
    )


def on(modality, right, wrong, **sample):
    """Records on `modality`, each about an image of its own."""
    outcomes = [RIGHT] * right + [WRONG] * wrong
    return [record(outcome, modality=modality, images=(f"{modality} {i}",), **sample) for i, outcome in enumerate(outcomes)]


def rows(modality, right, wrong, per_image=1):
    """As `on`, with an id for each record and `per_image` records about an image."""
    made = on(modality, right, wrong)
    return [
        replace(one, sample=replace(one.sample, id=f"{modality} {k}", images=(f"{modality} {k // per_image}",)))
        for k, one in enumerate(made)
    ]


def under(control, records, right, **extra):
    """The records of `control` that were made of `records`: the first `right` are right, the others wrong."""
    made = [record(RIGHT if k < right else WRONG, answer="A" if k < right else "B") for k in range(len(records))]
    return [
        replace(one, sample=replace(of.sample, id=f"{control}:{of.sample.id}", group=of.sample.cluster,
                                    extra={"control": control, "of": of.sample.id, "variant": "", **extra}))
        for one, of in zip(made, records, strict=True)
    ]  # fmt: skip


def written(folder, records, modalities=None, label="grpo", made=()):
    """The run in `folder` of an evaluation with these records, and those of its controls."""
    facts = {"question_type": ["Disease diagnosis"], "source": ["hospital"], "row_hash": "0"}
    trained_on = None if modalities is None else {"modality": modalities, **facts}
    trial = {"answer_form": "letter"}
    facts = {"model": {"label": label, "run": None}, "trained_on": trained_on, "trial": trial}
    with Run.create(folder, "eval", **facts).recording() as run:
        run.append("records", *[one.to_json() for one in records])
        run.append("controls", *[one.to_json() for one in made])
    return Run.open(run.path)


@pytest.fixture
def evaluate(tmp_path):
    """Write the run folder NAME of an evaluation."""
    return lambda name, *arguments, **facts: written(tmp_path / name, *arguments, **facts)


# --- records -> numbers


def test_unjudged_rows_are_counted_and_left_out():
    result = cell([record(RIGHT), record(RIGHT), record(WRONG), record(UNJUDGED)])
    assert (result.accuracy.value, result.accuracy.n, result.n, result.unjudged) == (pytest.approx(2 / 3), 3, 3, 1)


def test_unparseable_rows_are_counted_and_wrong_whatever_the_grader_says():
    result = cell([record(RIGHT), *(record(outcome, answer=None, found=None) for outcome in (RIGHT, WRONG, UNJUDGED))])
    assert (result.accuracy.value, result.n) == (0.25, 4)
    assert (result.unparseable, result.unjudged) == (3, 0)


def test_a_change_of_form_shows_beside_the_lenient_accuracy():
    result = cell([record(RIGHT), record(WRONG, RIGHT, answer=None), record(RIGHT, UNJUDGED)])
    assert (result.accuracy.value, result.accuracy.n) == (pytest.approx(2 / 3), 3)
    assert (result.lenient.value, result.lenient.n) == (1, 2)


def test_the_floor_is_that_of_the_rows_of_the_accuracy():
    records = [record(RIGHT), record(WRONG), record(UNJUDGED)]
    assert cell(records).floor is None
    assert (cell(floored(records)).floor.value, cell(floored(records)).floor.n) == (1, 2)


def test_rows_of_one_image_are_one_cluster():
    apart = cell([record(outcome, images=(f"{i}.png",)) for i, outcome in enumerate([RIGHT] * 20)])
    assert cell([record()] * 20).accuracy.ci_low < apart.accuracy.ci_low


def test_a_cell_of_nothing_is_empty():
    nothing = cell([]).to_json()
    assert nothing["accuracy"] == nothing["lenient"] == EMPTY_JSON
    assert nothing["floor"] is None
    assert (nothing["n"], nothing["small"]) == (0, True)


@pytest.mark.parametrize(("n", "small"), [(SMALL - 1, True), (SMALL, False)])
def test_a_cell_of_few_rows_is_flagged(n, small):
    assert cell(on("CT", n, 0)).small is small


def test_a_summary_holds_every_number_of_an_evaluation():
    records = [
        record(RIGHT, tokens=4, modality="MRI"),
        record(WRONG, tokens=8, modality="MRI", truncated=True, images=("b.png",)),
        record(RIGHT, tokens=12, source="", images=("c.png",)),
        record(WRONG, answer=None, tokens=16, images=("d.png",)),
    ]
    summary = json.loads(json.dumps(summarise(floored(records))))
    assert (summary["accuracy"]["value"], summary["accuracy"]["n"]) == (0.5, 4)
    assert (summary["floor"]["value"], summary["format_rate"]["value"], summary["mean_tokens"]) == (1, 0.75, 10)
    assert (summary["unparseable"], summary["unjudged"], summary["truncated"]) == (1, 0, 1)
    assert list(summary["by_modality"]) == ["CT", "MRI"]
    assert summary["by_modality"]["MRI"] == cell(floored(records[:2])).to_json()
    assert list(summary["by_question_type"]) == ["Disease diagnosis"]
    assert [(label, part["n"]) for label, part in summary["by_source"].items()] == [("hospital", 3), ("unknown", 1)]


def test_a_summary_of_nothing_is_empty():
    summary = summarise([])
    assert summary["accuracy"] == summary["format_rate"] == EMPTY_JSON
    assert summary["mean_tokens"] is None
    assert summary["by_modality"] == {}


# --- runs -> matrix


@pytest.fixture
def runs(evaluate):
    """Trained on MRI, on CT, on both, on nothing; the CT model was not tested on OCT."""
    return [
        evaluate("mri", on("CT", 4, 6) + on("MRI", 8, 2) + on("OCT", 2, 8), ["MRI"]),
        evaluate("both", on("CT", 9, 1) + on("MRI", 9, 1) + on("OCT", 5, 5), ["CT", "MRI"]),
        evaluate("ct", floored(on("MRI", 5, 5) + on("CT", 18, 2)), ["CT"]),
        evaluate("base", on("CT", 3, 7) + on("MRI", 3, 7) + on("OCT", 3, 7), label="Qwen2-VL"),
    ]


def test_rows_are_sources_and_columns_are_targets_in_order(runs):
    matrix = build_matrix(runs, "modality")
    assert matrix.columns == ("CT", "MRI", "OCT")
    assert matrix.rows == ("zero-shot · Qwen2-VL", "CT · grpo", "MRI · grpo", "mixed · grpo")
    values = [[target.accuracy.value for target in targets.values()] for targets in matrix.cells.values()]
    assert values == [[0.3, 0.3, 0.3], [0.9, 0.5, None], [0.4, 0.8, 0.2], [0.9, 0.9, 0.5]]


def test_a_row_has_its_overall_its_macro_mean_and_its_gap(runs):
    summary = build_matrix(runs, "modality").to_json()["summary"]
    ct = summary["CT · grpo"]
    assert (ct["overall"]["accuracy"]["value"], ct["overall"]["n"]) == (pytest.approx(23 / 30), 30)
    assert [ct[key] for key in ("macro", "diagonal", "off_diagonal", "gap")] == pytest.approx([0.7, 0.9, 0.5, 0.4])
    assert (ct["domain"], ct["state"]) == ("CT", "done")
    for row in ("zero-shot · Qwen2-VL", "mixed · grpo"):
        assert [summary[row][key] for key in ("domain", "diagonal", "off_diagonal", "gap")] == [None] * 4


def test_the_gap_is_diagonal_less_off_diagonal_over_rows_of_one_domain(runs):
    value = build_matrix(runs, "modality").to_json()
    assert value["diagonal"] == pytest.approx((0.9 + 0.8) / 2)
    assert value["off_diagonal"] == pytest.approx((0.5 + 0.4 + 0.2) / 3)
    assert value["gap"] == pytest.approx(0.85 - 1.1 / 3)


def test_no_gap_without_something_on_the_diagonal_and_something_off_it(evaluate):
    elsewhere = build_matrix([evaluate("ct", on("MRI", 5, 5), ["CT"])], "modality").to_json()
    assert (elsewhere["diagonal"], elsewhere["off_diagonal"], elsewhere["gap"]) == (None, None, None)
    at_home = build_matrix([evaluate("mri", on("MRI", 5, 5), ["MRI"])], "modality").to_json()
    assert (at_home["diagonal"], at_home["off_diagonal"], at_home["gap"]) == (0.5, None, None)


def test_an_unknown_domain_is_on_no_diagonal(evaluate):
    matrix = build_matrix([evaluate("u", on("unknown", 1, 0) + on("CT", 1, 0), ["unknown"])], "modality")
    assert matrix.rows == ("unknown · grpo",)
    assert matrix.columns == ("CT", "unknown")
    assert matrix.to_json()["diagonal"] is None


def test_the_floor_is_that_of_the_training_rows_of_the_run(runs):
    cells = build_matrix(runs, "modality").cells
    assert (cells["CT · grpo"]["MRI"].floor.value, cells["CT · grpo"]["MRI"].floor.n) == (1, 10)
    assert cells["zero-shot · Qwen2-VL"]["MRI"].floor is None


def test_a_cell_without_rows_is_empty_in_json_and_csv(runs):
    matrix = build_matrix(runs, "modality")
    empty = json.loads(json.dumps(matrix.to_json()))["cells"]["CT · grpo"]["OCT"]
    assert (empty["accuracy"], empty["n"]) == (EMPTY_JSON, 0)
    (row,) = [
        row for row in csv.DictReader(matrix.to_csv().splitlines()) if (row["row"], row["column"]) == ("CT · grpo", "OCT")
    ]
    assert (row["accuracy"], row["ci_low"], row["n"], row["floor"], row["floor_n"]) == ("", "", "0", "", "0")


def test_the_csv_has_a_header_and_n_in_every_line(runs):
    matrix = build_matrix(runs, "modality")
    header, *lines = csv.reader(matrix.to_csv().splitlines())
    assert tuple(header) == CSV_HEADER
    assert [(line[0], line[1]) for line in lines] == [
        (row, column) for row in matrix.rows for column in (*matrix.columns, "overall")
    ]
    assert all(line[header.index("n")].isdigit() for line in lines)
    assert float(lines[-1][header.index("accuracy")]) == pytest.approx(23 / 30)


def test_every_cell_of_the_json_has_its_n(runs):
    cells = build_matrix(runs, "modality").to_json()["cells"]
    assert [[target["n"] for target in row.values()] for row in cells.values()] == [[10] * 3, [20, 10, 0], [10] * 3, [10] * 3]


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_has_its_matrix(runs, axis):
    matrix = build_matrix(runs, axis)
    assert {"modality": "CT", "question_type": "Disease diagnosis", "source": "hospital", "language": "en"}[
        axis
    ] in matrix.columns
    assert len(matrix.rows) == 4


def test_runs_with_the_same_label_are_told_apart_by_name_and_at_last_by_path(evaluate):
    names = ("seed-0", "seed-1", "a/eval", "b/eval", "ct")
    runs = [
        evaluate(name, on("CT", 1, 1), ["MRI"] if "/" in name else ["CT"], label="sft" if name == "ct" else "grpo")
        for name in names
    ]
    matrix = build_matrix(runs, "modality")
    by_path = [f"MRI · grpo ({run.path.as_posix()})" for run in runs[2:4]]
    assert matrix.rows == ("CT · grpo (seed-0)", "CT · grpo (seed-1)", "CT · sft", *by_path)


def test_no_runs_make_an_empty_matrix():
    assert build_matrix([], "source").to_csv() == ",".join(CSV_HEADER) + "\n"


def test_a_field_of_the_rows_own_is_an_axis(evaluate):
    records = [
        replace(one, sample=replace(one.sample, extra=extra))
        for one, extra in zip(rows("CT", 3, 3), [{"scanner": "A"}, {"scanner": 3}, {}] * 2, strict=True)
    ]
    run = evaluate("ct", records, ["CT"])
    matrix = build_matrix([run], "extra:scanner")
    assert (matrix.rows, matrix.columns) == (("unknown · grpo",), ("3", "A", "unknown"))
    assert [cell.n for cell in matrix.cells["unknown · grpo"].values()] == [2, 2, 2]
    assert matrix.lines[0].domain is None  # a run does not tell the scanners that it was trained on


# --- the controls of a cell


@pytest.fixture
def controlled(evaluate):
    """10 CT rows with blank and shuffled, 4 MRI rows with neither."""
    ct = rows("CT", 8, 2)
    made = under("blank", ct, 3) + under("shuffled", ct, 5, donor_id="d", donor_gold="air")
    return evaluate("ct", floored(ct) + rows("MRI", 3, 1), ["CT"], made=made)


def line_of(matrix, column):
    return next(row for row in csv.DictReader(matrix.to_csv().splitlines()) if row["column"] == column)


def test_a_cell_has_its_controls_in_json(controlled):
    cells = build_matrix([controlled], "modality").to_json()["cells"]["CT · grpo"]
    blank = cells["CT"]["controls"]["blank"]
    assert (blank["n"], blank["accuracy"]["value"], blank["difference"]["value"]) == (10, 0.3, 0.5)
    assert cells["CT"]["controls"]["shuffled"]["follow"]["shown"] == {**EMPTY_JSON, "value": 0.5, "n": 10} | {
        key: cells["CT"]["controls"]["shuffled"]["follow"]["shown"][key] for key in ("ci_low", "ci_high")
    }
    assert cells["MRI"]["controls"] == {}


def test_a_cell_has_its_controls_and_its_attacker_in_csv(controlled):
    matrix = build_matrix([controlled], "modality")
    looking = matrix.cells["CT · grpo"]["CT"].controls
    row = line_of(matrix, "CT")
    assert (row["attacker"], row["floor"]) == ("option_prior", "1.0")
    blank = [float(row[f"blank_{column}"]) for column in CONTROL_COLUMNS]
    accuracy, difference = looking["blank"].accuracy, looking["blank"].difference
    assert blank == [10, 0.3, accuracy.ci_low, accuracy.ci_high, 0.5, difference.ci_low, difference.ci_high]
    shown, base = looking["shuffled"].follow.shown, looking["shuffled"].follow.base
    follow = [float(row[f"shuffled_{column}"]) for column in FOLLOW_COLUMNS]
    assert follow == [10, 0.5, shown.ci_low, shown.ci_high, base.value]


def test_a_control_that_a_cell_lacks_is_empty_and_one_that_no_cell_has_has_no_columns(controlled, evaluate):
    matrix = build_matrix([controlled], "modality")
    row = line_of(matrix, "MRI")
    assert [row[f"blank_{column}"] for column in CONTROL_COLUMNS] == ["0"] + [""] * 6
    assert [row[f"shuffled_{column}"] for column in FOLLOW_COLUMNS] == ["0"] + [""] * 4
    header = matrix.to_csv().splitlines()[0].split(",")
    assert header[len(CSV_HEADER)] == "blank_n"
    assert not [name for name in header if name.startswith("noise")]
    plain = build_matrix([evaluate("plain", rows("CT", 1, 1))], "modality").to_csv().splitlines()[0]
    assert plain == ",".join(CSV_HEADER)


# --- what a cell could show


@pytest.mark.parametrize(("right", "wrong"), [(60, 60), (150, 50), (95, 5)])
def test_the_detectable_difference_is_that_of_independent_models_as_accurate_as_the_cell(right, wrong):
    n, p = right + wrong, right / (right + wrong)
    found = detectable(rows("CT", right, wrong))
    assert found.discordant == pytest.approx(2 * p * (1 - p))
    assert found.difference == pytest.approx(minimum_detectable_difference(n, sd_of_pairs(2 * p * (1 - p))))
    assert (found.design_effect, found.clusters) == (1.0, n)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_agree_make_more_undetectable(seed):
    rng = np.random.default_rng(seed)
    images = np.repeat(rng.random(60) < 0.5, 4)
    outcomes = [RIGHT if one ^ (rng.random() < 0.15) else WRONG for one in images]
    records = [record(outcome, id=str(k), images=(str(k // 4),)) for k, outcome in enumerate(outcomes)]
    values, clusters = [one is RIGHT for one in outcomes], [str(k // 4) for k in range(240)]
    found, icc, p = detectable(records), intracluster_correlation(values, clusters), sum(values) / 240
    assert found.icc == pytest.approx(icc)
    assert icc > 0.2
    effect = design_effect([4] * 60, icc)
    assert (found.design_effect, found.clusters) == (pytest.approx(effect), 60)
    assert found.difference == pytest.approx(minimum_detectable_difference(240, sd_of_pairs(2 * p * (1 - p)), effect))


def test_an_icc_below_0_or_unknown_counts_as_0():
    apart = detectable([record(RIGHT if k % 2 else WRONG, images=(str(k // 2),)) for k in range(40)])
    assert apart.icc < 0
    assert apart.design_effect == 1
    unknown = detectable(rows("CT", 40, 0, per_image=2))
    assert (unknown.icc, unknown.design_effect, unknown.clusters) == (None, 1.0, 20)


@pytest.mark.parametrize("n", [10, 40, 400])
def test_where_all_are_right_a_difference_needs_as_many_discordant_rows_as_itself(n):
    found = detectable(rows("CT", n, 0))
    assert found.difference == pytest.approx(found.discordant)
    assert power_of_difference(found.difference, n, sd_of_pairs(found.discordant)) == pytest.approx(0.8)
    assert found.difference == pytest.approx(7.849 / n, rel=1e-3)


def test_where_not_even_a_difference_of_1_would_do_none_is_detectable():
    found = detectable(rows("CT", 3, 3))
    assert (found.difference, found.discordant, found.clusters) == (None, None, 6)
    assert detectable(rows("CT", 4, 4)).difference == pytest.approx(7.849 / 8, rel=1e-3)


def test_what_is_detectable_is_detected_four_times_in_five():
    rng, n, p = np.random.default_rng(0), 300, 0.6
    found = detectable(rows("CT", 180, 120)).difference
    tests = [sign_flip((rng.random(n) < p + found / 2).astype(float) - (rng.random(n) < p - found / 2))[0] for _ in range(1000)]
    assert 0.74 < np.mean(np.array(tests) < 0.05) < 0.84


def test_the_detectable_difference_stands_in_json_and_csv_and_is_empty_where_the_cell_is(runs):
    matrix = build_matrix(runs, "modality")
    cells = json.loads(json.dumps(matrix.to_json()))["cells"]["CT · grpo"]
    expected = detectable(on("CT", 18, 2))
    assert cells["CT"]["minimum_detectable"] == {**vars(expected), "level": 0.05, "power": 0.8}
    assert cells["OCT"]["minimum_detectable"]["difference"] is None
    lines = {(row["row"], row["column"]): row for row in csv.DictReader(matrix.to_csv().splitlines())}
    assert float(lines["CT · grpo", "CT"]["minimum_detectable_difference"]) == expected.difference
    assert lines["CT · grpo", "OCT"]["minimum_detectable_difference"] == ""
    everything = matrix.to_json()["summary"]["CT · grpo"]["overall"]["minimum_detectable"]
    assert everything["clusters"] == 30
    assert float(lines["CT · grpo", "overall"]["minimum_detectable_difference"]) == everything["difference"]


def test_unjudged_rows_are_no_part_of_what_is_detectable():
    judged = rows("CT", 30, 20)
    unjudged = [record(UNJUDGED, id=f"u{k}", images=(f"u{k}",)) for k in range(50)]
    assert detectable(judged + unjudged) == detectable(judged)


# --- the command


@pytest.fixture
def osler_matrix(monkeypatch):
    """`osler matrix` with these arguments: the exit's error, or None, and what was printed."""
    app = typer.Typer()
    app.command()(matrix_command)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exception, result.output

    return run


def test_the_command_prints_each_cell_with_interval_n_floor_and_reliance(osler_matrix, controlled):
    error, text = osler_matrix(controlled.path)
    assert error is None
    printed = " ".join(text.split())
    for part in ("80.0 [49.0, 94.3] (10)", "floor 100.0", "blank +50.0 [+20.0, +80.0]", "mdd 78.5", "n<100", "75.0 ["):
        assert part in printed
    assert "Of all records 0 are unparseable" in printed
    assert "on the diagonal 80.0, off it 75.0: a transfer gap of 5.0 points" in printed


def test_the_command_writes_csv_and_a_picture_and_prints_one_json_object(osler_matrix, controlled, tmp_path):
    files = tmp_path / "new" / "cells.csv", tmp_path / "new" / "cells.svg"
    error, text = osler_matrix(controlled.path, "--csv", files[0], "--svg", files[1], "--json")
    built = build_matrix([controlled], "modality")
    assert (error, json.loads(text)) == (
        None,
        json.loads(json.dumps(built.to_json() | {"slices_differ": slices_differ(controlled, "modality").to_json()})),
    )
    assert files[0].read_text() == built.to_csv()
    assert files[1].read_bytes().startswith(b"<?xml")


def test_the_command_subtracts(osler_matrix, evaluate):
    tuned = evaluate("tuned", rows("CT", 90, 10), ["CT"])
    other = evaluate("other", rows("OCT", 1, 1), ["OCT"])
    start = evaluate("start", rows("CT", 60, 40), ["CT"], label="sft")
    error, text = osler_matrix(tuned.path, other.path, "--minus", start.path)
    printed = " ".join(text.split())
    assert error is None
    assert "+30.0 [+21.0, +39.0] (100)" in printed
    assert "its p over 1 cells" in printed
    assert f"trained on the same: {other.path}" in printed
    _, text = osler_matrix(tuned.path, "--minus", start.path, "--json")
    assert json.loads(text)["cells"]["CT · grpo - sft"]["CT"]["difference"]["value"] == pytest.approx(0.3)


def test_the_command_refuses_a_file_that_cannot_be_written(osler_matrix, controlled, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    for option in ("--csv", "--svg"):
        for file, said in ((tmp_path / "file" / "cells.svg", "cannot be written"), (tmp_path / "folder.svg", "is a folder")):
            error, _ = osler_matrix(controlled.path, option, file)
            assert isinstance(error, RunError)
            assert said in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "file", "folder.svg"]


# --- what is refused


def test_an_unknown_axis_is_named_with_its_nearest(runs):
    with pytest.raises(RecipeError, match="Did you mean 'modality'"):
        build_matrix(runs, "modalities")


def test_a_run_cannot_stand_in_a_matrix_twice(runs):
    with pytest.raises(RunError, match="twice"):
        build_matrix([runs[0], runs[0]], "modality")


def test_a_training_run_is_no_evaluation(tmp_path):
    with pytest.raises(RunError, match="its kind is 'train'"):
        build_matrix([Run.create(tmp_path / "train", "train")], "modality")


def test_a_run_that_does_not_say_what_it_was_trained_on_is_not_taken_for_zero_shot(tmp_path):
    with pytest.raises(RunError, match="no 'trained_on'"):
        build_matrix([Run.create(tmp_path / "old", "eval", model={"label": "x"})], "modality")


@pytest.mark.parametrize("row", [{"sample": {}}, {"sample": 3}, [1]])
def test_a_damaged_record_is_named_by_file_and_line(evaluate, row):
    run = evaluate("ct", [record()], ["CT"])
    assert read_records(run) == [record()]
    run.append("records", row)
    for read in (read_records, lambda run: build_matrix([run], "modality")):
        with pytest.raises(RunError, match=r"records\.jsonl, line 2 is no record"):
            read(run)
