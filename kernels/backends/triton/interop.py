"""CuPy's arrays and streams as PyTorch, and so Triton, knows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...array_types import Array
from ...arrays import namespace


def as_tensor(array: Array) -> Any:
    """Return the array as Triton knows it, without a copy."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(array)


@contextmanager
def stream_of(array: Array) -> Iterator[None]:
    """Make CuPy's device and stream those that Triton, which asks PyTorch, launches on."""
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
