"""What a thought concludes, and phrases that stand in a text or are denied by it."""

import re
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.reasoning.conclusions import conclusion, consistent
from osler.reasoning.mentions import denied, listed, mentions, places
from osler.schema import Kind, Parsed, Sample, fold_text
from osler.strategies import STRATEGIES

SCAN = ("MRI", "Ultrasound", "CT", "CT angiography")
MASS = ("lung nodule", "a cyst", "cyst wall", "normal")


def choice(*options):
    return Sample(id="1", images=(), question="Which?", golds=(options[0],), options=options, gold_index=0)


def yesno(gold="no", options=(), language="en"):
    return Sample(id="1", images=(), question="?", golds=(gold,), options=options, kind=Kind.YESNO, language=language)


def parsed(thought, answer=None):
    return Parsed(answer, answer, thought, answer is not None)


@pytest.mark.parametrize(
    ("options", "thought", "concluded"),
    [
        (SCAN, "The modality is CT.", "CT"),
        (SCAN, "The modality is ct", "CT"),
        (SCAN, "It is no MRI. It is a CT.", "CT"),
        (SCAN, "It could be an MRI. But bone is bright, as in CT", "CT"),
        (SCAN, "This is CT angiography.", "CT angiography"),
        (SCAN, "CT is common, yet this is CT angiography. ", "CT angiography"),
        (SCAN, "This is CT  angiography, or rather plain CT", "CT"),
        (SCAN, "CT or MRI", None),
        (SCAN, "Options: MRI, Ultrasound, CT, CT angiography", None),
        (SCAN, "MRI/CT", None),
        (SCAN, "It is the CT and the MRI.", None),
        (SCAN, "It is CT, CT I say.", "CT"),
        (SCAN, "Not CT but MRI.", "MRI"),
        (SCAN, "An MRI, not a CT", "MRI"),
        (SCAN, "It is an MRI rather than a CT.", "MRI"),
        (SCAN, "It isn't CT.", None),
        (SCAN, "CT is unlikely.", None),
        (SCAN, "It looks like MRI; CT can be excluded", "MRI"),
        (SCAN, "MRI is not the modality here. CT", "CT"),
        (SCAN, "There is no doubt that it is CT", "CT"),
        (SCAN, "Is it a CT?", None),
        (SCAN, "It is MRI. Could it be CT? ", "MRI"),
        (SCAN, "The answer is CT. MRI would show cartilage.", "CT"),
        (SCAN, "The answer is most likely the CT, as MRI is darker", "CT"),
        (SCAN, "The answer is CT or MRI", None),
        (SCAN, "The answer is either CT or MRI", None),
        (SCAN, "CT to MRI", None),
        (SCAN, "The wrong answer is CT. MRI", "MRI"),
        (SCAN, "I choose CT, as MRI is darker", "CT"),
        (SCAN, "CT is the correct answer; MRI is darker", "CT"),
        (SCAN, "CT is correct. MRI is darker", "CT"),
        (SCAN, "CT is right-sided. MRI", "MRI"),
        (SCAN, "CT is one of the options. It is MRI", "MRI"),
        (SCAN, "MRI is a better answer than CT", "MRI"),
        (SCAN, "It is more likely CT than an MRI", "CT"),
        (SCAN, "It is MRI. A CT would be brighter.", "MRI"),
        (SCAN, "It is MRI. CT would be the best answer", "CT"),
        (SCAN, "It is MRI. If it were a CT, bone would be bright.", "MRI"),
        (SCAN, "At first I thought of a CT", None),
        (SCAN, "The answer is CT. Wait, it must be MRI.", "MRI"),
        (SCAN, "The answer is CT. Wait, let me check again. Bone is bright.", "CT"),
        (SCAN, "The answer is CT. Hmm, wait. The answer is MRI. Hold on, it is ultrasound", "Ultrasound"),
        (SCAN, "CT shows bone bright. There is no bright bone in this MRI.", "MRI"),
        (SCAN, "CT shows bone bright. There is no bright bone on this knee MRI, so it is dark.", "MRI"),
        (SCAN, "CT shows bone bright. There is no bright bone in the MRI.", None),
        (SCAN, "CT shows bone bright. Without contrast this MRI is dark.", None),
        (SCAN, "There is no bright bone in the CT. It is MRI.", "MRI"),
        (SCAN, "It is CT: there is no dark bone in the CT.", "CT"),
        (SCAN, "The answer is CT. There is no dark bone in the MRI.", "CT"),
        (SCAN, "It is CT. There is no sign of MRI at all.", "CT"),
        (SCAN, "It is CT, not at all an MRI.", "CT"),
        (SCAN, "It is CT. In no case is it an MRI.", "CT"),
        (SCAN, "It can't be other than CT", "CT"),
        (SCAN, "It is nothing other than CT", "CT"),
        (SCAN, "No other modality than CT looks like this.", "CT"),
        (SCAN, "It is MRI, other than CT", "MRI"),
        (SCAN, "CT is less likely. MRI is dark. CT is less likely", "MRI"),
        (("mild", "severe"), "It is mild and non-severe", "mild"),
        (("mild", "severe"), "It is mild-to-severe", None),
        (SCAN, "The answer is not CT. MRI is darker", "MRI"),
        (SCAN, "octopus, actor, factCT", None),
        (SCAN, "I see nothing", None),
        (MASS, "Dark and round: a cyst.", "a cyst"),
        (MASS, "There is a cyst wall.", "cyst wall"),
        (MASS, "no lung nodule, a cyst or anything else; so normal", "normal"),
        (MASS, "It is abnormal.", None),
        (("none", "cyst"), "None of these marks is a cyst.", "cyst"),
        (("none", "cyst"), "The answer is none.", "none"),
        (("1", "2", "12"), "I count 2 of them in slice 12", "12"),
        (("1", "2", "12"), "1 or more. The answer is 2", "2"),
        (("Hepatitis B", "Hepatitis C"), "It is hepatitis b", "Hepatitis B"),
        (("肺炎", "正常", "气胸"), "右肺有阴影,所以是肺炎。", "肺炎"),
        (("肺炎", "正常", "气胸"), "肺部不正常", None),
        (("肺炎", "正常", "气胸"), "不是肺炎,而是气胸", "气胸"),
        (("肺炎", "正常", "气胸"), "答案是肺炎。正常的肺是黑的", "肺炎"),
        (("التهاب", "كسر"), "الجواب هو كسر", "كسر"),
        (("हड्डी", "हड्ड"), "यह हड्डी है", "हड्डी"),
        (("œdème", "fracture"), "Il s'agit d'un ŒDÈME.", "œdème"),
    ],
)
def test_what_is_concluded_in_text_form(options, thought, concluded):
    assert conclusion(choice(*options), parsed(thought), "text") == concluded


@pytest.mark.parametrize(
    ("thought", "concluded"),
    [
        ("The answer is B.", "B"),
        ("Answer: C", "C"),
        ("So option D", "D"),
        ("The correct option is (B)", "B"),
        ("I choose A because of the dark bone", "A"),
        ("It is CT", "C"),
        ("It is CT angiography", "D"),
        ("Option A is wrong, so option B.", "B"),
        ("Option B. Option A is wrong.", "B"),
        ("The answer is A or B", None),
        ("The answer is B, a clear one", "B"),
        ("Option B, A, C are left", None),
        ("A CT would be dark; B mode is Ultrasound", "B"),
        ("A", None),
        ("The answer is J", None),
        ("answer is Best", None),
        ("A) MRI, B) Ultrasound, C) CT", None),
        ("The answer is C, which is MRI", "C"),  # what is stated comes before what is named
        ("GROẞ: the answer is B. MRI", "B"),
        ("De\u0301ja\u0300 vu\u0308: the answer is B. Why?", "B"),  # a place is that in the composed text
        ("Option C would show bone in white. This image shows an MRI of the knee.", "A"),
        ("Option C is CT and option B is ultrasound. The image shows soft tissue, so it is an MRI.", "A"),
        ("Looking at (C), bone is white. Here it is not. The image is an MRI.", "A"),
        ("The answer is B. Option A would show bone.", "B"),
        ("The answer is B. Option A shows bone.", "B"),
        ("The answer is MRI. Option B would show bone.", "A"),
        ("Answer A is dark, answer B is bright, so it is dark: MRI", "A"),
        ("The correct option is B.", "B"),
        ("The correct choice is B. A is dark", "B"),
        ("The answer should therefore be B. (A) is dark", "B"),
        ("**Answer**: B", "B"),
        ("**Answer:** B", "B"),
        (r"The answer is \boxed{B}", "B"),
        (r"\boxed{\text{B}}", None),
        ("The answer is `B`", "B"),
        ("The final answer is $B$", "B"),
        ("the right answer must be option B. (A) is dark", "B"),
        ("Therefore, B.", "B"),
        ("So it is (B). Option A is dark", "B"),
        ("So B looks dark", None),
        ("B is correct. Option A is dark.", "B"),
        ("Option B is the correct answer; (A) is dark", "B"),
        ("B is not correct", None),
        ("B is right-sided", None),
        ("B is incorrect", None),
        ("I would answer B. (A) is dark", "B"),
        ("I would not choose B", None),
        ("If the answer is B, bone is white. But it is MRI.", "A"),
        ("At first I thought the answer is B, but the image is MRI.", "A"),
        ("The answer is B. Wait, it must be MRI.", "A"),
        ("The wrong answer is B", None),
        ("The answer is B, or rather A", "B"),
        ("It is (A) or (B)", None),
        ("The answer is (A) or (B)", None),
        ("It is MRI (A)", "A"),
        ("It is MRI (B)", None),
        ("答案是B", "B"),
        ("选项A很暗。答案B", "B"),
        ("选C。", "C"),
    ],
)
def test_what_is_concluded_in_letter_form(thought, concluded):
    assert conclusion(choice(*SCAN), parsed(thought), "letter") == concluded


@pytest.mark.parametrize(
    ("sample", "thought", "concluded"),
    [
        (yesno(), "There is no lesion to be seen", None),
        (yesno(), "No lesion. The answer is yes", "yes"),
        (yesno(), "There is no lesion, so the answer is no.", "no"),
        (yesno(), "The answer is no lesion", None),
        (yesno(), "No, the lung is clear", "no"),
        (yesno(), "The lung is dark. So yes.", "yes"),
        (yesno(), "Yes", "yes"),
        (yesno(), "The answer is not yes", None),
        (yesno(), "Is it dense? No. Round? Yes, so the answer is no", "no"),
        (yesno(), "yes or no", None),
        (yesno("ja", ("ja", "nein"), "de"), "Kein Befund. Die Antwort ist nein.", "nein"),
        (yesno("否", ("是", "否"), "zh"), "这是肺部。答案: 否", "否"),
        (yesno("否", ("是", "否"), "zh"), "这是肺部。答案是否", None),  # one character must stand alone
        (yesno("是", ("是", "否"), "zh"), "这不是肺部", None),
        (yesno("sí", (), "es"), "la respuesta es sí", None),  # only its gold is known: there is nothing to conclude among
        (yesno("no", (), "es"), "No. La respuesta es no", None),
        (Sample(id="1", images=(), question="?", golds=("CT",), kind=Kind.OPEN), "It is a CT", None),
    ],
)
def test_what_is_concluded_without_letters(sample, thought, concluded):
    assert conclusion(sample, parsed(thought), "letter") == concluded


@pytest.mark.parametrize(
    ("thought", "answer", "form", "agrees"),
    [
        ("It is CT", "C", "letter", True),
        ("It is CT", "A", "letter", False),
        ("It is CT", "CT.", "text", True),
        ("It is CT", "MRI", "text", False),
        ("It is CT", "C", "text", None),  # no possible answer in text form
        ("It is CT", None, "letter", None),
        ("It is dark", "C", "letter", None),
        (None, "C", "letter", None),
        ("", "C", "letter", None),
    ],
)
def test_a_thought_is_consistent_with_the_answer_that_it_concludes(thought, answer, form, agrees):
    assert consistent(choice(*SCAN), parsed(thought, answer), form) is agrees


def test_options_that_fold_alike_are_one_conclusion():
    twins = Sample(id="1", images=(), question="?", golds=("CT",), options=("CT", "ct.", "MRI"), gold_index=1)
    assert [consistent(twins, parsed("It is CT", letter), "letter") for letter in "ABC"] == [True, True, False]


@pytest.mark.parametrize("strategy", ["think", "think_after"])
@pytest.mark.parametrize("form", ["letter", "text"])
@given(data=st.data())
def test_a_thought_that_ends_with_its_answer_is_consistent_in_any_script(strategy, form, data):
    options = data.draw(
        st.lists(st.sampled_from(["CT", "lung nodule", "肺炎", "كسر", "हड्डी", "ঢাকা", "폐렴"]), min_size=2, unique=True)
    )
    place = data.draw(st.integers(0, len(options) - 1))
    said = data.draw(st.sampled_from([f"There is something: {options[place]}", f"... the answer is {options[place]}."]))
    sample = replace(choice(*options), gold_index=place, golds=(options[place],), rationale=said)
    found = STRATEGIES[strategy].parse(STRATEGIES[strategy].completion(sample, form))
    assert consistent(sample, found, form) is True


LATIN = st.text("ab c", max_size=24).map(fold_text)


@given(text=LATIN, phrase=st.text("ab", min_size=1, max_size=3))
def test_places_are_those_of_a_pattern_with_word_boundaries(text, phrase):
    assert places(phrase, text) == [match.span() for match in re.finditer(rf"(?<!\w){phrase}(?!\w)", text)]


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("normal", "abnormal", 0),
        ("肺炎", "这是肺炎吗", 1),
        ("是", "这是肺炎", 0),
        ("是", "答案: 是", 1),
        ("正常", "不正常, 正常", 1),
        ("ct", "ct检查", 1),
        ("हड्ड", "हड्डी", 0),  # the vowel sign belongs to the letter before it
        ("cafe", "cafe\u0301", 0),
        ("ปอด", "ปอดบวม", 1),
        ("ปอด", "ปอด้", 0),
        ("", "x", 0),
        ("50%", "a 50% share", 1),
    ],
)
def test_whole_words_in_any_script(phrase, text, count):
    assert len(places(phrase, text)) == count


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("a cyst", [False]),
        ("not a cyst", [True]),
        ("no cyst, stone or mass", [True, True, True]),
        ("no cyst, but a stone", [True, False]),
        ("it is not the case that we would ever see a cyst", [False]),  # beyond the window
        ("no cyst and it holds a stone", [True, False]),
        ("a cyst is not seen", [True]),
        ("a cyst cannot be seen", [True]),
        ("the cyst has been ruled out", [True]),
        ("not only a cyst", [False]),
        ("nothing. cyst", [False]),
        ("a cyst without stone", [False, True]),
        ("没有cyst", [True]),
        ("no cyst in this stone", [True, False]),
        ("nothing in this stone", [False]),
        ("nothing bright and no dark rim in the stone", [True]),
        ("other than a cyst", [True]),
        ("nothing other than a cyst", [False]),
        ("smaller than a cyst", [True]),
        ("more than half a cyst", [False]),
        ("less cyst", [True]),
        ("less dark cyst", [False]),
        ("a large cyst stone is excluded", [True, True]),
        ("a cyst, stone excluded", [False, True]),
    ],
)
def test_what_a_text_denies(text, flags):
    assert denied(text, mentions(("cyst", "stone", "mass"), text)) == flags


@pytest.mark.parametrize(
    ("text", "outright"),
    [
        ("no cyst", True),
        ("no sign of a cyst", True),
        ("not really at all a cyst", True),
        ("not this cyst", True),
        ("no air in the cyst", False),
        ("we do not see this cyst", False),
        ("without air this cyst", False),
    ],
)
def test_what_is_denied_but_not_outright(text, outright):
    found = mentions(("cyst",), text)
    assert (denied(text, found), denied(text, found, outright=True)) == ([True], [outright])


def test_what_is_denied_alone_hands_nothing_on():
    text = "not a normal chest, normal or healthy hand"
    found = mentions(("normal", "chest", "healthy", "hand"), text)
    assert denied(text, found) == [True, False, False, False, False]
    text = "no normal, chest"
    assert denied(text, mentions(("normal", "chest"), text)) == [True, True]


def test_a_loop_is_read_in_no_time():
    started = time.process_time()
    for text in ("the answer is " + "(" * 20_000, "so " * 5_000, "option B, " * 300):
        conclusion(choice(*SCAN), parsed(text), "letter")
    assert time.process_time() - started < 5


def test_a_mention_inside_a_longer_one_is_none():
    found = mentions(("cyst", "bone cyst", "bone"), "a bone cyst in bone, and a cyst")
    assert [one.number for one in found] == [1, 2, 0]
    assert [listed("a bone cyst in bone, and a cyst", *pair) for pair in pairwise(found)] == [False, True]
