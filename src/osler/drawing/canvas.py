"""The few strokes that phantoms are drawn with: ellipses, bands, discs, noise, and laying a colour over an image.

An image is a float32 array (SIZE_PX, SIZE_PX, 3) with values around 0 to 1; a mask is (SIZE_PX, SIZE_PX) from 0 (leave) to 1
(cover). Coordinates run from -1 (left, top) to 1 (right, bottom), and so do lengths: 0.1 is 2.75 pixels.
"""

import numpy as np
import numpy.typing as npt

SIZE_PX = 56
"""Width and height of every phantom."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.float32]
Points = npt.NDArray[np.floating]
Colour = float | tuple[float, float, float]
"""A grey, or red, green and blue, from 0 to 1."""

_AXIS = np.linspace(-1, 1, SIZE_PX, dtype=np.float32)
X: Mask = np.tile(_AXIS, (SIZE_PX, 1))
Y: Mask = X.T.copy()


def plain(colour: Colour) -> Image:
    """An image of one colour."""
    image = np.empty((SIZE_PX, SIZE_PX, 3), np.float32)
    image[:] = colour
    return image


def blend(image: Image, mask: Mask, colour: Colour) -> None:
    """Nothing; lays `colour` over `image`, in place, as strongly as `mask` says."""
    image += mask[..., None] * (np.asarray(colour, np.float32) - image)


def brighten(image: Image, amount: Mask) -> None:
    """Nothing; adds `amount`, which may be negative, to all three channels of `image` in place."""
    image += amount[..., None]


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, edge: float = 0.1) -> Mask:
    """A filled ellipse around (x, y); `tilt` in radians; `edge` is the share of the radius over which it fades out."""
    cos, sin = np.cos(np.float32(tilt)), np.sin(np.float32(tilt))
    u = (cos * (X - x) + sin * (Y - y)) / rx
    v = (cos * (Y - y) - sin * (X - x)) / ry
    return fade(1 - np.sqrt(u * u + v * v), edge)


def discs(centres: Points, radius: float, edge: float = 0.35) -> Mask:
    """The union of discs of one radius; `centres` is (n, 2), as x and y."""
    x, y = centres.astype(np.float32).T[:, :, None, None]
    nearest = ((X - x) ** 2 + (Y - y) ** 2).min(axis=0)
    return fade(1 - np.sqrt(nearest) / radius, edge)


def band(distance: Mask, half_width: float) -> Mask:
    """1 where `distance` (from a line, in any direction) is 0, falling off smoothly over `half_width`."""
    strength: Mask = np.exp(-((distance / half_width) ** 2))
    return strength


def box(left: float, right: float, top: float, bottom: float) -> Mask:
    """A filled rectangle with sharp edges."""
    return ((left < X) & (right > X) & (top < Y) & (bottom > Y)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, cells: int) -> Mask:
    """Cloudy noise of mean 0 and deviation below 1, from `cells` x `cells` random values joined linearly."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    position = np.linspace(0, cells - 1, SIZE_PX, dtype=np.float32)
    low = np.minimum(position.astype(int), cells - 2)
    share = position - low
    rows = coarse[low] * (1 - share)[:, None] + coarse[low + 1] * share[:, None]
    cloud: Mask = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return cloud


def jitter(rng: np.random.Generator, spread: float) -> float:
    """A number drawn uniformly between -spread and spread."""
    return float(rng.uniform(-spread, spread))


def scatter(rng: np.random.Generator, count: int) -> Points:
    """`count` points anywhere in the image, (count, 2)."""
    return rng.uniform(-1, 1, (count, 2))


def fade(depth: Mask, edge: float) -> Mask:
    """0 outside, 1 inside, and a ramp of width `edge` where `depth` crosses 0."""
    mask: Mask = np.clip(depth / edge + 0.5, 0, 1)
    return mask
