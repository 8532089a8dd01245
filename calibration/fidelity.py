"""Measure the fidelity of low-precision engines compared with fp32."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import AurevoirError, MissingPackageError
from ..saving import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sign_agreement(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the fraction of features that are positive in both arrays or in neither."""
    return float(((features > 0) == (reference > 0)).mean())


def relative_error(features: np.ndarray, reference: np.ndarray) -> float:
    """Return ``|features - reference| / |reference|``, Euclidean norms over all entries.

    Raises
    ------
    AurevoirError
        If a feature is nan or infinite.
    """
    if not np.isfinite(features).all():
        raise AurevoirError(
            "the engine's features contain nan or inf: its precision overflows on these images; use another precision"
        )
    difference = np.linalg.norm(np.asarray(features, "float64") - reference)
    return float(difference / max(np.linalg.norm(np.asarray(reference, "float64")), np.finfo("float64").tiny))


@dataclass(frozen=True)
class TensorFidelity:
    """Fidelity of a tensor in low precision.

    Attributes
    ----------
    name : str
    threshold : float or None
        The magnitude at which it saturates; None if it is not quantized.
    sqnr : float
        Signal-to-quantization-noise ratio in decibels; infinite if there is no error.
    sign_agreement : float
    """

    name: str
    threshold: float | None
    sqnr: float
    sign_agreement: float


class FidelityMeter:
    """Accumulates the fidelity of a tensor over batches."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.agreeing = self.values = 0

    def add(self, values: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch."""
        self.signal += float(np.square(reference, dtype="float64").sum())
        self.noise += float(np.square(values - reference, dtype="float64").sum())
        self.agreeing += int(((values > 0) == (reference > 0)).sum())
        self.values += values.size

    def result(self, name: str, threshold: float | None = None) -> TensorFidelity:
        """Return the fidelity over all batches so far."""
        if self.signal and self.noise:
            sqnr = 10 * np.log10(self.signal / self.noise)
        else:
            sqnr = -np.inf if self.noise else np.inf
        return TensorFidelity(name, threshold, float(sqnr), self.agreeing / max(1, self.values))


def require_plotting() -> None:
    """Raise MissingPackageError if matplotlib is missing; call it before long work."""
    if find_spec("matplotlib") is None:
        raise MissingPackageError("plots need matplotlib; install it with: pip install 'aurevoir[plot]'")


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure of matplotlib's atomically, in the format of the path's extension, or PNG without one."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format=Path(path).suffix.removeprefix(".").lower() or "png")
    write_atomically(path, buffer.getbuffer())


def plot_fidelity(measured: Sequence[TensorFidelity], path: str | Path) -> None:
    """Plot SQNR and sign agreement of every tensor.

    Parameters
    ----------
    measured : sequence of TensorFidelity
        In graph order, ending with the features.
    path : path
        Output file; its extension determines the format.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    require_plotting()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.5 + 0.16 * len(measured)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(measured))
    colours = [*["tab:blue"] * (len(measured) - 1), "tab:red"]
    left.barh(rows, [min(tensor.sqnr, 99) for tensor in measured], color=colours)
    left.set_xlabel("SQNR (dB)")
    left.set_yticks(rows, [tensor.name for tensor in measured], fontsize=6)
    left.invert_yaxis()
    left.margins(y=0.01)
    right.scatter([tensor.sign_agreement for tensor in measured], rows, color=colours, s=14)
    right.set_xlabel("sign agreement with fp32")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
