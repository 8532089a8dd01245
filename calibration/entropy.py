"""Thresholds that weigh saturation against rounding, from a histogram of magnitudes: pure functions.

Both functions take the counts of equal bins of |x|, the first of which starts at 0, and the width of a bin.
Both leave out bin 0. After a ReLU it holds the zeros, often most of the tensor; int8 represents zero exactly
at any scale, so zeros say nothing about the threshold, but counted as magnitudes spread over their bin they
would drown all that does. The few small values lost with them round to zero at any useful scale.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

LEVELS = 128
"""Magnitudes that the entropy method quantizes to, 0 included: the candidates start at one bin a level."""

STEPS = 127
"""Positive codes of symmetric int8."""

EPSILON = 1e-4
"""Count that stands for an empty bin where the divergence would be infinite, as in MXNet and ONNX Runtime."""

TIE = 1e-12
"""Divergences, in nats, that are closer than this differ by rounding alone."""

LEAST = 0.01
"""Smallest candidate of the mean squared error, as a share of the largest magnitude."""


def entropy_threshold(counts: Counts, width: float) -> float:
    """Return TensorRT's entropy threshold: the least Kullback-Leibler divergence of int8 from float.

    For i from 128 to the last bin in use, P is the first i bins with all values beyond them added to bin
    i - 1, and Q the first i bins alone, merged into 128 equal levels, each of which is spread evenly over
    its non-empty bins. With m the i of least KL(P || Q), the last one of equals, the threshold is
    (m + 1/2) `width`, but not beyond the bins in use.

    Parameters
    ----------
    counts : integer array of shape (bins,)
        Bin j counts the magnitudes in [j, j + 1) `width`; empty bins at the end change nothing.
    width : float

    Returns
    -------
    threshold : float
        0 if nothing was counted, and the end of the last bin in use if that is among the first 128, or if
        no value lies beyond bin 0.

    Notes
    -----
    The algorithm is that of S. Migacz, "8-bit Inference with TensorRT", GTC 2017. What the slides leave open:

    - Bin 0 is discarded, as NVIDIA says TensorRT does (calibration document of MLPerf Inference 0.5); its
      pytorch-quantization overwrites bin 0 with bin 1 instead, to the same end.
    - Bin j belongs to level floor(128 j / i), as in pytorch-quantization. Levels of i // 128 bins with the
      rest in the last, as in MXNet, would let that level grow to half of the range.
    - Q is zero where P is not only where bin i - 1 is empty and values lie beyond it: it then counts as 1e-4
      of a value there.
    - A candidate must keep at least half of the values. Where nearly all of them saturate, P and Q are both
      little more than bin i - 1, and their divergence is zero: magnitudes bounded away from zero would all
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
    """Return the threshold t of the least mean squared error of symmetric int8 with scale t / 127.

    Values below t round to the nearest multiple of the scale, and those above it saturate at t. Candidates
    are the ends of all bins from 1 % of the range in use.

    Parameters
    ----------
    counts : integer array of shape (bins,)
        Bin j counts the magnitudes in [j, j + 1) `width`; empty bins at the end change nothing.
    width : float

    Returns
    -------
    threshold : float
        0 if nothing was counted; the end of bin 0 if no value lies beyond it.

    Notes
    -----
    Values are taken as evenly spread within their bin, so no choice of bins favours some candidates. Taken at
    the centre, all values of a bin that straddles two codes would go to one of them: for steps of three bins
    the error would come out a third too large, for steps of two or four bins right.
    """
    used = _in_use(counts)
    if not used.any():
        return float(len(used) * width)
    ends = np.arange(max(1, int(np.ceil(LEAST * len(used)))), len(used) + 1)
    return float(ends[np.argmin(_squared_errors(used, ends))] * width)


def _in_use(counts: Counts) -> Counts:
    """Return the counts up to the last bin that is not empty, with none in bin 0."""
    used = np.trim_zeros(np.asarray(counts, dtype="int64"), "b").copy()
    used[:1] = 0
    return used


def _before(values: NDArray[Number]) -> NDArray[Number]:
    """Return the sums of the first 0, 1, ..., n values; exact for integers."""
    return np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])


def _from(values: Counts) -> Counts:
    """Return the sums of all values but the first 0, 1, ..., n; exact for integers."""
    before = _before(values)
    total: np.int64 = before[-1]
    return total - before


def _xlogx(values: Counts) -> Floats:
    logarithms: Floats = np.log(np.maximum(values, 1))
    return logarithms * values


def _divergences(counts: Counts, sizes: Counts) -> Floats:
    """Return KL(P || Q) in nats for each number of kept bins; infinite where most values saturate.

    With N values in all, S of them kept, O = N - S beyond, c_j in bin j and Q_j = q_j / S,

        N KL = sum_j c_j log c_j + [(c + O) log (c + O) - c log c]_(i-1) - N log N
               - sum_j c_j log q_j - O log q_(i-1) + N log S,

    and q is the same, C / m, for all m non-empty bins of a level that counts C: so sum_j c_j log q_j is the
    sum of C log (C / m) over levels.
    """
    total = int(counts.sum())
    kept = _before(counts)[sizes]
    beyond = total - kept
    last = counts[sizes - 1]
    levels, last_mean = _quantized(counts, sizes)
    hole = (last == 0) & (beyond > 0)
    shared = _before(_xlogx(counts))[sizes] + _xlogx(last + beyond) - _xlogx(last)
    cross = levels + beyond * np.log(np.where(hole, EPSILON, last_mean))
    norm = total * np.log(np.maximum(kept, 1) + EPSILON * hole) - total * np.log(total)
    return np.where(2 * kept >= total, (shared - cross + norm) / total, np.inf)


def _quantized(counts: Counts, sizes: Counts) -> tuple[Floats, Floats]:
    """Return the sum over levels of C log (C / m), and C / m of the last level (1 if empty), for each size."""
    # One level at a time for all sizes: the order of the sum is fixed, and the arrays stay in the cache.
    values, occupied = _before(counts).astype("float64"), _before((counts > 0).astype("float64"))
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
    """Return the summed squared error, in bins squared, for each threshold in bins, less what is common to all.

    A value x with code l has the error x^2 - 2 l s x + l^2 s^2, where s is the step. Code l, or a higher one,
    is that of all values from (l - 1/2) s up: so the sums over values of l x and of l^2 are those, over
    l = 1, ..., 127, of the moments of order 1, and 0 times 2 l - 1, from (l - 1/2) s up.
    """
    values = counts.astype("float64")
    # The sums are exact as integers; those of x are taken doubled, as the centre of bin j is j + 1/2.
    number = _from(counts).astype("float64")
    doubled = _from(counts * (2 * np.arange(len(counts)) + 1)).astype("float64")
    step = ends / STEPS
    errors = np.zeros(len(ends))
    for code in range(1, STEPS + 1):
        bound = (2 * code - 1) * ends
        place = bound // (2 * STEPS)
        part = (bound - 2 * STEPS * place) / (2 * STEPS)
        inside = values[place] * part
        above = number[place] - inside
        first = doubled[place] - inside * (2 * place + part)
        errors += step * ((2 * code - 1) * step * above - first)
    return errors
