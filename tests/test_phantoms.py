from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from osler.datasets.phantoms import describe, samples
from osler.drawing.canvas import SIZE_PX
from osler.drawing.lesions import LESIONS
from osler.drawing.phantoms import (
    ANATOMY,
    GRADES,
    LOCATIONS,
    SPLITS,
    Case,
    draw_case,
    draw_phantom,
    phantom_case,
    phantom_generator,
)
from osler.errors import DataError
from osler.schema import Sample
from osler.taxonomy import Modality, QuestionType

DISEASES = [
    (modality, anatomy, disease)
    for modality, anatomies in ANATOMY.items()
    for anatomy, diseases in anatomies.items()
    for disease in diseases
]


def test_reference_draws_the_same_image_and_case_every_time():
    image = draw_phantom("phantom:test/3/14")
    assert image.shape == (SIZE_PX, SIZE_PX, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, draw_phantom("phantom:test/3/14"))
    assert phantom_case("phantom:test/3/14") == phantom_case("phantom:test/3/14")


def test_splits_and_seeds_share_no_image():
    references = [f"phantom:{split}/{seed}/{index}" for split in SPLITS for seed in (0, 1, 2**32 - 1) for index in range(32)]
    assert len({draw_phantom(reference).tobytes() for reference in references}) == len(references)


def test_any_prefix_is_balanced_over_modalities():
    cases = [phantom_case(f"phantom:train/0/{index}") for index in range(48)]
    assert set(Counter(case.modality for case in cases).values()) == {6}


def test_cases_are_uniform_and_consistent():
    cases = [phantom_case(f"phantom:pretrain/0/{index}") for index in range(2400)]
    sick = [case for case in cases if case.has_lesion]
    assert 0.63 < len(sick) / len(cases) < 0.70
    assert {(case.modality, case.anatomy, case.disease) for case in sick} == set(DISEASES)
    for field, values in (("grade", GRADES), ("location", LOCATIONS)):
        counts = Counter(getattr(case, field) for case in sick)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.25 * min(counts.values())
    assert {(case.grade, case.location) for case in cases if not case.has_lesion} == {("none", "no lesion")}


def test_every_disease_has_a_look():
    assert sorted(LESIONS) == sorted(disease for *_, disease in DISEASES)


def lesion_mask(case: Case, reference: str) -> np.ndarray:
    """Pixels that the lesion changes, found by drawing the same background and grain without it."""
    without = draw_case(replace(case, disease="normal"), phantom_generator(reference)).astype(int)
    return np.abs(draw_case(case, phantom_generator(reference)) - without).max(axis=2) > 20


@pytest.mark.parametrize(("modality", "anatomy", "disease"), DISEASES)
def test_a_worse_grade_changes_clearly_more_of_the_image(modality, anatomy, disease):
    mild, moderate, severe = (
        np.mean(
            [
                lesion_mask(Case(modality, anatomy, disease, grade, location), f"phantom:val/7/{index}").sum()
                for location in LOCATIONS
                for index in range(2)
            ]
        )
        for grade in GRADES
    )
    assert mild >= 12
    assert moderate > 1.5 * mild
    assert severe > 1.4 * moderate


@pytest.mark.parametrize(("modality", "anatomy", "disease"), DISEASES)
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_lesion_lies_in_its_quadrant(modality, anatomy, disease, location):
    for index, grade in enumerate(GRADES):
        rows, columns = np.nonzero(lesion_mask(Case(modality, anatomy, disease, grade, location), f"phantom:val/8/{index}"))
        seen = f"{'upper' if rows.mean() < SIZE_PX / 2 else 'lower'} {'left' if columns.mean() < SIZE_PX / 2 else 'right'}"
        assert seen == location, grade


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "train/0/1",
        "phantom:dev/0/1",
        "phantom:train/0",
        "phantom:train/0/-1",
        "phantom:train/00/1",
        "phantom:train/0/1/2",
        "phantom:train/0/1\n",
        "phantom:train/\u0663/1",
        "phantom:train/0/4294967296",
    ],
)
def test_a_bad_reference_says_which_form_is_right(reference):
    with pytest.raises(DataError, match="phantom:SPLIT/SEED/INDEX"):
        phantom_case(reference)
    with pytest.raises(DataError, match="phantom:train/0/17"):
        draw_phantom(reference)


def test_samples_refuse_an_unknown_split():
    with pytest.raises(DataError, match="one of train, val, test, pretrain"):
        list(samples(0, {"dev": 1}))


def test_a_normal_image_has_three_questions_and_a_lesion_five():
    for index in range(24):
        case = phantom_case(f"phantom:train/0/{index}")
        asked = [s.question_type for s in samples(0, {"train": 24}) if s.images == (f"phantom:train/0/{index}",)]
        lesion_only = [QuestionType.GRADING, QuestionType.ATTRIBUTE] if case.has_lesion else []
        assert asked == [QuestionType.MODALITY, QuestionType.ANATOMY, QuestionType.DISEASE, *lesion_only]


def test_a_sample_is_complete():
    rows = list(samples(5, {"train": 60, "val": 20}))
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        (reference,) = row.images
        assert row.id == f"{reference}/{row.question_type.name.lower()}"
        assert row.group == reference
        assert not row.group_is_patient
        assert row.source == "phantoms"
        assert row.split == reference.split(":")[1].split("/")[0]
        assert row.gold_index is not None
        assert row.golds == (row.options[row.gold_index],)
        assert len({option.lower() for option in row.options}) == len(row.options)
        assert row.rationale is not None
        assert row.golds[0] in row.rationale
        assert set(row.extra) == {"anatomy", "disease", "grade", "location"}
        assert Sample.from_json(row.to_json()) == row
    assert rows == list(samples(5, {"train": 60, "val": 20}))


def test_the_wording_varies_with_the_row():
    asked = {row.question for row in samples(0, {"train": 40})}
    assert len(asked) == 15


def option_prior_accuracy(train: list[Sample], test: list[Sample]) -> float:
    """What an attacker scores who picks the text that is gold most often where it is offered; ties share the credit."""
    offered = Counter(option.lower() for row in train for option in row.options)
    gold = Counter(row.golds[0].lower() for row in train)
    credit = 0.0
    for row in test:
        rates = [gold[option.lower()] / max(1, offered[option.lower()]) for option in row.options]
        best = [k for k, rate in enumerate(rates) if rate == max(rates)]
        credit += (row.gold_index in best) / len(best)
    return credit / len(test)


@pytest.fixture(scope="module")
def many_samples() -> list[Sample]:
    return list(samples(1, {"train": 2400, "test": 1200}))


@pytest.mark.parametrize("question_type", [kind for kind in QuestionType if kind is not QuestionType.UNKNOWN])
def test_options_do_not_give_the_answer_away(question_type, many_samples):
    rows = [row for row in many_samples if row.question_type is question_type]
    train = [row for row in rows if row.split == "train"]
    test = [row for row in rows if row.split == "test"]
    chance = np.mean([1 / len(row.options) for row in test])
    assert abs(option_prior_accuracy(train, test) - chance) < 0.05
    letters = Counter(row.gold_index for row in rows)
    assert max(letters.values()) < 1.2 * min(letters.values())


def test_descriptions_use_the_words_of_the_rationales():
    case = Case(Modality.CT, "chest", "lung nodule", "mild", "upper left")
    assert describe(case) == [
        ("CT", "The modality is CT."),
        ("chest", "The anatomy is the chest."),
        ("lung nodule", "The diagnosis is lung nodule."),
        ("mild", "The severity is mild."),
        ("upper left", "The location is upper left."),
    ]
    normal = Case(Modality.OCT, "macula", "normal", "none", "no lesion")
    assert [finding for finding, _ in describe(normal)] == ["OCT", "macula", "normal"]
