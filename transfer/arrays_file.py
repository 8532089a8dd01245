"""Safetensors files of a model folder, with exactly the arrays that they must have; large ones in blocks, as maps."""

import json
import mmap
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays

from ..schema import MalformedError, parse_object, shown
from .rows import NO_RESERVE

LARGEST_POOLED = float(np.finfo("float32").max)
"""Channel means, and what standardizes them, are no larger than float32 holds."""
_HEADER = 1 << 16
"""Bytes of a safetensors header, whose few arrays take less than a tenth of it."""
_TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "U8": "|u1"}
"""The dtypes of the arrays of large files."""
_BLOCK = 1 << 24
"""Bytes that are written at a time."""


class ArraysFile:
    """The bytes of a safetensors file of arrays, block by block: those of a map are read as they are needed.

    Parameters
    ----------
    arrays : mapping of str to array
        Of the dtypes float64, int64, float32 and uint8.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        # Larger items first, so that all are aligned.
        ordered = sorted(arrays.items(), key=lambda each: (-each[1].itemsize, each[0]))
        self._arrays = [np.ascontiguousarray(array) for _, array in ordered]
        names, header, end = {dtype: name for name, dtype in _TYPES.items()}, dict[str, Any](), 0
        for name, array in ordered:
            offsets = [end, end := end + array.nbytes]
            header[name] = {"dtype": names[array.dtype.str], "shape": list(array.shape), "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self._size = len(self._head) + end

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self._head
        for array in self._arrays:
            data = array.reshape(-1).data.cast("B")
            for start in range(0, len(data), _BLOCK):
                yield data[start : start + _BLOCK]


def mapped_arrays(descriptor: int, size: int) -> dict[str, np.ndarray]:
    """Return the arrays of an open safetensors file by name, as maps of it; see `loaded_arrays`.

    What is written to them stays in memory.
    """
    flags = mmap.MAP_PRIVATE | NO_RESERVE
    data = mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    start = 8 + _header_length(data[:8], size)
    header, arrays, end = parse_object(data[8:start]), dict[str, np.ndarray](), start
    for name, entry in sorted(header.items(), key=lambda each: _offsets(each[1])):
        (first, last), shape = _offsets(entry), entry.get("shape")
        dtype = _TYPES.get(str(entry.get("dtype")))
        counts = isinstance(shape, list) and all(type(each) is int and 0 <= each <= size for each in shape)
        # No array has more dimensions, and NumPy takes so many and no more.
        counts = counts and len(shape) <= 2
        follows = start + first == end and start + last <= size
        if not (counts and dtype and follows and last - first == prod(shape) * np.dtype(dtype).itemsize):
            raise MalformedError(f"is not a safetensors file (array {shown(name)} is strange)")
        arrays[name] = np.ndarray(shape, dtype, buffer=data, offset=end) if last > first else np.empty(shape, dtype)
        end = start + last
    if end != size:
        raise MalformedError(f"is not a safetensors file ({size - end:,d} bytes are of no array)")
    return arrays


def _offsets(entry: Any) -> tuple[int, int]:
    found = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(found, list) and len(found) == 2 and all(type(each) is int for each in found)):
        raise MalformedError("is not a safetensors file (an array has no offsets)")
    return found[0], found[1]


def _header_length(data: bytes, size: int) -> int:
    length = int.from_bytes(data, "little")
    if len(data) < 8 or length > min(_HEADER, size - 8):
        raise MalformedError(f"is not a safetensors file (a header of {length:,d} bytes)")
    return length


def loaded_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name.

    Raises
    ------
    MalformedError
        If it is not one, or has a long header, a repeated name or metadata.
    """
    length = _header_length(data[:8], len(data))
    header = parse_object(data[8 : 8 + length])
    try:
        arrays: dict[str, np.ndarray] = load_arrays(data)
    except Exception as error:  # safetensors and NumPy raise what they like, of each broken header another
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MalformedError(f"is not a safetensors file ({reason})") from None
    for name in header:
        if name not in arrays:
            raise MalformedError(f"is of another readout (array {shown(name)} is strange)")
    return arrays


def checked_arrays(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise MalformedError unless the arrays are the wanted ones, by name with dtype and shape."""
    for name in [*wanted, *arrays]:
        if name not in arrays or name not in wanted:
            raise MalformedError(
                f"is of another readout (array {shown(name)} is {'missing' if name in wanted else 'strange'})"
            )
    for name, (dtype, shape) in wanted.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise MalformedError(
                f"is of another readout (array {name} is {found.dtype} of shape {found.shape}, not {dtype} of "
                f"shape {shape})"
            )
