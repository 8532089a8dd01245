"""Streamed histograms of the tensors that will be quantized."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from ..errors import AurevoirError
from .graph import initializers

BINS = 4096
"""Bins of a histogram; its range is a power of two, so at least half of them lie below the maximum."""

# Below this range the reciprocal of a bin's width would leave float32.
_LEAST_TOP = 2.0**-100

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Runs the float graph on uint8 images and returns the observed tensors by name."""


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Return the tensors that int8 convolutions read: every computed input of a Conv, once each."""
    constants = initializers(model)
    inputs = (node.input[0] for node in model.graph.node if node.op_type == "Conv" and node.input[1] in constants)
    return list(dict.fromkeys(name for name in inputs if name not in constants))


@dataclass
class Histogram:
    """Histogram of |x| that grows: where a value passes the range, the range doubles.

    Ranges are powers of two and neighbouring bins merge exactly, so the result does not depend on
    the order of the batches, nor on how the values were cut into batches.

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
        magnitudes = np.abs(values, dtype="float32").ravel()
        amax = float(magnitudes.max(initial=0.0))
        if not np.isfinite(amax):
            raise AurevoirError("an activation is nan or infinite; the network overflows on these images")
        self.amax = max(self.amax, amax)
        self._grow(amax)
        if self.top == 0:
            self.counts[0] += magnitudes.size
            return
        magnitudes *= np.float32(BINS / self.top)
        places = np.minimum(magnitudes.astype("int32"), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)

    def _grow(self, amax: float) -> None:
        needed = float(2.0 ** np.ceil(np.log2(max(amax, _LEAST_TOP)))) if amax > 0 else 0.0
        if self.top == 0:
            self.top = needed
        while self.top < needed:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, "int64")])


def observe(run: Run, names: Sequence[str], batches: Iterable[np.ndarray]) -> dict[str, Histogram]:
    """Collect a histogram of each named tensor over batches of images, in one pass.

    Parameters
    ----------
    run : callable
    names : sequence of str
    batches : iterable of uint8 arrays of shape (b, height, width, 3)

    Returns
    -------
    histograms : dict of Histogram

    Raises
    ------
    AurevoirError
        If there are no images, or an activation is not finite; the message names the tensor.
    """
    histograms = {name: Histogram() for name in names}
    images = 0
    for pixels in batches:
        images += len(pixels)
        for name, values in run(pixels).items():
            try:
                histograms[name].add(values)
            except AurevoirError as error:
                raise AurevoirError(f"tensor {name}: {error}") from None
    if images == 0:
        raise AurevoirError("no image to calibrate on could be read; give a folder of images")
    return histograms
