"""Choose the threshold at which int8 saturates from the histogram of a tensor."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from ..errors import UsageError
from . import entropy
from .histograms import BINS, Histogram

PERCENTILE = 99.999


def max_threshold(histogram: Histogram) -> float:
    """Return the largest magnitude, so that nothing saturates."""
    return histogram.amax


def percentile_threshold(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """Return the upper end of the bin that contains the given percentile of all values.

    Zeros are included. The threshold is at most the largest magnitude.
    """
    shares = np.cumsum(histogram.counts) / max(1, int(histogram.counts.sum()))
    index = int(np.searchsorted(shares, percentile / 100))
    return min((min(index, BINS - 1) + 1) * histogram.top / BINS, histogram.amax)


def entropy_threshold(histogram: Histogram) -> float:
    """Return the threshold that minimizes the Kullback-Leibler divergence; see `entropy.entropy_threshold`."""
    return min(entropy.entropy_threshold(histogram.counts, histogram.top / BINS), histogram.amax)


def mse_threshold(histogram: Histogram) -> float:
    """Return the threshold that minimizes the squared error; see `entropy.mse_threshold`."""
    return min(entropy.mse_threshold(histogram.counts, histogram.top / BINS), histogram.amax)


HistogramMethod = Literal["entropy", "mse", "percentile", "max"]
METHODS: dict[HistogramMethod, Callable[[Histogram], float]] = {
    "entropy": entropy_threshold,
    "mse": mse_threshold,
    "percentile": percentile_threshold,
    "max": max_threshold,
}


SIGN: Literal["sign"] = "sign"
"""Chooses among the other methods by the sign agreement of the final features; see `search.maximize_sign_agreement`."""


NATIVE: Literal["native"] = "native"
"""TensorRT 10's calibrator, on an NVIDIA GPU."""

Method = Literal[HistogramMethod, "sign", "native"]
KNOWN_METHODS: tuple[Method, ...] = get_args(Method)


def check_method(method: str) -> Method:
    """Return a calibration method, or raise UsageError if it is unknown."""
    if method not in KNOWN_METHODS:
        raise UsageError(f"calibration method {method!r} is not known; choose one of {', '.join(KNOWN_METHODS)}")
    return method


def choose_thresholds(histograms: dict[str, Histogram], method: HistogramMethod) -> dict[str, float]:
    """Return the threshold of each tensor by one of `METHODS`."""
    return {name: METHODS[method](histogram) for name, histogram in histograms.items()}
