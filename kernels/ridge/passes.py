"""Passes over many rows in segments, whose results are added up in order, wherever they are computed."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..array_types import RowWeights, Targets
from ..blas import blas_threads
from ..memory import blocks
from ..row_blocks import RowBlocks, RowSource
from .form import LANDMARK_BLOCK, WHOLE

SEGMENT = 1 << 14
"""Rows whose results are computed alone, from zero, so that sums do not depend on where that is, at most."""
_SEGMENTS = 8
"""Segments that many rows have at least, so that workers can share them."""
# The number of BLAS's threads is the process': who restores it must be who set it last.
_ALONE = threading.RLock()

Work = Callable[[RowBlocks, Targets, RowWeights], Any]
"""What a pass computes of a segment; it is pickled where segments are shared out."""
Share = Callable[[Work, RowSource, Targets, RowWeights], Iterator[Any]]
"""Yields the results of the segments, in order."""


def segment(n: int) -> int:
    """Return the rows of a segment of n rows; of up to `SEGMENT` there is only one."""
    return SEGMENT if n <= SEGMENT else min(SEGMENT, LANDMARK_BLOCK * -(-n // (_SEGMENTS * LANDMARK_BLOCK)))


def here(work: Work, rows: RowSource, targets: Targets, weights: RowWeights) -> Iterator[Any]:
    """Compute each segment in this process; see `Share`."""
    for which in blocks(len(targets), segment(len(targets))):
        yield work(rows[which], targets[which], weights[which])


def blocks_alike(n: int) -> Iterator[slice]:
    """Yield blocks of n rows of which 1, 2, 4, 8 or 16 threads give the same bits.

    OpenBLAS's kernels for AVX2 round products of odd numbers of rows by the number of threads: what is left over of
    whole blocks is for one thread, until the next block is asked for.
    """
    left_over = n % WHOLE
    yield from blocks(n - left_over, LANDMARK_BLOCK)
    if left_over:
        with _ALONE, blas_threads(1):
            yield slice(n - left_over, n)
