"""Networks that backprop can train: pixels in, class scores out, the head apart from the encoder before it."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...engine.backbone import open_backbone
from ...engine.backbones.base import IMAGENET_MEAN, IMAGENET_STD, BackboneLike
from ...engine.backbones.torch import TorchBackbone
from ...errors import UsageError

HEADS = ("pool", "flatten")
_AUXILIARY = ("AuxLogits", "aux1", "aux2")


class Network(nn.Module):
    """A classifier of uint8 images: normalisation, an encoder, and a head.

    Parameters
    ----------
    body : torch.nn.Module
        Normalised images (n, 3, height, width) to scores (n, classes).
    head : str
        Path of the submodule of `body` that is new; everything else is the encoder.
    mean, std : sequences of 3 floats
        Of the channels, for pixels scaled to [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        body: nn.Module,
        head: str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.body = body
        self._head = head
        self.memory_format = torch.channels_last
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).reshape(1, 3, 1, 1))

    @property
    def head(self) -> nn.Module:
        """The part that is new."""
        return self.body.get_submodule(self._head)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the head, in the network's order."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [parameter for parameter in self.body.parameters() if id(parameter) not in head]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of uint8 images of shape (n, height, width, 3)."""
        pixels = images.permute(0, 3, 1, 2).float().contiguous(memory_format=self.memory_format)
        scores: torch.Tensor = self.body((pixels - self.mean) / self.std)
        return scores


def truncated_with_head(
    backbone: BackboneLike,
    classes: int,
    cut: str | None = None,
    *,
    head: str = "pool",
    weights: str | Path = "default",
    size: int | None = None,
    seed: int = 0,
) -> Network:
    """Cut a backbone as the engines do, and put a linear head behind it.

    Parameters
    ----------
    backbone, cut, weights, size
        As in `open_backbone` and `Backbone.resolve`.
    classes : int
    head : {"pool", "flatten"}
        Global average pooling before the linear layer, or every value of the feature map.
    seed : int
        Of the head, and of random weights.

    Raises
    ------
    UsageError
        If the backbone is an ONNX file, the head is not known, or the cut has no feature map to pool.
    """
    if head not in HEADS:
        raise UsageError(f"head {head!r} is not known; choose one of {', '.join(HEADS)}")
    opened = open_backbone(backbone, weights, size, seed)
    if not isinstance(opened, TorchBackbone):
        raise UsageError(f"{opened.name} cannot be trained; give a torchvision name or a torch.nn.Module")
    encoder = opened.truncated(cut)
    with torch.inference_mode():
        shape = encoder(torch.zeros(1, 3, *opened.size)).shape[1:]
    if head == "pool" and len(shape) != 3:
        raise UsageError(f"features of shape {tuple(shape)} cannot be pooled; cut earlier or take head 'flatten'")
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if head == "pool" else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(shape[0] if head == "pool" else shape.numel(), classes)
    parts = OrderedDict(encoder=encoder, head=nn.Sequential(*pool, nn.Flatten(), linear))
    return Network(nn.Sequential(parts), "head", opened.mean, opened.std)


def with_new_head(
    model: nn.Module,
    classes: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
) -> Network:
    """Replace the last layer of a whole classifier, linear or convolution, by one of `classes` outputs.

    Auxiliary classifiers, which Inception and GoogLeNet have, are left out. The model given is not changed.

    Raises
    ------
    UsageError
        If the model has neither a linear layer nor a convolution.
    """
    model = copy.deepcopy(model)
    for name in _AUXILIARY:
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear layer or convolution to replace; give a classifier")
    path, last = layers[-1]
    parent, _, name = path.rpartition(".")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        setattr(model.get_submodule(parent), name, _like(last, classes))
    return Network(model, path, mean, std)


def _like(layer: nn.Linear | nn.Conv2d, classes: int) -> nn.Module:
    bias, device = layer.bias is not None, layer.weight.device
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, classes, bias, device=device)
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    return nn.Conv2d(layer.in_channels, classes, size, stride, padding, bias=bias, device=device)  # type: ignore[arg-type]


def reinitialise(network: Network, seed: int) -> None:
    """Draw every weight anew, in place: convolutions as He et al. (2015), the rest as torch does.

    Raises
    ------
    UsageError
        If a layer does not say how its parameters are drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
            elif any(True for _ in layer.parameters(recurse=False)):
                raise UsageError(
                    f"{path} ({type(layer).__name__}) has no reset_parameters to start from scratch with; "
                    "give a network of random weights and a strategy with pretrained=True"
                )
