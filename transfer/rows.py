"""Rows of many images, such as their bits: in memory, or beyond a share of the memory budget in a file.

The file has no name: it is gone with the last array of it, and with the process, however that ends. Its arrays are
maps: the system reads pages of them as they are needed, and takes them back when it needs the memory. What is written
to an array stays in memory and does not reach the file.
"""

import errno
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SaveError
from ..kernels.memory import Budget, block_length, blocks, format_bytes, memory_budget
from ..saving import explained

SHARE = 4
"""The rows of one set of images take at most this part of the memory budget; what takes more is in files."""
_BLOCK = 1 << 24
"""Bytes that are copied at a time."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Flag of a private map that may be larger than memory; Python has its name from 3.13 on."""

Types = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of a row of each of several outputs, by name."""


def row_bytes(types: Types) -> int:
    """Return the bytes of a row of all outputs."""
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in types.values())


def fits_memory(types: Types, n: int, budget: Budget = None) -> bool:
    """Return whether n rows are held in memory."""
    return n * row_bytes(types) <= memory_budget(budget) // SHARE


def temporary_folder() -> str:
    """Return the folder of files without a name: ``TMPDIR``, or else ``/var/tmp``, since ``/tmp`` may be memory."""
    named = any(map(os.environ.get, ("TMPDIR", "TEMP", "TMP")))
    if not named and os.access("/var/tmp", os.W_OK):
        return "/var/tmp"
    with explained("the temporary folder (TMPDIR)"):
        return tempfile.gettempdir()


def require_space(folder: Path | str, needed: int, what: str) -> None:
    """Raise SaveError, before the work, unless so many bytes are free on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SaveError(
            f"{what} take {format_bytes(needed)} on the disk of {folder}, where {format_bytes(free)} are free; "
            f"{_remedy(folder)}"
        )


def _remedy(folder: Path | str) -> str:
    if str(folder) == temporary_folder():
        return "free some, name a folder on a larger disk in TMPDIR, or raise the memory budget (AUREVOIR_MEMORY)"
    return "free some, or choose a folder on a larger disk"


class _File:
    """A file without a name, which is only appended to."""

    def __init__(self, folder: Path | str) -> None:
        self.descriptor, self.folder, self.size = -1, folder, 0
        try:
            with tempfile.TemporaryFile(dir=folder) as made:
                self.descriptor = os.dup(made.fileno())
        except OSError as error:
            raise SaveError(
                f"{folder} cannot be written: {(error.strerror or '').lower()}; {_remedy(folder)}"
            ) from error

    def append(self, data: memoryview) -> None:
        left = data
        try:
            while left:
                left = left[os.pwrite(self.descriptor, left, self.size + len(data) - len(left)) :]
        except OSError as error:
            why = "is full" if error.errno in _FULL else f"cannot be written: {(error.strerror or '').lower()}"
            raise SaveError(
                f"the disk of {self.folder} {why}, after {format_bytes(self.size)} of the images; "
                f"{_remedy(self.folder)}"
            ) from error
        self.size += len(data)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class _Map(mmap.mmap):
    """The map of a file, or of its beginning."""

    file: _File


class Rows:
    """Rows that come one block after another; one array of all of them.

    Parameters
    ----------
    shape : tuple of int
        Of a row.
    dtype
    most : int
        The number of rows to come at most.
    folder : path, optional
        Of the file; without it they are held in memory.

    Raises
    ------
    SaveError
        If nothing can be written there.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, most: int, folder: Path | str | None = None) -> None:
        self._shape, self._dtype, self._filled = tuple(shape), np.dtype(dtype), 0
        self._file = None if folder is None else _File(folder)
        self._held = np.empty((most if folder is None else 0, *shape), dtype)

    @classmethod
    def of(cls, types: Types, n: int, budget: Budget = None, folder: Path | str | None = None) -> "dict[str, Rows]":
        """Return rows for n images at most: in memory where they fit the share of the budget, else in files.

        Parameters
        ----------
        types : mapping
        n : int
        budget : int, str or None
            See `memory_budget`.
        folder : path, optional
            Of the files, by default `temporary_folder`.
        """
        place = None if fits_memory(types, n, budget) else folder or temporary_folder()
        return {name: cls(shape, dtype, n, place) for name, (shape, dtype) in types.items()}

    def append(self, values: np.ndarray) -> None:
        """Add rows.

        Raises
        ------
        SaveError
            If the disk is full.
        """
        end = self._filled + len(values)
        if self._file is None:
            self._held[self._filled : end] = values
        elif len(values):
            data = np.ascontiguousarray(values, self._dtype)
            self._file.append(data.data.cast("B"))
        self._filled = end

    def array(self) -> np.ndarray:
        """Return the rows that came, of shape (rows, ...)."""
        if self._file is None:
            return self._held[: self._filled]
        return _mapped(self._file, (self._filled, *self._shape), self._dtype)


def _mapped(file: _File, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if not prod(shape):
        return np.empty(shape, dtype)
    # Not read-only: compiled functions would be compiled again for such arrays.
    private, protection = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    made = _Map(file.descriptor, prod(shape) * dtype.itemsize, flags=private, prot=protection)
    made.file = file
    return np.ndarray(shape, dtype, buffer=made)


def _file_of(array: np.ndarray) -> _File | None:
    """Return the file of which an array is all, if it is of one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    whole = isinstance(base, _Map) and array.nbytes == len(base) == base.file.size
    return base.file if whole else None


def is_mapped(array: np.ndarray) -> bool:
    """Return whether an array is of a file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rows of two arrays: of one in a file as an array of the same file, which is appended to."""
    file = _file_of(first)
    if file is not None and first.dtype == second.dtype:
        for which in _blocks(second):
            file.append(np.ascontiguousarray(second[which]).data.cast("B"))
        return _mapped(file, (len(first) + len(second), *first.shape[1:]), first.dtype)
    if not (is_mapped(first) or is_mapped(second)):
        return np.concatenate([first, second])
    rows = Rows(first.shape[1:], first.dtype, len(first) + len(second), temporary_folder())
    for part in (first, second):
        for which in _blocks(part):
            rows.append(part[which])
    return rows.array()


def picked(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of an array, by index: of one in a file as another file."""
    if not is_mapped(array):
        some: np.ndarray = array[rows]
        return some
    found = Rows(array.shape[1:], array.dtype, len(rows), temporary_folder())
    for which in blocks(len(rows), _length(array)):
        found.append(array[rows[which]])
    return found.array()


def _blocks(array: np.ndarray) -> list[slice]:
    return blocks(len(array), _length(array))


def _length(array: np.ndarray) -> int:
    return block_length(prod(array.shape[1:]) * array.dtype.itemsize, _BLOCK, 1 << 20)
