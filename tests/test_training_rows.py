"""What is trained on against the text shortcut: the order of options and of rows, what is left out, and that it is counted."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from osler import pipeline
from osler.config import PassRateSettings, Recipe, ShortcutSettings
from osler.controls import CONTROLS
from osler.datasets.phantoms import samples as phantoms
from osler.datasets.samples import Samples
from osler.debiasing import debias
from osler.errors import RecipeError, RunError
from osler.grading import grader
from osler.model.load import load_policy
from osler.model.sampling import seed_of
from osler.options import NAMED, REFERS, fixed_because, refers_to_others, shuffled
from osler.rl.engine import Engine
from osler.runs import Run
from osler.schema import Kind, Outcome, Parsed, Sample, Verdict
from osler.strategies import strategy_of
from osler.training import pass_rates
from osler.training.pass_rates import PassRate, measure, measured, solvable, within
from osler.training.rows import drawn, drawn_once, order, rows_needed, select, tell
from osler.training.tries import attempts

SHUFFLING = ShortcutSettings(shuffle_options=True)


def choice(name="a", options=("Cyst", "Drusen", "Hernia", "Healthy"), gold=1, **facts):
    options = tuple(options)
    facts = {"question": "What is it?", "source": "s", **facts}
    return Sample(id=name, images=(), golds=(options[gold],), options=options, gold_index=gold, **facts)


def yes_no(name="y"):
    return Sample(id=name, images=(), question="Is it?", golds=("yes",), kind=Kind.YESNO)


def open_row(name="o"):
    return Sample(id=name, images=(), question="What?", golds=("liver",), kind=Kind.OPEN)


def recipe(method="grpo", needed=2, **against):
    rollout = {"G": 2, "prompts_per_step": needed, "max_tokens": 6}
    return Recipe.model_validate(
        {"model": "tiny", "method": method, "answer_form": "text", "rollout": rollout, "against_shortcuts": against}
    )


rows = st.integers(2, 10).flatmap(
    lambda n: st.builds(
        lambda name, gold: choice(name, [f"finding {k}" for k in range(n)], gold % n), st.text(max_size=4), st.integers(0, 9)
    )
)


# --- options ---------------------------------------------------------------------------------------------------------


@given(row=rows, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99))
def test_another_order_is_the_same_question_with_the_same_answer(row, seed, epoch):
    other = drawn(row, SHUFFLING, seed, epoch)
    assert sorted(other.options) == sorted(row.options)
    assert other.golds == row.golds == (other.options[other.gold_index],)
    assert replace(other, options=row.options, gold_index=row.gold_index) == row
    assert other == drawn(row, SHUFFLING, seed, epoch)


def test_the_order_is_drawn_anew_each_epoch_and_by_the_recipes_seed():
    row = choice(options=[str(k) for k in range(8)])
    orders = {drawn(row, SHUFFLING, seed, epoch).options for seed in (0, 1) for epoch in range(10)}
    assert len(orders) == 20
    assert drawn(row, SHUFFLING, 0, 0).options != drawn(replace(row, id="b"), SHUFFLING, 0, 0).options


def test_over_epochs_the_gold_stands_at_every_place_as_often():
    places = Counter(drawn(choice(), SHUFFLING, 0, epoch).gold_index for epoch in range(2000))
    assert chisquare([places[k] for k in range(4)]).pvalue > 0.001


def test_it_is_the_order_of_the_control_options_shuffled():
    """One shuffle in the house: the control draws by a seed alone."""
    row = choice()
    assert CONTROLS["options-shuffled"].make([row], 3).rows[0].sample.options == shuffled(row, 3).options


def test_off_by_default_and_only_for_choices():
    assert drawn(choice(), ShortcutSettings(), 0, 0) == choice()
    assert drawn(yes_no(), SHUFFLING, 0, 0) == yes_no()
    assert drawn(open_row(), SHUFFLING, 0, 0) == open_row()
    assert fixed_because(replace(choice(), gold_index=None)) == "no gold among the options"


SPEAKS_OF_OTHERS = """All of the above|None of the above.|all the above|Both A and B|both (a) & (b)|A and B|A, B and C
B and C only|none of these|Neither of these|Any of them|Two of the above|All of the following|both of the others
Option A or Option B|Options 1 and 2|None of the options|Both answers are right|Neither A nor C|以上都是|以上皆非|上述两者"""
SPEAKS_OF_ITSELF = """Hepatitis A and B|Both lungs|None|Both|Above the diaphragm|Vitamin A|B|Stage II|One of the ribs|All lobes
The left one|A and V patterns|70岁以上|No abnormality|Neither kidney|Some fluid|A lesion and a cyst|Grade A
Type B dissection|(a) cyst"""


@pytest.mark.parametrize("option", re.split(r"[|\n]", SPEAKS_OF_OTHERS))
def test_an_option_that_speaks_of_others_keeps_its_row_as_it_is(option):
    row = choice(options=("Cyst", "Drusen", option))
    assert refers_to_others(option)
    assert fixed_because(row) == REFERS
    assert all(drawn(row, SHUFFLING, 0, epoch) == row for epoch in range(20))


@pytest.mark.parametrize("option", re.split(r"[|\n]", SPEAKS_OF_ITSELF))
def test_an_option_that_only_looks_like_that_is_shuffled(option):
    assert not refers_to_others(option)


def test_a_rationale_that_names_a_letter_holds_the_options_where_it_is_taught():
    row = choice(rationale="The rim is bright, so the answer is B.")
    assert fixed_because(row) == ""
    assert fixed_because(row, with_rationale=True) == NAMED
    assert fixed_because(replace(row, rationale="A bright rim (D) speaks for it."), with_rationale=True) == NAMED
    for plain in ("A cyst has no rim. Answer a question with care.", "Vitamin B and hepatitis A.", None):
        assert fixed_because(replace(row, rationale=plain), with_rationale=True) == ""


def test_a_trainer_that_does_not_know_the_epoch_gets_one_order_a_row():
    given_rows = Samples.of([choice("a"), choice("b"), yes_no(), choice("c", ("Cyst", "All of the above"), 1)])
    once = drawn_once(recipe("sft", shuffle_options=True), given_rows)
    assert [row.id for row in once] == ["a", "b", "y", "c"]
    assert once == drawn_once(recipe("dpo", shuffle_options=True), given_rows)
    assert list(once) == [drawn(row, SHUFFLING, 0, 0) for row in given_rows]
    assert drawn_once(recipe("sft"), given_rows) is given_rows


def test_taught_rationales_are_looked_at_and_counted():
    row = choice(rationale="So the answer is B.")
    for strategy, counts in (("think", {NAMED: 1}), ("nothink", {})):
        one = recipe("sft", shuffle_options=True).model_copy(update={"strategy": strategy})
        assert select(one, Samples.of([row])).unshuffled == counts
        assert (drawn_once(one, Samples.of([row]))[0].options == row.options) == bool(counts)


# --- the order of rows -----------------------------------------------------------------------------------------------


def torch_order(count, seed, epoch):
    """What runs before curricula drew, and must draw still."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch))).tolist()


@given(kinds=st.lists(st.sampled_from(Kind), max_size=30), seed=st.integers(0, 99), epoch=st.integers(0, 9))
@settings(max_examples=50)
def test_closed_first_is_the_order_without_a_curriculum_taken_apart(kinds, seed, epoch):
    given_rows = [Sample(id=str(n), images=(), question="", golds=("x",), kind=kind) for n, kind in enumerate(kinds)]
    plain, parted = (order(given_rows, seed, epoch, curriculum) for curriculum in ("none", "closed_first"))
    assert plain == torch_order(len(kinds), seed, epoch)
    assert sorted(parted) == list(range(len(kinds)))
    is_open = [kinds[place] is Kind.OPEN for place in parted]
    assert is_open == sorted(is_open)
    for part in (True, False):
        assert [p for p in parted if (kinds[p] is Kind.OPEN) == part] == [p for p in plain if (kinds[p] is Kind.OPEN) == part]


def test_each_part_is_shuffled_anew_each_epoch():
    given_rows = [open_row(f"o{n}") for n in range(20)] + [choice(f"c{n}") for n in range(20)]
    first, second = (order(given_rows, 0, epoch, "closed_first") for epoch in (0, 1))
    assert set(first[:20]) == set(second[:20]) == set(range(20, 40))
    assert first[:20] != second[:20]
    assert first[20:] != second[20:]


# --- debiasing -------------------------------------------------------------------------------------------------------


def biased():
    pairs = [("Cyst", "Drusen"), ("Drusen", "Hernia")] * 6
    rows = [choice(f"{n:02}", pair, 0) for n, pair in enumerate(pairs)]
    return Samples.of([*rows, yes_no(), open_row(), choice("lone", question="Where?")])


def test_debiased_rows_are_those_of_the_control_and_what_is_left_out_is_counted():
    given_rows = biased()
    found = select(recipe(debias=True), given_rows)
    assert found.samples == debias(given_rows, 0).samples
    assert 0 < len(found.samples) < found.n == len(given_rows)
    facts = json.loads(json.dumps(found.to_json()))
    assert facts["n"] == facts["kept"] + sum(facts["left_out"].values())
    assert facts["left_out"]["nothing is offered to choose from"] == 1
    assert facts["left_out"]["its source and stem fix the gold"] == 1
    assert facts["by_kind"] == {"choice": facts["kept"]}


def test_nothing_is_changed_where_all_is_off():
    given_rows = biased()
    found = select(recipe(), given_rows)
    assert found.samples is given_rows
    assert found.left_out == found.unshuffled == {}


def test_options_that_are_not_shuffled_are_counted_by_reason():
    rows = Samples.of([choice("a"), yes_no(), open_row(), choice("c", ("Cyst", "None of these"), 1)])
    counts = {"open question": 1, "yes/no question": 1, REFERS: 1}
    assert select(recipe(shuffle_options=True), rows).unshuffled == counts


def test_too_few_debiased_rows_are_refused_with_the_reasons():
    with pytest.raises(
        RecipeError, match=r"debias leaves \d+ of 15 training rows, and a step needs 16 .*fix the gold.*set it to"
    ):
        select(recipe(debias=True, needed=16), biased())
    alone = Samples.of([open_row()])
    with pytest.raises(RecipeError, match=r"leaves 0 of 1 training rows, and a step needs 1 .*nothing is offered"):
        select(recipe("sft", debias=True), alone)
    assert rows_needed(recipe("sft", needed=16)) == 1


def test_what_was_done_is_said(capfd):
    settings = {"debias": True, "shuffle_options": True, "curriculum": "closed_first"}
    one = recipe(**settings)
    tell(one, select(one, biased()))
    said = capfd.readouterr().err
    assert "debiased:" in said
    assert "1 (nothing is offered to choose from)" in said
    assert "options shuffled whenever a row is drawn" in said
    assert "so that it changes nothing" in said
    tell(recipe(), select(recipe(), biased()))
    assert capfd.readouterr().err == ""


# --- pass rates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solved", "unjudged", "reason"),
    [
        (0, 0, "solved in less than 0.1 of 8 completions"),
        (1, 0, ""),
        (7, 0, ""),
        (8, 0, "solved in more than 0.9 of 8 completions"),
        (4, 4, "solved in more than 0.9 of 8 completions"),
        (1, 4, ""),
        (0, 8, "no completion could be judged"),
    ],
)
def test_a_row_stays_where_its_share_lies_between_the_bounds(solved, unjudged, reason):
    kept, left_out = within(Samples.of([choice()]), {"a": PassRate("a", solved, 8, unjudged)}, PassRateSettings())
    assert left_out == ({reason: 1} if reason else {})
    assert len(kept) == (not reason)


def test_both_bounds_are_inside():
    rates = {str(n): PassRate(str(n), n, 10) for n in range(11)}
    rows = Samples.of(choice(name) for name in rates)
    kept, left_out = within(rows, rates, PassRateSettings(samples=10, low=0.3, high=0.7))
    assert [row.id for row in kept] == ["3", "4", "5", "6", "7"]
    assert sum(left_out.values()) == 6


@pytest.fixture(scope="module")
def vlm():
    return load_policy("tiny", dtype="float32")


@pytest.fixture(scope="module")
def six():
    return Samples.of(list(phantoms(0, {"train": 3}))[:6])


def by_letters(sample, parsed):
    """A grader that finds about half of what a model says right, whatever it is."""
    right = len(parsed.lenient or "") % 2 == 0
    outcome = Outcome.CORRECT if right else Outcome.INCORRECT
    return Verdict(outcome, outcome, parsed.answer, "")


def rates_of(vlm, rows, folder, **changes):
    run = Run.open(folder) if (folder / "manifest.json").exists() else Run.create(folder, "train")
    one = recipe(**changes)
    return measure(one, vlm, rows, strategy_of("nothink_raw"), by_letters, run, 4)


def bare(rates):
    return {name: replace(rate, seconds=0.0) for name, rate in rates.items()}


def test_a_rows_pass_rate_depends_on_nothing_beside_it(vlm, six, tmp_path):
    whole = rates_of(vlm, six, tmp_path / "whole")
    assert set(whole) == {row.id for row in six}
    assert len({rate.solved for rate in whole.values()}) > 1
    assert all(rate.samples == 4 and rate.seconds > 0 for rate in whole.values())
    alone = rates_of(vlm, six.take([4]), tmp_path / "alone")
    assert bare(alone) == {six[4].id: bare(whole)[six[4].id]}


def test_each_completion_has_a_seed_of_its_own(vlm, six):
    """Of the row's id, its number and the purpose; they come in the order of their numbers."""
    rows, strategy = Samples.of([six[0], replace(six[0], id="again")]), strategy_of("nothink_raw")

    def said(samples, count, purpose="a"):
        found = dict(attempts(recipe(), vlm, samples, strategy, count, purpose))
        return [[one.ids for one in found[row]] for row in sorted(found)]

    first, second = said(rows, 6)
    assert first != second
    assert len({tuple(ids) for ids in first}) > 1
    assert said(rows[:1], 3) == [first[:3]]
    assert said(rows[1:], 6) == [second]
    assert said(rows, 6, "b") != [first, second]


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(vlm, six, tmp_path, monkeypatch):
    whole = rates_of(vlm, six, tmp_path / "whole")
    rates_of(vlm, six[:4], tmp_path / "cut")
    file = tmp_path / "cut" / "pass_rates.jsonl"
    file.write_text(file.read_text() + '{"id": "half a li')
    asked = []
    original = pass_rates.attempts
    monkeypatch.setattr(pass_rates, "attempts", lambda *args: asked.append(len(args[2])) or original(*args))
    rates_of(vlm, six, tmp_path / "cut")
    resumed = rates_of(vlm, six, tmp_path / "cut")
    assert asked == [2]
    assert bare(resumed) == bare(whole)


def test_the_file_holds_the_verdicts_of_the_recipes_own_grader(vlm, six, tmp_path):
    """Graded again by hand from the same seeds."""
    run, one = Run.create(tmp_path / "run", "train"), recipe()
    seen = []

    def judge(sample, parsed):
        verdict = grader("text")(sample, parsed) if len(seen) % 3 else Verdict(Outcome.CORRECT, Outcome.CORRECT, None, "")
        seen.append((sample.id, verdict.outcome))
        return verdict

    measure(one, vlm, six, strategy_of("nothink_raw"), judge, run, 3)
    right = Counter(name for name, outcome in seen if outcome is Outcome.CORRECT)
    assert {row["id"]: row["solved"] for row in run.rows("pass_rates")} == {row.id: right[row.id] for row in six}
    assert sum(right.values()) >= 6


def test_what_is_kept_is_recorded_and_all_dropped_is_an_error(vlm, six, tmp_path, capfd):
    wide = {"samples": 4, "low": 0.0, "high": 1.0}
    run = Run.create(tmp_path / "wide", "train")
    kept = solvable(recipe(pass_rate=wide), vlm, six, strategy_of("nothink_raw"), by_letters, run)
    assert kept == six
    facts = Run.open(tmp_path / "wide").manifest["pass_rates"]
    assert (facts["n"], facts["kept"], facts["left_out"]) == (6, 6, {})
    assert sum(facts["solved"].values()) == 6
    assert facts["seconds"] == round(sum(rate.seconds for rate in measured(run).values()), 1)
    assert "6 of 6 training rows" in capfd.readouterr().err

    def wrong(sample, parsed):
        return Verdict(Outcome.INCORRECT, Outcome.INCORRECT, None, "")

    run = Run.create(tmp_path / "none", "train")
    with pytest.raises(RunError, match=r"pass_rate leaves 0 of 6 .*6 \(solved in less than 0.1 of 4.*Widen low and high"):
        solvable(recipe(pass_rate={"samples": 4}), vlm, six, strategy_of("nothink_raw"), wrong, run)
    assert Run.open(tmp_path / "none").manifest["pass_rates"]["left_out"] == {"solved in less than 0.1 of 4 completions": 6}


def test_rows_are_sampled_in_the_form_in_which_they_are_trained_on(vlm, tmp_path):
    """With shuffled options the order is that of the first epoch."""
    seen = []
    rows = Samples.of([replace(choice(), images=next(iter(phantoms(0, {"train": 1}))).images)])
    one = recipe(shuffle_options=True)

    def judge(sample, parsed: Parsed):
        seen.append(sample.options)
        return by_letters(sample, parsed)

    measure(one, vlm, rows, strategy_of("nothink_raw"), judge, Run.create(tmp_path / "run", "train"), 2)
    assert set(seen) == {drawn(rows[0], SHUFFLING, 0, 0).options}


# --- in the packed engine --------------------------------------------------------------------------------------------


def mixed(count=6):
    """Choice and open rows about phantoms."""
    found = list(phantoms(0, {"train": 8}))[:count]
    return [replace(row, options=(), gold_index=None, kind=Kind.OPEN) if n % 2 else row for n, row in enumerate(found)]


def engine(steps=4, **against):
    settings = {
        "model": "tiny",
        "answer_form": "text",
        "strategy": "nothink_raw",
        "rewards": [{"name": "accuracy"}, {"name": "visual_reliance", "weight": 0.5}],
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 6},
        "objective": {"beta": 0.0, "num_iterations": 2},
        "lora": {"r": 2},
        "lr": 1e-2,
        "max_steps": steps,
        "dtype": "float32",
        "against_shortcuts": against,
    }
    one = Recipe.model_validate(settings)
    return Engine(one, load_policy("tiny", dtype="float32"), mixed(), strategy_of("nothink_raw"), grader("text"))


def test_the_engine_draws_closed_rows_first_and_each_epoch_in_another_order_of_options():
    roller = engine(shuffle_options=True, curriculum="closed_first").roller
    epochs = [[roller.sample_at(6 * epoch + k) for k in range(6)] for epoch in (0, 1, 2, 0)]
    assert epochs[0] == epochs[3]
    for epoch in epochs:
        assert [row.kind for row in epoch] == [Kind.CHOICE] * 3 + [Kind.OPEN] * 3
        assert all(row.golds == (row.options[row.gold_index],) for row in epoch[:3])
        assert sorted(row.id for row in epoch) == sorted(row.id for row in mixed())
    orders = {(row.id, row.options) for epoch in epochs for row in epoch[:3]}
    assert len(orders) > 4
    plain = engine().roller
    assert [plain.sample_at(k) for k in range(6)] == [mixed()[place] for place in torch_order(6, 0, 0)]


def test_a_resumed_engine_goes_on_bit_for_bit():
    """Eight rows drawn of six, so that an epoch ends meanwhile, and a rollout that is half used is taken up again."""
    settings = {"shuffle_options": True, "curriculum": "closed_first"}
    whole, first, second = (engine(8, **settings) for _ in range(3))
    expected = [whole.step()[1] for _ in range(8)]
    found = [first.step()[1] for _ in range(3)]
    second.load_state_dict(first.state_dict())
    found += [second.step()[1] for _ in range(5)]
    assert found == expected
    for ours, theirs in zip(second.learner.masters.weights, whole.learner.masters.weights, strict=True):
        assert torch.equal(ours, theirs)


# --- in the pipeline -------------------------------------------------------------------------------------------------


def trained(folder, method="grpo", resume=False, max_steps=2, **against):
    data = {"train": {"name": "phantoms", "seed": 0, "train": 6, "val": 0, "test": 3}, "val_share": 0}
    settings = {
        "method": method,
        "model": "tiny",
        "answer_form": "text",
        "strategy": "nothink",
        "data": data,
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 6},
        "objective": {"beta": 0.0},
        "sft": {"batch_size": 4, "micro_batch": 4},
        "lora": {"r": 2},
        "max_steps": max_steps,
        "dtype": "float32",
        "against_shortcuts": against,
    }
    return pipeline.train(Recipe.model_validate(settings), folder, resume=resume)


def test_a_run_says_what_it_trained_on(tmp_path):
    plain = trained(tmp_path / "plain").manifest
    assert "training_rows" not in plain
    manifest = trained(tmp_path / "run", debias=True, shuffle_options=True).manifest
    facts = manifest["training_rows"]
    assert facts["kept"] == manifest["trained_on"]["n"] < facts["n"] == plain["trained_on"]["n"]
    assert facts["n"] == facts["kept"] + sum(facts["left_out"].values())
    floors = [json.loads((tmp_path / name / "floor.json").read_text()) for name in ("plain", "run")]
    assert floors[0] == floors[1]  # what text could win with all the rows


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_rows_outside_the_pass_rates_are_not_trained_on(tmp_path, monkeypatch, method):
    def by_row(sample, parsed):
        outcome = Outcome.CORRECT if (len(sample.question) + len(parsed.lenient or "")) % 2 else Outcome.INCORRECT
        return Verdict(outcome, outcome, parsed.answer, "")

    monkeypatch.setattr(pipeline, "grader", lambda answer_form: by_row)
    seen = []
    kept_by = pipeline._trainer
    monkeypatch.setattr(pipeline, "_trainer", lambda *given: seen.append([row.id for row in given[2].train]) or kept_by(*given))
    run = trained(tmp_path / "run", method, pass_rate={"samples": 4, "low": 0.25, "high": 0.75})
    lines = run.rows("pass_rates")
    assert seen == [[row["id"] for row in sorted(lines, key=lambda r: seen[0].index(r["id"]) if r["id"] in seen[0] else 99)
                     if 1 <= row["solved"] <= 3]]  # fmt: skip
    assert 0 < len(seen[0]) == run.manifest["pass_rates"]["kept"] < len(lines)
    assert run.summary["seconds"] >= sum(row["seconds"] for row in lines)


def test_a_run_that_filters_every_row_fails_and_keeps_what_it_sampled(tmp_path):
    with pytest.raises(RunError, match="pass_rate leaves 0 of"):
        trained(tmp_path / "run", pass_rate={"samples": 2, "low": 1.0, "high": 1.0})
    run = Run.open(tmp_path / "run")
    assert run.manifest["state"] == "failed"
    assert len(run.rows("pass_rates")) == run.manifest["pass_rates"]["n"]
    before = run.rows("pass_rates")
    with pytest.raises(RunError, match="pass_rate leaves 0 of"):
        trained(tmp_path / "run", resume=True, pass_rate={"samples": 2, "low": 1.0, "high": 1.0})
    assert run.rows("pass_rates") == before


@pytest.mark.parametrize(
    ("method", "against", "says"),
    [
        ("sft", {"curriculum": "closed_first"}, "curriculum orders the rows of method=grpo"),
        ("grpo", {"curriculum": "closed_first", "debias": True}, "debias leaves choices only"),
        ("grpo", {"pass_rate": {"samples": 4, "low": 0.3, "high": 0.45}}, "pass_rate keeps no row"),
        ("grpo", {"pass_rate": {"samples": 4, "low": 0.8, "high": 0.2}}, "pass_rate keeps no row"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, method, against, says):
    with pytest.raises(RecipeError, match=says):
        trained(tmp_path / "run", method, **against)
    assert not (tmp_path / "run").exists()
