"""Questions about drawn phantoms: the embedded data set, with the truth of every image at hand.

The options of a question say nothing about its answer: every text is the gold exactly as often as it would be by chance
among the options that it stands in, so an attacker who never sees the image stays at 1/4 (or 1/3).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from osler.drawing.marks import PLANTINGS, Mark, Planting, mark_of
from osler.drawing.phantoms import ANATOMY, GRADES, LOCATIONS, Case, diagnoses, phantom_case, phantom_generator
from osler.errors import DataError, unknown
from osler.images import grainy_of, marked_with
from osler.schema import Kind, Sample
from osler.taxonomy import Modality, QuestionType

IMAGES: Mapping[str, int] = MappingProxyType({"train": 400, "val": 60, "test": 240})
"""Images of each split, unless a caller says otherwise."""

UNMARKED: Mapping[str, Planting] = MappingProxyType({})
"""What marks say in each split, unless a caller says otherwise: there are none."""

_NEVER_BESIDE = {
    one: other
    for pair in (
        (Modality.CT, Modality.XRAY),  # both show the chest: an option would stand there twice
        (Modality.MRI, Modality.ULTRASOUND),
        (Modality.DERMOSCOPY, Modality.FUNDUS),
        (Modality.OCT, Modality.MICROSCOPY),
    )
    for one, other in (pair, pair[::-1])
}
"""The modality whose anatomies are never offered beside one's own.

Only the first pair is needed. The others leave every modality as many partners, or else being offered would hint at being
the gold.
"""


@dataclass(frozen=True)
class _Question:
    """How one type of question is asked: `finding` is the field of Case that answers it, `options` include the gold."""

    finding: str
    wordings: tuple[str, ...]
    options: Callable[[Case, np.random.Generator], list[str]]
    rationale: str
    needs_lesion: bool = False


def samples(
    seed: int,
    images: Mapping[str, int] = IMAGES,
    plantings: Mapping[str, Planting] = UNMARKED,
    mark_share: float = 1.0,
    grain: int = 0,
) -> Iterator[Sample]:
    """Every question about the first images of each split: three for a normal one, five where there is a lesion.

    `plantings` says by split what the images' marks say (osler.drawing.marks), and `mark_share` how many of train and val agree
    under `with`; in test all do. `grain` is the percentage of noise in every image, below the mark.
    Errors: DataError for a split that phantoms do not have, or a bad seed.
    """
    for split, count in images.items():
        share = 1.0 if split == "test" else mark_share
        for reference in (f"phantom:{split}/{seed}/{index}" for index in range(count)):
            yield from questions(reference, mark_of(reference, plantings.get(split, "none"), share), grain)


def plantings_of(mark: str | Mapping[str, str]) -> dict[str, Planting]:
    """What marks say in each split: `mark` itself, or what it says of the split.

    val is as train unless it is named, since training is stopped on it; in a split that is not named there are no marks.
    Errors: DataError for a split or planting that is unknown.
    """
    said = dict.fromkeys(IMAGES, mark) if isinstance(mark, str) else {"val": mark.get("train", "none"), **mark}
    for split, planting in said.items():
        if split not in IMAGES:
            raise DataError(f"mark: {unknown('split', split, IMAGES)}")
        if planting not in PLANTINGS:
            raise DataError(f"mark: {unknown('planting', planting, PLANTINGS)}")
    return {split: known for split, planting in said.items() for known in PLANTINGS if known == planting}


def require_shared(images: Mapping[str, int], plantings: Mapping[str, Planting]) -> None:
    """Errors: DataError where no image is drawn whose mark a share below 1 could turn."""
    if not any(images.get(split) and plantings.get(split) == "with" for split in ("train", "val")):
        raise DataError(
            "mark_share: it is the share of train and val images of mark: with that are marked so, and there are none. "
            "Leave it out, or mark them: with."
        )


def questions(reference: str, mark: Mark | None = None, grain: int = 0) -> Iterator[Sample]:
    """The questions about one phantom, which shows `mark` and so much `grain`. Errors: DataError for a bad reference.

    Ids, groups and texts are the same with a mark or grain and without, so that rows pair up.
    """
    case = phantom_case(reference)
    for question_type, question in QUESTIONS.items():
        if case.has_lesion or not question.needs_lesion:
            row = _sample(reference, case, question_type, question)
            row = replace(row, images=(grainy_of(reference, grain),)) if grain else row
            yield _marked(row, mark) if mark else row


def describe(case: Case) -> list[tuple[str, str]]:
    """Everything there is to see: each finding with the sentence that states it, in the words of questions and rationales."""
    seen = [question for question in QUESTIONS.values() if case.has_lesion or not question.needs_lesion]
    findings = [str(getattr(case, question.finding)) for question in seen]
    return [(finding, question.rationale.format(finding)) for finding, question in zip(findings, seen, strict=True)]


def _marked(row: Sample, mark: Mark) -> Sample:
    """`row` with `mark` on its image; its `extra` says which diagnosis the mark names, and whether that is the right one."""
    extra = {**row.extra, "mark": mark.diagnosis, "mark_agrees": mark.agrees}
    return replace(row, images=tuple(marked_with(image, mark.glyph) for image in row.images), extra=extra)


def _sample(reference: str, case: Case, question_type: QuestionType, question: _Question) -> Sample:
    rng = phantom_generator(reference, 1 + list(QUESTIONS).index(question_type))
    gold = str(getattr(case, question.finding))
    offered = question.options(case, rng)
    options = tuple(offered[k] for k in rng.permutation(len(offered)))
    return Sample(
        id=f"{reference}/{question_type.name.lower()}",
        images=(reference,),
        question=question.wordings[rng.integers(len(question.wordings))],
        golds=(gold,),
        options=options,
        gold_index=options.index(gold),
        kind=Kind.CHOICE,
        rationale=question.rationale.format(gold),
        modality=case.modality,
        question_type=question_type,
        source="phantoms",
        split=reference.removeprefix("phantom:").split("/")[0],
        group=reference,
        extra={name: getattr(case, name) for name in ("anatomy", "disease", "grade", "location")},
    )


def _modalities(case: Case, rng: np.random.Generator) -> list[str]:
    others = [modality.value for modality in ANATOMY if modality is not case.modality]
    return [case.modality.value, *(others[k] for k in rng.permutation(len(others))[:3])]


def _anatomies(case: Case, rng: np.random.Generator) -> list[str]:
    partners = [other for other in ANATOMY if other not in (case.modality, _NEVER_BESIDE[case.modality])]
    return [*ANATOMY[case.modality], *ANATOMY[partners[rng.integers(len(partners))]]]


def _diseases(case: Case, rng: np.random.Generator) -> list[str]:
    return list(diagnoses(case.modality, case.anatomy))


def _grades(case: Case, rng: np.random.Generator) -> list[str]:
    return list(GRADES)


def _locations(case: Case, rng: np.random.Generator) -> list[str]:
    return list(LOCATIONS)


QUESTIONS: dict[QuestionType, _Question] = {
    QuestionType.MODALITY: _Question(
        finding="modality",
        wordings=(
            "What imaging modality is this?",
            "Which modality produced this image?",
            "How was this image taken?",
        ),
        options=_modalities,
        rationale="The modality is {}.",
    ),
    QuestionType.ANATOMY: _Question(
        finding="anatomy",
        wordings=(
            "Which anatomy is shown?",
            "What part of the body does this image show?",
            "Which anatomy was imaged here?",
        ),
        options=_anatomies,
        rationale="The anatomy is the {}.",
    ),
    QuestionType.DISEASE: _Question(
        finding="disease",
        wordings=(
            "What is the diagnosis?",
            "Which diagnosis does this image support?",
            "What does this image show?",
        ),
        options=_diseases,
        rationale="The diagnosis is {}.",
    ),
    QuestionType.GRADING: _Question(
        finding="grade",
        wordings=(
            "How severe is the lesion?",
            "What is the severity of the lesion?",
            "Which grade does the lesion have?",
        ),
        options=_grades,
        rationale="The severity is {}.",
        needs_lesion=True,
    ),
    QuestionType.ATTRIBUTE: _Question(
        finding="location",
        wordings=(
            "Where is the lesion?",
            "What is the location of the lesion?",
            "In which part of the image is the lesion?",
        ),
        options=_locations,
        rationale="The location is {}.",
        needs_lesion=True,
    ),
}
