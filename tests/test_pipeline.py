"""Recipes to runs, whole: splits, checks before anything heavy, a chain on a small model of the published layout."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from osler import chains, pipeline
from osler.check import verify_images
from osler.config import Chain, ControlSettings, DataSettings, Recipe
from osler.datasets.phantoms import samples
from osler.datasets.samples import Samples
from osler.datasets.splits import hold_out, load_splits
from osler.errors import DataError, OslerError, RecipeError, RunError
from osler.matrix import build_matrix
from osler.report import write_report
from osler.runs import Run
from osler.trial import Trial
from real_layout import save_real_layout

PHANTOMS = {"name": "phantoms", "seed": 0, "train": 8, "val": 2, "test": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_real_layout(folder)
    return str(folder)


def stage(checkpoint, **changes):
    settings = {
        "model": checkpoint,
        "answer_form": "text",
        "data": {"train": PHANTOMS},
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 6},
        "sft": {"batch_size": 4, "eval_steps": 1},
        "lora": {"r": 2},
        "lr": 1e-3,
        "max_steps": 2,
        "save_steps": 1,
    }
    return Recipe.model_validate(settings | changes)


@pytest.fixture(scope="module")
def chain(checkpoint, tmp_path_factory):
    stages = {
        "sft": stage(checkpoint, method="sft"),
        "grpo": stage(checkpoint, init="stage:sft"),
        "twin": stage(
            checkpoint, method="sft", init="stage:sft", max_steps=999, sft={"batch_size": 4, "max_seconds": "stage:grpo"}
        ),
    }
    return chains.run_chain(Chain(name="small", stages=stages), tmp_path_factory.mktemp("runs") / "chain")


def test_a_chain_leaves_whole_runs(chain):
    assert chain.run.manifest["state"] == "done"
    assert set(chain.evaluated) == {"base", "sft", "grpo", "twin"}
    for run in [*chain.trained.values(), *chain.evaluated.values()]:
        assert Run.open(run.path).manifest["state"] == "done"
    sft, grpo = chain.trained["sft"], chain.trained["grpo"]
    assert [row["step"] for row in grpo.rows("metrics")] == [1, 2]
    assert len(grpo.rows("rollouts")) == 2 * 4
    assert {"step", "reward", "rewards", "advantage", "completion", "gold"} <= set(grpo.rows("rollouts")[0])
    assert (grpo.path / "checkpoints" / "2" / "adapter_model.safetensors").is_file()
    assert sft.summary["best_step"] in (1, 2)
    assert grpo.manifest["recipe"]["init"] == f"run:{sft.path}"
    json.dumps(grpo.summary, allow_nan=False)


def test_the_twin_had_about_as_long_as_grpo(chain):
    twin, grpo = chain.trained["twin"], chain.trained["grpo"]
    assert twin.manifest["recipe"]["sft"]["max_seconds"] == grpo.summary["seconds"]
    assert 0 < twin.summary["steps"] < 999


def test_records_are_of_every_test_row_and_have_a_floor(chain):
    rows = chain.evaluated["grpo"].rows("records")
    wanted = [s.id for s in samples(0, {"test": 4})]
    assert [row["sample"]["id"] for row in rows] == wanted
    assert chain.evaluated["grpo"].summary["floor"]["n"] == len(wanted)
    assert chain.evaluated["base"].summary["floor"]["n"] == len(wanted)  # fitted on the rows that the stages train on
    assert {"accuracy", "lenient", "format_rate", "unparseable", "unjudged"} <= set(chain.evaluated["base"].summary)


def test_matrix_and_report_of_a_chain(chain, tmp_path):
    runs = list(chain.evaluated.values())
    matrix = build_matrix(runs, "modality")
    assert len(matrix.rows) == 4
    assert matrix.rows[0].startswith("zero-shot")
    assert write_report([*chain.trained.values(), *runs], tmp_path / "r.html").stat().st_size > 100_000


def test_every_model_spec_of_a_run_evaluates(chain, checkpoint, tmp_path):
    path = chain.trained["grpo"].path
    whole = pipeline.evaluate(f"run:{path}", PHANTOMS, out=tmp_path / "whole")
    last = pipeline.evaluate(f"run:{path}@2", PHANTOMS, out=tmp_path / "last")
    texts = [[row["completion"] for row in run.rows("records")] for run in (whole, last)]
    assert texts[0] == texts[1] == [row["completion"] for row in chain.evaluated["grpo"].rows("records")]
    with pytest.raises(RunError, match="no adapter"):
        pipeline.evaluate(f"run:{path}@7", PHANTOMS, out=tmp_path / "none")


def test_peft_finds_the_start_that_an_adapter_was_trained_on(chain, tmp_path):
    """The adapter on the bare checkpoint would be another model."""
    run = chain.trained["grpo"]
    config = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"run:{chain.trained['sft'].path}"
    trial = Trial.of_model(f"run:{run.path}")
    found = pipeline.evaluate(f"peft:{run.path / 'adapter'}", PHANTOMS, trial, out=tmp_path / "peft")
    wanted = [row["completion"] for row in chain.evaluated["grpo"].rows("records")]
    assert [row["completion"] for row in found.rows("records")] == wanted


def test_the_last_checkpoint_is_the_last_step(checkpoint, tmp_path):
    run = pipeline.train(stage(checkpoint, max_steps=3, save_steps=2), tmp_path / "r")
    assert sorted(folder.name for folder in (run.path / "checkpoints").iterdir()) == ["2", "3"]
    last, kept = (run.path / name / "adapter_model.safetensors" for name in ("checkpoints/3", "adapter"))
    assert last.read_bytes() == kept.read_bytes()


def test_one_of_several_processes_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one of several"):
        pipeline.train(stage(checkpoint), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_seed_trains_the_same_adapter(checkpoint, tmp_path):
    one, two = (pipeline.train(stage(checkpoint), tmp_path / name) for name in ("one", "two"))
    assert [r["completion"] for r in one.rows("rollouts")] == [r["completion"] for r in two.rows("rollouts")]
    weights = [(run.path / "adapter" / "adapter_model.safetensors").read_bytes() for run in (one, two)]
    assert weights[0] == weights[1]
    other = pipeline.train(stage(checkpoint, seed=1), tmp_path / "other")
    assert [r["completion"] for r in other.rows("rollouts")] != [r["completion"] for r in one.rows("rollouts")]


def test_a_blind_twin_is_trained_beside_its_run_and_evaluated_with_it(checkpoint, tmp_path):
    run = pipeline.train(stage(checkpoint, controls={"names": "none", "blind_twin": True}), tmp_path / "seeing")
    twin = Run.open(run.path / "blind-twin")
    assert (twin.manifest["blind"], twin.manifest["state"]) == (True, "done")
    assert all(image.startswith("blank:phantom:") for row in twin.rows("rollouts") for image in row["images"])
    assert not any(image.startswith("blank:") for row in run.rows("rollouts") for image in row["images"])
    tested = pipeline.evaluate(f"run:{run.path}", PHANTOMS, out=tmp_path / "test")
    assert list(tested.summary["controls"]) == ["blind-twin"]
    assert tested.summary["controls"]["blind-twin"]["n"] == tested.summary["n"]
    again = pipeline.train(stage(checkpoint, controls={"names": "none", "blind_twin": True}), run.path, resume=True)
    assert again.summary == run.summary


def test_a_blind_twin_begins_blind_and_is_evaluated_with_its_run_alone(checkpoint, tmp_path):
    looking = {"names": "none", "blind_twin": True}
    first = pipeline.train(stage(checkpoint, controls=looking, max_steps=1), tmp_path / "first")
    then = pipeline.train(stage(checkpoint, controls=looking, max_steps=1, init=f"run:{first.path}"), tmp_path / "then")
    twin = Run.open(then.path / "blind-twin")
    assert twin.manifest["recipe"]["init"] == f"run:{first.path / 'blind-twin'}"
    with pytest.raises(RunError, match="is a blind twin: it is evaluated with the run"):
        pipeline.evaluate(f"run:{twin.path}", PHANTOMS, out=tmp_path / "e")
    twin.save(state="interrupted")
    with pytest.raises(RunError, match="its blind twin was cut off"):
        pipeline.evaluate(f"run:{then.path}", PHANTOMS, out=tmp_path / "e")
    sighted = pipeline.train(stage(checkpoint, max_steps=1), tmp_path / "sighted")
    with pytest.raises(RecipeError, match="has no blind twin to start from"):
        pipeline.train(stage(checkpoint, controls=looking, init=f"run:{sighted.path}"), tmp_path / "out")
    stages = {"one": stage(checkpoint), "two": stage(checkpoint, init="stage:one", controls=looking)}
    with pytest.raises(RecipeError, match="stage two: a blind twin needs a start that is blind"):
        chains.run_chain(Chain(name="c", stages=stages), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_evaluation_cannot_do_is_told_before_a_folder_is_made(checkpoint, tmp_path):
    run = pipeline.train(stage(checkpoint, max_steps=1), tmp_path / "run")
    trial = Trial(answer_form="letter", max_tokens=4)
    for wrong, says in (
        ({"trial": replace(trial, scorer="medr2")}, "medr1"),
        ({"trial": replace(trial, scorer="medr1", answer_form="text")}, "reads letters only"),
        ({"trial": replace(trial, scorer="medr1").with_controls("no-options")}, "leaves no letters"),
        ({"trial": replace(trial, controls=ControlSettings(names=("blnk",)))}, "blank"),
        ({"trial": trial, "train": PHANTOMS}, "--train is for models that osler did not train"),
        ({"trial": trial, "resume": True, "out": None}, "name its folder with --out"),
    ):
        with pytest.raises(RecipeError, match=says):
            pipeline.evaluate(f"run:{run.path}", PHANTOMS, **{"out": tmp_path / "e", **wrong})
    assert not (tmp_path / "e").exists()
    for changes in ({"temperature": -1.0}, {"temperature": 0.0}, {"samples": 300}, {"max_rows_per_cell": 0}):
        with pytest.raises(RecipeError, match=f"controls.{next(iter(changes))}"):
            trial.with_controls(None, **changes)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_run_without_its_floor_is_an_error_in_words(checkpoint, tmp_path, content):
    run = pipeline.train(stage(checkpoint, max_steps=1), tmp_path / "run")
    (run.path / "floor.json").unlink() if content is None else (run.path / "floor.json").write_text(content)
    with pytest.raises(RunError, match=r"floor\.json (is missing|holds no stages)"):
        pipeline.evaluate(f"run:{run.path}", PHANTOMS, out=tmp_path / "e")


def test_an_evaluation_resumed_with_another_floor_is_refused(checkpoint, tmp_path):
    rows = {**PHANTOMS, "train": 0}
    trial = Trial(answer_form="text", max_tokens=4).with_controls("none")
    pipeline.evaluate(checkpoint, rows, trial, out=tmp_path / "e")
    with pytest.raises(RunError, match="its floor was None"):
        pipeline.evaluate(checkpoint, rows, trial, out=tmp_path / "e", resume=True, train=PHANTOMS)


def test_an_evaluation_resumes_where_it_was_cut(checkpoint, tmp_path):
    trial = Trial(answer_form="text", max_tokens=6)
    whole = pipeline.evaluate(checkpoint, PHANTOMS, trial, out=tmp_path / "e")
    lines = (whole.path / "records.jsonl").read_text().splitlines(keepends=True)
    (whole.path / "records.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    (whole.path / "summary.json").unlink()
    again = pipeline.evaluate(checkpoint, PHANTOMS, trial, out=tmp_path / "e", resume=True)
    untimed = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again.rows("records")] == untimed
    with pytest.raises(RunError, match="cannot be resumed: its trial"):
        pipeline.evaluate(checkpoint, PHANTOMS, Trial(max_tokens=6), out=tmp_path / "e", resume=True)


def test_nothing_is_made_when_something_is_wrong(checkpoint, tmp_path):
    wrong = stage(checkpoint, strategy="nothink_raw", rewards=[{"name": "format"}])
    with pytest.raises(RecipeError, match=r"has no tags.*think, nothink, think_after"):
        pipeline.train(wrong, tmp_path / "out")
    with pytest.raises(RecipeError, match="does not divide"):
        pipeline.train(stage(checkpoint, engine="trl", rollout={"G": 4, "micro_batch": 3}), tmp_path / "out")
    with pytest.raises(RecipeError, match="is no run"):
        pipeline.train(stage(checkpoint, init="somewhere"), tmp_path / "out")
    with pytest.raises(DataError, match="no training rows"):
        pipeline.train(stage(checkpoint, data={"train": PHANTOMS | {"train": 0}}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hold_out_never_parts_a_group():
    rows = Samples.of(samples(0, {"train": 40}))
    train, val = hold_out(rows, 0.25, seed=3)
    assert len(train) + len(val) == len(rows)
    assert len({s.cluster for s in val}) == 10
    assert not ({s.cluster for s in train}) & ({s.cluster for s in val})
    assert list(hold_out(rows, 0.25, seed=3)[1]) == list(val)
    assert list(hold_out(rows, 0.25, seed=4)[1]) != list(val)


def test_splits_come_from_the_training_spec_unless_others_are_given():
    splits = load_splits(DataSettings(train=PHANTOMS), seed=0)
    assert {s.split for s in splits.train} == {"train"}
    assert {s.split for s in splits.val} == {"val"}
    assert {s.split for s in splits.test} == {"test"}
    held = load_splits(DataSettings(train=PHANTOMS | {"val": 0}, val_share=0.25), seed=0)
    assert {s.split for s in held.val} == {"train"}
    assert len({s.cluster for s in held.val}) == 2


def test_every_image_is_decoded_before_training(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (60, 60)).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    first = next(samples(0, {"train": 1}))
    rows = [
        Samples.of([first])[0].__class__(**{**vars(first), "id": str(k), "images": (str(p),)}) for k, p in ((1, good), (2, bad))
    ]
    verify_images(rows[:1])
    with pytest.raises(DataError, match=r"sample '2': .*bad.png"):
        verify_images(rows)
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (1200, 4)).save(narrow)
    with pytest.raises(DataError, match="1200 by 4 pixels, too narrow"):
        verify_images([first.__class__(**{**vars(first), "images": (str(narrow),)})])
    blind = first.__class__(**{**vars(first), "images": ()})
    with pytest.raises(DataError, match="has no image"):
        verify_images([blind])


def test_a_study_is_done_only_with_its_report_and_summary(chain, checkpoint, tmp_path):
    assert (chain.run.path / "report.html").is_file()
    assert set(chain.run.summary) == {"base", "sft", "grpo", "twin", "report"}

    def fails(result):
        raise RunError("no room")

    with pytest.raises(RunError, match="no room"):
        chains.run_chain(Chain(name="c", stages={"sft": stage(checkpoint, method="sft")}), tmp_path / "c", fails)
    assert Run.open(tmp_path / "c").manifest["state"] == "failed"


def test_a_run_knows_the_chain_of_weights_that_it_started_from(chain, checkpoint):
    start = chain.trained["grpo"].manifest["start"]
    assert [one["model"] for one in start] == [checkpoint, f"run:{chain.trained['sft'].path}"]
    assert all(len(one["sha256"]) == 64 for one in start)
    assert start[0] == chain.trained["sft"].manifest["start"][0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora": {"targets": "langage"}}, "lora.targets"),
        ({"engine": "trl", "trl": {"loss_type": "dapo"}}, "trl.loss_type"),
        ({"engine": "trl", "trl": {"gradient_checkpoint": True}}, "gradient_checkpointing"),
        ({"model": "/nowhere"}, "/nowhere"),
        ({"init": "run:/nowhere"}, "/nowhere"),
        ({"data": {"train": PHANTOMS | {"train": 1}}, "rollout": {"G": 2, "prompts_per_step": 8}}, "not one step"),
    ],
    ids=["targets", "passthrough", "misspelt", "model", "init", "rows"],
)
def test_what_cannot_work_is_told_before_a_folder_is_made(checkpoint, tmp_path, changes, says):
    wrong = stage(checkpoint, **changes)
    with pytest.raises(OslerError, match=says):
        pipeline.train(wrong, tmp_path / "out")
    chain = Chain(name="c", stages={"sft": stage(checkpoint, method="sft"), "wrong": wrong})
    with pytest.raises(OslerError):
        chains.run_chain(chain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def unsplit(tmp_path):
    """The spec of a manifest of four rows without splits or rationales."""
    Image.new("RGB", (60, 60)).save(tmp_path / "x.png")
    rows = [
        {"id": str(k), "image": "x.png", "question": "What?", "options": ["a", "b"], "answer_index": 0, "group": str(k)}
        for k in range(4)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{tmp_path / 'm.jsonl'}"


def test_thoughts_that_no_row_has_are_told_before_a_folder_is_made(checkpoint, tmp_path, unsplit):
    with pytest.raises(RecipeError, match="has no rationale"):
        pipeline.train(stage(checkpoint, method="sft", data={"train": unsplit}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_rows_are_never_a_test_by_accident(checkpoint, tmp_path, unsplit):
    run = pipeline.train(stage(checkpoint, data={"train": unsplit, "val_share": 0}, max_steps=1), tmp_path / "run")
    with pytest.raises(DataError, match="no test"):
        pipeline.evaluate(f"run:{run.path}", unsplit, out=tmp_path / "test")
    assert pipeline.evaluate(f"run:{run.path}", unsplit, split="train", out=tmp_path / "seen").summary["n"] == 4
    with pytest.raises(RecipeError, match="no test rows"):
        chains.run_chain(Chain(name="c", stages={"one": stage(checkpoint, data={"train": unsplit})}), tmp_path / "c")
