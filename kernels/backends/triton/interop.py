"""Share CuPy's arrays and streams with PyTorch, and thereby with Triton."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...array_types import Array
from ...arrays import namespace


def as_tensor(array: Array) -> Any:
    """Return the array as a PyTorch tensor, without a copy."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(array)


@contextmanager
def stream_of(array: Array) -> Iterator[None]:
    """Use CuPy's device and stream in PyTorch, and thereby for Triton's launches."""
    if namespace(array) is np:
        yield
        return
    import cupy  # type: ignore[import-not-found, unused-ignore]
    import torch

    array_device: Any = array.device
    with array_device as device:
        stream = cupy.cuda.get_current_stream().ptr
        with torch.cuda.stream(torch.cuda.get_stream_from_external(stream, device.id)):
            yield
