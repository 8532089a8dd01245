"""Probabilities: the temperature with the smallest log-loss, and what it makes of scores."""

import numpy as np
import pytest
from scipy.special import softmax

from aurevoir.kernels.probability import fit_temperature, probabilities


def _drawn(temperature, n=4000, c=4):
    """Return scores, and labels drawn with the probabilities that a temperature gives."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(n, c))
    chances = softmax(scores / temperature, axis=1).cumsum(axis=1)
    return scores, (random.random((n, 1)) > chances).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    scores, labels = _drawn(temperature)
    assert fit_temperature(scores, labels, np.ones(4000)) == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_has_a_smaller_loss():
    scores, labels = _drawn(0.5, n=300)
    weights = np.random.default_rng(1).random(300)

    def loss(temperature):
        given = np.clip(probabilities(scores, temperature), 1e-300, 1)
        targets = (300 * (labels[:, None] == np.arange(4)) + 1) / 304
        return -weights @ (targets * np.log(given)).sum(axis=1)

    found = fit_temperature(scores, labels, weights)
    assert all(loss(found) <= loss(found * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_rows_of_weight_zero_do_not_count():
    scores, labels = _drawn(1.0, n=400)
    wrong = labels.copy()
    wrong[200:] = (wrong[200:] + 1) % 4
    weights = np.r_[np.ones(200), np.zeros(200)]
    assert fit_temperature(scores, wrong, weights) == pytest.approx(fit_temperature(scores, labels, weights))


def test_rows_without_an_error_make_nothing_certain():
    labels = np.arange(20) % 2
    scores = np.where(np.arange(2) == labels[:, None], 1.0, -1.0)
    given = probabilities(scores, fit_temperature(scores, labels, np.ones(20)))
    # Laplace's rule of succession: 20 of 20 make the next one right with 21 / 22.
    np.testing.assert_allclose(given.max(axis=1), 21 / 22, rtol=1e-3)


def test_labels_that_do_not_exclude_each_other_have_a_probability_each():
    scores, labels = _drawn(0.7, c=2)
    pair = scores - scores.mean(axis=1, keepdims=True)
    two = fit_temperature(pair, labels, np.ones(4000))
    single = fit_temperature(pair[:, :1], (labels[:, None] == 0).astype(int), np.ones(4000))
    assert single == pytest.approx(two, rel=1e-3)
    np.testing.assert_allclose(probabilities(pair, two)[:, :1], probabilities(pair[:, :1], two, multilabel=True))


def test_many_scores_are_sampled(monkeypatch):
    scores, labels = _drawn(0.5, n=100_000)
    whole = fit_temperature(scores, labels, np.ones(100_000))
    monkeypatch.setattr("aurevoir.kernels.probability._CELLS", 40_000)
    assert fit_temperature(scores, labels, np.ones(100_000)) == pytest.approx(whole, rel=0.05)
