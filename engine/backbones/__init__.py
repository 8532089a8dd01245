"""Which network, with which weights."""

from pathlib import Path
from typing import cast

from ...errors import UsageError
from .base import Backbone, BackboneLike
from .onnx import OnnxBackbone


def open_backbone(
    backbone: BackboneLike, weights: str | Path = "default", size: int | None = None, seed: int = 0
) -> Backbone:
    """Open a backbone.

    Parameters
    ----------
    backbone : str, path, torch.nn.Module or Backbone
        A torchvision name, an ONNX file (it ends in ``.onnx``), or a module, which is used with the
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
        if str(backbone).endswith(".onnx"):
            if str(weights) != "default":
                raise UsageError(f"weights {str(weights)!r} cannot be put into {backbone}: it holds its own")
            return OnnxBackbone(Path(backbone), size)
        from .torch import TorchBackbone

        return TorchBackbone.named(str(backbone), str(weights), size, seed)
    if hasattr(backbone, "to_onnx"):
        return cast(Backbone, backbone)
    from .torch import TorchBackbone

    return TorchBackbone.given(backbone, size)


def structure(backbone: BackboneLike, size: int | None = None) -> Backbone:
    """Open a backbone for its cuts alone: weights are neither fetched nor drawn."""
    if isinstance(backbone, str | Path) and not str(backbone).endswith(".onnx"):
        from .torch import TorchBackbone

        return TorchBackbone.structure(str(backbone), size)
    return open_backbone(backbone, size=size)
