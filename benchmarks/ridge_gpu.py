"""What the full size on a GPU tells beyond its seconds: the parts of a solve, and how far it is from NumPy's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..kernels.arrays import Array, on_host
from ..kernels.bits import overlap
from ..kernels.resolvent import Cholesky
from ..kernels.ridge import dual_path, one_vs_rest
from ..transfer.timing import Stopwatch

CHECKED_ROWS = 2000


class DeviceStopwatch(Stopwatch):
    """Sums wall-clock seconds by stage, and waits for a GPU to finish what the stage has begun there."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.seconds = {}
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds inside a ``with`` block to a stage."""
        self.seconds.setdefault(stage, 0.0)
        with super().__call__(stage):
            yield
            if self._device != "cpu":
                import cupy  # type: ignore[import-not-found, unused-ignore]

                cupy.cuda.get_current_stream().synchronize()


def look_closer(rows: Array, labels: Array, classes: int) -> dict[str, Any]:
    """Return which GPU it was, its memory, seconds of the parts of a solve, and how far its ridge is from NumPy's.

    Parameters
    ----------
    rows : uint8 array of shape (n, bytes)
        Packed bits, on the GPU.
    labels : integer array of shape (n,)
        On the GPU.
    classes : int
    """
    import cupy  # type: ignore[import-not-found, unused-ignore]

    # Before anything else is allocated here: the peak of the fit.
    pool = cupy.get_default_memory_pool().total_bytes() / 2**30
    return {
        "gpu": cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(),
        "cupy": cupy.__version__,
        "peak_gpu_gib": pool,
        "parts": _parts(rows),
        "checked": _checked(rows[:CHECKED_ROWS], labels[:CHECKED_ROWS], classes),
    }


def _parts(rows: Array) -> dict[str, float]:
    watch = DeviceStopwatch("cuda")
    with watch("Gram of bits"):
        products = overlap(rows)
    alpha = float(products.trace()) / len(products)
    matrix = products.astype("float64")
    del products
    for dtype in ("float32", "float64"):
        with watch(f"Cholesky and inverse, {dtype}"):
            factor = Cholesky(matrix, alpha, dtype)
        with watch(f"diagonal, {dtype}"):
            factor.diagonals()
        del factor
    return watch.seconds


def _checked(rows: Array, labels: Array, classes: int) -> dict[str, Any]:
    products, expected_products = overlap(rows), overlap(on_host(rows))
    path = dual_path(products, one_vs_rest(labels, classes), search="all")
    expected = dual_path(expected_products, one_vs_rest(on_host(labels), classes), search="all")
    differences = np.abs(on_host(path.coefficients) - expected.coefficients)
    return {
        "rows": len(rows),
        "same_gram": bool((on_host(products) == expected_products).all()),
        "same_alpha": path.best == expected.best,
        "loo_accuracies": float(np.nanmax(np.abs(path.loo_accuracies - expected.loo_accuracies))),
        "coefficients": float(differences.max() / np.abs(expected.coefficients).max()),
    }
