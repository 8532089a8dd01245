"""Multi-label photographs by square patches at several scales, after Oquab et al. (CVPR 2014).

A patch takes the labels of the objects that it shows; a ridge on the bits of patches, +1 for each
of its labels and -1 for every other class, gives the probability P(j, c) that patch j shows class
c, and an image's score of a class is the sum of P(j, c)^exponent over its patches: the higher the
exponent, the more the best patch decides. A patch with several labels is one row with several +1:
a copy a label would teach each class both answers, and the largest object alone deny the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from ...errors import DataError, UsageError
from ...kernels.bits import popcount
from ...kernels.exact_kernel import exact_kernel
from ...kernels.gram import overlap
from ...kernels.memory import memory_budget, require
from ...kernels.readout import BitsReadout, ExactReadout, Readout
from ...kernels.ridge import dual_path
from ...kernels.row_blocks import bit_rows, combine_rows

SCALES = (1, 1.3, 1.6, 2, 2.5, 3.2, 4, 5)
"""Ten a decade, as preferred numbers go: each patch about 0.8 times as wide as those of the scale before."""
LEAST_OF_PATCH, LEAST_OF_BOX = 0.2, 0.6
PROJECTIONS = ("none", "exact")
ALPHAS = (0.1, 1.0, 10.0)
"""In units of the mean eigenvalue of the centred Gram."""
EXPONENTS = (1, 2, 3, 5, 8, 12)


def grid_patches(height: int, width: int, scales: Sequence[float] = SCALES) -> np.ndarray:
    """Lay square patches over an image, the fewest that overlap their neighbours by half or more.

    Parameters
    ----------
    height, width : int
    scales : sequence of float
        The side of a patch is the image's short side divided by its scale, 1 or more.

    Returns
    -------
    corners : float64 array of shape (p, 4)
        Left, top, right and bottom in pixels, scale by scale; the outermost touch the borders.
    """
    if not len(scales) or not all(np.isfinite(scale) and scale >= 1 for scale in scales):
        raise UsageError(f"scales {tuple(scales)} must be finite numbers of at least 1, at least one of them")
    parts = []
    for scale in scales:
        side = min(height, width) / scale
        top, left = np.meshgrid(_starts(height, side), _starts(width, side), indexing="ij")
        parts.append(np.column_stack([left.ravel(), top.ravel(), left.ravel() + side, top.ravel() + side]))
    return np.concatenate(parts).clip(0, [width, height, width, height])


def _starts(length: int, side: float) -> np.ndarray:
    # The hundredth keeps the errors of a division from adding a patch.
    return np.linspace(0, length - side, 1 + int(np.ceil(2 * (length - side) / side - 0.01)))


def label_patches(patches: np.ndarray, boxes: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    """Tell which classes each patch shows.

    A patch shows the object of a box that covers at least 20 % of the patch and of which at least
    60 % lies inside the patch. One that shows no object is background.

    Parameters
    ----------
    patches : float array of shape (p, 4)
        Left, top, right and bottom.
    boxes : float array of shape (b, 4)
        The same, in the same units.
    columns : int array of shape (b,)
        The class of each box, from 0 to ``classes - 1``.
    classes : int

    Returns
    -------
    labels : bool array of shape (p, classes)
    """
    least, most = np.maximum(patches[:, None, :2], boxes[None, :, :2]), np.minimum(patches[:, None, 2:], boxes[:, 2:])
    shared = np.prod((most - least).clip(0), axis=2)
    # Borders count; the last digits of a product do not.
    enough = shared * (1 + 1e-9)
    shown = (enough >= LEAST_OF_PATCH * _areas(patches)[:, None]) & (enough >= LEAST_OF_BOX * _areas(boxes))
    labels = np.zeros((len(patches), classes), dtype=bool)
    patch, box = np.nonzero(shown & (_areas(boxes) > 0))
    labels[patch, columns[box]] = True
    return labels


def _areas(corners: np.ndarray) -> np.ndarray:
    areas: np.ndarray = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    return areas


def resample(labels: np.ndarray, each: int, background: int, seed: int | Sequence[int]) -> np.ndarray:
    """Draw patches of one image to train on.

    Parameters
    ----------
    labels : bool array of shape (p, c)
    each : int
        At most so many of every class, or an image with one large object would have hundreds.
    background : int
        At most so many without a label.
    seed : int or sequence of int

    Returns
    -------
    kept : int64 array
        Places of the patches, ascending.
    """
    random = np.random.default_rng(seed)
    groups = [(labels[:, column], each) for column in range(labels.shape[1])] + [(~labels.any(axis=1), background)]
    return np.unique(np.concatenate([random.permutation(np.flatnonzero(where))[:most] for where, most in groups]))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return (1 + score) / 2 within [0, 1]: least squares on targets of +1 and -1 estimate 2 P - 1."""
    return ((1 + scores) / 2).clip(0, 1)


def image_score(probabilities: np.ndarray, exponent: float) -> np.ndarray:
    """Return an image's score of every class, the sum of P(j, c)^exponent over its patches j.

    Parameters
    ----------
    probabilities : float array of shape (p, c)
    exponent : float

    Returns
    -------
    scores : float64 array of shape (c,)
    """
    scores: np.ndarray = np.power(probabilities, exponent).sum(axis=0)
    return scores


def average_precisions(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision of each class over images, nan for a class that none has.

    Parameters
    ----------
    truth : bool array of shape (n, c)
    scores : float array of shape (n, c)

    Returns
    -------
    precisions : float64 array of shape (c,)
    """
    found = np.full(truth.shape[1], np.nan)
    for column in np.flatnonzero(truth.any(axis=0)):
        found[column] = average_precision_score(truth[:, column], scores[:, column])
    return found


@dataclass(frozen=True)
class PatchReadout:
    """Scores images by the bits of their patches.

    Attributes
    ----------
    readout : Readout
        Scores patches.
    alpha, exponent : float
    rows : int
        Patches trained on.
    mean_average_precision : float
        Of training images, each by a fit without it; alpha and the exponent were chosen by it.
    """

    readout: Readout
    alpha: float
    exponent: float
    rows: int
    mean_average_precision: float

    def scores(self, bits: Sequence[np.ndarray]) -> np.ndarray:
        """Return scores of shape (n, c) for the packed bits of the patches of n images."""
        return np.array([image_score(probabilities(self.readout.scores(each)), self.exponent) for each in bits])


def fit_patches(
    bits: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    truth: np.ndarray,
    m: int,
    projection: str = "none",
    each: int = 16,
    background: int = 8,
    folds: int = 4,
    seed: int = 0,
    budget: int | str | None = None,
) -> PatchReadout:
    """Fit a ridge on patches, and choose alpha and the exponent over folds of the training images.

    Patches of one image overlap, so leaving single ones out says little of other images: whole
    images are left out, and alpha and the exponent give them the best mean average precision.
    Squared error would ask for so large an alpha that rare classes are hardly learnt.

    Parameters
    ----------
    bits : n uint8 arrays of shape (p, ceil(m / 8))
        All patches of each image.
    labels : n bool arrays of shape (p, c)
        See `label_patches`.
    truth : bool array of shape (n, c)
        The classes of each image, those too that no patch shows.
    m : int
        Number of features.
    projection : {"none", "exact"}
        See `fit_readout`.
    each, background : int
        Patches of an image to train on; see `resample`.
    folds : int
    seed : int
        Of the patches and of the folds.
    budget : int, str or None
        Memory; see `memory_budget`.

    Returns
    -------
    PatchReadout

    Raises
    ------
    UsageError
        If the projection is not known.
    DataError
        If there are fewer than 2 folds or images than folds, or no patch shows an object.
    BudgetError
        If the ridge's system does not fit the budget.
    """
    if projection not in PROJECTIONS:
        raise UsageError(f"projection {projection!r} is not known; choose one of {', '.join(PROJECTIONS)}")
    if not 2 <= folds <= len(bits):
        raise DataError(f"{folds} folds of {len(bits)} images; give at least 2, and an image each")
    kept = [resample(each_labels, each, background, [seed, index]) for index, each_labels in enumerate(labels)]
    rows = np.concatenate([image[which] for image, which in zip(bits, kept, strict=True)])
    shown = np.concatenate([image[which] for image, which in zip(labels, kept, strict=True)])
    if not shown.any():
        raise DataError(f"none of {len(bits)} images has a patch that shows an object; give larger scales or boxes")
    needed = 5 * 8 * len(rows) ** 2
    require(needed, memory_budget(budget), f"the ridge system of {len(rows)} patches", "lower `each` or `background`")
    system = _System(rows, np.where(shown, 1.0, -1.0), m, projection)
    fold = np.random.default_rng(seed).permutation(len(bits)) % folds
    scores = _left_out_scores(system, bits, fold, np.repeat(fold, [len(which) for which in kept]))
    precisions = np.array([[np.nanmean(average_precisions(truth, each)) for each in one] for one in scores])
    alpha, exponent = np.unravel_index(precisions.argmax(), precisions.shape)
    readout = system.readout(np.ones(len(rows), dtype=bool), system.alphas[alpha : alpha + 1])
    best = float(precisions[alpha, exponent])
    return PatchReadout(readout, float(system.alphas[alpha]), EXPONENTS[exponent], len(rows), best)


class _System:
    """Patches to train on, their Gram, and fits on parts of them."""

    def __init__(self, rows: np.ndarray, targets: np.ndarray, m: int, projection: str) -> None:
        self.rows, self.targets, self.m, self.projection = rows, targets, m, projection
        self.gram = overlap(rows)
        if projection == "exact":
            self.gram = exact_kernel(self.gram, popcount(rows), popcount(rows))
        self.alphas = np.array(ALPHAS) * (np.trace(self.gram) / len(self.gram) - self.gram.mean())

    def readout(self, used: np.ndarray, alphas: np.ndarray) -> Readout:
        """Return the fit on some of the rows, its columns those of the first alpha, then of the next."""
        gram, targets, rows = self.gram[np.ix_(used, used)], self.targets[used], self.rows[used]
        paths = [dual_path(gram, targets, alpha) for alpha in alphas]
        coefficients = np.hstack([path.coefficients for path in paths])
        intercept = np.hstack([path.intercept for path in paths])
        if self.projection == "exact":
            return ExactReadout(rows, coefficients, intercept)
        return BitsReadout(self.m, combine_rows(bit_rows(rows, self.m), self.m, coefficients), intercept)


def _left_out_scores(
    system: _System, bits: Sequence[np.ndarray], fold: np.ndarray, fold_of_row: np.ndarray
) -> np.ndarray:
    """Return each image's scores by fits without its fold, of shape (alphas, exponents, n, c)."""
    alphas, classes = system.alphas, system.targets.shape[1]
    scores = np.empty((len(alphas), len(EXPONENTS), len(bits), classes))
    for number in range(fold.max() + 1):
        readout = system.readout(fold_of_row != number, alphas)
        for image in np.flatnonzero(fold == number).tolist():
            probability = probabilities(readout.scores(bits[image])).reshape(-1, len(alphas), classes)
            for index, exponent in enumerate(EXPONENTS):
                scores[:, index, image] = image_score(probability, exponent)
    return scores
