"""Array libraries and devices of arrays."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import cast

import numpy as np

from ..errors import MissingPackageError, UsageError
from .array_types import Array, ArrayLibrary

NUMPY = cast(ArrayLibrary, np)


def namespace(array: Array) -> ArrayLibrary:
    """Return the array's module, ``numpy`` or ``cupy``."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        return cast(ArrayLibrary, cupy)
    return NUMPY


def on_device(array: Array, device: str) -> Array:
    """Move a NumPy array to a device.

    Parameters
    ----------
    array : array
    device : {"cpu", "cuda"}
        ``cuda`` is the current NVIDIA GPU, through CuPy.

    Raises
    ------
    UsageError
        If the device is unknown or not available.
    MissingPackageError
        If CuPy is not installed.
    """
    if device == "cpu":
        return array
    if device != "cuda":
        raise UsageError(f"device {device!r} is not known; choose cpu or cuda")
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingPackageError(
            f"device 'cuda' needs CuPy ({error}); install it with: pip install 'aurevoir[gpu]'"
        ) from error
    try:
        moved: Array = cupy.asarray(array)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UsageError(f"device 'cuda' cannot be used here ({error}); use 'cpu'") from error
    return moved


def on_host(array: Array) -> np.ndarray:
    """Return an array of either library as a NumPy array."""
    get: Callable[[], Array] | None = getattr(array, "get", None)
    return array if get is None else get()


def synchronize(device: str) -> None:
    """Wait until the work on a device's current stream is done; see `on_device`."""
    if device != "cpu":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        cupy.cuda.get_current_stream().synchronize()


def has_cupy() -> bool:
    """Return whether CuPy is installed, without importing it."""
    return find_spec("cupy") is not None
