"""Safetensors files of a model folder: read whole, with exactly the arrays that they must have."""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load as load_arrays

from ..schema import MalformedError, parse_object, shown

LARGEST_POOLED = float(np.finfo("float32").max)
"""Channel means, and what standardizes them, are no larger than float32 holds."""
_HEADER = 1 << 16
"""Bytes of a safetensors header, whose few arrays take less than a tenth of it."""


def loaded_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name.

    Raises
    ------
    MalformedError
        If it is not one, or has a long header, a repeated name or metadata.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_HEADER, len(data) - 8):
        raise MalformedError(f"is not a safetensors file (a header of {length:,d} bytes)")
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
