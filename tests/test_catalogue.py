import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from osler.cli.app import app
from osler.datasets.catalogue import CATALOGUE, NOT_KNOWN
from osler.datasets.load import DATASETS, load_data, parse_spec

PUBLISHED = {
    "medr1": "original/medr1_splits",
    "pathvqa": "original/pathvqa_lxmert",
    "slake": "original/slake",
    "vqa_med_2019": "original/vqa_med_2019",
    "vqa_med_2019_rad": "original/vqa_med_2019_in_vqa_rad_schema",
    "vqa_rad": "original/vqa_rad",
}
"""The data sets whose files are at hand."""


def listed(*options) -> str:
    return CliRunner().invoke(app, ["data", "list", *options], catch_exceptions=False).stdout


def test_every_data_set_is_in_the_catalogue_and_no_other():
    assert CATALOGUE.keys() == DATASETS.keys()


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_says_everything_and_its_spec_can_be_read(name):
    entry = CATALOGUE[name]
    assert all(text.strip() for text in (entry.title, entry.what, entry.where, entry.licence, entry.citation))
    spec = entry.spec.replace("SEED", "0").replace("{...}", "{image: x}")
    assert parse_spec(spec).name == name
    assert entry.rows is None or entry.rows > 0
    assert entry.images is None or 0 < entry.images <= (entry.rows or 0)


def test_the_sizes_are_those_of_the_files_at_hand(shared_data):
    counts = {
        name: load_data(f"{name}:{shared_data}/{folder}").counts() for name, folder in PUBLISHED.items() if name != "medr1"
    }
    for name in ("pathvqa", "slake", "vqa_med_2019_rad", "vqa_rad"):
        assert counts[name]["n"] == CATALOGUE[name].rows
    assert counts["vqa_med_2019"]["n"] + counts["vqa_med_2019_rad"]["n"] == CATALOGUE["vqa_med_2019"].rows
    assert counts["vqa_med_2019"]["groups"] + counts["vqa_med_2019_rad"]["groups"] == CATALOGUE["vqa_med_2019"].images
    assert counts["slake"]["groups"] == CATALOGUE["slake"].images
    assert counts["vqa_rad"]["groups"] == (CATALOGUE["vqa_rad"].images or 0) - 1  # one of its images has no question
    rows = json.loads((shared_data / "original/pathvqa_lxmert/pvqa_ans.json").read_text())
    assert Counter(tuple(row) for row in rows) == {("ans", "dsets"): 4946}


def test_the_list_as_one_json_object():
    found = json.loads(listed("--json"))["datasets"]
    assert [one["name"] for one in found] == sorted(DATASETS)
    assert {tuple(one) for one in found} == {
        ("name", "title", "what", "spec", "where", "licence", "citation", "rows", "images", "note")
    }
    by_name = {one["name"]: one for one in found}
    assert (by_name["slake"]["rows"], by_name["slake"]["licence"]) == (14028, "CC BY 4.0")
    assert (by_name["silvar_med"]["licence"], by_name["silvar_med"]["images"]) == (NOT_KNOWN, None)


def test_the_list_for_people():
    said = " ".join(listed().split())
    for name, entry in CATALOGUE.items():
        assert name in said
        assert entry.rows is None or f"{entry.rows:,}" in said
