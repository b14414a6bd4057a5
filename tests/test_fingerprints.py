"""Fingerprints of pictures that are and are not the same, and the search for near ones against comparing all with all."""

import time

import imagehash
import numpy as np
import pytest
from PIL import Image

from osler import fingerprints as module
from osler.errors import DataError
from osler.fingerprints import fingerprint, fingerprints, near_pairs


def picture(seed, size=(120, 90)):
    """A soft random picture: large shapes, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return str(folder / name)


def apart(a, b):
    return (a.look ^ b.look).bit_count()


def test_the_same_pixels_have_the_same_fingerprint_whatever_the_file(tmp_path):
    image = picture(0)
    names = ("a.png", "b.bmp", "c.tiff")
    prints = {fingerprint(saved(tmp_path, name, image)) for name in names}
    prints.add(fingerprint(saved(tmp_path, "d.png", image, compress_level=1)))
    assert len(prints) == 1


def test_one_changed_pixel_or_another_shape_are_other_pixels(tmp_path):
    flat = Image.new("RGB", (6, 4), "grey")
    changed = flat.copy()
    changed.putpixel((3, 2), (128, 128, 129))
    images = {"a.png": flat, "b.png": changed, "c.png": Image.new("RGB", (4, 6), "grey")}
    assert len({fingerprint(saved(tmp_path, name, image)).pixels for name, image in images.items()}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_is_near_itself_re_encoded_or_scaled_and_far_from_others(tmp_path, seed):
    image, other = picture(seed), fingerprint(saved(tmp_path, "o.png", picture(seed + 50)))
    first = fingerprint(saved(tmp_path, "a.png", image))
    for again in (
        saved(tmp_path, "b.jpg", image, quality=40),
        saved(tmp_path, "c.png", image.resize((240, 180), Image.Resampling.BICUBIC)),
    ):
        assert fingerprint(again).pixels != first.pixels
        assert apart(fingerprint(again), first) <= 4
    assert apart(other, first) > 10


def test_the_look_is_imagehashs(tmp_path):
    path = saved(tmp_path, "a.png", picture(3))
    assert f"{fingerprint(path).look:016x}" == str(imagehash.phash(Image.open(path)))


def test_each_reference_is_read_once(tmp_path, monkeypatch):
    path, read = saved(tmp_path, "a.png", picture(0)), []
    monkeypatch.setattr(module, "fingerprint", lambda name: read.append(name) or fingerprint(name))
    assert set(fingerprints([path, path])) == {path}
    assert read == [path]
    assert fingerprints([]) == {}


@pytest.mark.parametrize("few", [100, 1], ids=["in this process", "in others"])
def test_many_images_are_the_same_in_other_processes_and_a_broken_one_is_named(tmp_path, monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    paths = [saved(tmp_path, f"{seed}.png", picture(seed)) for seed in range(7)]
    assert fingerprints(paths) == {path: fingerprint(path) for path in paths}
    broken = tmp_path / "5.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"rows\.jsonl, row 6: .*5\.png: the image cannot be decoded"):
        fingerprints(paths, {str(broken): "rows.jsonl, row 6"})


def test_a_missing_image_is_named():
    with pytest.raises(DataError, match=r"^nowhere/5\.png: there is no such image file"):
        fingerprints(["nowhere/5.png"])


# --- near pairs ---


def all_with_all(a, b, distance):
    pairs = ((i, j, (x ^ y).bit_count()) for i, x in enumerate(a) for j, y in enumerate(b))
    return [pair for pair in pairs if pair[2] <= distance]


def hashes(seed, n, flips):
    """`n` hashes, of which most are others with up to `flips` bits flipped, so that many are near and some are equal."""
    rng = np.random.default_rng(seed)
    centres = [int(c) for c in np.random.default_rng(99).integers(0, 2**64, 6, dtype=np.uint64)]
    found = []
    for _ in range(n):
        value = centres[rng.integers(6)]
        for bit in rng.choice(64, rng.integers(0, flips + 1), replace=False):
            value ^= 1 << int(bit)
        found.append(value)
    return found


@pytest.mark.parametrize("candidates", [1 << 20, 7], ids=["at once", "in blocks"])
@pytest.mark.parametrize("distance", [0, 1, 4, 9, 63])
@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_that_comparing_all_with_all_finds(monkeypatch, seed, distance, candidates):
    monkeypatch.setattr(module, "_CANDIDATES", candidates)
    a, b = hashes(seed, 40, 5), hashes(seed + 10, 60, 5)
    found = near_pairs(a, b, distance)
    assert found.tolist() == [list(pair) for pair in all_with_all(a, b, distance)]
    assert len(found) > 5


def test_near_pairs_of_nothing_and_at_no_distance():
    assert near_pairs([], [1], 4).shape == near_pairs([1], [], 4).shape == (0, 3)
    for distance in (-1, 64):
        with pytest.raises(ValueError, match="0 to 63"):
            near_pairs([1], [1], distance)


def test_twenty_thousand_against_as_many_take_no_quadratic_time():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2**64, 20_000, dtype=np.uint64) for _ in range(2))
    b[:50] = a[:50] ^ np.uint64(0b1011 << 40)
    started = time.process_time()
    assert near_pairs(a.tolist(), b.tolist()).tolist() == [[i, i, 3] for i in range(50)]
    assert time.process_time() - started < 5  # comparing all with all takes 400 million comparisons


# --- real images ---


def test_real_images_are_near_themselves_as_poor_jpegs(shared_data, tmp_path):
    sources = sorted((shared_data / "real").glob("*/"))
    files = [str(file) for source in sources if source.is_dir() for file in sorted(source.glob("*.*"))[:5]]
    copies = [saved(tmp_path, f"{at}.jpg", Image.open(file).convert("RGB"), quality=50) for at, file in enumerate(files)]
    prints = fingerprints([*files, *copies])
    looks = [[prints[name].look for name in names] for names in (files, copies)]
    pairs = {(i, j) for i, j, _ in near_pairs(*looks).tolist()}
    assert len(files) > 30
    assert {(at, at) for at in range(len(files))} <= pairs
    assert not {prints[name].pixels for name in files} & {prints[name].pixels for name in copies}
