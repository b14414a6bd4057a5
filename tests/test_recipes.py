"""The shipped recipes and studies: they resolve, they say what they are, their tiny twins run."""

from pathlib import Path

import pytest
import yaml

from osler.chains import run_chain
from osler.check import check, check_stages
from osler.config import Chain
from osler.pipeline import train
from osler.recipe_files import load_recipe
from osler.study.files import load_study
from osler.study.grid import check_tests, entries_of
from osler.study.job import run_study

ROOT = Path(__file__).parents[1] / "recipes"
FILES = sorted(ROOT.rglob("*.yaml"))
STUDIES = [file for file in FILES if "rows" in yaml.safe_load(file.read_text())]
RECIPES = [file for file in FILES if file not in STUDIES]
TINY = [file for file in RECIPES if file.is_relative_to(ROOT / "tiny")]
PAPERS = [file for file in RECIPES if file.parent.name in ("medr1", "zhu", "rarl") and file not in TINY]
SMALL = ("data.train.train=12", "data.train.val=4", "data.test.test=8", "max_steps=2", "controls.names=none")


def name_of(file):
    return file.relative_to(ROOT).with_suffix("").as_posix()


def same_but_strategy(folder):
    """The settings of the three strategies' recipes, each without that line."""
    read = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("think", "nothink", "think_after")}
    assert {name: one.pop("strategy") for name, one in read.items()} == {name: name for name in read}
    return list(read.values())


@pytest.mark.parametrize("folder", [ROOT / "medr1", ROOT / "tiny" / "medr1"], ids=name_of)
def test_think_nothink_and_think_after_differ_in_one_line(folder):
    first, second, third = same_but_strategy(folder)
    assert first == second == third
    lines = [
        [line for line in (folder / f"{name}.yaml").read_text().splitlines() if not line.startswith("#")]
        for name in ("think", "nothink", "think_after")
    ]
    assert [sum(a != b for a, b in zip(lines[0], other, strict=True)) for other in lines[1:]] == [1, 1]


@pytest.mark.parametrize("file", RECIPES, ids=name_of)
def test_a_recipe_can_be_run_and_says_how(file):
    recipe = load_recipe(file)
    check_stages(recipe) if isinstance(recipe, Chain) else check(recipe)
    head = file.read_text().split("\n\n")[0]
    assert "osler train" in head or "osler quickstart" in head
    assert "xpected" in head


@pytest.mark.parametrize("file", PAPERS, ids=name_of)
def test_a_papers_recipe_names_its_paper_and_what_is_ours(file):
    head = "".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert "arXiv 25" in head
    assert "ours" in head.lower()
    assert "not measured" in head
    twin = ROOT / "tiny" / file.parent.name / file.name
    assert twin.exists() or file.stem == "think-paper"


RELEASED = [file for file in STUDIES if file.parent.name == "medr1"]  # checkpoints of the paper's model
SCALED = [
    *((file, "tiny") for file in STUDIES if file not in RELEASED),
    *((file, "paper") for file in STUDIES if file.stem != "medr1-shortcut"),  # marks are planted on phantoms only
]


@pytest.mark.parametrize(("file", "scale"), SCALED, ids=lambda one: one if isinstance(one, str) else name_of(one))
def test_a_study_resolves_at_its_scales(file, scale):
    study, path = load_study(file, [f"scale={scale}"])
    entries = entries_of(study, path)
    check_tests(study, entries)
    assert len({one.name for one in entries}) == sum(len(row.names) for row in study.rows)
    assert "osler study" in file.read_text().split("name:")[0]


def test_a_setting_of_every_row_can_be_given_on_the_command_line():
    for name in ("zhu-bias", "medr1-task"):  # the second has settings of its scale
        study, path = load_study(name, ["set.data.train.train=12", "set.max_steps=2", "seeds=[3]"])
        for entry in entries_of(study, path):
            assert (entry.recipe.max_steps, entry.recipe.seed) == (2, 3)
            assert entry.recipe.data.train["train"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("file", TINY, ids=name_of)
def test_a_tiny_recipe_runs(file, tmp_path):
    last = {"dpo": "dpo", "against_shortcuts": "grpo"}.get(file.stem)  # whose rows need a start that answers some of them
    small = [one for one in SMALL if not (last and "max_steps" in one)]
    recipe = load_recipe(file, [*small, f"{last}.max_steps=2"] if last else small)
    if not isinstance(recipe, Chain):
        assert train(recipe, tmp_path / "run").manifest["state"] == "done"
        return
    result = run_chain(recipe, tmp_path / "run")
    assert {*result.trained} == {*recipe.stages}
    assert all(0 <= run.summary["accuracy"]["value"] <= 1 for run in result.evaluated.values())


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in STUDIES if file not in RELEASED], ids=name_of)
def test_a_study_runs_and_prints_its_table(file, tmp_path):
    small = [f"set.{one}" for one in SMALL if not (file.stem == "medr1-shortcut" and "data.test" in one)]
    if any(row.each for row in load_study(file)[0].rows):
        small += ["set.data.train.train=64", "set.data.train.val=16", "set.form.data.train.val=16"]  # a domain has some of them
    if file.stem == "rarl-main":
        small.append("tests={unseen: {name: phantoms, seed: 3, train: 0, val: 0, test: 3}}")
    result = run_study(file, ["seeds=[0]", *small], out=tmp_path / "out", max_runs=3)
    assert {(one.name, one.seed) for one in result.results} == {(one.name, one.seed) for one in result.entries[:3]}
    assert len(result.results) == 3 * max(1, len(result.study.tests))
    assert not result.failed
    assert f"# {result.study.title}" in (tmp_path / "out" / "table.md").read_text()
