"""NVIDIA TensorRT 10 and 11, and the code shared with TensorRT-RTX."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import AurevoirError, MissingPackageError, UsageError
from .base import Batches, Layer, LayerTime, Precision
from .device import has_nvidia_driver, open_device
from .tensorrt_plan import BATCHES, build_plan, describe_plan, known_targets
from .tensorrt_run import PlanRunner


class NvidiaRuntime:
    """One of NVIDIA's libraries as a runtime; its methods implement `PlanRuntime`.

    Parameters
    ----------
    name, package, install : str
        Runtime name, Python package, and the command that installs it.
    distributions : sequence of str
        Names of distributions that provide it.
    libraries : sequence of str
        For placeholder distributions: those that contain the libraries.
    """

    PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def __init__(
        self, name: str, package: str, install: str, distributions: Sequence[str], libraries: Sequence[str] = ()
    ) -> None:
        self.name, self.package, self.install = name, package, install
        self.distributions, self.libraries = distributions, libraries

    def version(self) -> str:
        """Return the version of the library."""
        found = _installed(self.distributions)
        return self._library().__version__ if found is None else package_version(found)

    def precisions(self) -> tuple[Precision, ...]:
        """Return the precisions that this machine supports."""
        return self.PRECISIONS if self.why_not() is None else ()

    def devices(self) -> tuple[str, ...]:
        """Return ``cuda``, the current GPU; ``cuda:1`` and so on are also accepted."""
        return ("cuda",) if self.why_not() is None else ()

    def buildable(self) -> tuple[Precision, ...]:
        """Return the precisions that can be built for a target without its GPU."""
        return self.PRECISIONS if self.targets() else ()

    def targets(self) -> tuple[str, ...]:
        """Return the GPU architectures, such as ``sm89``, that can be built for without a GPU."""
        try:
            return known_targets(self._library())
        except MissingPackageError:
            return ()

    def why_not(self) -> str | None:
        """Return why plans cannot run on this machine, or None if they can."""
        if find_spec(self.package) is not None and not has_nvidia_driver():
            return "no NVIDIA driver (libcuda.so.1) on this machine"
        try:
            known = known_targets(self._library())
            capability = open_device().capability
        except AurevoirError as problem:
            return str(problem)
        if known and capability not in known:
            return f"this machine's GPU is {capability}; this library supports {', '.join(known)}"
        return None

    def build(
        self,
        graph: bytes,
        precision: Precision,
        *,
        target: str | None = None,
        device: str = "cuda",
        batches: Batches = BATCHES,
        workspace: int | None = None,
        timing_cache: Path | None = None,
        progress: bool = False,
    ) -> bytes:
        """Build a plan from a graph in the types of the precision; see `build_plan`.

        Raises
        ------
        UsageError
            If the library does not support the precision or the target.
        AurevoirError
            If it cannot build on this machine, or cannot build this graph.
        MissingPackageError
            If it is not installed.
        """
        if precision not in self.PRECISIONS:
            raise UsageError(f"runtime {self.name!r} runs {', '.join(self.PRECISIONS)}, not {precision!r}")
        trt = self._library()
        if target is None and (reason := self.why_not()):
            raise AurevoirError(f"runtime {self.name!r} needs this machine's GPU to build without a target: {reason}")
        with nullcontext() if target else open_device(device).scope():
            return build_plan(
                trt,
                graph,
                batches=batches,
                target=target,
                workspace=workspace,
                timing_cache=timing_cache,
                progress=progress,
            )

    def native_cache(self, graph: bytes, pixels: Any, batch: int, progress: bool = False) -> bytes:
        """Calibrate with TensorRT 10's calibrator on this machine's GPU; see `tensorrt_calibrator`."""
        from .tensorrt_calibrator import native_cache

        trt = self._library()
        if reason := self.why_not():
            raise AurevoirError(f"method 'native' needs an NVIDIA GPU: {reason}")
        return native_cache(trt, graph, pixels, open_device(), batch, progress)

    def load(self, plan: bytes, device: str = "cuda") -> PlanRunner:
        """Load a plan on a GPU; see `open_device` and `PlanRunner`."""
        return PlanRunner(self._library(), plan, open_device(device))

    def layers(self, plan: bytes, device: str = "cuda") -> list[Layer]:
        """Return name, type and precision of every layer of a plan; see `describe_plan`."""
        return describe_plan(self._library(), self.load(plan, device).engine)

    def layer_times(self, plan: bytes, device: str, images: Any, calls: int) -> list[LayerTime]:
        """Time every layer of a plan on images; see `PlanRunner.layer_times`."""
        return self.load(plan, device).layer_times(images, calls)

    def _library(self) -> Any:
        try:
            return import_module(self.package)
        except (ImportError, OSError) as problem:
            raise MissingPackageError(self._missing(problem)) from problem

    def _missing(self, problem: Exception) -> str:
        found = _installed(self.distributions)
        if found is not None and self.libraries and _installed(self.libraries) is None:
            return (
                f"{found} is installed without its libraries: the wheel on PyPI is a placeholder that downloads them "
                "from NVIDIA's own package index; reinstall it where that is reachable"
            )
        if found is None and find_spec(self.package) is None:
            return f"runtime {self.name!r} is not installed; install it with: {self.install}"
        return f"runtime {self.name!r} does not load: {problem}"


def _installed(distributions: Sequence[str]) -> str | None:
    """Return the first distribution that is installed."""
    for name in distributions:
        with suppress(PackageNotFoundError):
            package_version(name)
            return name
    return None


PACKAGE = "tensorrt"
INSTALL = "pip install tensorrt (its libraries come from NVIDIA's own package index, which must be reachable)"

_nvidia = NvidiaRuntime(
    "tensorrt",
    PACKAGE,
    INSTALL,
    ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    ("tensorrt-cu13-libs", "tensorrt-cu12-libs"),
)
version, precisions, devices, why_not = _nvidia.version, _nvidia.precisions, _nvidia.devices, _nvidia.why_not
buildable, targets, build = _nvidia.buildable, _nvidia.targets, _nvidia.build
load, layers, native_cache, layer_times = _nvidia.load, _nvidia.layers, _nvidia.native_cache, _nvidia.layer_times
