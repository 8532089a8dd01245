"""Backend functions in Triton, if faster than the reference; see `reference` for their definitions."""

import numpy as np

from ...array_types import SquareMatrix
from ...arrays import namespace
from ..reference import count_magnitudes, largest_magnitude
from .dense import dense
from .hadamard import hadamard
from .interop import as_tensor, stream_of
from .products import gram, shared_ones

__all__ = ["cholesky", "count_magnitudes", "dense", "gram", "hadamard", "largest_magnitude", "shared_ones"]


def cholesky(matrix: SquareMatrix) -> SquareMatrix:
    """Factor with PyTorch, whose newer cuSOLVER call takes 0.081 s, CuPy's 0.129 s, on an H200 (n = 19,363)."""
    import torch

    with stream_of(matrix):
        factor, failed = torch.linalg.cholesky_ex(as_tensor(matrix))
        if int(failed):
            raise np.linalg.LinAlgError("not positive definite")
    return namespace(matrix).from_dlpack(factor)
