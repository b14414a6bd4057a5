"""Training looks through its rows as `osler data check` does, and refuses what it could not use."""

import json

import numpy as np
import pytest
from PIL import Image

from osler.config import Recipe
from osler.errors import DataError
from osler.pipeline import train


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "question": "What?", "options": ["cyst", "stone"], "answer_index": number % 2}
        rows.append({"id": str(number), **row, "split": "train"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    return tmp_path / "rows.jsonl"


def recipe(manifest, most):
    return Recipe.model_validate(
        {
            "model": "tiny",
            "strategy": "nothink",
            "answer_form": "text",
            "data": {"train": f"jsonl:{manifest}", "val_share": 0, "max_problems": most},
            "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 4},
            "max_steps": 1,
        }
    )


def test_a_broken_row_is_refused_by_its_file_and_row_before_anything_is_written(manifest, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl, row 5"):
        train(recipe(manifest, 0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_as_many_as_the_recipe_allows_are_left_out_and_told(manifest, tmp_path, capsys):
    run = train(recipe(manifest, 1), tmp_path / "run")
    assert run.manifest["trained_on"]["n"] == 5
    assert "1 rows have problems and are left out (data.max_problems=1)" in capsys.readouterr().err
