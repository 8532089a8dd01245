"""The suites by name; one is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import Benchmark

SUITES = {
    "engine": "engine files under closed and open load: throughput and latency against sign agreement and size",
    "engines": "throughput and latency by runtime and precision, compared with peers",
    "calibration": "int8 by calibration method, compared with other quantizers",
    "accuracy": "accuracy by precision and projection over splits of real photographs",
    "patches": "multi-label photographs by patches at several scales, compared with the whole image",
    "projection": "projections and the popcount Gram over their size, or accuracy over k, compared with peers",
    "ridge": "Gram, Cholesky and leave-one-out over their size, compared with scikit-learn and torch",
    "scale": "the ridge by default settings over the number of rows, to a million: seconds and memory by stage",
    "families": "ten families of networks by both of torch's ONNX exporters: what works, what is refused, how exactly",
    "threads": "one engine under many threads: outputs and memory",
    "startup": "how long each command takes to print its help",
    "time-to-model": "seconds from a folder to a tested model, as whole processes, compared with scripts",
    "cluster": "a fit on the workers of a local cluster, compared with one process on equal cores: seconds and memory",
    "table1": "accuracy, seconds by stage and megabytes by precision and runtime, as the post's Table 1",
    "depth": "accuracy and training time over the depth of the cut, and of backprop, as the post's Figures 5 and 6",
    "gpu": "everything that needs an NVIDIA GPU: tests, the post's size, networks, from photographs to a classifier",
    "rivals": "optics, linear probes and backprop on the same network and splits, and retraining of other networks",
}


def load(name: str) -> "Benchmark":
    """Import a suite and return what it offers."""
    benchmark: Benchmark = import_module(f".suites.{name.replace('-', '_')}", __package__).BENCHMARK
    return benchmark


def find(name: object) -> "Benchmark | None":
    """Return the benchmark of a name that a result file holds; None where this version has none of that name."""
    return load(name) if isinstance(name, str) and name in SUITES else None
