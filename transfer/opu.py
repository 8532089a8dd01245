"""LightOn's Optical Processing Unit as a projection, and lightonml's simulation of one.

Everything specific to lightonml, LightOn's library, is in this module. Its last release is 1.4.3.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from ..errors import AurevoirError, MissingPackageError, UsageError
from ..kernels.array_types import Array
from ..kernels.bits import packed_length
from ..kernels.camera import Camera
from ..kernels.memory import Budget, memory_budget, require
from ..kernels.projection import Projection

OPUS = ("opu", "opu-simulated")
INSTALL = "pip install --no-deps lightonml==1.4.3 && pip install attrs numexpr requests 'setuptools<82'"
# A frame of the input device: 912 x 1140 pixels, one bit each.
_FRAME_BYTES = 912 * 1140 // 8
# There is only one device, and closing it closes it for all users.
_IN_USE = threading.Lock()


@dataclass(frozen=True)
class _LightonmlProjection(Projection):
    """A projection through lightonml's ``OPU``, which is open only during a call."""

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str]

    @cached_property
    def opu(self) -> Any:
        """The lightonml ``OPU``."""
        raise NotImplementedError

    def intensities(self, bits: Array, budget: Budget = None) -> Array:
        """Return the OPU's output for packed bits, of shape (n, k); see `Projection`.

        Notes
        -----
        The OPU is fitted to the number of features, not to the bits, so that R does not depend on
        them. lightonml counts packed features in whole bytes, and fits only an open device.
        """
        if not len(bits):
            return np.empty((0, self.k), "uint8")
        with _IN_USE, self._translated_errors(), self.opu:
            self.opu.fit1d(n_features=8 * bits.shape[1], packed=True)
            return np.asarray(self.opu.transform(bits)).reshape(len(bits), self.k)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except AurevoirError:
            raise
        except (IndexError, ValueError) as error:
            raise UsageError(f"projection {self.kind!r} from {self.m} features to {self.k}: {error}") from error
        except Exception as error:  # drivers may raise anything
            raise AurevoirError(f"projection {self.kind!r} failed: {str(error) or type(error).__name__}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "opu"}


@dataclass(frozen=True)
class Opu(_LightonmlProjection):
    """The OPU of this machine: |Rx|^2 by light, as the bytes of its own camera.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        Ignored: R is a physical medium.
    device : str, optional
        The `identity` of the OPU that a model was trained on; no other is accepted.
    """

    device: str | None = None
    kind: ClassVar[str] = "opu"
    camera: ClassVar[Camera] = Camera(1.0)

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return 2 * _FRAME_BYTES + 10 * self.k

    @cached_property
    def opu(self) -> Any:
        """The lightonml ``OPU``; one other than `device` is rejected."""
        require_opu(self.kind)
        opu = _lightonml().OPU(n_components=self.k, open_at_init=False, disable_pbar=True)
        if self.device not in (None, found := _identity(opu)):
            raise AurevoirError(
                f"the model was trained on {self.device}, and this machine has {found}, whose random matrix "
                "differs; predict on that machine, or train the model again on this one"
            )
        return opu

    @property
    def identity(self) -> str:
        """The required OPU and exposure, or else those of this machine."""
        with self._translated_errors():
            return self.device or _identity(self.opu)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "device": self.identity} if "opu" in self.__dict__ else state


@dataclass(frozen=True)
class SimulatedOpu(_LightonmlProjection):
    """lightonml's simulation: |Rx|^2 with complex Gaussian R, recorded by our `Camera`.

    Parameters
    ----------
    m, k : int
        Numbers of input features and of outputs.
    seed : int
        Seed of R, below 2^32; 0 gives lightonml's default R.
    budget : int, str or None
        Memory for R, which is stored in full; see `memory_budget`.
    """

    budget: int | str | None = field(default=None, compare=False, repr=False)
    kind: ClassVar[str] = "opu-simulated"

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return 9 * self.m + 28 * self.k

    @cached_property
    def opu(self) -> Any:
        """The lightonml ``OPU``; its ``device.random_matrix`` is R, of shape (m in whole bytes, k)."""
        features = 8 * packed_length(self.m)
        description = f"drawing the {features} x {self.k} matrix of {self.kind!r}"
        remedy = "lower n_components or use projection='dense'"
        require(24 * features * self.k, memory_budget(self.budget), description, remedy)
        make = _lightonml().OPU
        from lightonml.internal.simulated_device import SimulatedOpuDevice

        device = SimulatedOpuDevice()
        device.build_random_matrix(features, self.k, self.seed)
        return make(self.k, opu_device=device, max_n_features=features, open_at_init=False, disable_pbar=True)


def opu_projector(kind: str, budget: int | str | None = None) -> Callable[..., Projection]:
    """Return a function from (m, k, seed) to a projection of `OPUS`."""
    return Opu if kind == "opu" else partial(SimulatedOpu, budget=budget)


def require_opu(kind: str) -> None:
    """Check that the packages of a projection of `OPUS` are installed.

    Raises
    ------
    MissingPackageError
        If lightonml, or for the hardware its driver, cannot be imported.
    """
    _lightonml()
    if kind == "opu":
        try:
            import lightonopu  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(
                f"projection 'opu' needs LightOn's hardware and its driver, which is not on PyPI ({error}); "
                "run on a machine that has them, or use projection='opu-simulated', lightonml's simulation"
            ) from error


def _lightonml() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            import lightonml
    except ImportError as error:
        raise MissingPackageError(
            f"projections {' and '.join(OPUS)} need lightonml ({error}); "
            f"its pinned requirements no longer install, so use: {INSTALL}"
        ) from error
    return lightonml


def _identity(opu: Any) -> str:
    """Return the OPU's name, location, core and exposure: what lightonml reports that its output depends on."""
    return f"{opu.version().splitlines()[0]}, exposure {opu.device.exposure_us} us"
