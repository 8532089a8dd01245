"""The backbone protocol and its cut points."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union, runtime_checkable

import numpy as np
import onnx

from ...errors import UsageError

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
DEFAULT_SIZE = 224
TIMM = "timm:"
"""What the names of timm's networks begin with."""

BackboneLike = Union[str, Path, "torch.nn.Module", "Backbone"]


@dataclass(frozen=True)
class Cut:
    """A point where a backbone can be truncated.

    Attributes
    ----------
    name : str
        Name of a child module, or of a tensor in an ONNX file.
    features : int
        The number of features per image, m.
    parameters, macs : int
        Of the layers before the cut; multiply-accumulates of convolutions and linear layers per
        image.
    shape : tuple of int
        Of the features of one image, such as (channels, height, width).
    """

    name: str
    features: int
    parameters: int
    macs: int
    shape: tuple[int, ...] = ()

    @property
    def megabytes(self) -> dict[str, float]:
        """Size of the weights by precision, in units of 10^6 bytes."""
        sizes = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
        return {precision: self.parameters * size / 1e6 for precision, size in sizes.items()}


@runtime_checkable
class Backbone(Protocol):
    """A network that can be cut and exported.

    Attributes
    ----------
    name : str
    weights : str
        Source of the weights: ``default``, ``random``, a file name, or ``given``.
    needs_images : bool
        Whether `to_onnx` sets batch-norm statistics from images.
    size : (height, width)
        Input size.
    channels : int
        Of the input images.
    mean, std : tuples of floats
        The normalisation it was trained with, one number for each channel. A backbone that takes BGR has an attribute
        `channel_order`, "BGR".
    """

    name: str
    weights: str
    needs_images: bool
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def cuts(self) -> list[Cut]:
        """Return the cut points in execution order."""
        ...

    def resolve(self, cut: str | None) -> str:
        """Return the full name of a cut, or of the default one.

        An unknown name raises UsageError; weights before the cut that do not fit or are not finite, AurevoirError.
        """
        ...

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the float graph up to a cut, from image (batch, channels, height, width) to feature map.

        `images` are normalised float32 of the input shape; only random weights need them.
        """
        ...

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return one float graph with an output for each of several cuts, in their order; see `to_onnx`."""
        ...


def unknown_cut(name: str, known: list[str], where: str) -> UsageError:
    """Return the error for an unknown cut, with the nearest known names."""
    if name == "auto":
        return UsageError("cut 'auto' is chosen on labelled images, by `aurevoir fit DATA --cut auto`; name a cut here")
    near = get_close_matches(name, known, n=3, cutoff=0.4) or known[-3:]
    return UsageError(f"cut {name!r} is not in {where}; nearest: {', '.join(near)} (`aurevoir cuts` lists all)")
