"""Export a truncated backbone as a float graph, the basis of engines of every precision."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..calibration.graph.edit import prune
from ..errors import UsageError
from ..images.batches import ImageArray, channel_statistics
from ..images.decode import Resize
from .backbones.base import Backbone
from .export import feature_count, wrap
from .spec import Normalization


@dataclass(frozen=True)
class Exported:
    """The float graph of a truncated backbone, and its metadata."""

    graph: onnx.ModelProto
    backbone: str
    cut: str
    weights: str
    size: tuple[int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize


def export_backbone(
    backbone: Backbone,
    cut: str | None = None,
    pixels: np.ndarray | None = None,
    normalization: Normalization = "imagenet",
    resize: Resize = "stretch",
) -> Exported:
    """Truncate and export a backbone, with the normalization and the sign bits in its graph.

    Parameters
    ----------
    backbone : Backbone
    cut : str, optional
    pixels : uint8 array of shape (n, height, width, 3), optional
        Images for normalization ``data`` and for the batch-norm statistics of random weights.
    normalization : {"imagenet", "data"} or (mean, std)
    resize : {"stretch", "crop"}
        Recorded in the result; images for the engine must be resized alike.
    """
    mean, std = _normalization(normalization, backbone, pixels)
    model = backbone.to_onnx(cut, _for_statistics(backbone, pixels, mean, std))
    return _wrapped(model, backbone, cut, mean, std, resize)


def export_cuts(
    backbone: Backbone,
    cuts: Sequence[str],
    pixels: np.ndarray | None = None,
    normalization: Normalization = "imagenet",
    resize: Resize = "stretch",
) -> list[Exported]:
    """Export several cuts of a backbone at once; shared tensors have the same names in all graphs.

    The parameters are those of `export_backbone`. See `multi_cut.join` for a single engine of all cuts.
    """
    mean, std = _normalization(normalization, backbone, pixels)
    model = backbone.to_onnx_at(cuts, _for_statistics(backbone, pixels, mean, std))
    parts = [prune(model, [value.name]) for value in model.graph.output]
    return [_wrapped(part, backbone, cut, mean, std, resize) for part, cut in zip(parts, cuts, strict=True)]


def _for_statistics(
    backbone: Backbone, pixels: np.ndarray | None, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray | None:
    return _normalized(pixels, mean, std) if backbone.needs_images and pixels is not None else None


def _wrapped(
    model: onnx.ModelProto,
    backbone: Backbone,
    cut: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: Resize,
) -> Exported:
    return Exported(
        wrap(model, backbone.size, mean, std),
        backbone.name,
        backbone.resolve(cut),
        backbone.weights,
        backbone.size,
        feature_count(model, backbone.size),
        mean,
        std,
        resize,
    )


def _normalization(
    normalization: Normalization, backbone: Backbone, pixels: np.ndarray | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if normalization == "imagenet":
        return backbone.mean, backbone.std
    if normalization == "data":
        if pixels is None:
            raise UsageError("normalization 'data' needs images; give some, or 'imagenet', or (mean, std)")
        return channel_statistics(ImageArray(pixels).batches())
    if isinstance(normalization, str):
        raise UsageError(f"normalization {normalization!r} is not known; give 'imagenet', 'data' or (mean, std)")
    mean, std = (tuple(float(value) for value in part) for part in normalization)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UsageError(
            f"normalization {normalization!r} must be 3 means and 3 positive standard deviations in [0, 1]"
        )
    return mean, std


def _normalized(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    values = (pixels.astype("float32") / 255 - np.array(mean, "float32")) / np.array(std, "float32")
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
