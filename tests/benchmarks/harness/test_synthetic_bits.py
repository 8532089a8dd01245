"""Synthetic bits."""

import numpy as np

from aurevoir.benchmarks.harness.synthetic_bits import digits, generated_bits
from aurevoir.kernels.bits import popcount


def test_generated_bits_are_the_same_every_time_and_no_class_is_lost():
    bits, labels = generated_bits(300, 100)
    assert bits.shape == (300, 13)
    assert 0.2 < popcount(bits).mean() / 100 < 0.5
    assert set(labels) == set(range(10))
    np.testing.assert_array_equal(bits, generated_bits(300, 100)[0])


def test_the_splits_of_digits_hold_every_class_alike():
    data = digits(2)
    assert len(data.parts) == 2
    train, test = data.parts[0]
    assert sorted([*train, *test]) == list(range(len(data.labels)))
    shares = np.bincount(data.labels[test]) / np.bincount(data.labels)
    assert np.abs(shares - 0.2).max() < 0.01
