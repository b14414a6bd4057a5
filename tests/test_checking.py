"""Every row and image before the GPU: faults are named by file, row and cause, and nothing valid is refused."""

import json
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import planted
from osler.checking import pictures
from osler.checking.data_set import check_data, examined, write_clean
from osler.checking.pictures import Pictures, picture
from osler.checking.rows import asked, row_problems
from osler.checking.seen import Known
from osler.checking.tally import kind_of
from osler.checking.training import asking_of, checked, usable
from osler.cli.app import app
from osler.config import ImageSettings, Recipe
from osler.datasets.load import DataSpec, load_data
from osler.datasets.problems import Problem, collecting, problem_at, problem_of
from osler.datasets.splits import Splits
from osler.errors import DataError
from osler.model.features import FeatureStore
from osler.model.load import TINY, load_policy, load_processor
from osler.model.prompts import processor_inputs
from osler.schema import Kind, Sample
from osler.strategies import strategy_of

KEYS = ["n", "by_split", "by_modality", "by_question_type", "by_source", "n_images", "n_multi_image", "n_open_ended",
        "option_counts", "problems"]  # fmt: skip
ROW = {"id": "a", "image": "x.png", "question": "Where?", "options": ["Left", "Right"], "answer_index": 1}


@pytest.fixture(scope="module")
def asking():
    """As `osler data check` asks without a model or recipe: in both forms, prompts of any length."""
    return replace(asking_of(Recipe(model="tiny"), with_budget=False, needs_images=False), forms=("letter", "text"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return planted.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch, tmp_path):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    """Writes rows (dictionaries or raw lines) to a manifest beside x.png, y.png and a broken.png; returns its spec."""
    for name, color in (("x.png", "red"), ("y.png", "blue")):
        Image.new("RGB", (40, 30), color).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])

    def manifest(*rows, name="rows.jsonl"):
        text = "".join(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return f"jsonl:{tmp_path / name}"

    return manifest


def problems_of(spec, asking, **more):
    return [(one["row"], one["what"]) for one in check_data(spec, asking, **more).numbers["problems"]]


# --- planted faults, and rows that are only odd ---


def told_right(out, images, asking, seeds):
    """The sets whose one problem has the right file, row and cause; and what was said of the others."""
    right, wrong = [], []
    for seed in seeds:
        set_ = planted.plant(out, images, seed)
        found = check_data(set_.spec, asking).numbers["problems"]
        fits = len(found) == 1 and (found[0]["file"], found[0]["row"]) == (set_.file, set_.row)
        fits = fits and any(word in found[0]["what"] for word in set_.cause) and found[0]["fix"]
        (right if fits else wrong).append((set_, found))
    return right, wrong


def test_a_planted_fault_is_told_with_its_file_row_and_cause(tmp_path, images, asking):
    right, wrong = told_right(tmp_path / "sets", images, asking, range(120))
    assert wrong == []
    assert len(right) == 120
    assert len({set_.fault for set_, _ in right}) > 15


@pytest.mark.slow
def test_of_2000_planted_faults_99_in_100_are_told_right(tmp_path, images, asking):
    right, wrong = told_right(tmp_path / "sets", images, asking, range(1000, 3000))
    assert len(right) >= 1980, wrong[:5]
    faults = {(set_.form, set_.fault) for set_, _ in right}
    assert {fault for _, fault in faults} == {*planted.FAULTS, planted.ENCODING}


def check_odd(file, images, asking, n):
    spec = f"jsonl:{planted.write_odd(file, n, seed=3)}?images={images}"
    found = check_data(spec, asking).numbers
    assert found["problems"] == []
    assert found["n"] == found["n_sound"] == len(load_data(spec)) == n
    assert {"2", "10"} <= found["option_counts"].keys()
    assert found["n_multi_image"] > 0
    assert found["n_open_ended"] > 0


def test_odd_rows_that_are_valid_are_not_refused(tmp_path, images, asking):
    check_odd(tmp_path / "odd.jsonl", images, asking, 300)


@pytest.mark.slow
def test_of_5000_odd_rows_none_is_refused(tmp_path, images, asking):
    check_odd(tmp_path / "odd.jsonl", images, asking, 5000)


def test_every_problem_of_a_file_is_told_and_the_other_rows_are_read(write, asking, tmp_path):
    spec = write(ROW, "{", ROW | {"id": "b", "answer_index": 7}, ROW | {"id": "c", "image": "no.png"}, ROW | {"id": "d"}, ROW)
    checked_ = check_data(spec, asking)
    assert [one["row"] for one in checked_.numbers["problems"]] == [2, 3, 4, 6]
    assert "taken by" in checked_.numbers["problems"][-1]["what"]
    assert (checked_.numbers["n"], checked_.numbers["n_unreadable"], list(checked_.sound)) == (6, 3, [1, 1, 0])


@pytest.mark.parametrize("form", planted.FORMS, ids=lambda form: form.name)
def test_every_form_goes_on_behind_a_bad_row(form, tmp_path, images, asking):
    rows = [form.row(planted.random.Random(n), n) for n in range(1, 8)]
    rows[0][form.image] = rows[3][form.image] = "Images/set/none.png"
    rows[1][form.gold] = form.wrong_gold
    rows[5] = ",".join(map(str, rows[5].values())) + ",one,more\n" if form.as_table else "[7]"
    (tmp_path / form.file).write_text(planted.text_of(form, rows))
    found = check_data(planted.spec_of(form, tmp_path / form.file, images), asking).numbers
    assert [one["row"] for one in found["problems"]] == [1, 2, 4, 6]
    assert (found["n"], found["n_unreadable"], found["n_sound"]) == (7, 4, 3)


def test_a_row_that_is_shared_by_two_problems_tells_both(write, asking):
    found = problems_of(
        write(ROW | {"images": ["broken.png", "x.png", "none"][:2], "image": None, "score": float("nan")}), asking
    )
    assert [row for row, _ in found] == [1]
    assert "NaN" in found[0][1]  # what is no JSON is told first


def test_what_breaks_a_json_array_leaves_the_rows_before_it(tmp_path, asking, images):
    form = next(form for form in planted.FORMS if form.name == "medr1")
    rows = [form.row(planted.random.Random(0), n) for n in range(6)]
    (tmp_path / "CT_test.json").write_text(planted.text_of(form, [*rows[:3], '{"image": ', *rows[4:]]))
    found = check_data(f"medr1:{tmp_path / 'CT_test.json'}?images={images}", asking).numbers
    assert (found["n"], found["n_sound"], [one["row"] for one in found["problems"]]) == (4, 3, [4])
    assert "what follows it" in found["problems"][0]["what"]


def test_a_file_that_is_no_json_is_one_problem_and_the_other_files_are_read(tmp_path, asking, images):
    form = next(form for form in planted.FORMS if form.name == "medr1")
    rows = [form.row(planted.random.Random(0), n) for n in range(3)]
    for name, text in (
        ("CT_test.json", "PK\3\4 a zip"),
        ("MR_test.json", planted.text_of(form, rows)),
        ("OCT_test.json", "{}"),
    ):
        (tmp_path / name).write_text(text)
    found = check_data(f"medr1:{tmp_path}?images={images}", asking).numbers
    assert found["by_modality"] == {"MRI": 3}
    assert [Path(one["file"]).name for one in found["problems"]] == ["CT_test.json", "OCT_test.json"]


def one_and_then_an_error(spec: DataSpec):
    yield Sample("a", (), "Why?", ("yes",), kind=Kind.YESNO, origin="mine, row 1")
    raise DataError("mine, row 2: it is odd. Give another.")


def test_a_users_adapter_that_stops_at_a_row_is_told_so(asking):
    found = check_data(f"{__name__}:one_and_then_an_error", asking).numbers
    assert (found["n"], found["n_sound"]) == (2, 1)
    assert found["problems"] == [
        {"file": "mine", "row": 2, "what": "it is odd. Nothing behind it was read.", "fix": "Give another."}
    ]


def test_outside_of_a_check_the_first_bad_row_is_an_error_as_ever(write):
    spec = write(ROW, "{", ROW | {"id": "b", "image": "no.png"})
    with pytest.raises(DataError, match="row 2: it is no JSON object"):
        load_data(spec)
    told = []
    with collecting(told.append):
        assert len(load_data(spec)) == 1
    assert [one.row for one in told] == [2, 3]
    with pytest.raises(DataError):
        load_data(spec)


# --- the parts ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/a b/x.jsonl, row 12: it is odd. Save the file.", Problem("/a b/x.jsonl", 12, "it is odd.", "Save the file.")),
        ("x.csv, row 2 (to line 5): is: it?", Problem("x.csv", 2, "is: it?", "Correct the row, or leave it out.")),
        ("x.json: it is empty.", Problem("x.json", None, "it is empty.", "Correct the row, or leave it out.")),
        ("p, row 3, question 2: bad. Did you mean 'x'?", Problem("p", 3, "bad.", "Did you mean 'x'?")),
        ("nothing is said", Problem(None, None, "nothing is said", "Correct the row, or leave it out.")),
    ],
)
def test_a_message_is_a_problem(text, problem):
    assert problem_of(DataError(text)) == problem


def test_a_place_may_look_like_a_message():
    assert problem_at("a, row 3: b/c.json, row 4", "Bad. Keep one.") == Problem("a, row 3: b/c.json", 4, "Bad.", "Keep one.")


def test_problems_are_of_one_kind_but_for_names_and_numbers():
    same = {
        kind_of(f"the gold {gold!r} is no option of ['a', {gold!r}] in /x/{n}.png: {n} bytes.")
        for gold, n in (("b", 1), ("c", 23))
    }
    assert len(same) == 1
    assert kind_of("it has no gold.") != kind_of("it has no image.")


@pytest.mark.parametrize("size", [(1, 1), (27, 29), (40, 30), (512, 512), (199, 1), (1000, 700), (28, 2800)])
def test_image_tokens_are_those_of_the_processor(size, asking):
    """The oracle is the processor itself, on the image, and the grid that features are computed by."""
    vlm, image = load_policy("tiny"), Image.new("RGB", size)
    inputs = processor_inputs(vlm, [("Where is it?", [image, image])])
    patches = asking.target.patches(size)
    assert patches == int(inputs["image_grid_thw"][0].prod())
    temporal, height, width = FeatureStore(vlm).grid(image)
    assert patches == temporal * height * width
    length, tokens, features = asking.target.tokens("Where is it?", [patches, patches])
    assert (length, tokens) == (inputs["input_ids"].shape[1], features)
    assert features == 2 * patches // 4


def test_a_prompt_above_the_budget_is_told_with_its_length(write):
    asking = asking_of(Recipe(model="tiny"))
    assert asking.target.budget == 2048 - 256
    long = write(ROW | {"question": "why " * 4000}, ROW | {"id": "b"})
    [(row, what)] = problems_of(long, asking)
    assert row == 1
    assert "tokens" in what
    assert "above the 1,792" in what
    less = asking_of(Recipe(model="tiny", rollout={"max_tokens": 2040}))
    assert len(problems_of(write(ROW, ROW | {"id": "b"}), less)) == 2


def test_the_recipes_pixels_decide_the_tokens():
    few = load_processor(str(TINY), ImageSettings(min_pixels=784, max_pixels=1568))
    assert few.image_processor.get_number_of_image_patches(500, 500) < 16


def sample(**changed):
    given = {"id": "s", "images": (), "question": "Is it?", "golds": ("b",), "options": ("a", "b"), "gold_index": 1}
    return Sample(**{**given, **changed})


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"golds": ("",)}, "no gold"),
        ({"golds": ()}, "no gold"),
        ({"golds": ("c",)}, "not among"),
        ({"gold_index": 0}, "not among"),
        ({"options": ("a", "b", "B.")}, "more than one is right"),
        ({"options": ("", "b")}, "empty"),
        ({"question": " . "}, "question is empty"),
        ({"question": "half \ud83d"}, "surrogate"),
        ({"extra": {"a": [1, float("nan")]}}, "'a' is NaN"),
        ({"golds": ("<answer>x",), "options": (), "gold_index": None, "kind": "open"}, "<answer>"),
        ({"question": "what <|video_pad|>"}, "controls the model"),
    ],
)
def test_what_is_wrong_with_a_row(changed, word, asking):
    assert row_problems(sample(), [], asking) == []
    [(what, fix)] = row_problems(sample(**changed), [], asking)
    assert word in what
    assert fix.endswith(".")


def test_options_that_are_alike_but_wrong_are_counted_and_no_problem(asking):
    assert row_problems(sample(options=("a", "A.", "b"), gold_index=2), [], asking) == []


@pytest.mark.parametrize("strategy", ["think", "nothink", "nothink_raw", "think_after", "diverse"])
def test_a_gold_is_right_by_its_own_grader_under_every_strategy(strategy, asking):
    asking = replace(asking, strategy=strategy_of(strategy))
    for name in "abcdefghijkl":  # diverse draws by id
        one = sample(id=name)
        assert row_problems(one, [], asking) == []
        assert asked(one, asking.strategy)[1].name.startswith(strategy)


def test_a_grader_that_calls_the_gold_wrong_is_found(asking, monkeypatch):
    from osler.checking import rows
    from osler.schema import Verdict

    monkeypatch.setattr(rows, "grader", lambda form: lambda sample, parsed: Verdict("incorrect", "correct", "a", "b"))
    [(what, _)] = row_problems(sample(), [], asking)
    assert "not right by its own grader" in what


def test_images_are_found_alike_in_this_process_and_in_others(images, monkeypatch, tmp_path):
    names = [
        str(images / "Images" / "set" / name) for name in (*planted.SOUND, *(one for one, _ in planted.BROKEN_IMAGES.values()))
    ]
    monkeypatch.setattr(pictures, "FEW", 3)
    known = Known(tmp_path)
    asked_ = Pictures(known)
    try:
        keys = list(map(asked_.ask, names))
        assert list(map(asked_.found, keys)) == list(map(picture, names))
    finally:
        asked_.close()
        known.close()


# --- what is known from before ---


def test_what_was_checked_is_known_until_it_changes(write, asking, monkeypatch, tmp_path):
    rows = [ROW, ROW | {"id": "b", "image": "y.png"}, ROW | {"id": "c", "image": "broken.png"}]
    first = check_data(write(*rows), asking).numbers
    assert (first["n_known"], first["n_problems"]) == (0, 1)
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "picture", lambda reference: pytest.fail(f"{reference} is opened again"))
        again = check_data(write(*rows), asking).numbers
        assert again == first | {"n_known": 3}
        less = check_data(write(rows[2], rows[0]), asking).numbers
        assert (less["n_known"], [one["row"] for one in less["problems"]]) == (2, [1])
    assert check_data(write(ROW | {"question": "Else?"}, *rows[1:]), asking).numbers["n_known"] == 2
    Image.new("RGB", (50, 50)).save(tmp_path / "broken.png")
    mended = check_data(write(*rows), asking).numbers
    assert (mended["n_known"], mended["n_problems"]) == (2, 0)
    os.utime(tmp_path / "y.png", (1, 1))
    assert check_data(write(*rows), asking).numbers["n_known"] == 2


def test_another_processor_or_strategy_knows_nothing(write, asking):
    spec = write(ROW)
    check_data(spec, asking)
    for other in (asking_of(Recipe(model="tiny")), replace(asking, strategy=strategy_of("nothink"))):
        assert check_data(spec, other).numbers["n_known"] == 0


def test_a_damaged_store_is_said_and_the_check_goes_on(write, asking, tmp_path, capsys):
    (tmp_path / "cache" / "checked").mkdir(parents=True)
    (tmp_path / "cache" / "checked" / "checked.sqlite").write_text("this is no data base, however long it may be " * 40)
    assert check_data(write(ROW), asking).numbers["n_sound"] == 1
    assert "cannot be kept there" in capsys.readouterr().err


# --- before training ---


def test_training_refuses_more_problems_than_its_recipe_allows(write, capsys):
    recipe = Recipe(model="tiny", answer_form="text")
    rows = [ROW | {"id": str(n), "question": f"Where {n}?"} for n in range(4)]
    spec = write(*rows, ROW | {"id": "b", "image": "broken.png"}, ROW | {"id": "c", "image": "broken.png"})
    samples = load_data(spec)
    found = checked(samples, recipe)
    assert (found.rows, [one.row for one in found.listed]) == ((4, 5), [5, 6])
    assert len(found.without(samples)) == 4
    splits = Splits(samples[:5], samples[5:], samples[:0])
    with pytest.raises(DataError, match=r"rows.jsonl, row 5: .*broken.png: the image cannot be decoded.*1 further rows"):
        usable(splits, recipe, 1)
    kept = usable(splits, recipe, 2)
    assert (len(kept.train), len(kept.val)) == (4, 0)
    assert "2 rows have problems and are left out" in capsys.readouterr().err
    assert usable(Splits(samples[:4], samples[:0], samples[:0]), recipe, 0).train == samples[:4]


def test_training_needs_images_that_an_audit_does_not(write, asking):
    row = {key: value for key, value in ROW.items() if key != "image"} | {"text_only": True}
    samples = load_data(write(row))
    assert "it has no image" in checked(samples, Recipe(model="tiny")).listed[0].what
    assert problems_of(write(row), asking) == []


def test_drawn_images_are_not_drawn_for_the_check(monkeypatch):
    monkeypatch.setattr(pictures, "open_image", lambda reference: pytest.fail("a phantom is drawn"))
    samples = load_data({"name": "phantoms", "train": 4, "val": 0, "test": 0, "mark": "with"})
    known, asking = Known(), asking_of(Recipe(model="tiny", answer_form="text"))
    try:
        assert [one.said for one in examined(samples, asking, known)] == [[]] * len(samples)
    finally:
        known.close()


# --- the commands ---


def osler(*arguments):
    """The exit code and what stands on stdout."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception and not isinstance(done.exception, SystemExit | DataError):
        raise done.exception
    return 2 if isinstance(done.exception, DataError) else done.exit_code, done.stdout, done


def test_check_and_show_print_the_same_keys(write):
    spec = write(
        ROW | {"split": "train"}, {"id": "b", "images": ["x.png", "y.png"], "question": "Why?", "answer": "so", "split": "val"}
    )
    for command in ("show", "check"):
        code, out, _ = osler("data", command, spec, "--json")
        found = json.loads(out)
        assert (code, list(found)[: len(KEYS)]) == (0, KEYS)
        assert {key: found[key] for key in KEYS} == {
            "n": 2, "by_split": {"train": 1, "val": 1}, "by_modality": {"unknown": 2}, "by_question_type": {"unknown": 2},
            "by_source": {"": 2}, "n_images": 2, "n_multi_image": 1, "n_open_ended": 1, "option_counts": {"0": 1, "2": 1},
            "problems": [],
        }  # fmt: skip


def test_strict_exits_with_3_where_there_are_problems(write):
    good, bad = write(ROW, name="good.jsonl"), write(ROW, ROW | {"id": "b", "image": "broken.png"}, name="bad.jsonl")
    assert osler("data", "check", good, "--strict")[0] == 0
    assert osler("data", "check", bad)[0] == 0
    code, out, _ = osler("data", "check", bad, "--strict", "--json")
    assert code == 3
    [problem] = json.loads(out)["problems"]
    assert list(problem) == ["file", "row", "what", "fix"]
    assert (Path(problem["file"]).name, problem["row"]) == ("bad.jsonl", 2)
    code, out, _ = osler("data", "check", bad, "--strict")
    assert code == 3
    assert "cannot be decoded" in out
    assert "Replace the file" in out


def test_what_cannot_be_read_at_all_exits_with_2(write, tmp_path):
    for spec in ("jsonl:none.jsonl", "nothing", write("{", name="all_bad.jsonl"), write(name="empty.jsonl")):
        assert osler("data", "check", spec)[0] == 2
    assert osler("data", "check", write(ROW), "--split", "trian")[0] == 2


def test_write_gives_a_manifest_of_the_sound_rows_and_leaves_the_input(write, tmp_path):
    rows = [
        ROW | {"group": 7, "score": 0.5},
        ROW | {"id": "b", "image": "broken.png"},
        "{",
        ROW | {"id": "d", "image": "y.png"},
        ROW,
    ]
    spec, file = write(*rows), tmp_path / "rows.jsonl"
    before = file.read_bytes()
    clean = tmp_path / "new" / "clean.jsonl"
    code, out, _ = osler("data", "check", spec, "--write", clean, "--json")
    assert (code, json.loads(out)["clean"]) == (0, {"file": str(clean), "written": 2, "options_twice": 0})
    assert file.read_bytes() == before
    kept = load_data(f"jsonl:{clean}")
    assert [one.id for one in kept] == ["a", "d"]
    assert kept[0].extra == {"score": 0.5}
    assert osler("data", "check", f"jsonl:{clean}", "--strict")[0] == 0
    assert osler("data", "check", spec, "--write", clean)[0] == 2
    assert osler("data", "check", spec, "--write", file)[0] == 2
    assert file.read_bytes() == before


def test_a_split_and_where_are_heeded(write, asking):
    rows = [ROW | {"id": str(n), "split": split, "modality": label} for n, (split, label) in enumerate(
        (("train", "CT"), ("train", "MRI"), ("test", "CT"), ("test", "OCT")))]  # fmt: skip
    spec = write(*rows)
    assert check_data(spec, asking, split="train").numbers["by_split"] == {"train": 2}
    path = spec.removeprefix("jsonl:")
    kept = check_data({"name": "jsonl", "path": path, "where": {"modality": "CT"}}, asking, split="test").numbers
    assert (kept["n"], kept["by_modality"]) == (1, {"CT": 1})


def test_a_split_that_only_some_rows_have_is_a_problem(write, asking):
    found = problems_of(write(ROW | {"split": "train"}, ROW | {"id": "b"}, ROW | {"id": "c"}), asking)
    assert found == [(None, "2 rows have no split, but 1 others have one.")]


def test_rows_that_repeat_or_contradict_an_earlier_one_are_counted_and_no_problem(write, asking):
    rows = [
        ROW,
        {"id": "open", "image": "x.png", "question": "Where?", "answer": "Left"},
        ROW | {"id": "again", "question": " where? ", "image": "./x.png"},
        ROW | {"id": "turned", "options": ["right", "LEFT"], "answer_index": 0},
        ROW | {"id": "other", "answer_index": 0},
        ROW | {"id": "other again", "answer_index": 0},
        ROW | {"id": "picture", "image": "y.png", "answer_index": 0},
        ROW | {"id": "options", "options": ["Left", "Right", "Both"], "answer_index": 0},
        {"id": "wider", "image": "x.png", "question": "Where?", "answers": ["left", "above"]},
        {"id": "elsewhere", "image": "x.png", "question": "Where?", "answer": "below"},
    ]
    spec = write(*rows)
    found, file = check_data(spec, asking).numbers, spec.removeprefix("jsonl:")
    assert (found["n_problems"], found["n_sound"]) == (0, len(rows))
    assert (found["n_repeated"], found["n_contradictory"]) == (3, 2)
    assert found["repeated"] == [{"file": file, "row": 1}, {"file": file, "row": 3}]
    assert found["contradictory"] == [{"file": file, "row": 1}, {"file": file, "row": 5}]
    _, out, _ = osler("data", "check", spec, "--strict")
    text = " ".join(out.split())
    assert f"3 rows repeat an earlier one, with its images, question, options and gold: first {file}, row 3 (" in text
    assert f"but another gold: first {file}, row 5 (the earlier: {file}, row 1)." in text


def test_rows_without_images_are_not_called_repeats(write, asking):
    row = {key: value for key, value in ROW.items() if key != "image"} | {"text_only": True}
    found = check_data(write(row, row | {"id": "b"}, row | {"id": "c", "answer_index": 0}), asking).numbers
    assert (found["n"], found["n_repeated"], found["n_contradictory"], found["contradictory"]) == (3, 0, 0, [])


def test_that_a_limit_is_not_heeded_is_told_in_json_too(write):
    path = write(ROW, ROW | {"id": "b"}).removeprefix("jsonl:")
    limited = f"{{name: jsonl, path: {path}, limit: 1}}"
    found = json.loads(osler("data", "check", limited, "--json")[1])
    assert (found["n"], found["limit_heeded"]) == (2, False)
    assert "The spec's limit was not heeded" in osler("data", "check", limited)[1]
    assert "limit_heeded" not in json.loads(osler("data", "check", f"jsonl:{path}", "--json")[1])


# --- real files ---


def test_real_rows_are_told_missing_where_their_image_is_not_there(shared_data, asking):
    folder = shared_data / "original" / "vqa_rad"
    spec = f"vqa_rad:{folder / 'testset.json'}?images={folder / 'images'}"
    rows = json.loads((folder / "testset.json").read_text())
    absent = [n for n, row in enumerate(rows, 1) if not (folder / "images" / row["image_name"]).exists()]
    found = check_data(spec, asking).numbers
    assert [one["row"] for one in found["problems"]] == absent
    assert (found["n"], found["n_sound"]) == (451, 451 - len(absent))
    assert len(found["problem_kinds"]) == 1


def test_real_splits_have_no_problem_but_the_row_that_is_published_without_an_answer(shared_data, asking, tmp_path):
    folder = shared_data / "original"
    medr1 = check_data(f"medr1:{folder / 'medr1_splits' / 'modality' / 'test' / 'X-Ray_test.json'}", asking)
    assert (medr1.numbers["n"], medr1.numbers["problems"], medr1.numbers["n_without_images"]) == (1615, [], 1615)
    slake = f"slake:{folder / 'slake' / 'test.json'}"
    assert check_data(slake, asking).numbers["n_problems"] == 0
    rad = f"vqa_rad:{folder / 'vqa_rad' / 'testset.json'}"
    written = write_clean(rad, check_data(rad, asking), tmp_path / "clean.jsonl")
    assert written == {"written": 451, "options_twice": 0}
    assert [one.question for one in load_data(f"jsonl:{tmp_path / 'clean.jsonl'}")] == [one.question for one in load_data(rad)]


@pytest.mark.slow
def test_the_one_row_of_slake_without_an_answer_is_found(shared_data, asking):
    found = check_data(f"slake:{shared_data / 'original' / 'slake'}", asking).numbers
    rows = json.loads((shared_data / "original" / "slake" / "train.json").read_text())
    place = next(n for n, row in enumerate(rows, 1) if row["qid"] == 1622)
    assert [(Path(one["file"]).name, one["row"]) for one in found["problems"]] == [("train.json", place)]


# --- images ---


def test_what_another_version_found_of_an_image_does_not_count(write, tmp_path, monkeypatch):
    write()
    known, file = Known(), str(tmp_path / "x.png")
    monkeypatch.setattr(pictures, "FORMAT", "an earlier one")
    monkeypatch.setattr(pictures, "picture", lambda reference: (1, 1))
    before = Pictures(known)
    assert before.found(before.ask(file)) == (1, 1)
    monkeypatch.undo()
    now = Pictures(known)
    assert now.found(now.ask(file)) == (40, 30)
    known.close()


def test_a_process_that_is_ended_from_outside_is_an_error_that_says_so(write, tmp_path, monkeypatch):
    class Ended:
        def __init__(self, *_) -> None:
            self.asked = 0

        def submit(self, *_):
            self.asked += 1
            if self.asked > 1:
                raise BrokenProcessPool("ended")
            one = Future()
            one.set_exception(BrokenProcessPool("ended"))
            return one

    write()
    monkeypatch.setattr(pictures, "FEW", 0)
    monkeypatch.setattr(pictures, "ProcessPoolExecutor", Ended)
    asked = Pictures(Known())
    key = asked.ask(str(tmp_path / "x.png"))
    for ask in (lambda: asked.found(key), lambda: asked.ask(str(tmp_path / "y.png"))):
        with pytest.raises(DataError, match=r"want of memory .*\. Make room"):
            ask()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"%PDF-1.7"], ids=["empty", "html", "pdf"])
def test_what_stands_in_an_images_place_is_told_with_its_row_and_a_fix_of_its_own(write, tmp_path, asking, content):
    (tmp_path / "other.png").write_bytes(content)
    spec = write(ROW, {**ROW, "id": "b", "image": "other.png"})
    (found,) = check_data(spec, asking).numbers["problems"]
    assert (found["file"], found["row"]) == (str(tmp_path / "rows.jsonl"), 2)
    kind = {b"": "empty", b"<": "a page of HTML", b"%": "a PDF document"}[content[:1]]
    assert f"{tmp_path / 'other.png'}: the image" in found["what"]
    assert kind in found["what"]
    assert found["fix"].split()[0] in ("Replace", "Download", "Save")
