"""Probabilities of ridge scores, by a temperature fitted to leave-one-out scores.

Temperature scaling: C. Guo et al., On calibration of modern neural networks (ICML 2017, arXiv:1706.04599).
"""

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from .array_types import Labels, LabelSets, LooScores, RowWeights, Scores

_COLDEST, _HOTTEST = 1e-3, 1e3
_CELLS = 1 << 22
"""Scores that a temperature is fitted to, at most: rows at equal distances are enough for one number."""


def fit_temperature(scores: LooScores | Scores, labels: Labels | LabelSets, weights: RowWeights) -> float:
    """Return the temperature at which scores have the smallest log-loss.

    Parameters
    ----------
    scores : float32 or float64 array of shape (n, c)
        Leave-one-out scores: those of the training rows themselves would be too certain.
    labels : integer array of shape (n,) or (n, c)
        Indices of the classes, or a multilabel indicator matrix.
    weights : float64 array of shape (n,)
        Sample weights.

    Returns
    -------
    temperature : float
        See `probabilities`.

    Notes
    -----
    The targets are smoothed by Laplace's rule of succession, so that n rows without an error do not make anything
    certain: the labelled class gets (n + 1) / (n + 2), and the others share the rest.
    """
    # Whoever only predicts does without it.
    from scipy.optimize import minimize_scalar

    n, c = scores.shape
    sample = slice(None, None, -(-scores.size // _CELLS))
    scores, labels, weights = scores[sample].astype("float64"), labels[sample], weights[sample]
    multilabel = labels.ndim == 2
    others = 1 if multilabel else max(1, c - 1)
    ones = labels > 0 if multilabel else np.arange(c) == labels[:, None]
    targets = np.where(ones, n + 1, 1 / others) / (n + 2)
    total = weights.sum()

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        if multilabel:
            logs = targets * log_expit(2 * scaled) + (1 - targets) * log_expit(-2 * scaled)
        else:
            logs = targets * log_softmax(scaled, axis=1)
        return -float(weights @ logs.sum(axis=1) / total)

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def probabilities(scores: Scores, temperature: float, multilabel: bool = False) -> Scores:
    """Return the probability of each class.

    Parameters
    ----------
    scores : float64 array of shape (n, c)
    temperature : float
        See `fit_temperature`.
    multilabel : bool
        Whether labels do not exclude each other.

    Returns
    -------
    probabilities : float64 array of shape (n, c)
        The softmax of ``scores / temperature``, whose rows sum to 1; for multilabel scores s the logistic function of
        ``2 s / temperature``, which is the softmax of s against -s.
    """
    scaled = scores / temperature
    found: Scores = expit(2 * scaled) if multilabel else softmax(scaled, axis=1)
    return found
