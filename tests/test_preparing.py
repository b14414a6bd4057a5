"""Prepared images are what the processor would make of the originals, under names that hold anywhere; a killed run goes on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from osler.cli.app import app
from osler.config import FeatureSettings, ImageSettings
from osler.datasets.load import load_data
from osler.errors import DataError, RecipeError, RunError
from osler.fingerprints import fingerprint
from osler.images import open_image
from osler.preparing.budget import Budget, recipe_budget
from osler.preparing.folder import prepare
from osler.recipe_files import load_recipe

SMALL = Budget(3136, 12544)
"""The tiny model's."""


def tree(folder):
    """Every file below `folder` with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def header(file):
    """Mode of an image file, and what it says beside its pixels."""
    with Image.open(file) as image:
        return image.mode, image.info


def stamps(folder):
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.rglob("*")}


def write_rows(folder, *rows):
    """A manifest of rows that each show the images of one list, in three splits; its spec."""
    facts = {"question": "Where?", "options": ["Left", "Right"], "answer_index": 0, "site": "a"}
    splits = ("train", "val", "test")
    lines = [{"id": f"r{n}", "images": images, "split": splits[n % 3], **facts} for n, images in enumerate(rows)]
    lines = [{**line, "text_only": True, "images": None} if not line["images"] else line for line in lines]
    lines = [{name: value for name, value in line.items() if value is not None} for line in lines]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"jsonl:{folder / 'rows.jsonl'}"


@pytest.fixture
def pictures(tmp_path):
    """A folder of images of every kind that is opened, and their names."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def noise(*shape):
        return rng.integers(0, 256, shape, dtype=np.uint8)

    side, notes = Image.Exif(), PngImagePlugin.PngInfo()
    side[0x0112], side[0x010E] = 6, "PATIENT NAME"
    notes.add_text("Comment", "PATIENT NAME")
    Image.fromarray(noise(300, 200, 3)).save(folder / "large.png", pnginfo=notes, dpi=(72, 72))
    Image.fromarray(noise(90, 160, 3)).save(folder / "side.jpg", exif=side)
    Image.fromarray(noise(80, 200)).save(folder / "grey.png")
    Image.fromarray(noise(30, 20, 3)).save(folder / "little.bmp")
    Image.fromarray(rng.integers(0, 4096, (150, 130), dtype=np.uint16)).save(folder / "deep.tif")
    Image.fromarray(noise(100, 100, 4), "RGBA").save(folder / "glass.png")
    Image.fromarray(noise(100, 120, 3)).quantize(16).save(folder / "palette.gif")
    Image.fromarray(noise(84, 112, 3)).save(folder / "fits.webp", lossless=True)
    Image.fromarray(noise(2, 390, 3)).save(folder / "narrow.png")
    Image.fromarray(noise(100, 60)).save(folder / "side.tif", tiffinfo={274: 6})
    Image.fromarray(np.dstack([noise(90, 70, 3), np.zeros((90, 70), np.uint8)])).save(folder / "clear.png")
    Image.fromarray(rng.integers(31_744, 35_840, (60, 90), dtype=np.uint16)).save(folder / "offset.png")
    Image.fromarray(noise(90, 70, 3)).save(folder / "frames.png", save_all=True, append_images=[Image.new("RGB", (70, 90))])
    Image.fromarray(noise(90, 70, 3)).convert("CMYK").save(folder / "print.jpg")
    return folder, sorted(file.name for file in folder.iterdir())


@pytest.fixture(scope="module")
def processor():
    from osler.model.load import TINY, load_processor

    return load_processor(str(TINY), ImageSettings()).image_processor


def seen(processor, reference):
    """What the tower is given of an image."""
    inputs = processor(images=[open_image(str(reference))], return_tensors="np")
    return inputs["image_grid_thw"].tolist(), inputs["pixel_values"]


def assert_same_seen(processor, original, file):
    (grid, values), (new_grid, new_values) = seen(processor, original), seen(processor, file)
    assert grid == new_grid
    assert np.array_equal(values, new_values), f"{original}: by up to {np.abs(values - new_values).max()}"


# --- the size


@settings(max_examples=400)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([1, 784, 3136, 50_000]), st.sampled_from([784, 12544, 401_408])
)
def test_the_size_is_that_of_the_published_processor(width, height, smallest, largest):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    budget = Budget(min(smallest, largest), largest)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(DataError, match=rf"{width} by {height} pixels, too narrow"):
            budget.size_of(width, height)
        return
    down, across = smart_resize(height, width, 28, budget.min_pixels, budget.max_pixels)
    assert budget.size_of(width, height) == (across, down)


@pytest.mark.parametrize(("size", "expected"), [((1000, 500), (140, 56)), ((20, 30), (56, 84)), ((112, 84), (112, 84))])
def test_sizes_by_hand(size, expected):
    assert SMALL.size_of(*size) == expected


def test_the_budget_of_a_recipe_is_never_above_its_models():
    assert recipe_budget(load_recipe("quickstart")) == SMALL
    medr1 = load_recipe("medr1/think", ["model=tiny", "images.max_pixels=6272"])
    assert recipe_budget(medr1) == Budget(3136, 6272)
    last = list(load_recipe("quickstart").stages)[-1]
    uneven = load_recipe("quickstart", [f"{last}.images.max_pixels=6272"])
    with pytest.raises(RecipeError, match="different sizes"):
        recipe_budget(uneven)


# --- the images


def test_prepared_images_are_seen_exactly_as_their_originals_whatever_these_are(pictures, tmp_path, processor):
    folder, names = pictures
    done = prepare(write_rows(folder, *([name] for name in names)), tmp_path / "out", SMALL)
    rows = load_data(f"jsonl:{tmp_path / 'out'}")
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        assert_same_seen(processor, folder / name, row.images[0])
        about = row.extra["prepared"][0]
        assert about["original"] == str(folder / name)
        assert open_image(row.images[0]).size == tuple(about["size"])
        assert open_image(str(folder / name)).size == tuple(about["original_size"])
        assert Path(row.images[0]).stem == fingerprint(row.images[0]).pixels
        assert header(row.images[0])[1] == {}, "nothing of the file but its pixels"
    by_name = {Path(row.extra["prepared"][0]["original"]).name: row for row in rows}
    assert header(by_name["grey.png"].images[0])[0] == "L"
    assert done.unscaled == 1
    assert by_name["narrow.png"].extra["prepared"][0]["size"] == [390, 2], "the processor would scale it twice"


def test_prepared_images_of_published_data_are_seen_exactly_as_their_originals(shared_data, tmp_path, processor):
    found = sorted(file for file in (shared_data / "real").rglob("*") if file.suffix in (".jpg", ".jpeg", ".png", ".bmp"))
    chosen = random.Random(0).sample(found, 40)
    spec = write_rows(tmp_path, *([str(file)] for file in chosen))
    prepare(spec, tmp_path / "out", SMALL)
    for file, row in zip(chosen, load_data(f"jsonl:{tmp_path / 'out'}"), strict=True):
        assert_same_seen(processor, file, row.images[0])


def test_every_row_is_kept_as_it_is_with_its_images_in_order_and_equal_images_once(pictures, tmp_path):
    folder, _ = pictures
    shutil.copy(folder / "large.png", folder / "again.png")
    spec = write_rows(folder, ["large.png", "side.jpg"], ["again.png"], ["side.jpg", "grey.png", "large.png"], [])
    done = prepare(spec, tmp_path / "out", SMALL)
    before, after = load_data(spec), load_data(f"jsonl:{tmp_path / 'out'}")
    assert done.manifest["images"] == len(list((tmp_path / "out" / "images").rglob("*.png"))) == 3
    assert done.to_json()["made"] == 4
    assert done.manifest["text_only"] == 1
    for old, new in zip(before, after, strict=True):
        extra = {name: value for name, value in new.extra.items() if name != "prepared"}
        assert vars(new) | {"images": old.images, "extra": extra, "origin": old.origin} == vars(old)
        originals = [one["original"] for one in new.extra.get("prepared", [])]
        assert originals == list(old.images)
    assert after[0].images[0] == after[1].images[0] == after[2].images[2]
    assert {row.split for row in after} == {"train", "val", "test"}


def test_drawn_and_marked_images_become_files_that_show_the_same(tmp_path, processor):
    spec = "{name: phantoms, train: 6, val: 2, test: 2, mark: {train: with}, grain: 30}"
    prepare(spec, tmp_path / "out", SMALL)
    before, after = load_data(spec), load_data(f"jsonl:{tmp_path / 'out'}")
    assert len(before) == len(after)
    assert any(image.startswith("marked:") for row in before for image in row.images)
    for old, new in zip(before, after, strict=True):
        assert new.images[0].endswith(".png")
        assert_same_seen(processor, old.images[0], new.images[0])
        assert new.extra["prepared"][0]["original"] == old.images[0]
        assert new.extra["prepared"][0]["original_sha256"] is None


def test_a_second_preparation_changes_no_image(pictures, tmp_path):
    folder, names = pictures
    prepare(write_rows(folder, *([name] for name in names)), tmp_path / "once", SMALL)
    prepare(f"jsonl:{tmp_path / 'once'}", tmp_path / "twice", SMALL)
    images = [{name: data for name, data in tree(tmp_path / out).items() if "images/" in name} for out in ("once", "twice")]
    assert images[0] == images[1]


# --- the folder


def test_a_second_run_writes_nothing(pictures, tmp_path):
    folder, names = pictures
    spec = write_rows(folder, *([name] for name in names), ["phantom:test/0/3"])
    prepare(spec, tmp_path / "out", SMALL)
    before = stamps(tmp_path / "out")
    again = prepare(spec, tmp_path / "out", SMALL)
    assert stamps(tmp_path / "out") == before
    assert (again.made, again.found, again.written) == (1, len(names), 0)


def test_two_folders_of_the_same_rows_are_the_same_in_every_byte(pictures, tmp_path):
    folder, names = pictures
    spec = write_rows(folder, *([name] for name in names))
    for out in ("a", "b"):
        prepare(spec, tmp_path / out, SMALL)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_what_is_damaged_missing_or_changed_is_made_again_and_nothing_else(pictures, tmp_path):
    folder, names = pictures
    spec, out = write_rows(folder, *([name] for name in names)), tmp_path / "out"
    prepare(spec, out, SMALL)
    whole, files = tree(out), {row.extra["prepared"][0]["original"]: row.images[0] for row in load_data(f"jsonl:{out}")}
    Path(files[str(folder / "grey.png")]).unlink()
    Path(files[str(folder / "large.png")]).write_bytes(b"no image")
    again = prepare(spec, out, SMALL)
    assert (again.made, again.written) == (2, 2)
    assert tree(out) == whole
    Image.new("RGB", (70, 70), "red").save(folder / "fits.webp")
    changed = prepare(spec, out, SMALL)
    assert (changed.made, changed.written) == (1, 1)
    new = {row.extra["prepared"][0]["original"]: row.images[0] for row in load_data(f"jsonl:{out}")}
    assert {name for name in new if new[name] != files[name]} == {str(folder / "fits.webp")}


def test_a_moved_folder_has_the_same_features_under_the_same_keys_as_where_it_was(tmp_path):
    from osler.model.features import FeatureStore
    from osler.model.load import load_policy

    spec = "{name: phantoms, train: 3, val: 1, test: 1}"
    prepare(spec, tmp_path / "here", SMALL)
    vlm = load_policy("tiny", dtype="float32", device="cpu")
    kept = FeatureSettings(folder=str(tmp_path / "features"))
    images = {image for row in load_data(f"jsonl:{tmp_path / 'here'}") for image in row.images}
    assert FeatureStore(vlm, kept).build(images) == len(images) > 2
    (tmp_path / "far").mkdir()
    (tmp_path / "here").rename(tmp_path / "far" / "away")
    rows = load_data(f"jsonl:{tmp_path / 'far' / 'away'}")
    moved = FeatureStore(vlm, kept)
    assert moved.build({image for row in rows for image in row.images}) == 0
    drawn = FeatureStore(vlm, FeatureSettings(cache=False))
    for old, new in zip(load_data(spec), rows, strict=True):
        assert drawn.of(old.images[0]).values_ND.equal(moved.of(new.images[0]).values_ND)


COMMAND = "from osler.cli.app import main; main()"


def command(spec, out):
    return [sys.executable, "-c", COMMAND, "data", "prepare", spec, "--out", str(out), "--max-pixels", "100352", "--json"]


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_folder(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(40):
        Image.fromarray(rng.integers(0, 256, (500, 600, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png", compress_level=0)
    spec, out = write_rows(tmp_path, *([f"{n}.png"] for n in range(40))), tmp_path / "out"
    running = subprocess.Popen(command(spec, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + 200
    while len(list(out.rglob("*.png"))) < 8 and running.poll() is None and time.monotonic() < ends:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (out / "rows.jsonl").exists(), "it was killed in the middle"
    logged = (out / "pictures.jsonl").read_text().count("\n")
    left = out / "images" / "ab" / ("ab" * 32 + ".png.01234567.part")
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    with (out / "pictures.jsonl").open("a") as cut:
        cut.write('{"file": "images/ab')
    ended = subprocess.run(command(spec, out), capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    assert found["found"] == logged > 0
    assert found["made"] == 40 - logged
    prepare(spec, tmp_path / "whole", Budget(3136, 100352))
    assert tree(out) == tree(tmp_path / "whole")


def test_a_run_that_is_cut_short_twice_goes_on_from_both(pictures, tmp_path):
    folder, _ = pictures
    (folder / "bad.png").write_bytes(b"")
    for rows in ([["large.png"], ["bad.png"]], [["large.png"], ["side.jpg"], ["bad.png"]]):
        spec = write_rows(folder, *rows)
        with pytest.raises(DataError, match=r"bad\.png"):
            prepare(spec, tmp_path / "out", SMALL)
        with (tmp_path / "out" / "pictures.jsonl").open("a") as cut:
            cut.write('{"file": "images/ab')
    done = prepare(write_rows(folder, ["large.png"], ["side.jpg"], ["grey.png"]), tmp_path / "out", SMALL)
    assert (done.found, done.made) == (2, 1)
    assert not (tmp_path / "out" / "pictures.jsonl").exists()


# --- what is wrong


def break_two(folder):
    content = (folder / "side.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (1000, 2)).save(folder / "thread.png")
    return write_rows(folder, ["large.png"], ["grey.png", "cut.jpg"], ["thread.png"], ["cut.jpg"], ["side.jpg"])


def test_what_cannot_be_opened_is_an_error_that_names_row_and_file_or_is_left_out_and_counted(pictures, tmp_path):
    folder, _ = pictures
    spec = break_two(folder)
    with pytest.raises(DataError, match=rf"{folder}/rows.jsonl, row 2: {folder}/cut.jpg: .*cannot be decoded.*--skip-broken"):
        prepare(spec, tmp_path / "out", SMALL)
    done = prepare(spec, tmp_path / "out", SMALL, skip_broken=True)
    assert [row.id for row in load_data(f"jsonl:{tmp_path / 'out'}")] == ["r0", "r4"]
    broken = json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"]["broken"]
    assert broken["n"] == done.to_json()["left_out"]["broken"] == 3
    assert [row["id"] for row in broken["rows"]] == ["r1", "r2", "r3"]
    assert "too narrow" in broken["rows"][1]["what"]
    with pytest.raises(DataError, match="row 2"):
        prepare(spec, tmp_path / "out", SMALL)


def test_nothing_is_written_into_a_folder_of_something_else(pictures, tmp_path):
    folder, _ = pictures
    spec = write_rows(folder, ["large.png"])
    before = tree(folder)
    with pytest.raises(RunError, match="exists"):
        prepare(spec, folder, SMALL)
    assert tree(folder) == before
    prepare(spec, tmp_path / "out", SMALL)
    with pytest.raises(RunError, match=r"prepared with budget .*12544.* not .*6272"):
        prepare(spec, tmp_path / "out", Budget(3136, 6272))
    with pytest.raises(RunError, match="prepared with spec"):
        prepare("phantoms", tmp_path / "out", SMALL)


@pytest.mark.parametrize("below", ["prepared", "deep/prepared", "../data/prepared", "linked"])
def test_nothing_is_written_below_the_folder_that_is_read(pictures, tmp_path, monkeypatch, below):
    folder, _ = pictures
    write_rows(folder, ["large.png"])
    (tmp_path / "linked").symlink_to(folder)
    before = tree(folder)
    out = tmp_path / "linked" / "prepared" if below == "linked" else folder / below
    with pytest.raises(RunError, match=r"would be read as part of the data set\. Name a place outside"):
        prepare(f"jsonl:{folder}", out, SMALL)
    monkeypatch.setenv("OSLER_DATA", str(tmp_path))
    with pytest.raises(RunError, match="Name a place outside"):
        prepare("jsonl:data?images=data", out, SMALL)
    assert tree(folder) == before
    assert prepare(f"jsonl:{folder}", tmp_path / "data2", SMALL).made == 1
    assert prepare(f"jsonl:{folder / 'rows.jsonl'}", folder / "prepared", SMALL).made == 1, "one file is read, not the folder"


def test_rows_that_all_lack_images_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no row has an image.*\?images=ROOT"):
        prepare(write_rows(tmp_path, [], []), tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def test_rows_of_which_all_are_broken_are_an_error(pictures, tmp_path):
    folder, _ = pictures
    (folder / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no row is left of 1.*bad\.png"):
        prepare(write_rows(folder, ["bad.png"]), tmp_path / "out", SMALL, skip_broken=True)


def test_rows_that_no_manifest_can_hold_are_left_out_and_counted(tmp_path, monkeypatch):
    from dataclasses import replace

    from osler.datasets.samples import Samples
    from osler.preparing import folder as module

    rows = list(load_data("{name: phantoms, train: 3, val: 1, test: 1}"))
    odd = next(n for n, row in enumerate(rows) if row.options)
    rows[odd] = replace(rows[odd], options=("Same", "same.", "other"), golds=("Same",), gold_index=0)
    monkeypatch.setattr(module, "load_data", lambda spec: Samples.of(rows))
    done = prepare("own", tmp_path / "out", SMALL)
    assert done.manifest["left_out"]["same_options"] == {"n": 1, "ids": [rows[odd].id]}
    assert done.manifest["rows"]["n"] == len(rows) - 1


# --- the command


def call(*words):
    return CliRunner().invoke(app, ["data", "prepare", *map(str, words)])


def test_the_command_prints_counts_and_the_spec_of_the_folder(pictures, tmp_path):
    folder, names = pictures
    spec = write_rows(folder, *([name] for name in names))
    ended = call(spec, "--out", tmp_path / "out", "--recipe", "quickstart", "--json")
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["budget"] == SMALL.to_json()
    assert (found["rows"], found["images"], found["left_out"]) == (len(names), len(names), {"broken": 0, "same_options": 0})
    ended = call(spec, "--out", tmp_path / "out", "--recipe", "quickstart")
    assert ended.stdout.splitlines()[-1] == f"jsonl:{tmp_path / 'out'}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "quickstart", "--max-pixels", "9999"], "Leave out one"),
        (["--max-pixels", "999"], "min_pixels 3136 is above max_pixels 999"),
        (["--recipe", "no/such"], "no recipe at"),
    ],
)
def test_budgets_that_cannot_be_are_errors(words, message, tmp_path):
    ended = call("phantoms", "--out", tmp_path / "out", *words)
    assert isinstance(ended.exception, RecipeError)
    assert message in str(ended.exception)
    assert not os.path.exists(tmp_path / "out")
