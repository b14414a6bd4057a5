"""The option prior by hand, and on published question files, where it reaches what a table that never sees an image can."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from osler.datasets.load import load_data
from osler.floor import OptionPrior, floor_accuracy
from osler.schema import Kind, Sample
from osler.stats import EMPTY

SPLITS = Path(__file__).parents[2] / "shared/data/original/medr1_splits"


def ask(*options, gold=0, **facts):
    facts = {"id": "s", "images": ("a.png",), "question": "What is it?", **facts}
    return Sample(golds=(options[gold],), options=options, gold_index=gold, **facts)


YES = Sample(id="y", images=("y.png",), question="Is it?", golds=("yes",), kind=Kind.YESNO)
OPEN = Sample(id="o", images=("o.png",), question="Which?", golds=("liver",), kind=Kind.OPEN)

# cyst: gold 2 of 3 offered; tumour: 1 of 2; healthy: 1 of 2; drusen: 0 of 1; air: 0 of 1
TRAIN = [
    ask("Cyst", "tumour"),
    ask("cyst.", "Healthy "),
    ask("healthy", "CYST", "drusen"),
    ask("air", "Tumour", gold=1),
]


@pytest.fixture
def prior():
    return OptionPrior.fit(TRAIN)


@pytest.mark.parametrize(
    ("option", "rate"),
    [("cyst", 2 / 3), (" CYST. ", 2 / 3), ("tumour", 1 / 2), ("drusen", 0), ("never offered", 0)],
)
def test_the_rate_is_times_gold_of_times_offered_however_it_is_written(prior, option, rate):
    assert prior.rate(option) == rate


@pytest.mark.parametrize(
    ("sample", "credit"),
    [
        (ask("tumour", "cyst", gold=1), 1),
        (ask("tumour", "cyst", gold=0), 0),
        (ask("tumour", "healthy", "air"), 1 / 2),
        (ask("air", "healthy", "tumour"), 0),
        (ask("air", "drusen", "sand", "snow"), 1 / 4),
        (YES, 1 / 2),
        (OPEN, None),
    ],
    ids=["best", "beaten", "tie", "tie of others", "all unseen", "yes or no, unseen", "open"],
)
def test_the_credit_of_a_sample(prior, sample, credit):
    assert prior.credit(sample) == credit


def test_the_prior_survives_json_and_keeps_only_what_was_right_once(prior):
    value = json.loads(json.dumps(prior.to_json()))
    assert value == {"seen": {"cyst": [2, 3], "healthy": [1, 2], "tumour": [1, 2]}}
    assert OptionPrior.from_json(value) == prior


def test_open_questions_teach_nothing_and_have_no_floor(prior):
    assert OptionPrior.fit([*TRAIN, OPEN]) == prior
    estimate = floor_accuracy(prior, [ask("cyst", "air"), ask("tumour", "cyst", images=("b.png",)), OPEN])
    assert (estimate.value, estimate.n) == (0.5, 2)
    assert floor_accuracy(prior, [OPEN]) == EMPTY


def test_yes_and_no_are_options_whether_they_are_written_down_or_not():
    no = replace(YES, golds=("No.",))
    prior = OptionPrior.fit([YES, YES, no, ask("no", "yes", gold=1, kind=Kind.YESNO)])
    assert prior.seen == {"yes": (3, 4), "no": (1, 4)}
    assert [prior.credit(sample) for sample in (YES, no, ask("No", "Yes", gold=1))] == [1, 0, 1]
    assert prior.credit(replace(YES, golds=("perhaps",))) is None


def test_the_floor_is_clustered(prior):
    samples = [ask("cyst", "air") for _ in range(10)]
    assert (
        floor_accuracy(prior, samples).ci_low
        < floor_accuracy(prior, [ask("cyst", "air", group=str(i)) for i in range(10)]).ci_low
    )


def test_a_cluster_is_the_group_else_the_image_else_the_sample():
    assert [s.cluster for s in (ask("a", "b", group="patient 1"), ask("a", "b"), ask("a", "b", images=()))] == [
        "patient 1",
        "a.png",
        "s",
    ]


@pytest.mark.skipif(not SPLITS.is_dir(), reason="the published question files are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "rows", "low", "high"),
    [
        ("modality/{}/OCT (Optical Coherence Tomography_{}.json", 848, 0.9995, 1),
        ("modality/{}/X-Ray_{}.json", 1615, 0.946, 0.965),
        ("modality/{}/ultrasound_{}.json", 2074, 0.8335, 0.8345),
        ("question_type/{}/Lesion Grading_{}.json", 436, 0.955, 0.965),
    ],
    ids=["OCT", "X-ray", "ultrasound", "lesion grading"],
)
def test_the_floor_of_published_files(name, rows, low, high):
    train, test = (load_data(f"medr1:{SPLITS / name.format(split, split)}") for split in ("train", "test"))
    estimate = floor_accuracy(OptionPrior.fit(train), test)
    assert estimate.n == rows
    assert low <= estimate.value <= high
