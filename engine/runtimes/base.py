"""What a runtime is: the names that there are, and what its module holds.

A runtime is a module of this package, found by its name in `runtimes.runtime`. One that computes a graph holds what
`GraphRuntime` asks for; one of NVIDIA's first builds a plan for one kind of GPU, and holds what `PlanRuntime` asks for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from .gpu_run import GpuRunner

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

PlanRuntimeName = Literal["tensorrt", "tensorrt-rtx"]
RuntimeName = Literal["openvino", "onnxruntime", "torch", PlanRuntimeName]
PLAN_RUNTIMES: tuple[PlanRuntimeName, ...] = get_args(PlanRuntimeName)
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

Batches = tuple[int, int, int]
"""The smallest batch that a plan takes, the one that its kernels are chosen for, and the largest."""

Compiled = Callable[[np.ndarray], list[np.ndarray]]
"""From uint8 images to a graph's outputs; thread-safe. The same thread's next call may overwrite them."""

Layer = dict[str, str | None]
"""``name``, ``type`` and ``precision`` of a layer as a runtime executes it; None for what it does not say."""


class Runtime(Protocol):
    """What every runtime module holds: the package that it imports, and the line that installs it."""

    PACKAGE: str
    INSTALL: str

    def version(self) -> str:
        """Return the version of the library."""

    def precisions(self) -> tuple[Precision, ...]:
        """Return what this machine can run."""

    def devices(self) -> tuple[str, ...]:
        """Return the devices here, the default first."""


class GraphRuntime(Runtime, Protocol):
    """A runtime that computes an ONNX graph."""

    def compile(self, graph: bytes, precision: Precision, device: str = "cpu") -> Compiled | GpuRunner:
        """Load a graph on a device; on a GPU that is a `GpuRunner`."""

    @property
    def layers(self) -> Callable[[bytes, Precision, str], list[Layer]] | None:
        """What lists the layers of a graph, in a precision on a device; None where the library does not say."""


class PlanRuntime(Runtime, Protocol):
    """A runtime that builds a plan for one kind of GPU, and runs that."""

    def why_not(self) -> str | None:
        """Return why plans cannot run here, or None if they can."""

    def targets(self) -> tuple[str, ...]:
        """Return the GPU architectures that can be built for without a GPU, such as ``sm89``."""

    def buildable(self) -> tuple[Precision, ...]:
        """Return the precisions that can be built here for a target, without its GPU."""

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
        """Load a plan on a GPU: a `tensorrt_run.PlanRunner`."""

    def layers(self, plan: bytes, device: str = "cuda") -> list[Layer]:
        """Return the layers of a plan."""
