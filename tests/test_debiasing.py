"""Balancing is exact whatever the rows, keeps as much as can be kept, and leaves nothing to whoever does not look."""

import json
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from osler.attackers import BagOfWords, GoldFrequency, OptionPrior, StemTable
from osler.cli.app import app
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.debiasing import REASONS, debias, option_sets, same_labels
from osler.schema import Kind, Sample, fold_text
from osler.stats import proportion
from osler.taxonomy import QuestionType

ATTACKERS = (OptionPrior, GoldFrequency, StemTable, BagOfWords)
LABELS = ("Cyst", "Drusen", "Healthy lung", "Aorta", "Stage II", "Hernia")
SPLITS = "original/medr1_splits"
FILES = {
    "OCT": ("modality/{0}/OCT (Optical Coherence Tomography_{0}.json", 207),
    "X-Ray": ("modality/{0}/X-Ray_{0}.json", 364),
    "Ultrasound": ("modality/{0}/ultrasound_{0}.json", 857),
    "Lesion Grading": ("question_type/{0}/Lesion Grading_{0}.json", 166),
}
"""The published files, and how many test rows validity.md kept of each."""


def row(name, gold, *others, stem="What is it?", source="a", **facts):
    options = (*others, gold)
    return Sample(
        id=str(name),
        images=(),
        question=stem,
        golds=(gold,),
        options=options,
        gold_index=len(others),
        source=source,
        **facts,
    )


@st.composite
def data_sets(draw):
    cells = st.tuples(st.sampled_from("ab"), st.sampled_from(["What?", "Where?"]), st.sampled_from(LABELS))
    drawn = draw(st.lists(cells, max_size=60))
    return [row(f"{n:02}", gold, "Other", "Else", stem=stem, source=source) for n, (source, stem, gold) in enumerate(drawn)]


def groups(samples):
    found = defaultdict(list)
    for sample in samples:
        found[sample.source, sample.question, frozenset(sample.options)].append(sample)
    return found


def assert_balanced(samples):
    for (_, _, options), rows in groups(samples).items():
        golds, places = (Counter(getattr(one, name) for one in rows) for name in ("golds", "gold_index"))
        assert set(golds) == {(option,) for option in options}
        assert len(set(golds.values())) == 1, "a label is the gold more often than another of its option set"
        assert sorted(places) == list(range(len(options)))
        assert len(set(places.values())) == 1, "the gold stands in one place more often than in another"


@settings(max_examples=40)
@given(data_sets(), st.integers(0, 3))
def test_every_label_of_an_option_set_is_gold_equally_often_and_in_every_place(rows, seed):
    found = debias(rows, seed)
    before = {one.id: one for one in rows}
    assert_balanced(found.samples)
    for one in found.samples:
        assert 2 <= len(set(one.options)) == len(one.options) <= 4
        assert one.golds == before[one.id].golds == (one.options[one.gold_index],)
        assert (one.question, one.source) == (before[one.id].question, before[one.id].source)


@settings(max_examples=40)
@given(data_sets(), st.integers(0, 3))
def test_every_row_is_kept_or_counted_once(rows, seed):
    found = debias(rows, seed)
    named = [one.id for one in found.samples] + [name for ids in found.left_out.values() for name in ids]
    assert sorted(named) == sorted(one.id for one in rows)
    assert (found.n, list(found.left_out)) == (len(rows), list(REASONS))


@settings(max_examples=40)
@given(data_sets(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_other_cells_change_nothing(rows, random):
    by_id = {one.id: one for one in debias(rows, 0).samples}
    mixed = random.sample(rows, len(rows))
    assert {one.id: one for one in debias(mixed, 0).samples} == by_id
    assert [one.id for one in debias(mixed, 0).samples] == [one.id for one in mixed if one.id in by_id]
    alone = debias([one for one in rows if (one.source, one.question) == ("a", "What?")], 0).samples
    assert {one.id: one for one in alone} == {k: v for k, v in by_id.items() if (v.source, v.question) == ("a", "What?")}


def test_a_seed_draws_other_rows_and_orders():
    rows = [row(n, LABELS[n % 6 == 0]) for n in range(60)]
    assert debias(rows, 0).samples == debias(rows, 0).samples
    assert {one.id for one in debias(rows, 0).samples} != {one.id for one in debias(rows, 1).samples}


def most_that_looking_wins(counts):
    """The largest sum of (size - 1) over any option sets of 2 to 4 labels, by trying all."""

    @cache
    def best(left):
        present = [label for label, count in enumerate(left) if count]
        sets = [chosen for size in (2, 3, 4) for chosen in combinations(present, size)]
        rest = (tuple(count - (label in chosen) for label, count in enumerate(left)) for chosen in sets)
        return max((len(chosen) - 1 + best(r) for chosen, r in zip(sets, rest, strict=True)), default=0)

    return best(tuple(counts))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_no_other_way_to_offer_keeps_more_that_looking_can_win(counts):
    rows = [row(f"{label}-{n}", LABELS[label]) for label, count in enumerate(counts) for n in range(count)]
    found = debias(rows, 0)
    wins = sum(1 - 1 / len(one.options) for one in found.samples)
    assert wins == pytest.approx(most_that_looking_wins(counts))
    assert len(found.samples) - option_sets(counts) == pytest.approx(wins)


@pytest.mark.parametrize(
    ("counts", "sets", "kept"),
    [
        ((5,), 0, 0),
        ((5, 2), 2, 4),
        ((1, 1, 1), 1, 3),
        ((3, 3, 3, 3), 3, 12),
        ((9, 1, 1, 1), 1, 4),  # three pairs would keep 6 rows, and no more that looking can win
        ((9, 4, 1), 4, 9),  # {0, 1, 2} once and {0, 1} three times
        ((1,) * 8, 2, 8),
        ((2, 2, 2, 2, 2), 3, 10),
    ],
)
def test_what_is_kept_by_hand(counts, sets, kept):
    rows = [row(f"{label}-{n}", f"label {label}") for label, count in enumerate(counts) for n in range(count)]
    assert (option_sets(counts), len(debias(rows, 0).samples)) == (sets, kept)


def test_what_is_left_out_says_why():
    asked = QuestionType.MODALITY
    found = debias(
        [
            row("one", "Cyst", "Air", stem="Only here?"),
            row("m", "MRI", "CT", stem="Which modality?", question_type=asked),
            row("yn", "Yes", "No"),
            Sample(id="yesno", images=(), question="Is it?", golds=("yes",), kind=Kind.YESNO),
            Sample(id="open", images=(), question="What is it?", golds=("Cyst",), kind=Kind.OPEN),
            row("x", "Cyst"),
            row("y", "Cyst"),
            row("z", "Aorta", "Air"),
            row("ct", "CT", stem="How?", question_type=asked),
            row("mr", "MRI", stem="How?", question_type=asked),
        ],
        seed=0,
    )
    (spare,) = found.left_out["surplus"]
    assert spare in ("x", "y")
    assert {reason: set(ids) for reason, ids in found.left_out.items()} == {
        "open": {"open"},
        "yes_no": {"yn", "yesno"},
        "one_modality": {"m"},
        "one_gold": {"one"},
        "surplus": {spare},
    }
    assert {one.id for one in found.samples} == {"x", "y", "z", "ct", "mr"} - {spare}
    told = found.to_json()
    assert (told["n"], told["kept"], told["chance"]) == (10, 4, 0.5)
    assert told["left_out"]["yes_no"] == {"n": 2, "ids": ["yn", "yesno"]}


def test_nothing_kept_has_no_chance():
    assert debias([row(1, "Cyst")], 0).chance is None


def test_spellings_of_one_label_are_one_and_the_most_frequent_is_offered():
    golds = ["Computed tomography (CT)", "CT", "CT", "ultrasound", "Ultrasound.", "Ultrasound."]
    found = debias([row(n, gold, "Nothing") for n, gold in enumerate(golds)], 0).samples
    assert len(found) == 6
    assert {frozenset(one.options) for one in found} == {frozenset({"CT", "Ultrasound."})}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Thyroid nodule", " thyroid  NODULE. "),
        ("viral_pneumonia", "Viral pneumonia"),
        ("T1-weighted", "T1 weighted"),
        ("MRI", "Magnetic resonance imaging"),
        ("Choroidal neovascularization (CNV)", "choroidal neovascularization"),
        ("Choroidal neovascularization (CNV)", "CNV"),
        ("macular hole", "MH"),
    ],
)
def test_the_same_label_in_other_words(one, other):
    keys = same_labels([one, other, "Healthy"])
    assert keys[one] == keys[other] != keys["Healthy"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Lesion (left)", "Lesion (right)"),
        ("Grade (II)", "Grade (III)"),
        ("HER2 +", "HER2 -"),
        ("> 5 mm", "< 5 mm"),
        ("No", "Nasal obstruction"),
        ("diabetic retinopathy", "No diabetic retinopathy"),
        ("1.5", "15"),
    ],
)
def test_labels_that_only_look_alike_stay_two(one, other):
    keys = same_labels([one, other])
    assert keys[one] != keys[other]


def refitted(train, test):
    """What each attacker scores on `test` after learning from `train`."""
    for attacker in ATTACKERS:
        fitted = attacker.fit(train)
        yield proportion([fitted.credit(one) for one in test], [one.cluster for one in test])


def published(shared_data, name):
    pattern = FILES[name][0]
    return [load_data(f"medr1:{shared_data / SPLITS / pattern.format(split)}") for split in ("train", "test")]


@pytest.mark.parametrize("name", FILES)
def test_no_attacker_beats_chance_on_a_published_file(shared_data, name):
    train, test = (debias(rows, seed=0) for rows in published(shared_data, name))
    assert len(test.samples) >= FILES[name][1]
    assert len(train.samples) > len(test.samples)
    assert_balanced(test.samples)
    for score in refitted(train.samples, test.samples):
        assert score.ci_low <= test.chance <= score.ci_high
        assert score.value == pytest.approx(test.chance)  # exact, as what an attacker sees is balanced itself


def test_the_same_attackers_win_on_the_file_as_it_is(shared_data):
    train, test = published(shared_data, "OCT")
    prior = OptionPrior.fit(train)
    assert sum(prior.credit(one) for one in test) / len(test) > 0.99


def test_no_attacker_beats_chance_on_the_real_images(shared_data):
    rows = load_data(f"jsonl:{shared_data / 'real/manifest.jsonl'}")
    train, test = (debias(rows.where(split=split), seed=0) for split in ("train", "test"))
    others = [one for one in rows.where(split="test") if one.question_type is not QuestionType.MODALITY]
    fit = [one for one in others if not set(map(fold_text, one.options)) <= {"yes", "no"}]
    kept = {one.id for one in test.samples}
    assert (len(fit), sum(one.id in kept for one in fit) / len(fit) > 0.69) == (369, True)
    for score in refitted(train.samples, test.samples):
        assert score.value == pytest.approx(test.chance)


def test_the_command_writes_both_files_with_what_was_left_out(shared_data, tmp_path):
    spec, out = f"jsonl:{shared_data / 'real/manifest.jsonl'}", tmp_path / "debiased"
    command = ["data", "debias", "--train", spec, "--test", spec, "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--seed", "3", "--json"])
    assert done.exit_code == 0, done.output
    told, manifest = json.loads(done.stdout), json.loads((out / "manifest.json").read_text())
    rows = load_data(spec)
    for split in ("train", "test"):
        expected, read = debias(rows.where(split=split), 3), load_data(f"jsonl:{out / split}.jsonl")
        assert [(one.id, one.options, one.golds, one.split) for one in read] == [
            (one.id, one.options, one.golds, split) for one in expected.samples
        ]
        assert manifest["debiased"][split] == expected.to_json()
        assert told["debiased"][split]["left_out"]["yes_no"] == {"n": len(expected.left_out["yes_no"])}
    with pytest.raises(Exception, match="exists"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_the_command_debiases_rows_without_images(shared_data, tmp_path):
    train, test = (f"medr1:{shared_data / SPLITS / FILES['Lesion Grading'][0].format(split)}" for split in ("train", "test"))
    done = CliRunner().invoke(app, ["data", "debias", "--train", train, "--test", test, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    read = load_data(f"jsonl:{tmp_path}/out/test.jsonl")
    assert isinstance(read, Samples)
    assert {one.images for one in read} == {()}
    assert all(one.extra["path"] == one.group for one in read)
