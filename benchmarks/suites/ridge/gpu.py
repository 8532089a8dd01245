"""The post's full size on a GPU: all runs in one process, each twice, and what a solve is made of."""

from collections.abc import Iterable, Iterator

import numpy as np

from ....kernels.array_types import Array
from ....kernels.arrays import on_device, on_host
from ....kernels.gram import overlap
from ....kernels.memory import memory_budget
from ....kernels.ridge import dual_path, one_vs_rest
from ....kernels.ridge.solvers import CholeskySolver
from ....kernels.stopwatch import Stopwatch
from ...contract import Cells, Row
from ...harness.synthetic_bits import generated_bits
from .fit import CLASSES, TEST_ROWS, fit_and_predict, full_row

CHECKED_ROWS = 2000


def measure_on_gpu(
    runs: Iterable[tuple[str, str]], size: tuple[int, int, int], budget: int | str | None, device: str = "cuda"
) -> Iterator[Row]:
    """Yield a row a projection and search, then one a part of a solve and one of how far it is from NumPy's.

    Each run is measured twice and the second reported: kernels are compiled for the sizes that they meet. The first
    run's seconds are in the same row.
    """
    n, m, k = size
    bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
    data = bits[:n], labels[:n], bits[n:], labels[n:]
    for kind, search in runs:
        row = full_row(kind, search, size, device)
        with row.attempt():  # Out of memory and the like.
            _empty_pools(device)
            row.note(memory_budget=memory_budget(budget, on_device(data[2], device)))
            first = fit_and_predict(kind, search, device, data, m, k, budget)["total"]
            row.note(**fit_and_predict(kind, search, device, data, m, k, budget), first_total=first, **_peak(device))
        yield row
    rows, targets = (on_device(part, device) for part in data[:2])
    _parts(rows, device)
    for name, seconds in _parts(rows, device).items():
        yield Row({"part": "solver", "name": name, "n": n, "m": m, "device": device, "seconds": seconds})
    yield Row({"part": "check", "device": device, **_checked(rows[:CHECKED_ROWS], targets[:CHECKED_ROWS])})


def _empty_pools(device: str) -> None:
    if device != "cpu":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        cupy.get_default_memory_pool().free_all_blocks()


def _peak(device: str) -> dict[str, float]:
    """Return what CuPy has taken of the GPU: its pool gives nothing back by itself."""
    if device == "cpu":
        return {}
    import cupy  # type: ignore[import-not-found, unused-ignore]

    return {"peak_gpu_gib": cupy.get_default_memory_pool().total_bytes() / 2**30}


def _parts(rows: Array, device: str) -> dict[str, float]:
    watch = Stopwatch(device)
    watch.seconds = {}
    with watch("Gram of bits"):
        products = overlap(rows)
    alpha = float(products.trace()) / len(products)
    matrix = products.astype("float64")
    del products
    for dtype in ("float32", "float64"):
        with watch(f"Cholesky and inverse, {dtype}"):
            factor = CholeskySolver(matrix, alpha, dtype)
        with watch(f"diagonal, {dtype}"):
            factor.inverse_diagonals()
        del factor
    return watch.seconds


def _checked(rows: Array, labels: Array) -> Cells:
    products, expected_products = overlap(rows), overlap(on_host(rows))
    path = dual_path(products, one_vs_rest(labels, CLASSES), search="all")
    expected = dual_path(expected_products, one_vs_rest(on_host(labels), CLASSES), search="all")
    differences = np.abs(on_host(path.coefficients) - expected.coefficients)
    return {
        "rows": len(rows),
        "same_gram": bool((on_host(products) == expected_products).all()),
        "same_alpha": path.best == expected.best,
        "loo_accuracies": float(np.nanmax(np.abs(path.loo_accuracies - expected.loo_accuracies))),
        "coefficients": float(differences.max() / np.abs(expected.coefficients).max()),
    }
