"""Judges of every kind behind one seam: by name, scripted, and in the command."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from judge_models import save_leaning, save_seeing, save_talking
from osler.datasets.phantoms import samples
from osler.errors import DataError, RecipeError
from osler.images import blank_of, grainy_of
from osler.judging.judges import Spec, judge_of, parse_judge, same_judge
from osler.judging.phantom_expert import PhantomExpert, judged
from osler.judging.prompts import item_of
from osler.judging.replies import REASONS
from osler.reasoning.unsupported import VOCABULARY, truth_of
from osler.runs import Run, read_json
from osler.schema import Kind, Outcome, Parsed, Record, Verdict, fold_text
from osler.taxonomy import QuestionType
from test_judging import lines, osler_judge

# --- names


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("openai:http://localhost:8000/v1/#lab/seer#2", Spec("openai", "lab/seer#2", "http://localhost:8000/v1")),
        ("chat:lab/seer", Spec("chat", "lab/seer")),
        (" causal:/models/a b ", Spec("causal", "/models/a b")),
        ("phantoms", Spec("phantoms")),
    ],
)
def test_a_judge_is_named(spec, parsed):
    assert parse_judge(spec) == parsed
    assert parse_judge(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("opnai:http://a/v1#b", "unknown kind of judge 'opnai'. Did you mean 'openai'?"),
        ("phantom", "Did you mean 'phantoms'?"),
        ("gpt-4o", "Write openai:URL#NAME, chat:MODEL, causal:MODEL or phantoms"),
        ("", "unknown kind of judge ''"),
        ("openai:http://a/v1", "names no endpoint"),
        ("chat:", "Write chat:MODEL"),
        ("causal", "Write causal:MODEL"),
        ("phantoms:x", "Write phantoms, and nothing behind it"),
    ],
)
def test_what_names_no_judge_is_told_what_does(spec, message):
    with pytest.raises(RecipeError) as caught:
        parse_judge(spec)
    assert message in str(caught.value)
    with pytest.raises(RecipeError):
        judge_of(spec)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("phantoms", "phantoms", True),
        ("phantoms", "chat:phantoms", False),
        ("chat:lab/seer", "causal:lab/seer", True),
        ("chat:lab/Seer", "openai:http://a/v1#lab/seer", True),
        ("openai:http://a/v1#lab/seer", "openai:http://b/v1#lab/seer", True),
        ("openai:http://a/v1#lab/seer", "openai:http://a/v1#lab/seer-2", False),
        ("chat:/models/seer/", "openai:http://a/v1#lab/seer", True),
        ("chat:./seer", "openai:http://a/v1#seer", True),
        ("chat:lab/seer", "chat:clinic/seer", False),
    ],
)
def test_whether_two_specs_are_the_same_judge(one, other, same):
    assert same_judge(one, other) is same
    assert same_judge(other, one) is same


def test_names_are_read_without_loading_what_they_name():
    code = "import sys; from osler.judging.judges import same_judge; same_judge('chat:a', 'causal:b')"
    check = f"{code}; print(*({{'torch', 'transformers', 'numpy', 'openai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split() == []


# --- the scripted expert


def ideal(sample, letter=False):
    """The right answer to `sample` for the right reason."""
    answer = sample.gold_letter if letter else sample.golds[0]
    record = Record(
        sample,
        "p",
        "c",
        Parsed(answer, answer, sample.rationale, True),
        Verdict(*[Outcome.CORRECT] * 2, answer, answer),
        "think",
        3,
        False,
        0.1,
    )
    return item_of(record)


PHANTOMS = list(samples(0, {"test": 64}))


def test_the_expert_knows_what_every_phantom_shows():
    for sample in PHANTOMS:
        assert judged(ideal(sample)) == judged(ideal(sample, letter=True))
        assert (judged(ideal(sample)).correct, judged(ideal(sample)).sound) == (1, 1), sample
        assert VOCABULARY[fold_text(sample.golds[0])] in truth_of(sample)
    assert {sample.question_type for sample in PHANTOMS} == set(QuestionType) - {QuestionType.UNKNOWN}


@pytest.mark.parametrize("sample", PHANTOMS[:40], ids=lambda sample: sample.id)
def test_the_expert_tells_wrong_from_right(sample):
    right = ideal(sample)
    for place, option in enumerate(sample.options):
        if place != sample.gold_index:
            wrong = judged(replace(right, answer=option, thought=sample.rationale.replace(sample.golds[0], option)))
            assert (wrong.correct, wrong.sound) == (0, 0)
            assert fold_text(option) in fold_text(wrong.why)
            assert judged(replace(right, answer="ABCDEFGHIJ"[place])).correct == 0
    assert (judged(replace(right, answer=None)).correct, judged(replace(right, thought=None)).sound) == (0, None)
    for thought in ("It looks so.", f"It is not {sample.golds[0]}.", f"Could it be {sample.golds[0]}?"):
        assert judged(replace(right, thought=thought)).sound == 0, "what is asked about must be asserted"


def test_what_the_expert_cannot_know_is_unscored():
    sample = PHANTOMS[0]
    right, reference = ideal(sample), sample.images[0]
    for images in ((), ("scan.png",), (reference, "scan.png")):
        assert judged(replace(right, images=images)).unscored == "no_phantom"
    assert judged(replace(right, golds=("42",), options=())).unscored == "no_finding"
    assert {"no_phantom", "no_finding"} <= REASONS.keys()
    for made in (blank_of(reference), grainy_of(reference, 40)):
        assert judged(replace(right, images=(made,))) == judged(right)
    with pytest.raises(DataError, match="names no phantom"):
        judged(replace(right, images=("phantom:a/b",)))


def test_the_expert_looks_at_the_field_that_is_asked_about():
    by_type = {sample.question_type: sample for sample in PHANTOMS if sample.extra["grade"] != "none"}
    asked, beside = ideal(by_type[QuestionType.MODALITY]), by_type[QuestionType.MODALITY].extra["anatomy"]
    assert judged(replace(asked, thought=f"The anatomy is the {beside}.")).why == "it says nothing of: modality"
    assert judged(replace(asked, thought=f"The anatomy is the {beside}. {asked.thought}")).sound == 1
    open_question = replace(asked, options=(), golds=(by_type[QuestionType.MODALITY].golds[0],))
    assert (judged(open_question).correct, judged(open_question).sound) == (1, 1)


def test_the_expert_is_a_judge_like_the_others():
    items = [ideal(sample) for sample in PHANTOMS[:5]]
    with judge_of("phantoms") as made:
        made.check()
        assert made.name == "phantoms"
        assert made.score(items, 0.0) == [judged(one) for one in items]
        assert [place for place, _ in made.as_scored(items)] == list(range(5))
        keys = {made.key(one) for one in items} | {
            made.key(items[0], 1),
            made.key(replace(items[0], images=("phantom:test/0/7",))),
        }
        assert len(keys) == 7
        assert made.kept(items[0], made.key(items[0])) is None
    assert isinstance(made, PhantomExpert)


# --- osler judge


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An evaluation of phantoms: every third answer is wrong, and every fifth has no thought."""
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    made = Run.create(tmp_path / "run", "eval", state="done")
    for number, sample in enumerate(PHANTOMS[:15]):
        answer = sample.golds[0] if number % 3 else "a stone"
        thought = sample.rationale if number % 5 else None
        outcome = Outcome.CORRECT if number % 3 else Outcome.INCORRECT
        parsed = Parsed(answer, answer, thought, True)
        completion = f"<think>{thought}</think><answer>{answer}</answer>" if thought else answer
        verdict = Verdict(outcome, outcome, answer, sample.golds[0])
        made.append("records", Record(sample, "p", completion, parsed, verdict, "think", 9, False, 0.1).to_json())
    return made.path


def test_the_command_takes_every_kind(run, tmp_path):
    leaning, seeing = tmp_path / "leaning", tmp_path / "seeing"
    expected = save_leaning(leaning)
    save_seeing(seeing)
    shown = osler_judge(run, "--judge", "phantoms", "--second", f"causal:{leaning}", "--json")
    assert shown.exit_code == 0, shown.output
    summary = read_json(run / "judge.json")
    expert, second = summary["judges"]
    assert (expert["judge"], second["judge"]) == ("phantoms", f"causal:{leaning}")
    assert (expert["answer"]["value"], expert["answer"]["n"], expert["reasoning"]["n"]) == (10 / 15, 15, 12)
    assert (expert["reasoning"]["value"], second["answer"]["value"]) == (1.0, 1.0)
    assert summary["between"]["answer"]["table"] == [[0, 5], [0, 10]]
    assert summary["asked"]["phantoms"] == {"version": 1}
    assert len(summary["asked"][second["judge"]]["files"][0]) == 64
    by_judge = {line["judge"]: line for line in lines(run)}
    assert by_judge[second["judge"]]["p_correct"] == pytest.approx(expected, rel=1e-5)
    assert by_judge["phantoms"]["p_correct"] is None
    shown = osler_judge(run, "--judge", f"chat:{seeing}", "--see-images", "--repeat", 2, "--rows", 4)
    assert shown.exit_code == 0, shown.output
    assert "as told" in lines(run)[0]["why"]
    assert len(lines(run)) == 15 * 2 + 4 * 2


def test_the_command_says_in_one_line_what_is_wrong(run, tmp_path):
    save_talking(tmp_path / "m")
    for arguments, message in (
        (("--judge", f"chat:{tmp_path / 'm'}", "--see-images"), "a text model sees no image"),
        (("--judge", "chat"), "Write chat:MODEL"),
        (("--judge", "phantoms", "--second", "phantoms"), "the same judge"),
    ):
        found = osler_judge(run, *arguments)
        assert isinstance(found.exception, RecipeError)
        assert message in str(found.exception)
    assert not (run / "judged.jsonl").exists()


def test_what_cannot_be_scored_is_counted_with_its_reason(run):
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    rows[0]["sample"] |= {"images": ["scan.png"]}
    rows[1]["sample"] |= {"golds": ["42"], "options": [], "gold_index": None, "kind": Kind.OPEN}
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert osler_judge(run, "--judge", "phantoms").exit_code == 0
    (expert,) = read_json(run / "judge.json")["judges"]
    assert expert["unscored"] == {"no_phantom": 1, "no_finding": 1}
    assert expert["answer"]["n"] == 13
