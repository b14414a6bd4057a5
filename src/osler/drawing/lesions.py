"""What each disease looks like in a phantom: `LESIONS` names a stroke and its colour for every disease.

A stroke grows with the grade in extent or in number, and the two diseases of one anatomy never use the same look.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osler.drawing.canvas import Colour, Image, X, Y, blend, discs, ellipse, fade, jitter, smooth_noise

_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_RADIUS = {"mild": 0.13, "moderate": 0.24, "severe": 0.37}
_OFFSET = 0.38
"""How far a lesion's centre lies from the middle, on either axis."""


@dataclass(frozen=True)
class Spot:
    """Where a lesion is drawn and how large; `level` is 0 (mild), 1 or 2 (severe)."""

    x: float
    y: float
    radius: float
    level: int


Stroke = Callable[[Image, Spot, np.random.Generator], None]


def spot_at(location: str, grade: str, rng: np.random.Generator) -> Spot:
    """A spot in the quadrant that `location` names, as large as `grade` says, both jittered."""
    return Spot(
        x=(-_OFFSET if "left" in location else _OFFSET) + jitter(rng, 0.08),
        y=(-_OFFSET if "upper" in location else _OFFSET) + jitter(rng, 0.08),
        radius=_RADIUS[grade] * (1 + jitter(rng, 0.1)),
        level=list(_RADIUS).index(grade),
    )


def blob(colour: Colour, wide: float = 1, high: float = 1, tilt: float = 0, edge: float = 0.15, rough: float = 0) -> Stroke:
    """A filled ellipse, `wide` x `high` radii; `rough` (0 to 1) makes it cloudy."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        mask = ellipse(spot.x, spot.y, spot.radius * wide, spot.radius * high, tilt + jitter(rng, 0.15), edge)
        if rough:
            mask *= np.clip(1 - rough * np.abs(smooth_noise(rng, 12)), 0, 1)
        blend(image, mask, colour)

    return draw


def slit(colour: Colour, half_width: float, tilt: float) -> Stroke:
    """A thin line whose length, not its width, grows with the grade."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        turned = tilt + jitter(rng, 0.2)
        blend(image, ellipse(spot.x, spot.y, spot.radius * 1.5, half_width, turned, 0.3), colour)

    return draw


def ring(rim: Colour, inside: Colour, hole: float = 0.72) -> Stroke:
    """A disc of colour `inside` (its radius: the share `hole`) within a rim of another colour."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        blend(image, ellipse(spot.x, spot.y, spot.radius, spot.radius), rim)
        blend(image, ellipse(spot.x, spot.y, spot.radius * hole, spot.radius * hole), inside)

    return draw


def ragged(colour: Colour, lobes: int, depth: float) -> Stroke:
    """A disc whose outline swings in and out `lobes` times, by the share `depth` of its radius."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        angle = np.arctan2(Y - spot.y, X - spot.x)
        swing = np.sin(lobes * angle + jitter(rng, np.pi)) + 0.5 * np.sin((lobes + 2) * angle + jitter(rng, np.pi))
        outline = spot.radius * (1 + depth * swing)
        blend(image, fade(1 - np.hypot(X - spot.x, Y - spot.y) / outline, edge=0.15), colour)

    return draw


def striped(colour: Colour, stripes: float) -> Stroke:
    """A disc of fine waves, `stripes` radians per unit, through which what lies below is seen."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        phase = stripes * (X + 0.5 * Y) + jitter(rng, np.pi)
        waves = (0.75 + 0.25 * np.sin(phase)).astype(np.float32)
        blend(image, ellipse(spot.x, spot.y, spot.radius * 1.15, spot.radius * 0.95) * waves, colour)

    return draw


def dots(colour: Colour, counts: tuple[int, int, int], size: float) -> Stroke:
    """Discs of radius `size`, as many as `counts` says for the level, spread like sunflower seeds so that none is hidden."""

    def draw(image: Image, spot: Spot, rng: np.random.Generator) -> None:
        seed = np.arange(counts[spot.level])
        angle = seed * _GOLDEN_ANGLE + jitter(rng, np.pi)
        reach = spot.radius * np.sqrt((seed + 0.5) / len(seed))
        centres = np.stack([spot.x + reach * np.cos(angle), spot.y + reach * np.sin(angle)], axis=1)
        blend(image, discs(centres + rng.uniform(-0.02, 0.02, centres.shape), size), colour)

    return draw


LESIONS: dict[str, Stroke] = {
    "lung nodule": blob(0.97),
    "pleural effusion": blob(0.6, wide=1.35, high=0.75, edge=0.3),
    "liver cyst": blob(0.0),
    "kidney stone": dots(1.0, (1, 3, 7), size=0.1),
    "brain tumor": blob(0.97),
    "cerebral infarct": blob(0.05, wide=0.8, high=1.15, tilt=0.5, edge=0.3),
    "bone edema": blob(0.97, edge=0.4),
    "ligament tear": blob(0.0, wide=1.4, high=0.45, tilt=0.8),
    "pneumonia": blob(0.97, wide=1.1, high=1.1, edge=0.6, rough=0.35),
    "pneumothorax": ring(rim=1.0, inside=0.0, hole=0.68),
    "fracture": slit(0.0, half_width=0.09, tilt=0.6),
    "bone cyst": ring(rim=1.0, inside=0.05, hole=0.7),
    "breast cyst": blob(0.0),
    "breast carcinoma": ragged(1.0, lobes=6, depth=0.22),
    "thyroid nodule": ring(rim=1.0, inside=0.15, hole=0.6),
    "calcification": dots(1.0, (2, 5, 11), size=0.07),
    "melanoma": ragged((0.13, 0.08, 0.08), lobes=3, depth=0.25),
    "nevus": blob((0.55, 0.33, 0.2)),
    "rosacea": blob((0.9, 0.2, 0.22), wide=1.2, high=1.2, edge=0.6),
    "keratosis": striped((0.4, 0.36, 0.28), stripes=22),
    "hard exudates": dots((1.0, 0.97, 0.5), (2, 6, 13), size=0.075),
    "hemorrhage": blob((0.25, 0.0, 0.02), wide=1.1, tilt=1.0, rough=0.15),
    "glaucoma": blob((1.0, 1.0, 0.93)),
    "papilledema": blob((0.72, 0.13, 0.25), wide=1.15, high=1.15, edge=0.5),
    "macular edema": blob(0.0, wide=1.15, high=0.85),
    "drusen": blob(1.0, wide=1.15, high=0.8),
    "corneal scar": blob(1.0, edge=0.3),
    "corneal edema": striped(0.0, stripes=25),
    "leukemia": dots((0.3, 0.1, 0.5), (1, 3, 6), size=0.17),
    "malaria": dots((0.12, 0.08, 0.35), (2, 5, 11), size=0.07),
    "adenocarcinoma": blob((0.36, 0.1, 0.48), wide=1.1, high=1.1, edge=0.25, rough=0.12),
    "polyp": blob((0.95, 0.3, 0.4), wide=1.0, high=1.1),
}
