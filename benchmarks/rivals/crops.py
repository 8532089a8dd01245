"""Parts of one decoded image, each resized to the input of an engine."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ...images.decode import decode

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def decode_whole(path: Path | str) -> np.ndarray:
    """Decode an image file at its own size; see `decode`.

    Returns
    -------
    pixels : uint8 array of shape (height, width, 3)
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except Exception:  # `decode` fails alike and says what is wrong with the file
        width, height, turned = 1, 1, False
    return decode(path, (width, height) if turned else (height, width))


def crops(pixels: np.ndarray, corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut parts out of an image and resize each.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width, 3)
    corners : float array of shape (p, 4)
        Left, top, right and bottom in pixels, inside the image; fractions are interpolated.
    size : (height, width)

    Returns
    -------
    parts : uint8 array of shape (p, height, width, 3)
    """
    image, parts = Image.fromarray(pixels), np.empty((len(corners), *size, 3), "uint8")
    for index, box in enumerate(corners.tolist()):
        parts[index] = image.resize(size[::-1], Image.Resampling.BILINEAR, box=tuple(box), reducing_gap=3.0)
    return parts
