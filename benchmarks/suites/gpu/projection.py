"""The projection `hadamard` in compiled kernels against array code, in the same run."""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ....kernels.arrays import on_device, on_host, synchronize
from ....kernels.backends import Backend, backend_for, get_backend
from ....kernels.projection import Hadamard, expose_sample
from ....kernels.random_matrix import hadamard_signs
from ...contract import Row

_ROWS, _CHECKED, _ROUNDS = 2048, 64, 3


def measure_projection(args: argparse.Namespace) -> Iterator[Row]:
    """Time speckle of packed bits by each way, which take turns, and say whether it is the processor's."""
    n, m, k = args.full_size
    random = np.random.default_rng(0)
    host = np.packbits(random.integers(0, 2, (min(n, _ROWS), m), dtype="uint8"), axis=1)
    bits, signs = on_device(host, args.device), np.packbits(hadamard_signs(m, k, 0) > 0, axis=-1, bitorder="little")
    gain = expose_sample(Hadamard(m, k), host).gain
    expected = get_backend("numba").hadamard(host[:_CHECKED], m, k, signs, gain)
    ways: dict[str, Backend] = {"array code": get_backend("reference"), "compiled": backend_for(bits)}
    rows = {name: Row({"name": f"hadamard, {name}", "images": len(host)}) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(1 + _ROUNDS):
        for name, backend in ways.items():
            with rows[name].attempt():
                spent, speckle = _timed(partial(backend.hadamard, bits, m, k, signs, gain), args.device)
                # The first compiles.
                if turn:
                    seconds[name].append(spent)
                else:
                    levels = np.abs(on_host(speckle[:_CHECKED]).astype("int64") - expected)
                    rows[name].note(largest_difference=int(levels.max()), differing=float((levels > 0).mean()))
    for name, row in rows.items():
        if seconds[name]:
            row.note(image_us=1e6 * min(seconds[name]) / len(host))
        yield row


def _timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    synchronize(device)
    start = time.perf_counter()
    found = run()
    synchronize(device)
    return time.perf_counter() - start, found
