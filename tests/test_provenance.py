"""osler.json: what an exported model still knows of its training, and what an evaluation or a further training makes of it."""

import json
import shutil
from types import SimpleNamespace

import pytest

from exported_runs import TEST, TRAIN, made_run
from osler.errors import RecipeError, RunError
from osler.exporting.writing import export
from osler.lineage import check_twin, floor_of, judges_of, recipe_of, training_of, twin_of
from osler.pipeline import evaluate, train
from osler.provenance import Provenance, floor_beside, provenance_of
from osler.recipe_files import validate
from osler.summary import read_records
from osler.trial import Trial

JUDGE = {"model": "openai:http://127.0.0.1:8000/v1#seer"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run = made_run(root / "run", judge=JUDGE, seed=3)
    spec = f"run:{run.path}"
    moved = root / "elsewhere" / "model"
    shutil.copytree(export(run.path, root / "model").path, moved)
    adapter = export(run.path, root / "adapter", adapter=True).path
    return SimpleNamespace(root=root, run=run, spec=spec, model=str(moved), adapter=f"peft:{adapter}")


def test_it_reads_back_as_it_was_written(made):
    found = provenance_of(made.model)
    assert found == Provenance.from_json(json.loads(json.dumps(found.to_json())))
    assert (found.run, found.kind, found.dtype, found.judges) == ("run", "model", "fp32", [JUDGE["model"]])
    assert provenance_of(made.adapter).kind == "adapter"
    assert provenance_of("Qwen/Qwen2-VL-2B-Instruct") is None
    assert floor_beside(str(made.run.path)) is None  # a run's own is asked for as run:DIR


def test_one_that_is_damaged_is_told(made, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for text, said in (("{", "is damaged"), ('{"run": "x"}', "another version of osler wrote it")):
        (copy / "osler.json").write_text(text)
        with pytest.raises(RunError, match=said):
            provenance_of(str(copy))


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_an_export_knows_what_its_run_knew(made, kind):
    exported = getattr(made, kind)
    assert training_of(exported) == training_of(made.spec)
    assert floor_of(exported).to_json() == floor_of(made.spec).to_json()
    assert judges_of(exported) == judges_of(made.spec) == [JUDGE["model"]]
    assert Trial.of(recipe_of(exported)).to_json() == Trial.of(recipe_of(made.spec)).to_json()
    assert twin_of(exported) is None
    check_twin(exported)


def test_an_evaluation_of_an_export_is_that_of_the_run(made, tmp_path):
    of_run = evaluate(made.spec, TEST, out=tmp_path / "run")
    of_export = evaluate(made.model, TEST, out=tmp_path / "export")
    for name in ("trained_on", "trial", "floor"):
        assert of_run.manifest[name] == of_export.manifest[name]
    first, second = ([(one.prompt, one.completion, one.blind) for one in read_records(run)] for run in (of_run, of_export))
    assert first == second
    assert of_export.summary["floor"] == of_run.summary["floor"] != None  # noqa: E711


def test_without_its_floor_the_training_rows_can_be_named(made, tmp_path):
    bare = shutil.copytree(made.model, tmp_path / "bare")
    (bare / "floor.json").unlink()
    assert floor_of(str(bare)) is None
    run = evaluate(str(bare), TEST, out=tmp_path / "out", train=TRAIN)
    assert run.summary["floor"]["n"] == run.summary["accuracy"]["n"]


def further(model, **settings):
    """A recipe that trains on from `model`."""
    from osler.config import Recipe

    data = {"train": {"name": "phantoms", "seed": 9, "train": 3, "val": 1, "test": 1}}
    given = {"model": model, "method": "sft", "data": data, "strategy": "nothink", "answer_form": "text", "max_steps": 1,
             "sft": {"batch_size": 2, "micro_batch": 2, "eval_steps": 1}, "controls": {"names": "none"}}  # fmt: skip
    return validate(Recipe, {**given, **settings}, "here")


def test_training_on_from_an_export_remembers_what_it_saw(made, tmp_path):
    gone = shutil.copytree(made.model, tmp_path / "gone")
    run = train(further(str(gone)), tmp_path / "on")
    shutil.rmtree(gone)
    assert judges_of(f"run:{run.path}") == [JUDGE["model"]]
    assert len(floor_of(f"run:{run.path}").stages) == 2
    before = training_of(made.spec)
    assert set(before["modality"]) <= set(run.manifest["trained_on"]["modality"])


def test_a_blind_twin_cannot_start_from_an_export_that_has_seen_images(made, tmp_path):
    with pytest.raises(RecipeError, match="has seen images"):
        train(further(made.model, controls={"names": "none", "blind_twin": True}), tmp_path / "on")
