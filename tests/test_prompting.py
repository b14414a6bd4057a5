"""RARL's prompts: which a row is asked under in training, what it shows then, and how an evaluation asks."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from osler import pipeline
from osler.baselines.sft import completion_rows
from osler.check import check, check_rows
from osler.cli.app import app
from osler.config import ControlSettings, Recipe, ShortcutSettings
from osler.datasets.load import load_data
from osler.datasets.phantoms import samples as phantoms
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits
from osler.errors import RecipeError
from osler.grading import grader
from osler.model.load import load_policy
from osler.options import NAMED, REFERS
from osler.prompting import ASKS_FOR_OPTION, DYNAMIC, PROMPTS, YES_OR_NO, closed_because, drawn_prompt, opened, posed
from osler.reading import reading_of
from osler.rl.engine import Engine
from osler.rl.scoring import Scorer
from osler.runs import Run
from osler.schema import Completion, Kind, Outcome, Sample
from osler.strategies import DRAWN, INFERRED, STRATEGIES, gold_answer, strategy_of
from osler.study.files import AskSettings
from osler.taxonomy import QuestionType
from osler.training.pass_rates import measure
from osler.training.rows import drawn, drawn_once, select, tell
from osler.trial import Trial
from osler.wordings import asked_by, strategy_for
from test_strategies import samples

DIVERSE = strategy_of("diverse")
PLAIN, REASONING, BY_TYPE = (INFERRED[name] for name in ("plain", "reasoning", "dynamic"))
OPTIONS = ("colon polyp", "melanoma", "cataract")


def choice(**changes):
    facts = {"id": "1", "images": ("a.png",), "question": "What is the diagnosis?", "options": OPTIONS, "gold_index": 1}
    row = Sample(golds=(OPTIONS[1],), rationale="It is dark and uneven.", **facts)
    return replace(row, **changes)


def under(prompt, **changes):
    """A choice for which this prompt is drawn."""
    rows = (posed(choice(id=str(k), **changes)) for k in range(100))
    return next(row for row in rows if drawn_prompt(row) == prompt)


# --- what is drawn ---------------------------------------------------------------------------------------------------


@given(sample=samples(), seed=st.integers(0, 9), epoch=st.integers(0, 9), taught=st.booleans())
def test_a_drawn_row_is_the_row_under_a_prompt_that_it_can_be_asked_under(sample, seed, epoch, taught):
    row = posed(sample, seed, epoch, taught)
    assert row == posed(sample, seed, epoch, taught)
    prompt = drawn_prompt(row)
    assert prompt in PROMPTS
    assert DIVERSE.of(row) is DRAWN[prompt]
    if prompt == "open":
        assert not closed_because(sample, taught)
        assert replace(row, extra={}) == opened(sample)
    else:
        assert replace(row, extra={}) == sample


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@given(sample=samples(), seed=st.integers(0, 9))
def test_what_a_drawn_row_is_taught_is_read_back_as_right(answer_form, sample, seed):
    row = posed(sample, seed)
    parsed = DIVERSE.of(row).parse(DIVERSE.completion(row, answer_form))
    verdict = grader(answer_form)(row, parsed)
    assert (parsed.well_formed, verdict.outcome, verdict.lenient) == (True, Outcome.CORRECT, Outcome.CORRECT)
    assert parsed.answer == gold_answer(row, answer_form).strip()
    assert (parsed.thought is None) == (drawn_prompt(row) == "short")


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@given(sample=samples(), seed=st.integers(0, 9))
def test_an_open_choice_is_asked_with_nothing_of_its_options(answer_form, sample, seed):
    row = posed(sample, seed)
    asked = DIVERSE.question(row, answer_form)
    if drawn_prompt(row) == "open" and sample.kind is Kind.CHOICE:
        assert (row.options, row.gold_index, row.kind) == ((), None, Kind.OPEN)
        assert row.golds == (sample.options[sample.gold_index],)
        assert asked == f"{sample.question}\n{DRAWN['open'].instruction.format(what='the answer')}"
    else:
        assert asked == DRAWN[drawn_prompt(row)].question(sample, answer_form)


@given(sample=samples())
def test_a_row_that_was_not_drawn_is_asked_and_taught_by_the_draw_of_seed_0(sample):
    row = posed(sample)
    assert DIVERSE.of(sample) is DIVERSE.of(row)
    assert DIVERSE.question(sample, "letter") == DIVERSE.question(row, "letter")
    assert DIVERSE.completion(sample, "letter") == DIVERSE.completion(row, "letter")


def test_the_mix_is_even_and_differs_with_seed_and_epoch_but_not_with_other_rows():
    rows = [choice(id=f"row {k}") for k in range(3000)]
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        counts = Counter(drawn_prompt(posed(row, seed, epoch)) for row in rows)
        assert all(abs(counts[name] - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for name in PROMPTS), counts
    draws = [tuple(drawn_prompt(posed(row, *at)) for row in rows) for at in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for one in range(4):
        for other in range(one):
            same = sum(a == b for a, b in zip(draws[one], draws[other], strict=True))
            assert abs(same - 1000) < 4 * (3000 * 2 / 9) ** 0.5
    assert [posed(row) for row in reversed(rows)] == [posed(row) for row in rows][::-1]
    closed = Counter(drawn_prompt(posed(replace(row, question="Which of the following is it?"))) for row in rows)
    assert closed["open"] == 0
    assert abs(closed["short"] - 1500) < 4 * 750**0.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"question": "Which of the following is the diagnosis?"}, ASKS_FOR_OPTION),
        ({"question": "Which one of these is seen?"}, ASKS_FOR_OPTION),
        ({"question": "Select the right diagnosis."}, ASKS_FOR_OPTION),
        ({"question": "All are seen EXCEPT"}, ASKS_FOR_OPTION),
        ({"question": "Which organ is not visible?"}, ASKS_FOR_OPTION),
        ({"question": "Which statement is true?"}, ASKS_FOR_OPTION),
        ({"question": "下列哪项是诊断?"}, ASKS_FOR_OPTION),
        ({"question": "¿Cuál de las siguientes opciones es?"}, ASKS_FOR_OPTION),
        ({"question": "What does the following image show?"}, ""),
        ({"question": "What does the following axial CT scan show?"}, ASKS_FOR_OPTION),  # one word too many: rather left closed
        ({"question": "What is the treatment of choice?"}, ""),
        ({"question": "What are the treatment options?"}, ""),
        ({"question": "What is wrong with the organ right of the heart?"}, ""),
        ({"question": "What followed these densities above?"}, ""),
        ({"options": ("melanoma", "cataract", "None of the above"), "gold_index": 0, "golds": ("melanoma",)}, REFERS),
        ({"options": ("No", "Yes."), "golds": ("Yes.",)}, YES_OR_NO),
        ({"gold_index": None}, "no gold among the options"),
        ({"rationale": "So the answer is (B)."}, NAMED),
        ({"kind": Kind.YESNO, "options": ("yes", "no"), "golds": ("no",)}, ""),
        ({"kind": Kind.OPEN, "options": (), "gold_index": None, "question": "Which of the following?"}, ""),
    ],
)
def test_a_choice_that_needs_its_options_keeps_them(changes, reason):
    row = choice(**changes)
    assert closed_because(row) == reason
    prompts = {drawn_prompt(posed(replace(row, id=str(k)))) for k in range(60)}
    assert prompts == set(PROMPTS) - ({"open"} if reason else set())
    if reason == NAMED:
        assert closed_because(row, taught=False) == ""


def test_a_users_own_column_is_no_draw():
    for said in ("Describe.", "open", 3, None):
        row = choice(extra={"prompt": said})
        assert drawn_prompt(row) is None
        assert DIVERSE.of(row) is DIVERSE.of(choice())
        assert drawn_prompt(posed(row)) in PROMPTS


def test_real_questions_of_omnimedvqa_need_no_options(shared_data):
    folder = shared_data / "original" / "medr1_splits" / "modality" / "test"
    rows = load_data(f"medr1:{folder / 'OCT (Optical Coherence Tomography_test.json'}")
    reasons = Counter(closed_because(row) for row in rows)
    assert len(rows) == 848
    assert set(reasons) <= {"", YES_OR_NO, REFERS}
    assert reasons[""] > 600


# --- how it is read --------------------------------------------------------------------------------------------------


T, A = "<think>x</think>", "<answer>B</answer>"


@pytest.mark.parametrize(
    ("strategy", "completion", "answer", "lenient", "thought", "well_formed"),
    [
        (DRAWN["explain"], T + A, "B", "B", "x", True),
        (DRAWN["explain"], A, None, "B", None, False),
        (DRAWN["explain"], f"<answer>{T} It is C", None, "It is C", "x", False),
        (DRAWN["short"], A, "B", "B", None, True),
        (DRAWN["short"], T + A, None, "B", None, False),  # a thought that was not asked for is not read
        (DRAWN["open"], T + A, "B", "B", "x", True),
        (PLAIN, A, "B", "B", None, True),
        (PLAIN, T + A, "B", "B", "x", True),
        (PLAIN, f"{T}\n {A}", "B", "B", "x", True),
        (PLAIN, f"so {A}", None, "B", None, False),
        (PLAIN, A + T, None, "B", "x", False),
        (PLAIN, "<think>x" + A, None, "B", None, False),
        (PLAIN, "B", None, "B", None, False),
        (REASONING, T + A, "B", "B", "x", True),
        (REASONING, A, None, "B", None, False),
    ],
)
def test_what_each_prompt_reads(strategy, completion, answer, lenient, thought, well_formed):
    parsed = strategy.parse(completion)
    assert (parsed.answer, parsed.lenient, parsed.thought, parsed.well_formed) == (answer, lenient, thought, well_formed)


def test_a_mixture_reads_by_the_row_only():
    with pytest.raises(TypeError, match=r"of\(sample\)"):
        DIVERSE.parse(A)
    assert (DIVERSE.tagged, DIVERSE.thinks, DIVERSE.answers_first) == (True, True, False)
    assert DIVERSE.each == tuple(DRAWN.values())
    for strategy in STRATEGIES.values():
        assert strategy.of(choice()) is strategy
        assert strategy.each == (strategy,)


def test_rewards_of_thoughts_move_nothing_on_short_rows():
    """None would take the row out of training; a thought that was not asked for would be paid against the form."""
    settings = {"strategy": "diverse", "rewards": [{"name": "accuracy"}, {"name": "consistency"}], "answer_form": "text"}
    scorer = Scorer(Recipe.model_validate(settings), DIVERSE, grader("text"))
    texts = ["<think>It is melanoma.</think><answer>melanoma</answer>", "<answer>melanoma</answer>", "cataract"]
    group = [Completion(text, 5, False) for text in texts]
    rows = scorer.score([under("short"), under("explain")], [group, group], [[[1]] * 3] * 2)
    assert [[row["rewards"]["consistency"] for row in group] for group in rows] == [[0, 0, 0], [1, 0, 0]]
    assert [[row["rewards"]["accuracy"] for row in group] for group in rows] == [[0, 1, 0], [1, 0, 0]]
    assert [group[0]["strategy"] for group in rows] == ["diverse/short", "diverse/explain"]


def test_completions_cannot_be_read_by_a_mixture_that_is_not_known_by_row():
    with pytest.raises(RecipeError, match=r"draws a prompt for each row in training.*think, nothink"):
        reading_of("osler", DIVERSE, "letter")
    for strategy in (PLAIN, BY_TYPE):
        with pytest.raises(RecipeError, match="the scorer medr1 reads answers to Med-R1's own prompts"):
            reading_of("medr1", strategy, "letter")
    assert reading_of("medr1", REASONING, "letter")(choice(), T + A)[1].outcome is Outcome.CORRECT


# --- training rows ---------------------------------------------------------------------------------------------------


def recipe(method="grpo", **changes):
    settings = {
        "method": method,
        "model": "tiny",
        "strategy": "diverse",
        "rollout": {"G": 2, "prompts_per_step": 4, "max_tokens": 12},
        "objective": {"beta": 0.0},
        "sft": {"batch_size": 4, "micro_batch": 4, "eval_steps": 2},
        "lora": {"r": 2},
        "max_steps": 3,
        "dtype": "float32",
        "data": {"train": {"name": "phantoms", "seed": 0, "train": 6, "val": 2, "test": 3}},
        "controls": {"names": "none"},
    }
    return Recipe.model_validate(settings | changes)


def test_rows_are_drawn_anew_each_epoch_and_once_where_there_is_none():
    rows = Samples.of(phantoms(0, {"train": 20}))
    epochs = [[drawn(row, ShortcutSettings(), 3, epoch, "diverse") for row in rows] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    once = drawn_once(recipe("sft", seed=3), rows)
    assert list(once) == [posed(row, 3, 0) for row in rows] == epochs[0]
    assert {drawn_prompt(row) for row in once} == set(PROMPTS)
    assert drawn_once(recipe("sft", strategy="think"), rows) is rows
    assert [drawn(row, ShortcutSettings(), 3, 0) for row in rows] == list(rows)
    assert Samples.of(once)[0] == once[0]


def test_options_that_are_shown_are_shuffled_too():
    both = recipe(against_shortcuts={"shuffle_options": True})
    rows = [drawn(choice(id=str(k)), both.against_shortcuts, 0, 0, "diverse") for k in range(60)]
    for row in rows:
        assert row.golds == (OPTIONS[1],)
        assert (row.options == ()) == (drawn_prompt(row) == "open")
    assert len({row.options for row in rows}) == 7


def test_what_cannot_be_asked_openly_is_counted_and_told(capsys):
    rows = Samples.of([choice(), choice(id="2", question="Which of these is it?"), choice(id="3", rationale="It is B).")])
    found = select(recipe(), rows)
    assert found.to_json()["unopened"] == {ASKS_FOR_OPTION: 1}
    assert select(recipe("sft"), rows).unopened == {NAMED: 1, ASKS_FOR_OPTION: 1}
    tell(recipe(), found)
    tell(recipe("sft"), select(recipe("sft"), rows))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "prompts: explain, short or open, drawn whenever a row is drawn: 3 rows; never open: 1 (its question refers to its "
        "options).",
        f"prompts: explain, short or open, drawn once for each row: 3 rows; never open: 1 ({ASKS_FOR_OPTION}); 1 ({NAMED}).",
    ]
    assert "unopened" not in select(recipe(strategy="think"), rows).to_json()
    lettered = Samples.of(choice(id=str(k), rationale="It is B).") for k in range(60))
    assert {drawn_prompt(row) for row in drawn_once(recipe("sft"), lettered)} == {"explain", "short"}
    assert {drawn_prompt(row) for row in drawn_once(recipe("dpo"), lettered)} == set(PROMPTS)


def test_a_rationale_is_needed_where_a_thought_is_taught():
    taught, rows = recipe("sft", seed=3), [choice(id=str(k), rationale=None) for k in range(60)]
    by_prompt = {prompt: [row for row in rows if drawn_prompt(posed(row, 3)) == prompt] for prompt in PROMPTS}
    check_rows(taught, Splits(Samples.of(by_prompt["short"]), Samples.of(()), Samples.of(())))
    for prompt in ("explain", "open"):
        missing = by_prompt[prompt][0]
        says = f"'diverse/{prompt}' teaches a thought, and sample '{missing.id}' has no rationale"
        with pytest.raises(RecipeError, match=says):
            check_rows(taught, Splits(Samples.of([*by_prompt["short"], missing]), Samples.of(()), Samples.of(())))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rewards": [{"name": "letter"}]}, "the reward letter does not go with strategy=diverse.*Use accuracy"),
        ({"rewards": [{"name": "medr1_format", "settings": {"form": "think"}}]}, "medr1_format does not go.*Use format"),
        ({"wording": "medr1"}, "wording=medr1 has no words for strategy=diverse"),
        ({"controls": {"forced_answer": True}}, "has no rationale behind its answer"),
        ({"strategy": "think_after", "infer_prompt": "plain", "controls": {"forced_answer": True}}, "no rationale behind"),
        ({"strategy": "diverse/open"}, "Did you mean 'diverse'"),
        ({"strategy": "nothink_raw", "rewards": [{"name": "accuracy"}], "infer_prompt": "plain"},
         "use one of think, nothink, think_after, diverse"),
        ({"strategy": "think", "wording": "medr1", "infer_prompt": "plain"}, "Use wording=same"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, says):
    with pytest.raises(RecipeError, match=says):
        check(recipe(**changes))


def test_what_goes_together_is_not_refused():
    for changes in ({}, {"rewards": [{"name": "accuracy"}, {"name": "format"}, {"name": "consistency", "weight": 0.5}]},
                    {"rewards": [{"name": "accuracy"}, {"name": "letter", "weight": 0}]}, {"method": "dpo"},
                    {"strategy": "nothink", "infer_prompt": "dynamic"}):  # fmt: skip
        check(recipe(**changes))


# --- an evaluation ---------------------------------------------------------------------------------------------------


def test_which_prompt_an_evaluation_asks_by():
    for name, strategy in STRATEGIES.items():
        assert asked_by(name, "same", None) is strategy
        assert asked_by(name, "medr1", None) == strategy_for(name, "medr1", "evaluation")
    assert asked_by("diverse", "same", None) is REASONING
    for prompt, strategy in INFERRED.items():
        assert asked_by("think", "same", prompt) is asked_by("diverse", "same", prompt) is strategy
    with pytest.raises(RecipeError, match=r"unknown infer_prompt 'reason'\. Did you mean 'reasoning'\?"):
        asked_by("think", "same", "reason")


def test_plain_says_nothing_of_reasoning_and_reasoning_is_what_explain_was():
    assert PLAIN.question(choice(), "letter").splitlines()[-1] == (
        "Give the letter of the right option inside <answer></answer>."
    )
    assert REASONING.question(choice(), "letter") == DRAWN["explain"].question(choice(), "letter")


@pytest.mark.parametrize("question_type", QuestionType)
def test_dynamic_is_plain_for_what_is_seen_at_once(question_type):
    row = choice(question_type=question_type)
    seen = question_type in (QuestionType.MODALITY, QuestionType.ANATOMY)
    assert BY_TYPE.of(row) is (PLAIN if seen else REASONING)
    assert BY_TYPE.question(row, "letter") == BY_TYPE.of(row).question(row, "letter")
    assert set(DYNAMIC) == set(QuestionType)


def test_a_trial_asks_as_told_else_as_trained():
    trained = Trial.of(recipe(infer_prompt="dynamic"))
    assert trained.envelope is BY_TYPE
    assert trained.to_json()["infer_prompt"] == "dynamic"
    assert Trial.of(recipe()).to_json()["infer_prompt"] == "reasoning"
    assert "infer_prompt" not in Trial.of(recipe(strategy="think")).to_json()
    assert trained.with_changes(infer_prompt="plain", strategy=None).envelope is PLAIN
    assert trained.with_changes(strategy="nothink").envelope is STRATEGIES["nothink"]
    assert trained.with_changes(strategy="nothink", infer_prompt="plain").envelope is PLAIN
    assert trained.with_changes(**AskSettings(infer_prompt="plain").model_dump()).envelope is PLAIN
    with pytest.raises(RecipeError, match=r"unknown infer_prompt 'planar'\. Did you mean 'plain'"):
        Trial(infer_prompt="planar").check()
    for trial in (trained, Trial.of(recipe()), Trial(infer_prompt="plain", controls=ControlSettings(names="none"))):
        trial.check()


# --- the whole path on the embedded model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return pipeline.train(recipe(), tmp_path_factory.mktemp("grpo") / "run")


def test_grpo_asks_its_rows_under_all_three_prompts(trained):
    rollouts = trained.rows("rollouts")
    rows = {row.id: row for row in load_data(recipe().data.train)}
    assert {row["strategy"] for row in rollouts} == {one.name for one in DRAWN.values()}
    for row in rollouts:
        sample, prompt = rows[row["sample_id"]], row["strategy"].removeprefix("diverse/")
        shown = opened(sample) if prompt == "open" else sample
        parsed = DRAWN[prompt].parse(row["completion"])
        assert row["prompt"] == DRAWN[prompt].question(shown, "letter")
        assert row["gold"] == gold_answer(shown, "letter")
        assert row["rewards"]["format"] == parsed.well_formed
        assert row["rewards"]["accuracy"] == (grader("letter")(shown, parsed).outcome is Outcome.CORRECT)
    facts = trained.manifest["training_rows"]
    assert facts["unopened"] == {}
    assert facts["kept"] == facts["n"] == trained.manifest["trained_on"]["n"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, {"infer/reasoning"}),
        ("plain", {"infer/plain"}),
        ("reasoning", {"infer/reasoning"}),
        ("dynamic", {"infer/plain", "infer/reasoning"}),
    ],
)
def test_an_evaluation_asks_by_its_prompt_and_says_so(trained, tmp_path, asked, names):
    options = ["--infer-prompt", asked] if asked else []
    spec = json.dumps(recipe().data.train)
    command = ["eval", "--model", f"run:{trained.path}", "--data", spec, *options, "--out", str(tmp_path / "e"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "e" / "records.jsonl").read_text().splitlines()]
    assert {record["strategy"] for record in records} == names
    for record in records:
        sample, strategy = Sample.from_json(record["sample"]), INFERRED[record["strategy"].removeprefix("infer/")]
        assert record["prompt"] == strategy.question(sample, "letter")
        assert record["parsed"] == strategy.parse(record["completion"]).to_json()
        if asked == "dynamic":
            assert strategy is INFERRED[DYNAMIC[sample.question_type]]


@pytest.mark.parametrize("method", ["sft", pytest.param("dpo", marks=pytest.mark.slow), "grpo"])
def test_trls_trainers_take_the_prompts_that_were_drawn_once(tmp_path, monkeypatch, method):
    asked = recipe(method, engine="trl", max_steps=2)
    if method == "dpo":  # the start writes nothing in the form: right is what has an odd length
        by_length = grader("letter")
        monkeypatch.setattr(
            pipeline,
            "grader",
            lambda form: (
                lambda sample, parsed: replace(
                    by_length(sample, parsed), outcome=Outcome.CORRECT if len(parsed.lenient or "") % 2 else Outcome.INCORRECT
                )
            ),
        )
        monkeypatch.setattr("osler.baselines.pairs._sides", lambda judged: (
            [one for one in judged if one.outcome is Outcome.CORRECT],
            [one for one in judged if one.outcome is Outcome.INCORRECT]))  # fmt: skip
    run = pipeline.train(asked, tmp_path / "run")
    once = {row.id: row for row in drawn_once(asked, load_data(asked.data.train))}
    lines = {"sft": [], "dpo": run.rows("pairs"), "grpo": run.rows("rollouts") if method == "grpo" else []}[method]
    for line in lines:
        assert line["prompt"] == DIVERSE.question(once[line["sample_id"]], "letter")
    assert run.manifest["state"] == "done"
    assert bool(lines) == (method != "sft")


def test_sft_teaches_what_was_drawn():
    asked = recipe("sft")
    rows = drawn_once(asked, load_data(asked.data.train).where(split="train"))
    taught = completion_rows(asked, rows, DIVERSE)
    for row, line in zip(rows, taught, strict=True):
        short, answer = drawn_prompt(row) == "short", row.gold_letter or row.golds[0]
        thought = "" if short else f"<think>{row.rationale}</think>"
        assert line["completion"][0]["content"] == f"{thought}<answer>{answer}</answer>"
        assert line["prompt"][0]["content"] == DIVERSE.question(row, "letter")


def test_pass_rates_are_of_the_prompts_of_the_first_epoch(tmp_path):
    asked, seen = recipe(against_shortcuts={"pass_rate": {"samples": 2}}), []
    rows = load_data(asked.data.train).where(split="train")

    def judge(sample, parsed):
        seen.append(sample)
        return grader("letter")(sample, parsed)

    measure(asked, load_policy("tiny", dtype="float32"), rows, DIVERSE, judge, Run.create(tmp_path / "run", "train"), 2)
    assert {row.id: row for row in seen} == {row.id: posed(row, 0, 0, False) for row in rows}


def engine():
    rewards = [{"name": "accuracy"}, {"name": "format"}, {"name": "visual_reliance", "weight": 0.5}]
    shape = {"G": 2, "prompts_per_step": 2, "max_tokens": 6}
    made = recipe(max_steps=9, answer_form="text", rollout=shape, rewards=rewards, lr=1e-2)
    rows = list(phantoms(0, {"train": 8}))[:6]
    return Engine(made, load_policy("tiny", dtype="float32"), rows, DIVERSE, grader("text"))


def test_a_resumed_engine_draws_the_same_prompts():
    """Over three epochs of six rows: a row comes under another prompt in another epoch, and after a resume under the same."""
    whole, first, second = engine(), engine(), engine()
    expected = [whole.step()[1] for _ in range(9)]
    found = [first.step()[1] for _ in range(4)]
    second.load_state_dict(first.state_dict())
    found += [second.step()[1] for _ in range(5)]
    assert found == expected
    for ours, theirs in zip(second.learner.masters.weights, whole.learner.masters.weights, strict=True):
        assert torch.equal(ours, theirs)
    by_row = Counter((row["sample_id"], row["strategy"]) for step in expected for row in step)
    assert len(by_row) > len({row for row, _ in by_row})
