"""osler.json: what an exported model still knows of its training, and what an evaluation or a further training makes of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from exported_runs import TEST, TRAIN, made_run
from osler.datasets.load import load_data
from osler.datasets.manifests import write_manifest
from osler.datasets.samples import Samples
from osler.errors import DataError, RecipeError, RunError
from osler.exporting.writing import export
from osler.judging.trained import trained_with
from osler.lineage import (
    check_twin,
    data_hash,
    floor_of,
    has_trained_on,
    judges_of,
    known_judges_of,
    recipe_of,
    training_of,
    trainings_of,
    twin_of,
)
from osler.pipeline import evaluate, train
from osler.provenance import Provenance, floor_beside, provenance_of
from osler.recipe_files import validate
from osler.runs import Run, read_json
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


# --- rows that it was trained on


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file without splits, a run that was trained on nine tenths of it, a further one, and the export of each."""
    root = tmp_path_factory.mktemp("own")
    rows = Samples.of(replace(sample, split=None) for sample in load_data(TRAIN))
    write_manifest(rows, root / "m.jsonl")
    data = {"train": f"jsonl:{root / 'm.jsonl'}", "val_share": 0.3}
    run = train(further("tiny", data=data), root / "run")
    later = train(further("tiny", init=f"run:{run.path}"), root / "later")
    models = [export(one.path, root / f"{one.name}-out").path for one in (run, later)]
    return SimpleNamespace(root=root, rows=rows, run=run, later=later, models=[*map(str, models)])


def test_an_export_is_not_tested_on_the_rows_it_was_trained_on(own, tmp_path, monkeypatch):
    copy = tmp_path / "copy.jsonl"
    shutil.copy(own.root / "m.jsonl", copy)
    monkeypatch.chdir(own.root)
    specs = (f"jsonl:{own.root / 'm.jsonl'}", "jsonl:./m.jsonl", {"name": "jsonl", "path": "m.jsonl"}, f"jsonl:{copy}")
    for model in (f"run:{own.run.path}", f"run:{own.later.path}", *own.models, f"peft:{own.run.path / 'adapter'}"):
        for spec in specs:
            with pytest.raises(DataError, match="was trained on it: an accuracy there would be no test"):
                evaluate(model, spec, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert evaluate(own.models[0], specs[0], split="train", out=tmp_path / "train").summary["accuracy"]["n"] == len(own.rows)


def test_other_rows_are_not_taken_for_those(own, tmp_path):
    for model in own.models:
        assert not has_trained_on(model, f"jsonl:{tmp_path / 'other.jsonl'}", own.rows[:5])
    assert not has_trained_on("tiny", "jsonl:m.jsonl", own.rows)
    assert not has_trained_on("openai:http://host/v1#own", "jsonl:m.jsonl", own.rows)


def test_what_went_along_knows_the_rows_by_hashes_and_not_by_paths(own):
    told = (Path(own.models[1]) / "osler.json").read_text()
    assert str(own.root) not in told
    first, second = provenance_of(own.models[1]).trainings
    assert first["data_sha256"] == data_hash(f"jsonl:{own.root / 'm.jsonl'}") != second["data_sha256"]
    assert own.run.manifest["trained_on"]["row_hash"] in first["row_hashes"]


def test_rows_left_out_against_shortcuts_are_still_known_by_what_was_given(own, tmp_path):
    file = own.root / "run" / "manifest.json"
    copy = shutil.copytree(own.run.path, tmp_path / "run")
    (copy / file.name).write_text(
        json.dumps(read_json(file) | {"trained_on": {**own.run.manifest["trained_on"], "row_hash": "x"}})
    )
    assert has_trained_on(f"run:{copy}", "jsonl:elsewhere.jsonl", own.rows)


def test_runs_and_exports_of_an_earlier_version_are_known_by_their_recipe(own, tmp_path):
    copy = shutil.copytree(own.run.path, tmp_path / "run")
    manifest = read_json(copy / "manifest.json")
    del manifest["training"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert has_trained_on(f"run:{copy}", f"jsonl:{own.root / 'm.jsonl'}", own.rows[:3])
    bare = shutil.copytree(own.models[0], tmp_path / "bare")
    about = read_json(bare / "osler.json")
    del about["trainings"]
    (bare / "osler.json").write_text(json.dumps(about))
    assert has_trained_on(str(bare), "jsonl:elsewhere.jsonl", own.rows)
    assert not has_trained_on(str(bare), "jsonl:elsewhere.jsonl", own.rows[:5])


def test_a_data_set_below_osler_data_is_the_same_one(own, monkeypatch):
    monkeypatch.setenv("OSLER_DATA", str(own.root))
    assert data_hash("jsonl:m.jsonl") == data_hash(f"jsonl:{own.root}/../{own.root.name}/m.jsonl?images=elsewhere")
    assert data_hash("hub:OWNER/NAME") != data_hash("hub:OWNER/OTHER")


def test_a_run_on_from_an_export_that_is_gone_still_knows_its_rows(own, tmp_path):
    gone = shutil.copytree(own.models[0], tmp_path / "gone")
    run = train(further(str(gone)), tmp_path / "on")
    shutil.rmtree(gone)
    assert len(trainings_of(f"run:{run.path}")) == 2
    assert has_trained_on(f"run:{run.path}", "jsonl:elsewhere.jsonl", own.rows)


# --- the judge that trained it


def test_an_evaluation_remembers_the_judge_wherever_it_and_the_model_are(made, tmp_path, monkeypatch):
    shutil.copytree(made.model, tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    path = evaluate("own", TEST, out=tmp_path / "out").path
    monkeypatch.chdir("/")
    assert trained_with(Run.open(path), [JUDGE["model"]]).same is True
    shutil.rmtree(tmp_path / "own")
    assert trained_with(Run.open(path), [JUDGE["model"]]).same is True
    assert trained_with(Run.open(path), ["phantoms"]).same is False
    earlier = Run.open(path)
    del earlier.manifest["judges"]
    assert trained_with(earlier, [JUDGE["model"]]) is None  # it is looked up, and nothing is there


def test_what_judges_are_known_changes_nothing_for_resuming(made, tmp_path):
    run = evaluate(made.spec, TEST, out=tmp_path / "out")
    assert run.manifest["judges"] == [JUDGE["model"]]
    assert set(run.manifest["model"]) == {"label", "spec", "sha256"}
    del run.manifest["judges"]
    run.save()
    assert evaluate(made.spec, TEST, out=tmp_path / "out", resume=True).manifest["state"] == "done"


def test_judges_that_cannot_be_looked_up_are_left_out(tmp_path):
    assert known_judges_of(f"run:{tmp_path / 'gone'}") == {}
    assert known_judges_of("tiny") == {"judges": []}
