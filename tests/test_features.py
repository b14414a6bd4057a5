"""Vision features: the same bits however they come, known again by all that they depend on, and never believed when damaged."""

import os
import pickle
import subprocess
import sys
import threading
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from osler.config import FeatureSettings, ImageSettings, LoraSettings
from osler.datasets.phantoms import samples
from osler.errors import DataError, ModelError
from osler.images import open_image
from osler.model import feature_files, feature_keys, features
from osler.model.adapters import lora_config, merge_adapter, save_adapter
from osler.model.family import VLM, chat
from osler.model.feature_files import Room, clear, kept_in, used_bytes, write_whole
from osler.model.features import FeatureStore
from osler.model.load import load_policy
from osler.model.packing import Group, PackedPolicy, pack
from osler.model.prompts import encode
from real_layout import save_real_layout

DRAWN = list(dict.fromkeys(sample.images[0] for sample in samples(0, {"train": 6})))


@pytest.fixture(scope="module")
def tiny():
    return load_policy("tiny", dtype="float32", device="cpu")


@pytest.fixture
def files(tmp_path):
    """Six drawn images as PNG files."""
    paths = [tmp_path / f"{number}.png" for number in range(len(DRAWN))]
    for path, reference in zip(paths, DRAWN, strict=True):
        open_image(reference).save(path)
    return list(map(str, paths))


@pytest.fixture
def store(tiny, tmp_path):
    """Makes stores on one folder of its own."""
    return lambda vlm=tiny, trained=False, **settings: FeatureStore(
        vlm, FeatureSettings(**{"folder": str(tmp_path / "kept")} | settings), trained
    )


@pytest.fixture
def tower_runs(monkeypatch):
    """A list that grows by one whenever a tower runs."""
    runs, run = [], features.image_features
    monkeypatch.setattr(features, "image_features", lambda *given: runs.append(1) or run(*given))
    return runs


def only_file(store):
    return next(store.folder.glob("*.safetensors"))


def same(found, wanted):
    return (
        found.grid == wanted.grid
        and found.values_ND.dtype == wanted.values_ND.dtype
        and torch.equal(found.values_ND, wanted.values_ND)
    )


# --- the same bits ---


def seen_by_the_language_model(vlm, reference):
    """The embeddings of the image's tokens as transformers' own forward hands them to the language model, a batch of one."""
    image = open_image(reference)
    text = vlm.processor.tokenizer.apply_chat_template(chat("What?", [image]), tokenize=False)
    inputs = vlm.processor(images=[image], text=[text], return_tensors="pt")
    is_image = inputs["input_ids"][0] == vlm.processor.image_token_id
    seen = []

    def keep(module, args, kwargs):
        seen.append(kwargs["inputs_embeds"][0, is_image])

    hook = vlm.model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        vlm.model(**inputs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["tiny", "qwen2_vl", "qwen2_5_vl"])
def test_every_way_gives_the_bits_that_transformers_computes(family, dtype, store, files, tmp_path):
    if family != "tiny":
        save_real_layout(tmp_path / family, family)
    vlm = load_policy(family if family == "tiny" else str(tmp_path / family), dtype=dtype, device="cpu")
    wanted = seen_by_the_language_model(vlm, files[0])
    writer = store(vlm)
    ways = {
        "off": store(vlm, cache=False).of(files[0]),
        "computed": writer.of(files[0]),
        "from RAM": writer.of(files[0]),
        "from disk": store(vlm).of(files[0]),
        "RAM only": store(vlm, disk_gb=0).of(files[0]),
        "drawn": store(vlm).of(DRAWN[0]),
    }
    assert str(wanted.dtype) == f"torch.{dtype}"
    assert wanted.float().std() > 0
    assert {name: torch.equal(found.values_ND, wanted) for name, found in ways.items()} == dict.fromkeys(ways, True)
    assert len({found.grid for found in ways.values()}) == 1


FRESH = """
import sys, zlib, torch
from osler.config import FeatureSettings
from osler.model.load import load_policy
from osler.model.packing import Group, PackedPolicy, pack
from osler.model.prompts import encode
from osler.model.features import FeatureStore
vlm = load_policy("tiny", dtype=sys.argv[1], device="cpu")
vlm.model.model.visual.forward = None  # whoever calls it fails
store = FeatureStore(vlm, FeatureSettings(folder=sys.argv[2]))
print(zlib.crc32(store.of(sys.argv[3]).values_ND.view(torch.uint8).numpy()))
"""


def test_a_fresh_process_reads_the_same_bits(store, files, tmp_path):
    vlm = load_policy("tiny", dtype="bfloat16", device="cpu")
    wanted = store(vlm).of(files[0]).values_ND
    command = [sys.executable, "-c", FRESH, "bfloat16", tmp_path / "kept", files[0]]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == f"{zlib.crc32(wanted.view(torch.uint8).numpy())}\n"


def test_an_image_without_a_file_is_known_by_its_pixels(store, tower_runs):
    indices = Image.new("P", (56, 56))
    indices.paste(1, (0, 0, 28, 56))
    one, other = indices.copy(), indices.copy()
    one.putpalette([0, 0, 0, 255, 0, 0])
    other.putpalette([0, 0, 0, 0, 255, 0])
    kept = store()
    first = kept.of(one)
    assert same(kept.of(one.convert("RGB")), first)
    assert len(tower_runs) == 1
    assert not same(kept.of(other), first)  # the same indices, another palette


# --- the key ---


def other_weights(vlm):
    vlm.model.model.visual.merger.mlp[0].bias.data[0] += 1e-3


def other_buffer(vlm):
    vlm.model.model.visual.rotary_pos_emb.inv_freq *= 1.001


def other_attention(vlm):
    vlm.model.model.visual.config._attn_implementation = "eager"


def other_normalisation(vlm):
    vlm.processor.image_processor.image_mean = [0.5, 0.5, 0.5]


def other_name(vlm):
    vlm.name = "elsewhere"


def other_language_model(vlm):
    vlm.model.model.language_model.norm.weight.data += 1


def folder_of(vlm):
    return FeatureStore(vlm).folder.name


@pytest.mark.parametrize("change", [other_weights, other_buffer, other_attention, other_normalisation])
def test_another_tower_or_processor_has_another_folder(change, tiny):
    vlm = load_policy("tiny", dtype="float32", device="cpu")
    assert folder_of(vlm) == folder_of(tiny)
    change(vlm)
    assert folder_of(vlm) != folder_of(tiny)


@pytest.mark.parametrize("change", [other_name, other_language_model])
def test_what_no_feature_depends_on_changes_no_folder(change, tiny):
    vlm = load_policy("tiny", dtype="float32", device="cpu")
    change(vlm)
    assert folder_of(vlm) == folder_of(tiny)


def test_another_size_or_dtype_has_another_folder(tiny):
    others = [
        load_policy("tiny", ImageSettings(max_pixels=9000), "float32", "cpu"),
        load_policy("tiny", dtype="bfloat16", device="cpu"),
    ]
    assert len({folder_of(vlm) for vlm in [tiny, *others]}) == 3


def test_another_version_or_device_has_another_folder(tiny, monkeypatch):
    names = {folder_of(tiny)}
    for module in (feature_keys.torch, feature_keys.transformers, feature_keys.PIL):
        with monkeypatch.context() as patched:
            patched.setattr(module, "__version__", "0.0")
            names.add(folder_of(tiny))
    monkeypatch.setattr(feature_keys, "_hardware", lambda device: "Some Card")
    assert len(names | {folder_of(tiny)}) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_language_adapter_worn_or_merged_leaves_the_folder(dtype, tmp_path):
    from peft import get_peft_model

    vlm = load_policy("tiny", dtype=dtype, device="cpu")
    name = folder_of(vlm)
    worn = get_peft_model(vlm.model, lora_config(vlm, LoraSettings()))
    for key, weight in worn.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight)
    assert folder_of(VLM("tiny", worn, vlm.processor, vlm.family)) == name
    save_adapter(worn, tmp_path / "adapter", "tiny")
    merged = merge_adapter(load_policy("tiny", dtype=dtype, device="cpu"), tmp_path / "adapter")
    assert folder_of(VLM("merged", merged, vlm.processor, vlm.family)) == name


# --- files that change ---


def test_a_file_that_is_replaced_is_hashed_again(store, files):
    other, changed = sorted(files[:2], key=os.path.getsize)
    kept = store()
    before, stamp = kept.of(changed), os.stat(changed)
    Path(changed).write_bytes(Path(other).read_bytes().ljust(stamp.st_size))  # what follows the end of a PNG is not looked at
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as `cp --preserve` leaves it
    assert same(kept.of(changed), kept.of(other))
    assert not same(kept.of(changed), before)


def test_a_file_that_changes_while_it_is_computed_is_kept_under_its_new_name_only(store, files, monkeypatch):
    open_it, content = features.opened, Path(files[1]).read_bytes()

    def write_then_open(image):
        Path(files[0]).write_bytes(content)
        return open_it(image)

    kept = store()
    monkeypatch.setattr(features, "opened", write_then_open)
    found = kept.of(files[0])
    assert same(found, store(disk_gb=0).of(files[1]))
    assert [file.stem for file in kept.folder.glob("*.safetensors")] == [kept._digest(files[1])]


def test_an_image_that_cannot_be_read_is_named(store, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for reference in (tmp_path / "none.png", tmp_path / "folder.png"):
        with pytest.raises(DataError, match=reference.name):
            store().of(str(reference))


# --- damage ---


def rewritten(tensors=None, metadata=None):
    """A damage: the same file with other tensors or other facts."""

    def damage(file, kept):
        with safe_open(file, "pt") as stored:
            old = {name: stored.get_tensor(name).clone() for name in ("features", "grid")}
            facts = stored.metadata()
        save_file(old | (tensors(old) if tensors else {}), file, metadata=facts | (metadata or {}))

    return damage


def flipped(file, kept):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def blank_data(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[:-200] + bytes(200))


def another_images(file, kept):
    kept.of(DRAWN[1])
    other = next(path for path in kept.folder.glob("*.safetensors") if path != file)
    file.write_bytes(other.read_bytes())


def another_towers(file, kept):
    other = FeatureStore(load_policy("tiny", ImageSettings(max_pixels=9000), "float32", "cpu"), kept.settings)
    other.of(DRAWN[0])
    file.write_bytes((other.folder / file.name).read_bytes())


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


DAMAGES = {
    "all zeros": lambda file, kept: file.write_bytes(bytes(file.stat().st_size)),
    "zeros at the end": blank_data,
    "one bit": flipped,
    "longer": lambda file, kept: file.write_bytes(file.read_bytes() + b"more"),
    "text": lambda file, kept: file.write_text("no features here [/bold]"),
    "a pickle": lambda file, kept: file.write_bytes(pickle.dumps(Trap())),
    "another image's": another_images,
    "another tower's": another_towers,
    "another dtype": rewritten(lambda old: {"features": old["features"].half()}),
    "narrower": rewritten(lambda old: {"features": old["features"][:, :64].contiguous()}),
    "one row less": rewritten(lambda old: {"features": old["features"][:-1].contiguous()}),
    "NaN": rewritten(lambda old: {"features": old["features"] * float("nan")}),
    "turned grid": rewritten(lambda old: {"grid": old["grid"].roll(1)}),
    "short grid": rewritten(lambda old: {"grid": old["grid"][1:].contiguous()}),
    "no grid": rewritten(lambda old: {"grid": old["grid"][:0]}),
    "no facts": rewritten(metadata={"made_for": ""}),
}


UNREAD = {"zeros at the end", "one bit", "NaN", "turned grid"}
"""What is only found out when a file is read through, as it is before its features are used."""


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - UNREAD))
def test_damage_is_mostly_told_without_reading_through(name, store):
    kept = store()
    kept.of(DRAWN[0])
    assert store().holds([DRAWN[0]])
    DAMAGES[name](only_file(kept), kept)
    assert not store().holds([DRAWN[0]])


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_made_good_and_said(damage, store, tower_runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = store()
    wanted, file = kept.of(DRAWN[0]), only_file(kept)
    wanted = features.Features(wanted.grid, wanted.values_ND.clone())
    damage(file, kept)
    before, _ = len(tower_runs), capsys.readouterr()
    again = store(ram_mb=0)
    assert same(again.of(DRAWN[0]), wanted)
    assert len(tower_runs) == before + 1
    said = capsys.readouterr().err
    assert said.count("damaged") == said.count(str(file)) == 1
    assert same(again.of(DRAWN[0]), wanted)
    assert same(store().of(DRAWN[0]), wanted)
    assert (len(tower_runs), capsys.readouterr().err) == (before + 1, "")
    assert not (tmp_path / "sprung").exists()


def test_a_file_cut_anywhere_is_made_good(store, capsys):
    kept = store()
    wanted, file = kept.of(DRAWN[0]), only_file(kept)
    whole = file.read_bytes()
    for length in [*range(0, 400, 13), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        cut = store()
        assert not cut.holds([DRAWN[0]])  # told without reading it through
        assert same(cut.of(DRAWN[0]), wanted)
        assert capsys.readouterr().err.count("damaged") == 1
        assert file.stat().st_size == len(whole)


def test_a_tensor_outlives_its_file(store):
    store().of(DRAWN[0])
    kept = store()
    mapped = kept.of(DRAWN[0])
    wanted, file = mapped.values_ND.clone(), only_file(kept)
    write_whole(file, b"something else")
    assert torch.equal(mapped.values_ND, wanted)
    clear(kept.folder.parent)
    assert torch.equal(mapped.values_ND, wanted)
    kept.of(DRAWN[1])  # and the folder is made again where the next one is written
    assert [one.images for one in kept_in(kept.folder.parent)] == [1]


def test_a_damaged_about_is_written_anew_and_stops_nobody(store, tower_runs):
    kept = store()
    kept.of(DRAWN[0])
    for damage in ("", "{", "[]", '{"vision_weights": "other"}'):
        (kept.folder / "about.json").write_text(damage)
        store().of(DRAWN[0])
        assert len(tower_runs) == 1
    store().of(DRAWN[1])
    assert feature_files.read_about(kept.folder) == {"model": "tiny", **kept.about}


# --- RAM ---


@pytest.fixture
def one_mb_each(monkeypatch, tiny):
    """RAM's budget is counted in features: `ram_mb=2` holds two."""
    monkeypatch.setattr(features, "MB", FeatureStore(tiny, FeatureSettings(disk_gb=0)).of(DRAWN[0]).values_ND.nbytes)


@pytest.mark.usefixtures("one_mb_each")
def test_ram_drops_what_was_used_longest_ago(store, tower_runs):
    kept = store(disk_gb=0, ram_mb=2)
    first, second, third = DRAWN[:3]
    kept.of(first), kept.of(second), kept.of(first), kept.of(third)
    assert [kept.holds([image]) for image in (first, second, third)] == [True, False, True]
    assert not kept.holds([first, second])
    runs = len(tower_runs)
    kept.of(first), kept.of(third)
    assert len(tower_runs) == runs
    kept.of(second)
    assert len(tower_runs) == runs + 1


@pytest.mark.usefixtures("one_mb_each")
def test_what_is_larger_than_the_budget_is_not_held(store, tower_runs):
    kept = store(disk_gb=0, ram_mb=0)
    assert same(kept.of(DRAWN[0]), kept.of(DRAWN[0]))
    assert (len(tower_runs), kept.holds([DRAWN[0]])) == (2, False)
    kept, large = store(disk_gb=0, ram_mb=2), Image.new("RGB", (112, 112))
    kept.build(DRAWN[:2])
    assert len(kept.of(large).values_ND) == 16  # four times as many as of a drawn one
    assert (kept.holds([large]), kept.holds(DRAWN[:2])) == (False, True)


@pytest.mark.usefixtures("one_mb_each")
def test_what_ram_dropped_comes_from_the_disk(store, tower_runs):
    kept = store(ram_mb=1)
    assert kept.build(DRAWN) == len(DRAWN)
    assert kept.holds(DRAWN)
    for image in DRAWN * 2:
        kept.of(image)
    assert len(tower_runs) == len(DRAWN)


@pytest.mark.usefixtures("one_mb_each")
def test_a_build_ends_where_nothing_more_can_be_kept(store, tower_runs, capsys):
    kept = store(disk_gb=0, ram_mb=2)
    assert kept.build(DRAWN) == len(tower_runs) == 3
    assert "2 of 6 images" in " ".join(capsys.readouterr().err.split())
    assert not kept.holds(DRAWN)


def mapped():
    with open("/proc/self/maps") as lines:
        return sum(".safetensors" in line for line in lines)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="only Linux shows a process's maps")
def test_maps_of_files_are_bounded(store, monkeypatch):
    store().build(DRAWN)
    before = mapped()
    kept = store()
    found = [kept.of(image) for image in DRAWN]
    assert mapped() == before + len(found)
    del kept, found
    monkeypatch.setattr(features, "MAPS", 2)
    kept = store()
    found = [kept.of(image) for image in DRAWN]
    assert mapped() == before + 2
    assert len(found) == len(DRAWN)


# --- the disk ---


def test_a_build_computes_what_is_not_there_and_runs_no_tower_for_the_rest(store, tower_runs):
    store().build(DRAWN[:4])
    assert store().build([*DRAWN, *DRAWN]) == 2
    assert len(tower_runs) == 6
    assert store().build(DRAWN) == 0
    assert len(tower_runs) == 6


def test_without_a_disk_nothing_is_touched(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "never"))
    kept = FeatureStore(tiny, FeatureSettings(disk_gb=0))
    kept.build(DRAWN)
    assert kept.holds(DRAWN)
    assert list(tmp_path.iterdir()) == []
    FeatureStore(tiny).build(DRAWN)
    assert not FeatureStore(tiny, FeatureSettings(disk_gb=0)).holds(DRAWN)  # nor is it read


def test_where_features_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OSLER_CACHE", "~/elsewhere")
    assert features.cache_folder(FeatureSettings(folder="named")) == Path("named")
    assert features.cache_folder(FeatureSettings()) == tmp_path / "elsewhere"
    monkeypatch.delenv("OSLER_CACHE")
    assert features.cache_folder(FeatureSettings()) == tmp_path / ".cache" / "osler" / "features"


def test_the_limit_counts_what_others_wrote_and_no_strangers_files(store, tower_runs, capsys):
    first = store()
    first.of(DRAWN[0])
    one = only_file(first).stat().st_size
    (first.folder.parent / "mine.bin").write_bytes(bytes(100_000))
    (first.folder / "model.safetensors").write_bytes(bytes(100_000))
    limit = used_bytes(first.folder.parent) + 2 * one + one // 2
    kept, other = (store(disk_gb=limit / (1 << 30)) for _ in range(2))
    kept.of(DRAWN[1])
    other.of(DRAWN[2])
    assert capsys.readouterr().err == ""
    kept.of(DRAWN[3])  # no room: its own fits, but not beside the other's
    kept.of(DRAWN[4])
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("further features are kept in RAM only") == 1
    assert kept.holds(DRAWN[:5])  # in RAM
    assert not store().holds([DRAWN[3]])
    assert used_bytes(first.folder.parent) <= limit


def test_a_room_is_measured_again_before_it_has_given_a_fiftieth_unseen(tmp_path):
    room = Room(tmp_path, 5000)
    vision = tmp_path / ("a" * 24)
    vision.mkdir()
    (vision / "about.json").write_bytes(b"")
    for granted in range(1000):
        if not room.take(7):
            break
        if granted == 100:  # another process fills it
            (vision / f"{'0' * 64}.safetensors").write_bytes(bytes(5000))
    assert granted <= 101 + 5000 // feature_files.SHARE // 7


def test_a_folder_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ModelError, match=rf"{tmp_path}/kept.*features\.disk_gb=0"):
        store().of(DRAWN[0])


@pytest.mark.parametrize("where", ["write_bytes", "replace"])
def test_a_full_disk_is_one_error_and_leaves_no_part(where, store, monkeypatch):
    kept = store()
    kept.of(DRAWN[0])
    owner = Path if where == "write_bytes" else os

    def full(*given):
        if where == "write_bytes":
            given[0].touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, where, full)
        with pytest.raises(ModelError, match=rf"{kept.folder}.*No space left.*features\.folder"):
            kept.of(DRAWN[1])
    assert len(list(kept.folder.iterdir())) == 2  # about.json and the first
    assert store().of(DRAWN[1])


def test_many_who_write_one_file_leave_a_whole_one(tmp_path):
    file, errors = tmp_path / "one", []
    contents = [bytes([number]) * 50_000 for number in range(6)]

    def write(content):
        try:
            for _ in range(30):
                write_whole(file, content)
                assert file.read_bytes() in contents
        except (OSError, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == [file]


# --- a tower that is trained, or away ---


def test_of_a_trained_tower_nothing_is_kept_and_features_follow_its_weights(store, tmp_path):
    vlm = load_policy("tiny", dtype="float32", device="cpu")
    kept = store(vlm, trained=True)
    assert (kept.cached, kept.build(DRAWN)) == (False, 0)
    found = kept.of(DRAWN[0])
    pixels = vlm.processor.image_processor(images=[open_image(DRAWN[0])], return_tensors="pt")["pixel_values"]
    assert torch.equal(found.pixels, pixels)
    assert not len(found.values_ND)  # the policy makes them, with its weights of the moment
    policy = PackedPolicy(vlm.model)
    packed = pack([Group(encode(vlm, kept, ("What?", [DRAWN[0]])), ())], vlm.processor.image_token_id)
    made = [policy.embed(packed)[packed.is_image_1S]]
    for _ in range(2):
        vlm.model.model.visual.merger.mlp[2].weight.data *= 1.5
        made.append(policy.embed(packed)[packed.is_image_1S])
    assert torch.equal(made[0], seen_by_the_language_model(load_policy("tiny", dtype="float32", device="cpu"), DRAWN[0]))
    assert all(not torch.equal(a, b) for a, b in pairwise(made))
    assert not kept.holds([DRAWN[0]])
    assert not (tmp_path / "kept").exists()


def test_a_cache_that_is_off_keeps_nothing(store, tower_runs, tmp_path):
    kept = store(cache=False)
    kept.of(DRAWN[0]), kept.of(DRAWN[0])
    assert (len(tower_runs), kept.holds([DRAWN[0]])) == (2, False)
    assert kept.of(DRAWN[0]).pixels is None
    assert not (tmp_path / "kept").exists()


class FakeTower:
    def __init__(self, device):
        self.device, self.moves = torch.device(device), []

    def to(self, device):
        self.device = torch.device(device)
        self.moves.append(self.device.type)


def test_a_tower_that_left_the_gpu_computes_there_again_and_leaves():
    away, gpu = FakeTower("cpu"), torch.device("cuda")

    def fail():
        with features._brought_to(gpu, away):
            assert away.device == gpu
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert away.moves == ["cuda", "cpu"]
    for home in ("cuda", "cpu"):
        tower = FakeTower(home)
        with features._brought_to(torch.device(home), tower):
            pass
        assert tower.moves == []
