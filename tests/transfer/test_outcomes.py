"""What a classifier said of labelled images: counts by hand, and scikit-learn's figures."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from aurevoir.transfer.evaluate import accuracy_interval
from aurevoir.transfer.outcomes import Confusion, Outcomes

CLASSES = np.array(["ant", "bee", "cat"])


def outcomes(labels, predicted, surest=0.6):
    """Outcomes of images of some classes that were taken for others with a probability."""
    labels, predicted = np.array(labels), np.array(predicted)
    surest = np.broadcast_to(surest, len(labels))
    probabilities = np.repeat((1 - surest[:, None]) / 2, 3, axis=1)
    probabilities[np.arange(len(labels)), predicted] = surest
    return Outcomes(CLASSES, labels, probabilities - 0.5, probabilities)


def test_counts_and_confusions():
    found = outcomes([0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 2, 1, 0, 1])
    assert (len(found), found.right, found.accuracy) == (7, 3, 3 / 7)
    assert found.confusion.tolist() == [[1, 2, 1], [1, 2, 0], [0, 0, 0]]
    assert found.interval == accuracy_interval(3, 7)
    assert found.confusions() == [Confusion("ant", "bee", 2), Confusion("ant", "cat", 1), Confusion("bee", "ant", 1)]
    ant, bee, cat = found.per_class()
    assert (ant.name, ant.images, ant.right, ant.accuracy, ant.mistaken_for) == ("ant", 4, 1, 0.25, "bee")
    assert (bee.accuracy, bee.mistaken_for, bee.interval) == (2 / 3, "ant", accuracy_interval(2, 3))
    assert (cat.images, cat.accuracy, cat.interval, cat.mistaken_for) == (0, None, None, None)


def test_the_surest_mistakes_come_first():
    found = outcomes([0, 1, 1, 2, 0], [1, 1, 0, 0, 2], [0.5, 0.9, 0.8, 0.8, 0.4])
    assert found.mistakes().tolist() == [2, 3, 0, 4]
    assert found.name(2) == "bee"
    assert found.most_probable(2, 2) == [("ant", 0.8), ("bee", pytest.approx(0.1))]
    assert not len(outcomes([0, 1], [0, 1]).mistakes())


def test_what_has_no_interval_twice_as_many_images_narrow():
    assert accuracy_interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert accuracy_interval(10, 10)[1] == pytest.approx(1)
    low, high = accuracy_interval(153, 180)
    # By the formula: E. B. Wilson (1927), z = 1.959964.
    z, p, n = 1.959963984540054, 153 / 180, 180
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)))
    assert high - low > np.diff(accuracy_interval(306, 360))[0]


def test_the_interval_covers_the_accuracy_as_often_as_it_says():
    random = np.random.default_rng(0)
    for accuracy, images in ((0.5, 30), (0.9, 180), (0.97, 60)):
        right = random.binomial(images, accuracy, 400)
        inside = [low <= accuracy <= high for low, high in (accuracy_interval(each, images) for each in right.tolist())]
        assert 0.92 <= np.mean(inside) <= 0.99


def test_calibration_is_scikit_learns():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(3, 0.6), 500)
    labels = np.array([random.choice(3, p=row) for row in probabilities])
    found = Outcomes(CLASSES, labels, np.log(probabilities), probabilities)
    surest, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracies, means = calibration_curve(hits, surest, n_bins=10)
    bins = found.calibration(10)
    assert [each.accuracy for each in bins] == pytest.approx(accuracies)
    assert [each.probability for each in bins] == pytest.approx(means)
    assert sum(each.images for each in bins) == 500
    assert found.log_loss() == pytest.approx(log_loss(labels, probabilities))
    # Drawn by the probabilities themselves, they are calibrated; made surer, they are not.
    assert found.calibration_error() < 0.06
    surer = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    assert Outcomes(CLASSES, labels, np.log(surer), surer).calibration_error() > 0.15


def test_the_calibration_error_by_hand():
    found = outcomes([0, 0, 0, 0], [0, 0, 1, 1], [0.9, 0.9, 0.5, 0.5])
    assert found.calibration_error() == pytest.approx((2 * 0.1 + 2 * 0.5) / 4)
    assert outcomes([0, 1], [0, 1], 1.0).calibration_error() == 0
