"""Memory for decoded pixels, shared by the threads that decode: each takes what its file's header says it needs."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from PIL import Image

from ..kernels.memory import memory_budget

_BYTES = {"1": 6, "L": 6, "P": 6, "RGB": 9}
"""Bytes a pixel while an image is decoded, converted and resized, as measured; those of all other modes are 24."""
_MOST = 24
_PROGRESSIVE = 8
"""Bytes a pixel of the whole image, whatever the scale, that a progressive JPEG's coefficients take."""
_UNTOLD = ("ICO", "ICNS")
"""Formats that hold images of other formats, of which the header need not say how large they are."""
_KEPT = 4
"""What was freed is given back to the system when it has come to this part of the memory budget."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def needed(image: Image.Image, whole: tuple[int, int]) -> int:
    """Return the bytes that decoding an opened image takes, from its header alone.

    Parameters
    ----------
    image : PIL.Image.Image
        Not yet loaded.
    whole : (width, height)
        Its size before a JPEG was drafted smaller.
    """
    width, height = image.size
    pixels = width * height
    if image.format == "TIFF":
        pixels = max(pixels, _tag(image, _TILE_WIDTH) * _tag(image, _TILE_LENGTH))
    plain = image.format in ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "PPM") and "transparency" not in image.info
    size = pixels * (_BYTES.get(image.mode, _MOST) if plain else _MOST)
    if "progressive" in image.info or "progression" in image.info:
        size += _PROGRESSIVE * whole[0] * whole[1]
    return max(size, memory_budget()) if image.format in _UNTOLD else size


@cache
def _trim() -> Any:
    """Return glibc's function that gives free memory back, or None where there is none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _tag(image: Image.Image, number: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, 0)
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float) else 0


class _Shared:
    """Bytes that threads have taken; who waits for many goes before who comes later."""

    def __init__(self) -> None:
        self._taken = self._freed = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int, most: int) -> Iterator[None]:
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= most)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()

    def freed(self, size: int, most: int) -> None:
        """Note that so many bytes were freed, of which glibc keeps some for each thread."""
        with self._changed:
            self._freed += size
            if self._freed <= most // _KEPT:
                return
            self._freed = 0
        if (trim := _trim()) is not None:
            trim(0)


_SHARED, _FILES = _Shared(), _Shared()
_SHARE_OF_FILES = 4
"""Files that were sent whole take at most this part of the memory budget together."""
if hasattr(os, "register_at_fork"):
    # What other threads had taken is not given back in a child.
    for _each in (_SHARED, _FILES):
        os.register_at_fork(after_in_child=_each.__init__)  # type: ignore[misc]


@contextmanager
def memory_for(size: int) -> Iterator[None]:
    """Wait until so many bytes are free of the memory budget, or none is taken, and take them for a block."""
    with _SHARED.take(size, memory_budget()):
        try:
            yield
        finally:
            _SHARED.freed(size, memory_budget())


@contextmanager
def memory_for_file(size: int) -> Iterator[None]:
    """Wait until a file of so many bytes fits beside the others that were sent whole, or there is none, and hold it.

    Within the block `memory_for` may be asked for its pixels, and never the other way round.
    """
    # A file of this machine, which is not held, waits for none that is.
    with _FILES.take(size, memory_budget() // _SHARE_OF_FILES) if size else nullcontext():
        yield
