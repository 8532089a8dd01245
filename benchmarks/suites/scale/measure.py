"""One size of the ridge on bits in a file: seconds and memory by stage."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryFile

import numpy as np

from ....kernels.fit.comparison import sampled_rows
from ....kernels.fitting import fit_readout
from ....kernels.memory import blocks
from ....kernels.ridge import RidgePath, one_vs_rest
from ....kernels.ridge.form import KERNELS, plan_ridge
from ....kernels.stopwatch import Stopwatch
from ....kernels.training_kernel import TrainingKernel
from ...contract import Cells
from ...harness.machine import resident_bytes
from ...harness.synthetic_bits import generate_into, generated_bits

CLASSES, TEST_ROWS = 10, 1000
STAGES = ("project", "gram", "solve")
# Of what refits without a row are solved in a minute or two, and how many rows.
_CHECKED_SIZE, _CHECKED_ORDER, _CHECKED = 100_000, 4096, 3
_BLOCK = 4096
# Enough for what is compiled on first use.
_WARM_ROWS = 2100
_PERIOD = 0.02


class _Memory:
    """The peaks of resident memory by stage, in MiB: the process's own, and the pages of files."""

    def __init__(self) -> None:
        self.own: dict[str, float] = {}
        self.of_files: dict[str, float] = {}
        self._stage: str | None = None
        self._ended = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch during a ``with`` block."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name what runs in a ``with`` block."""
        self._stage = name
        try:
            yield
            self._look()
        finally:
            self._stage = None

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        stage, sizes = self._stage, resident_bytes()
        if stage and sizes:
            for found, size in zip((self.own, self.of_files), sizes, strict=True):
                found[stage] = max(found.get(stage, 0.0), size / 2**20)


def measure(n: int, m: int, projection: str, budget: int) -> Cells:
    """Generate bits into a file, fit, and predict others."""
    few, few_labels = generated_bits(_WARM_ROWS, m, 2)
    fit_readout(few, m, few_labels, 2, projection, budget=budget)[0].scores(few[:64])
    del few
    with TemporaryFile() as file:
        bits, labels = generate_into(file, n + TEST_ROWS, m, CLASSES)
        watch, memory = Stopwatch(), _Memory()
        watch.seconds = dict.fromkeys(STAGES, 0.0)

        @contextmanager
        def timer(stage: str) -> Iterator[None]:
            with watch(stage), memory.stage(stage):
                yield

        with memory.watched():
            readout, path = fit_readout(bits[:n], m, labels[:n], CLASSES, projection, budget=budget, timer=timer)
        total = watch.total()["total"]
        predicted = readout.scores(np.array(bits[n:]), budget).argmax(axis=1)
        return {
            "kind": readout.kind,
            "seconds": watch.seconds,
            "total": total,
            "peak_mib": memory.own,
            "file_mib": memory.of_files,
            "alpha": path.alpha,
            "loo_accuracy": path.loo_accuracy,
            "test_accuracy": float((predicted == labels[n:]).mean()),
            **_checked(bits[:n], m, labels[:n], readout.kind, path, budget),
        }


def _checked(
    bits: np.ndarray, m: int, labels: np.ndarray, kind: str, path: RidgePath, budget: int
) -> Mapping[str, int | float | None]:
    """Compare leave-one-out scores of some rows with those of fits without the row, where that is minutes at most."""
    n = len(bits)
    order = plan_ridge(n, m, CLASSES, kind, budget=budget).order if kind in KERNELS else n
    if n > _CHECKED_SIZE or order > _CHECKED_ORDER:
        return {"checked_rows": 0, "largest_difference": None}
    rows = sampled_rows(bits, order, 0)
    kernel = TrainingKernel(kind, bits[rows], None, np.ones(len(rows)), budget)
    system = _Refits(kernel, bits, one_vs_rest(labels, CLASSES), path.alpha)
    checked = np.random.default_rng(1).permutation(n)[:_CHECKED]
    assert path.loo_scores is not None
    differences = [np.abs(system.without(row) - path.loo_scores[row]).max() for row in checked]
    return {"checked_rows": len(checked), "largest_difference": float(max(differences))}


class _Refits:
    """Fits without a row on fixed landmarks, by the normal equations of coefficients that sum to zero."""

    def __init__(self, kernel: TrainingKernel, bits: np.ndarray, targets: np.ndarray, alpha: float) -> None:
        self._kernel, self._bits, self._targets = kernel, bits, targets
        gram = kernel.gram()
        p = len(gram)
        # Near the mean of all rows, of which the landmarks are a sample: products about it lose no digits.
        self._shift = gram.mean(axis=0)
        gram = gram - self._shift
        gram -= gram.mean(axis=1)[:, None]
        # The constant vector, in which no row has a part.
        self._penalty = alpha * gram + np.trace(gram) / p
        self._sum, self._products, self._crosses = np.zeros(p), np.zeros((p, p)), np.zeros((p, targets.shape[1]))
        for which in blocks(len(bits), _BLOCK):
            rows = self._rows(which)
            self._sum += rows.sum(axis=0)
            self._products += rows.T @ rows
            self._crosses += rows.T @ targets[which]

    def _rows(self, which: slice) -> np.ndarray:
        rows: np.ndarray = self._kernel.rows(self._bits[which], None) - self._shift
        rows -= rows.mean(axis=1)[:, None]
        return rows

    def without(self, index: int) -> np.ndarray:
        """Return the scores of a row by a fit without it."""
        row, target = self._rows(slice(index, index + 1))[0], self._targets[index]
        n = len(self._bits) - 1
        mean, target_mean = (self._sum - row) / n, (self._targets.sum(axis=0) - target) / n
        system = self._products - np.outer(row, row) - n * np.outer(mean, mean) + self._penalty
        crosses = self._crosses - np.outer(row, target) - n * np.outer(mean, target_mean)
        scores: np.ndarray = (row - mean) @ np.linalg.solve(system, crosses) + target_mean
        return scores
