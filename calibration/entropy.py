"""Choose thresholds that balance saturation and rounding, from a histogram of magnitudes.

Both functions take the counts of equal bins of |x|, starting at 0, and the bin width. Both ignore bin 0. After
a ReLU it contains the zeros, often most of the tensor; int8 represents zero exactly at any scale, so zeros carry
no information about the threshold, but as magnitudes spread over their bin they would dominate all others. The
few small values in the same bin round to zero at any useful scale.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

LEVELS = 128
"""Number of quantization levels of the entropy method, including 0, and the smallest candidate in bins."""

STEPS = 127
"""Positive levels of symmetric int8."""

EPSILON = 1e-4
"""Count of an empty bin for which the divergence would be infinite, as in MXNet and ONNX Runtime."""

TIE = 1e-12
"""Divergences, in nats, within this distance are considered equal."""

LEAST = 0.01
"""Smallest candidate of the mean squared error, relative to the largest magnitude."""


def entropy_threshold(counts: Counts, width: float) -> float:
    """Return TensorRT's entropy threshold: the least Kullback-Leibler divergence of int8 from float.

    For i from 128 to the last bin in use, P is the first i bins with all values beyond them added to bin
    i - 1, and Q the first i bins alone, merged into 128 equal levels, each of which is spread evenly over
    its non-empty bins. With m the largest i that minimizes KL(P || Q), the threshold is
    (m + 1/2) `width`, limited to the bins in use.

    Parameters
    ----------
    counts : integer array of shape (bins,)
        Bin j counts the magnitudes in [j, j + 1) `width`; trailing empty bins are ignored.
    width : float

    Returns
    -------
    threshold : float
        0 if all counts are 0; the end of the last bin in use if that is among the first 128, or if
        all values are in bin 0.

    Notes
    -----
    The algorithm is that of S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Details not given in the slides:

    - Bin 0 is discarded, as NVIDIA says TensorRT does (calibration document of MLPerf Inference 0.5); its
      pytorch-quantization overwrites bin 0 with bin 1 instead, with the same purpose.
    - Bin j belongs to level floor(128 j / i), as in pytorch-quantization. Levels of i // 128 bins with the
      remainder in the last, as in MXNet, would let that level grow to half of the range.
    - Q is zero where P is not only if bin i - 1 is empty and values exist beyond it; its count there is then
      1e-4.
    - A candidate must keep at least half of the values. If nearly all saturate, P and Q are both
      concentrated in bin i - 1 and their divergence is zero, so magnitudes bounded away from zero would all
      saturate.
    """
    used = _in_use(counts)
    if len(used) <= LEVELS or not used.any():
        return float(len(used) * width)
    sizes = np.arange(LEVELS, len(used) + 1)
    divergences = _divergences(used, sizes)
    best = int(sizes[divergences <= divergences.min() + TIE][-1])
    return float(min(best + 0.5, len(used)) * width)


def mse_threshold(counts: Counts, width: float) -> float:
    """Return the threshold t that minimizes the mean squared error of symmetric int8 with scale t / 127.

    Values below t round to the nearest multiple of the scale, and those above it saturate at t. Candidates
    are the ends of all bins from 1 % of the range in use.

    Parameters
    ----------
    counts : integer array of shape (bins,)
        Bin j counts the magnitudes in [j, j + 1) `width`; trailing empty bins are ignored.
    width : float

    Returns
    -------
    threshold : float
        0 if all counts are 0; the end of bin 0 if all values are in it.

    Notes
    -----
    Values are assumed uniform within their bin, so that the binning does not favour some candidates. At the
    centre, all values of a bin that straddles two levels would round to one of them: for steps of three bins
    the error would be a third too large, and for steps of two or four bins correct.
    """
    used = _in_use(counts)
    if not used.any():
        return float(len(used) * width)
    ends = np.arange(max(1, int(np.ceil(LEAST * len(used)))), len(used) + 1)
    return float(ends[np.argmin(_squared_errors(used, ends))] * width)


def _in_use(counts: Counts) -> Counts:
    """Return the counts up to the last nonempty bin, with bin 0 set to 0."""
    used = np.trim_zeros(np.asarray(counts, dtype="int64"), "b").copy()
    used[:1] = 0
    return used


def _prefix_sums(values: NDArray[Number]) -> NDArray[Number]:
    """Return the sums of the first 0, 1, ..., n values; exact for integers."""
    return np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])


def _suffix_sums(values: Counts) -> Counts:
    """Return the sums of all but the first 0, 1, ..., n values; exact for integers."""
    prefix = _prefix_sums(values)
    total: np.int64 = prefix[-1]
    return total - prefix


def _xlogx(values: Counts) -> Floats:
    logarithms: Floats = np.log(np.maximum(values, 1))
    return logarithms * values


def _divergences(counts: Counts, sizes: Counts) -> Floats:
    """Return KL(P || Q) in nats for each number of kept bins, or infinity if most values saturate.

    With N values in total, S of them kept, O = N - S beyond, c_j in bin j and Q_j = q_j / S,

        N KL = sum_j c_j log c_j + [(c + O) log (c + O) - c log c]_(i-1) - N log N
               - sum_j c_j log q_j - O log q_(i-1) + N log S,

    and q = C / m is the same for all m non-empty bins of a level with total count C, so sum_j c_j log q_j is
    the sum of C log (C / m) over levels.
    """
    total = int(counts.sum())
    kept = _prefix_sums(counts)[sizes]
    beyond = total - kept
    last = counts[sizes - 1]
    levels, last_mean = _quantized(counts, sizes)
    hole = (last == 0) & (beyond > 0)
    shared = _prefix_sums(_xlogx(counts))[sizes] + _xlogx(last + beyond) - _xlogx(last)
    cross = levels + beyond * np.log(np.where(hole, EPSILON, last_mean))
    norm = total * np.log(np.maximum(kept, 1) + EPSILON * hole) - total * np.log(total)
    return np.where(2 * kept >= total, (shared - cross + norm) / total, np.inf)


def _quantized(counts: Counts, sizes: Counts) -> tuple[Floats, Floats]:
    """Return the sum over levels of C log (C / m), and C / m of the last level (1 if empty), for each size."""
    # One level at a time for all sizes, so that the order of summation is fixed and the arrays stay in the cache.
    values, occupied = _prefix_sums(counts).astype("float64"), _prefix_sums((counts > 0).astype("float64"))
    summed = np.zeros(len(sizes))
    mean = np.ones(len(sizes))
    low_values, low_occupied = values[0], occupied[0]
    for level in range(1, LEVELS + 1):
        end = (level * sizes + LEVELS - 1) // LEVELS
        high_values, high_occupied = values[end], occupied[end]
        inside = high_values - low_values
        mean = np.maximum(inside, 1) / np.maximum(high_occupied - low_occupied, 1)
        summed += inside * np.log(mean)
        low_values, low_occupied = high_values, high_occupied
    return summed, mean


def _squared_errors(counts: Counts, ends: Counts) -> Floats:
    """Return the summed squared error, in bins squared, for each threshold in bins, up to a common constant.

    A value x with level l has the error x^2 - 2 l s x + l^2 s^2, where s is the step. All values from
    (l - 1/2) s up have level l or higher, so the sums over values of l x and of l^2 equal the sums over
    l = 1, ..., 127 of the moments of order 1, and of order 0 times 2 l - 1, from (l - 1/2) s up.
    """
    values = counts.astype("float64")
    # The sums are exact integers; those of x are doubled, since the centre of bin j is j + 1/2.
    number = _suffix_sums(counts).astype("float64")
    doubled = _suffix_sums(counts * (2 * np.arange(len(counts)) + 1)).astype("float64")
    step = ends / STEPS
    errors = np.zeros(len(ends))
    for code in range(1, STEPS + 1):
        bound = (2 * code - 1) * ends
        index = bound // (2 * STEPS)
        part = (bound - 2 * STEPS * index) / (2 * STEPS)
        inside = values[index] * part
        above = number[index] - inside
        first = doubled[index] - inside * (2 * index + part)
        errors += step * ((2 * code - 1) * step * above - first)
    return errors
