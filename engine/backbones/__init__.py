"""Which network, with which weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from .base import Backbone, BackboneLike
from .onnx import OnnxBackbone

if TYPE_CHECKING:
    from .torch import TorchBackbone


def open_backbone(
    backbone: BackboneLike, weights: str | Path = "default", size: int | None = None, seed: int = 0
) -> Backbone:
    """Open a backbone.

    Parameters
    ----------
    backbone : str, path, torch.nn.Module or Backbone
        A torchvision name, an ONNX file, or a module, which is used with the
        weights it has.
    weights : {"default", "random"} or path
        torchvision's pretrained weights, seeded random ones, or a ``.pth`` or ``.safetensors`` file.
        ONNX files hold their own.
    size : int, optional
        Height and width of the input; None stands for what the backbone was trained with.
    seed : int
        Of random weights.

    Raises
    ------
    UsageError
        If the name is not known, a file does not exist, or weights are given to an ONNX file.
    """
    if isinstance(backbone, str | Path):
        if not _is_file(backbone):
            return _torch().named(str(backbone), str(weights), size, seed)
        if str(weights) != "default":
            raise UsageError(f"weights {str(weights)!r} cannot be put into {backbone}: it holds its own")
        return OnnxBackbone(Path(backbone), size)
    return backbone if isinstance(backbone, Backbone) else _torch().given(backbone, size)


def structure(backbone: BackboneLike, size: int | None = None) -> Backbone:
    """Open a backbone for its cuts alone: weights are neither fetched nor drawn."""
    if isinstance(backbone, str | Path) and not _is_file(backbone):
        return _torch().structure(str(backbone), size)
    return open_backbone(backbone, size=size)


def _is_file(backbone: str | Path) -> bool:
    """Return whether a backbone is an ONNX file and no name of torchvision's, which are identifiers.

    Raises
    ------
    UsageError
        If it is no such name, and no such file exists.
    """
    name = str(backbone)
    if name.isidentifier() or name.endswith(".onnx"):
        return not name.isidentifier()
    if not Path(name).is_file():
        raise UsageError(f"backbone {name!r} is neither a torchvision name nor an existing file; check the path")
    return True


def _torch() -> "type[TorchBackbone]":
    from .torch import TorchBackbone

    return TorchBackbone
