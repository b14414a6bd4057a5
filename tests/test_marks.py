"""Marks: what they say of each phantom, where they stand, and that nothing else changes with them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.chains import load_chain
from osler.controls import CONTROLS
from osler.datasets.load import load_data
from osler.datasets.manifests import row_hash, rows_and_images_hash
from osler.datasets.samples import Samples
from osler.drawing.marks import EDGE_PX, GLYPHS, SIDE_PX, Mark, mark_of, stamp
from osler.drawing.phantoms import ANATOMY, diagnoses, draw_phantom, phantom_case
from osler.errors import DataError, RecipeError
from osler.fingerprints import fingerprint
from osler.images import blank_of, is_drawn, marked_with, noise_of, open_image, underlying
from osler.model.feature_keys import Digests
from osler.recipe_files import load_recipe
from osler.schema import Sample
from osler.taxonomy import Modality, QuestionType

SPLITS = ("train", "val", "test")
SPEC = {"name": "phantoms", "seed": 4, "train": 48, "val": 8, "test": 40}
REFERENCES = [f"phantom:train/0/{index}" for index in range(600)]
PLATE = slice(EDGE_PX, EDGE_PX + SIDE_PX)


def pixels(reference):
    return np.asarray(open_image(reference)).astype(int)


def rows(**keys) -> Samples:
    return load_data({**SPEC, **keys})


def disease_rows(samples) -> list[Sample]:
    return [row for row in samples if row.question_type is QuestionType.DISEASE]


# --- what a mark says ---


def test_a_mark_with_the_diagnosis_names_it_and_one_against_it_another_of_its_anatomy():
    for reference in REFERENCES[:80]:
        case = phantom_case(reference)
        agreeing, against = mark_of(reference, "with"), mark_of(reference, "against")
        assert (agreeing.diagnosis, agreeing.agrees) == (case.disease, True)
        assert against.diagnosis in set(diagnoses(case.modality, case.anatomy)) - {case.disease}
        assert not against.agrees
        assert agreeing.glyph != against.glyph
        assert mark_of(reference, "none") is None
        assert mark_of(reference, "against") == against


def test_a_glyph_stands_for_a_place_among_the_diagnoses_whatever_the_anatomy():
    seen = {}
    for reference in REFERENCES:
        mark, case = mark_of(reference, "with"), phantom_case(reference)
        seen.setdefault((case.modality, case.anatomy, mark.diagnosis), set()).add(mark.glyph)
    names = list(GLYPHS)
    wanted = {
        (modality, anatomy, diagnosis): {names[place]}
        for modality, anatomies in ANATOMY.items()
        for anatomy in anatomies
        for place, diagnosis in enumerate(diagnoses(modality, anatomy))
    }
    assert seen == wanted


def test_each_wrong_diagnosis_is_named_about_as_often():
    marks = [(phantom_case(reference), mark_of(reference, "against")) for reference in REFERENCES]
    of = Counter((diagnoses(case.modality, case.anatomy).index(case.disease), mark.glyph) for case, mark in marks)
    assert len(of) == 6
    assert max(of.values()) < 1.5 * min(of.values())


def test_the_share_of_marks_that_agree_is_kept_and_a_larger_one_keeps_them():
    agree = {share: {r for r in REFERENCES if mark_of(r, "with", share).agrees} for share in (0.0, 0.5, 0.9, 1.0)}
    assert (len(agree[0.0]), len(agree[1.0])) == (0, len(REFERENCES))
    assert agree[0.5] < agree[0.9] < agree[1.0]
    assert abs(len(agree[0.5]) / len(REFERENCES) - 0.5) < 0.06
    assert abs(len(agree[0.9]) / len(REFERENCES) - 0.9) < 0.04
    assert all(mark_of(r, "with", 0.5) == mark_of(r, "against") for r in set(REFERENCES) - agree[0.5])


def test_the_share_is_the_same_for_the_sick_and_the_healthy():
    agrees = {True: [], False: []}
    for reference in REFERENCES:
        agrees[phantom_case(reference).has_lesion].append(mark_of(reference, "with", 0.7).agrees)
    assert all(abs(np.mean(found) - 0.7) < 0.08 for found in agrees.values())


# --- what a mark looks like ---


@pytest.mark.parametrize("index", range(16))
def test_a_mark_covers_the_corner_and_nothing_else(index):
    reference = f"phantom:test/0/{index}"
    shown, plain = pixels(marked_with(reference, "plus")), pixels(reference)
    assert (shown[PLATE, PLATE] == GLYPHS["plus"][..., None]).all()
    shown[PLATE, PLATE] = plain[PLATE, PLATE]
    assert (shown == plain).all()


def test_glyphs_differ_clearly_and_are_as_bright():
    plates = list(GLYPHS.values())
    assert len(plates) == len(diagnoses(Modality.CT, "chest"))
    assert len({int(plate.sum()) for plate in plates}) == 1
    for at, plate in enumerate(plates):
        assert plate.shape == (SIDE_PX, SIDE_PX)
        assert not plate[[0, -1]].any()
        assert not plate[:, [0, -1]].any()
        assert all((plate != other).sum() > 12 for other in plates[:at])


@pytest.mark.parametrize("size", [(12, 12), (60, 12), (56, 83), (200, 300), (391, 500)])
def test_a_mark_grows_with_the_image(tmp_path, size):
    Image.new("RGB", size, (90, 40, 10)).save(tmp_path / "a.png")
    means = set()
    for glyph in GLYPHS:
        shown = pixels(marked_with(str(tmp_path / "a.png"), glyph))
        changed = np.argwhere((shown != (90, 40, 10)).any(axis=2))
        scale = max(1, round(min(size) / 56))
        assert changed.min(axis=0).tolist() == [EDGE_PX * scale] * 2
        assert changed.max(axis=0).tolist() == [(EDGE_PX + SIDE_PX) * scale - 1] * 2
        means.add(tuple(shown.mean(axis=(0, 1))))
    assert len(means) == 1


def test_the_image_that_is_stamped_is_left_as_it_was():
    drawn = draw_phantom("phantom:test/0/0")
    before = drawn.copy()
    assert (stamp(drawn, "times") != before).any()
    assert (drawn == before).all()


# --- references ---

glyphs = st.sampled_from(list(GLYPHS))


@given(st.lists(st.none() | st.integers(0, 99) | glyphs), st.sampled_from(["phantom:test/0/3", "a.png", "b: 1\n.png"]))
def test_marks_compose_with_blank_images_and_noise(steps, reference):
    made = reference
    for step in steps:
        made = blank_of(made) if step is None else marked_with(made, step) if isinstance(step, str) else noise_of(made, step)
    assert underlying(made) == reference
    assert is_drawn(made) == reference.startswith("phantom:")


@pytest.mark.parametrize("reference", ["marked:", "marked:plus", "marked:plus:", "marked:square:a.png", "blank:marked:x:a.png"])
def test_a_reference_with_a_mark_that_is_none_says_which_there_are(reference):
    for use in (open_image, underlying):
        with pytest.raises(DataError, match=r"marked:GLYPH:REF with GLYPH one of plus, times, wedge"):
            use(reference)


def test_what_is_wrong_with_the_image_below_is_said(tmp_path):
    Image.new("RGB", (40, 11)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png: the image is 11 pixels on its shorter side; a mark needs 12"):
        open_image(marked_with(str(tmp_path / "small.png"), "plus"))
    with pytest.raises(DataError, match="names no phantom"):
        open_image(marked_with("phantom:test/0", "plus"))
    with pytest.raises(DataError, match="Did you mean 'plus'"):
        stamp(draw_phantom("phantom:test/0/0"), "pluss")
    with pytest.raises(DataError, match="Did you mean 'with'"):
        mark_of("phantom:test/0/0", "wth")


def test_a_marked_image_never_shares_a_key_with_another():
    digest = Digests().of
    for reference in REFERENCES[:24]:
        shown = [reference, *(marked_with(reference, glyph) for glyph in GLYPHS)]
        assert len({digest(one) for one in shown}) == len({fingerprint(one).pixels for one in shown}) == 4
        assert len(set(shown)) == 4


def test_the_key_of_a_marked_file_changes_with_the_file(tmp_path):
    file, digest = tmp_path / "a.png", Digests().of
    Image.new("RGB", (30, 20), "navy").save(file)
    before = digest(marked_with(str(file), "plus"))
    assert before not in (digest(str(file)), digest(marked_with(str(file), "times")))
    Image.new("RGB", (30, 20), "white").save(file)
    assert digest(marked_with(str(file), "plus")) != before


# --- rows ---


def test_rows_with_and_without_marks_pair_up_and_differ_in_their_images_only():
    plain = {row.id: row for row in rows()}
    for planting in ("with", "against"):
        marked = rows(mark=planting)
        assert [row.id for row in marked] == list(plain)
        for row in marked:
            other, mark = plain[row.id], Mark(row.images[0].split(":")[1], row.extra["mark"], row.extra["mark_agrees"])
            assert mark == mark_of(other.images[0], planting)
            assert row.images == (marked_with(other.images[0], mark.glyph),)
            assert {**vars(row), "images": 0, "extra": 0} == {**vars(other), "images": 0, "extra": 0}
            assert {**other.extra, "mark": mark.diagnosis, "mark_agrees": planting == "with"} == row.extra
    assert rows(mark="none") == rows()


def test_grain_lies_below_the_mark_and_changes_the_images_only():
    plain, grainy = rows(mark="with"), rows(mark="with", grain=70)
    for before, after in zip(plain, grainy, strict=True):
        assert vars(after) == {**vars(before), "images": (before.images[0].replace(":phantom", ":grainy:70:phantom"),)}
    glyph = grainy[0].images[0].split(":")[1]
    assert (pixels(grainy[0].images[0])[PLATE, PLATE] == GLYPHS[glyph][..., None]).all()
    assert [row.images[0] for row in rows(grain=70)] == [f"grainy:70:{row.images[0]}" for row in rows()]


def test_marks_by_split_and_val_as_train_unless_it_is_named():
    said = {"train": "with", "test": "against"}
    for mark, val in ((said, {True}), ({**said, "val": "none"}, {None}), ({"test": "against"}, {None})):
        agrees = {split: {row.extra.get("mark_agrees") for row in rows(mark=mark).where(split=split)} for split in SPLITS}
        assert agrees == {"train": {True if "train" in mark else None}, "val": val, "test": {False}}


def test_a_share_is_of_the_rows_that_are_trained_and_stopped_on():
    half = rows(mark="with", mark_share=0.5)
    shares = {split: np.mean([row.extra["mark_agrees"] for row in disease_rows(half.where(split=split))]) for split in SPLITS}
    assert 0.25 < shares["train"] < 0.75
    assert shares["val"] < 1
    assert shares["test"] == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mark": "wih"}, "mark: unknown planting 'wih'. Did you mean 'with'"),
        ({"mark": {"train": "wih"}}, "mark: unknown planting 'wih'. Did you mean 'with'"),
        ({"mark": {"trian": "with"}}, "mark: unknown split 'trian'. Did you mean 'train'"),
        ({"mark": True}, "'mark'"),
        ({"mark": {}}, "phantoms, mark: it is empty. Say something there, or leave mark out."),
        ({"mark_share": 0.5}, "mark_share: it is the share of train and val images of mark: with"),
        ({"mark_share": 0.5, "mark": "against"}, "mark_share: it is the share"),
        ({"mark_share": 0.5, "mark": {"test": "with"}}, "mark_share: it is the share"),
        ({"mark_share": 0.5, "mark": "with", "train": 0, "val": 0}, "and there are none. Leave it out"),
        ({"mark_share": 1.2}, "'mark_share'"),
        ({"grain": 100}, "'grain'"),
        ({"grain": 0.5}, "'grain'"),
        ({"mark_share": "all"}, "'mark_share'"),
        ({"mark_shar": 1}, "Did you mean 'mark_share'"),
    ],
)
def test_a_spec_of_marks_that_cannot_be_used(keys, message):
    with pytest.raises(DataError) as error:
        rows(**keys)
    assert message in str(error.value)


def test_a_share_goes_with_any_split_that_it_can_turn():
    for keys in ({"mark": {"val": "with"}}, {"mark": {"train": "with", "val": "none"}}, {"mark": "with", "train": 0}):
        assert len(rows(**keys, mark_share=0.5))
    assert rows(mark="against", mark_share=1.0) == rows(mark="against")


def test_files_have_no_marks():
    with pytest.raises(DataError, match="unknown key 'mark'"):
        load_data({"name": "jsonl", "path": "a", "mark": "with"})


# --- whether rows are the same ---


def test_marked_grainy_and_plain_rows_are_not_the_same_rows():
    sets = [rows(**keys) for keys in ({}, {"mark": "with"}, {"mark": "against"}, {"grain": 60}, {"grain": 61})]
    assert len({row_hash(one) for one in sets}) == 1
    assert len({rows_and_images_hash(one) for one in sets}) == len(sets)
    assert rows_and_images_hash(rows()) == rows_and_images_hash(rows())
    assert rows_and_images_hash(rows()) != rows_and_images_hash(list(rows())[::-1])
    asked = [replace(row, question="What else?") for row in rows()]
    assert rows_and_images_hash(asked) != rows_and_images_hash(rows())


def test_the_hash_of_rows_is_what_runs_on_disk_have():
    digest = "298839dd8ac3129f"
    assert row_hash(load_data({"name": "phantoms", "seed": 4, "train": 2, "val": 0, "test": 1})).startswith(digest)


@pytest.mark.parametrize("make", [str, blank_of, lambda path: marked_with(path, "plus")])
def test_a_file_is_the_same_however_its_path_is_written(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ("a.png", "./a.png", "b/../a.png", str(tmp_path / "a.png"), "c/a.png")
    row = rows()[0]
    hashes = [rows_and_images_hash([replace(row, images=(make(path),))]) for path in paths]
    assert len(set(hashes[:4])) == 1
    assert hashes[4] != hashes[0]
    assert rows_and_images_hash([replace(row, images=("a.png",))]) != rows_and_images_hash([replace(row, images=())])


@pytest.mark.parametrize("test", ["mark: with", "mark: none", "mark: against, grain: 60"])
def test_a_chain_whose_stages_are_tested_on_other_images_is_refused(tmp_path, test):
    common = "name: phantoms, train: 4, val: 2, test: 2"
    (tmp_path / "chain.yaml").write_text(
        f"model: tiny\nstages:\n  first: {{method: sft, data: {{train: {{{common}}}, test: {{{common}, mark: against}}}}}}\n"
        f"  second: {{method: sft, data: {{train: {{{common}}}, test: {{{common}, TEST}}}}}}\n".replace("TEST", test)
    )
    with pytest.raises(RecipeError, match="different test rows"):
        load_chain(load_recipe(tmp_path / "chain.yaml"))
    load_chain(load_recipe(tmp_path / "chain.yaml", [f"second.data.test={{{common}, mark: against}}"]))


# --- under controls ---


def test_a_blank_image_does_not_tell_which_mark_it_had():
    for row in rows(mark="with").where(split="test"):
        (reference,) = row.images
        blanks = {open_image(blank_of(marked_with(underlying(reference), glyph))).tobytes() for glyph in GLYPHS}
        assert len(blanks) == 1


def test_blank_and_noise_take_the_mark_away_and_keep_the_row():
    marked = rows(mark="against").where(split="test")
    for name in ("blank", "noise"):
        made = CONTROLS[name].make(marked, 0)
        assert len(made.rows) == len(marked)
        for before, after in zip(marked, made.samples, strict=True):
            assert after.extra["mark"] == before.extra["mark"]
            assert underlying(after.images[0]) == underlying(before.images[0])
            assert after.cluster == before.cluster
        shown = pixels(made.rows[0].sample.images[0])
        assert not any((shown[PLATE, PLATE] == plate[..., None]).all() for plate in GLYPHS.values())


@pytest.mark.parametrize("planting", ["with", "against"])
def test_another_rows_image_comes_with_its_own_mark(planting):
    marked = rows(mark=planting).where(split="test")
    made, plain = CONTROLS["shuffled"].make(marked, 0), CONTROLS["shuffled"].make(rows().where(split="test"), 0)
    image_of = {row.id: row.images for row in marked}
    assert [row.of for row in made.rows] == [row.of for row in plain.rows]
    for after, other in zip(made.rows, plain.rows, strict=True):
        assert after.sample.extra["donor_id"] == other.sample.extra["donor_id"]
        assert after.sample.images == image_of[after.sample.extra["donor_id"]]
        assert after.sample.images != image_of[after.of]
