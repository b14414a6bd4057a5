"""An evaluation's other numbers as text: each with its n, nothing where nothing was measured."""

from osler.measures import measures

HALF = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 20}
FIVE = {"value": 5.0, "ci_low": None, "ci_high": None, "n": 20}
NONE = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
SIDES = {"all": FIVE, "right": FIVE, "wrong": NONE, "difference": NONE}
REASONING = {
    "tag_rate": HALF,
    "reasoning_rate": HALF,
    "conclusive": None,
    "consistency": HALF,
    "unsupported": {"thoughts": HALF, "findings": HALF, "asserted": FIVE, "not_measurable": 0},
    "repetition": dict.fromkeys(SIDES, HALF),
    "tokens": SIDES,
    "perplexity": {"model": "gpt", "tokens": 9, **FIVE},
    "post_hoc": {"rate": HALF, "base": HALF, "moved": HALF, "nothing": HALF},
}


def test_every_part_that_was_measured_has_its_lines():
    found = measures({"reasoning": REASONING, "samples": None, "yesno": None, "letters": None})
    lines = dict(found["Reasoning"])
    assert list(found) == ["Reasoning"]
    assert lines["thought agrees with answer"] == "50.0 % [40.0, 60.0], n = 20"
    assert lines["the difference that forcing makes"] == "+50.0 points [+40.0, +60.0], n = 20"
    assert lines["tokens"] == "5.0, n = 20"
    assert lines["tokens of wrong answers"] == "no rows"
    assert lines["repeated word triples, %"] == "50.0 [40.0, 60.0], n = 20"
    assert lines["perplexity of thoughts under gpt"] == "5.0, n = 20"
    assert "thoughts whose conclusion can be read" not in lines


def test_samples_and_classes():
    samples = {"k": 4, "acc_at_1": HALF, "pass_at_k": HALF, "majority": HALF, "brier": HALF, "aurc": HALF, "ece": None}
    classes = {"balanced_accuracy": HALF, "macro_f1": HALF, "sensitivity": None, "specificity": None}
    found = measures({"samples": samples, "yesno": classes, "letters": classes})
    assert dict(found["Several completions a row"])["any of 4 is right"] == "50.0 % [40.0, 60.0], n = 20"
    assert dict(found["Several completions a row"])["expected calibration error"] == "-"
    assert [what for what, _ in found["Yes/no questions, as a classifier's"]] == ["balanced accuracy", "macro F1"]


def test_nothing_measured_is_nothing_shown():
    assert measures({"reasoning": None, "samples": None, "yesno": None, "letters": None}) == {}
