"""Classification by scikit-learn's numbers, by hand, and by how often its intervals hold the truth."""

import numpy as np
import pytest
from sklearn import metrics

from osler import stats
from osler.classification import (
    Label,
    balanced_accuracy,
    by_label,
    classify,
    macro_f1,
    sensitivity,
    specificity,
    unparseable,
)
from osler.stats import EMPTY, proportion, wilson

OUT_OF_FORM = "no label"


def drawn(seed, labels, rows=300, foreign="E"):
    """Golds and answers: half right, some unreadable, some a label that is never gold."""
    rng = np.random.default_rng(seed)
    golds = list(rng.choice(labels, size=rows))
    guesses = rng.choice([*labels, foreign, None], size=rows)
    return golds, [gold if right else guess for gold, guess, right in zip(golds, guesses, rng.random(rows) < 0.5, strict=True)]


def named(answers):
    return [OUT_OF_FORM if answer is None else str(answer) for answer in answers]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("labels", [["no", "yes"], list("ABCD")], ids=["yes/no", "letters"])
def test_scores_agree_with_scikit_learns(seed, labels):
    golds, answers = drawn(seed, labels)
    common = {"labels": labels, "average": "macro", "zero_division": 0}
    assert balanced_accuracy(golds, answers).value == pytest.approx(metrics.recall_score(golds, named(answers), **common))
    assert macro_f1(golds, answers).value == pytest.approx(metrics.f1_score(golds, named(answers), **common))
    found = classify(golds, answers)
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(golds, named(answers)))
    recalls = metrics.recall_score(golds, named(answers), labels=labels, average=None)
    assert [found.labels[label].recall.value for label in labels] == pytest.approx(list(recalls))


@pytest.mark.parametrize("seed", range(4))
def test_balanced_accuracy_agrees_with_scikit_learns_own(seed):
    rng = np.random.default_rng(seed)
    golds, answers = list(rng.choice(list("AABC"), size=200)), list(rng.choice(list("ABBC"), size=200))
    assert balanced_accuracy(golds, answers).value == pytest.approx(metrics.balanced_accuracy_score(golds, answers))


@pytest.mark.parametrize("seed", range(3))
def test_sensitivity_and_specificity_agree_with_scikit_learns(seed):
    golds, answers = drawn(seed, ["no", "yes"], foreign="no")
    readable = [(gold, answer) for gold, answer in zip(golds, answers, strict=True) if answer is not None]
    (tn, fp), (fn, tp) = metrics.confusion_matrix(*zip(*readable, strict=True), labels=["no", "yes"])
    missed = {label: sum(g == label and a is None for g, a in zip(golds, answers, strict=True)) for label in ("yes", "no")}
    assert sensitivity(golds, answers).value == pytest.approx(tp / (tp + fn + missed["yes"]))
    assert specificity(golds, answers).value == pytest.approx(tn / (tn + fp + missed["no"]))
    both = (sensitivity(golds, answers).value + specificity(golds, answers).value) / 2
    assert balanced_accuracy(golds, answers).value == pytest.approx(both)


def test_yes_and_no_by_hand():
    golds = ["yes", "yes", "yes", "no", "no"]
    answers = ["yes", None, "no", "no", None]
    found = classify(golds, answers, ["a", "a", "b", "c", "d"], positive="yes")
    assert (found.n, found.unparseable) == (5, 2)
    assert found.accuracy == proportion([1, 0, 0, 1, 0], ["a", "a", "b", "c", "d"])
    assert found.sensitivity == proportion([1, 0, 0], ["a", "a", "b"])
    assert found.specificity == proportion([1, 0], ["c", "d"])
    assert found.balanced_accuracy.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    # yes: TP 1, FP 0, FN 2; no: TP 1, FP 1, FN 1
    assert found.macro_f1.value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert list(found.labels) == ["no", "yes"]
    assert found.labels["no"] == Label(2, 2, found.specificity)
    assert found.to_json()["labels"]["yes"]["answered"] == 1
    assert unparseable(answers) == 2


def test_a_constant_answer_scores_one_over_the_labels():
    golds = ["yes"] * 90 + ["no"] * 10
    found = classify(golds, ["yes"] * 100, positive="yes")
    assert (found.accuracy.value, found.balanced_accuracy.value) == (0.9, 0.5)
    assert (found.sensitivity.value, found.specificity.value) == (1, 0)
    assert found.macro_f1.value == pytest.approx((180 / 190 + 0) / 2)


def test_the_letters_show_a_favourite_and_what_it_costs():
    golds, answers = list("ABCD" * 25), ["A"] * 50 + list("ABCD" * 12) + [None, "E"]
    labels = by_label(golds, answers)
    assert {letter: (label.gold, label.answered) for letter, label in labels.items()} == {
        "A": (25, 62),
        "B": (25, 12),
        "C": (25, 12),
        "D": (25, 12),
        "E": (0, 1),
    }
    # "ABCD" * 25 from row 50 on is out of step by two: only A where all were A is right
    assert [labels[letter].recall.value for letter in "ABCD"] == [13 / 25, 0, 0, 0]
    assert (labels["A"].recall.ci_low, labels["A"].recall.ci_high) == pytest.approx(wilson(13 / 25, 25))
    assert labels["E"].recall == EMPTY
    assert sum(label.answered for label in labels.values()) + unparseable(answers) == 100


def test_recall_by_position_has_a_clustered_interval():
    golds, answers = ["A"] * 40 + ["B"] * 40, (["A"] * 4 + ["B"] * 4) * 10
    names = [f"image {i // 4}" for i in range(80)]
    assert by_label(golds, answers, names)["A"].recall == proportion([1, 1, 1, 1, 0, 0, 0, 0] * 5, names[:40])


def test_what_is_undefined_is_empty_and_never_zero():
    only_yes = classify(["yes", "yes"], ["yes", None], positive="yes")
    assert (only_yes.sensitivity.value, only_yes.specificity) == (0.5, EMPTY)
    assert classify(["A"], ["A"]).sensitivity is None
    empty = classify([], [], positive="yes")
    assert empty.accuracy == empty.balanced_accuracy == empty.macro_f1 == empty.sensitivity == empty.specificity == EMPTY
    assert (empty.n, empty.unparseable, empty.labels) == (0, 0, {})
    assert empty.to_json()["macro_f1"] == {"value": None, "ci_low": None, "ci_high": None, "n": 0}


def test_a_rare_label_that_was_always_right_is_hardly_known():
    golds = ["yes"] * 2 + ["no"] * 200
    found = classify(golds, ["yes"] * 2 + ["no"] * 200)
    assert found.balanced_accuracy.value == found.macro_f1.value == 1
    assert found.balanced_accuracy.ci_low < 0.7
    assert found.macro_f1.ci_low == pytest.approx(wilson(1, 2)[0])


@pytest.mark.parametrize(("positives", "negatives", "recalls"), [(60, 60, (0.7, 0.6)), (5, 100, (0.95, 0.9))])
def test_the_interval_of_balanced_accuracy_holds_the_truth_even_with_a_rare_label(monkeypatch, positives, negatives, recalls):
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    rng, held = np.random.default_rng(0), 0
    golds = ["yes"] * positives + ["no"] * negatives
    chance = np.repeat(recalls, [positives, negatives])
    for _ in range(150):
        right = rng.random(len(golds)) < chance
        estimate = balanced_accuracy(golds, [gold if ok else None for gold, ok in zip(golds, right, strict=True)])
        held += estimate.ci_low <= np.mean(recalls) <= estimate.ci_high
    assert held / 150 >= 0.91


def test_copies_of_a_row_do_not_narrow_an_interval():
    golds, answers = drawn(3, ["no", "yes"], rows=80)
    names = [f"image {i}" for i in range(80)]
    for score in (balanced_accuracy, macro_f1):
        once, copied = score(golds, answers, names), score(golds * 4, answers * 4, names * 4)
        careless = score(golds * 4, answers * 4)
        assert copied.ci_high - copied.ci_low == pytest.approx(once.ci_high - once.ci_low, rel=0.05)
        assert careless.ci_high - careless.ci_low < 0.6 * (once.ci_high - once.ci_low)


def test_what_does_not_fit_is_refused():
    for score in (classify, balanced_accuracy, macro_f1, by_label, sensitivity, specificity):
        with pytest.raises(ValueError, match="2 golds do not belong to 1 answers"):
            score(["yes", "no"], ["yes"])
    with pytest.raises(ValueError, match="2 rows have 1 cluster names"):
        classify(["yes", "no"], ["yes", "no"], ["image"])
