"""From the histogram of a tensor to the threshold at which int8 saturates: pure functions."""

from collections.abc import Callable

import numpy as np

from ..errors import UsageError
from . import entropy
from .histograms import BINS, Histogram

PERCENTILE = 99.999


def max_threshold(histogram: Histogram) -> float:
    """Return the largest magnitude seen: nothing saturates."""
    return histogram.amax


def percentile_threshold(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """Return the upper end of the bin at which `percentile` per cent of all values are counted.

    Zeros count as values. The threshold is never above the largest magnitude seen.
    """
    shares = np.cumsum(histogram.counts) / max(1, int(histogram.counts.sum()))
    place = int(np.searchsorted(shares, percentile / 100))
    return min((min(place, BINS - 1) + 1) * histogram.top / BINS, histogram.amax)


def entropy_threshold(histogram: Histogram) -> float:
    """Return the threshold of least Kullback-Leibler divergence; see `entropy.entropy_threshold`."""
    return min(entropy.entropy_threshold(histogram.counts, histogram.top / BINS), histogram.amax)


def mse_threshold(histogram: Histogram) -> float:
    """Return the threshold of least squared error; see `entropy.mse_threshold`."""
    return min(entropy.mse_threshold(histogram.counts, histogram.top / BINS), histogram.amax)


METHODS: dict[str, Callable[[Histogram], float]] = {
    "entropy": entropy_threshold,
    "mse": mse_threshold,
    "percentile": percentile_threshold,
    "max": max_threshold,
}


SIGN = "sign"
"""Chooses among the others by what they do to the final features; see `search.keep_most_signs`."""


NATIVE = "native"
"""TensorRT 10's own calibrator, on an NVIDIA GPU."""


def check_method(method: str) -> None:
    """Refuse a method that is not known."""
    known = (*METHODS, SIGN, NATIVE)
    if method not in known:
        raise UsageError(f"calibration method {method!r} is not known; choose one of {', '.join(known)}")


def choose_thresholds(histograms: dict[str, Histogram], method: str) -> dict[str, float]:
    """Return the threshold of each tensor by one of `METHODS`."""
    return {name: METHODS[method](histogram) for name, histogram in histograms.items()}
