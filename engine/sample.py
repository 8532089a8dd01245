"""The images that engines are calibrated and measured on."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AurevoirError, UsageError
from ..images.batches import ImageFiles, collect
from ..images.decode import Resize
from ..images.sources import expand
from .spec import HELD_OUT_IMAGES


def calibration_sample(
    images: Any,
    size: tuple[int, int],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
    held_out: int = HELD_OUT_IMAGES,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return up to `count` images to calibrate on, and a third as many others, `held_out` at most, to measure on.

    Of fewer than 4 images none are held out. See `sample_images`.
    """
    sample = sample_images(images, size, count + min(held_out, count // 3), resize, seed, progress)
    return hold_out(sample, held_out) if held_out else (sample, None)


def sample_images(
    images: Any,
    size: tuple[int, int],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Return up to `count` images, chosen by the seed, as uint8 of shape (n, height, width, 3).

    Parameters
    ----------
    images : path, list of paths, or uint8 array of shape (n, height, width, 3)
        Folders stand for the files under them.

    Raises
    ------
    UsageError
        If an array is of another size or dtype.
    AurevoirError
        If no file holds a readable image.
    """
    random = np.random.default_rng(seed)
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.shape[1:] != (*size, 3):
            raise UsageError(
                f"calibration images of shape {images.shape} and dtype {images.dtype}; give uint8 of shape "
                f"(n, {size[0]}, {size[1]}, 3), or another size"
            )
        return images[np.sort(random.permutation(len(images))[:count])]
    paths = expand([images] if isinstance(images, str | Path) else images)
    chosen = [paths[place] for place in np.sort(random.permutation(len(paths))[:count])]
    files = ImageFiles(chosen, size, resize, description="calibration images" if progress else None)
    pixels = collect(files)[1]
    if not len(pixels):
        raise AurevoirError(f"none of the {len(chosen)} calibration files holds a readable image; give photographs")
    return pixels


def hold_out(pixels: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Split images into those to calibrate on and a quarter, at most `most`, to measure on.

    Fewer than 4 images are not split.
    """
    if len(pixels) < 4:
        return pixels, None
    held = min(most or len(pixels), len(pixels) // 4)
    # Every k-th image, since a sample may be sorted by class.
    places = np.zeros(len(pixels), dtype=bool)
    places[np.linspace(0, len(pixels) - 1, held).astype(int)] = True
    return pixels[~places], pixels[places]
