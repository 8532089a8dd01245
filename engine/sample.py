"""Sample the images that engines are calibrated and measured on."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AurevoirError, UsageError
from ..images.batches import ImageFiles, collect
from ..images.decode import Resize
from ..images.labelled import list_images
from ..images.sources import warn
from .spec import HELD_OUT_IMAGES


def calibration_sample(
    images: Any,
    shape: tuple[int, ...],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
    held_out: int = HELD_OUT_IMAGES,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return up to `count` calibration images, and a third as many held-out images, at most `held_out`.

    If there are fewer than 4 images, none are held out. See `sample_images`.
    """
    sample = sample_images(images, shape, sample_count(count, held_out), resize, seed, progress)
    return hold_out(sample, held_out) if held_out else (sample, None)


def sample_images(
    images: Any,
    shape: tuple[int, ...],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Return up to `count` images, chosen by the seed, as uint8 of shape (n, height, width, channels).

    Parameters
    ----------
    images : path, list of paths, or uint8 array of shape (n, height, width, channels)
        A folder means all files under it.
    shape : (height, width) or (height, width, channels)
        Without channels, 3.

    Raises
    ------
    UsageError
        If an array has the wrong shape or dtype.
    AurevoirError
        If no file holds a readable image.
    """
    height, width, channels = (*shape, 3)[:3]
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
            raise UsageError(
                f"calibration images of shape {images.shape} and dtype {images.dtype}; give uint8 of shape "
                f"(n, {height}, {width}, {channels}), or another size"
            )
        return choose_images(images, count, seed)  # type: ignore[no-any-return]
    chosen = choose_images(list_images([images] if isinstance(images, str | Path) else images), count, seed)
    description = "calibration images" if progress else None
    files = ImageFiles(chosen, (height, width), resize, description=description, channels=channels)
    pixels = collect(files)[1]
    if files.skipped:
        path, reason = next(iter(files.skipped.items()))
        first = f"first {path}: {reason}"
        if not len(pixels):
            raise AurevoirError(f"none of the {len(chosen)} calibration files is a readable image, {first}")
        warn(f"{len(files.skipped)} of {len(chosen)} calibration files cannot be read, {first}")
    if not len(pixels):
        raise AurevoirError("there are no calibration images; give a folder that contains some")
    return pixels


def choose_images(images: Any, count: int, seed: int) -> Any:
    """Return up to `count` items of an array or a list, chosen by the seed, in their order."""
    which = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    return images[which] if isinstance(images, np.ndarray) else [images[index] for index in which]


def sample_count(count: int, held_out: int) -> int:
    """Return how many images `calibration_sample` asks for."""
    return count + min(held_out, count // 3)


def hold_out(pixels: np.ndarray, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Split images into calibration images and a held-out quarter, at most `limit`.

    Fewer than 4 images are not split.
    """
    if len(pixels) < 4:
        return pixels, None
    held = min(limit or len(pixels), len(pixels) // 4)
    # Every k-th image, since a sample may be sorted by class.
    selected = np.zeros(len(pixels), dtype=bool)
    selected[np.linspace(0, len(pixels) - 1, held).astype(int)] = True
    return pixels[~selected], pixels[selected]
