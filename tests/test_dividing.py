"""No component is on two sides, every planted tie is found, and a manifest is read back as it was written."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typer.testing import CliRunner

from osler.cli.app import app
from osler.datasets.dividing import LINKS, components, divide, drop_leaks, leave_one_out
from osler.datasets.load import load_data
from osler.datasets.manifests import distinct_options, row_hash, write_manifest, write_parts
from osler.datasets.samples import Samples
from osler.errors import DataError, RunError
from osler.fingerprints import fingerprints
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def row(name, *images, **facts):
    options = ("Left", "Right")
    return Sample(
        **{"id": str(name), "images": images, "question": "Where?", "golds": ("Left",), "options": options, "gold_index": 0}
        | facts
    )


@st.composite
def data_sets(draw):
    names = st.lists(st.integers(0, 25).map("{}.png".format), max_size=2)
    facts = st.tuples(names, st.none() | st.integers(0, 12).map(str), st.sampled_from(Modality))
    drawn = draw(st.lists(facts, min_size=1, max_size=40))
    return Samples.of(row(n, *images, group=group, modality=modality) for n, (images, group, modality) in enumerate(drawn))


def tied(a, b):
    return bool(set(a.images) & set(b.images)) or (a.group is not None and a.group == b.group)


@settings(max_examples=40)
@given(data_sets())
def test_components_are_those_of_the_graph_of_ties(samples):
    rows = list(samples)
    pairs = [(i, j) for i, a in enumerate(rows) for j, b in enumerate(rows) if tied(a, b)] or [(0, 0)]
    graph = coo_array((np.ones(len(pairs)), tuple(zip(*pairs, strict=True))), shape=(len(rows), len(rows)))
    labels = connected_components(graph, directed=False)[1]
    expected = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels)}
    assert {frozenset(part) for part in components(samples)} == expected


@settings(max_examples=40)
@given(data_sets(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_component_is_never_divided_and_the_order_of_rows_does_not_matter(samples, seed, random):
    shares = {"train": 0.5, "test": 0.5} if len(components(samples)) > 1 else {"train": 1.0}
    divided = list(divide(samples, shares, seed))
    assert [replace(one, split=None) for one in divided] == list(samples)
    assert {one.split for one in divided} == set(shares)
    assert not [(a, b) for a in divided for b in divided if tied(a, b) and a.split != b.split]
    mixed = Samples.of(random.sample(list(samples), len(samples)))
    assert {one.id: one.split for one in divide(mixed, shares, seed)} == {one.id: one.split for one in divided}


def test_every_stratum_is_divided_by_the_shares():
    kinds = [(modality, asked) for modality in list(Modality)[:4] for asked in list(QuestionType)[:3]]
    rows = [
        row(f"{k}/{n}", f"{k}-{n // 2}.png", modality=m, question_type=q) for k, (m, q) in enumerate(kinds) for n in range(60)
    ]
    for seed in range(3):
        found = Counter((one.modality, one.question_type, one.split) for one in divide(Samples.of(rows), SHARES, seed))
        for kind in kinds:
            for name, share in SHARES.items():
                assert abs(found[(*kind, name)] - 60 * share) <= 2


def test_strata_too_small_to_divide_still_fill_every_split():
    kinds = [(modality, asked) for modality in Modality for asked in QuestionType]
    rows = Samples.of(row(n, f"{n}.png", modality=m, question_type=q) for n, (m, q) in enumerate(kinds))
    found = Counter(one.split for one in divide(rows, SHARES, 0))
    assert all(abs(found[name] - len(kinds) * share) <= 1 for name, share in SHARES.items())


def test_seeds_differ():
    samples = Samples.of(row(n, f"{n}.png") for n in range(50))
    one, again, other = ([x.split for x in divide(samples, SHARES, seed)] for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5, "test": 0.6}, "together they must be 1"),
        ({"train": 1.5, "test": -0.5}, "must be 0 or more"),
        ({"train": float("nan")}, "no shares"),
        ({}, "no shares"),
        ({"train": 0.5, "dev": 0.5}, "unknown split 'dev'"),
        (SHARES, "only 2 parts .* too few for train, val, test"),
    ],
)
def test_shares_that_cannot_be_had(shares, message):
    samples = Samples.of(row(n, f"{n % 2}.png") for n in range(9))
    with pytest.raises(DataError, match=message):
        divide(samples, shares, 0)


def picture(seed):
    """A picture with large shapes, as smooth as a scan, so that re-encoding keeps its look."""
    low = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(low).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def planted(tmp_path):
    """Train and test rows with one tie of each kind, and one test row that is free."""
    for seed in range(6):
        picture(seed).save(tmp_path / f"{seed}.png")
    picture(2).save(tmp_path / "copy.bmp")
    picture(3).save(tmp_path / "lossy.jpg", quality=80)
    at = {path.name: str(path) for path in tmp_path.iterdir()}
    train = Samples.of(row(f"train/{n}", at[f"{n}.png"], group="p1" if n == 1 else None, source="a") for n in range(4))
    test = Samples.of(
        [
            row("image", at["0.png"], source="b"),
            row("group", at["4.png"], group="p1", source="b"),
            row("pixels", at["copy.bmp"], source="b"),
            row("near_duplicate", at["lossy.jpg"], source="b"),
            row("free", at["5.png"], source="b"),
        ]
    )
    return train, test, fingerprints(at.values())


def test_each_planted_leak_is_dropped_under_its_name(planted):
    train, test, prints = planted
    kept, dropped = drop_leaks(train, test, prints)
    assert ([one.id for one in kept], dropped) == (["free"], {link: (link,) for link in LINKS})
    assert drop_leaks(train, test, prints, distance=None)[1]["near_duplicate"] == ()
    assert [one.id for one in drop_leaks(train, test)[0]] == ["pixels", "near_duplicate", "free"]


def test_what_is_planted_stays_together_in_a_new_split(planted):
    train, test, prints = planted
    rows = Samples.of([*train, *test])
    assert [len(part) for part in components(rows, prints)] == [1, 2, 2, 2, 2]
    assert [len(part) for part in components(rows, prints, None)].count(1) == 3
    for seed in range(5):
        side = {one.id: one.split for one in divide(rows, {"train": 0.5, "test": 0.5}, seed, prints)}
        assert all(side[f"train/{n}"] == side[link] for n, link in enumerate(LINKS))


def test_leaving_a_source_out_drops_what_is_tied_to_it(planted):
    train, test, prints = planted
    rows = Samples.of([*test, *train, row("other", "6.png", source="c")])
    divided, dropped = leave_one_out(rows, "source", "b", prints)
    assert {one.id: one.split for one in divided} == {"other": "train"} | {one.id: "test" for one in test}
    assert dropped == {link: (f"train/{n}",) for n, link in enumerate(LINKS)}


def test_leaving_a_modality_out_in_any_spelling():
    rows = Samples.of(row(n, f"{n}.png", modality=Modality.CT if n % 2 else Modality.MRI) for n in range(6))
    divided, _ = leave_one_out(rows, "modality", "computed tomography")
    assert {(one.modality, one.split) for one in divided} == {(Modality.CT, "test"), (Modality.MRI, "train")}


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("colour", "red", "unknown axis"),
        ("source", "x", "unknown source of these rows 'x'"),
        ("source", "", "nothing is left to train on"),
        ("modality", "CTT", "unknown modality"),
    ],
)
def test_what_cannot_be_left_out(axis, value, message):
    with pytest.raises(DataError, match=message):
        leave_one_out(Samples.of([row(0, "0.png"), row(1, "1.png")]), axis, value)


@pytest.mark.parametrize(
    ("name", "share"), [("X-Ray", 0.326), ("OCT (Optical Coherence Tomography", 0.298), ("ultrasound", 0.021)]
)
def test_the_leaks_of_the_published_splits(shared_data, name, share):
    folder = shared_data / "original/medr1_splits/modality"
    train, test = (load_data(f"medr1:{folder}/{split}/{name}_{split}.json") for split in ("train", "test"))
    kept, dropped = drop_leaks(train, test)
    assert len(dropped["group"]) / len(test) == pytest.approx(share, abs=0.0005)
    assert len(kept) + len(dropped["group"]) == len(test)


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a b", "ü"):
        picture(len(name)).save(tmp_path / f"images/{name}.png")
    one, other = (str(tmp_path / f"images/{name}.png") for name in ("a b", "ü"))
    return Samples.of(
        [
            row("choice", one, other, rationale="Seen: left.", source="s", split="train", group="p", group_is_patient=True),
            row("yes", one, options=(), gold_index=None, golds=("yes",), kind=Kind.YESNO, modality=Modality.CT),
            row("open", other, options=(), gold_index=None, golds=("a", "b"), kind=Kind.OPEN, language="zh", question="哪里"),
            row(
                "yn", one, options=("Yes", "No"), golds=("No",), gold_index=1, kind=Kind.CHOICE, extra={"path": None, "w": [1]}
            ),
            row("drawn", "phantom:test/0/1", question_type=QuestionType.GRADING),
            row("text", group="Images/x.png"),
        ]
    )


def test_a_manifest_is_read_back_unchanged(rows, tmp_path):
    about = write_manifest(rows, tmp_path / "rows.jsonl")
    assert list(load_data(f"jsonl:{tmp_path}/rows.jsonl")) == list(rows)
    assert (about["n"], about["images"], about["row_hash"]) == (6, 3, row_hash(rows))
    assert about["strata"]["CT x unknown"] == 1


def test_paths_below_a_root_are_read_with_it(rows, tmp_path):
    write_manifest(rows, tmp_path / "rows.jsonl", root=str(tmp_path / "images"))
    assert json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])["images"] == ["a b.png", "ü.png"]
    assert list(load_data(f"jsonl:{tmp_path}/rows.jsonl?images={tmp_path}/images")) == list(rows)
    with pytest.raises(DataError, match="is not below"):
        write_manifest(rows, tmp_path / "other.jsonl", root=str(tmp_path / "images/none"))


@pytest.mark.parametrize("facts", [{"golds": ("LEFT",)}, {"extra": {"language": "de"}}, {"options": ("Left", "left.")}])
def test_a_row_that_no_manifest_holds_is_refused_and_nothing_is_written(facts, tmp_path):
    bad = Samples.of([row("bad", **facts)])
    with pytest.raises(DataError, match=r"bad|row 1"):
        write_parts(tmp_path / "out", {"train": bad}, {})
    assert list(tmp_path.iterdir()) == []


def test_rows_with_equal_options_are_counted():
    kept, same = distinct_options(Samples.of([row("good"), row("same", options=("Left", "left. "))]))
    assert ([one.id for one in kept], same) == (["good"], ("same",))


def test_a_folder_that_is_taken_stays_as_it_is(rows, tmp_path):
    (tmp_path / "out").mkdir()
    write_parts(tmp_path / "out", {"train": rows}, {"kind": "split"})
    before = (tmp_path / "out/manifest.json").read_bytes()
    with pytest.raises(RunError, match="exists"):
        write_parts(tmp_path / "out", {"train": rows[:1]}, {})
    assert (tmp_path / "out/manifest.json").read_bytes() == before


@pytest.fixture
def manifest(tmp_path):
    for n in range(12):
        picture(n).save(tmp_path / f"{n}.png")
    fields = {"question": "Where?", "options": ["Left", "Right"], "answer_index": 0}
    lines = [{"id": n, "image": f"{n // 2}.png", "source": f"s{n % 3 % 2}", **fields} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"jsonl:{tmp_path}/rows.jsonl"


def osler(*arguments):
    return CliRunner().invoke(app, ["data", "split", *map(str, arguments)])


def test_the_command_divides(manifest, tmp_path):
    done = osler(manifest, "--out", tmp_path / "out", "--fractions", "0.5,0,0.5", "--seed", 2, "--json")
    assert done.exit_code == 0, done.output
    told, saved = json.loads(done.stdout), json.loads((tmp_path / "out/manifest.json").read_text())
    sides = {split: load_data(f"jsonl:{tmp_path}/out/{split}.jsonl") for split in ("train", "test")}
    assert [len(side) for side in sides.values()] == [12, 12]
    assert not {one.images for one in sides["train"]} & {one.images for one in sides["test"]}
    expected = divide(load_data(manifest), {"train": 0.5, "test": 0.5}, 2)
    assert [one.id for one in sides["test"]] == [one.id for one in expected if one.split == "test"]
    assert told["parts"]["test"]["row_hash"] == row_hash(sides["test"])
    assert (saved["fractions"], saved["seed"], len(saved["image_hashes"])) == ({"train": 0.5, "test": 0.5}, 2, 12)


def test_the_command_leaves_a_source_out(manifest, tmp_path):
    done = osler(manifest, "--out", tmp_path / "out", "--leave-out", "source=s1", "--no-near", "--json")
    told = json.loads(done.stdout)
    assert told["dropped"]["image"]["n"] == 8
    assert {split: part["n"] for split, part in told["parts"].items()} == {"train": 8, "test": 8}


def test_the_command_drops_leaks_and_says_so(manifest, tmp_path):
    half = tmp_path / "half.jsonl"
    half.write_text("".join((tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)[:7]))
    done = osler("--train", f"jsonl:{half}", "--test", manifest, "--drop-leaks", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(load_data(f"jsonl:{tmp_path}/out/test.jsonl")) == 16
    saved = json.loads((tmp_path / "out/manifest.json").read_text())
    assert saved["dropped"]["image"] == {"n": 8, "ids": [str(n) for n in range(8)]}
    assert "image" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--drop-leaks",),
        ("SPEC", "--drop-leaks"),
        ("SPEC", "--train", "SPEC"),
        ("--train", "SPEC", "--test", "SPEC"),
        ("SPEC", "--fractions", "0.9"),
        ("SPEC", "--leave-out", "source"),
    ],
)
def test_commands_that_say_too_little_or_too_much(manifest, options, tmp_path):
    done = osler(*(manifest if option == "SPEC" else option for option in options), "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert "name SPEC" in str(done.exception) or "are not understood" in str(done.exception) or "unknown" in str(done.exception)
    assert not (tmp_path / "out").exists()
