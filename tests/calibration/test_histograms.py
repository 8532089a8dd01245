"""Histograms of activations do not depend on batches, their order, or who counts."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aurevoir.calibration.histograms import BINS, Histogram, observe
from aurevoir.calibration.thresholds import max_threshold, percentile_threshold
from aurevoir.errors import AurevoirError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def _filled(*batches):
    histogram = Histogram()
    for values in batches:
        histogram.add(np.asarray(values, "float32"))
    return histogram


class Reversed:
    """Shuffles by turning round."""

    def shuffle(self, items):
        items.reverse()


@settings(deadline=None, max_examples=60)
@given(arrays("float32", st.integers(1, 200), elements=FINITE), st.integers(1, 5), st.randoms())
# A maximum that is a power of two, and another after it.
@example(np.array([2, 1], "float32"), 2, Reversed())
def test_the_histogram_does_not_depend_on_batches_or_their_order(values, parts, random):
    whole = _filled(values)
    pieces = np.array_split(values, parts)
    random.shuffle(pieces)
    split = _filled(*pieces)
    np.testing.assert_array_equal(split.counts, whole.counts)
    assert (split.top, split.amax) == (whole.top, whole.amax)
    assert whole.counts.sum() == values.size
    assert whole.amax == np.abs(values).max()


@settings(deadline=None, max_examples=40)
@given(arrays("float32", st.integers(1, 300), elements=st.floats(-100, 100, width=32)))
def test_the_histogram_counts_as_numpy_does(values):
    histogram = _filled(values)
    if histogram.top:
        expected = np.histogram(np.abs(values), bins=BINS, range=(0, histogram.top))[0]
        np.testing.assert_array_equal(np.cumsum(histogram.counts), np.cumsum(expected))
        assert histogram.amax < histogram.top
        assert histogram.top <= 2 * histogram.amax or histogram.amax < 1e-30


def test_zeros_count_wherever_they_come():
    assert _filled(np.zeros(7), [1.0], np.zeros(5)).counts[0] == 12
    empty = _filled(np.zeros(7))
    assert max_threshold(empty) == percentile_threshold(empty) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_the_tensors_name(value):
    batches = [np.zeros((2, 1), "uint8")]
    with pytest.raises(AurevoirError, match="tensor conv7: an activation is nan or infinite"):
        observe(lambda _: ({"conv7": np.array([0, value], "float32")}, {}, {}), ["conv7"], batches)


def test_no_images_are_refused():
    with pytest.raises(AurevoirError, match="no image to calibrate on"):
        observe(lambda pixels: ({}, {}, {}), [], [])


def test_numba_counts_as_numpy_does():
    from aurevoir.kernels.backends.numba.magnitudes import count_magnitudes, largest_magnitude

    random = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 1000, 4097):
        values = random.normal(size=size).astype("float32")
        assert largest_magnitude(values) == np.abs(values).max(initial=0)
        expected = np.histogram(np.abs(values), bins=64, range=(0, 8))[0]
        counts, largest = count_magnitudes(values, 8.0, 64)
        np.testing.assert_array_equal(counts, expected)
        assert largest == np.abs(values).max(initial=0)
    below = np.nextafter(np.float32(8), np.float32(0))
    values = np.array([[below, -below, 8.0, 9.0, np.nan, -np.inf]], "float32")
    counts, largest = count_magnitudes(values, 8.0, 64)
    np.testing.assert_array_equal(counts, [0] * 63 + [2])
    assert largest == below
    greatest = np.finfo("float32").max
    counts, largest = count_magnitudes(np.array([greatest, np.inf], "float32"), 2.0**128, 64)
    np.testing.assert_array_equal(counts, [0] * 63 + [1])
    assert largest == greatest
