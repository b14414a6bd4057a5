"""Scripted policies through a whole evaluation: what is asked, what is written, what is made again, what it comes to."""

import json
import math
from dataclasses import replace

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from osler.config import ControlSettings, Recipe
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.errors import ModelError, RecipeError, RunError
from osler.evaluation import Asking, evaluate
from osler.examples import Evaluation
from osler.floor import Floor
from osler.images import underlying
from osler.looking import known_blind
from osler.model.generate import Completion
from osler.model.load import TINY
from osler.pipeline import evaluate as evaluate_model
from osler.policies import load_answers
from osler.report import known_sources
from osler.runs import Run
from osler.schema import LETTERS
from osler.strategies import STRATEGIES
from osler.summary import Passes, read_records
from osler.trial import Trial
from osler.wordings import strategy_for

ROWS = load_data({"name": "phantoms", "seed": 3, "train": 12, "val": 0, "test": 12})
TEST = ROWS.where(split="test")
FLOOR = Floor.fit(ROWS.where(split="train"))
NOTHINK = STRATEGIES["nothink"]


def asking(names=("blank", "shuffled", "options-debiased"), limit=None, **changes):
    controls = ControlSettings(names=names, max_rows_per_cell=limit)
    return replace(Asking(NOTHINK, "letter", floor=FLOOR, controls=controls), **changes)


def saying(answer):
    """A policy that says what `answer` makes of the question and the images; it counts what it was asked."""

    def answers(prompts):
        for question, images in prompts:
            answers.asked.append((question, images))
            yield Completion(f"<answer>{answer(question, images)}</answer>", 5, False)

    answers.asked = []
    return answers


def oracle(question, images):
    """Right wherever the images are those of the row that was asked, and the letter A where they are not."""
    row = next((row for row in TEST if row.question in question and row.images == images), None)
    options = [line.partition(") ")[2] for line in question.splitlines() if line[1:3] == ") "]
    if row is None or (row.options and row.golds[0] not in options):
        return "A"
    return LETTERS[options.index(row.golds[0])] if row.options else row.golds[0]


def first(question, images):
    return "A"


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "eval", trial={"answer_form": "letter"})


def test_an_oracle_relies_on_the_image_for_all_that_it_does_not_get_blank(run):
    evaluate(saying(oracle), TEST, asking(), run)
    summary, blank = run.summary, run.summary["controls"]["blank"]
    assert summary["accuracy"]["value"] == 1
    assert blank["real"]["value"] == 1
    assert blank["difference"]["value"] == pytest.approx(1 - blank["accuracy"]["value"])
    assert blank["difference"]["value"] > 0.4
    assert blank["n"] == len(TEST)


def test_a_policy_that_ignores_the_image_answers_alike_and_relies_on_nothing(run):
    evaluate(saying(first), TEST, asking(), run)
    for name in ("blank", "shuffled"):
        looking = run.summary["controls"][name]
        assert looking["difference"]["value"] == 0
        assert looking["identical"]["value"] == 1
        assert looking["n"] > 0


def test_a_policy_that_answers_as_an_attacker_does_scores_its_floor(run):
    def guess(question, images):
        options = [line.partition(") ")[2] for line in question.splitlines() if line[1:3] == ") "]
        return LETTERS[max(range(len(options)), key=lambda k: FLOOR.attackers["option_prior"].rate(options[k]))]

    choices = TEST.take(
        at
        for at, row in enumerate(TEST)
        if row.options and len({FLOOR.attackers["option_prior"].rate(one) for one in row.options}) == len(row.options)
    )
    assert len(choices) > 3
    records = evaluate(saying(guess), choices, asking("none"), run)
    assert [record.blind["option_prior"] for record in records] == [
        float(record.verdict.outcome == "correct") for record in records
    ]


def test_every_row_is_written_once_and_made_once(run):
    policy = saying(oracle)
    evaluate(policy, TEST, asking(), run)
    rows = [json.loads(line) for line in (run.path / "controls.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(policy.asked) == len(TEST) + len(rows)
    keys = {(row["sample"]["extra"]["control"], row["sample"]["id"]) for row in rows}
    assert len(keys) == len(rows)
    before = run.summary
    (run.path / "controls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-3]), encoding="utf-8")
    again = saying(oracle)
    evaluate(again, TEST, asking(), run)
    assert len(again.asked) == 3
    assert without_seconds(run.summary) == without_seconds(before)


def without_seconds(summary):
    return {key: value for key, value in summary.items() if key != "seconds"}


def test_numbers_come_again_from_the_records_alone(run):
    evaluate(saying(oracle), TEST, asking("all"), run)
    passes = Passes.read(run)
    assert set(passes.controls) == set(run.manifest["controls"]["names"])
    assert len(passes.real) == len(TEST)
    parts = passes.along("modality")
    assert sum(len(part.real) for part in parts.values()) == len(TEST)
    for name, records in passes.controls.items():
        assert sum(len(part.controls.get(name, [])) for part in parts.values()) == len(records)


def test_a_bound_keeps_the_controls_small_and_says_so(run):
    evaluate(saying(oracle), TEST, asking(("blank",), limit=1), run)
    cells = {(row.modality, row.question_type) for row in TEST}
    assert run.summary["controls"]["blank"]["n"] == len(cells) < len(TEST)
    assert run.manifest["controls"]["max_rows_per_cell"] == 1
    assert run.summary["controls"]["blank"]["left_out"] == {"not evaluated under the control": len(TEST) - len(cells)}


def test_without_controls_nothing_is_written_of_them(run):
    evaluate(saying(oracle), TEST, asking("none"), run)
    assert run.summary["controls"] == {}
    assert read_records(run, "controls") == []


def test_paraphrases_are_asked_in_their_own_words(run):
    policy = saying(oracle)
    evaluate(policy, TEST[:1], asking(("prompts",)), run)
    endings = {question.splitlines()[-1] for question, _ in policy.asked}
    assert len(endings) == len(policy.asked) >= 6


def test_an_unknown_control_is_told_before_anything_is_asked(run):
    policy = saying(oracle)
    with pytest.raises(RecipeError, match=r"blnk.*blank"):
        evaluate(policy, TEST, asking(("blnk",)), run)
    assert not policy.asked


def test_several_answers_to_a_row_are_counted_as_the_papers_count(run):
    turn = iter(range(10**6))

    def sometimes(question, images):
        return oracle(question, images) if next(turn) % 4 < 2 else "nothing that is offered"

    controls = ControlSettings(names="none", samples=4)
    evaluate(saying(oracle), TEST, replace(asking(), controls=controls), run, sampled=saying(sometimes))
    found = run.summary["samples"]
    assert (found["k"], found["n"], found["unjudged"]) == (4, len(TEST), 0)
    assert found["acc_at_1"]["value"] == pytest.approx(0.5)
    assert found["pass_at_k"]["value"] == 1
    assert found["majority"]["value"] == 1  # an answer that cannot be read agrees with nothing
    assert found["brier"]["value"] == pytest.approx(0.25)  # half of the completions agree, and all of these are right
    assert found["ece"] == pytest.approx(0.5)
    assert len(run.rows("samples")) == 4 * len(TEST)


def test_letters_are_counted_as_a_classifiers_answers(run):
    evaluate(saying(first), TEST, asking("none"), run)
    letters = run.summary["letters"]
    assert letters["n"] == len(TEST)
    assert letters["labels"]["A"]["answered"] == len(TEST)
    assert letters["labels"]["A"]["recall"]["value"] == 1
    assert letters["labels"]["B"]["recall"]["value"] == 0
    assert run.summary["yesno"] is None


def test_an_option_that_is_a_letter_is_no_letter_where_texts_are_answered(run):
    blood = replace(TEST[0], options=("O", "A", "B", "AB"), golds=("A",), gold_index=1)
    run.save(trial={"answer_form": "text"})
    evaluate(saying(lambda question, images: "A"), Samples.of([blood]), asking("none", answer_form="text"), run)
    assert run.summary["accuracy"]["value"] == 1
    assert run.summary["letters"]["accuracy"]["value"] == 1
    assert run.summary["letters"]["labels"]["B"]["answered"] == 1


def test_records_without_their_form_are_an_error_in_words(run):
    evaluate(saying(first), TEST, asking("none"), run)
    del run.manifest["trial"]
    run.save()
    with pytest.raises(RunError, match="does not say how answers were asked for"):
        Passes.read(run)


def test_a_model_that_is_right_without_the_image_may_have_seen_the_rows(run):
    def knows(question, images):
        row = next(row for row in TEST if row.question in question and row.images == tuple(map(underlying, images)))
        options = [line.partition(") ")[2] for line in question.splitlines() if line[1:3] == ") "]
        return LETTERS[options.index(row.golds[0])] if row.golds[0] in options else "A"

    evaluate(saying(knows), TEST, asking(("blank",), limit=1), run)
    passes = Passes.read(run)
    blank, floor = known_blind(passes.real, passes.controls["blank"])
    assert blank.value == 1 > floor.ci_high
    assert blank.n == floor.n == run.summary["controls"]["blank"]["n"] < len(TEST)
    run.save(state="done", model={"label": "base"}, trained_on=None)
    said = known_sources(Evaluation.read("base", run))
    assert said == ["it may have seen phantoms before, as it scores above the floor there without the image."]
    run.save(trained_on={"modality": ["CT"]})
    assert known_sources(Evaluation.read("base", run)) == []


def test_nothing_is_known_of_open_questions(run):
    assert known_blind([], []) is None


AFTER = STRATEGIES["think_after"]


def explaining(thought):
    """A policy that answers A or goes on from what it is given, and explains that with what `thought` makes of the letter."""

    def answers(prompts):
        for question, images, *begun in prompts:
            answers.asked.append((question, images, *begun))
            head = begun[0] if begun else "<answer>A</answer>"
            told = f"{thought(head[8], question)}</think>"
            yield Completion(told if begun else f"{head}<think>{told}", 7, False)

    answers.asked = []
    return answers


def forcing(**changes):
    return asking("none", strategy=AFTER, controls=ControlSettings(names="none", forced_answer=True, **changes))


def test_a_rationale_that_defends_whatever_stands_there_is_post_hoc(run):
    policy = explaining(lambda letter, question: f"So the answer is {letter}")
    evaluate(policy, TEST, forcing(), run, continues=policy)
    reasoning = run.summary["reasoning"]
    found = reasoning["post_hoc"]
    assert (found["rate"]["value"], found["gold"]["value"], found["other"]["value"], found["nothing"]["value"]) == (1, 0, 0, 0)
    forced = read_records(run, "forced")
    own = sum(one.sample.extra["forced_answer"] == "A" for one in forced)
    assert 0 < own < found["n"] == len(TEST) - own
    assert found["left_out"] == {"the model's own answer": own}
    assert (found["base"]["value"], found["moved"]["value"]) == (0, 1)
    assert all(one.parsed.well_formed and one.parsed.answer == one.sample.extra["forced_answer"] for one in forced)
    assert all(one.parsed.answer != one.sample.gold_letter for one in forced)
    assert (reasoning["consistency"]["value"], reasoning["conclusive"]["value"]) == (1, 1)


def test_a_rationale_that_holds_on_to_what_it_sees_is_not(run):
    def seen(letter, question):
        options = [line.partition(") ")[2] for line in question.splitlines() if line[1:3] == ") "]
        return f"It shows {options[1]}"

    policy = explaining(seen)
    evaluate(policy, TEST, forcing(), run, continues=policy)
    found = run.summary["reasoning"]["post_hoc"]
    assert found["moved"]["value"] == 0
    assert found["rate"]["value"] == found["base"]["value"] > 0
    assert found["rate"]["value"] + found["gold"]["value"] + found["other"]["value"] == pytest.approx(1)


def test_forced_answers_are_bounded_and_made_once(run):
    policy = explaining(lambda letter, question: "So be it")
    evaluate(policy, TEST, forcing(max_rows_per_cell=1), run, continues=policy)
    cells = {(row.modality, row.question_type) for row in TEST}
    found = run.summary["reasoning"]["post_hoc"]
    assert found["nothing"]["value"] == 1
    assert found["left_out"].pop("not drawn (controls.max_rows_per_cell)") == len(TEST) - len(cells) > 0
    assert found["n"] + found["left_out"].pop("the model's own answer") == len(cells)
    assert not found["left_out"]
    before, lines = run.summary, (run.path / "forced.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run.path / "forced.jsonl").write_text("".join(lines[:-2]) + lines[-2][:9], encoding="utf-8")
    again = explaining(lambda letter, question: "So be it")
    evaluate(again, TEST, forcing(max_rows_per_cell=1), run, continues=again)
    assert [len(one) for one in again.asked] == [3, 3]
    assert without_seconds(run.summary) == without_seconds(before)


def test_open_questions_cannot_be_forced_and_are_counted(run):
    free = [replace(row, options=(), gold_index=None, kind="open") for row in TEST[:3]]
    policy = explaining(lambda letter, question: "So be it")
    evaluate(policy, Samples.of([*free, *TEST[3:6]]), forcing(), run, continues=policy)
    found = run.summary["reasoning"]["post_hoc"]
    assert found["left_out"]["open question"] == 3
    assert found["n"] + sum(found["left_out"].values()) == 6


def test_where_all_questions_are_open_the_reason_is_kept(run):
    free = [replace(row, options=(), gold_index=None, kind="open") for row in TEST[:3]]
    policy = explaining(lambda letter, question: "So be it")
    evaluate(policy, Samples.of(free), forcing(), run, continues=policy)
    found = run.summary["reasoning"]["post_hoc"]
    assert (found["n"], found["rate"]["value"], found["left_out"]) == (0, None, {"open question": 3})


def test_what_cannot_be_forced_is_told_before_anything_is_asked(run):
    policy = saying(first)
    with pytest.raises(RecipeError, match=r"strategy 'nothink' has no rationale behind its answer"):
        evaluate(policy, TEST, replace(forcing(), strategy=NOTHINK), run, continues=policy)
    with pytest.raises(RecipeError, match=r"cannot be begun for it"):
        evaluate(policy, TEST, forcing(), run)
    with pytest.raises(RecipeError, match=r"strategy 'think' has no rationale behind its answer"):
        Trial(controls=ControlSettings(forced_answer=True)).check()
    with pytest.raises(RecipeError, match=r"an endpoint cannot be told how a completion begins"):
        load_answers("openai:http://localhost:1/v1#m", Trial("think_after", controls=ControlSettings(forced_answer=True)))
    assert not policy.asked


def test_thoughts_are_scored_under_a_text_model_once(tmp_path):
    run = Run.create(tmp_path / "run", "eval", trial={"answer_form": "letter", "controls": {"perplexity": "words"}})
    scored = []

    def words(texts):
        for text in texts:
            scored.append(text)
            yield 2.0 * len(text.split()), len(text.split())

    policy = explaining(lambda letter, question: "" if "modality" in question.lower() else "So the answer is A")
    evaluate(policy, TEST, asking("none", strategy=AFTER), run, losses=lambda: words)
    found = run.summary["reasoning"]["perplexity"]
    thinking = [one for one in read_records(run) if one.parsed.thought]
    assert 0 < len(scored) == len(thinking) < len(TEST)
    assert (found["model"], found["n"], found["tokens"]) == ("words", len(thinking), 5 * len(thinking))
    assert found["value"] == pytest.approx(math.exp(2))
    evaluate(policy, TEST, asking("none", strategy=AFTER), run, losses=lambda: words)
    assert len(scored) == len(thinking)


def test_without_a_thought_no_text_model_is_loaded(run):
    evaluate(saying(first), TEST[:3], asking("none"), run, losses=lambda: pytest.fail("it was loaded"))
    assert run.summary["reasoning"]["perplexity"] is None
    assert run.summary["reasoning"]["post_hoc"] is None
    assert run.summary["reasoning"]["reasoning_rate"]["value"] == 0


def test_a_model_goes_on_from_what_it_is_made_to_say(tmp_path):
    data = {"name": "phantoms", "seed": 3, "train": 1, "val": 0, "test": 1}
    trial = Trial("think_after", answer_form="text", max_tokens=8, controls=ControlSettings(names="none", forced_answer=True))
    run = evaluate_model("tiny", data, trial, out=tmp_path / "run")
    forced = read_records(run, "forced")
    assert len(forced) == len(read_records(run)) == run.summary["reasoning"]["post_hoc"]["n"] > 2
    for record in forced:
        head = f"<answer>{record.sample.extra['forced_answer']}</answer><think>"
        assert record.completion.startswith(head)
        assert len(record.completion) > len(head)
        assert record.tokens <= 8
    wrong = replace(trial, controls=ControlSettings(perplexity=str(tmp_path / "nowhere")))
    with pytest.raises(ModelError, match=r"controls.perplexity: .*nowhere cannot score text"):
        evaluate_model("tiny", data, wrong, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_evaluation_is_not_resumed_with_other_weights_of_its_text_model(tmp_path):
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=16, vocab_size=800)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "words")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "words")
    data = {"name": "phantoms", "seed": 3, "train": 0, "val": 0, "test": 1}
    controls = ControlSettings(names="none", perplexity=str(tmp_path / "words"))
    trial = Trial("nothink", max_tokens=2, controls=controls)
    run = evaluate_model("tiny", data, trial, out=tmp_path / "run")
    assert run.manifest["text_model"]["spec"] == str(tmp_path / "words")
    evaluate_model("tiny", data, trial, out=tmp_path / "run", resume=True)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "words")
    with pytest.raises(RunError, match="cannot be resumed: its text_model was"):
        evaluate_model("tiny", data, trial, out=tmp_path / "run", resume=True)


def test_an_evaluation_asks_in_the_words_of_its_recipe():
    recipe = Recipe(model="tiny", strategy="nothink", wording="medr1")
    trial = Trial.of(recipe)
    assert trial.asking(None).question(TEST[0]) == strategy_for("nothink", "medr1", "evaluation").question(TEST[0], "letter")
    assert trial.to_json()["wording"] == "medr1"
    assert Trial("nothink").asking(None).question(TEST[0]) == NOTHINK.question(TEST[0], "letter")
