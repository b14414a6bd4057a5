"""Evaluations of the same rows made by hand: which rows are drawn, what the page says of them, and what is refused."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from osler.cli.comparing import compare
from osler.comparing.page import SEEN, side_by_side, write_comparison
from osler.comparing.strata import draw, pattern
from osler.errors import RecipeError, RunError
from osler.images import MADE, blank_of, grainy_of, marked_with, noise_of
from osler.runs import Run
from osler.schema import Kind, Outcome
from test_report import GRADE, SAMPLES, THINK, record

ATTACK = "<script>alert(1)</script><b>bold <div style='position:fixed'></pre></section></article><img src=x onerror=alert(1)>"
LOOP = "the chest X-ray shows an opacity "


def wrote(sample, completion, **facts):
    """The record of a completion, graded as an evaluation does."""
    parsed = THINK.parse(completion)
    made = replace(record(sample), completion=completion, parsed=parsed, verdict=GRADE(sample, parsed))
    return replace(made, **facts)


def right(sample, **facts):
    return wrote(sample, f"<think>It is {sample.golds[0]}.</think><answer>{sample.gold_letter}</answer>", **facts)


def wrong(sample, **facts):
    other = "ABCD".replace(sample.gold_letter, "")[0]
    return wrote(sample, f"<think>It is {sample.golds[0]}.</think><answer>{other}</answer>", **facts)


def unparseable(sample):
    return wrote(sample, "I cannot say")


def unjudged(sample):
    made = right(sample)
    return replace(made, verdict=replace(made.verdict, outcome=Outcome.UNJUDGED))


def written(path, records, label=None, kind="eval", state="done"):
    run = Run.create(path, kind, model={"label": label or path.name}, trial={"answer_form": "letter"})
    run.append("records", *(one.to_json() for one in records))
    run.save(state=state)
    return run


@pytest.fixture
def evaluate(tmp_path):
    """Write the run NAME; a letter of PLAN a record: r(ight), w(rong), x (unparseable), u(njudged)."""
    makers = {"r": right, "w": wrong, "x": unparseable, "u": unjudged}
    return lambda name, plan, **facts: written(
        tmp_path / name, [makers[letter](sample) for letter, sample in zip(plan, SAMPLES, strict=False)], **facts
    )


class Page(HTMLParser):
    """The tags of a page, those left open, its attributes, and the text outside of styles."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.open, self.attributes, self.text, self.classes = source, [], [], [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.classes += [value for name, value in attrs if name == "class"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open and self.open[-1] == "style" else data


@pytest.fixture
def page(tmp_path):
    """The page about runs."""

    def write(*runs, **choice):
        file = write_comparison(side_by_side(runs, **choice), tmp_path / "out" / "compare.html")
        return Page(file.read_text(encoding="utf-8"))

    return write


@pytest.fixture
def osler():
    """Run `osler compare ARGUMENTS`; returns what it printed."""
    app = typer.Typer()
    app.command()(compare)

    def call(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


# --- which rows


def test_strata_are_who_is_right(evaluate):
    selection = side_by_side([evaluate("base", "rrwwwxru"), evaluate("grpo", "rrrrwwwr")]).selection
    assert {one.name: one.rows for one in selection.strata} == {
        "all right": 2,
        "right: grpo; wrong: base": 2,
        "all wrong": 2,
        "right: base; wrong: grpo": 1,
        "right: grpo; unjudged: base": 1,
    }
    assert (selection.total, selection.shown) == (8, 8)


@pytest.mark.parametrize(
    ("rights", "words"),
    [
        ({"a": True}, "all right"),
        ({"a": None, "b": None}, "all unjudged"),
        ({"a": False, "b": True, "c": False}, "right: b; wrong: a, c"),
        ({"a": None, "b": False, "c": True}, "right: c; wrong: b; unjudged: a"),
    ],
)
def test_a_pattern_in_words(rights, words):
    assert pattern(rights) == words


STRATA = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1).map(
    lambda sizes: {name: [f"{name}{k}" for k in range(size)] for name, size in sizes.items()}
)


@given(STRATA, st.integers(1, 40), st.integers(0, 5))
def test_a_draw_is_as_large_as_it_can_be_and_even(strata, n, seed):
    drawn = draw(strata, n, seed)
    assert sum(map(len, drawn.values())) == min(n, sum(map(len, strata.values())))
    assert all(set(drawn[name]) <= set(ids) and len(set(drawn[name])) == len(drawn[name]) for name, ids in strata.items())
    most = max(map(len, drawn.values()))
    short = [name for name, ids in drawn.items() if len(ids) < most - 1]
    assert all(len(drawn[name]) == len(strata[name]) for name in short)


@given(STRATA, st.integers(1, 10), st.integers(0, 5), st.randoms())
def test_a_draw_does_not_depend_on_the_order_of_rows(strata, n, seed, random):
    shuffled = {name: random.sample(ids, len(ids)) for name, ids in strata.items()}
    assert draw(shuffled, n, seed) == draw(strata, n, seed)


def test_a_draw_is_one_of_a_seed():
    strata = {"all": [str(k) for k in range(1000)]}
    draws = [tuple(draw(strata, 5, seed)["all"]) for seed in range(20)]
    assert len(set(draws)) == 20
    assert draw(strata, 5, 3) == draw(strata, 5, 3)
    assert draw(strata, 9, 3)["all"][:5] == list(draws[3])
    counts = [sum(int(one) < 500 for one in draw(strata, 100, seed)["all"]) for seed in range(20)]
    assert 900 < sum(counts) < 1100  # 1000 +- 30 if every row is as likely


def test_the_largest_strata_come_first_where_there_are_more_than_rows():
    strata = {"small": ["s"], "large": ["a", "b", "c"], "middle": ["m", "n"]}
    assert {name: len(ids) for name, ids in draw(strata, 2, 0).items()} == {"small": 0, "large": 1, "middle": 1}
    assert {name: len(ids) for name, ids in draw(strata, 5, 0).items()} == {"small": 1, "large": 2, "middle": 2}


def test_the_same_rows_whatever_the_order_of_runs_and_records(evaluate, tmp_path):
    a, b = evaluate("a", "rwrwrwrwrwrw"), evaluate("b", "rrwwrrwwrrww")
    turned = written(tmp_path / "turned", [right(sample) for sample in SAMPLES[11::-1]])
    shown = [{row.sample.id for row in side_by_side(runs, 4, by="source").rows} for runs in ([a, b], [b, a], [turned, a])]
    assert shown[0] == shown[1] == shown[2]


def test_strata_along_an_axis_stand_in_its_order(evaluate):
    chosen = side_by_side([evaluate("a", "r" * 40)], 3, by="question_type").selection
    types = ["Modality recognition", "Anatomy identification", "Disease diagnosis", "Lesion grading"]
    assert [one.name for one in chosen.strata][:4] == types
    assert (chosen.shown, chosen.total) == (3, 40)
    assert [one.name for one in side_by_side([evaluate("b", "rr")], by="extra:anatomy").selection.strata] == ["abdomen"]


def test_other_strata_are_refused_with_the_nearest(evaluate):
    with pytest.raises(RecipeError, match=r"Did you mean 'agreement'\?"):
        side_by_side([evaluate("a", "r")], by="agreements")


# --- what each model wrote


def test_an_answer_says_what_came_of_it(evaluate):
    comparison = side_by_side([evaluate("a", "rwxu")], 4)
    outcomes = {row.sample.id: row.answers[0] for row in comparison.rows}
    found = [outcomes[sample.id] for sample in SAMPLES[:4]]
    assert [one.outcome for one in found] == ["right", "wrong", "unparseable", "unjudged"]
    assert [one.to_json()["right"] for one in found] == [True, False, False, None]
    assert [one.line for one in found] == [1, 2, 3, 4]
    assert [one.consistent for one in found] == [True, False, None, True]
    assert found[0].answer == f"{SAMPLES[0].gold_letter}) {SAMPLES[0].golds[0]}"
    assert found[2].answer is None


def test_a_model_is_counted_on_all_rows_not_on_those_shown(evaluate):
    model = side_by_side([evaluate("a", "rrrwxu")], 1).models[0]
    assert (model.accuracy.value, model.accuracy.n) == (pytest.approx(3 / 5), 5)
    assert (model.unparseable, model.unjudged, model.mean_tokens, model.strategy) == (1, 1, 12, "think")


def test_repetition_and_terms_are_those_of_the_completion(tmp_path):
    completion = f"<think>{LOOP * 3}</think><answer>A</answer>"
    answer = side_by_side([written(tmp_path / "a", [wrote(SAMPLES[0], completion)])]).rows[0].answers[0]
    words = 1 + 3 * 7 + 1 + 1 + 1 + 1  # think, the loops, think, answer, A, answer
    assert answer.repetition == pytest.approx(2 * 7 / (words - 2) - 2 / (words - 2))  # all but the last loop's last two groups
    assert answer.terms == ("chest x-ray", "opacity")


def test_a_model_that_saw_another_image_is_told_apart_and_the_real_one_shown(tmp_path):
    blind = [replace(right(one), sample=replace(one, images=tuple(map(blank_of, one.images)))) for one in SAMPLES[:2]]
    twin = written(tmp_path / "twin", blind)
    real = written(tmp_path / "real", [right(one) for one in SAMPLES[:2]])
    row = side_by_side([twin, real]).rows[0]
    assert row.images == row.answers[1].record.sample.images
    assert [answer.saw for answer in row.answers] == ["a blank image", None]
    bare = written(tmp_path / "bare", [replace(right(one), sample=replace(one, images=())) for one in SAMPLES[:2]])
    other = written(tmp_path / "other", [replace(right(one), sample=replace(one, images=("x.png",))) for one in SAMPLES[:2]])
    assert [answer.saw for answer in side_by_side([real, bare, other]).rows[0].answers] == [None, "no image", "another image"]


def test_every_way_of_making_an_image_has_words():
    assert set(MADE) < set(SEEN)


@pytest.mark.parametrize("file", [SAMPLES[0].images[0], "/data/x.png"])
def test_a_model_that_saw_a_made_image_is_told_apart(tmp_path, file):
    made = {
        "real": file,
        "grainy": grainy_of(file, 60),
        "marked": marked_with(grainy_of(file, 60), "plus"),
        "noise": noise_of(file, 0),
        "blank": blank_of(file),
    }
    records = {name: [replace(right(SAMPLES[0]), sample=replace(SAMPLES[0], images=(one,)))] for name, one in made.items()}
    answers = side_by_side([written(tmp_path / name, found) for name, found in records.items()]).rows[0].answers
    assert [answer.saw for answer in answers] == [None, "a grainy image", "a marked image", "noise", "a blank image"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (grainy_of("/a/x.png", 60), grainy_of("/b/x.png", 61), "a grainy image"),
        (marked_with("/a/x.png", "plus"), marked_with("/b/x.png", "times"), "a marked image"),
        (noise_of("/a/x.png", 0), noise_of("/b/x.png", 1), "noise"),
        (grainy_of("/a/x.png", 60), grainy_of("/b/x.png", 60), None),
        ("/a/x.png", "/b/y.png", "another image"),
    ],
)
def test_images_made_otherwise_are_not_the_same(tmp_path, one, other, said):
    runs = [
        written(tmp_path / name, [replace(right(SAMPLES[0]), sample=replace(SAMPLES[0], images=(image,)))])
        for name, image in (("a", one), ("b", other))
    ]
    assert [answer.saw for answer in side_by_side(runs).rows[0].answers] == [None, said]


def test_the_same_file_in_another_folder_is_the_same_image(tmp_path):
    runs = [
        written(tmp_path / name, [replace(right(SAMPLES[0]), sample=replace(SAMPLES[0], images=(f"/{name}/x.png",)))])
        for name in "ab"
    ]
    assert [answer.saw for answer in side_by_side(runs).rows[0].answers] == [None, None]


# --- what is refused


def test_rows_that_differ_are_refused_with_how(evaluate, tmp_path):
    a, b = evaluate("a", "rrrr"), evaluate("b", "rr", state="interrupted")
    message = (
        r"a and .*b are not of the same rows: they share 2, 2 are only in the first and 0 only in the second\. .*interrupted"
    )
    with pytest.raises(RunError, match=message):
        side_by_side([a, b])
    records = [right(replace(SAMPLES[0], question="What else?")), *(right(sample) for sample in SAMPLES[1:4])]
    with pytest.raises(RunError, match=r"they share 4 \(of these, 1 differ in question, options or golds\), 0 are only"):
        side_by_side([a, written(tmp_path / "c", records)])


def test_what_is_no_evaluation_or_has_no_records_is_refused(evaluate, tmp_path):
    a = evaluate("a", "r")
    with pytest.raises(RunError, match=r"no run to compare"):
        side_by_side([])
    with pytest.raises(RunError, match=r"t is of kind 'train': name evaluation runs"):
        side_by_side([a, written(tmp_path / "t", [], kind="train")])
    with pytest.raises(RunError, match=r"e has no records \(its state is 'running'\)"):
        side_by_side([a, written(tmp_path / "e", [], state="running")])
    with pytest.raises(RunError, match="given twice"):
        side_by_side([a, Run.open(a.path)])
    with pytest.raises(RunError, match="holds a row twice"):
        side_by_side([written(tmp_path / "d", [right(SAMPLES[0]), wrong(SAMPLES[0])])])


def test_models_of_one_label_are_told_apart(evaluate, tmp_path):
    a, b = evaluate("a", "r", label="qwen"), evaluate("b", "w", label="qwen")
    assert [model.label for model in side_by_side([a, b]).models] == ["qwen (a)", "qwen (b)"]
    (tmp_path / "deep").mkdir()
    twin = written(tmp_path / "deep" / "a", [right(SAMPLES[0])], label="qwen")
    assert [model.label for model in side_by_side([a, twin]).models] == ["qwen (a) #1", "qwen (a) #2"]


# --- the page


def test_the_page_shows_rows_models_and_how_they_were_chosen(evaluate, page):
    shown = page(evaluate("base", "rwxu" * 6), evaluate("grpo", "rrww" * 6), n=4, seed=7)
    assert (shown.tags.count("article"), shown.tags.count("h4"), shown.tags.count("img")) == (4, 8, 4)
    said = ("4 of 24 rows, drawn by seed 7", "Nobody chose a row", "--n 4 --seed 7 --by agreement", "right: grpo; wrong: base")
    assert all(words in shown.text for words in said)
    assert "6 of 24" in shown.text
    signs = ("✓ right", "✗ wrong", "∅ unparseable: counts as wrong", "? unjudged", "✓ gold")
    assert all(sign in shown.text for sign in signs)
    cards = [name for name in shown.classes if "answer-card" in name]
    assert {name.split()[-1] for name in cards} == {"right", "wrong", "unparseable", "unjudged"}
    assert shown.open == []


def test_the_page_is_the_same_for_the_same_runs_and_loads_nothing(evaluate, page):
    runs = evaluate("a", "rwr"), evaluate("b", "wwr")
    first, second = page(*runs), page(*runs)
    assert first.source == second.source
    loads = [value for name, value in first.attributes if name in ("src", "href", "srcset", "action")]
    assert loads
    assert all(value.startswith("data:image/jpeg;base64,") for value in loads)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in first.source
    assert "@import" not in first.source
    assert "url(" not in first.source
    assert all(value for name, value in first.attributes if name == "alt")


@pytest.mark.parametrize("where", ["completion", "thought", "answer", "question", "option", "label", "extra"])
def test_hostile_text_stays_text(tmp_path, page, where):
    sample = SAMPLES[0]
    if where == "question":
        sample = replace(sample, question=ATTACK)
    if where == "option":
        sample = replace(sample, options=(ATTACK, *sample.options[1:]))
    if where == "extra":
        sample = replace(sample, extra={"x": ATTACK})
    text = {"completion": ATTACK, "thought": f"<think>{ATTACK}</think>", "answer": f"<answer>{ATTACK}"}.get(where, "B")
    run = written(tmp_path / "a", [wrote(sample, text)], label=ATTACK if where == "label" else None)
    shown = page(run, by="extra:x" if where == "extra" else "agreement")
    plain = page(written(tmp_path / "plain", [wrote(SAMPLES[0], "B")]))
    assert "script" not in shown.tags
    assert ATTACK in shown.text
    assert not [name for name, _ in shown.attributes if name.startswith("on")]
    assert set(shown.tags) - {"mark"} <= set(plain.tags) | {"span"}
    assert shown.open == []


def test_no_path_and_no_id_is_on_the_page(tmp_path, page):
    sample = replace(
        SAMPLES[0], id="melanoma-7", images=("/data/melanoma/7.png",), group="case-melanoma", origin="/data/x.json"
    )
    shown = page(written(tmp_path / "a", [right(sample)]))
    assert "This image cannot be opened any more." in shown.text
    assert not re.search(r"melanoma|/data/|" + re.escape(str(tmp_path)), shown.source)


def test_marks_are_not_by_colour_alone(tmp_path, page):
    shown = page(written(tmp_path / "a", [wrote(SAMPLES[0], f"<think>{LOOP * 2}</think><answer>A</answer>")]))
    assert shown.classes.count("term") == 1 + 2  # one in the legend
    assert shown.classes.count("term again") == 2
    rules = re.findall(r"^\.(term|again|term\.again) \{([^}]*)\}", shown.source, re.MULTILINE)
    assert len(rules) == 3
    assert all("text-decoration: underline" in rule for _, rule in rules)


def test_an_open_question_shows_its_golds_and_numbers_that_nobody_told_are_said_to_be_unknown(tmp_path, page):
    sample = replace(SAMPLES[0], kind=Kind.OPEN, options=(), gold_index=None, golds=("liver", "hepatic"), language="de")
    shown = page(written(tmp_path / "a", [wrote(sample, "", tokens=None, seconds=None)]))
    for words in ("liver / hepatic", "tokens unknown", "seconds unknown", "(an empty completion)"):
        assert words in shown.text
    assert ("lang", "de") in shown.attributes


def test_the_gold_option_is_marked_in_its_place(tmp_path, page):
    sample = replace(SAMPLES[0], options=("lung", "liver", "heart"), gold_index=1, golds=("liver",))
    source = page(written(tmp_path / "a", [right(sample)])).source
    assert re.findall(r'class="is-gold">(\w\) \w+)', source) == ["B) liver"]


def test_a_file_that_cannot_be_written_is_named(evaluate, tmp_path):
    (tmp_path / "in-the-way").write_text("x")
    with pytest.raises(RunError, match=r"compare\.html cannot be written"):
        write_comparison(side_by_side([evaluate("a", "r")]), tmp_path / "in-the-way" / "compare.html")


# --- the command


def test_the_command_prints_one_json_object(evaluate, osler, tmp_path):
    a, b = evaluate("a", "rwxu"), evaluate("b", "rrrr")
    printed = json.loads(osler(a.path, b.path, "--n", 3, "--seed", 5, "-o", tmp_path / "c.html", "--json"))
    assert printed["page"] == str(tmp_path / "c.html")
    assert (tmp_path / "c.html").is_file()
    assert (printed["selection"]["seed"], printed["selection"]["by"], printed["selection"]["total"]) == (5, "agreement", 4)
    assert [run["label"] for run in printed["runs"]] == ["a", "b"]
    assert len(printed["rows"]) == printed["selection"]["shown"] == 3
    answers = [answer for row in printed["rows"] for answer in row["answers"]]
    assert [answer["run"] for answer in answers] == ["a", "b"] * 3
    assert set(answers[0]) >= {"right", "outcome", "answer", "tokens", "seconds", "repetition", "terms", "consistent"}


def test_the_command_prints_strata_and_rows_for_people(tmp_path, osler):
    sample = replace(SAMPLES[0], question="[/bold] \x1b[31mred [link]" + "long " * 40, golds=("[/x]", "a"))
    run = written(tmp_path / "a", [right(sample)], label="[/b]")
    printed = osler(run.path, "-o", tmp_path / "c.html")
    assert "\x1b" not in printed
    for words in ("all right", "1 of 1", "[/bold]", "[/b]", "[/x]", "c.html"):
        assert words in printed
    assert printed.count("long") < 20
