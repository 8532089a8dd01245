"""The interface of runtimes, and their names.

A runtime is a module of this package, found by name with `runtimes.runtime`. It implements `GraphRuntime`, which
computes an ONNX graph, or `PlanRuntime`, for NVIDIA's libraries, which first build a GPU-specific plan.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from ...calibration.graph.edit import POOLED_PREFIX
from ...errors import AurevoirError
from .gpu_run import GpuRunner

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

PlanRuntimeName = Literal["tensorrt", "tensorrt-rtx"]
GraphRuntimeName = Literal["openvino", "onnxruntime", "torch", "triton"]
RuntimeName = Literal[GraphRuntimeName, PlanRuntimeName]
PLAN_RUNTIMES: tuple[PlanRuntimeName, ...] = get_args(PlanRuntimeName)
GRAPH_RUNTIMES: tuple[GraphRuntimeName, ...] = get_args(GraphRuntimeName)
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

Batches = tuple[int, int, int]
"""Minimum, optimal and maximum batch size of a plan."""

FLOAT32_PREFIX = "classifier/"
"""What the names of a classifier's own nodes begin with."""
FLOAT32_PREFIXES = (FLOAT32_PREFIX, POOLED_PREFIX)
"""What the names of those nodes begin with that are computed in float32, as a graph says, in every precision."""

Layer = dict[str, str | None]
"""``name``, ``type`` and ``precision`` of a layer as executed; None if the runtime does not report it."""

WARM_RUNS = 3
"""Runs before those whose layers are timed."""


@dataclass(frozen=True)
class LayerTime:
    """A layer as executed, and its time.

    Attributes
    ----------
    name : str
    type, precision : str or None
        As the runtime names them; None if it does not report them.
    seconds : float
        Mean of the calls.
    nodes : tuple of str
        What the runtime says that the layer was made of: names of ONNX nodes or of their outputs.
    """

    name: str
    type: str | None
    precision: str | None
    seconds: float
    nodes: tuple[str, ...]


class Compiled(Protocol):
    """Maps uint8 images to a graph's outputs; thread-safe. The next call on the same thread may overwrite them.

    With `into`, C-contiguous arrays for the outputs, a runtime may write those in place: what it then returns has their
    memory. Nothing of it is kept.
    """

    def __call__(self, images: np.ndarray, into: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Compute the outputs."""


class Runtime(Protocol):
    """Interface of all runtime modules: the imported package, the command that installs it, and these functions."""

    PACKAGE: str
    INSTALL: str

    def version(self) -> str:
        """Return the version of the library."""

    def precisions(self) -> tuple[Precision, ...]:
        """Return the precisions that this machine supports."""

    def devices(self) -> tuple[str, ...]:
        """Return the devices of this machine, the default first."""


class GraphRuntime(Runtime, Protocol):
    """A runtime that computes an ONNX graph.

    Attributes
    ----------
    SETTINGS : tuple of str
        Those of ``threads`` and ``streams`` that it takes.
    KEEPS : bool
        Whether `compile` takes a ``store``, such as the user's cache, in which it keeps what it compiles for later.
    CALLS : int
        Calls on the CPU that are faster at the same time than one after another; 1 if none are.
    """

    SETTINGS: tuple[str, ...]
    KEEPS: bool
    CALLS: int

    def compile(
        self, graph: bytes, precision: Precision, device: str = "cpu", settings: Mapping[str, int] | None = None
    ) -> Compiled | GpuRunner:
        """Compile a graph for a device; on a GPU to a `GpuRunner`. With `settings` for a CPU with these of them."""

    def check(self, graph: bytes) -> None:
        """Raise AurevoirError if the runtime does not support something of a graph, as far as can be told unrun."""

    @property
    def layers(self) -> Callable[[bytes, Precision, str], list[Layer]] | None:
        """Function that lists the layers of a graph in a precision on a device; None if not supported."""

    def layer_times(
        self, graph: bytes, precision: Precision, device: str, images: np.ndarray, calls: int
    ) -> Iterable[LayerTime]:
        """Time every layer of a graph on images, in the order of execution, by the library's own profiler."""


class PlanRuntime(Runtime, Protocol):
    """A runtime that builds and runs a GPU-specific plan."""

    def why_not(self) -> str | None:
        """Return why plans cannot run on this machine, or None if they can."""

    def targets(self) -> tuple[str, ...]:
        """Return the GPU architectures, such as ``sm89``, that can be built for without a GPU."""

    def buildable(self) -> tuple[Precision, ...]:
        """Return the precisions that can be built for a target without its GPU."""

    def build(
        self,
        graph: bytes,
        precision: Precision,
        *,
        target: str | None = None,
        device: str = "cuda",
        batches: Batches = ...,
        workspace: int | None = None,
        timing_cache: Path | None = None,
        progress: bool = False,
    ) -> bytes:
        """Build a plan; see `tensorrt_plan.build_plan`."""

    def load(self, plan: bytes, device: str = "cuda") -> Any:
        """Load a plan on a GPU as a `tensorrt_run.PlanRunner`."""

    def layers(self, plan: bytes, device: str = "cuda") -> list[Layer]:
        """Return the layers of a plan."""

    def layer_times(self, plan: bytes, device: str, images: np.ndarray, calls: int) -> Iterable[LayerTime]:
        """Time every layer of a plan on images, in the order of execution, by the library's own profiler."""


def refusal(runtime: str, others: str, what: str) -> AurevoirError:
    """Return the error that a runtime does not compute something of a graph."""
    return AurevoirError(f"runtime {runtime!r} does not compute this network rightly: {what}; use runtime {others}")
