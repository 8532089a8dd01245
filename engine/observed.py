"""Observe a float graph on images in a child process, which ends in place of the caller where native code crashes.

The child compiles the graph, runs it on batch after batch, and counts; the caller has its histograms at the end, and
neither compiles the graph again nor loads the kernels that count.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..calibration.histograms import Histogram, Observations, Observer, Run
from ..errors import AurevoirError
from ..kernels.backends.numba.ahead import wait_for
from ..saving import explained, scratch
from .child import in_child, lasting_child
from .runtimes import compile_graph
from .runtimes.base import Compiled
from .runtimes.gpu_run import GpuRunner

TIMEOUT = 600
"""Seconds to wait for a batch, the first one with the compilation before it."""

_GRAPH, _TENSORS, _PIXELS, _COUNTS, _FOUND = "observed.onnx", "tensors.json", "pixels.npy", "counts.npy", "found.json"


class Tensors(NamedTuple):
    """What the outputs of an observed graph are of, in their order: the tensors, means of channels, and peaks."""

    observed: list[str]
    averaged: list[str]
    peaked: list[str]


def runner(graph: bytes, runtime: str, tensors: Tensors) -> Run:
    """Return what computes the outputs of a graph by the names of the tensors that they are of."""
    compiled = compile_graph(runtime, graph, "fp32")
    assert not isinstance(compiled, GpuRunner)
    return _named(compiled, tensors)


def _named(compiled: Compiled, tensors: Tensors) -> Run:
    def run(pixels: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
        outputs = iter(compiled(pixels))
        first, second, third = (dict(zip(names, outputs, strict=False)) for names in tensors)
        return first, second, third

    return run


def observe_in_child(
    graph: bytes, runtime: str, tensors: Tensors, batches: Iterable[np.ndarray], seen: Callable[[int], Any]
) -> Observations:
    """Collect histograms, means and peaks in a child process, as `calibration.histograms.observe` does here.

    Parameters
    ----------
    graph : bytes
        Float ONNX graph from uint8 images of shape (batch, height, width, channels) to the outputs of `tensors`.
    runtime : str
    tensors : Tensors
    batches : iterable of uint8 arrays of shape (b, height, width, channels)
    seen : callable
        Called with the number of images of each batch that was observed.

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails; or as `calibration.histograms.observe` does.
    """
    what = f"calibration on {runtime}"
    with lasting_child(), scratch(_GRAPH, _TENSORS, _PIXELS, _COUNTS, _FOUND) as folder:
        with explained(folder):
            (folder / _GRAPH).write_bytes(graph)
            (folder / _TENSORS).write_text(json.dumps(tensors))
        # Kernels that a process of this one is compiling are no other process's to compile as well.
        wait_for("magnitudes")
        in_child(what, _begin, str(folder), runtime, timeout=TIMEOUT)
        for pixels in batches:
            with explained(folder):
                np.save(folder / _PIXELS, pixels)
            in_child(what, _observe, str(folder), timeout=TIMEOUT)
            seen(len(pixels))
        in_child(what, _finish, str(folder), timeout=TIMEOUT)
        with explained(folder):
            found, counts = json.loads((folder / _FOUND).read_bytes()), np.load(folder / _COUNTS)
    if found["fault"] is not None:
        raise AurevoirError(found["fault"])
    made = (Histogram(own, *ranges) for own, ranges in zip(counts, found["ranges"], strict=True))
    return Observations(dict(zip(tensors.observed, made, strict=True)), found["means"], found["peaks"])


@dataclass
class _Running:
    """What the child process of a calibration observes, and why it cannot go on."""

    observer: Observer
    fault: str | None = None


_RUNNING: list[_Running] = []


def _begin(folder: str, runtime: str) -> None:
    tensors = Tensors(*json.loads((Path(folder) / _TENSORS).read_bytes()))
    run = runner((Path(folder) / _GRAPH).read_bytes(), runtime, tensors)
    _RUNNING[:] = [_Running(Observer(run, tensors.observed))]


def _observe(folder: str) -> None:
    running, pixels = _RUNNING[0], np.load(Path(folder) / _PIXELS)
    try:
        if running.fault is None:
            running.observer.add(pixels)
    except AurevoirError as error:
        # It is said of these images, and not of a first inference.
        running.fault = str(error)


def _finish(folder: str) -> None:
    running = _RUNNING.pop()
    histograms, means, peaks = running.observer.found() if running.fault is None else Observations({}, {}, {})
    np.save(Path(folder) / _COUNTS, np.array([each.counts for each in histograms.values()], "int64"))
    ranges = [(each.top, each.amax) for each in histograms.values()]
    described = {"fault": running.fault, "ranges": ranges, "means": means, "peaks": peaks}
    (Path(folder) / _FOUND).write_text(json.dumps(described))
