"""Evaluations of the same rows made by hand, and what statsmodels and the paired tests make of them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from osler.contrasts import contrast, family
from osler.differences import CSV_HEADER, difference
from osler.errors import RecipeError, RunError
from osler.images import blank_of
from osler.matrix import build_matrix
from osler.significance import paired_change, paired_test
from osler.stats import paired_difference, proportion
from osler.summary import Passes
from test_matrix import RIGHT, UNJUDGED, WRONG, record, rows, under, written

PER_IMAGE = 3


def answered(outcomes, modality="CT", per_image=PER_IMAGE):
    """Records with these outcomes (right or not), `per_image` about an image."""
    made = rows(modality, len(outcomes), 0, per_image)
    return [replace(one, verdict=record(RIGHT if right else WRONG).verdict) for one, right in zip(made, outcomes, strict=True)]


def drawn(seed, count=60, share=0.6):
    return list(np.random.default_rng(seed).random(count) < share)


def clusters(count):
    return [str(k // PER_IMAGE) for k in range(count)]


def blanked(records, outcomes):
    """`records` with the control blank on those whose outcome is not None."""
    kept = [(one, right) for one, right in zip(records, outcomes, strict=True) if right is not None]
    made = [under("blank", [one], int(right))[0] for one, right in kept]
    return Passes(records, {"blank": made})


@pytest.fixture
def evaluate(tmp_path):
    """Write the run folder NAME of an evaluation."""
    return lambda name, *arguments, **facts: written(tmp_path / name, *arguments, **facts)


# --- one contrast


@pytest.mark.parametrize("seed", range(3))
def test_a_contrast_is_the_paired_test_clustered_by_image(seed):
    a, b = drawn(seed), drawn(seed + 10, share=0.4)
    found = contrast(answered(a), answered(b))
    assert found.test == paired_test(a, b, clusters(60))
    assert (found.a, found.b) == (proportion(a, clusters(60)), proportion(b, clusters(60)))
    assert (found.n, found.test.clusters, found.unjudged, found.reliance) == (60, 20, 0, None)
    assert found.test.p != pytest.approx(paired_test(a, b).p)


def test_rows_of_one_image_each_are_tested_as_mcnemar_does():
    a, b = drawn(1), drawn(2, share=0.4)
    table = [[sum(x == i and y == j for x, y in zip(a, b, strict=True)) for j in (True, False)] for i in (True, False)]
    found = contrast(answered(a, per_image=1), answered(b, per_image=1)).test
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.mcnemar_p == pytest.approx(found.p)


def test_rows_are_matched_whatever_their_order():
    a, b = answered(drawn(0)), answered(drawn(1))
    assert contrast(a, b[::-1]) == contrast(a, b)
    assert contrast(b, a).test.difference.value == pytest.approx(-contrast(a, b).test.difference.value)


def test_a_model_does_not_differ_from_itself():
    found = contrast(answered(drawn(0)), answered(drawn(0)))
    assert (found.test.difference.value, found.test.p) == (0, 1)


def test_different_rows_are_refused_with_how_many_are_shared():
    with pytest.raises(RunError, match=r"share 7, 3 are only in the first and 2 only in the second.*same data and split"):
        contrast(answered([True] * 10), answered([True] * 7) + answered([True] * 2, "MRI"))
    asked = [replace(one, sample=replace(one.sample, question="Where?")) for one in answered([True] * 4)]
    with pytest.raises(RunError, match="share 0"):
        contrast(answered([True] * 4), asked)
    with pytest.raises(RunError, match="share 4, 0 are only in the first and 1 only"):
        contrast(answered([True] * 4), answered([True] * 5))


@pytest.mark.parametrize("sides", [(5, 4), (4, 5)])
def test_a_row_that_comes_twice_is_refused(sides):
    twice = [answered([True] * 4) + answered([True] * (count - 4)) for count in sides]
    with pytest.raises(RunError, match="holds a row twice"):
        contrast(*twice)


def test_a_blind_twin_saw_other_images_of_the_same_rows():
    a, b = answered(drawn(0)), answered(drawn(1))
    twin = [
        replace(one, sample=replace(one.sample, images=tuple(map(blank_of, one.sample.images)), group=one.sample.cluster))
        for one in b
    ]
    assert contrast(a, twin) == contrast(a, b)


def test_what_either_grader_left_unjudged_leaves_both_sides():
    a, b = answered([True] * 6), answered([False] * 6)
    a[0], b[1] = (replace(one, verdict=record(UNJUDGED).verdict) for one in (a[0], b[1]))
    found = contrast(a, b)
    assert (found.n, found.unjudged, found.a.value, found.test.difference.value) == (4, 2, 1, 1)


def test_a_gain_of_form_alone_is_none_when_read_leniently():
    loose = [replace(one, parsed=replace(one.parsed, answer=None), verdict=record(WRONG, RIGHT).verdict)
             for one in answered([True] * 30)]  # fmt: skip
    found = contrast(answered([True] * 30), loose)
    assert (found.test.difference.value, found.lenient.value, found.lenient.n) == (1, 0, 30)
    silent = [replace(one, parsed=replace(one.parsed, answer=None, lenient=None)) for one in loose]
    assert contrast(answered([True] * 30), silent).lenient.value == 1


def test_no_rows_make_an_empty_contrast():
    found = contrast([], [])
    assert (found.n, found.a.value, found.test.p, found.test.difference.value) == (0, None, None, None)
    assert json.loads(json.dumps(found.to_json()))["p"] is None


# --- reliance


@pytest.mark.parametrize("seed", range(3))
def test_the_change_of_reliance_is_that_of_the_paired_change(seed):
    sides = [drawn(seed + k, share=share) for k, share in enumerate((0.8, 0.5, 0.6, 0.5))]
    real_a, blank_a, real_b, blank_b = sides
    found = contrast(blanked(answered(real_a), blank_a), blanked(answered(real_b), blank_b)).reliance
    assert found.change == paired_change((real_b, blank_b), (real_a, blank_a), clusters(60))
    assert found.a == paired_difference(real_a, blank_a, clusters(60))
    assert found.b == paired_difference(real_b, blank_b, clusters(60))
    assert found.change.difference.value == pytest.approx(found.a.value - found.b.value)
    assert found.left_out == 0


def test_models_that_ignore_the_image_have_no_reliance_to_change():
    a, b = drawn(0), drawn(1)
    found = contrast(blanked(answered(a), a), blanked(answered(b), b)).reliance
    assert (found.a.value, found.b.value, found.change.difference.value, found.change.p) == (0, 0, 0, 1)


def test_rows_without_blank_on_both_sides_leave_the_reliance_and_are_counted():
    real = [True] * 9
    blank_a = [None, None, *[False] * 7]
    blank_b = [None, False, None, *[True] * 6]
    found = contrast(blanked(answered(real), blank_a), blanked(answered(real), blank_b))
    assert (found.n, found.reliance.change.n, found.reliance.left_out) == (9, 6, 3)
    assert (found.reliance.a.value, found.reliance.b.value) == (1, 0)


def test_without_blank_on_one_side_there_is_no_reliance():
    real = answered([True] * 6)
    assert contrast(blanked(real, [False] * 6), Passes(real)).reliance is None
    assert contrast(real, blanked(real, [False] * 6)).to_json()["reliance"] is None


def test_a_contrast_is_plain_json():
    real = answered(drawn(0))
    value = json.loads(json.dumps(contrast(blanked(real, drawn(1)), blanked(answered(drawn(2)), drawn(3))).to_json()))
    assert value["difference"]["value"] == pytest.approx(value["a"]["value"] - value["b"]["value"])
    assert {"p", "n", "clusters", "method", "lenient", "unjudged"} <= value.keys()
    assert value["reliance"]["change"]["n"] == value["reliance"]["a"]["n"] == 60


# --- a family


def test_a_family_is_adjusted_as_statsmodels_does():
    contrasts = {f"c{k}": contrast(answered(drawn(k, share=0.4 + 0.1 * k)), answered(drawn(9))) for k in range(5)}
    found = family(contrasts)
    expected = multipletests([one.test.p for one in contrasts.values()], method="holm")[1]
    assert list(found.adjusted.values()) == pytest.approx(list(expected))
    value = json.loads(json.dumps(found.to_json()))
    assert value["c2"]["p_holm"] == found.adjusted["c2"]
    assert value["c2"]["p"] == contrasts["c2"].test.p


def test_a_family_is_of_at_most_five_contrasts_that_have_rows():
    one = contrast(answered(drawn(0)), answered(drawn(1)))
    with pytest.raises(RecipeError, match="6 contrasts are no primary family: name at most 5"):
        family({str(k): one for k in range(6)})
    with pytest.raises(RunError, match="'empty' has no row"):
        family({"full": one, "empty": contrast([], [])})


# --- matrices


@pytest.fixture
def sides(evaluate):
    """GRPO and SFT, each trained on CT and on MRI; SFT on MRI was not tested on OCT, GRPO on OCT has no counterpart."""

    def write(label, trained, seed, columns=("CT", "MRI", "OCT")):
        records = [
            one
            for k, column in enumerate(columns)
            for one in answered(drawn(seed + k, share=0.7 if label == "grpo" else 0.5), column)
        ]
        return evaluate(f"{label}-{trained}", records, [trained], label)

    grpo = [write("grpo", "OCT", 50), write("grpo", "MRI", 0), write("grpo", "CT", 10)]
    return grpo, [write("sft", "CT", 20), write("sft", "MRI", 30, ("CT", "MRI"))]


def test_lines_match_by_what_they_were_trained_on(sides):
    found = difference(*sides, "modality")
    assert found.rows == ("CT · grpo - sft", "MRI · grpo - sft")
    assert found.columns == ("CT", "MRI", "OCT")
    assert found.unmatched == {"a": (sides[0][0].path.as_posix(),), "b": ()}
    grpo, sft = (build_matrix(side, "modality").cells for side in sides)
    for line in found.lines:
        for column, cell in line.cells.items():
            if cell.n:
                a, b = grpo[f"{line.domain} · grpo"][column].accuracy, sft[f"{line.domain} · sft"][column].accuracy
                assert (cell.contrast.a, cell.contrast.b) == (a, b)
                assert cell.estimate.value == pytest.approx(a.value - b.value)
                assert (cell.n, cell.small) == (60, True)


def test_a_cell_is_the_contrast_of_its_rows_and_all_rows_are_those_of_the_cells_that_both_have(sides):
    found = difference(*sides, "modality")
    a, b = (Passes.read(side[k]) for side, k in ((sides[0], 1), (sides[1], 1)))
    parts = a.along("modality"), b.along("modality")
    line = found.lines[1]
    assert line.cells["CT"].contrast == contrast(parts[0]["CT"], parts[1]["CT"])
    pooled = [*parts[0]["CT"].real, *parts[0]["MRI"].real]
    assert line.overall.contrast == contrast(pooled, b)
    assert (line.overall.n, line.overall.q, line.overall.unpaired) == (120, None, 60)


def test_a_cell_that_one_side_lacks_is_empty_and_its_rows_are_counted(sides):
    found = difference(*sides, "modality")
    cell = found.lines[1].cells["OCT"]
    assert (cell.n, cell.estimate.value, cell.p, cell.q, cell.unpaired) == (0, None, None, None, 60)
    value = json.loads(json.dumps(found.to_json()))
    empty = value["cells"]["MRI · grpo - sft"]["OCT"]
    assert (empty["difference"]["value"], empty["n"], empty["unpaired"]) == (None, 0, 60)
    row = next(one for one in csv.DictReader(found.to_csv().splitlines()) if one["row"][:3] == "MRI" and one["column"] == "OCT")
    assert (row["difference"], row["n"], row["p"], row["q"], row["a"], row["unpaired"]) == ("", "0", "", "", "", "60")


def test_q_is_that_of_statsmodels_over_all_cells(sides):
    found = difference(*sides, "modality")
    tested = [cell for line in found.lines for cell in line.cells.values() if cell.n]
    expected = multipletests([cell.p for cell in tested], method="fdr_bh")[1]
    assert [cell.q for cell in tested] == pytest.approx(list(expected))
    assert found.tested == len(tested) == 5
    assert any(cell.q > cell.p for cell in tested)


def test_a_difference_has_its_diagonal_its_gap_and_its_macro_means(sides):
    found = difference(*sides, "modality")
    values = [[cell.estimate.value for cell in line.cells.values()] for line in found.lines]
    diagonal, off = (values[0][0] + values[1][1]) / 2, (values[0][1] + values[0][2] + values[1][0]) / 3
    summary = found.to_json()
    assert [summary[key] for key in ("diagonal", "off_diagonal", "gap")] == pytest.approx([diagonal, off, diagonal - off])
    assert found.lines[1].macro == pytest.approx((values[1][0] + values[1][1]) / 2)
    assert summary["summary"]["MRI · grpo - sft"]["diagonal"] == pytest.approx(values[1][1])


def test_json_and_csv_say_the_same(sides):
    found = difference(*sides, "modality")
    value, lines = found.to_json(), list(csv.DictReader(found.to_csv().splitlines()))
    assert tuple(lines[0]) == CSV_HEADER
    assert len(lines) == 8
    for row in lines:
        summary = value["summary"][row["row"]]["overall"]
        cell = summary if row["column"] == "overall" else value["cells"][row["row"]][row["column"]]
        assert row["difference"] == ("" if cell["difference"]["value"] is None else str(cell["difference"]["value"]))
        assert (row["n"], row["q"]) == (str(cell["n"]), "" if cell["q"] is None else str(cell["q"]))


def test_the_change_of_reliance_stands_in_a_cell(evaluate):
    real = answered([True] * 12)
    runs = [
        evaluate(name, real, ["CT"], name, made=blanked(real, [k >= wrong for k in range(12)]).controls["blank"])
        for name, wrong in (("grpo", 9), ("sft", 3))
    ]
    found = difference([runs[0]], [runs[1]], "modality")
    (row, overall) = csv.DictReader(found.to_csv().splitlines())
    assert (row["reliance"], row["reliance_n"], overall["reliance"]) == ("0.5", "12", "0.5")
    assert found.lines[0].cells["CT"].contrast.reliance.change.difference.value == 0.5


def test_one_zero_shot_run_is_subtracted_from_all(sides, evaluate):
    start = evaluate("base", [one for m in ("CT", "MRI", "OCT") for one in answered(drawn(5), m)], label="Qwen2-VL")
    found = difference(sides[0], [start], "modality")
    assert found.rows == tuple(f"{domain} · grpo - Qwen2-VL" for domain in ("CT", "MRI", "OCT"))
    assert found.tested == 9
    assert {line.b for line in found.lines} == {start.path.as_posix()}
    assert found.unmatched == {"a": (), "b": ()}


def test_models_trained_on_several_match_only_where_these_are_the_same(evaluate):
    records = answered(drawn(0))
    mixes = {"a1": ["CT", "MRI"], "a2": ["CT", "OCT"], "b1": ["CT", "MRI"]}
    a1, a2, b1 = (evaluate(name, records, domains) for name, domains in mixes.items())
    found = difference([a1, a2], [b1], "modality")
    assert (found.rows, found.lines[0].domain) == (("mixed · grpo - grpo",), None)
    assert (found.lines[0].a, found.unmatched["a"]) == (a1.path.as_posix(), (a2.path.as_posix(),))


def test_what_cannot_be_subtracted_is_refused(sides, evaluate):
    grpo, sft = sides
    again = evaluate("seed-1", answered(drawn(0)), ["CT"], "sft")
    with pytest.raises(RunError, match=r"sft-CT.* and .*seed-1.*trained on the same modality \(CT\)"):
        difference(grpo, [*sft, again], "modality")
    with pytest.raises(RunError, match="both sides"):
        difference(grpo, [*sft, grpo[0]], "modality")
    with pytest.raises(RunError, match="no two runs were trained on the same modality"):
        difference(grpo[:1], sft, "modality")
    with pytest.raises(RunError, match="no two runs"):
        difference(grpo, [], "modality")
    with pytest.raises(RecipeError, match="Did you mean 'modality'"):
        difference(grpo, sft, "modalities")
    fewer = evaluate("fewer", answered(drawn(0, 50)), ["CT"], "dpo")
    with pytest.raises(RunError, match=r"grpo-CT and .*fewer, in CT, are not of the same rows: they share 50, 10 are only in"):
        difference(grpo, [fewer], "modality")
