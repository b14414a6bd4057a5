"""Blank images and noise: what they show, that they are the same everywhere, and by what their features are known."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from osler.config import FeatureSettings
from osler.datasets.load import load_data
from osler.errors import DataError
from osler.images import blank_of, grainy_of, noise_of, open_image, underlying
from osler.model.feature_keys import Digests
from osler.model.features import FeatureStore
from osler.model.load import load_policy

PHANTOM = "phantom:test/0/3"


def pixels(reference):
    return np.asarray(open_image(reference))


@pytest.fixture
def picture(tmp_path):
    """A file of 30 x 20 pixels, red on the left third and (0, 90, 30) elsewhere: in the mean (85, 60, 20)."""
    values = np.full((20, 30, 3), (0, 90, 30), np.uint8)
    values[:, :10] = (255, 0, 0)
    Image.fromarray(values).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_a_blank_image_is_as_large_and_of_the_mean_colour(picture):
    assert open_image(blank_of(picture)).size == (30, 20)
    assert (pixels(blank_of(picture)) == (85, 60, 20)).all()


@pytest.mark.parametrize("index", range(8))
def test_the_mean_of_a_phantom_and_of_its_blank_agree(index):
    reference = f"phantom:test/0/{index}"
    assert np.ptp(pixels(blank_of(reference)), axis=(0, 1)).tolist() == [0, 0, 0]
    assert np.abs(pixels(reference).mean(axis=(0, 1)) - pixels(blank_of(reference))[0, 0]).max() <= 0.5


@pytest.mark.parametrize("make", [blank_of, lambda reference: noise_of(reference, 0)], ids=["blank", "noise"])
def test_a_turned_photograph_keeps_its_upright_shape(tmp_path, make):
    image = Image.new("RGB", (30, 20), "navy")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(make(str(tmp_path / "turned.jpg"))).size == open_image(str(tmp_path / "turned.jpg")).size == (20, 30)


def test_noise_is_the_same_for_the_same_content_wherever_it_lies(picture, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(picture, tmp_path / "elsewhere" / "b: 1?.png")
    assert (pixels(noise_of(picture, 7)) == pixels(noise_of(copy, 7))).all()
    others = [noise_of(picture, 8), noise_of(blank_of(picture), 7)]
    assert all((pixels(noise_of(picture, 7)) != pixels(other)).mean() > 0.9 for other in others)
    assert (pixels(noise_of(PHANTOM, 7)) != pixels(noise_of("phantom:test/0/4", 7))).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1, 12345678901])
def test_noise_takes_every_value_alike(seed):
    counts = np.bincount(pixels(noise_of(PHANTOM, seed)).ravel(), minlength=256)
    assert chisquare(counts).pvalue > 1e-4


def test_what_is_blank_stays_blank_and_of_noise_the_mean_can_be_taken(picture):
    assert (pixels(blank_of(blank_of(picture))) == pixels(blank_of(picture))).all()
    blank_noise = pixels(blank_of(noise_of(picture, 1)))
    assert (blank_noise == blank_noise[0, 0]).all()
    assert np.abs(blank_noise[0, 0].astype(int) - 127.5).max() < 15


@pytest.mark.parametrize("percent", [1, 30, 99])
def test_grain_is_so_much_of_the_noise(picture, percent):
    for reference in (picture, PHANTOM):
        mixed = (100 - percent) / 100 * pixels(reference) + percent / 100 * pixels(noise_of(reference, 0))
        assert np.abs(pixels(grainy_of(reference, percent)) - mixed).max() <= 1
    assert underlying(grainy_of(blank_of(picture), percent)) == picture


@given(st.lists(st.none() | st.integers(0, 2**40)), st.sampled_from([PHANTOM, "a.png", "b: 1\n.png", "/x/noise", "./blank:a"]))
def test_what_a_reference_was_made_from_is_found_again(seeds, reference):
    made = reference
    for seed in seeds:
        made = blank_of(made) if seed is None else noise_of(made, seed)
    assert underlying(made) == reference


@pytest.mark.parametrize(
    "reference",
    [
        "blank:",
        "noise:",
        "noise:a.png",
        "noise:-1:a.png",
        "noise:01:a.png",
        "noise:1:",
        "blank:noise:x",
        "grainy:0:a.png",
        "grainy:100:a",
    ],
)
def test_a_reference_that_names_nothing(reference):
    with pytest.raises(DataError, match=r"names no image\. Write blank:REF or noise:SEED:REF"):
        open_image(reference)


@pytest.mark.parametrize("make", [blank_of, lambda reference: noise_of(reference, 0)], ids=["blank", "noise"])
def test_what_is_wrong_with_the_image_is_said_of_it(tmp_path, make):
    with pytest.raises(DataError, match=r"gone\.png: there is no such image file"):
        open_image(make(str(tmp_path / "gone.png")))
    with pytest.raises(DataError, match="names no phantom"):
        open_image(make("phantom:test/0"))


# --- features ---


def test_blanks_that_look_alike_are_one_image_and_others_are_not(picture, tmp_path):
    mirrored = str(tmp_path / "mirrored.png")
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    digest = Digests().of
    assert digest(blank_of(picture)) == digest(blank_of(mirrored))
    kept = [picture, mirrored, blank_of(picture), noise_of(picture, 0), noise_of(picture, 1), noise_of(mirrored, 0)]
    assert len(set(map(digest, kept))) == len(kept)


def test_a_blank_is_looked_at_again_when_its_file_has_changed(picture):
    digest = Digests().of
    before = digest(blank_of(picture)), digest(noise_of(picture, 0))
    assert before == (digest(blank_of(picture)), digest(noise_of(picture, 0)))
    Image.new("RGB", (30, 20), "white").save(picture)
    assert not {*before} & {digest(blank_of(picture)), digest(noise_of(picture, 0))}


def test_features_of_a_blank_are_those_of_its_pixels_and_are_kept(picture, tmp_path):
    vlm = load_policy("tiny", dtype="float32", device="cpu")
    references = [blank_of(picture), noise_of(picture, 0), blank_of(PHANTOM)]
    store = FeatureStore(vlm, FeatureSettings(folder=str(tmp_path / "kept")))
    assert store.build(references) == 3
    again = FeatureStore(vlm, FeatureSettings(folder=str(tmp_path / "kept")))
    assert again.build(references) == 0
    for reference in references:
        wanted = FeatureStore(vlm, FeatureSettings(cache=False)).of(open_image(reference))
        assert (again.of(reference).values_ND == wanted.values_ND).all()
        assert again.of(reference).grid == wanted.grid


def test_real_images_can_be_blanked_and_drowned_in_noise(shared_data):
    rows = load_data(f"jsonl:{shared_data}/real/manifest.jsonl")
    for reference in {source: row.images[0] for source, row in ((row.source, row) for row in rows)}.values():
        real, blank, noise = map(open_image, (reference, blank_of(reference), noise_of(reference, 0)))
        assert real.size == blank.size == noise.size
        assert len(blank.getcolors()) == 1
        assert np.abs(np.asarray(real).mean(axis=(0, 1)) - blank.getpixel((0, 0))).max() <= 0.5
        assert np.asarray(noise).std() == pytest.approx(np.sqrt((256**2 - 1) / 12), rel=0.1)
