"""The rating sheet: what is drawn, that raters see neither model nor verdict, what comes back, and kappas worked by hand."""

import csv
import io
import json
import random
import re

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from osler.agreement import kappa
from osler.cli.rating import rate_app
from osler.errors import DataError, RecipeError, RunError
from osler.images import blank_of
from osler.rating.answers import CANNOT_SAY, NO, YES, read_answer, read_ratings
from osler.rating.items import SIGNS, draw_items, ordered, shares_of
from osler.rating.judged import read_judged
from osler.rating.key import Key, Rated, read_key
from osler.rating.results import read_results
from osler.rating.sheet import write_sheets
from test_comparing import ATTACK, Page, evaluate, right, written, wrote
from test_report import SAMPLES

__all__ = ["evaluate"]


@pytest.fixture
def runs(evaluate):
    """Two runs of 20 rows: 12 and 16 right."""
    return [evaluate("secret-base", "rrrwwrrwrwrrwwrrwrwr"), evaluate("secret-grpo", "rrrrwrrwrrrrwrrrwrrr")]


@pytest.fixture
def exported(tmp_path, runs):
    """The sheets of two raters on 10 items of two runs."""
    write_sheets(draw_items(runs, 10), tmp_path / "sheets")
    return tmp_path / "sheets"


def rows_of(file):
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))


def filled(folder, rater, answer=lambda k: ("yes", "no"), order=0):
    """The CSV file of a rater, filled in by the number of the item in the order of codes; returns it."""
    file = folder / f"filled-{rater}.csv"
    rows = sorted(rows_of(folder / f"rater-{rater}.csv"), key=lambda row: row["code"])
    for k, row in enumerate(rows):
        row["correct"], row["sound"] = answer(k)
    random.Random(order).shuffle(rows)
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


# --- Cohen's kappa


def test_a_kappa_worked_by_hand():
    """50 rows: both yes 20, both no 15, 5 and 10 apart. Seen 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa 0.2 / 0.5."""
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = kappa(a, b)
    assert found.value == pytest.approx(0.4)
    assert (found.n, found.agreement.value) == (50, pytest.approx(0.7))
    assert found.ci_low < 0.4 < found.ci_high
    error = (0.7 * 0.3 / (50 * 0.5**2)) ** 0.5  # Cohen's own large-sample error
    assert (found.ci_high - found.ci_low) / 2 == pytest.approx(1.96 * error, rel=0.1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_kappa_is_scikit_learns(pairs):
    a, b = zip(*pairs, strict=True)
    found = kappa(a, b)
    if len({*a, *b}) == 1:
        assert found.value is None
        assert found.agreement.value == 1
    else:
        assert found.value == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)
        assert -1 <= found.ci_low <= found.value + 1e-9
        assert found.value - 1e-9 <= found.ci_high <= 1
    assert kappa(b, a).value == pytest.approx(found.value) if found.value is not None else kappa(b, a).value is None


def test_rows_of_one_image_are_no_further_evidence():
    a, b = [True, True, False, False, True, False] * 5, [True, False, False, True, True, False] * 5
    single = kappa(a, b)
    fourfold = kappa(a * 4, b * 4, [str(k % 30) for k in range(120)])
    assert fourfold.value == pytest.approx(single.value)
    assert fourfold.n == 120
    assert (fourfold.ci_low, fourfold.ci_high) == pytest.approx((single.ci_low, single.ci_high), abs=0.03)


def test_perfect_agreement_of_few_rows_is_not_certain():
    few, many = (kappa([True, False] * k, [True, False] * k) for k in (3, 300))
    assert (few.value, many.value) == (1, 1)
    assert few.ci_low < many.ci_low < 1


def test_no_row_has_no_kappa_and_unequal_lengths_none_either():
    assert (kappa([], []).value, kappa([], []).n, kappa([], []).agreement.value) == (None, 0, None)
    with pytest.raises(ValueError, match="cannot be paired"):
        kappa([True], [])


# --- which items


def test_every_run_gives_as_many_items_and_its_verdicts_as_its_rows_are(runs):
    selection = draw_items(runs, 20)
    shares = {(one.run, one.verdict): (one.rows, one.drawn) for one in selection.shares}
    assert shares == {
        ("secret-base", "right"): (12, 6),
        ("secret-base", "wrong"): (8, 4),
        ("secret-grpo", "right"): (16, 8),
        ("secret-grpo", "wrong"): (4, 2),
    }
    for (run, verdict), (_, drawn) in shares.items():
        found = [item for item in selection.items if (item.run, item.right) == (run, verdict == "right")]
        assert len(found) == len({item.sample.id for item in found}) == drawn


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1), st.integers(0, 80))
def test_shares_are_proportional_to_the_last_item(sizes, n):
    shares, total = shares_of(sizes, n), sum(sizes.values())
    assert sum(shares.values()) == min(n, total)
    for name, share in shares.items():
        assert share <= sizes[name]
        assert abs(share - min(n, total) * sizes[name] / total) < 1


def test_the_draw_follows_the_seed_alone(runs):
    one, again, other = (draw_items(runs, 10, seed) for seed in (0, 0, 1))
    assert one == again
    assert {(i.run, i.sample.id) for i in one.items} != {(i.run, i.sample.id) for i in other.items}
    swapped = draw_items(runs[::-1], 10)
    assert swapped.items == one.items


def test_a_code_says_nothing_and_no_spreadsheet_reads_more_into_it(runs):
    codes = [item.code for item in draw_items(runs, 40).items]
    assert len(set(codes)) == len(codes) == 40
    assert all(re.fullmatch(f"[{SIGNS}]{{6}}", code) for code in codes)
    assert not set(SIGNS) & set("AEIOUY0123456789")


def test_each_rater_meets_the_items_in_another_order(runs):
    items = draw_items(runs, 20).items
    first, second = ordered(items, 0, 1), ordered(items, 0, 2)
    assert first != second
    assert sorted(first, key=lambda item: item.code) == sorted(second, key=lambda item: item.code) == list(items)


def test_a_model_that_was_shown_a_blank_is_rated_beside_the_rows_own_image(tmp_path):
    from dataclasses import replace

    blind = [right(replace(sample, images=tuple(map(blank_of, sample.images)))) for sample in SAMPLES[:4]]
    selection = draw_items(
        [written(tmp_path / "blind", blind), written(tmp_path / "sees", [right(one) for one in SAMPLES[:4]])], 8
    )
    assert all("blank:" not in image for item in selection.items for image in item.images)


def test_too_few_items_for_the_runs_are_refused(runs):
    with pytest.raises(RecipeError, match="1 items cannot be shared by 2 runs"):
        draw_items(runs, 1)


def test_runs_of_other_rows_are_refused(evaluate):
    with pytest.raises(RunError, match="not of the same rows"):
        draw_items([evaluate("a", "rrr"), evaluate("b", "rrrr")])


# --- what raters get


def test_a_sheet_names_no_model_no_verdict_no_path_and_no_row(exported, runs):
    ids = {item["sample_id"] for item in json.loads((exported / "key.json").read_text())["items"]}
    for name in ("rater-1.html", "rater-1.csv", "rater-2.html", "rater-2.csv"):
        text = (exported / name).read_text(encoding="utf-8")
        for told in ("secret", "base", "grpo", "phantom:", str(exported.parent), *ids):
            assert told not in re.sub(r'"data:image[^"]*"', "", text).replace("base-uri", "").casefold(), told
        outside = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL)
        assert not re.search(r"verdict|unjudged|unparseable", outside)


def test_right_and_wrong_items_have_the_same_markup(tmp_path, evaluate):
    sheets = [draw_items([evaluate(name, plan * 4)], 4) for name, plan in (("a", "r"), ("b", "w"))]
    pages = []
    for k, selection in enumerate(sheets):
        write_sheets(selection, tmp_path / str(k), 1)
        pages.append(Page((tmp_path / str(k) / "rater-1.html").read_text(encoding="utf-8")))
    assert sorted(pages[0].tags) == sorted(pages[1].tags)
    assert sorted(pages[0].classes) == sorted(pages[1].classes)


def test_the_key_tells_every_code_apart_and_says_that_it_is_not_for_raters(exported):
    key = json.loads((exported / "key.json").read_text())
    assert "away from raters" in key["warning"]
    assert {row["code"] for row in rows_of(exported / "rater-1.csv")} == {item["code"] for item in key["items"]}
    assert "phantom" not in "".join(item["cluster"] for item in key["items"])
    found = read_key(exported)
    assert [found.names[label] for label in found.labels] == ["secret-base", "secret-grpo"]


def test_both_files_of_a_rater_hold_the_same_items_in_the_same_order(exported):
    for rater in (1, 2):
        page = (exported / f"rater-{rater}.html").read_text(encoding="utf-8")
        assert re.findall(r'data-code="(\w+)"', page) == [row["code"] for row in rows_of(exported / f"rater-{rater}.csv")]


def test_what_a_completion_holds_stays_text(tmp_path):
    hostile = [wrote(sample, f"{ATTACK}<answer>A</answer>") for sample in SAMPLES[:3]]
    write_sheets(draw_items([written(tmp_path / "run", hostile)], 3), tmp_path / "sheets", 1)
    page = Page((tmp_path / "sheets" / "rater-1.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert page.open == []
    assert "alert(1)" in page.text
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/jpeg") for name, value in page.attributes if name == "src")
    assert not [value for name, value in page.attributes if name == "href"]


def test_the_policy_lets_the_sheets_own_script_run_and_nothing_else(exported):
    import base64
    import hashlib

    text = (exported / "rater-1.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    policy = re.search(r"default-src[^\"]*", text)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"fetch\(|XMLHttpRequest|https?:", text)


def test_a_completion_is_no_formula_to_a_spreadsheet(tmp_path):
    records = [wrote(sample, f"{sign}HYPERLINK(1)") for sample, sign in zip(SAMPLES, "=+-@", strict=False)]
    write_sheets(draw_items([written(tmp_path / "run", records)], 4), tmp_path / "sheets", 1)
    assert all(row["completion"].startswith("'") for row in rows_of(tmp_path / "sheets" / "rater-1.csv"))


def test_the_reference_answer_can_be_kept_back(tmp_path, runs):
    selection = draw_items(runs, 4)
    for gold in (True, False):
        write_sheets(selection, tmp_path / str(gold), 1, gold)
        assert ("Reference answer" in (tmp_path / str(gold) / "rater-1.html").read_text(encoding="utf-8")) is gold
        assert all(bool(row["reference"]) is gold for row in rows_of(tmp_path / str(gold) / "rater-1.csv"))


def test_a_folder_that_holds_something_is_left_alone(exported, runs):
    before = (exported / "key.json").read_bytes()
    with pytest.raises(RunError, match="exists"):
        write_sheets(draw_items(runs, 4), exported)
    assert (exported / "key.json").read_bytes() == before


# --- what comes back


@pytest.mark.parametrize(("spellings", "meaning"), [(YES, True), (NO, False), (CANNOT_SAY, None)])
def test_spellings_mean_what_is_documented(spellings, meaning):
    assert all(read_answer(f"  {text.upper()}\n") is meaning for text in spellings)


def test_spellings_do_not_overlap_and_nothing_else_is_read():
    assert len(YES | NO | CANNOT_SAY) == len(YES) + len(NO) + len(CANNOT_SAY)
    assert read_answer("Can\u2019t say") is None
    for text in ("", "maybe", "yes no", "2", "yes!"):
        with pytest.raises(ValueError, match="no answer"):
            read_answer(text)


BODY = [["AAA", "1", "Ja", "0", 'a note; with "quotes",\nand a second line'], ["bbb", "1", "FALSE", "Cannot say", "größer"]]


def dialect(delimiter=",", end="\r\n", header=("code", "rater", "correct", "sound", "note"), first=""):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows([header, *BODY])
    return first + out.getvalue()


DIALECTS = {
    "comma": dialect().encode(),
    "semicolon, mark": dialect(";").encode("utf-8-sig"),
    "tab, UTF-16": dialect("\t").encode("utf-16"),
    "Windows-1252": dialect(";").encode("cp1252"),
    "sep line": dialect(";", first="sep=;\r\n").encode(),
    "unix lines": dialect(end="\n").encode(),
    "odd header": dialect(header=(" Code", "RATER", "Correct ", "Sound", "NOTE")).encode(),
    "empty rows": dialect().encode() + b",,,,\r\n\r\n",
}


@pytest.mark.parametrize("name", DIALECTS)
def test_any_dialect_is_read(tmp_path, name):
    file = tmp_path / "x.csv"
    file.write_bytes(DIALECTS[name])
    found = read_ratings([file], ["AAA", "BBB"])["1"]
    assert [(found[code].correct, found[code].sound) for code in ("AAA", "BBB")] == [(True, False), (False, None)]
    assert found["AAA"].note.splitlines() == ['a note; with "quotes",', "and a second line"]
    assert found["BBB"].note == "größer"


HEAD = "code,rater,correct,sound\n"
BAD = {
    "unknown code": (HEAD + "AAA,1,yes,no\nZZZ,1,yes,no\n", r"x\.csv, row 3: unknown code 'ZZZ'"),
    "twice": (HEAD + "AAA,1,yes,no\nBBB,1,yes,no\naaa,1,no,no\n", r"x\.csv, row 4: the code AAA stands in row 2 too"),
    "missing row": (HEAD + "AAA,1,yes,no\n", r"x\.csv: 1 of 2 items have no row: BBB"),
    "missing answer": (HEAD + "AAA,1,yes,no\nBBB,1,yes,\n", r"x\.csv, row 3: of the item BBB, the column sound is empty"),
    "no answer": (HEAD + "AAA,1,perhaps,no\nBBB,1,yes,no\n", r"x\.csv, row 2: of the item AAA, the column correct holds"),
    "short row": (HEAD + "AAA,1,yes\nBBB,1,yes,no\n", r"x\.csv, row 2: of the item AAA, the column sound is empty"),
    "long row": (HEAD + "AAA,1,yes,no,more\nBBB,1,yes,no\n", r"x\.csv, row 2: it has 5 cells, the header 4"),
    "two raters": (HEAD + "AAA,1,yes,no\nBBB,2,yes,no\n", r"x\.csv, row 3: the rater is '2', but '1' in row 2"),
    "no rater": (HEAD + "AAA,1,yes,no\nBBB,,yes,no\n", r"x\.csv, row 3: the column rater is empty"),
    "rows after a note of two lines": (
        'code,rater,correct,sound,note\nAAA,1,yes,no,"a\nb"\nBBB,1,,no,\n',
        r"x\.csv, row 3: of the item BBB, the column correct is empty",
    ),
    "open quote": (HEAD + 'AAA,1,yes,"no\n', r"x\.csv, row 2: it is no CSV"),
    "columns": ("code,rater,correct\nAAA,1,yes\n", r"x\.csv, row 1: the columns code, rater, correct, sound are not all"),
    "empty": ("", r"x\.csv, row 1: the columns"),
    "header only": (HEAD, r"x\.csv: it holds no ratings"),
    "a spreadsheet's own": ("PK\x03\x04\x00", r"x\.csv, row 1: the columns"),
    "no text": ("PK\x03\x04\x00\x90", r"x\.csv: it is no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_file_and_row(tmp_path, name):
    text, message = BAD[name]
    (tmp_path / "x.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        read_ratings([tmp_path / "x.csv"], ["AAA", "BBB"])


def test_a_file_that_is_not_there_or_of_a_rater_again_is_refused(tmp_path, exported):
    with pytest.raises(DataError, match=r"none\.csv: it cannot be read"):
        read_ratings([tmp_path / "none.csv"], ["AAA"])
    file = filled(exported, 1)
    again = file.with_name("again.csv")
    again.write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"again\.csv: it is of rater '1', and so is .*filled-1\.csv"):
        read_results(exported, [file, again])


def test_a_folder_without_a_readable_key_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"key\.json: there is no key"):
        read_key(tmp_path)
    for text, message in (("{}", "no key of a rating"), ('{"kind": "osler rating key"}', "damaged")):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(DataError, match=message):
            read_key(tmp_path)


# --- the worked example

PLAN = "yyyyyynnn?"
"""What rater 1 says of the 10 items, in the order of their codes; y(es), n(o), ?."""
OTHER = "yyyynnnny?"
WORD = {"y": "yes", "n": "no", "?": "cannot say"}


def test_the_worked_example(exported):
    """Both told nine items: 4 yes-yes, 2 no-no, 2 yes-no, 1 no-yes, so that 6 of 9 are seen to agree.

    Rater 1 says yes to 6, rater 2 to 5: chance is (6 * 5 + 3 * 4) / 81 = 42/81, and kappa (54 - 42) / (81 - 42) = 12/39.
    """
    files = [filled(exported, k, lambda i, p=p: (WORD[p[i]], "no"), k) for k, p in ((1, PLAN), (2, OTHER))]
    results = read_results(exported, files)
    answer, reasoning = (one for one in results.agreements if one.kind == "human-human")
    assert (answer.a, answer.b, answer.left_out, answer.kappa.n) == ("rater 1", "rater 2", 1, 9)
    assert answer.kappa.value == pytest.approx(12 / 39)
    assert answer.kappa.agreement.value == pytest.approx(6 / 9)
    assert (reasoning.kappa.value, reasoning.kappa.n, reasoning.kappa.agreement.value) == (None, 10, 1)

    items = sorted(json.loads((exported / "key.json").read_text())["items"], key=lambda item: item["code"])
    for plan, found in zip((PLAN, OTHER), (one for one in results.agreements if one.kind == "human-grader"), strict=True):
        pairs = [(p == "y", item["right"]) for p, item in zip(plan, items, strict=True) if p != "?"]
        assert found.kappa.value == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
        assert (found.b, found.left_out) == ("grader", 1)
    for model in results.models:
        said = [p for plan in (PLAN, OTHER) for p, item in zip(plan, items, strict=True) if item["run"] == model.run]
        told = [p == "y" for p in said if p != "?"]
        assert model.correct.value == pytest.approx(sum(told) / len(told))
        assert (model.items, model.correct.n, model.cannot_say["correct"]) == (5, len(told), len(said) - len(told))
        assert (model.sound.value, model.sound.n, model.cannot_say["sound"]) == (0, 10, 0)


def test_three_raters_agree_pair_by_pair_and_one_with_nobody(tmp_path, runs):
    write_sheets(draw_items(runs, 10), tmp_path / "three", 3)
    files = [filled(tmp_path / "three", k) for k in (1, 2, 3)]
    pairs = [(one.a, one.b) for one in read_results(tmp_path / "three", files).agreements if one.kind == "human-human"]
    assert pairs == [("rater 1", "rater 2"), ("rater 1", "rater 3"), ("rater 2", "rater 3")] * 2
    assert not [one for one in read_results(tmp_path / "three", files[:1]).agreements if one.kind == "human-human"]


def test_two_ratings_of_an_item_are_one_cluster(exported):
    model = read_results(exported, [filled(exported, k, lambda i: ("yes" if i % 2 else "no", "no")) for k in (1, 2)]).models[0]
    alone = read_results(exported, [filled(exported, 1, lambda i: ("yes" if i % 2 else "no", "no"))]).models[0]
    assert model.correct.n == 2 * alone.correct.n
    assert model.correct.ci_high - model.correct.ci_low > 0.8 * (alone.correct.ci_high - alone.correct.ci_low)


# --- beside a judge


def judged(file, *lines):
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def line(run, row, correct=1, sound=0, **more):
    return {"run": run, "sample_id": row, "correct": correct, "sound": sound, "why": "a\u2028b", **more}


KEY = Key({"GRPO": "run-2"}, {"AAA": Rated("GRPO", "a", "1", True), "BBB": Rated("GRPO", "b", "2", False)})


def test_a_judge_is_matched_by_label_or_folder_and_what_has_no_part_is_counted(tmp_path):
    lines = [line("GRPO", "a"), line("run-2", "b", 0, None), line("GRPO", "a", 0), line("GRPO", "c"), line("base", "a")]
    (found,) = read_judged([judged(tmp_path / "judged.jsonl", *lines)], KEY)
    assert found.scores == {"AAA": {"correct": True, "sound": False}, "BBB": {"correct": False, "sound": None}}
    assert (found.judge, found.others, found.repeats) == ("judge", 2, 1)


def test_lines_are_read_as_osler_judge_writes_them_and_the_first_asking_counts(tmp_path):
    lines = [{"run": "run-2", "id": "a", "judge": "one", "repeat": k, "correct": 1 - k, "sound": None} for k in (0, 1)]
    (found,) = read_judged([judged(tmp_path / "judged.jsonl", *lines)], KEY)
    assert (found.judge, found.scores, found.repeats) == ("one", {"AAA": {"correct": True, "sound": None}}, 1)


def test_two_judges_stand_apart(tmp_path):
    file = judged(tmp_path / "judged.jsonl", line("GRPO", "a", judge="one"), line("GRPO", "a", 0, judge="two"))
    assert [(one.judge, one.scores["AAA"]["correct"]) for one in read_judged([file], KEY)] == [("one", True), ("two", False)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], r"judged\.jsonl, row 1: it lacks run, id, correct, sound"),
        (["[1]"], r"row 1: it lacks"),
        ([json.dumps(line("GRPO", "a")), "{"], r"row 2: it is no JSON"),
        ([json.dumps(line("GRPO", "a", 0.5))], r"row 1: correct is 0\.5"),
        ([json.dumps(line("base", "a"))], r"none of its lines is of a rated item. The rated runs are: GRPO"),
    ],
)
def test_a_damaged_line_of_a_judge_is_refused(tmp_path, lines, message):
    (tmp_path / "judged.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message):
        read_judged([tmp_path / "judged.jsonl"], KEY)


def test_raters_and_a_judge_agree_as_scikit_learn_says(exported):
    items = sorted(json.loads((exported / "key.json").read_text())["items"], key=lambda item: item["code"])
    scores = [int(k % 3 > 0) for k in range(10)]
    lines = [line(item["run"], item["sample_id"], score, score) for item, score in zip(items, scores, strict=True)]
    file = judged(exported.parent / "judged.jsonl", *lines[:9])
    rater = filled(exported, 1, lambda i: (WORD[PLAN[i]], WORD[OTHER[i]]))
    found = [one for one in read_results(exported, [rater], [file]).agreements if one.kind == "human-judge"]
    assert [(one.question, one.a, one.b, one.left_out) for one in found] == [
        (name, "rater 1", "judge", 1) for name in ("correct", "sound")
    ]
    for plan, one in zip((PLAN, OTHER), found, strict=True):
        expected = cohen_kappa_score([int(p == "y") for p in plan[:9]], scores[:9])
        assert one.kappa.value == pytest.approx(expected)


# --- the command


@pytest.fixture
def osler():
    """Run `osler rate ARGUMENTS`; returns what it printed."""
    app = typer.Typer()
    app.add_typer(rate_app, name="rate")

    def call(*arguments):
        result = CliRunner().invoke(app, ["rate", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_export_and_import_by_command(osler, runs, tmp_path):
    folder = tmp_path / "sheets"
    out = osler("export", *(run.path for run in runs), "--n", 10, "--seed", 3, "-o", folder)
    assert "Keep key.json to yourself" in out
    files = [filled(folder, k, lambda i, p=p: (WORD[p[i]], "yes")) for k, p in ((1, PLAN), (2, OTHER))]
    assert "0.31 [" in osler("import", folder, *files)
    value = json.loads(osler("import", folder, *files, "--json"))
    assert value["raters"] == ["1", "2"]
    assert {one["run"] for one in value["models"]} == {"secret-base", "secret-grpo"}
    assert value["agreements"][0]["kappa"]["value"] == pytest.approx(12 / 39)
    assert value["agreements"][1]["kappa"]["value"] is None


def test_export_says_in_json_what_was_drawn(osler, evaluate, tmp_path):
    found = json.loads(osler("export", evaluate("a", "rrwxu").path, "--n", 99, "-o", tmp_path / "out", "--json"))
    assert (found["n"], found["raters"], len(found["files"])) == (5, 2, 5)
    assert {one["verdict"]: one["drawn"] for one in found["shares"]} == {"right": 2, "wrong": 2, "unjudged": 1}
