"""Specifications of networks, calibrations, plans and engines, for `build.EngineBuilder`."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..calibration.placement import Placement, check_placement
from ..calibration.quantize import ACTIVATION_DTYPES, ActivationDtype
from ..calibration.table import CalibrationTable
from ..calibration.thresholds import Method, check_method
from ..errors import UsageError
from ..images.decode import Resize, check_resize
from .preprocessing import Normalization, check_normalization
from .runtimes import check_precision
from .runtimes.base import Precision, RuntimeName

if TYPE_CHECKING:
    from .backbones.base import BackboneLike

CALIBRATION_IMAGES, HELD_OUT_IMAGES = 128, 32
Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The truncated network, as a float graph.

    Attributes
    ----------
    backbone : str, path, torch.nn.Module or Backbone
        A torchvision name, ``efficientnet_lite0`` (or 1, 2), ``timm:NAME``, an ONNX file, or a module.
    cut : str, optional
        Where to truncate the network; by default the backbone's default cut. See `Backbone.cuts`.
    weights : {"default", "random"} or path
    size : int, optional
        Input height and width; by default the backbone's.
    normalization : str, (mean, std) or (mean, std, channel order)
        See `preprocessing.resolve`; ``data`` uses the statistics of the builder's images.
    resize : {"stretch", "crop"}
        How images are resized to the input size.
    pool_layers : bool
        Whether the channel means of layers before the cut are output too; see `cut_candidates.layers_before`.
    seed : int
        Seed for random weights and the choice of calibration images.
    """

    backbone: "BackboneLike"
    cut: str | None = None
    weights: str | Path = "default"
    size: int | None = None
    normalization: Normalization = "auto"
    resize: Resize = "stretch"
    pool_layers: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_resize(self.resize)
        check_normalization(self.normalization)


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """The calibration of int8 thresholds.

    Attributes
    ----------
    data : path, list of paths, uint8 array of shape (n, height, width, 3), CalibrationTable or path of one, optional
        Images, or a calibration table: ours (.json) or TensorRT's calibration cache (.cache).
    images : int
        Number of calibration images.
    held_out : int
        Maximum number of held-out images to measure the fidelity on.
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
    """

    data: Any = None
    images: int = CALIBRATION_IMAGES
    held_out: int = HELD_OUT_IMAGES
    method: Method = "percentile"

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.images < 0 or self.held_out < 0:
            raise UsageError(
                f"calibration on {self.images} images, {self.held_out} held out, cannot be; give 0 or more"
            )

    @property
    def is_table(self) -> bool:
        """Whether `data` is a calibration table, or the path of one."""
        if not isinstance(self.data, str | Path):
            return isinstance(self.data, CalibrationTable)
        path = Path(self.data)
        # A list of images may be JSON too, but is no object.
        return path.suffix == ".cache" or (path.suffix == ".json" and not _is_json_array(path))


def _is_json_array(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return False


@dataclass(frozen=True, kw_only=True)
class PlanSpec:
    """Options for the plans of NVIDIA's runtimes.

    Attributes
    ----------
    target : str, optional
        GPU architecture, such as ``sm89``, to build for ahead of time with runtime ``tensorrt-rtx``.
    workspace : int, optional
        Maximum GPU workspace per layer, in bytes.
    timing_cache : path, optional
        Timing cache file to read and update.
    batches : (int, int, int)
        Minimum, optimal and maximum batch size.
    """

    target: str | None = None
    workspace: int | None = None
    timing_cache: str | Path | None = None
    batches: tuple[int, int, int] = (1, 16, 64)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", tuple(self.batches))
        if not (len(self.batches) == 3 and 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]):
            raise UsageError(
                f"batches {self.batches} are not in order; give minimum, optimal and maximum, such as (1, 16, 64)"
            )


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine of a network.

    Attributes
    ----------
    precision : {"fp32", "fp16", "bf16", "int8"}
    runtime : {"auto", "openvino", "onnxruntime", "torch", "triton", "tensorrt", "tensorrt-rtx"}
    device : str, optional
        Device of the engine, as the runtime names it; by default its first.
    activation_dtype : {"auto", "int8", "uint8"}
        For int8: ``uint8`` stores activations with a known lower bound as unsigned; ``auto`` selects it with VNNI.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        For int8: the tensors to quantize; see `calibration.placement`.
    min_sign_agreement : float, optional
        For int8: keep as few tensors in floating point as needed for this sign agreement with fp32 on the held-out
        images.
    prefer_faster : bool
        Build the runtime's narrowest float precision instead if it is faster than int8 on this machine in every turn
        of their timing; where the turns disagree, int8 stays.
    smoke : bool
        Run the engine once in a child process first, so that a native crash raises an error.
    measure : bool
        Measure the fidelity on the held-out images.
    compare_speed : bool
        For int8: measure the speed compared with the narrowest float; `prefer_faster` does in any case.
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
    compare_speed: bool = True
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
            raise UsageError("min_sign_agreement compares with fp32, and this engine is fp32; omit it")
        if self.prefer_faster and self.precision != "int8":
            raise UsageError(f"prefer_faster compares int8 with floats, and this engine is {self.precision}; omit it")
        if self.plan.target is not None and (self.min_sign_agreement is not None or self.prefer_faster):
            raise UsageError(
                f"min_sign_agreement and prefer_faster measure on this machine, and target {self.plan.target!r} builds "
                "for another; omit them"
            )
