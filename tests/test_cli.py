"""The command line on bad input: exit code 2, one message that names the place, no traceback, nothing half-written."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from osler import doctor
from osler.cli import app
from osler.model import load
from osler.runs import Run

ROW = {"id": "a", "image": "x.png", "question": "Where?", "options": ["Left", "Right"], "answer_index": 1}
SMALL = "data.train={name: phantoms, train: 2, val: 1, test: 1}"


@pytest.fixture
def osler(monkeypatch, capsys, tmp_path):
    """Runs `osler ARGUMENTS` in this process and an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["osler", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def refused(osler, tmp_path):
    """Runs `osler ARGUMENTS --out FOLDER`, which must be refused; returns the message, its line breaks as blanks."""

    def call(*arguments):
        code, out, err = osler(*arguments, "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "runs").exists()
        return " ".join(err.partition("error: ")[2].split())

    return call


@pytest.fixture
def write(tmp_path):
    """Writes rows (dictionaries or raw lines) to a manifest beside one image, x.png; returns the manifest's path."""
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png")

    def manifest(*rows):
        (tmp_path / "rows.jsonl").write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
        return tmp_path / "rows.jsonl"

    return manifest


BAD_ROWS = [
    (ROW | {"image": "none.png"}, "there is no image"),
    (ROW | {"answer_index": None}, "it has no gold"),
    (ROW | {"answer_index": None, "answer": "Up"}, "the gold 'Up' is not among the options"),
    ('{"id": "b", ', "it is no JSON object"),
    (ROW | {"modality": "X-ry"}, "unknown modality 'X-ry'. Did you mean 'X-ray'?"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=["image", "gold", "option", "JSON", "modality"])
def test_a_bad_row_is_named_by_file_and_row(osler, refused, write, row, message):
    file = write(ROW | {"id": "first"}, row)
    for command in (
        ("eval", "--model", "tiny", "--data", f"jsonl:{file}"),
        ("train", "quickstart", f"data.train=jsonl:{file}"),
        ("train", "quickstart", f"data.test=jsonl:{file}"),
    ):
        said = refused(*command)
        assert said.startswith(f"{file}, row 2: ")
        assert message in said
    code, out, err = osler("data", "show", f"jsonl:{file}")
    assert (code, out) == (2, "")
    assert f"{file}, row 2: " in err


@pytest.fixture
def one_stage(tmp_path):
    """A recipe of one stage."""
    (tmp_path / "one.yaml").write_text(
        "model: tiny\nanswer_form: text\ndata: {train: {name: phantoms, train: 2, val: 1, test: 1}}\n"
    )
    return tmp_path / "one.yaml"


def test_an_image_that_cannot_be_decoded_is_named(refused, write, one_stage, tmp_path):
    (tmp_path / "broken.png").write_bytes((tmp_path / "x.png").read_bytes()[:40])
    file = write(ROW | {"id": "first"}, ROW | {"image": "broken.png"})
    for command in (
        ("eval", "--model", "tiny", "--data", f"jsonl:{file}"),
        ("train", one_stage, f"data.train=jsonl:{file}", "data.val_share=0", "rollout.prompts_per_step=1"),
        ("train", "quickstart", f"data.test=jsonl:{file}"),
    ):
        said = refused(*command)
        assert said.startswith(f"{file}, row 2: ")
        assert f"{tmp_path / 'broken.png'}: the image cannot be decoded" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=8", "one.yaml: unknown key 'lora.rank'. Did you mean 'lora.r'?"),
        ("lr", "override 'lr' is not of the form key=value"),
        ("lr=fast", "one.yaml: lr: "),
        ("strategy=thnk", "unknown strategy 'thnk'. Did you mean 'think'?"),
        ("rewards=[{name: acuracy}]", "unknown reward 'acuracy'. Did you mean 'accuracy'?"),
        ("strategy=nothink_raw", "has no tags, so a format reward has nothing to pay for"),
        ("data.train=phantom", "unknown data set 'phantom'. Did you mean 'phantoms'?"),
        ("data.train=phantoms:x", "phantoms:SEED"),
        ("data.train={name: phantoms, train: 0, val: 0, test: 1}", "no training rows"),
        ("init=elsewhere", "init 'elsewhere' is no run"),
        ("init=run:elsewhere", "elsewhere is no run folder: it has no manifest.json"),
        ("init=stage:sft", "stage:sft is known only inside a chain"),
        ("model=no/such/folder", "no model at 'no/such/folder'"),
    ],
)
def test_a_recipe_that_cannot_work(refused, one_stage, override, message):
    assert message in refused("train", one_stage, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.lora.rank=8", "stage grpo: unknown key 'lora.rank'"),
        ("grpo.strategy=thnk", "unknown strategy 'thnk'"),
        ("grpo.data.train=phantom", "unknown data set 'phantom'"),
        ("grpo.init=stage:grpo", "stage grpo: stage:grpo is no earlier stage"),
    ],
)
def test_a_chain_that_cannot_work(refused, override, message):
    assert message in refused("train", "quickstart", SMALL, override)


def test_a_recipe_that_is_none(refused, tmp_path):
    assert "Did you mean 'quickstart'?" in refused("train", "quickstrt")
    (tmp_path / "bad.yaml").write_text("lr: [")
    assert f"{tmp_path / 'bad.yaml'} is no YAML" in refused("train", tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "thnk"), "unknown strategy 'thnk'. Did you mean 'think'?"),
        (("--answer-form", "leter"), "unknown answer form 'leter'. Did you mean 'letter'?"),
        (("--split", "tets"), "no tets rows in "),
        (("--model", "run:elsewhere"), "elsewhere is no run folder"),
        (("--model", "peft:elsewhere"), "elsewhere is no PEFT adapter"),
        (("--data", "jsonl"), "needs a file or a folder"),
        (("--data", "jsonl:none.jsonl"), "there is no none.jsonl"),
    ],
)
def test_an_evaluation_that_cannot_work(refused, options, message):
    assert message in refused("eval", "--model", "tiny", "--data", "phantoms", *options)


def test_an_evaluation_is_no_model(refused, tmp_path):
    run = Run.create(tmp_path / "evaluated", "eval")
    assert "is no train run, but of kind 'eval'" in refused("eval", "--model", f"run:{run.path}", "--data", "phantoms")


def test_a_checkpoint_without_an_image_processor(refused, one_stage, tmp_path):
    shutil.copytree(load.TINY, tmp_path / "blind", ignore=shutil.ignore_patterns("preprocessor_config.json"))
    for command in (("eval", "--model", tmp_path / "blind", "--data", "phantoms"), ("train", one_stage, "model=blind")):
        assert "has no image processor (preprocessor_config.json)" in refused(*command)


def test_a_run_folder_that_exists_is_left_alone(osler, one_stage, tmp_path):
    run = Run.create(tmp_path / "mine", "eval")
    before = {file: file.read_bytes() for file in run.path.rglob("*")}
    for command in (
        ("train", one_stage),
        ("train", "quickstart", SMALL),
        ("quickstart",),
        ("eval", "--model", "tiny", "--data", "phantoms"),
    ):
        code, out, err = osler(*command, "--out", run.path)
        assert (code, out) == (2, "")
        assert "mine exists. Name another folder with --out" in " ".join(err.split())
    assert {file: file.read_bytes() for file in run.path.rglob("*")} == before


def test_only_the_same_evaluation_is_resumed(osler, tmp_path):
    Run.create(tmp_path / "mine", "eval", model={"label": "other"})
    before = (tmp_path / "mine" / "manifest.json").read_bytes()
    code, _, err = osler("eval", "--model", load.TINY, "--data", "phantoms", "--resume", "--out", tmp_path / "mine")
    assert (code, "cannot be resumed: its model was" in err) == (2, True)
    assert (tmp_path / "mine" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("command", [("matrix", "none"), ("report", "none", "-o", "page.html")])
def test_a_folder_that_is_no_run_has_no_matrix_and_no_report(osler, command, tmp_path):
    code, out, err = osler(*command)
    assert (code, out, err) == (2, "", "error: none is no run folder: it has no manifest.json.\n")
    assert list(tmp_path.iterdir()) == []


# --- what is printed ---


def test_data_show_prints_one_json_object(osler):
    code, out, err = osler("data", "show", "phantoms", "--json")
    assert (code, err) == (0, "")
    counts = json.loads(out)
    assert counts["n"] == sum(counts["by_split"].values()) > 0


def test_an_evaluation_prints_one_json_object(osler, write, tmp_path):
    command = ("eval", "--model", "tiny", "--data", f"jsonl:{write(ROW)}", "--max-tokens", 2, "--out", tmp_path / "out")
    code, out, _ = osler(*command, "--json")
    assert (code, json.loads(out)["run"]) == (0, str(tmp_path / "out"))
    assert Run.open(tmp_path / "out").manifest["state"] == "done"


def test_every_command_of_a_first_day_prints_one_json_object(osler, one_stage, tmp_path):
    """train, eval, matrix and report on one small run, as a program would call them."""
    small = ("max_steps=1", "rollout={G: 2, prompts_per_step: 1, max_tokens: 4}")
    code, out, _ = osler("train", one_stage, *small, "--out", tmp_path / "run", "--json")
    trained = json.loads(out)
    assert (code, trained["run"], trained["steps"]) == (0, str(tmp_path / "run"), 1)
    evaluation = ("eval", "--model", f"run:{tmp_path / 'run'}", "--data", "phantoms", "--split", "val")
    code, out, _ = osler(*evaluation, "--max-tokens", 4, "--out", tmp_path / "seen", "--json")
    assert (code, json.loads(out)["accuracy"]["n"]) == (0, 252)
    code, out, _ = osler("matrix", tmp_path / "seen", "--csv", tmp_path / "cells.csv", "--json")
    assert (code, json.loads(out)["axis"]) == (0, "modality")
    assert (tmp_path / "cells.csv").read_text().startswith("row,column,accuracy")
    code, out, _ = osler("report", tmp_path / "run", tmp_path / "seen", "-o", tmp_path / "r.html", "--json")
    assert (code, json.loads(out)) == (0, {"report": str(tmp_path / "r.html")})


def test_data_show_prints_tables_for_people(osler, write):
    code, out, _ = osler("data", "show", f"jsonl:{write(ROW)}")
    assert code == 0
    assert "by_modality" in out


@pytest.mark.parametrize(("gpus", "code"), [([], 0), (["GPU 0: Some Card"], 2)])
def test_doctor_prints_one_json_object_and_fails_where_a_gpu_is_not_seen(osler, monkeypatch, gpus, code):
    monkeypatch.setattr(doctor, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found, out, _ = osler("doctor", "--json")
    findings = json.loads(out)
    assert (found, len(findings["problems"]), findings["gpus"]) == (code, len(gpus), gpus)
    built = findings["torch"].partition("+")[0]  # its metadata may leave out what a wheel was built for
    assert (built, findings["device"]) == (torch.__version__.partition("+")[0], "cpu")
    found, out, err = osler("doctor")
    assert (found, "torch" in out, "has no CUDA" in err or "CUDA" in err) == (code, True, bool(gpus))


def test_ctrl_c_says_where_the_work_is(osler, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", stop)
    assert osler("doctor") == (130, "", "interrupted; what was written is in the run folder.\n")


def test_version_and_help():
    for arguments, text in ((["--version"], "0."), (["--help"], "quickstart"), (["eval", "--help"], "--answer-form")):
        found = subprocess.run([sys.executable, "-m", "osler", *arguments], capture_output=True, text=True, check=True)
        assert text in found.stdout
        assert found.stderr == ""
