"""What to build: every engine is built by `build.EngineBuilder` from these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..calibration.placement import Placement, check_placement
from ..calibration.quantize import ACTIVATION_DTYPES, ActivationDtype
from ..calibration.table import CalibrationTable
from ..calibration.thresholds import Method, check_method
from ..errors import UsageError
from ..images.decode import Resize, check_resize
from .runtimes import check_precision
from .runtimes.base import Precision, RuntimeName

if TYPE_CHECKING:
    from .backbones.base import BackboneLike

CALIBRATION_IMAGES, HELD_OUT_IMAGES = 128, 32
Auto = Literal["auto"]
Normalization = str | tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The truncated network, as a float graph.

    Attributes
    ----------
    backbone : str, path, torch.nn.Module or Backbone
        A torchvision name, an ONNX file, or a module.
    cut : str, optional
        Where the network ends; None stands for the backbone's default. See `Backbone.cuts`.
    weights : {"default", "random"} or path
    size : int, optional
        Height and width of the input; None stands for the backbone's own.
    normalization : {"imagenet", "data"} or (mean, std)
        Of pixels scaled to [0, 1]; ``data`` stands for the statistics of the images that the builder is given.
    resize : {"stretch", "crop"}
        How images of another size are brought to the input's.
    seed : int
        Of random weights and of the choice of calibration images.
    """

    backbone: "BackboneLike"
    cut: str | None = None
    weights: str | Path = "default"
    size: int | None = None
    normalization: Normalization = "imagenet"
    resize: Resize = "stretch"
    seed: int = 0

    def __post_init__(self) -> None:
        check_resize(self.resize)


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """Where the thresholds of int8 come from.

    Attributes
    ----------
    data : path, list of paths, uint8 array of shape (n, height, width, 3), CalibrationTable or path of one, optional
        Images, or a table in their place: ours (.json) or TensorRT's calibration cache (.cache).
    images : int
        How many images to calibrate on.
    held_out : int
        How many others, at most, to measure the fidelity on.
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
    """

    data: Any = None
    images: int = CALIBRATION_IMAGES
    held_out: int = HELD_OUT_IMAGES
    method: Method = "percentile"

    def __post_init__(self) -> None:
        check_method(self.method)

    @property
    def is_table(self) -> bool:
        """Whether `data` is a calibration table, or the path of one."""
        return isinstance(self.data, CalibrationTable) or (
            isinstance(self.data, str | Path) and Path(self.data).suffix in (".json", ".cache")
        )


@dataclass(frozen=True, kw_only=True)
class PlanSpec:
    """How NVIDIA's runtimes build their plan.

    Attributes
    ----------
    target : str, optional
        A GPU architecture, such as ``sm89``, to build for without such a GPU: runtime ``tensorrt-rtx``.
    workspace : int, optional
        Bytes of GPU memory that one layer may take for scratch.
    timing_cache : path, optional
        A file of kernel timings that builds read and add to.
    batches : (int, int, int)
        The smallest batch, the one to choose kernels for, and the largest.
    """

    target: str | None = None
    workspace: int | None = None
    timing_cache: str | Path | None = None
    batches: tuple[int, int, int] = (1, 16, 64)


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """One engine of a network.

    Attributes
    ----------
    precision : {"fp32", "fp16", "bf16", "int8"}
    runtime : {"auto", "openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx"}
    device : str, optional
        As the runtime names it; None stands for its first.
    activation_dtype : {"auto", "int8", "uint8"}
        Of int8: ``uint8`` stores unsigned what cannot be negative; ``auto`` takes it where that costs nothing.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        Of int8: what is quantized; see `calibration.placement`.
    min_sign_agreement : float, optional
        Leave the fewest tensors of an int8 engine in floating point that bring its sign agreement with fp32, on the
        held-out images, to this.
    prefer_faster : bool
        Return an engine of the runtime's narrowest float precision where int8 is not faster than that here.
    smoke : bool
        Run the engine once in a child process first, so that a native crash raises an error here.
    measure : bool
        Measure the fidelity on the held-out images, and of int8 the speed compared with the narrowest float.
    plan : PlanSpec
    """

    precision: Precision = "fp32"
    runtime: RuntimeName | Auto = "auto"
    device: str | None = None
    activation_dtype: ActivationDtype | Auto = "auto"
    placement: Placement = "conv-inputs"
    min_sign_agreement: float | None = None
    prefer_faster: bool = False
    smoke: bool = True
    measure: bool = True
    plan: PlanSpec = PlanSpec()

    def __post_init__(self) -> None:
        check_precision(self.precision)
        known = ("auto", *ACTIVATION_DTYPES)
        if self.activation_dtype not in known:
            raise UsageError(
                f"activation dtype {self.activation_dtype!r} is not known; choose one of {', '.join(known)}"
            )
        check_placement(self.placement)
        if self.min_sign_agreement is not None and self.precision == "fp32":
            raise UsageError("min_sign_agreement compares with fp32, and this engine is fp32; leave it out")
        if self.plan.target is not None and (self.min_sign_agreement is not None or self.prefer_faster):
            raise UsageError(
                "min_sign_agreement and prefer_faster run engines here, and target is elsewhere; leave it out"
            )
