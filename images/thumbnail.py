"""Small JPEGs of image files, for pages."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image

from .decode import UnreadableImageError, decode

SIDE = 192
"""Pixels of the longer side: sharp at half as many on a phone's dense display."""
_QUALITY = 70


def thumbnail(path: Path | str, side: int = SIDE) -> bytes | None:
    """Return an image as a small JPEG of its own aspect ratio, without the file's metadata.

    Parameters
    ----------
    path : path
        Whatever `decode` takes.
    side : int
        Pixels of the longer side at most.

    Returns
    -------
    data : bytes or None
        None if the file cannot be read, which may have changed since it was.
    """
    try:
        pixels = decode(path, (side, side), "contain")
    except UnreadableImageError:
        return None
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def thumbnails(paths: Iterable[Path | str], side: int = SIDE) -> list[bytes | None]:
    """Return `thumbnail` of each file, decoded by threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: thumbnail(path, side), paths))
