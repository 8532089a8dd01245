"""Export a truncated backbone as a float graph, the basis of engines of every precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

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
    """The float graph of a truncated backbone, and its metadata; see `Manifest` for `pooled` and `pooled_layers`."""

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
    pooled_layers: tuple[int, ...] = ()

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
    layers: Sequence[str] = (),
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
    layers : sequence of str
        Earlier cuts, whose channel means are output with those of `cut`.
    """
    before = _preprocessing(normalization, backbone, pixels)
    statistics = _for_statistics(backbone, pixels, before)
    # A cut by itself has the names that it has without layers.
    if layers:
        model = backbone.to_onnx_at([*layers, backbone.resolve(cut)], statistics)
    else:
        model = backbone.to_onnx(cut, statistics)
    return _wrapped(model, backbone, cut, before, resize)


def export_cuts(
    backbone: Backbone,
    cuts: Sequence[str],
    pixels: np.ndarray | None = None,
    normalization: Normalization = "auto",
    resize: Resize = "stretch",
    layers: Sequence[Sequence[str]] = (),
) -> list[Exported]:
    """Export several cuts of a backbone at once; shared tensors have the same names in all graphs.

    The parameters are those of `export_backbone`, `layers` those of each cut. See `multi_cut.join` for a single engine
    of all cuts.
    """
    before = _preprocessing(normalization, backbone, pixels)
    layers = layers or [()] * len(cuts)
    wanted = list(dict.fromkeys(backbone.resolve(cut) for cut in (*chain.from_iterable(layers), *cuts)))
    model = backbone.to_onnx_at(wanted, _for_statistics(backbone, pixels, before))
    names = dict(zip(wanted, (value.name for value in model.graph.output), strict=True))
    return [
        _wrapped(prune(model, [names[backbone.resolve(each)] for each in (*own, cut)]), backbone, cut, before, resize)
        for own, cut in zip(layers, cuts, strict=True)
    ]


def _for_statistics(backbone: Backbone, pixels: np.ndarray | None, before: Preprocessing) -> np.ndarray | None:
    return before.apply(pixels) if backbone.needs_images and pixels is not None else None


def _wrapped(
    model: onnx.ModelProto, backbone: Backbone, cut: str | None, before: Preprocessing, resize: Resize
) -> Exported:
    graph, channels = wrap(model, backbone.size, before)
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
        sum(channels),
        channels if len(channels) > 1 else (),
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
