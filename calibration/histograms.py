"""Streaming histograms of the tensors to quantize."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from ..errors import AurevoirError
from .graph.edit import tensor_names, unused

BINS = 4096
"""Number of bins; the range is a power of two, so at least half of the bins are below the maximum."""

# For smaller ranges, the reciprocal of the bin width would overflow float32.
_LEAST_TOP = 2.0**-100

Run = Callable[[np.ndarray], tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]]
"""Runs the float graph on b uint8 images; returns the observed tensors, and means and peaks of channels, of shape
(rows, channels, 1, ...), by name. A tensor may have another number of rows than there are images."""


def with_means_and_peaks(
    model: onnx.ModelProto, averaged: Sequence[str], peaked: Sequence[str]
) -> tuple[onnx.ModelProto, list[str], list[str]]:
    """Return the graph with the channel means and peaks of tensors as additional tensors.

    Returns
    -------
    model : onnx.ModelProto
    means, peaks : list of str
        Names of the new tensors, of shape (rows, channels, 1, ...).
    """
    model, taken = copy.deepcopy(model), tensor_names(model)

    def pooled(operator: str, names: Sequence[str], ending: str) -> list[str]:
        made = [unused(f"{name}_{ending}", taken) for name in names]
        model.graph.node.extend(map(lambda name, new: helper.make_node(operator, [name], [new]), names, made))
        return made

    return model, pooled("GlobalAveragePool", averaged, "mean"), pooled("GlobalMaxPool", peaked, "peak")


@dataclass
class Histogram:
    """Histogram of |x| whose range doubles when a value exceeds it.

    Ranges are powers of two and neighbouring bins merge exactly, so the result does not depend on
    how the values are split into batches or on their order.

    Attributes
    ----------
    counts : int64 array of shape (BINS,)
    top : float
        Upper end of the range; the lower end is 0.
    amax : float
        Largest |x| seen.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype="int64"))
    top: float = 0.0
    amax: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count the magnitudes of float values of any shape.

        Raises
        ------
        AurevoirError
            If a value is nan or infinite.
        """
        from ..kernels.backends import backend_for

        backend = backend_for(values)
        if self.top > 0:
            # Most batches stay within the range so far and need only one pass over the values.
            counts, largest = backend.count_magnitudes(values, self.top, BINS)
            if counts.sum() == values.size:
                self.counts += counts
                self.amax = max(self.amax, largest)
                return
        amax = backend.largest_magnitude(values)
        if not np.isfinite(amax):
            raise AurevoirError(
                "an activation is nan or infinite: the network overflows on these images; check its weights"
            )
        self.amax = max(self.amax, amax)
        self._grow(amax)
        if self.top == 0:
            self.counts[0] += values.size
        else:
            self.counts += backend.count_magnitudes(values, self.top, BINS)[0]

    def _grow(self, amax: float) -> None:
        # The next greater power of two, so that no value equals the top, where its bin would depend on the order.
        needed = 2.0 ** math.frexp(max(amax, _LEAST_TOP))[1] if amax > 0 else 0.0
        if self.top == 0:
            self.top = needed
        while self.top < needed:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, "int64")])


class Observations(NamedTuple):
    """What was collected of tensors by name: histograms, and the mean and the largest value of each channel."""

    histograms: dict[str, Histogram]
    means: dict[str, list[float]]
    peaks: dict[str, list[float]]


class Observer:
    """Collects histograms, channel means and channel peaks of tensors, batch by batch.

    Parameters
    ----------
    run : callable
    names : sequence of str
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._run, self._images = run, 0
        self._histograms = {name: Histogram() for name in names}
        self._sums: dict[str, np.ndarray] = {}
        self._peaks: dict[str, np.ndarray] = {}
        self._rows: Counter[str] = Counter()

    def add(self, pixels: np.ndarray) -> None:
        """Run the graph on a batch of uint8 images, and count.

        Raises
        ------
        AurevoirError
            If an activation is not finite; the message names the tensor.
        """
        self._images += len(pixels)
        tensors, means, highest = self._run(pixels)
        for name, values in tensors.items():
            try:
                self._histograms[name].add(values)
            except AurevoirError as error:
                raise AurevoirError(f"tensor {name}: {error}") from None
        for name, channel_means in means.items():
            per_row = channel_means.reshape(channel_means.shape[:2])
            self._sums[name] = self._sums.get(name, 0) + per_row.sum(axis=0, dtype="float64")
            self._rows[name] += len(per_row)
        for name, channel_peaks in highest.items():
            largest = channel_peaks.reshape(channel_peaks.shape[:2]).max(axis=0)
            self._peaks[name] = np.maximum(self._peaks.get(name, largest), largest)

    def found(self) -> Observations:
        """Return what was collected.

        Raises
        ------
        AurevoirError
            If there were no images.
        """
        if self._images == 0:
            raise AurevoirError("no image to calibrate on could be read; give a folder of images")
        means = {name: (total / self._rows[name]).tolist() for name, total in self._sums.items()}
        return Observations(self._histograms, means, {name: highest.tolist() for name, highest in self._peaks.items()})


def observe(run: Run, names: Sequence[str], batches: Iterable[np.ndarray]) -> Observations:
    """Collect histograms, channel means and channel peaks of tensors in one pass; see `Observer`."""
    observer = Observer(run, names)
    for pixels in batches:
        observer.add(pixels)
    return observer.found()
