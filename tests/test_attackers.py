"""The blind attackers by hand, against a plain naive Bayes, by what must hold for all of them, and on published files."""

import json
from collections import Counter
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from osler.attackers import ATTACKERS, BagOfWords, GoldFrequency, OptionPrior, StemTable
from osler.datasets.load import load_data
from osler.floor import Floor, MajorityLetter, best, chance
from osler.schema import Kind, Sample
from osler.stats import proportion

SPLITS = Path(__file__).parents[2] / "shared/data/original/medr1_splits"
every_attacker = pytest.mark.parametrize("attacker", ATTACKERS.values(), ids=ATTACKERS)


def ask(*options, gold=0, **facts):
    facts = {"id": "s", "images": ("a.png",), "question": "What is it?", **facts}
    return Sample(golds=(options[gold],), options=options, gold_index=gold, **facts)


YES = Sample(id="y", images=("y.png",), question="Is it?", golds=("yes",), kind=Kind.YESNO)
OPEN = Sample(id="o", images=("o.png",), question="Which?", golds=("liver",), kind=Kind.OPEN)

# cyst: gold 2 of 3 offered; tumour: 1 of 2; healthy: 1 of 2; drusen: 0 of 1; air: 0 of 1
TRAIN = [
    ask("Cyst", "tumour"),
    ask("cyst.", "Healthy ", question="what is  it?"),
    ask("healthy", "CYST", "drusen", question="How is it?"),
    ask("air", "Tumour", gold=1, question="How is it?"),
]


def random_rows(seed, n):
    """`n` rows of 2 to 4 options from ten texts of one to three words, below stems of few words."""
    rng = np.random.default_rng(seed)
    words = ["left", "right", "upper", "lower", "lung", "lobe"]
    texts = list(dict.fromkeys(" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(20)))[:10]
    stems = [" ".join(rng.choice(["what", "which", "is", "shown", "here", "lung"], 4)) for _ in range(5)]
    rows = []
    for _ in range(n):
        options = [str(text) for text in rng.choice(texts, rng.integers(2, 5), replace=False)]
        rows.append(ask(*options, gold=int(rng.integers(len(options))), question=str(rng.choice(stems))))
    return rows


def regold(sample, place):
    return replace(sample, gold_index=place, golds=(sample.options[place],))


# --- each by hand ---


@pytest.mark.parametrize(
    ("option", "rate"),
    [("cyst", 2 / 3), (" CYST. ", 2 / 3), ("tumour", 1 / 2), ("drusen", 0), ("never offered", 0)],
)
def test_the_prior_is_times_gold_of_times_offered_however_it_is_written(option, rate):
    assert OptionPrior.fit(TRAIN).rate(option) == rate


@pytest.mark.parametrize(
    ("attacker", "sample", "credit"),
    [
        (OptionPrior, ask("tumour", "cyst", gold=1), 1),
        (OptionPrior, ask("tumour", "cyst", gold=0), 0),
        (OptionPrior, ask("tumour", "healthy", "air"), 1 / 2),
        (OptionPrior, ask("air", "healthy", "tumour"), 0),
        (OptionPrior, ask("air", "drusen", "sand", "snow"), 1 / 4),
        (GoldFrequency, ask("Cyst", "tumour", "healthy"), 1),
        (GoldFrequency, ask("tumour", "healthy", "drusen", "air"), 1 / 2),
        (GoldFrequency, ask("air", "sand", "snow"), 1 / 3),
        (GoldFrequency, ask("air", "tumour"), 0),
        (StemTable, ask("cyst", "tumour", "healthy"), 1),
        (StemTable, ask("cyst", "tumour", "healthy", question="how is it? "), 0),
        (StemTable, ask("cyst", "tumour", "healthy", gold=2, question="How is it?"), 1 / 2),
        (StemTable, ask("tumour", "healthy"), 1 / 2),
        (StemTable, ask("cyst", "tumour", "healthy", question="Never asked?"), 1 / 3),
        (BagOfWords, ask("cyst", "drusen", "air"), 1),
        (BagOfWords, ask("sand", "snow", question="Never asked?"), 1 / 2),
    ],
)
def test_the_credit_of_a_sample(attacker, sample, credit):
    assert attacker.fit(TRAIN).credit(sample) == pytest.approx(credit)


def test_what_each_keeps_as_json():
    kept = {name: attacker.fit(TRAIN).to_json() for name, attacker in ATTACKERS.items()}
    assert kept["option_prior"] == {"seen": {"cyst": [2, 3], "tumour": [1, 2], "healthy": [1, 2]}}
    assert kept["gold_frequency"] == {"times": {"cyst": 2, "healthy": 1, "tumour": 1}}
    assert kept["stem_table"] == {"golds": {"what is it?": {"cyst": 2}, "how is it?": {"healthy": 1, "tumour": 1}}}
    assert kept["bag_of_words"] == {
        "stems": ["is it what", "how is it"],
        "options": ["cyst", "tumour", "healthy", "drusen", "air"],
        "counts": [[0, 2, 2, 1, 0, 1, 2, 0, 1], [2, 1, 1, 0, 0, 1, 3, 0, 1, 4, 0, 1, 1, 1, 1]],
    }


# --- the bag of words against a plain naive Bayes ---


def plain_log_odds(train, stem, option):
    """Multinomial naive Bayes with Laplace's smoothing, written out over bags of features; unseen features dropped."""

    def features(stem, option):
        return [("t", option), *(("w", w) for w in set(option.split())), *(("p", w, option) for w in set(stem.split()))]

    bags, rows = (Counter(), Counter()), [0, 0]
    for row in train:
        for place, text in enumerate(row.options):
            side = int(place != row.gold_index)
            bags[side].update(features(row.question, text))
            rows[side] += 1
    known = set(bags[0]) | set(bags[1])
    smooth = [{f: (bag[f] + 1) / (bag.total() + len(known)) for f in known} for bag in bags]
    seen = [f for f in features(stem, option) if f in known]
    return log((rows[0] + 1) / (rows[1] + 1)) + sum(log(smooth[0][f] / smooth[1][f]) for f in seen)


@pytest.mark.parametrize("seed", range(4))
def test_the_bag_of_words_is_naive_bayes(seed):
    train, test = random_rows(seed, 60), [*random_rows(seed, 90)[60:], *random_rows(seed + 100, 10)]
    fitted = BagOfWords.fit(train)
    for row in test:
        expected = [plain_log_odds(train, row.question, option) for option in row.options]
        assert fitted.scores(row.question, row.options) == pytest.approx(expected)


def test_the_bag_of_words_learns_what_no_table_of_options_or_stems_can():
    """Each option is gold as often as the other, and no stem comes twice: only a word of the stem tells."""
    rows = [
        ask("cyst", "mass", gold=at % 2, question=f"{'round' if at % 2 else 'dark'} thing number {at}?") for at in range(80)
    ]
    floor = Floor.fit(rows[:40])
    credits = [floor.credits(row) for row in rows[40:]]
    assert {name: np.mean([row[name] for row in credits]) for name in ATTACKERS} == {
        "option_prior": 0.5,
        "gold_frequency": 0.5,
        "stem_table": 0.5,
        "bag_of_words": 1,
    }


# --- what holds for all ---


@every_attacker
@pytest.mark.parametrize("seed", range(3))
def test_whichever_option_is_gold_the_credits_sum_to_one_and_order_does_not_matter(attacker, seed):
    fitted = attacker.fit(random_rows(seed, 200))
    for row in random_rows(seed, 240)[200:]:
        credits = [fitted.credit(regold(row, place)) for place in range(len(row.options))]
        assert sum(credits) == pytest.approx(1)
        backwards = replace(row, options=row.options[::-1], gold_index=len(row.options) - 1 - row.gold_index)
        assert fitted.credit(backwards) == pytest.approx(fitted.credit(row))


@every_attacker
def test_nothing_but_the_text_counts(attacker):
    rows = random_rows(0, 100)
    hidden = [replace(row, id=str(at), images=(), group="p", source="x") for at, row in enumerate(rows)]
    assert attacker.fit(hidden) == attacker.fit(rows)
    shouted = [replace(row, options=tuple(f" {text.upper()}. " for text in row.options)) for row in rows]
    assert attacker.fit(shouted) == attacker.fit(rows)


@every_attacker
@pytest.mark.parametrize("seed", range(3))
def test_an_attacker_survives_json(attacker, seed):
    fitted, rows = attacker.fit(random_rows(seed, 300)), random_rows(seed + 1, 50)
    again = attacker.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    assert [again.credit(row) for row in rows] == [fitted.credit(row) for row in rows]


@every_attacker
def test_where_every_option_is_gold_equally_often_below_each_stem_all_score_chance(attacker):
    labels = ("cyst", "mass", "air")
    rows = [ask(*labels, gold=place, question=f"What is {stem}?") for stem in ("this", "that") for place in (0, 1, 2)]
    fitted = attacker.fit(rows * 5)
    assert [fitted.credit(row) for row in rows] == pytest.approx([1 / 3] * 6)


@every_attacker
def test_open_questions_teach_nothing_and_have_no_credit(attacker):
    assert attacker.fit([*TRAIN, OPEN]) == attacker.fit(TRAIN)
    assert attacker.fit(TRAIN).credit(OPEN) is None
    assert attacker.fit([]).credit(TRAIN[2]) == pytest.approx(1 / 3)


@every_attacker
def test_yes_and_no_are_options_whether_they_are_written_down_or_not(attacker):
    no = replace(YES, golds=("No.",))
    fitted = attacker.fit([YES, YES, no])
    assert fitted == attacker.fit([ask("Yes", "No", question="Is it?")] * 2 + [ask("No", "Yes", question="Is it?")])
    assert [fitted.credit(YES), fitted.credit(no)] == [1, 0]
    assert fitted.credit(replace(YES, golds=("perhaps",))) is None


def test_the_gold_is_found_by_its_text_where_no_place_is_given_and_nowhere_else():
    prior = OptionPrior.fit(TRAIN)
    named = replace(ask("tumour", "cyst", gold=1), gold_index=None)
    assert prior.credit(named) == 1
    assert prior.credit(replace(named, golds=("bone",))) is None
    assert prior.credit(replace(named, gold_index=2)) is None


# --- the floor ---


def test_the_floor_is_all_four_and_survives_json():
    floor = Floor.fit(random_rows(0, 100))
    again = Floor.from_json(json.loads(json.dumps(floor.to_json())))
    assert again == floor
    row = random_rows(1, 1)[0]
    assert again.credits(row) == {name: attacker.fit(random_rows(0, 100)).credit(row) for name, attacker in ATTACKERS.items()}
    assert floor.credits(OPEN) == {}


def test_the_best_is_the_highest_mean_over_rows_that_have_a_floor():
    rows = [{"a": 0.0, "b": 1.0}, {}, {"a": 0.0, "b": 0.5}, {"a": 1.0, "b": 0.0}]
    name, estimate = best(rows, ["p", "p", "q", "q"])
    assert name == "b"
    assert estimate == proportion([1.0, 0.5, 0.0], ["p", "q", "q"])
    assert best(rows)[1].n == 3
    assert best([{}, {}], ["p", "q"]) is None
    assert best([{"a": 0.5, "b": 0.5}])[0] == "a"


@pytest.mark.parametrize(
    ("golds", "place", "credits"), [([0, 1, 1], 1, [0, 1]), ([2, 2], 2, [0, 0]), ([1, 0], 0, [1, 0]), ([], None, [0, 0])]
)
def test_the_majority_letter(golds, place, credits):
    letter = Floor.fit([ask("a", "b", "c", gold=gold) for gold in golds]).letter
    assert letter == MajorityLetter(place)
    assert [letter.credit(ask("a", "b", gold=gold)) for gold in (0, 1)] == credits
    assert letter.credit(OPEN) is None


def test_chance():
    assert [chance(row) for row in (ask("a", "b", "c", "d"), ask("a", "b", "c"), YES, OPEN)] == [1 / 4, 1 / 3, 1 / 2, None]


# --- published files ---

PUBLISHED = {
    "modality/{}/OCT (Optical Coherence Tomography_{}.json": (848, (0.9995, 1), 0.2594),
    "modality/{}/X-Ray_{}.json": (1615, (0.946, 0.965), 0.2573),
    "modality/{}/ultrasound_{}.json": (2074, (0.8335, 0.8345), 0.25),
    "question_type/{}/Lesion Grading_{}.json": (436, (0.955, 0.965), 0.2557),
}


@pytest.mark.skipif(not SPLITS.is_dir(), reason="the published question files are not beside this checkout")
@pytest.mark.parametrize("name", PUBLISHED, ids=["OCT", "X-ray", "ultrasound", "lesion grading"])
def test_the_published_floor_comes_out(name):
    rows, (low, high), even = PUBLISHED[name]
    train, test = (list(load_data(f"medr1:{SPLITS / name.format(split, split)}")) for split in ("train", "test"))
    floor = Floor.fit(train)
    credits = [floor.credits(sample) for sample in test]
    assert low <= np.mean([row["option_prior"] for row in credits]) <= high
    found, estimate = best(credits, [sample.cluster for sample in test])
    assert estimate.n == rows
    assert found == ("bag_of_words" if "ultrasound" in name else "option_prior")
    assert np.mean([chance(sample) for sample in test]) == pytest.approx(even, abs=5e-5)
    assert len(json.dumps(floor.to_json())) < 1_000_000
