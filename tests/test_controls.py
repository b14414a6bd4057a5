"""Controls by property, on drawn rows, on made-up ones, and on published files."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.controls import CONTROLS, DEFAULT, Controlled, blanked, controls_of, thin
from osler.datasets.load import load_data
from osler.datasets.samples import Samples
from osler.debiasing import same_labels
from osler.donors import find_donors
from osler.errors import RecipeError
from osler.images import open_image, underlying
from osler.paraphrases import VARIANTS, rephrased
from osler.schema import Kind, Sample, fold_text
from osler.strategies import STRATEGIES
from osler.taxonomy import Modality, QuestionType

DRAWN = load_data({"name": "phantoms", "seed": 1, "train": 0, "val": 0, "test": 80})
ORGANS = ("Liver", "spleen", "kidney.", "lung")


def ask(name="s", options=ORGANS, gold=0, **facts):
    facts = {"images": (f"{name}.png",), "question": "Which organ?", "modality": Modality.CT, **facts}
    return Sample(id=name, golds=(options[gold],), options=options, gold_index=gold, **facts)


YES = Sample(id="yes", images=("y.png",), question="Is it?", golds=("yes",), kind=Kind.YESNO, modality=Modality.CT)
OPEN = Sample(id="open", images=("o.png",), question="Which?", golds=("liver",), kind=Kind.OPEN, modality=Modality.CT)
YES_LETTER = ask("letters", ("Yes", "No"), question="Is there one?")
BLIND = ask("blind", images=())


@st.composite
def questions(draw):
    """Rows with few of everything, so that they meet; ids are their places."""
    types = (QuestionType.MODALITY, QuestionType.DISEASE, QuestionType.UNKNOWN)
    axes = [
        st.sampled_from(values) for values in ("ab", (*[*Modality][:2], Modality.UNKNOWN), types, ("", "s"), (None, "p", "q"))
    ]
    images = st.lists(st.sampled_from("123456789"), max_size=2, unique=True)
    golds = st.lists(st.sampled_from(["x", "X.", "y", "yes", "no", "CT"]), min_size=1, max_size=3, unique=True)
    rows = []
    for place, (facts, shown, offered) in enumerate(draw(st.lists(st.tuples(st.tuples(*axes), images, golds), max_size=16))):
        named = dict(zip(("question", "modality", "question_type", "source", "group"), facts, strict=True), images=tuple(shown))
        if len(set(map(fold_text, offered))) == 3:
            rows.append(ask(str(place), tuple(offered), place % 3, **named))
        else:
            kind = Kind.YESNO if set(offered) <= {"yes", "no"} else Kind.OPEN
            rows.append(Sample(id=str(place), golds=tuple(offered), kind=kind, **named))
    return rows


def published(shared_data, name):
    """The rows of a published split file, their paths standing for their images."""
    file = next((shared_data / "original/medr1_splits").rglob(name))
    return [replace(row, images=(row.extra["path"],)) for row in load_data(f"medr1:{file}")]


@pytest.fixture(
    scope="module", params=["X-Ray_test.json", "OCT*_test.json", "ultrasound_test.json", "Lesion Grading_test.json", "real"]
)
def real_rows(request, shared_data):
    if request.param == "real":
        return list(load_data(f"jsonl:{shared_data}/real/manifest.jsonl").where(split="test"))
    return published(shared_data, request.param)


# --- what holds for every control ---


def check(name, rows, seed):
    made = CONTROLS[name].make(rows, seed)
    by_id = {row.id: row for row in rows}
    assert len({row.sample.id for row in made.rows}) == len(made.rows)
    assert len({row.of for row in made.rows}) + sum(made.left_out.values()) == len(rows)
    assert all(made.left_out.values())
    for row in made.rows:
        sample, original = row.sample, by_id[row.of]
        assert (sample.extra["control"], sample.extra["of"], sample.extra["variant"]) == (name, row.of, row.variant)
        assert sample.cluster == original.cluster
        assert (sample.question, sample.modality, sample.question_type) == (
            original.question,
            original.modality,
            original.question_type,
        )
        assert (sample.images == original.images) == (name not in ("blank", "noise", "shuffled", "blind-twin"))
        if sample.kind is Kind.CHOICE:
            assert sample.golds == (sample.options[sample.gold_index],)
            assert len(set(same_labels([*sample.golds, *original.golds]).values())) == 1
    return made


@given(rows=questions(), seed=st.integers(0, 3))
def test_every_row_is_made_or_counted_and_says_what_it_is(rows, seed):
    for name, control in CONTROLS.items():
        assert check(name, rows, seed) == control.make(rows, seed)


@pytest.mark.parametrize("name", CONTROLS)
def test_so_it_is_on_phantoms(name):
    assert check(name, list(DRAWN), 0).rows


def test_so_it_is_on_published_rows(real_rows):
    assert all(check(name, real_rows, 0).rows for name in CONTROLS)


@pytest.mark.parametrize("name", CONTROLS)
def test_rows_become_samples_that_keep_what_they_say(name):
    made = CONTROLS[name].make(DRAWN, 0)
    assert [row.sample for row in made.rows] == list(made.samples)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("blank", {"no image": 1}),
        ("blind-twin", {"no image": 1}),
        ("noise", {"no image": 1}),
        ("shuffled", {"no image": 1, "no donor": 4}),
        ("options-shuffled", {"yes/no question": 1, "open question": 1}),
        ("options-circular", {"yes/no question": 1, "open question": 1}),
        ("options-normalised", {"yes/no question": 1, "open question": 1}),
        ("no-options", {"yes/no question": 2, "open question": 1}),
        ("prompts", {}),
    ],
)
def test_what_a_control_cannot_be_applied_to_is_counted_by_its_reason(name, left_out):
    assert CONTROLS[name].make([ask(), YES, OPEN, YES_LETTER, BLIND], 0).left_out == left_out


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("all", tuple(name for name in CONTROLS if name != "blind-twin")),
        ("default", DEFAULT),
        ("none", ()),
        ("blank,noise", ("blank", "noise")),
        (["noise", "noise"], ("noise",)),
    ],
)
def test_controls_by_name(names, found):
    assert tuple(control.name for control in controls_of(names)) == found
    assert DEFAULT == ("blank", "shuffled", "options-debiased")


def test_a_control_that_is_none():
    with pytest.raises(RecipeError, match=r"unknown control 'blanc'\. Did you mean 'blank'"):
        controls_of(["noise", "blanc"])


# --- images ---


def test_blank_and_noise_show_nothing_of_as_much():
    for name in ("blank", "noise"):
        for row, original in zip(CONTROLS[name].make(DRAWN, 5).rows[:6], DRAWN, strict=False):
            assert open_image(row.sample.images[0]).size == open_image(original.images[0]).size
            assert underlying(row.sample.images[0]) == original.images[0]
    assert CONTROLS["noise"].make([ask()], 5).rows[0].sample.images == ("noise:5:s.png",)


def test_a_blind_twins_rows_differ_in_their_images_only():
    twin = blanked(DRAWN)
    assert [replace(row, images=()) for row in twin] == [replace(row, images=()) for row in DRAWN]
    assert {image for row in twin for image in row.images} == {f"blank:{image}" for row in DRAWN for image in row.images}
    assert blanked([ask()])[0].cluster == ask().cluster


# --- donors ---


def lenders(rows, seed=0):
    """Each row that has a donor, its donor, and what is said of it; checked by what must hold of any."""
    keys = same_labels({text for row in rows for text in (*row.golds, *row.options)})
    by_id = {row.id: row for row in rows}
    found = []
    for made in CONTROLS["shuffled"].make(rows, seed).rows:
        row, donor = by_id[made.of], by_id[made.sample.extra["donor_id"]]
        gold = made.sample.extra["donor_gold"]
        assert made.sample.images == donor.images
        assert donor.images
        assert not set(donor.images) & set(row.images)
        assert donor.cluster != row.cluster
        assert not {keys[gold] for gold in donor.golds} & {keys[gold] for gold in row.golds}
        assert keys[gold] == keys[donor.golds[0]]
        assert (gold in row.options) == (keys[gold] in {keys[option] for option in row.options})
        if row.question_type is QuestionType.MODALITY:
            assert Modality.UNKNOWN not in (row.modality, donor.modality)
            assert row.modality != donor.modality
        elif row.question_type is not QuestionType.UNKNOWN:
            assert row.modality == donor.modality
            assert row.modality is not Modality.UNKNOWN or row.source == donor.source != ""
        if made.variant == "same question":
            assert fold_text(row.question) == fold_text(donor.question)
        else:
            assert row.question_type == donor.question_type
            assert row.kind is not Kind.YESNO
        assert made.variant != "offered" or gold in row.options
        found.append((row, donor, made))
    return found


@given(rows=questions(), seed=st.integers(0, 3))
def test_a_donor_is_alike_but_for_its_gold_its_image_and_its_cluster(rows, seed):
    lenders(rows, seed)


@pytest.mark.parametrize("seed", range(20))
def test_so_it_is_where_most_rows_have_a_donor(seed):
    rng = random.Random(seed)
    rows = []
    for place in range(60):
        golds = rng.choice([("yes",), ("no",), ("x", "X.", "y"), ("CT", "MRI"), ("x",), ("y", "z")])
        facts = {"question": rng.choice("ab"), "modality": rng.choice([*Modality][:2]), "images": (f"{rng.randrange(20)}",)}
        facts |= {"question_type": rng.choice([*QuestionType]), "group": rng.choice([None, "p", "q"])}
        if len(set(map(fold_text, golds))) > 1 and place % 3:
            rows.append(ask(f"{place}", golds, rng.randrange(len(golds)), **facts))
        else:
            kind = Kind.YESNO if set(golds) <= {"yes", "no"} else Kind.OPEN
            rows.append(Sample(id=f"{place}", golds=golds, kind=kind, **facts))
    assert len(lenders(rows, seed)) > 20


def test_donors_of_published_rows(real_rows):
    found = lenders(real_rows)
    assert len(found) > 0.6 * len(real_rows)
    assert {made.sample.extra["donor_gold"] in row.options for row, _, made in found} == {True, False}


def test_a_phantom_is_shown_as_another_that_makes_another_option_right_and_all_lend_alike():
    found = lenders(list(DRAWN))
    assert len(found) == len(DRAWN)
    assert {made.variant for _, _, made in found} == {"offered"}
    lent = Counter(donor.images for _, donor, _ in found)
    assert max(lent.values()) <= 2 * len(DRAWN) / len(lent)


@given(st.integers(2, 40), st.integers(0, 5))
def test_where_all_can_lend_to_all_others_no_image_is_lent_twice_more_than_another(count, seed):
    rows = [ask(f"{k}", gold=k % 2) for k in range(2 * count)]
    lent = Counter(found.at for found in find_donors(rows, seed))
    assert set(lent.values()) == {1}
    assert len(lent) == 2 * count


def test_of_many_golds_the_rare_one_lends_to_all_that_have_the_common_one():
    rows = [ask(f"{k}", gold=0) for k in range(50)] + [ask(f"rare {k}", gold=1) for k in range(5)]
    lent = Counter(found.at for found in find_donors(rows, 0)[:50])
    assert lent == {50: 10, 51: 10, 52: 10, 53: 10, 54: 10}


@pytest.mark.parametrize("seed", range(8))
def test_a_donor_that_one_row_may_not_take_is_there_for_the_next(seed):
    rows = [ask("a", group="p"), ask("b", gold=1, group="p"), ask("c", group="q")]
    assert find_donors(rows, seed)[0] == "no donor"
    assert find_donors(rows, seed)[2].at == 1


def test_an_image_whose_other_question_of_the_type_has_the_gold_does_not_lend():
    row = ask("a", gold=0)
    donors = [ask("b", gold=1), ask("c", gold=0, images=("b.png",))]
    assert find_donors([row, *donors], 0)[0] == "no donor"
    assert find_donors([row, donors[0]], 0)[0].match == "offered"


def test_yes_and_no_take_donors_of_the_same_question_only():
    other = replace(YES, id="other", images=("z.png",), golds=("No",))
    assert find_donors([YES, other], 0)[0].match == "same question"
    assert find_donors([YES, replace(other, question="Is it large?")], 0) == ["no donor", "no donor"]


def test_a_sample_with_several_images_gets_its_donors_whole():
    rows = [ask("a", images=("1", "2")), ask("b", gold=1, images=("3", "4", "5")), ask("c", gold=2, images=("2", "9"))]
    assert CONTROLS["shuffled"].make(rows, 0).rows[0].sample.images == ("3", "4", "5")


def test_two_spellings_of_a_gold_are_one():
    rows = [
        ask("a", ("Choroidal neovascularization (CNV)", "drusen")),
        ask("b", ("choroidal neovascularization", "edema")),
        ask("c", ("CNV.", "edema")),
    ]
    assert find_donors(rows, 0) == ["no donor"] * 3
    lent = find_donors([ask("d", ("Drusen", "cnv")), rows[0]], 0)[0]
    assert (lent.match, lent.gold) == ("offered", "cnv")


@pytest.mark.parametrize("type_", [QuestionType.UNKNOWN, QuestionType.MODALITY])
def test_a_question_for_the_modality_is_shown_another_modality(type_):
    ct = ask("ct", ("CT", "MRI"), 0, question_type=type_)
    same = ask("same", ("computed tomography", "MRI"), 0, question_type=type_)
    mri = ask("mri", ("CT", "magnetic resonance imaging"), 1, modality=Modality.MRI, question_type=type_)
    found = find_donors([ct, same, mri], 0)
    assert (found[0].at, found[0].gold, found[1].at) == (2, "MRI", 2)
    assert find_donors([ct, same], 0) == ["no donor"] * 2


# --- options ---

CHOICES = st.builds(
    lambda options, gold: ask("s", tuple(options), gold % len(options)),
    st.lists(st.text("abC .", min_size=1), min_size=2, max_size=10, unique_by=str.lower),
    st.integers(0, 9),
)


@given(CHOICES, st.integers(0, 5))
def test_shuffled_options_are_the_same_options_and_the_same_gold(sample, seed):
    made = CONTROLS["options-shuffled"].make([sample], seed).rows[0].sample
    assert (sorted(made.options), made.golds) == (sorted(sample.options), sample.golds)
    among_others = CONTROLS["options-shuffled"].make([ask("other"), sample, YES], seed)
    assert among_others.rows[1].sample == made


def test_the_gold_of_shuffled_options_stands_everywhere_as_often():
    rows = [ask(f"{k}") for k in range(4000)]
    places = Counter(row.sample.gold_letter for row in CONTROLS["options-shuffled"].make(rows, 0).rows)
    assert set(places) == set("ABCD")
    assert all(abs(count - 1000) < 4 * 27.4 for count in places.values())  # 27.4: the standard deviation of a place's count


@given(CHOICES)
def test_with_the_row_itself_the_gold_stands_once_at_every_place(sample):
    made = CONTROLS["options-circular"].make([sample], 0).rows
    rotations = [sample, *(row.sample for row in made)]
    assert sorted(row.gold_index for row in rotations) == list(range(len(sample.options)))
    assert all("".join(row.options) in "".join(sample.options * 2) for row in rotations)
    assert [row.variant for row in made] == [f"r{turn}" for turn in range(1, len(sample.options))]
    assert [row.sample.id for row in made] == [f"s#{row.variant}" for row in made]


def test_rotations_by_hand():
    made = CONTROLS["options-circular"].make([ask("s", ("x", "y", "z"), 1)], 0).rows
    assert [(row.sample.options, row.sample.gold_letter) for row in made] == [(("y", "z", "x"), "A"), (("z", "x", "y"), "C")]


def test_normalised_options_are_in_one_case_without_final_stops():
    rows = [ask(gold=2), ask("alike", ("Left", "left.", "right"))]
    made = CONTROLS["options-normalised"].make(rows, 0)
    assert (made.rows[0].sample.options, made.rows[0].sample.golds) == (("liver", "spleen", "kidney", "lung"), ("kidney",))
    assert made.left_out == {"options alike but for case and punctuation": 1}


def test_without_options_a_choice_is_an_open_question_for_the_text_of_its_gold():
    sample = CONTROLS["no-options"].make([ask(gold=3)], 0).rows[0].sample
    asked = STRATEGIES["nothink"].question(sample, "letter")
    assert (sample.kind, sample.golds, sample.gold_letter) == (Kind.OPEN, ("lung",), None)
    assert not any(option in asked for option in ORGANS)
    assert asked == "Which organ?\nGive the answer inside <answer></answer> and nothing else."


def test_debiased_options_are_of_the_same_rows_and_say_why_others_are_not():
    rows = [ask(f"{k}", gold=k % 2) for k in range(8)] + [YES, ask("alone", question="Where?")]
    made = CONTROLS["options-debiased"].make(rows, 0)
    assert [row.of for row in made.rows] == [row.id for row in rows[:8]]
    assert all(set(row.sample.options) == {"Liver", "spleen"} for row in made.rows)
    assert made.left_out == {"yes and no are all there is to offer": 1, "its source and stem fix the gold": 1}


# --- prompts ---


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_five_other_wordings_ask_for_the_same_in_the_same_form(strategy):
    wordings = {rephrased(strategy, variant).instruction for variant in VARIANTS} | {strategy.instruction}
    assert len(wordings) == len(VARIANTS) + 1 >= 6
    tags = re.findall(r"</?\w+>", strategy.instruction)
    for wording in wordings:
        assert re.findall(r"</?\w+>", wording) == tags
        assert re.findall(r"[{}][^{}]*", wording)[0] == "{what"
        assert wording.count("{") == 1


@pytest.mark.parametrize("sample", [ask(), YES, OPEN], ids=["choice", "yes/no", "open"])
def test_a_paraphrase_changes_the_instruction_and_nothing_else(sample):
    strategy = STRATEGIES["think"]
    for variant in VARIANTS:
        other = rephrased(strategy, variant)
        before, after = (one.question(sample, "letter").splitlines() for one in (strategy, other))
        assert before[:-1] == after[:-1]
        assert before[-1] != after[-1]
        assert replace(other, instruction=strategy.instruction) == strategy


def test_every_row_is_asked_in_every_wording():
    made = CONTROLS["prompts"].make([ask(), YES], 0).rows
    assert [(row.of, row.variant) for row in made] == [(name, variant) for name in ("s", "yes") for variant in VARIANTS]
    assert [row.sample.id for row in made][:2] == ["s#p1", "s#p2"]


def test_a_wording_that_is_not_there():
    with pytest.raises(RecipeError, match=r"unknown paraphrase 'p9'\. Known: p1, p2"):
        rephrased(STRATEGIES["think"], "p9")
    with pytest.raises(RecipeError, match="'prompts' has unknown strategy 'mine'"):
        rephrased(replace(STRATEGIES["think"], name="mine"), "p1")


# --- thinning ---


def cells(rows):
    return Counter((row.modality, row.question_type) for row in rows)


@given(st.lists(st.sampled_from([*Modality][:2])), st.integers(1, 6), st.integers(0, 3))
def test_thinned_rows_are_at_most_so_many_of_each_cell_in_their_order(modalities, limit, seed):
    rows = [replace(YES, id=f"{place}", modality=modality) for place, modality in enumerate(modalities)]
    samples = Samples.of(rows)
    thinned = thin(samples, limit, seed)
    kept = list(thinned.samples)
    assert cells(kept) == {cell: min(limit, count) for cell, count in cells(rows).items()}
    assert kept == [row for row in rows if row in kept]
    assert thin(samples, limit, seed).samples == thinned.samples
    assert {row.id for row in kept} <= {row.id for row in thin(samples, limit + 1, seed).samples}


def test_thinning_is_seeded_and_says_how_many_are_left():
    thinned = thin(DRAWN, 3, 0)
    assert str(thinned) == f"{len(thinned.samples)} of {len(DRAWN)} rows, at most 3 of a modality and question type"
    assert thinned.samples != thin(DRAWN, 3, 1).samples
    assert (thin(DRAWN, None, 0).samples, str(thin(DRAWN, None, 0))) == (DRAWN, f"all {len(DRAWN)} rows")
    with pytest.raises(RecipeError, match="max_rows_per_cell=0 keeps no row"):
        thin(DRAWN, 0, 0)


def test_nothing_comes_of_nothing():
    assert {name: control.make([], 0) for name, control in CONTROLS.items()} == dict.fromkeys(CONTROLS, Controlled((), {}))
    assert len(thin(DRAWN[:0], 3, 0).samples) == len(blanked([])) == 0
