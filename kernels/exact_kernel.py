"""The exact kernel of the optical projection |Rx|^2, the limit of its Gram for many components.

For a complex Gaussian R the expected product of two outputs, E[y_i(x) y_i(x')], is proportional to
|x|^2 |x'|^2 + <x, x'>^2 (Saade et al. 2016, arXiv:1510.06664).
"""

from .array_types import Counts, OtherRowCounts, RowCounts
from .arrays import namespace
from .memory import blocks, rows_at_a_time


def exact_kernel(overlap: Counts, norms: RowCounts, other_norms: OtherRowCounts, out: Counts | None = None) -> Counts:
    """Return |x|^2 |x'|^2 + <x, x'>^2 of bits, exactly.

    Parameters
    ----------
    overlap : int64 array of shape (n, n')
        Inner products of the bits.
    norms, other_norms : int64 arrays of shape (n,) and (n',)
        Numbers of ones; see `bits.popcount`.
    out : int64 array of shape (n, n'), optional
        Output array, which may be `overlap` itself.

    Returns
    -------
    kernel : int64 array of shape (n, n')
    """
    xp = namespace(overlap)
    kernel = xp.empty(overlap.shape, dtype="int64") if out is None else out
    for which in blocks(len(norms), rows_at_a_time(overlap, 256)):
        kernel[which] = xp.square(overlap[which]) + norms[which, None] * other_norms
    return kernel
