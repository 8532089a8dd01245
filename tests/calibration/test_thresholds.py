"""Thresholds from histograms, by method."""

import numpy as np
import pytest

from aurevoir.calibration.histograms import BINS, Histogram
from aurevoir.calibration.thresholds import check_method, percentile_threshold
from aurevoir.errors import UsageError


@pytest.mark.parametrize("percentile", [50, 90, 99, 99.9])
def test_the_percentile_is_numpys_within_a_bin(percentile):
    values = np.random.default_rng(0).laplace(size=100_000)
    histogram = Histogram()
    histogram.add(values.astype("float32"))
    threshold = percentile_threshold(histogram, percentile)
    assert threshold == pytest.approx(
        np.percentile(np.abs(values), percentile, method="inverted_cdf"), abs=histogram.top / BINS
    )
    assert percentile_threshold(histogram, 100) == histogram.amax


def test_an_unknown_method_is_named():
    with pytest.raises(UsageError, match="calibration method 'mean' is not known; choose one of"):
        check_method("mean")
