"""The quickstart: whole but short in every run, at full length in the slow tier."""

import json
import subprocess
import sys

import pytest

from osler.quickstart import STAGES, notes, quickstart, table

KEYS = {"accuracy", "floor", "format_rate", "reward", "gain", "wall_s", "peak_mb", "seed", "report"}
SHORT = (
    "sft.max_steps=20",
    "grpo.max_steps=2",
    "data.train.test=16",
    "data.train.val=4",
    "rollout.G=4",
)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return quickstart(tmp_path_factory.mktemp("q") / "run", seed=3, overrides=SHORT)


def test_the_summary_has_every_number_with_interval_and_n(short, tmp_path):
    assert set(short) >= KEYS
    assert set(short["accuracy"]) == set(STAGES)
    for estimate in (*short["accuracy"].values(), *short["format_rate"].values(), short["gain"]):
        assert set(estimate) == {"value", "ci_low", "ci_high", "n"}
    assert len({estimate["n"] for estimate in short["accuracy"].values()}) == 1
    assert 0.15 < short["floor"] < 0.45
    assert short["seed"] == 3
    json.dumps(short, allow_nan=False)


def test_the_gain_is_paired_with_its_own_start(short):
    accuracy = short["accuracy"]
    assert short["gain"]["value"] == pytest.approx(accuracy["grpo"]["value"] - accuracy["sft"]["value"])
    versus = accuracy["grpo"]["value"] - accuracy["sft_same_rows"]["value"]
    assert short["gain_over_same_rows"]["value"] == pytest.approx(versus)


def test_the_gain_is_never_told_without_the_twin(short):
    headline = notes(short)["headline"]
    assert "SFT on the same rows" in headline[1]
    assert len(table(short)) == 4
    with open(short["report"], encoding="utf-8") as file:
        page = file.read()
    assert "same rows" in page
    assert "not what it does in a clinic" in page


@pytest.mark.slow
def test_the_quickstart_gains_at_full_length(tmp_path):
    """As a user runs it. One seed may be unlucky; docs/results has five."""
    command = [sys.executable, "-m", "osler", "quickstart", "--seed", "0", "--json", "--out", str(tmp_path / "q")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["accuracy"]["grpo"]["n"] >= 400
    assert summary["gain"]["ci_low"] > 0
    assert summary["accuracy"]["sft"]["ci_low"] > summary["floor"]
    assert summary["peak_mb"] < 3000
    assert summary["wall_s"] < 1200  # ten minutes on two free cores; the machine may be shared
