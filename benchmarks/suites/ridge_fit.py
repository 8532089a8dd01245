"""One fit and one prediction on generated bits, stage by stage, on the CPU or a GPU."""

import resource
import sys
from typing import Any

import numpy as np

from ...kernels.arrays import on_device, on_host
from ...kernels.readout import fit_readout
from ...kernels.stopwatch import Stopwatch

CLASSES, TEST_ROWS = 10, 1000
STAGES = ("upload", "project", "gram", "solve", "predict")
# What everything but the convolutions took in the post, at this size (n, m, k).
POST_SECONDS, POST_SIZE = 58.05, (19_363, 50_176, 25_088)
POST_REMARK = "the post's seconds are of one alpha, with an OPU, on a GPU of 2018: another machine and less work"

Given = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Packed bits and labels to train on, and others to test on."""


def fit_and_predict(
    kind: str, search: str, device: str, given: Given, m: int, k: int, budget: int | str | None
) -> dict[str, Any]:
    """Fit, and predict the others; return seconds by stage, accuracy and peak memory."""
    bits, labels, others, test_labels = given
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
