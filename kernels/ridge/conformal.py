"""Full conformal prediction with the ridge, exactly: which labels cannot be ruled out.

For each candidate label the image joins the training images, the ridge is solved again, and every image is scored by
the model that was trained without it. The candidate's p-value is the share of images that conform no better to their
labels than this one to the candidate. If images and labels are exchangeable, the p-value of the true label is at most
e with probability at most e, for any number of images (V. Vovk, A. Gammerman and G. Shafer, Algorithmic Learning in a
Random World, 2005, chapter 2). This holds for one kernel, alpha and temperature; that they were selected on the same
training images, it does not cover.

No ridge is solved again: a new image changes the inverse of the system by one outer product (E. Burnaev and V. Vovk,
Efficiency of conformalized ridge regression, COLT 2014, arXiv:1404.2083), whose diagonal gives the leave-one-out
residuals (G. Cawley and N. Talbot, Fast exact leave-one-out cross-validation of sparse least-squares support vector
machines, 2004). An image costs n^2 + n c operations.
"""

from math import isqrt

import numpy as np
import scipy.linalg

from ...errors import DataError
from ..array_types import Gram, Labels, PValues, RowWeights, SelfSimilarities, SimilarityRows
from ..blas import product
from ..memory import Budget, memory_budget, require

_LARGEST_EXPONENT = 700.0
_SQUARES = 4
"""Matrices of n x n float64 at the peak: the kernel, its centred copy, its factor and its inverse."""


def require_memory(n: int, budget: Budget) -> None:
    """Raise BudgetError if n training images are too many."""
    size = memory_budget(budget)
    remedy = f"prediction sets need a model of at most {isqrt(size // (_SQUARES * 8)):,d} images"
    require(_SQUARES * 8 * n * n, size, f"the inverse of the {n} x {n} ridge system", remedy)


class ConformalRidge:
    """P-values of the labels of new images, by exact full conformal prediction.

    Parameters
    ----------
    gram : float array of shape (n, n)
        Kernel of the training images, uncentred; it is overwritten.
    alpha : float
        The ridge's penalty.
    labels : int64 array of shape (n,)
        Indices of their classes.
    classes : int
        Number of classes c.
    weights : float64 array of shape (n,)
        Sample weights; an image of weight 2 counts as two.
    temperature : float
        Conformity is the probability of the label at this temperature; see `kernels.probability`.
    by_class : bool
        Whether an image is compared with the training images of the candidate's class alone. Then the guarantee holds
        for each class.

    Raises
    ------
    DataError
        If the system is singular.
    """

    def __init__(
        self,
        gram: Gram,
        alpha: float,
        labels: Labels,
        classes: int,
        weights: RowWeights,
        temperature: float,
        by_class: bool = False,
    ) -> None:
        n = len(labels)
        self._labels, self._weights, self._temperature, self._by_class = labels, weights, temperature, by_class
        self._alpha, self._means = alpha, gram.mean(axis=0)
        self._mean = float(self._means.mean())
        # The unpenalized intercept makes the system blind to shifts of the features: centred, it is better conditioned.
        system = gram - self._means - (self._means - self._mean)[:, None]
        system[np.arange(n), np.arange(n)] += alpha / weights
        try:
            factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
            inverse = scipy.linalg.cho_solve(factor, np.eye(n), overwrite_b=True, check_finite=False)
        except np.linalg.LinAlgError:
            raise DataError(f"the ridge system is singular at alpha {alpha:g}; fit with larger alphas") from None
        sums = inverse.sum(axis=0)
        self._shift, self._offset = sums / sums.sum(), 1 / sums.sum()
        inverse -= np.outer(sums, self._shift)
        self._inverse, self._diagonal = inverse, inverse.diagonal().copy()
        self._targets = 2.0 * (np.arange(classes) == labels[:, None]) - 1
        self._solution = product(inverse, self._targets)
        self._intercept = self._shift @ self._targets

    def p_values(self, rows: SimilarityRows, own: SelfSimilarities) -> PValues:
        """Return the p-value of each class for each image.

        Parameters
        ----------
        rows : float64 array of shape (images, n)
            Kernel between the images and the training images.
        own : float64 array of shape (images,)
            Kernel of each image with itself.

        Returns
        -------
        p_values : float64 array of shape (images, c)
            A set of all classes above e misses the true one with probability at most e.
        """
        centre = rows.mean(axis=1)
        centred = rows - self._means - (centre - self._mean)[:, None]
        own = own - 2 * centre + self._mean
        scores = product(centred, self._solution) + self._intercept
        weights = product(centred, self._inverse)
        explained = np.einsum("ij,ij->i", weights, centred) + 2 * centred @ self._shift - self._offset
        variances = own + self._alpha - explained
        weights += self._shift
        return np.stack([self._of_one(*each) for each in zip(scores, weights, variances, strict=True)])

    def _of_one(self, scores: np.ndarray, weights: np.ndarray, variance: float) -> np.ndarray:
        """Return the p-value of each class for one image, given its scores and its column of the extended inverse."""
        slope = weights / max(variance, np.finfo("float64").tiny)
        diagonal = self._diagonal + weights * slope
        # Leave-one-out scores if the image is of no class, and what they gain in the column of the one that it is of.
        without = self._targets - (self._solution + np.outer(slope, 1 + scores)) / diagonal[:, None]
        gain = np.exp(np.clip(2 * slope / (diagonal * self._temperature), -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        odds = np.exp((without - without.max(axis=1, keepdims=True)) / self._temperature)
        images = np.arange(len(self._labels))
        chances = odds[images, self._labels][:, None] * np.where(self._targets > 0, gain[:, None], 1.0)
        others = np.maximum(odds.sum(axis=1, keepdims=True) - odds, 0)
        chances /= others + odds * gain[:, None] + np.finfo("float64").tiny
        own = np.exp((scores - scores.max()) / self._temperature)
        own /= own.sum()
        counted = self._weights[:, None] * (self._targets > 0 if self._by_class else np.ones_like(odds))
        # The image itself conforms no better than itself.
        shares: np.ndarray = ((counted * (chances <= own)).sum(axis=0) + 1) / (counted.sum(axis=0) + 1)
        return shares
