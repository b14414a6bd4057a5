"""Records and run folders made by hand, and the numbers that they must come to."""

import csv
import json
from dataclasses import replace

import pytest

from osler import summary as numbers
from osler.errors import RecipeError, RunError
from osler.matrix import CSV_HEADER, build_matrix
from osler.runs import Run
from osler.schema import Outcome, Parsed, Record, Sample, Verdict
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


@pytest.fixture
def evaluate(tmp_path):
    """Write the run folder NAME of an evaluation with these records."""

    def write(name, records, modalities=None, label="grpo"):
        facts = {"question_type": ["Disease diagnosis"], "source": ["hospital"], "row_hash": "0"}
        trained_on = None if modalities is None else {"modality": modalities, **facts}
        trial = {"answer_form": "letter"}
        facts = {"model": {"label": label, "run": None}, "trained_on": trained_on, "trial": trial}
        with Run.create(tmp_path / name, "eval", **facts).recording() as run:
            run.append("records", *[one.to_json() for one in records])
        return Run.open(run.path)

    return write


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
    assert {"modality": "CT", "question_type": "Disease diagnosis", "source": "hospital"}[axis] in matrix.columns
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
