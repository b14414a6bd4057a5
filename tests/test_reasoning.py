"""Measures of reasoning from records: by hand-computed cases, and against the functions that the parts stand for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.averages import difference, estimate, mean
from osler.datasets.phantoms import describe, samples
from osler.drawing.phantoms import phantom_case
from osler.errors import RecipeError, RunError
from osler.grading import grader
from osler.reasoning.forcing import FORCED, NOT_DRAWN, OWN, check_forcing, forced_rows, post_hoc
from osler.reasoning.quality import perplexity_of, reasoning_of, reasons
from osler.reasoning.unsupported import VOCABULARY, Finding, claims, findings_in, truth_of
from osler.schema import Kind, Outcome, Record, Sample, fold_text
from osler.stats import EMPTY
from osler.strategies import STRATEGIES, offered
from osler.taxonomy import MODALITY_SPELLINGS, Modality

OPTIONS = ("CT", "MRI", "OCT")
PHANTOMS = list(samples(0, {"test": 24}))
LESION = next(row for row in PHANTOMS if row.extra["disease"] != "normal")
NORMAL = next(row for row in PHANTOMS if row.extra["disease"] == "normal")


def row(name, gold=0, **changes):
    return Sample(
        id=name, images=(f"{name}.png",), question="?", golds=(OPTIONS[gold],), options=OPTIONS, gold_index=gold, **changes
    )


def record(completion, sample=None, strategy="think", tokens=10, form="text"):
    sample = sample or row(completion)
    parsed = STRATEGIES[strategy].parse(completion)
    return Record(sample, "", completion, parsed, grader(form)(sample, parsed), strategy, tokens, False, 0.1)


def thought(text, answer="CT", **others):
    return record(f"<think>{text}</think><answer>{answer}</answer>", **others)


def unjudged(one):
    return replace(one, verdict=replace(one.verdict, outcome=Outcome.UNJUDGED))


def test_tags_reasoning_and_consistency_are_shares_of_what_they_can_be_seen_on():
    records = [
        thought("Bright bone: CT", "CT"),
        thought("Bright bone: CT", "MRI", sample=row("b")),
        thought("It is dark", "CT"),  # concludes nothing
        thought("CT", "CT"),  # a thought that is but the answer
        thought("mri.", "CT"),  # or another answer
        thought("", "CT"),
        record("<answer>CT</answer>"),
        record("<think>It is CT and it is CT and"),  # never closed
    ]
    found = reasoning_of(records, "text")
    assert (found.tag_rate.value, found.tag_rate.n) == (6 / 8, 8)
    assert (found.reasoning_rate.value, found.reasoning_rate.n) == (4 / 8, 8)
    assert (found.conclusive.value, found.conclusive.n) == (4 / 6, 6)
    assert (found.consistency.value, found.consistency.n) == (2 / 4, 4)
    assert found.unsupported.thoughts == found.unsupported.findings == found.unsupported.asserted == EMPTY
    assert found.unsupported.not_measurable == 6
    json.dumps(found.to_json(), allow_nan=False)


def test_where_nothing_thinks_nothing_is_said_of_thoughts():
    found = reasoning_of([record("CT", strategy="nothink_raw"), record("MRI", strategy="nothink_raw")], "text").to_json()
    nothing = ("conclusive", "consistency", "unsupported", "perplexity", "post_hoc")
    assert {name: found[name] for name in nothing} == dict.fromkeys(nothing)
    assert found["reasoning_rate"]["value"] == 0
    assert found["tokens"]["all"]["value"] == 10
    assert reasoning_of([], "text").tokens.all == EMPTY


def test_an_open_question_has_a_thought_but_no_conclusion():
    free = Sample(id="o", images=(), question="?", golds=("a mass",), kind=Kind.OPEN)
    found = reasoning_of([thought("Dark, so a mass", "a mass", sample=free)], "text")
    assert found.reasoning_rate.value == 1
    assert found.conclusive == found.consistency == EMPTY


@pytest.mark.parametrize(
    ("told", "answer", "form", "yes"),
    [
        ("It is bright", "B", "letter", True),
        ("B", "B", "letter", False),
        ("MRI", "B", "letter", False),
        ("oct.", "B", "letter", False),
        ("the answer is B", "B", "letter", True),
        ("...", "B", "letter", False),
        ("Dark", "dark.", "open", False),
        ("Dark and round", "dark", "open", True),
    ],
)
def test_a_thought_that_is_but_an_answer_is_no_reasoning(told, answer, form, yes):
    free = Sample(id="o", images=(), question="?", golds=("dark",), kind=Kind.OPEN)
    one = thought(told, answer, sample=free if form == "open" else row("a", 1), form="letter")
    assert reasons(one) is yes


def test_length_and_repetition_by_correctness():
    loop = "one two three " * 3  # 9 words, 7 three-grams, 3 different
    records = [
        thought("a", "CT", sample=row("1"), tokens=4),
        thought("b", "CT", sample=row("2"), tokens=8),
        record(loop, sample=row("3"), tokens=30, strategy="nothink_raw"),
        unjudged(thought("d", "MRI", sample=row("4"), tokens=2)),
        record("MRI", sample=row("5"), tokens=None, strategy="nothink_raw"),
    ]
    found = reasoning_of(records, "text")
    assert [(one.value, one.n) for one in (found.tokens.all, found.tokens.right, found.tokens.wrong)] == [
        (11, 4),
        (6, 2),
        (30, 1),
    ]
    assert (found.tokens.difference.value, found.tokens.difference.n) == (-24, 3)
    assert found.repetition.right.value == 0
    assert found.repetition.wrong.value == pytest.approx((4 / 7 + 0) / 2)
    assert found.repetition.all.n == 5


# --- unsupported findings


@pytest.mark.parametrize("sample", PHANTOMS, ids=lambda one: one.id)
def test_what_describes_a_phantom_is_all_found_and_all_supported(sample):
    told = " ".join(sentence for _, sentence in describe(phantom_case(sample.images[0])))
    found = claims(told, sample)
    assert found.unsupported == frozenset()
    assert found.asserted == truth_of(sample) - {Finding("grade", "none"), Finding("location", "no lesion")}
    assert claims(sample.rationale, sample).asserted <= found.asserted


@pytest.mark.parametrize("sample", PHANTOMS[:12], ids=lambda one: one.id)
def test_what_describes_another_phantom_is_unsupported_where_they_differ(sample):
    other = next(one for one in PHANTOMS if one.modality != sample.modality and one.extra["disease"] != sample.extra["disease"])
    told = " ".join(sentence for _, sentence in describe(phantom_case(other.images[0])))
    found = claims(told, sample)
    assert found.unsupported == found.asserted - truth_of(sample)
    assert Finding("modality", other.modality.value) in found.unsupported
    assert Finding("disease", other.extra["disease"]) in found.unsupported


@pytest.mark.parametrize(
    ("text", "asserted"),
    [
        ("The X-ray shows a fracture", {"X-ray", "fracture"}),
        ("no fracture, bone cyst or melanoma", set()),
        ("It may be a fracture.", set()),
        ("mild or moderate", set()),
        ("mild to moderate", set()),
        ("mild-to-moderate", set()),
        ("from mild to severe, moderate", {"moderate"}),
        ("A fracture is possible.", set()),
        ("A severe fracture is still possible", set()),
        ("A fracture is likely, and it is severe.", {"severe"}),
        ("A fracture, likely of the hand", {"fracture"}),
        ("suspicious for a fracture", set()),
        ("probably a fracture", set()),
        ("a suspected fracture", set()),
        ("An unlikely fracture", set()),
        ("less severe", set()),
        ("non-severe", set()),
        ("less dark, severe", {"severe"}),
        ("This is not a normal hand X-ray", {"hand", "X-ray"}),
        ("This is not a severe fracture", set()),
        ("No abnormality in this hand X-ray", {"hand", "X-ray"}),
        ("A severe fracture is excluded", set()),
        ("It is severe, in the upper-left.", {"severe", "upper left"}),
        ("Is it a melanoma? No.", set()),
        ("A brain tumor", {"brain tumor"}),  # and not the brain
        ("On the other hand it tells us a lot", set()),
        ("abnormal", set()),
        ("There is no lesion", {"no lesion"}),
        ("a polyp rather than an adenocarcinoma", {"polyp"}),
        ("MRI/CT", set()),
        ("", set()),
    ],
)
def test_what_a_thought_asserts(text, asserted):
    assert {finding.value for finding in findings_in(text)} == asserted


def test_the_vocabulary_names_everything_that_a_phantom_can_show():
    for sample in PHANTOMS:
        for finding in truth_of(sample) - {Finding("grade", "none")}:
            assert VOCABULARY[fold_text(finding.value)] == finding
    assert not {"us", "mr", "unknown", ""} & set(VOCABULARY)
    assert all(VOCABULARY[fold_text(one)] == Finding("modality", one) for one in MODALITY_SPELLINGS if one != Modality.UNKNOWN)


def test_the_rates_of_unsupported_findings():
    modality, disease = LESION.modality.value, LESION.extra["disease"]
    wrong = "OCT" if modality != "OCT" else "CT"
    records = [
        thought(f"This {modality} shows {disease}.", sample=LESION),
        thought(f"This {wrong} shows {disease}.", sample=replace(LESION, id="b")),
        thought("severe, moderate and mild", sample=replace(NORMAL, id="c")),
        thought("Nothing to say", sample=replace(NORMAL, id="d")),
        thought("a cyst", sample=row("e")),
        record("<answer>CT</answer>", sample=replace(NORMAL, id="f")),
    ]
    found = reasoning_of(records, "text").unsupported
    assert (found.thoughts.value, found.thoughts.n) == (2 / 4, 4)
    assert (found.findings.value, found.findings.n) == (pytest.approx(4 / 7), 3)
    assert (found.asserted.value, found.not_measurable) == (7 / 4, 1)
    assert 0 <= found.findings.ci_low <= found.findings.value <= found.findings.ci_high <= 1


# --- the forced-answer test


def forced_record(sample, told):
    after = STRATEGIES["think_after"]
    return record(after.begun(sample.extra[FORCED]) + told + "</think>", sample=sample, strategy="think_after")


def test_a_forced_answer_is_another_one_that_is_offered():
    yes = Sample(id="y", images=(), question="?", golds=("yes",), kind=Kind.YESNO)
    free = Sample(id="o", images=(), question="?", golds=("x",), kind=Kind.OPEN)
    alone = Sample(id="a", images=(), question="?", golds=("CT",), options=("CT", "ct."), gold_index=0)
    rows = [row(f"r{n}", n % 3) for n in range(60)]
    found = forced_rows([*rows, yes, free, alone], "text", 0)
    assert found.left_out == {"open question": 1, "no other answer is offered": 1}
    forced = {one.id: one.extra[FORCED] for one in found.samples}
    assert forced["y"] == "no"
    assert all(forced[one.id] in set(offered(one)) - set(one.golds) for one in rows)
    assert {forced[one.id] for one in rows if one.gold_index == 0} == {"MRI", "OCT"}
    again = forced_rows(rows[::-1], "letter", 0)
    assert {one.id: OPTIONS["ABC".index(one.extra[FORCED])] for one in again.samples} == {
        one.id: forced[one.id] for one in rows
    }
    assert {one.id: one.extra[FORCED] for one in forced_rows(rows, "text", 1).samples} != {
        k: forced[k] for k in forced if k[0] == "r"
    }


def test_the_post_hoc_rate_and_its_base():
    rows = list(forced_rows([row(f"r{n}") for n in range(8)], "text", 0).samples)
    wrong = [one.extra[FORCED] for one in rows]
    third = [next(text for text in OPTIONS[1:] if text != one) for one in wrong]
    told = [*wrong[:4], "CT", third[5], "nothing", "CT or MRI"]
    forced = [forced_record(one, f"I see {said}") for one, said in zip(rows, told, strict=True)]
    own = [wrong[0], wrong[1], *["CT"] * 6]
    real = [
        record(f"<answer>CT</answer><think>I see {said}</think>", sample=row(one.id), strategy="think_after")
        for one, said in zip(rows, own, strict=True)
    ]
    others = [record("<answer>x</answer>", sample=row(name)) for name in ("o1", "o2", "n1", "n2", "n3")]
    found = post_hoc([*real, *others], forced, "text", {"open question": 2})
    shares = [found.rate, found.gold, found.other, found.nothing]
    assert [one.value for one in shares] == [4 / 8, 1 / 8, 1 / 8, 2 / 8]
    assert (found.base.value, found.moved.value) == (2 / 8, 2 / 8)
    assert found.to_json()["n"] == found.moved.n == 8
    assert found.left_out == {"open question": 2, NOT_DRAWN: 3}
    with pytest.raises(RunError, match="a record of row 'r0', which the real pass lacks"):
        post_hoc(real[1:], forced, "text")
    assert post_hoc(real, [], "text") is None


@pytest.mark.parametrize("own", ["<answer>{}</answer><think>{}</think>", "<answer>It is {}</answer>{}"])
def test_an_answer_that_the_model_gave_itself_is_not_forced(own):
    rows = list(forced_rows([row(f"r{n}") for n in range(40)], "text", 0).samples)
    real = [record(own.format("MRI", "It is MRI"), sample=row(one.id), strategy="think_after") for one in rows]
    forced = [forced_record(one, "It is MRI") for one in rows]  # whatever stands there, it argues for its own answer
    found = post_hoc(real, forced, "text")
    same = sum(one.extra[FORCED] == "MRI" for one in rows)
    assert 10 < same < 30
    assert (found.rate.value, found.other.value, found.rate.n) == (0, 1, 40 - same)
    assert found.left_out == {OWN: same}
    assert found.rate.n + sum(found.left_out.values()) == len(real)


def test_a_row_without_an_answer_of_its_own_can_be_forced():
    (one,) = forced_rows([row("r")], "text", 0).samples
    found = post_hoc([record("", sample=row("r"), strategy="think_after")], [forced_record(one, "")], "text")
    assert (found.nothing.value, found.rate.n, dict(found.left_out)) == (1, 1, {})


def test_where_no_row_is_left_the_shares_are_empty_and_the_reasons_stay():
    (one,) = forced_rows([row("r")], "text", 0).samples
    own = record(f"<answer>{one.extra[FORCED]}</answer><think>x</think>", sample=row("r"), strategy="think_after")
    found = post_hoc([own], [forced_record(one, "")], "text")
    assert (found.rate, found.moved, found.left_out) == (EMPTY, EMPTY, {OWN: 1})
    assert post_hoc([own], [], "text", {"open question": 1}).left_out == {"open question": 1}
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ["think", "nothink", "nothink_raw"])
def test_a_strategy_that_does_not_answer_first_cannot_be_forced(name):
    with pytest.raises(RecipeError, match=f"'{name}' has no rationale behind its answer.*use strategy=think_after"):
        check_forcing(STRATEGIES[name])
    check_forcing(STRATEGIES["think_after"])


# --- means


def test_perplexity_weighs_tokens_and_leaves_out_what_has_none():
    records = [thought("a", sample=row(name)) for name in ("1", "2", "3", "4")]
    scored = {"1": (2.0, 4), "2": (9.0, 3), "3": (0.0, 0)}
    found = perplexity_of("gpt", scored, records)
    assert found.estimate.value == pytest.approx(np.exp(11 / 7))
    assert (found.tokens, found.estimate.n) == (7, 2)
    assert found.estimate.ci_low <= found.estimate.value <= found.estimate.ci_high
    assert found.to_json().keys() == {"model", "tokens", "value", "ci_low", "ci_high", "n"}
    assert perplexity_of("gpt", {}, records).estimate == EMPTY


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@given(values=VALUES, seed=st.integers(0, 3))
def test_a_mean_is_the_mean_and_its_interval_holds_what_resamples_can_reach(values, seed):
    found = mean(values, seed=seed)
    assert (found.value, found.n) == (pytest.approx(np.mean(values), abs=1e-9), len(values))
    if found.ci_low is not None:
        assert min(values) - 1e-6 <= found.ci_low <= found.ci_high <= max(values) + 1e-6
    elif len(values) > 1:
        assert np.ptp(values) < 1e-6 * max(1, abs(values[0]))


def test_a_mean_of_normal_values_has_the_textbook_interval():
    values = np.random.default_rng(0).normal(50, 10, 400)
    found = mean(list(values))
    reach = 1.96 * values.std(ddof=1) / 20
    assert (found.ci_low, found.ci_high) == (
        pytest.approx(values.mean() - reach, abs=0.15),
        pytest.approx(values.mean() + reach, abs=0.15),
    )
    clustered = mean(list(np.repeat(values[:100], 4)), [str(n // 4) for n in range(400)])
    assert clustered.ci_high - clustered.ci_low == pytest.approx(2 * 1.96 * values[:100].std(ddof=1) / 10, rel=0.1)


def test_a_difference_needs_both_sides_and_one_cluster_has_no_interval():
    found = difference([1.0, 2.0, 10.0, 12.0], [True, True, False, False])
    assert (found.value, found.n) == (-9.5, 4)
    assert found.ci_low < -9.5 < found.ci_high < 0
    assert difference([1.0, 2.0], [True, True]) == difference([], []) == EMPTY
    alone = mean([1.0, 3.0], ["a", "a"])
    assert (alone.value, alone.ci_low, alone.ci_high, alone.n) == (2.0, None, None, 2)
    assert mean([5.0, 5.0]).ci_low is None
    assert estimate(np.zeros((0, 2)), lambda totals: totals[:, 0]) == EMPTY
