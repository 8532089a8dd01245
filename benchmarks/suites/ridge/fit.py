"""One fit and one prediction on generated bits, stage by stage, on the CPU or a GPU."""

import resource
import sys

import numpy as np

from ....kernels.arrays import on_device, on_host
from ....kernels.fitting import fit_readout
from ....kernels.stopwatch import Stopwatch
from ...contract import Cells, Row

CLASSES, TEST_ROWS = 10, 1000
STAGES = ("upload", "project", "gram", "solve", "predict")
# What everything but the convolutions took in the post, at this size (n, m, k).
POST_SECONDS, POST_SIZE = 58.05, (19_363, 50_176, 25_088)
POST_REMARK = "the post's seconds are of one alpha, with an OPU, on a GPU of 2018: another machine and less work"

Bits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Packed bits and labels to train on, and others to test on."""


def full_row(kind: str, search: str, size: tuple[int, int, int], device: str) -> Row:
    """Return a row of the post's full size (n, m, k)."""
    n, m, k = size
    row = {"part": "full", "projection": kind, "n": n, "m": m, "k": None if kind == "exact" else k}
    return Row(row | {"classes": CLASSES, "device": device, "search": search})


def fit_and_predict(kind: str, search: str, device: str, data: Bits, m: int, k: int, budget: int | str | None) -> Cells:
    """Fit, and predict the others; return seconds by stage, accuracy and peak memory."""
    bits, labels, others, test_labels = data
    watch = Stopwatch(device)
    watch.seconds = dict.fromkeys(STAGES, 0.0)
    with watch("upload"):
        rows, targets, more = (on_device(part, device) for part in (bits, labels, others))
    readout, path = fit_readout(rows, m, targets, CLASSES, kind, k, budget=budget, search=search, timer=watch)
    total = watch.total()["total"]
    with watch("predict"):
        predicted = on_host(readout.scores(more, budget)).argmax(axis=1)
    found = {
        "seconds": watch.seconds,
        "total": total,
        "alphas": len(path.alphas),
        "alphas_on_all_rows": int(np.isfinite(path.loo_accuracies).sum()),
        "alpha": path.alpha,
        "loo_accuracy": path.loo_accuracy,
        "test_accuracy": float((predicted == test_labels).mean()),
        "peak_resident_gib": _peak_bytes() / 2**30,
    }
    if (len(bits), m, k) == POST_SIZE:
        found |= {"post_seconds": POST_SECONDS, "times_post": POST_SECONDS / total, "remark": POST_REMARK}
    return found


def _peak_bytes() -> int:
    # In KiB on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
