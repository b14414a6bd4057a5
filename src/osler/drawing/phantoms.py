"""Phantoms: small drawn images with known findings, so that osler can train and be tested without any download.

A phantom is named by a reference, `phantom:SPLIT/SEED/INDEX`, and by nothing else: the reference seeds one generator, which
decides the case (what there is to see) and then the drawing. Splits and seeds therefore never share an image, and any image
can be drawn alone. The images look like eight imaging modalities to a model; they teach no medicine.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osler.drawing.canvas import (
    SIZE_PX,
    Image,
    Mask,
    X,
    Y,
    band,
    blend,
    box,
    brighten,
    discs,
    ellipse,
    jitter,
    plain,
    scatter,
    smooth_noise,
)
from osler.drawing.lesions import LESIONS, spot_at
from osler.errors import DataError
from osler.taxonomy import Modality

ANATOMY: dict[Modality, dict[str, tuple[str, str]]] = {
    Modality.CT: {"chest": ("lung nodule", "pleural effusion"), "abdomen": ("liver cyst", "kidney stone")},
    Modality.MRI: {"brain": ("brain tumor", "cerebral infarct"), "knee": ("bone edema", "ligament tear")},
    Modality.XRAY: {"chest": ("pneumonia", "pneumothorax"), "hand": ("fracture", "bone cyst")},
    Modality.ULTRASOUND: {"breast": ("breast cyst", "breast carcinoma"), "thyroid": ("thyroid nodule", "calcification")},
    Modality.DERMOSCOPY: {"back skin": ("melanoma", "nevus"), "facial skin": ("rosacea", "keratosis")},
    Modality.FUNDUS: {"retina": ("hard exudates", "hemorrhage"), "optic disc": ("glaucoma", "papilledema")},
    Modality.OCT: {"macula": ("macular edema", "drusen"), "cornea": ("corneal scar", "corneal edema")},
    Modality.MICROSCOPY: {"blood smear": ("leukemia", "malaria"), "colon tissue": ("adenocarcinoma", "polyp")},
}
"""The two anatomies of each modality and the two diseases of each anatomy; "normal" is the third possibility."""

GRADES = ("mild", "moderate", "severe")
LOCATIONS = ("upper left", "upper right", "lower left", "lower right")
SPLITS = ("train", "val", "test", "pretrain")

_FORM = re.compile(rf"phantom:({'|'.join(SPLITS)})/(0|[1-9][0-9]{{0,9}})/(0|[1-9][0-9]{{0,9}})")
_LARGEST = 2**32 - 1
"""A larger number would take two words of the generator's seed, and two references could then draw the same image."""


@dataclass(frozen=True)
class Case:
    """What there is to see in a phantom. Without a lesion: disease "normal", grade "none", location "no lesion"."""

    modality: Modality
    anatomy: str
    disease: str
    grade: str
    location: str

    @property
    def has_lesion(self) -> bool:
        """Whether there is a disease to see."""
        return self.disease != "normal"


def diagnoses(modality: Modality, anatomy: str) -> tuple[str, str, str]:
    """What may be diagnosed there: the two diseases of `anatomy`, then "normal"."""
    return (*ANATOMY[modality][anatomy], "normal")


def phantom_case(reference: str) -> Case:
    """What the phantom shows. Any prefix of a split is balanced over modalities. Errors: DataError for a bad reference."""
    rng = phantom_generator(reference)
    modality = list(ANATOMY)[_numbers(reference)[2] % len(ANATOMY)]
    anatomy = list(ANATOMY[modality])[rng.integers(2)]
    disease = diagnoses(modality, anatomy)[rng.integers(3)]
    if disease == "normal":
        return Case(modality, anatomy, disease, "none", "no lesion")
    return Case(modality, anatomy, disease, GRADES[rng.integers(3)], LOCATIONS[rng.integers(4)])


def draw_phantom(reference: str) -> npt.NDArray[np.uint8]:
    """The phantom, (SIZE_PX, SIZE_PX, 3). Errors: DataError for a bad reference."""
    return draw_case(phantom_case(reference), phantom_generator(reference))


def draw_case(case: Case, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """`case` drawn, (SIZE_PX, SIZE_PX, 3), by a generator that was not used before.

    Background, lesion and grain have a generator each: two cases that differ in the lesion only have the rest in common.
    """
    for_background, for_lesion, for_grain = rng.spawn(3)
    image = BACKGROUNDS[case.modality](case.anatomy, for_background)
    if case.has_lesion:
        LESIONS[case.disease](image, spot_at(case.location, case.grade, for_lesion), for_lesion)
    image = GRAINS[case.modality](image, for_grain) * (1 + jitter(for_grain, 0.1))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def phantom_generator(reference: str, *purpose: int) -> np.random.Generator:
    """A fresh generator for this reference; another `purpose` (numbers from 1) gives an independent one.

    Errors: DataError for a bad reference.
    """
    return np.random.default_rng([*_numbers(reference), *purpose])


def _numbers(reference: str) -> tuple[int, int, int]:
    """Seed, number of the split, index."""
    found = _FORM.fullmatch(reference)
    if not found or max(int(found[2]), int(found[3])) > _LARGEST:
        raise DataError(
            f"{reference!r} names no phantom. Write phantom:SPLIT/SEED/INDEX, as in phantom:train/0/17, "
            f"with SPLIT one of {', '.join(SPLITS)}, and SEED and INDEX from 0 to {_LARGEST}."
        )
    return int(found[2]), SPLITS.index(found[1]), int(found[3])


def _ct(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.04)
    wide, high = 0.94 + jitter(rng, 0.04), 0.84 + jitter(rng, 0.05)
    blend(image, ellipse(0, 0, wide, high), 0.72)  # skin and fat
    blend(image, ellipse(0, 0, wide - 0.06, high - 0.07), 0.48)
    if anatomy == "chest":
        for side in (-1, 1):
            blend(image, ellipse(side * 0.43, jitter(rng, 0.04), 0.33 + jitter(rng, 0.03), 0.58, side * 0.1), 0.1)
        blend(image, ellipse(0.06, -0.05, 0.15, 0.2 + jitter(rng, 0.04)), 0.62)  # mediastinum
    else:
        blend(image, ellipse(-0.36 + jitter(rng, 0.05), -0.12, 0.42, 0.5, jitter(rng, 0.3)), 0.63)  # liver
        blend(image, ellipse(0.46, 0.1 + jitter(rng, 0.06), 0.24, 0.34), 0.36)  # spleen
    blend(image, ellipse(jitter(rng, 0.04), 0.62, 0.13, 0.11), 1.0)  # vertebra
    return image


def _mri(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.02)
    if anatomy == "brain":
        wide = 0.8 + jitter(rng, 0.04)
        blend(image, ellipse(0, 0, wide, 0.95), 0.82)  # skull
        brain = ellipse(0, 0, wide - 0.08, 0.87)
        blend(image, brain, 0.42)
        folds = np.sin(9 * np.hypot(1.2 * X, Y) + 3 * smooth_noise(rng, 6))
        brighten(image, 0.07 * brain * folds)
        for side in (-1, 1):
            blend(image, ellipse(side * 0.12, jitter(rng, 0.05), 0.07, 0.22 + jitter(rng, 0.04), side * 0.3), 0.05)
    else:
        gap, left, right = jitter(rng, 0.06), -0.84 + jitter(rng, 0.06), 0.84 + jitter(rng, 0.06)
        blend(image, box(left, right, -1, gap - 0.07) + box(left, right, gap + 0.07, 1), 0.5)  # femur and tibia
        blend(image, box(left, right, gap - 0.07, gap + 0.07), 0.22)  # cartilage
        brighten(image, 0.05 * smooth_noise(rng, 16))
    return image


def _xray(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.36)
    if anatomy == "chest":
        for side in (-1, 1):
            blend(image, ellipse(side * 0.44, jitter(rng, 0.04), 0.36, 0.78 + jitter(rng, 0.05)), 0.14)
        ribs = np.sin(20 * Y + 4 * X * X + jitter(rng, 3)) > 0.35
        brighten(image, 0.09 * ribs.astype(np.float32))
        blend(image, ellipse(0.1, 0.32, 0.22 + jitter(rng, 0.03), 0.3), 0.58)  # heart
    else:
        image -= 0.22
        for finger in range(-2, 3):
            x, top = 0.38 * finger + jitter(rng, 0.02), -0.98 + 0.1 * abs(finger) + jitter(rng, 0.05)
            blend(image, box(x - 0.14, x + 0.14, top, 0.97), 0.66)
            for joint in (top, 0.0):
                blend(image, box(x - 0.17, x + 0.17, joint - 0.05, joint + 0.05), 0.84)
    return image


def _ultrasound(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.3)
    if anatomy == "thyroid":
        for side in (-1, 1):
            blend(image, ellipse(side * 0.44, jitter(rng, 0.05), 0.36, 0.6 + jitter(rng, 0.05)), 0.48)
        blend(image, ellipse(0, 0.05, 0.1, 0.18), 0.02)  # trachea
    else:
        for depth in (-0.72, -0.05, 0.72):
            wavy = Y - depth + 0.08 * np.sin(4 * X + jitter(rng, 3))
            brighten(image, 0.25 * band(wavy, 0.07))
    return image


def _dermoscopy(anatomy: str, rng: np.random.Generator) -> Image:
    tone = 1 + jitter(rng, 0.06)
    if anatomy == "back skin":
        image = plain((0.87 * tone, 0.68 * tone, 0.56 * tone))
        for _ in range(5):
            angle = jitter(rng, np.pi)
            hair = band(np.cos(angle) * X + np.sin(angle) * Y - jitter(rng, 0.9), 0.025)
            blend(image, 0.7 * hair, (0.27, 0.2, 0.16))
    else:
        image = plain((0.96 * tone, 0.8 * tone, 0.74 * tone))
        blend(image, 0.6 * discs(scatter(rng, 18), 0.06), (0.76, 0.56, 0.5))  # pores
    brighten(image, 0.03 * smooth_noise(rng, 14))
    return image


def _fundus(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.0)
    eye = ellipse(0, 0, 0.97, 0.97, edge=0.05)
    blend(image, eye, (0.76 + jitter(rng, 0.05), 0.33 + jitter(rng, 0.04), 0.12))
    if anatomy == "retina":
        blend(image, ellipse(0.74, jitter(rng, 0.08), 0.15, 0.19), (1.0, 0.82, 0.5))
        for slope in (-0.9, -0.3, 0.3, 0.9):
            vessel = Y + slope * (X - 0.74) - 0.1 * np.sin(4 * X + jitter(rng, 3))
            blend(image, 0.7 * eye * band(vessel, 0.035), (0.5, 0.08, 0.05))
    else:
        blend(image, ellipse(0, 0, 0.7 + jitter(rng, 0.04), 0.74 + jitter(rng, 0.04)), (0.97, 0.7, 0.36))
        for branch in range(6):
            angle = branch * np.pi / 3 + jitter(rng, 0.25)
            outwards = (np.cos(angle) * X + np.sin(angle) * Y > 0).astype(np.float32)
            vessel = band(np.sin(angle) * X - np.cos(angle) * Y, 0.035)
            blend(image, 0.7 * eye * vessel * outwards, (0.55, 0.1, 0.06))
    return image


def _oct(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain(0.04)
    if anatomy == "macula":
        depth = Y - 0.12 * np.cos(3 * X + jitter(rng, 0.6)) + jitter(rng, 0.05)
        blend(image, ((depth > -0.8) & (depth < 0.8)).astype(np.float32), 0.3)
        for layer in (-0.78, -0.5, 0.05, 0.6, 0.76):
            brighten(image, 0.5 * band(depth - layer, 0.05))
    else:
        depth = np.hypot(X, Y - 1.7) + jitter(rng, 0.05)
        blend(image, ((depth > 1.0) & (depth < 2.4)).astype(np.float32), 0.34)
        for layer in (1.0, 2.4):
            brighten(image, 0.6 * band(depth - layer, 0.07))
    return image


def _microscopy(anatomy: str, rng: np.random.Generator) -> Image:
    image = plain((0.95, 0.9, 0.93))
    if anatomy == "blood smear":
        cells = scatter(rng, 16)
        blend(image, discs(cells, 0.16, edge=0.2), (0.9, 0.55, 0.58))
        blend(image, 0.5 * discs(cells, 0.06), (0.97, 0.78, 0.78))  # the pale middle of a red cell
    else:
        cloud = smooth_noise(rng, 20)[..., None]
        image -= np.asarray((0.03, 0.1, 0.04), np.float32) * cloud
        grid = np.stack(np.meshgrid((-0.66, 0.0, 0.66), (-0.66, 0.0, 0.66)), axis=-1).reshape(-1, 2)
        glands = grid + rng.uniform(-0.06, 0.06, grid.shape)
        blend(image, discs(glands, 0.28, edge=0.15) - discs(glands, 0.16, edge=0.2), (0.8, 0.45, 0.68))
    return image


def _grey_grain(image: Image, rng: np.random.Generator) -> Image:
    return image + 0.04 * rng.standard_normal((SIZE_PX, SIZE_PX, 1), np.float32)


def _colour_grain(image: Image, rng: np.random.Generator) -> Image:
    return image + 0.02 * rng.standard_normal(image.shape, np.float32)


def _speckle(image: Image, rng: np.random.Generator) -> Image:
    speckle: Image = 1 + 0.28 * rng.standard_normal((SIZE_PX, SIZE_PX, 1), np.float32)
    return image * speckle + 0.03


def _speckled_sector(image: Image, rng: np.random.Generator) -> Image:
    sector: Mask = ((np.abs(X) < 0.84 + 0.16 * Y) & (np.hypot(X, Y + 1.5) < 2.45)).astype(np.float32)
    return _speckle(image, rng) * sector[..., None]


BACKGROUNDS: dict[Modality, Callable[[str, np.random.Generator], Image]] = {
    Modality.CT: _ct,
    Modality.MRI: _mri,
    Modality.XRAY: _xray,
    Modality.ULTRASOUND: _ultrasound,
    Modality.DERMOSCOPY: _dermoscopy,
    Modality.FUNDUS: _fundus,
    Modality.OCT: _oct,
    Modality.MICROSCOPY: _microscopy,
}
"""The image of an anatomy without a lesion and without grain."""

GRAINS: dict[Modality, Callable[[Image, np.random.Generator], Image]] = {
    Modality.CT: _grey_grain,
    Modality.MRI: _grey_grain,
    Modality.XRAY: _grey_grain,
    Modality.ULTRASOUND: _speckled_sector,
    Modality.DERMOSCOPY: _colour_grain,
    Modality.FUNDUS: _colour_grain,
    Modality.OCT: _speckle,
    Modality.MICROSCOPY: _colour_grain,
}
"""The noise that the instrument leaves over everything."""
