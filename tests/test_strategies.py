"""What is asked, what counts as well formed, and what is read back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from osler.errors import DataError, RecipeError
from osler.grading import grader
from osler.schema import LETTERS, Kind, Outcome, Sample, fold_text
from osler.strategies import DRAWN, INFERRED, STRATEGIES, Mixed, gold_answer, offered, strategy_of, thought_in
from osler.wordings import WORDINGS, strategy_for

THINK, NOTHINK, RAW, AFTER = (STRATEGIES[name] for name in ("think", "nothink", "nothink_raw", "think_after"))
PROMPTED = [one for one in [*DRAWN.values(), *INFERRED.values()] if not isinstance(one, Mixed)]
ENVELOPES = STRATEGIES | {one.name: one for one in PROMPTED}
CT = Sample(id="1", images=("a.png",), question="Which?", golds=("CT",), options=("MRI", "CT", "OCT"), gold_index=1)

SCRIPTS = st.sampled_from(
    [
        "肺炎",
        "是",
        "不是。",
        "التهاب رئوي",
        "دَرَجَة",
        "हड्डी",
        "e\u0301de\u0300me",
        "ßtraße",
        "İst",
        "폐렴",
        "ปอด",
        "B) liver",
        "(A)",
        "{what}",
        "a\u00a0b",
        "\U0001fac1",
    ]
)
TEXT = (st.text("abCT 12.,()'{}é\n", min_size=1, max_size=12) | SCRIPTS | st.text(min_size=1, max_size=8)).filter(
    lambda text: fold_text(text) and "<" not in text
)
THOUGHT = TEXT | st.just("<b> A) {x} </b>\nno")
QUESTION = TEXT | st.just("<think>Which</think> <answer>A</answer>?")
YES_NO = st.sampled_from([("yes", "no"), ("No", "Yes."), ("ja", "nein"), ("是", "否"), ("是", "不是"), ("نعم", "لا"), ()])


@st.composite
def samples(draw):
    kind = draw(st.sampled_from(Kind))
    facts = {"id": "1", "images": ("a.png",), "question": draw(QUESTION), "kind": kind}
    facts |= {"rationale": draw(THOUGHT), "language": draw(st.sampled_from(["en", "zh", "es", ""]))}
    if kind is Kind.CHOICE:
        options = draw(st.lists(TEXT, min_size=2, max_size=10, unique_by=fold_text))
        index = draw(st.integers(0, len(options) - 1))
        return Sample(**facts, options=tuple(options), gold_index=index, golds=(options[index],))
    if kind is Kind.OPEN:
        return Sample(**facts, golds=(draw(TEXT),))
    options = draw(YES_NO)
    gold = draw(st.sampled_from(options or ["yes", "No", " YES ", "sí", "no.", "不是"]))
    return Sample(**facts, golds=(gold,), options=options, gold_index=options.index(gold) if options else None)


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@pytest.mark.parametrize("strategy", ENVELOPES.values(), ids=ENVELOPES)
@given(sample=samples())
def test_the_target_of_a_gold_is_well_formed_and_correct(strategy, answer_form, sample):
    completion = strategy.completion(sample, answer_form)
    parsed = strategy.parse(completion)
    verdict = grader(answer_form)(sample, parsed)
    assert parsed.well_formed
    assert parsed.answer == gold_answer(sample, answer_form).strip()
    assert parsed.thought == (sample.rationale.strip() if strategy.thinks else None)
    assert strategy.of(sample) is strategy
    assert (verdict.outcome, verdict.lenient) == (Outcome.CORRECT, Outcome.CORRECT)
    assert verdict.compared is not None


@pytest.mark.parametrize("answer_form", ["letter", "text"])
@pytest.mark.parametrize("strategy", ENVELOPES.values(), ids=ENVELOPES)
@given(sample=samples())
def test_question_options_and_thought_pass_through_untouched(strategy, answer_form, sample):
    asked = strategy.question(sample, answer_form)
    assert asked.startswith(sample.question + "\n")
    if sample.kind is Kind.CHOICE:
        assert all(option in asked for option in sample.options)
    if strategy.thinks:
        assert sample.rationale in strategy.completion(sample, answer_form)


@pytest.mark.parametrize(
    ("language", "golds", "options", "what", "answers"),
    [
        ("en", ("yes",), (), "yes or no", ("yes", "no")),
        ("en-GB", ("No.",), (), "yes or no", ("yes", "no")),
        ("en", ("No",), ("No", "Yes"), "yes or no", ("No", "Yes")),
        ("es", ("no",), (), "the answer", ()),  # a `sí` of the same data set is asked in the same words
        ("es", ("sí",), (), "the answer", ()),
        ("es", ("no",), ("sí", "no"), "sí or no", ("sí", "no")),
        ("zh", ("不是",), (), "the answer", ()),
        ("de", ("nein",), ("ja", "nein"), "ja or nein", ("ja", "nein")),
    ],
)
def test_yes_and_no_are_ours_in_english_only(language, golds, options, what, answers):
    sample = Sample(id="1", images=(), question="?", golds=golds, options=options, kind=Kind.YESNO, language=language)
    assert offered(sample) == answers
    assert RAW.question(sample, "letter") == f"?\nGive {what} and nothing else."


@pytest.mark.parametrize(
    ("golds", "options", "language", "said", "strict", "lenient"),
    [
        (("sí",), (), "es", "SÍ.", True, True),
        (("sí",), (), "es", "no", False, False),
        (("sí",), (), "es", "yes", False, False),
        (("no",), (), "es", "no", True, True),
        (("nein",), ("ja", "nein"), "de", "Nein, kein Befund", False, True),
        (("nein",), ("ja", "nein"), "de", "no", False, False),
        (("nein",), ("ja", "nein"), "de", "ja oder nein", False, False),
        (("是",), ("是", "不是"), "zh", "不是", False, False),
        (("不是",), ("是", "不是"), "zh", "不是,这里没有", False, True),
        (("no",), (), "en", "No lesion", False, True),
    ],
)
def test_yes_and_no_are_graded_by_their_own_golds_and_options(golds, options, language, said, strict, lenient):
    sample = Sample(id="1", images=(), question="?", golds=golds, options=options, kind=Kind.YESNO, language=language)
    verdict = grader("letter")(sample, RAW.parse(said))
    assert (verdict.outcome is Outcome.CORRECT, verdict.lenient is Outcome.CORRECT) == (strict, lenient)


@pytest.mark.parametrize(
    ("options", "gold", "answer_form", "said", "right"),
    [
        (("肺炎", "气胸"), 0, "text", "这是肺炎。", True),
        (("肺炎", "非肺炎"), 1, "text", "诊断: 非肺炎", True),
        (("正常", "肺炎"), 0, "text", "不正常", False),
        (("肺炎", "气胸"), 1, "letter", "答案是B。", True),
        (("肺炎", "气胸"), 1, "letter", "选B", True),
        (("肺炎", "气胸"), 1, "letter", "B型超声", False),
        (("폐렴", "골절"), 0, "letter", "정답은 A입니다", True),
        (("हड्डी", "हड्ड"), 1, "text", "यह हड्डी है", False),
        (("كسر", "التهاب"), 0, "text", "إنه كسر واضح", True),
    ],
)
def test_whole_words_are_read_leniently_in_any_script(options, gold, answer_form, said, right):
    sample = Sample(id="1", images=(), question="?", golds=(options[gold],), options=options, gold_index=gold)
    assert (grader(answer_form)(sample, RAW.parse(said)).lenient is Outcome.CORRECT) is right


@pytest.mark.parametrize(
    ("strategy", "changes", "what"),
    [
        (THINK, {"rationale": "so </think>"}, "rationale holds </think>"),
        (AFTER, {"rationale": "<answer>B</answer>"}, "rationale holds <answer>"),
        (NOTHINK, {"golds": ("x</answer>",), "options": (), "gold_index": None, "kind": Kind.OPEN}, "gold holds </answer>"),
    ],
)
def test_what_could_not_be_read_back_is_not_taught(strategy, changes, what):
    sample = replace(CT, rationale="dark", origin="rows.jsonl, row 3")
    with pytest.raises(DataError, match=rf"rows.jsonl, row 3: its {what}.*Take it out"):
        strategy.completion(replace(sample, **changes), "text")


@pytest.mark.parametrize(
    ("completion", "thought"),
    [
        ("<think> a\nb </think>x", "a\nb"),
        ("<answer>B</answer><think>a", "a"),
        ("<think>", ""),
        ("B", None),
        ("a</think>", None),
    ],
)
def test_a_thought_that_was_not_closed_is_one(completion, thought):
    assert thought_in(completion) == thought


def test_a_completion_can_be_begun_where_the_answer_comes_first():
    assert [name for name, one in STRATEGIES.items() if one.answers_first] == ["think_after"]
    assert AFTER.begun("{B}") == "<answer>{B}</answer><think>"
    whole = AFTER.parse(AFTER.begun("B") + "x</think>")
    assert (whole.answer, whole.thought, whole.well_formed) == ("B", "x", True)
    assert AFTER.completion(replace(CT, rationale="dark"), "letter").startswith(AFTER.begun("B"))


QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("answer", ["B", "bone cyst", "肺炎"])
def test_what_a_completion_is_begun_with_ends_between_words_of_qwen2_but_for_a_bracket(answer):
    pieces = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated").pre_tokenize_str
    begun = [piece for piece, _ in pieces(AFTER.begun(answer))]
    whole = [piece for piece, _ in pieces(AFTER.begun(answer) + "The lesion is dark.</think>")]
    assert begun[:-1] == whole[: len(begun) - 1]
    assert (begun[-3:], whole[len(begun) - 1]) == (["><", "think", ">"], ">The")


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_wording_of_medr1_differs_in_training_and_evaluation(name):
    strategy = STRATEGIES[name]
    assert strategy_for(name, "same", "training") is strategy_for(name, "same", "evaluation") is strategy
    training, evaluation = (strategy_for(name, "medr1", use) for use in ("training", "evaluation"))
    for one in (training, evaluation):
        assert replace(one, instruction=strategy.instruction) == strategy
        asked = one.question(CT, "letter")
        assert "the letter of the right option" in asked
        assert ("<answer>" in asked, "<think>" in asked) == (strategy.tagged, strategy.thinks)
        if strategy.thinks:
            assert (asked.index("<think>") < asked.index("<answer>")) == (not strategy.answers_first)
    instruction = training.question(CT, "letter").splitlines()[4:]
    assert [line[:2] for line in instruction[1:]] == [f"{n}." for n in range(1, len(instruction))]
    assert len(evaluation.instruction) < len(training.instruction)


def test_an_unknown_wording_suggests_the_nearest():
    assert set(WORDINGS) == {"same", "medr1"}
    with pytest.raises(RecipeError, match=r"unknown wording 'medr'\. Did you mean 'medr1'\?"):
        strategy_for("think", "medr", "training")


@pytest.mark.parametrize("strategy", [THINK, AFTER], ids=["think", "think_after"])
def test_a_thought_cannot_be_taught_without_a_rationale(strategy):
    with pytest.raises(RecipeError, match=r"'1' has no rationale.*strategy=nothink"):
        strategy.completion(CT, "letter")


T, A = "<think>x\ny</think>", "<answer>B</answer>"


@pytest.mark.parametrize(
    ("strategy", "completion", "well_formed"),
    [
        (THINK, T + A, True),
        (THINK, f"{T} \n\t{A}", True),
        (THINK, "<think></think><answer></answer>", True),
        (THINK, f"{T}{A}{A}", True),  # `.*?` under a full match reaches over further tags
        (THINK, f"{T}{T}{A}", True),
        (THINK, f" {T}{A}", False),
        (THINK, f"{T}{A} ", False),
        (THINK, f"{T}{A}\n", False),
        (THINK, f"{T} so {A}", False),
        (THINK, f"{T}{A}.", False),
        (THINK, A, False),
        (THINK, T, False),
        (THINK, A + T, False),
        (THINK, f"{T}<answer>B", False),
        (THINK, f"{T}<Answer>B</Answer>", False),
        (THINK, "B", False),
        (THINK, "", False),
        (NOTHINK, A, True),
        (NOTHINK, f" \n{A}", True),
        (NOTHINK, "<answer>\nB\n</answer>", True),
        (NOTHINK, f"{A}{A}", True),
        (NOTHINK, f"{A} ", False),
        (NOTHINK, f"{A}\n", False),
        (NOTHINK, T + A, False),
        (NOTHINK, "B", False),
        (AFTER, A + T, True),
        (AFTER, f"{A}\n {T}", True),
        (AFTER, T + A, False),
        (AFTER, f" {A}{T}", False),
        (AFTER, f"{A}{T} ", False),
        (AFTER, A, False),
        (RAW, "B", True),
        (RAW, A, True),
        (RAW, "", False),
    ],
)
def test_what_is_well_formed(strategy, completion, well_formed):
    assert strategy.parse(completion).well_formed is well_formed


@pytest.mark.parametrize(
    ("strategy", "completion", "answer", "lenient", "thought"),
    [
        (THINK, f"{T}{A}", "B", "B", "x\ny"),
        (THINK, f"{T}<answer> B \n</answer>", "B", "B", "x\ny"),
        (THINK, f"{T}{A}<answer>C</answer>", "B", "B", "x\ny"),
        (THINK, f"{T}{A} done", None, "B", "x\ny"),
        (THINK, f"B? {T} It is C", None, "It is C", "x\ny"),
        (THINK, f"{T}<answer>C", None, "<answer>C", "x\ny"),
        (THINK, f"{T}<answer> </answer>", None, None, "x\ny"),
        (THINK, "<think>it may be B, or", None, None, None),
        (THINK, "B", None, "B", None),
        (NOTHINK, A, "B", "B", None),
        (NOTHINK, "B", None, "B", None),
        (NOTHINK, f"<answer>B</answer><answer>C</answer>{A}", "B", "B", None),
        (NOTHINK, "<think>B", None, None, None),
        (NOTHINK, T, None, None, "x\ny"),
        (AFTER, A + T, "B", "B", "x\ny"),
        (AFTER, f"{A}<think>but C", None, "B", None),
        (AFTER, f"B {T}", None, "B", "x\ny"),
        (RAW, " B\n", "B", "B", None),
        (RAW, A, A, "B", None),
        (RAW, "", None, None, None),
    ],
)
def test_what_is_read_back(strategy, completion, answer, lenient, thought):
    parsed = strategy.parse(completion)
    assert (parsed.answer, parsed.lenient, parsed.thought) == (answer, lenient, thought)


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "B", "x"]), max_size=12).map(
    "".join
)


@pytest.mark.parametrize("strategy", ENVELOPES.values(), ids=ENVELOPES)
@given(completion=st.lists(PIECES, max_size=12).map("".join))
def test_an_answer_is_read_from_a_well_formed_completion_only_and_stands_in_it(strategy, completion):
    parsed = strategy.parse(completion)
    if parsed.answer is not None:
        assert parsed.well_formed
        assert parsed.answer in completion
        assert parsed.answer == parsed.answer.strip() != ""
    if strategy.tagged and "<answer>" not in completion:
        assert not parsed.well_formed


@pytest.mark.parametrize(("answer_form", "marks"), [("letter", ["A)", "B)", "C)"]), ("text", ["-"] * 3)])
@pytest.mark.parametrize("strategy", ENVELOPES.values(), ids=ENVELOPES)
def test_the_prompt_holds_question_options_and_instruction_but_no_path(strategy, answer_form, marks):
    first, *options, instruction = strategy.question(CT, answer_form).split("\n")
    assert (first, options) == ("Which?", [f"{mark} {option}" for mark, option in zip(marks, CT.options, strict=True)])
    assert ("<answer>" in instruction, "<think>" in instruction) == (strategy.tagged, strategy.thinks)
    assert ("letter" in instruction) == (answer_form == "letter")
    assert "a.png" not in strategy.question(CT, answer_form)


def test_the_prompt_of_a_question_without_options():
    yesno = Sample(id="1", images=(), question="Is it?", golds=("yes",), kind=Kind.YESNO)
    assert NOTHINK.question(yesno, "letter") == "Is it?\nGive yes or no inside <answer></answer> and nothing else."
    free = Sample(id="1", images=(), question="What?", golds=("a mass",), kind=Kind.OPEN)
    assert RAW.question(free, "letter") == "What?\nGive the answer and nothing else."


def test_ten_options_have_ten_letters():
    many = Sample(id="1", images=(), question="?", golds=("9",), options=tuple("0123456789"), gold_index=9)
    assert THINK.question(many, "letter").split("\n")[-2] == "J) 9"
    assert gold_answer(many, "letter") == LETTERS[-1]


@pytest.mark.parametrize(("name", "near"), [("thnk", "think"), ("think-after", "think_after"), ("no_think", "nothink")])
def test_an_unknown_strategy_suggests_the_nearest(name, near):
    with pytest.raises(RecipeError, match=f"unknown strategy '{name}'. Did you mean '{near}'?"):
        strategy_of(name)
    assert strategy_of(near) is STRATEGIES[near]
