"""Kernels of pooled features: linear and radial, of channels that are standardized on the training images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .array_types import Array, ChannelMeans, Channels, OtherStandardized, RowWeights, SimilarityRows, Standardized
from .arrays import namespace
from .blas import product
from .memory import blocks, rows_at_a_time

_FARTHEST = 1e30
"""Standardized values reach so far at most, whose squares float64 holds; so large is the largest scale."""


@dataclass(frozen=True)
class Standardization:
    """Shift and scale of each channel to mean 0 and variance 1 on the training images.

    Attributes
    ----------
    mean : float64 array of shape (channels,)
    scale : float64 array of shape (channels,)
        One over the standard deviation; 0 for a channel that is the same everywhere.
    """

    mean: Channels
    scale: Channels

    def __call__(self, pooled: ChannelMeans) -> Standardized:
        """Return standardized channels, the last ones if there are more, as float32, none of them infinite."""
        xp, values = namespace(pooled), (pooled[:, -len(self.mean) :] - self.mean) * self.scale
        found: Array = xp.maximum(xp.minimum(values, _FARTHEST), -_FARTHEST).astype("float32")
        return found

    @property
    def gamma(self) -> float:
        """One over the mean squared distance of two training images: twice the number of channels that vary."""
        return 1 / (2 * max(1, int((self.scale > 0).sum())))


def standardization(pooled: ChannelMeans, weights: RowWeights) -> Standardization:
    """Return the standardization of weighted rows."""
    xp, total = namespace(pooled), weights.sum()
    pieces = blocks(len(pooled), rows_at_a_time(pooled, 1024))
    mean = sum((weights[rows] @ pooled[rows].astype("float64") for rows in pieces), start=xp.zeros(pooled.shape[1]))
    mean /= total
    squares, largest = xp.zeros(len(mean)), xp.zeros(len(mean))
    for rows in pieces:
        values = pooled[rows].astype("float64")
        largest = xp.maximum(largest, xp.abs(values).max(axis=0))
        squares += weights[rows] @ xp.square(values - mean)
    deviation = xp.sqrt(squares / total)
    varies = deviation > xp.maximum(1e-6 * largest, 1 / _FARTHEST)
    return Standardization(mean, xp.where(varies, 1 / xp.where(varies, deviation, 1), 0))


@dataclass(frozen=True)
class Standardizations:
    """Standardizations of pooled features for each kernel of them.

    Parameters
    ----------
    pooled : float32 array of shape (n, channels)
        The means of one layer, or of several, one after the other.
    weights : float64 array of shape (n,)
    layers : sequence of int
        The number of channels of each of several.
    """

    pooled: ChannelMeans
    weights: RowWeights
    layers: Sequence[int] = ()

    def of(self, kind: str) -> Standardization:
        """Return that of a kernel: of all layers for ``layers``, of the last one for all others."""
        return self._all if kind == "layers" else self._last

    @cached_property
    def _last(self) -> Standardization:
        return standardization(self.pooled[:, -self.layers[-1] :] if self.layers else self.pooled, self.weights)

    @cached_property
    def _all(self) -> Standardization:
        found = standardization(self.pooled, self.weights)
        return replace(found, scale=found.scale * _layer_scales(found.scale > 0, self.layers))


def _layer_scales(varies: Array, layers: Sequence[int]) -> Channels:
    """Return the factor of each channel with which all layers count alike but for the last, which counts twice.

    The mean squared distance stays twice the number of channels that vary.
    """
    xp, ends = namespace(varies), [sum(layers[: index + 1]) for index in range(len(layers))]
    shares = [1.0] * (len(layers) - 1) + [2.0]
    found, total = xp.ones(len(varies)), float(varies.sum())
    counts = [float(varies[end - width : end].sum()) for end, width in zip(ends, layers, strict=True)]
    whole = sum(share for share, count in zip(shares, counts, strict=True) if count)
    for end, width, share, count in zip(ends, layers, shares, counts, strict=True):
        if count:
            found[end - width : end] = (total * share / (whole * count)) ** 0.5
    return found


def radial_kernel(rows: Standardized, others: OtherStandardized, gamma: float) -> SimilarityRows:
    """Return ``exp(-gamma |x - x'|^2)`` of every pair of rows.

    Parameters
    ----------
    rows, others : float32 arrays of shape (n, channels) and (n', channels)
    gamma : float

    Returns
    -------
    kernel : float64 array of shape (n, n')
    """
    xp, right = namespace(rows), others.astype("float64")
    norms, kernel = xp.square(right).sum(axis=1), xp.empty((len(rows), len(others)))
    # Of rows with themselves half is computed, and mirrored.
    same = rows is others
    for which in blocks(len(rows), rows_at_a_time(rows, 256)):
        left = right[which] if same else rows[which].astype("float64")
        upto = which.stop if same else len(others)
        distances = product(left, right[:upto].T)
        distances *= -2
        distances += xp.square(left).sum(axis=1)[:, None]
        distances += norms[:upto]
        xp.maximum(distances, 0, out=distances)
        distances *= -gamma
        kernel[which, :upto] = xp.exp(distances, out=distances)
        if same:
            kernel[: which.start, which] = distances[:, : which.start].T
            kernel[which, which] += distances[:, which].T
            kernel[which, which] /= 2
    return kernel


def mean_eigenvalue(kernel: Array, weights: RowWeights) -> float:
    """Return the mean eigenvalue of a centred kernel of weighted rows; 1 if all rows are alike."""
    total = weights.sum()
    means = product(weights, kernel) / total
    found = float(weights @ (namespace(kernel).diagonal(kernel) - 2 * means) / total + weights @ means / total)
    return found if found > 0 else 1.0
