"""What each rule takes and leaves, and that what is said of it fits: rows without images, since no rule here reads one."""

import pytest

from osler.auditing import audit
from osler.datasets.samples import Samples
from osler.findings import TELLS, finding
from osler.schema import Kind, Sample


def ask(number, options, gold, **facts):
    place = options.index(gold) if options else None
    facts = {"images": ("x.png",), "question": "Is it?", "kind": Kind.CHOICE if options else Kind.YESNO, **facts}
    return Sample(id=str(number), golds=(gold,), options=options, gold_index=place, **facts)


def found(train, test):
    return audit(Samples.of(train), Samples.of(test), images=False)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("Cyst", "mass", "Gas"), 1),
        (("cyst", "mass", "Gas"), None),
        (("Cyst", "Mass"), None),
        (("12 mm", "cyst", "Gas"), None),
        (("cyst",), None),
        ((), None),
    ],
)
def test_the_lone_lowercase_option_stands_among_upper_case_ones(options, place):
    assert TELLS["lone_lowercase"](options) == place


@pytest.mark.parametrize(
    ("name", "options", "place"),
    [
        ("lone_full_stop", ("A.", "B", "C"), 0),
        ("lone_full_stop", ("A.", "B.", "C"), None),
        ("lone_bracket", ("A", "B (OCT)", "C"), 1),
        ("lone_comma", ("A", "B", "C, D"), 2),
        ("longest", ("AA", "AAA", "A"), 1),
        ("longest", ("AAA", "AAA", "A"), None),
        ("shortest", ("AA", "AAA", "A"), 2),
    ],
)
def test_other_tells(name, options, place):
    assert TELLS[name](options) == place


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([ask(0, ("A", "B"), "A"), ask(1, ("B", "A"), "B")], 2),
        ([ask(0, ("A", "B"), "A"), ask(1, ("C", "D"), "C")], 0),
        ([ask(0, ("A", "B"), "A"), ask(1, ("C", "A"), "C")], 2),
        ([ask(0, ("A", "B"), "A"), ask(1, ("A", "B"), "B", images=("y.png",))], 0),
        ([ask(0, ("A", "B"), "A"), ask(1, ("A", "B"), "B", images=())], 0),
        ([ask(0, (), "yes"), ask(1, (), "no"), ask(2, (), "yes")], 3),
        ([ask(0, (), "yes"), ask(1, (), "Yes.")], 0),
    ],
    ids=["gold differs", "other options", "gold offered as wrong", "other image", "no image", "yes/no", "same"],
)
def test_what_contradicts_what(rows, count):
    assert found(rows[:1], rows[1:])["contradictory_rows"] == count


@pytest.mark.parametrize(
    ("stem", "options", "gold", "count"),
    [
        ("Is a cyst shown?", ("Cyst", "Mass"), "Cyst", 1),
        ("Is a cyst or a mass shown?", ("Cyst", "Mass"), "Cyst", 0),
        ("Are cysts shown?", ("Cyst", "Mass"), "Cyst", 0),
        ("Is it X-ray or not?", ("x ray", "CT"), "x ray", 1),
        ("Is a mass shown?", ("Cyst", "Mass"), "Cyst", 0),
        ("Is there no mass?", ("No", "Yes"), "No", 0),
    ],
)
def test_an_answer_in_the_stem(stem, options, gold, count):
    rows = [ask(0, options, gold, question=stem)]
    assert found([], rows)["answer_in_stem_rows"] == count
    assert found(rows, [])["train_answer_in_stem_rows"] == count


@pytest.mark.parametrize(
    ("path", "gold", "count"),
    [
        ("Viral-Pneumonia/1.png", "Viral pneumonia", 1),
        ("viral/pneumonia_2.png", "viral pneumonia", 1),
        ("pneumonias/1.png", "Pneumonia", 0),
        ("grade/2/1.png", "2", 1),
        ("scans/2.png", "2", 0),
    ],
)
def test_a_label_in_the_path(path, gold, count):
    rows = [ask(0, (gold, "else"), gold, images=(f"/home/pneumonia/2/{path}",))]
    others = [ask(1, ("A", "B"), "A", images=("/home/pneumonia/2/other.png",))]
    assert found(others, rows)["label_in_path_rows"] == count


@pytest.mark.parametrize(("n", "said"), [(0, "rows are"), (1, "row is"), (2, "rows are")])
def test_a_finding_says_one_row_and_two_rows(n, said):
    assert finding("test {row is|rows are} wrong", n, [], "Mend it.").what == f"test {said} wrong"


def test_what_is_said_of_a_stem_that_fixes_the_gold_fits_open_questions():
    def advice(kind, **facts):
        rows = [ask(at, gold="liver", images=(f"{at}.png",), kind=kind, **facts) for at in range(2)]
        return next(one.fix for one in found(rows[:1], rows[1:]).findings if "stem" in one.what)

    assert "debias" not in advice(Kind.OPEN, options=())
    assert "`osler data debias`" in advice(Kind.CHOICE, options=("liver", "lung"))


def test_yes_and_no_are_called_so_and_no_letters():
    rows = [ask(at, (), "yes" if at % 8 else "no", images=(f"{at}.png",), question=f"Is it {at}?") for at in range(80)]
    findings = found(rows[:40], rows[40:]).findings
    blind = next(one for one in findings if "blind attacker" in one.what)
    favoured = next(one for one in findings if "favour" in one.what)
    assert favoured.what.startswith("test rows favour yes or no: the one most often right in train scores 87.5 %")
    assert not any("letter" in one.what + one.fix or "debias" in one.fix for one in (blind, favoured))
