"""The two axes on which generalisation is measured: imaging modality and question type.

File names and labels of published data sets are misspelt in many ways; every spelling that was met maps to one value here
and nowhere else. A label that says that it does not know, or that names a modality of OmniMedVQA beyond the eight, is
`UNKNOWN`; a label that no table holds is `None`, so that the adapter that read it can name its file and row.
"""

import re
from enum import StrEnum


class Modality(StrEnum):
    """The eight imaging modalities of OmniMedVQA, and `UNKNOWN`."""

    CT = "CT"
    MRI = "MRI"
    XRAY = "X-ray"
    ULTRASOUND = "Ultrasound"
    DERMOSCOPY = "Dermoscopy"
    FUNDUS = "Fundus"
    OCT = "OCT"
    MICROSCOPY = "Microscopy"
    UNKNOWN = "unknown"


class QuestionType(StrEnum):
    """The five question types of OmniMedVQA, and `UNKNOWN`."""

    MODALITY = "Modality recognition"
    ANATOMY = "Anatomy identification"
    DISEASE = "Disease diagnosis"
    GRADING = "Lesion grading"
    ATTRIBUTE = "Other biological attributes"
    UNKNOWN = "unknown"


MODALITY_SPELLINGS: dict[Modality, tuple[str, ...]] = {
    Modality.CT: ("ct", "computed tomography", "ct computed tomography", "computed tomography ct", "ct scan"),
    Modality.MRI: (
        "mri",
        "mr",
        "mr mag netic resonance imaging",
        "magnetic resonance imaging",
        "magnetic resonance imaging mri",
        "mr magnetic resonance imaging",
    ),
    Modality.XRAY: ("x ray", "xray", "x rays", "radiography", "cr", "dx", "chest x ray"),
    Modality.ULTRASOUND: ("ultrasound", "us", "ultrasonography", "sonography"),
    Modality.DERMOSCOPY: ("dermoscopy", "der", "dermo", "dermatoscopy"),
    Modality.FUNDUS: ("fundus", "fp", "fundus photography", "fundus photograph", "colour fundus", "color fundus"),
    Modality.OCT: (
        "oct",
        "oct optical coherence tomography",
        "optical coherence tomography",
        "optical coherence tomography oct",
    ),
    Modality.MICROSCOPY: ("microscopy", "micro", "microscopy images", "histopathology", "pathology"),
    Modality.UNKNOWN: (
        "",
        "unknown",
        "not stated",
        "radiology modality not stated",
        "colposcopy",
        "digital photography",
        "endoscopy",
        "infrared reflectance imaging",
    ),
}

QUESTION_TYPE_SPELLINGS: dict[QuestionType, tuple[str, ...]] = {
    QuestionType.MODALITY: ("modality recognition", "modality", "mr"),
    QuestionType.ANATOMY: ("anatomy identification", "anatomy", "ai", "organ", "organ system", "plane", "position"),
    QuestionType.DISEASE: ("disease diagnosis", "disease", "diagnosis", "dd", "abn", "abnormality"),
    QuestionType.GRADING: ("lesion grading", "grading", "lg", "severity", "grade"),
    QuestionType.ATTRIBUTE: (
        "other biological attributes",
        "biological attribute analysis",
        "attribute",
        "oba",
        "other bio",
        "attrib",
        "atrib",
        "size",
        "color",
        "count",
        "quantity",
        "shape",
        "pos",
    ),
    QuestionType.UNKNOWN: ("", "unknown", "not stated", "other", "pres", "prse", "kg"),
}

_MODALITIES = {spelling: value for value, spellings in MODALITY_SPELLINGS.items() for spelling in spellings}
_QUESTION_TYPES = {spelling: value for value, spellings in QUESTION_TYPE_SPELLINGS.items() for spelling in spellings}


def fold(label: str) -> str:
    """`label` in lower case with every run of punctuation and blanks as one blank."""
    return re.sub(r"[\W_]+", " ", label).strip().lower()


def modality_of(label: str | None) -> Modality | None:
    """The modality that `label` names; `UNKNOWN` where it says so or is absent; None where no table holds it."""
    return _MODALITIES.get(fold(label or ""))


def question_type_of(label: str | None) -> QuestionType | None:
    """The question type that `label` names; `UNKNOWN` where it says so or is absent; None where no table holds it.

    VQA-RAD's labels come as `VQA-RAD:PRES, ATTRIB`: the part before the colon is dropped, and a list of several types is
    the one type that all its known parts agree on, else `UNKNOWN`.
    """
    parts = [fold(part) for part in (label or "").rsplit(":", 1)[-1].split(",")]
    found = [_QUESTION_TYPES.get(part) for part in parts]
    if None in found:
        return None
    named = {value for value in found if value is not QuestionType.UNKNOWN}
    return named.pop() if len(named) == 1 else QuestionType.UNKNOWN
