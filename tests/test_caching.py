"""`osler cache build | info | clear`: what is computed, found, counted, refused, and never removed."""

import io
import json
import os
import subprocess
import sys
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image

from osler.checking.seen import Known
from osler.cli import app
from osler.config import DataSettings, FeatureSettings
from osler.datasets.embedded import keep_bytes
from osler.datasets.splits import load_splits
from osler.judging.cache import ScoreCache
from osler.judging.replies import Reply
from osler.model.feature_files import kept_in
from osler.model.features import FeatureStore
from osler.model.load import load_policy

DATA = {"name": "phantoms", "train": 3, "val": 2, "test": 2}
ROWS = load_splits(DataSettings(train=DATA), 0)
IMAGES = list(dict.fromkeys(chain(*(s.images for s in chain(ROWS.train, ROWS.val, ROWS.test)))))
RECIPE = "model: tiny\nanswer_form: text\nrollout: {G: 2, prompts_per_step: 1}\ndata: {train: " + json.dumps(DATA) + "}\n"
VISION, IMAGE = "a" * 24, "0" * 64


@pytest.fixture
def osler(monkeypatch, capsys, tmp_path):
    """Runs `osler cache ARGUMENTS` in an empty folder, with a cache of its own; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "kept"))
    (tmp_path / "one.yaml").write_text(RECIPE)
    threads = torch.get_num_threads()

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["osler", "cache", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def refused(osler, tmp_path):
    """Runs a command that must be refused and keep nothing; returns the message, its line breaks as blanks."""

    def call(*arguments):
        code, out, err = osler(*arguments)
        assert (code, out) == (2, "")
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert not list((tmp_path / "kept").rglob("*.safetensors"))
        return " ".join(err.partition("error: ")[2].split())

    return call


def made(root):
    """A folder as the cache makes it, with one feature of 1000 bytes."""
    folder = root / VISION
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"model": "m", "dtype": "torch.bfloat16", "device": "Some Card"}))
    (folder / f"{IMAGE}.safetensors").write_bytes(bytes(1000))
    return folder


# --- build ---


def test_a_build_is_what_the_recipes_own_store_finds(osler, tmp_path, monkeypatch):
    code, out, err = osler("build", "one.yaml", "--json")
    built = json.loads(out)
    assert (code, built["images"], built["computed"], built["found"]) == (0, len(IMAGES), len(IMAGES), 0)
    assert "Vision features" in err
    vlm = load_policy("tiny")
    store = FeatureStore(vlm, FeatureSettings())
    assert built["folders"] == [str(store.folder)]
    assert built["mb"] == round(sum(file.stat().st_size for file in store.folder.iterdir()) / 2**20, 2) > 0
    vlm.model.model.visual.forward = None  # whoever calls it fails
    assert store.holds(IMAGES)
    assert all(store.of(image).values_ND.isfinite().all() for image in IMAGES)


def test_a_build_is_resumed_and_repeated(osler, tmp_path):
    osler("build", "one.yaml")
    files = sorted((tmp_path / "kept").rglob(f"{'?' * 64}.safetensors"))
    before = files[3].stat().st_mtime_ns
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    code, out, err = osler("build", "one.yaml", "--json")
    built = json.loads(out)
    assert (code, built["computed"], built["found"]) == (0, 2, len(IMAGES) - 2)
    assert err.count("damaged") == err.count(str(files[1])) == 1
    code, out, _ = osler("build", "one.yaml")
    assert code == 0
    assert {"tiny", str(len(IMAGES)), "0", str(files[0].parent)} <= set(out.split())
    assert files[3].stat().st_mtime_ns == before


def test_a_chain_goes_through_the_images_of_all_stages_once_a_tower(osler, tmp_path):
    stages = {
        "a": {},
        "b": {"init": "stage:a", "data": {"train": DATA | {"train": 4}}},
        "c": {"images": {"max_pixels": 9000}},
    }
    (tmp_path / "chain.yaml").write_text(RECIPE + "stages: " + json.dumps(stages))
    code, out, _ = osler("build", "chain.yaml", "--json")
    built = json.loads(out)
    more = load_splits(DataSettings(train=DATA | {"train": 4}), 0)
    both = {image for sample in chain(more.train, more.val, more.test) for image in sample.images} | set(IMAGES)
    assert code == 0
    assert [tower["images"] for tower in built["towers"]] == [len(both), len(IMAGES)]
    assert len(set(built["folders"])) == 2
    assert len(both) > len(IMAGES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("full=true", "train_vision=all"), "train_vision=all changes the vision features"),
        (("full=true", "train_vision=merger"), "train_vision=merger changes the vision features"),
        (("train_vision=all",), "needs full=true"),
        (("features.cache=false",), "features.cache=false keeps nothing"),
        (("features.disk_gb=0",), "features.disk_gb=0 keeps nothing"),
        (("features.disk_gb=1e-6",), "features.disk_gb=1e-06 is too small"),
        (("features.folder=one.yaml",), "one.yaml"),
        (("features.fodler=x",), "Did you mean 'features.folder'?"),
        (("data.train=phantom",), "Did you mean 'phantoms'?"),
        (("data.test=jsonl:none.jsonl",), "there is no none.jsonl"),
        (("data.test=jsonl:rows.jsonl",), "rows.jsonl, row 1: "),
        (("init=stage:x",), "stage:x is known only inside a chain"),
        (("init=run:elsewhere",), "elsewhere is no run folder"),
        (("model=no/such/folder",), "no model at 'no/such/folder'"),
    ],
)
def test_a_build_that_cannot_work(refused, tmp_path, override, message):
    row = {"id": "a", "image": "broken.png", "question": "Where?", "options": ["Left", "Right"], "answer_index": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "x.png").read_bytes()[:50])
    assert message in refused("build", "one.yaml", *override)


def test_a_chain_of_which_a_stage_trains_the_tower_is_refused_by_its_name(refused, tmp_path):
    (tmp_path / "chain.yaml").write_text(RECIPE + "stages: {a: {}, b: {full: true, train_vision: all}}")
    assert refused("build", "chain.yaml").startswith("stage b: train_vision=all")
    assert "Did you mean 'quickstart'?" in refused("build", "quickstrt")


# --- info ---


def test_info_of_nothing_says_so(osler, tmp_path):
    assert json.loads(osler("info", "--json")[1]) == {
        "folder": str(tmp_path / "kept"),
        "mb": 0.0,
        "limit_mb": 20480.0,
        "towers": [],
        "kinds": [
            {"kind": kind, "folder": str(tmp_path / "kept" / below), "entries": 0, "mb": 0.0}
            for kind, below in (("features", ""), ("images", "images"), ("checked", "checked"), ("judge", "judge"))
        ],
    }
    code, out, _ = osler("info")
    assert (code, "No vision features are kept." in out) == (0, True)
    assert not (tmp_path / "kept").exists()


def test_info_lists_every_tower(osler, tmp_path):
    folder = made(tmp_path / "elsewhere")
    damaged = tmp_path / "elsewhere" / ("b" * 24)
    damaged.mkdir()
    (damaged / "about.json").write_text("{")
    code, out, _ = osler("info", "--folder", tmp_path / "elsewhere", "--json")
    one, other = json.loads(out)["towers"]
    mb = one.pop("mb")
    assert code == 0
    assert one == {"folder": VISION, "model": "m", "dtype": "bfloat16", "device": "Some Card", "images": 1}
    assert (other["model"], other["images"]) == ("about.json is damaged", 0)
    assert mb == round((1000 + (folder / "about.json").stat().st_size) / 2**20, 2)
    assert "Some Card" in osler("info", "--folder", tmp_path / "elsewhere")[1]


LIGHT = (
    "import sys; from osler.caching import *; from osler.stores import *; info(Path(sys.argv[1])); stores(); "
    "clear_store('judge'); clear_all(Path(sys.argv[1])); print(sys.modules.keys())"
)


def test_info_and_clear_load_no_torch(tmp_path):
    command = [sys.executable, "-c", LIGHT, made(tmp_path).parent]
    environment = {**os.environ, "OSLER_CACHE": str(tmp_path / "none")}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "'osler.caching'" in found.stdout
    assert "'torch'" not in found.stdout
    assert list(tmp_path.iterdir()) == []


# --- clear ---


def test_clear_removes_what_a_build_left(osler, tmp_path):
    osler("build", "one.yaml")
    size = sum(one.size for one in kept_in(tmp_path / "kept"))
    code, out, _ = osler("clear", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"folder": str(tmp_path / "kept"), "images": len(IMAGES), "mb": round(size / 2**20, 2), "left": [], "kinds": []},
    )
    assert list((tmp_path / "kept").iterdir()) == []
    code, out, _ = osler("clear")
    assert (code, out.startswith("0 MB freed, 0 images")) == (0, True)


def strangers(root):
    """What users may keep beside the cache's folders, and in them."""
    (root / "model").mkdir()
    (root / "run").mkdir()
    (root / ("c" * 24)).mkdir()
    (root / ("d" * 24)).symlink_to(root / "model")
    return [
        root / "model" / "about.json",
        root / "model" / f"{IMAGE}.safetensors",
        root / "run" / "model.safetensors",
        root / "notes.part",
        root / ("c" * 24) / f"{IMAGE}.safetensors",  # no about.json
        root / VISION / "model.safetensors",
        root / VISION / "notes.txt",
        root / VISION / f"{IMAGE}.safetensors.bak",
        root / VISION / "mine.part",
    ]


def test_clear_removes_nothing_else(osler, tmp_path):
    folder = made(tmp_path / "kept")
    for name in (f"{IMAGE}.safetensors.0123abcd.part", "about.json.0123abcd.part"):
        (folder / name).write_bytes(b"cut off")
    kept = strangers(tmp_path / "kept")
    for file in kept:
        file.write_text("mine")
    code, out, _ = osler("clear")
    assert code == 0
    assert f"{folder} is left" in " ".join(out.split())
    assert sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file()) == sorted(kept)
    assert all(file.read_text() == "mine" for file in kept)
    assert (tmp_path / "kept" / ("d" * 24)).is_symlink()


def test_a_subfolder_of_a_user_stays(osler, tmp_path):
    folder = made(tmp_path / "kept")
    (folder / "sub").mkdir()
    (folder / "sub" / f"{IMAGE}.safetensors").write_text("mine")
    _, out, _ = osler("clear", "--json")
    assert json.loads(out)["left"] == [str(folder)]
    assert [path.name for path in folder.rglob("*")] == ["sub", f"{IMAGE}.safetensors"]


@pytest.mark.parametrize("command", ["info", "clear"])
def test_a_file_is_no_cache(refused, tmp_path, command):
    said = refused(command, "--folder", "one.yaml", "--json")
    assert said.startswith("one.yaml: no features can be looked for there (Not a directory)")
    assert (tmp_path / "one.yaml").read_text() == RECIPE


def test_a_file_that_cannot_be_removed_is_named(refused, tmp_path, monkeypatch):
    folder = made(tmp_path / "other")

    unlink = Path.unlink

    def read_only(path, missing_ok=False):
        if path.suffix == ".safetensors":
            raise OSError(30, "Read-only file system")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", read_only)
    said = refused("clear", "--folder", tmp_path / "other")
    assert said.startswith(f"{folder / IMAGE}.safetensors cannot be removed (Read-only file system)")
    assert (folder / "about.json").exists()  # by which the rest is known to be the cache's the next time


# --- the other kinds ---


def shade(value):
    """A PNG of one grey."""
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def filled(osler, tmp_path):
    """A cache with something of each kind: ALL."""
    made(tmp_path / "kept")
    for value in (0, 100, 200):
        keep_bytes(shade(value))
    known = Known()
    known.keep_row(b"a", [])
    known.keep_row(b"b", [("wrong", "fix")])
    known.keep_image(b"c", (4, 4))
    known.close()
    for key in ("a", "b"):
        ScoreCache().keep(key, Reply(correct=1, sound=1, why="so"))
    return tmp_path / "kept"


def entries(osler):
    return {one["kind"]: one["entries"] for one in json.loads(osler("info", "--json")[1])["kinds"]}


ALL = {"features": 1, "images": 3, "checked": 3, "judge": 2}


def test_every_kind_is_listed_with_its_size(osler, filled):
    assert entries(osler) == ALL
    by_kind = {one["kind"]: one for one in json.loads(osler("info", "--json")[1])["kinds"]}
    for kind, below in (("images", "images"), ("checked", "checked"), ("judge", "judge")):
        size = sum(file.stat().st_size for file in (filled / below).rglob("*") if file.is_file())
        assert (by_kind[kind]["mb"], by_kind[kind]["folder"]) == (round(size / 2**20, 2), str(filled / below))
    code, out, _ = osler("info")
    assert code == 0
    assert all(kind in out for kind in ALL)


def test_without_a_kind_features_alone_are_cleared_and_the_rest_is_named(osler, filled):
    code, out, _ = osler("clear")
    assert code == 0
    assert "Kept as well: images (3 entries" in out
    assert "judge (2 entries" in out
    assert entries(osler) == {**ALL, "features": 0}


@pytest.mark.parametrize(
    "kinds", [("images",), ("checked",), ("judge",), ("features", "checked"), ("images", "judge", "images")]
)
def test_a_kind_that_is_named_is_cleared_and_no_other(osler, filled, kinds):
    code, out, _ = osler("clear", *kinds, "--json")
    cleared = json.loads(out)
    assert code == 0
    assert {one["kind"]: one["entries"] for one in cleared["kinds"]} == {
        kind: ALL[kind] for kind in kinds if kind != "features"
    }
    assert ("images" in cleared) == ("features" in kinds)
    assert entries(osler) == {kind: 0 if kind in kinds else count for kind, count in ALL.items()}
    assert osler("clear", *kinds)[0] == 0


def test_what_osler_did_not_make_stays(osler, filled):
    shelf = next(path for path in (filled / "images").iterdir() if path.is_dir())
    elsewhere = filled.parent / "elsewhere"
    elsewhere.mkdir()
    (filled / "images" / "zz").mkdir()
    mine = [
        shelf / "notes.txt",
        shelf / f"{IMAGE}.png.bak",
        filled / "images" / f"{IMAGE}.png",
        filled / "images" / "zz" / f"{IMAGE}.png",
        filled / "judge" / "notes.txt",
        filled / "checked" / "my.sqlite",
        elsewhere / f"{IMAGE}.png",
    ]
    for file in mine:
        file.write_text("mine")
    part = shelf / f"{shelf.name}{IMAGE[2:]}.png.0123abcd.part"
    part.write_text("cut off")
    free = next(name for name in ("00", "01", "02", "03") if not (filled / "images" / name).exists())
    (filled / "images" / free).symlink_to(elsewhere)
    assert osler("clear", "images", "checked", "judge")[0] == 0
    assert all(file.read_text() == "mine" for file in mine)
    assert not part.exists()
    assert {kind: count for kind, count in entries(osler).items() if kind != "features"} == dict.fromkeys(list(ALL)[1:], 0)


def test_an_image_whose_bytes_are_not_those_of_its_name_stays(osler, filled):
    """It may be a user's: osler writes whole files, by their hash, on the shelf of its first two digits."""
    digest = sha256(shade(7)).hexdigest()
    mine = [
        filled / "images" / "ab" / f"{'a' * 64}.png",  # neither its hash nor its shelf
        filled / "images" / "aa" / f"{'a' * 64}.png",  # its shelf
        filled / "images" / "cd" / f"{'ab' * 32}.png.0123abcd.part",
    ]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    wrong = filled / "images" / ("00" if digest[:2] != "00" else "01") / f"{digest}.png"
    wrong.parent.mkdir(exist_ok=True)
    wrong.write_bytes(shade(7))  # its hash, and not its shelf
    shelf = filled / "images" / digest[:2]
    shelf.mkdir(exist_ok=True)
    link = shelf / f"{digest}.png"
    link.symlink_to(wrong)
    code, out, _ = osler("clear", "images")
    assert (code, "images: 1 left, as" in " ".join(out.split())) == (0, True)
    assert all(file.read_text() == "mine" for file in mine)
    assert wrong.exists()
    assert link.is_symlink()
    assert sorted(path for path in (filled / "images").rglob("*") if path.is_file()) == sorted([*mine, wrong, link])


@pytest.mark.parametrize("kind", ["images", "checked", "judge"])
def test_a_kind_that_is_a_link_is_not_cleared(osler, filled, kind):
    real = filled.parent / "real"
    (filled / kind).rename(real)
    (filled / kind).symlink_to(real)
    before = sorted(real.rglob("*"))
    code, out, err = osler("clear", kind)
    assert (code, out) == (2, "")
    assert f"{filled / kind} is a link, and nothing behind one is removed. Set OSLER_CACHE to" in " ".join(err.split())
    assert sorted(real.rglob("*")) == before
    assert entries(osler) == ALL


def test_a_damaged_kind_is_listed_and_can_be_cleared(osler, filled):
    (filled / "judge" / "scores.sqlite").write_bytes(b"no database " * 100)
    assert entries(osler)["judge"] is None
    assert "judge (? entries" in osler("clear")[1]
    assert osler("clear", "judge")[0] == 0
    assert entries(osler)["judge"] == 0
    assert ScoreCache().find("a") is None


def test_kinds_that_cannot_be_cleared(osler, filled):
    for arguments, message in (
        (("judges",), "unknown kind of cache 'judges'. Did you mean 'judge'?"),
        (("all",), "unknown kind of cache 'all'"),
        (("judge", "--folder", filled), "--folder is of features alone"),
    ):
        code, out, err = osler("clear", *arguments)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())
    assert entries(osler) == ALL
