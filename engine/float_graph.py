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
from .export import wrap
from .preprocessing import ChannelOrder, Normalization, Preprocessing, resolve


@dataclass(frozen=True)
class Exported:
    """The float graph of a truncated backbone, and its metadata; `pooled` is the number of channels."""

    graph: onnx.ModelProto
    backbone: str
    cut: str
    weights: str
    size: tuple[int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize
    channel_order: ChannelOrder = "RGB"
    pooled: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return (*self.size, len(self.mean))


def export_backbone(
    backbone: Backbone,
    cut: str | None = None,
    pixels: np.ndarray | None = None,
    normalization: Normalization = "auto",
    resize: Resize = "stretch",
) -> Exported:
    """Truncate and export a backbone, with the normalization and the sign bits in its graph.

    Parameters
    ----------
    backbone : Backbone
    cut : str, optional
    pixels : uint8 array of shape (n, height, width, channels), optional
        Images for normalization ``data`` and for the batch-norm statistics of random weights.
    normalization : str, (mean, std) or (mean, std, channel order)
        See `preprocessing.resolve`.
    resize : {"stretch", "crop"}
        Recorded in the result; images for the engine must be resized alike.
    """
    before = _preprocessing(normalization, backbone, pixels)
    model = backbone.to_onnx(cut, _for_statistics(backbone, pixels, before))
    return _wrapped(model, backbone, cut, before, resize)


def export_cuts(
    backbone: Backbone,
    cuts: Sequence[str],
    pixels: np.ndarray | None = None,
    normalization: Normalization = "auto",
    resize: Resize = "stretch",
) -> list[Exported]:
    """Export several cuts of a backbone at once; shared tensors have the same names in all graphs.

    The parameters are those of `export_backbone`. See `multi_cut.join` for a single engine of all cuts.
    """
    before = _preprocessing(normalization, backbone, pixels)
    model = backbone.to_onnx_at(cuts, _for_statistics(backbone, pixels, before))
    parts = [prune(model, [value.name]) for value in model.graph.output]
    return [_wrapped(part, backbone, cut, before, resize) for part, cut in zip(parts, cuts, strict=True)]


def _for_statistics(backbone: Backbone, pixels: np.ndarray | None, before: Preprocessing) -> np.ndarray | None:
    return before.apply(pixels) if backbone.needs_images and pixels is not None else None


def _wrapped(
    model: onnx.ModelProto, backbone: Backbone, cut: str | None, before: Preprocessing, resize: Resize
) -> Exported:
    graph = wrap(model, backbone.size, before)
    return Exported(
        graph,
        backbone.name,
        backbone.resolve(cut),
        backbone.weights,
        backbone.size,
        _width(graph.graph.output[0]),
        before.mean,
        before.std,
        resize,
        before.channel_order,
        _width(graph.graph.output[-1]),
    )


def _width(output: onnx.ValueInfoProto) -> int:
    width: int = output.type.tensor_type.shape.dim[1].dim_value
    return width


def _preprocessing(normalization: Normalization, backbone: Backbone, pixels: np.ndarray | None) -> Preprocessing:
    own = Preprocessing(backbone.mean, backbone.std, getattr(backbone, "channel_order", "RGB"))
    found = resolve(
        normalization, own, lambda: None if pixels is None else channel_statistics(ImageArray(pixels).batches())
    )
    if getattr(backbone, "takes_pixels", False) and found.std != own.std:
        raise UsageError(
            f"{backbone.name} takes uint8 pixels, so that no normalization {normalization!r} can precede it; omit it"
        )
    return found
