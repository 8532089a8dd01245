"""Open backbones: torchvision's and timm's networks, EfficientNet-Lite, torch modules and ONNX files."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .backbones.base import TIMM, Backbone, BackboneLike
from .backbones.onnx import OnnxBackbone

if TYPE_CHECKING:
    from .backbones.torch import TorchBackbone


def open_backbone(
    backbone: BackboneLike, weights: str | Path = "default", size: int | None = None, seed: int = 0
) -> Backbone:
    """Open a backbone.

    Parameters
    ----------
    backbone : str, path, torch.nn.Module or Backbone
        A torchvision name, ``efficientnet_lite0`` (or 1, 2), ``timm:NAME``, an ONNX file, or a module, which is copied
        with its weights.
    weights : {"default", "random"} or path
        The pretrained weights of the name, seeded random ones, or a file as training frameworks write them, of
        which only what lies before the cut must match. ONNX files contain their own.
    size : int, optional
        Input height and width; by default those of the backbone's training.
    seed : int
        Seed for random weights.

    Raises
    ------
    UsageError
        If the name is unknown, a file does not exist, or weights are given for an ONNX file.
    AurevoirError
        If a file cannot be read safely or holds none of the network's weights.
    """
    if isinstance(backbone, str | Path):
        if not is_file(backbone):
            return _torch().from_name(str(backbone), str(weights), size, seed)
        if str(weights) != "default":
            raise UsageError(
                f"weights {str(weights)!r} cannot be loaded into {backbone}, which holds its own; omit them"
            )
        return OnnxBackbone(Path(backbone), size)
    if isinstance(backbone, Backbone):
        if size not in (None, *backbone.size) or str(weights) != "default":
            raise UsageError("a backbone that is open has its size and weights already; leave them out")
        return backbone
    return _torch().from_module(backbone, size, str(weights))


def structure(backbone: BackboneLike, size: int | None = None) -> Backbone:
    """Open a backbone only to list its cuts; no weights are downloaded or generated."""
    if isinstance(backbone, str | Path) and not is_file(backbone):
        return _torch().structure(str(backbone), size)
    return open_backbone(backbone, size=size)


def is_file(backbone: str | Path) -> bool:
    """Return whether a backbone is an ONNX file rather than timm's name or another, which is an identifier.

    Raises
    ------
    UsageError
        If it is neither a name nor an existing file, or a file of weights alone.
    """
    name = str(backbone)
    if name.startswith(TIMM):
        return False
    if name.isidentifier() or name.endswith(".onnx"):
        return not name.isidentifier()
    if not Path(name).is_file():
        raise UsageError(f"backbone {name!r} is neither a torchvision name nor an existing file; check the path")
    if name.endswith((".pth", ".pt", ".ckpt", ".safetensors", ".bin")):
        raise UsageError(
            f"backbone {name!r} holds weights, not a network; name the network, and give the file as weights"
        )
    return True


def _torch() -> "type[TorchBackbone]":
    from .backbones.torch import TorchBackbone

    return TorchBackbone
