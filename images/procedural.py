"""Synthetic images: ten classes of textures and shapes, generated from a seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..progress import progress_bar
from .sources import LabelledPaths, class_folders

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pattern = Callable[[Floats, Floats, np.random.Generator], Mask]
# Much larger variations would make the classes inseparable for a network with random weights.
_TURN, _SCALES, _TINT, _LIGHT, _NOISE = 0.25, (4.5, 6.5), 0.15, 0.15, 0.1
_COLOURS = np.array([[0.8, 0.7, 0.6], [0.2, 0.25, 0.3]])


def _cell(u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Return the coordinates within a cell of a unit grid, relative to its centre."""
    return (u % 1) - 0.5, (v % 1) - 0.5


def _clouds(u: Floats, v: Floats, random: np.random.Generator) -> Mask:
    field: Floats = gaussian_filter(random.normal(size=u.shape), random.uniform(3, 8), mode="wrap")
    return field > 0


def _bricks(u: Floats, v: Floats, random: np.random.Generator) -> Mask:
    x, y = _cell(u / 2 + np.floor(v) % 2 / 2, v)
    return (np.abs(x) < 0.45) & (np.abs(y) < 0.4)


def _triangles(u: Floats, v: Floats, random: np.random.Generator) -> Mask:
    x, y = _cell(u, v)
    return np.abs(x) < 0.4 * (y + 0.5)


def _crosses(u: Floats, v: Floats, random: np.random.Generator) -> Mask:
    x, y = (np.abs(offset) for offset in _cell(u, v))
    return (np.minimum(x, y) < 0.1) & (np.maximum(x, y) < 0.4)


PATTERNS: dict[str, Pattern] = {
    "bricks": _bricks,
    "checks": lambda u, v, random: (np.floor(u) + np.floor(v)) % 2 > 0,
    "clouds": _clouds,
    "crosses": _crosses,
    "dots": lambda u, v, random: np.hypot(*_cell(u, v)) < 0.3,
    "rays": lambda u, v, random: np.sin(random.integers(6, 14) * np.arctan2(v, u)) > 0,
    "rings": lambda u, v, random: np.sin(2 * np.pi * np.hypot(u, v)) > 0,
    "stripes": lambda u, v, random: np.sin(2 * np.pi * u) > 0,
    "triangles": _triangles,
    "waves": lambda u, v, random: np.sin(2 * np.pi * (u + 0.4 * np.sin(2 * np.pi * v))) > 0,
}


def draw(pattern: Pattern, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image: a rotated, scaled and shifted pattern in two colours, with uneven lighting and noise.

    Parameters
    ----------
    pattern : callable
        One of `PATTERNS`.
    size : int
        Height and width.
    random : numpy.random.Generator

    Returns
    -------
    pixels : uint8 array of shape (size, size, 3)
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j] + random.uniform(-0.5, 0.5, size=(2, 1, 1))
    angle, scale = random.uniform(-_TURN, _TURN), random.uniform(*_SCALES)
    u = scale * (np.cos(angle) * x + np.sin(angle) * y)
    v = scale * (np.cos(angle) * y - np.sin(angle) * x)
    inside = gaussian_filter(pattern(u, v, random).astype("float64"), 0.7)[..., None]
    colours = _COLOURS + random.uniform(-_TINT, _TINT, size=(2, 3))
    light = 1 + random.uniform(-_LIGHT, _LIGHT) * x[..., None] + random.uniform(-_LIGHT, _LIGHT) * y[..., None]
    values = light * (inside * colours[0] + (1 - inside) * colours[1])
    values += random.uniform(0, _NOISE) * random.normal(size=values.shape)
    pixels: NDArray[np.uint8] = (255 * values.clip(0, 1)).astype("uint8")
    return pixels


def write_class_folders(
    folder: Path, per_class: int, size: int, seed: int = 0, progress: bool = False
) -> LabelledPaths:
    """Draw images of every class into class folders, as JPEG files.

    Parameters
    ----------
    folder : path
    per_class : int
        Images per class.
    size : int
        Height and width.
    seed : int
        Random seed.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    LabelledPaths
    """
    with progress_bar(total=per_class * len(PATTERNS), desc="draw", unit="img", show=progress) as bar:
        for index, (name, pattern) in enumerate(PATTERNS.items()):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                random = np.random.default_rng([seed, index, number])
                Image.fromarray(draw(pattern, size, random)).save(folder / name / f"{number:04d}.jpg", quality=90)
                bar.update()
    return class_folders(folder)
