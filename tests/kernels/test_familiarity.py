"""Familiarity: nearest training images by the cosine of bits, and p-values of being as far from all of them."""

import numpy as np
import pytest

from aurevoir.errors import DataError
from aurevoir.kernels.bits import pack_signs
from aurevoir.kernels.familiarity import Neighbours


def _cosines(left, right):
    left, right = (left > 0).astype(float), (right > 0).astype(float)
    return left @ right.T / np.maximum(np.sqrt(np.outer(left.sum(axis=1), right.sum(axis=1))), 1)


@pytest.mark.parametrize("budget", [None, "1KiB"])
def test_nearest_images_and_p_values(budget):
    random = np.random.default_rng(0)
    rows, new = random.normal(size=(50, 203)), random.normal(size=(9, 203))
    new[0], new[1] = rows[7], -1
    found = Neighbours(pack_signs(rows), budget)(pack_signs(new))
    cosines, own = _cosines(new, rows), _cosines(rows, rows)
    np.fill_diagonal(own, -1)
    np.testing.assert_allclose(found.similarities, cosines.max(axis=1))
    assert found.nearest.tolist() == cosines.argmax(axis=1).tolist()
    expected = ((own.max(axis=1) <= cosines.max(axis=1)[:, None] + 1e-12).sum(axis=1) + 1) / 51
    np.testing.assert_allclose(found.p_values, expected)
    assert (found.nearest[0], found.similarities[0], found.p_values[0]) == (7, pytest.approx(1), 1)
    assert (found.similarities[1], found.p_values[1]) == (0, pytest.approx(1 / 51))


def test_many_training_images_are_sampled(monkeypatch):
    monkeypatch.setattr("aurevoir.kernels.familiarity.COMPARED", 20)
    random = np.random.default_rng(0)
    rows, new = random.normal(size=(50, 203)), random.normal(size=(300, 203))
    found = Neighbours(pack_signs(rows))(pack_signs(new))
    assert set(np.round(found.p_values * 21, 9)) <= set(range(1, 22))
    assert found.nearest.tolist() == _cosines(new, rows).argmax(axis=1).tolist()
    assert 0 < (found.p_values <= 0.1).mean() < 0.25


def test_images_like_the_training_images_are_flagged_no_more_often_than_promised():
    random, flagged = np.random.default_rng(0), 0
    for _ in range(40):
        rows = random.normal(size=(60, 96)) + random.normal(size=(60, 1))
        flagged += (Neighbours(pack_signs(rows[:40]))(pack_signs(rows[40:])).p_values <= 0.1).sum()
    assert 0.06 < flagged / 800 < 0.14


def test_no_images_and_too_few():
    bits = pack_signs(np.eye(5))
    assert len(Neighbours(bits)(bits[:0]).p_values) == 0
    with pytest.raises(DataError, match="two training images or more"):
        Neighbours(bits[:1])
