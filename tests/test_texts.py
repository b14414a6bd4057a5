"""Text measures beside the judge: by hand, by a tiny model built here, and in judge.json."""

import json
from dataclasses import replace

import pytest

from osler.errors import DataError, ModelError, RecipeError
from osler.judging.assessment import assess
from osler.judging.summaries import lines_of
from osler.judging.texts import TEXTS, lines_of_texts, texts_by, texts_of
from osler.judging.trained import trained_with
from osler.model.bert_score import bert_scores
from osler.model.embeddings import load_embedder
from osler.model.encoders import load_encoder
from osler.rewards import answers
from osler.rewards.answered import Answered
from osler.runs import Run, read_json
from osler.schema import Completion, Kind, Outcome, Parsed, Record, Sample, Verdict
from test_embeddings import save_bert, save_embedder
from test_judging import osler_judge


def record(
    number, answer="left lung", golds=("left lung",), thought=None, rationale=None, options=(), group=None, keywords=None
):
    gold_index = options.index(golds[0]) if options else None
    sample = Sample(
        id=f"row {number}",
        images=("phantom:test/0/0",),
        question="Where?",
        golds=golds,
        options=options,
        gold_index=gold_index,
        kind=Kind.CHOICE if options else Kind.OPEN,
        rationale=rationale,
        group=group or f"case {number}",
        extra={} if keywords is None else {"keywords": keywords},
    )
    gold = sample.gold_letter or golds[0]
    completion = f"<think>{thought}</think><answer>{answer}</answer>" if thought else str(answer)
    outcome = Outcome.CORRECT if answer == gold else Outcome.INCORRECT
    return Record(
        sample,
        "p",
        completion,
        Parsed(answer, answer, thought, True),
        Verdict(outcome, outcome, answer, gold),
        "think",
        9,
        False,
        0.1,
    )


OPTIONS = ("the right lung", "the left lung")


def by_hand():
    return [
        record(0, thought="A cyst of the liver.", rationale="a dark round cyst", keywords=["cyst", "liver"]),
        record(1, "right lung", thought="No cyst.", keywords=["cyst", "lung"]),
        record(2, "A", golds=("the left lung",), options=OPTIONS, thought="the lung", rationale="the left lung"),
        record(3, "B", golds=("the left lung",), options=OPTIONS),
        record(4, None, rationale="a nodule"),
        record(5, "liver", golds=("large liver", "liver cyst", "the liver"), thought="large"),
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(save_embedder(folder / "embedder")), str(save_bert(folder / "bert"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))

    def make(*records, name="run", **facts):
        made = Run.create(tmp_path / name, "eval", state="done", **facts)
        made.append("records", *(one.to_json() for one in records))
        return made.path

    return make


# --- by words


def test_overlap_by_hand():
    """Row 1 has one of two words, row 2 two of three (a letter is its option), row 4 no answer, row 5 one of two."""
    found = texts_of(by_hand())
    assert (found.rows, found.exact_match.value, found.exact_match.n) == (6, pytest.approx(2 / 6), 6)
    expected = (1 + 1 / 2 + 2 / 3 + 1 + 0 + 2 / 3) / 6
    assert (found.token_f1.value, found.token_f1.n) == (pytest.approx(expected), 6)
    assert found.rouge_l.value == pytest.approx(expected), "the common words stand in one order"
    assert (found.keyword_recall.value, found.keyword_recall.n) == (pytest.approx((1 + 0 + 1) / 3), 3)
    assert found.lacking == {"answer": 1, "thought": 2, "rationale": 3, "keywords": 2}


def test_without_models_only_words_are_compared():
    found = texts_of(by_hand()).to_json()
    assert {name for name in TEXTS if found[name] is None} == {
        "answer_similarity",
        "rationale_similarity",
        "bertscore",
        "rationale_bertscore",
    }
    assert (found["embedder"], found["bertscore_model"], found["cut"]) == (None, None, {})


def test_the_overlap_is_that_of_the_rewards():
    records = by_hand()
    given = [Answered(one.sample, Completion(one.completion, 9, False), one.parsed, one.verdict) for one in records]
    found = texts_of(records)
    for name, reward in (("exact_match", answers.exact), ("token_f1", answers.token_f1), ("rouge_l", answers.rouge_l)):
        assert getattr(found, name).value == pytest.approx(sum(map(reward, given)) / 6)


def test_rows_of_one_case_vary_together():
    records = [record(number, "left lung" if number % 4 else "liver") for number in range(40)]
    together = [replace(one, sample=replace(one.sample, group=f"{number % 4}")) for number, one in enumerate(records)]
    alone, clustered = texts_of(records).exact_match, texts_of(together).exact_match
    assert alone.value == clustered.value == 0.75
    assert clustered.ci_high - clustered.ci_low > 2 * (alone.ci_high - alone.ci_low)


def test_nothing_to_hold_a_thought_against_is_empty_and_not_0(models):
    found = texts_by([record(0), record(1)], *models)
    for one in (found.keyword_recall, found.rationale_similarity, found.rationale_bertscore.f1):
        assert (one.value, one.n) == (None, 0)
    assert found.answer_similarity.value == pytest.approx(1)


def test_bad_keywords_of_a_row_are_told():
    with pytest.raises(DataError, match="sample 'row 0': its keywords are no list of texts"):
        texts_of([record(0, thought="cyst", keywords="cyst")])


# --- by models


def test_models_compare_with_the_nearest_gold_and_the_rationale(models):
    embedder, encoder = load_embedder(models[0], device="cpu"), load_encoder(models[1], device="cpu")
    found = texts_of(by_hand(), embedder, encoder)
    pairs = [
        [("right lung", "left lung")],
        [("the right lung", "the left lung")],
        [("liver", one) for one in by_hand()[5].sample.golds],
    ]
    cosines = [max(embedder.similarities(many)) for many in pairs]
    assert found.answer_similarity.value == pytest.approx((1 + cosines[0] + cosines[1] + 1 + 0 + cosines[2]) / 6, abs=1e-5)
    nearest = [max(bert_scores(many, encoder), key=lambda one: one.f1) for many in pairs]
    for part in ("precision", "recall", "f1"):
        values = [getattr(one, part) for one in nearest]
        measured = getattr(found.bertscore, part)
        assert (measured.value, measured.n) == (pytest.approx((1 + values[0] + values[1] + 1 + 0 + values[2]) / 6, abs=1e-5), 6)
    thoughts = [("A cyst of the liver.", "a dark round cyst"), ("the lung", "the left lung")]
    assert found.rationale_similarity.n == found.rationale_bertscore.recall.n == 2
    assert found.rationale_similarity.value == pytest.approx(sum(embedder.similarities(thoughts)) / 2)
    recalls = [one.recall for one in bert_scores(thoughts, encoder)]
    assert found.rationale_bertscore.recall.value == pytest.approx(sum(recalls) / 2)
    assert (found.embedder, found.bertscore_model) == models
    assert found.cut == {"embedder": 0, "bertscore_model": 0}


def test_what_a_model_does_not_read_to_its_end_is_counted(models):
    long = " ".join(["liver"] * 99)
    found = texts_by([record(0), record(1, long), record(2, thought=long, rationale="cyst"), record(3, thought=long)], *models)
    assert found.cut == {"embedder": 2, "bertscore_model": 2}, "the last thought is held against nothing"
    assert (f"longer than {models[0]} reads", "2 records") in list(lines_of_texts(found.to_json()))


def test_a_thought_that_was_never_closed_counts(models):
    cut_off = replace(record(0, None, rationale="a dark round cyst"), completion="<think>a dark round cyst")
    found = texts_by([cut_off], models[0])
    assert (found.lacking["thought"], found.rationale_similarity.value) == (0, pytest.approx(1))
    assert found.answer_similarity.value == 0


# --- osler judge


def test_osler_judge_without_a_judge(run, models):
    path = run(*by_hand())
    shown = osler_judge(path, "--embedder", models[0], "--bertscore", models[1])
    assert shown.exit_code == 0, shown.output
    kept = read_json(path / "judge.json")
    assert (kept["judges"], kept["asked"], kept["between"], kept["retests"], kept["unjudged"]) == ([], {}, None, [], 0)
    assert kept["texts"] == texts_by(by_hand(), *models).to_json()
    assert kept["trained_with"] is None
    assert not (path / "judged.jsonl").exists()
    for said in (
        "Texts: 6 records, without a judge",
        "exact match",
        "33.3 %",
        "token F1",
        "ROUGE-L",
        "keywords that the thought names",
        "answer to gold, cosine",
        "thought to rationale, BERTScore, f1",
        models[0],
        "answer: 1, thought: 2, rationale: 3, keywords: 2",
    ):
        assert said in shown.output
    printed = osler_judge(path, "--embedder", models[0], "--out", path.parent / "elsewhere", "--json")
    assert json.loads(printed.stdout)["texts"]["bertscore"] is None
    printed = osler_judge(path, "--embedder", models[0], "--json")
    assert json.loads(printed.stdout)["texts"] == kept["texts"], "what was asked for before stays"


def test_osler_judge_needs_somebody_who_judges(run):
    path = run(*by_hand())
    for arguments, said in (((), "--judge, or a model of texts"), (("--second", "phantoms", "--embedder", "x"), "--second")):
        failed = osler_judge(path, *arguments)
        assert isinstance(failed.exception, RecipeError)
        assert said in str(failed.exception)
    assert not (path / "judge.json").exists()


def test_a_model_that_cannot_be_used_is_told_before_any_judge_is_asked(run, models):
    path = run(*by_hand())
    with pytest.raises(ModelError, match="cannot compare texts: there is no such folder"):
        assess(path, "openai:http://127.0.0.1:9/v1#none", embedder=models[0], bertscore="./nowhere")
    assert not (path / "judged.jsonl").exists()


def test_texts_stand_beside_a_judge(run):
    path = run(*by_hand())
    found = assess(path, "phantoms")
    assert found["texts"]["rows"] == found["judges"][0]["rows"] == 6
    assert list(lines_of(found)) == ["phantoms", "Texts: 6 records, without a judge"]


# --- a judge that trained the model


def trained(tmp_path, name, judge, init=None):
    before = [{"model": f"run:{tmp_path / init}"}] if init else [{"model": "tiny"}]
    Run.create(tmp_path / name, "train", state="done", recipe={"judge": {"model": judge} if judge else None}, start=before)
    return {"spec": f"run:{tmp_path / name}"}


def test_a_judge_on_whose_scores_the_model_was_trained_is_flagged_on_its_table(run, tmp_path):
    path = run(*by_hand(), model=trained(tmp_path, "rl", "phantoms"))
    found = assess(path, "phantoms")
    assert (found["trained_with"]["judge"], found["trained_with"]["same"]) == ("phantoms", True)
    (title, _) = lines_of(found)
    assert title.startswith("phantoms (TRAINED ON:")
    assert "TRAINED ON" in osler_judge(path, "--judge", "phantoms").output
    assert read_json(path / "judge.json")["trained_with"] == found["trained_with"]


def test_whoever_trained_is_held_against_each_judge_here(run, tmp_path):
    trained(tmp_path, "first", "openai:http://one/v1#expert")
    path = run(*by_hand(), model=trained(tmp_path, "second", None, init="first"))
    found = trained_with(Run.open(path), ["openai:http://other/v1#expert", "phantoms"])
    assert (found.judge, found.same, found.same_as) == ("openai:http://one/v1#expert", True, ("openai:http://other/v1#expert",))
    later = run(*by_hand(), name="later", model=trained(tmp_path, "third", "chat:other", init="first"))
    assert trained_with(Run.open(later), ["chat:expert"]).judge == "openai:http://one/v1#expert", "the one that judges here"
    other = trained_with(Run.open(path), ["phantoms"])
    assert (other.judge, other.same, other.same_as) == ("openai:http://one/v1#expert", False, ())


@pytest.mark.parametrize("model", [None, {"spec": "tiny"}, {"spec": "completions:x.jsonl"}])
def test_a_model_that_no_judge_trained_has_no_flag(run, tmp_path, model):
    assert trained_with(Run.open(run(*by_hand(), model=model)), ["phantoms"]) is None
    plain = run(*by_hand(), name="plain", model=trained(tmp_path, "sft", None))
    assert trained_with(Run.open(plain), ["phantoms"]) is None


def test_a_training_run_that_is_gone_leaves_it_open_and_says_so(run, tmp_path):
    path = run(*by_hand(), model={"spec": f"run:{tmp_path / 'gone'}"})
    found = assess(path, "phantoms")
    assert (found["trained_with"]["judge"], found["trained_with"]["same"]) == (None, None)
    (title, _) = lines_of(found)
    assert "is not known" in title
    assert "gone is no run folder" in title
