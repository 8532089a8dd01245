"""Memory that a caller owns, given by its addresses or as arrays to write into."""

import ctypes
import math
from collections.abc import Mapping
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np

from ..errors import UsageError

Described = Mapping[str, tuple[tuple[int, ...], str]]
"""The shape, without the batch axis, and the dtype of each tensor by name."""

IMAGES = "images"
_ADDRESS_SPACE = 1 << 64
# What libraries of streams call the ``cudaStream_t`` of theirs: torch, CuPy, PyCUDA.
_HANDLES = ("cuda_stream", "ptr", "handle")


def check_pointers(addresses: Mapping[str, Any], batch: Any, described: Described) -> tuple[dict[str, int], int]:
    """Return addresses by name and the batch size as integers.

    Parameters
    ----------
    addresses : mapping of int
        That of ``images``, and of at least one output.
    batch : int
    described : mapping of (shape, dtype)
        Of ``images`` and of every output.

    Raises
    ------
    UsageError
        If a name is not one of these or is missing, the batch is not a positive integer, an address is none, is not
        aligned to its dtype, or the memory of two overlaps.
    """
    if not isinstance(addresses, Mapping):
        raise UsageError(f"addresses are a {type(addresses).__name__}; give a dict such as {{'images': 0x..., ...}}")
    outputs = [name for name in described if name != IMAGES]
    if unknown := [name for name in addresses if name not in described]:
        raise UsageError(f"{unknown[0]!r} is no tensor of this engine; give 'images' and any of {', '.join(outputs)}")
    if IMAGES not in addresses or len(addresses) < 2:
        missing = "'images'" if IMAGES not in addresses else f"an output, any of {', '.join(outputs)}"
        raise UsageError(f"addresses of {', '.join(addresses) or 'nothing'} are not enough; give also {missing}")
    count = _positive(batch, "batch")
    found = {name: _positive(address, f"the address of {name!r}") for name, address in addresses.items()}
    ends = {name: found[name] + count * _row_bytes(described[name]) for name in found}
    for name, address in found.items():
        dtype = np.dtype(described[name][1])
        if ends[name] > _ADDRESS_SPACE:
            raise UsageError(f"{count} rows of {name!r} at {address:#x} lie beyond the addresses of 64 bits")
        if address % dtype.itemsize:
            raise UsageError(
                f"the address {address:#x} of {name!r} is not a multiple of {dtype.itemsize}, the size of its {dtype}"
            )
    _refuse_overlap(found, ends)
    return found, count


def _positive(value: Any, what: str) -> int:
    try:
        number = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"{what} is {value!r}; give a positive integer")
    return number


def _row_bytes(described: tuple[tuple[int, ...], str]) -> int:
    shape, dtype = described
    return math.prod(shape) * np.dtype(dtype).itemsize


def _refuse_overlap(starts: Mapping[str, int], ends: Mapping[str, int]) -> None:
    ordered = sorted(starts, key=lambda name: starts[name])
    for first, second in pairwise(ordered):
        if ends[first] > starts[second]:
            raise UsageError(
                f"the memory of {first!r}, up to {ends[first]:#x}, overlaps that of {second!r}, from "
                f"{starts[second]:#x}; give memory of its own to each"
            )


def host_memory(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return memory of the host as an array, without a copy; whether it is as large cannot be checked."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.dtype(dtype)).reshape(shape)


def stream_handle(stream: Any) -> int:
    """Return the ``cudaStream_t`` of a stream of torch, CuPy or PyCUDA, or of one given as an integer."""
    found = next((getattr(stream, name) for name in _HANDLES if hasattr(stream, name)), stream)
    try:
        handle = -1 if isinstance(found, bool) else index(found)
    except TypeError:
        handle = -1
    if not 0 <= handle < _ADDRESS_SPACE:
        raise UsageError(f"stream {stream!r} is none of torch, CuPy or PyCUDA, and no cudaStream_t as an integer")
    return handle


def writable(out: Any, shape: tuple[int, ...], dtype: str, images: np.ndarray) -> np.ndarray:
    """Return `out`, a NumPy array or one of the host with DLPack, as an array to write an output into.

    Raises
    ------
    UsageError
        If it has another shape or dtype, cannot be written, is not C-contiguous, or shares memory with the images.
    """
    try:
        array: np.ndarray = out if isinstance(out, np.ndarray) else np.from_dlpack(out)
    except (AttributeError, BufferError, RuntimeError, TypeError) as error:
        raise UsageError(f"out of type {type(out).__name__} cannot be written ({error}); give a NumPy array") from None
    if (array.shape, array.dtype) != (shape, np.dtype(dtype)):
        raise UsageError(f"out has dtype {array.dtype} and shape {array.shape}; give {dtype} of shape {shape}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        what = "not C-contiguous" if array.flags.writeable else "read-only"
        raise UsageError(f"out is {what}; give an array such as numpy.empty({shape}, {dtype!r})")
    if np.may_share_memory(array, images):
        raise UsageError("out shares memory with the images; give an array of its own")
    return array
