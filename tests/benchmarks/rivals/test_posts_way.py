"""The post's way."""

import numpy as np

from aurevoir.benchmarks.rivals import posts_way
from aurevoir.kernels.bits import pack_signs


def test_the_posts_way_takes_alpha_by_the_test_set(monkeypatch):
    random = np.random.default_rng(0)
    labels, test_labels = np.arange(40) % 2, random.integers(0, 2, 30)
    bits = pack_signs(random.normal(size=(40, 100)) + labels[:, None])
    test_bits = pack_signs(random.normal(size=(30, 100)))
    monkeypatch.setenv("AUREVOIR_MEMORY", "64KiB")
    trained = posts_way.train_posts_way(bits, test_bits, 100, labels, test_labels, 50)
    assert len(set(trained.accuracies)) > 1
    other = posts_way.train_posts_way(bits, test_bits, 100, labels, 1 - test_labels, 50)
    np.testing.assert_allclose(np.add(trained.accuracies, other.accuracies), 1)
    assert trained.alphas[trained.best] != other.alphas[other.best]
    assert trained.found()["accuracy"] == max(trained.accuracies)
