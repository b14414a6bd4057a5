"""The page on validity says what its raw numbers say, and these come out of the published files.

What other tests pin is not repeated: the audit of Med-R1's files and of the real manifest (test_auditing), and that every
attacker is at chance on debiased rows (test_debiasing).
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from osler.auditing import audit
from osler.controls import CONTROLS
from osler.datasets.samples import Samples
from osler.datasets.splits import load_part
from osler.debiasing import debias
from osler.findings import contradictory, image_names, same_option
from osler.schema import Kind, fold_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "validity.md").read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())
RAW = json.loads((DOCS / "results/audit.json").read_text(encoding="utf-8"))
ATTACKERS = ("option prior", "gold frequency", "stem table", "bag of words")
MEDR1 = "medr1:{0}/original/medr1_splits/"
SPECS = {
    "Med-R1 OCT": MEDR1 + "modality/{1}/OCT (Optical Coherence Tomography_{1}.json",
    "Med-R1 X-Ray": MEDR1 + "modality/{1}/X-Ray_{1}.json",
    "Med-R1 ultrasound": MEDR1 + "modality/{1}/ultrasound_{1}.json",
    "Med-R1 lesion grading": MEDR1 + "question_type/{1}/Lesion Grading_{1}.json",
    "real images": "jsonl:{0}/real/manifest.jsonl",
    "VQA-RAD": "vqa_rad:{0}/original/vqa_rad",
    "SLAKE": "slake:{0}/original/slake",
    "VQA-Med 2019": "vqa_med_2019_rad:{0}/original/vqa_med_2019_in_vqa_rad_schema",
}
CHOICES = list(SPECS)[:5]
"""Those with options to balance."""
LANGUAGES = {"SLAKE, English": "en", "SLAKE, Chinese": "zh"}


@cache
def published(folder, name):
    """The training and the test rows of a line of the page, without their images."""
    if name in LANGUAGES:
        return [Samples.of(s for s in part if s.language == LANGUAGES[name]) for part in published(folder, "SLAKE")]
    return [load_part(SPECS[name].format(folder, split), split) for split in ("train", "test")]


# --- the page and its raw numbers ---


def table(first):
    """{label: {column: cell}} of the page's table whose first heading is `first`."""
    (rows,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    head = re.search(rf"^\| {re.escape(first)} \|.*", PAGE, re.MULTILINE).group()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [head, *rows.splitlines()]]
    assert {len(row) for row in cells} == {len(cells[0])}, "a row is longer or shorter than its heading"
    return {row[0]: dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[1:]}


def count(value):
    return "-" if value is None else f"{value:,}"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def floor(report):
    found = report["intervals"]["floor"]
    return f"{percent(found['value'])} [{percent(found['ci_low'])}, {percent(found['ci_high'])}]"


def blind(report):
    said = {name: percent(report[f"{name.replace(' ', '_')}_accuracy"]) for name in ATTACKERS}
    return {**said, "floor": floor(report), "chance": percent(report["chance_accuracy"])}


def accuracies(name):
    report = RAW[name]["result"]
    rows = {"train": report["n_train"], "test": report["n_test"], "scored": report["intervals"]["floor"]["n"]}
    letter = percent(report["majority_letter_accuracy"])
    return {column: count(n) for column, n in rows.items()} | blind(report) | {"majority letter": letter}


def leaks(name):
    report = RAW[name]["result"]
    rate = f" ({percent(report['shared_image_rate'])} %)" if report["shared_image_rows"] else ""
    counts = {
        "test": "n_test",
        "near-duplicate pairs": "near_duplicate_pairs",
        "stem fixes gold": "stem_determined_rows",
        "its stem in train": "stem_taught_rows",
        "lone lower case": "lone_lowercase_rows",
        "label in path": "label_in_path_rows",
        "answer in stem": "answer_in_stem_rows",
        "contradictory": "contradictory_rows",
        "repeated": "repeated_rows",
        "option twice": "same_option_rows",
    }
    said = {column: count(report[key]) for column, key in counts.items()}
    said["shared image"] = count(report["shared_image_rows"]) + rate
    return said | {"gold of these, %": percent(report["lone_lowercase_gold_rate"])}


def dropped(name):
    report = RAW[f"{name}, leaks dropped"]["result"]
    return {"test": count(report["n_test"]), "floor": floor(report), "chance": percent(report["chance_accuracy"])}


def debiased(name):
    made, report = RAW[f"{name}, debiasing"]["result"]["debiased"]["test"], RAW[f"{name}, debiased"]["result"]
    kept_of = RAW.get(f"{name}, published train, debiased test")
    reasons = {"yes/no": "yes_no", "modality": "one_modality", "one gold": "one_gold", "surplus": "surplus"}
    return {
        "before": count(made["n"]),
        "kept": count(made["kept"]),
        **{column: count(made["left_out"][reason]["n"]) for column, reason in reasons.items()},
        **blind(report),
        "shared image: debiased train": count(report["shared_image_rows"]),
        "published train": count(kept_of and kept_of["result"]["shared_image_rows"]),
    }


TABLES = {
    "blind accuracy, %": (accuracies, set(SPECS)),
    "rows": (leaks, {*SPECS, *LANGUAGES}),
    "leaks dropped": (dropped, {"Med-R1 OCT", "Med-R1 X-Ray", "Med-R1 ultrasound"}),
    "test rows, debiased": (debiased, set(CHOICES)),
}


@pytest.mark.parametrize("first", TABLES)
def test_the_page_says_what_the_raw_numbers_say(first):
    expected, names = TABLES[first]
    said = table(first)
    assert set(said) == names
    assert said == {name: expected(name) for name in said}


def test_every_control_is_on_the_page():
    assert {name.strip("`") for name in table("control")} == set(CONTROLS)


def test_the_seconds_on_the_page_add_up():
    said = list(table("what").values())
    assert f"All {len(RAW)} commands" in PAGE
    for key, column in (("user_s", "CPU s (user)"), ("wall_s", "wall s")):
        assert sum(float(line[column]) for line in said) == pytest.approx(sum(run[key] for run in RAW.values()), abs=0.1)


def test_the_raw_numbers_name_no_folder_of_the_machine_that_made_them():
    text = json.dumps(RAW)
    assert not re.findall(r'[ :=\'"]/\w+', text)
    assert not re.findall(r"\.(?:png|jpe?g|tiff?|bmp)\b", text, re.IGNORECASE), "an image's path can hold its label"
    assert all(run["command"].startswith("osler ") and run["made_from"] for run in RAW.values())


# --- the raw numbers and the files ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VQA-RAD", "SLAKE", *LANGUAGES, "VQA-Med 2019"])
def test_the_audit_of_other_published_files_comes_out(shared_data, name):
    found = json.loads(json.dumps(audit(*published(shared_data, name)).to_json()))
    expected = RAW[name]["result"]
    numbers = {key: value for key, value in expected.items() if isinstance(value, (int, float, type(None)))}
    assert len(numbers) >= 25
    assert {key: found[key] for key in numbers} == pytest.approx(numbers, abs=5e-4)
    bounds = [found["intervals"]["floor"][key] for key in ("ci_low", "ci_high")]
    assert bounds == pytest.approx([expected["intervals"]["floor"][key] for key in ("ci_low", "ci_high")], abs=5e-3)
    findings = [[(one["n"], one["invalidates"]) for one in report["findings"]] for report in (found, expected)]
    assert findings[0] == findings[1]


def test_slakes_images_leak_across_languages_only():
    shared = [RAW[name]["result"]["shared_image_rows"] for name in ("SLAKE", *LANGUAGES)]
    assert shared == [1517, 0, 0]


def test_vqa_rads_contradictions_are_training_rows_and_most_are_free_text(shared_data):
    rows = [sample for part in published(shared_data, "VQA-RAD") for sample in part]
    at_odds = [rows[at] for at in contradictory(rows, image_names(rows, published=True))]
    assert {sample.split for sample in at_odds} == {"train"}
    kinds = [sample.kind for sample in at_odds]
    assert "Of VQA-RAD's 54, all training rows, 36 are free text" in PROSE
    assert "18 answer yes or no" in PROSE
    assert (kinds.count(Kind.OPEN), kinds.count(Kind.YESNO)) == (36, 18)


def test_what_invalidates_is_what_the_page_says():
    found = [one["what"] for name in SPECS for one in RAW[name]["result"]["findings"] if one["invalidates"]]
    kinds = ("show an image of train", "give the answer away", "0 bits apart")
    assert [sum(kind in what for kind in kinds) for what in found] == [1] * len(found)
    assert [sum(kind in what for what in found) for kind in kinds] == [5, 8, 1]
    assert "slices that lie side by side or nearly so (the one pair at 0 bits)" in PROSE


def test_the_one_row_without_a_gold_is_slakes():
    assert [name for name in SPECS if RAW[name]["result"]["gold_missing_rows"]] == ["SLAKE"]
    (one,) = (one for one in RAW["SLAKE"]["result"]["findings"] if "no gold" in one["what"])
    assert (one["n"], one["what"].split()[0], one["invalidates"]) == (1, "train", False)
    assert "**No gold**: one row, a training row of SLAKE," in PROSE


def test_the_rows_that_offer_an_option_twice_are_of_the_parts_that_the_page_says(shared_data):
    counts = [
        [sum(map(same_option, part)) for part in published(shared_data, name)]
        for name in ("Med-R1 ultrasound", "Med-R1 lesion grading")
    ]
    assert counts == [[37, 4], [3, 0]]
    assert "Of ultrasound's 41, 37 are training rows and 4 test rows; lesion grading's 3 are training rows." in PROSE


@pytest.mark.parametrize("name", CHOICES)
def test_debiasing_keeps_what_the_page_says(shared_data, name):
    expected = RAW[f"{name}, debiasing"]["result"]["debiased"]
    for split, rows in zip(("train", "test"), published(shared_data, name), strict=True):
        made = debias(rows, seed=0).to_json()
        left_out = {reason: {"n": one["n"]} for reason, one in made.pop("left_out").items()}
        assert left_out == expected[split]["left_out"]
        assert made == pytest.approx({key: expected[split][key] for key in made})


def test_how_many_rows_the_follow_rate_covers(shared_data):
    test = published(shared_data, "real images")[1]
    made = CONTROLS["shuffled"].make(test, 0)
    offered = sum(fold_text(row.sample.extra["donor_gold"]) in map(fold_text, row.sample.options) for row in made.rows)
    facts = (len(test), len(made.rows), made.left_out["no donor"], made.left_out["unknown modality"])
    sentence = (
        "On the {} test rows with real images `shuffled` finds a donor for {}; {} have none and {} have no known modality."
    )
    assert sentence.format(*facts) in PROSE
    assert f"covers the {offered} whose donor's gold is offered" in PROSE
