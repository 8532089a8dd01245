"""Small members of public model families, built from code, with random weights under which every layer counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....engine.backbones.base import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Network:
    """A member of a family.

    Attributes
    ----------
    family : str
    library : {"torchvision", "timm"}
    model : str
        As the library names it, or what is smaller than under that name.
    size : int
        Height and width of its images.
    make : callable
        Builds it without weights.
    attention : bool
        Whether it is a transformer.
    cut : str, optional
        Where the module is cut, if it has no default.
    """

    family: str
    library: str
    model: str
    size: int
    make: "Callable[[], nn.Module]"
    attention: bool = False
    cut: str | None = None

    @property
    def name(self) -> str:
        """Library and model."""
        return f"{self.library} {self.model}"


def _torchvision(family: str, model: str, size: int = 64, **options: Any) -> Network:
    def make() -> "nn.Module":
        import torchvision

        network: nn.Module = torchvision.models.get_model(model, weights=None, **options)
        return network

    return Network(family, "torchvision", model, size, make)


def _timm(
    family: str,
    model: str,
    size: int = 64,
    attention: bool = False,
    note: str = "",
    cut: str | None = None,
    **options: Any,
) -> Network:
    def make() -> "nn.Module":
        import timm

        network: nn.Module = timm.create_model(model, pretrained=False, **options)
        return network

    return Network(family, "timm", f"{model}{note}", size, make, attention, cut)


def _vgg() -> "nn.Module":
    """Return VGG11 with narrower linear layers: the published ones hold 124 of its 133 million weights."""
    from torch import nn
    from torchvision.models import VGG
    from torchvision.models.vgg import cfgs, make_layers

    network: nn.Module = VGG(make_layers(cfgs["A"]))
    layers = [nn.Linear(512 * 7 * 7, 128), nn.ReLU(True), nn.Dropout(), nn.Linear(128, 128), nn.ReLU(True)]
    network.classifier = nn.Sequential(*layers, nn.Dropout(), nn.Linear(128, 1000))
    return network


def _timm_vgg() -> "nn.Module":
    """Return timm's VGG11, as narrow behind its convolutions."""
    import timm
    from timm.models.vgg import ConvMlp
    from torch import nn

    network: nn.Module = timm.create_model("vgg11", pretrained=False, num_classes=0)
    network.pre_logits, network.get_submodule("head").fc = ConvMlp(512, 128, 7), nn.Linear(128, 1000)
    return network


def _convnext() -> "nn.Module":
    """Return torchvision's ConvNeXt in the widths and depths of timm's ``convnext_atto``."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(40, 80, 2), CNBlockConfig(80, 160, 2), CNBlockConfig(160, 320, 6)]
    network: nn.Module = ConvNeXt([*blocks, CNBlockConfig(320, None, 2)])
    return network


def _swin() -> "nn.Module":
    from torchvision.models import SwinTransformer

    network: nn.Module = SwinTransformer([4, 4], 48, [2, 2, 2, 2], [2, 4, 8, 16], [4, 4])
    return network


def _vit() -> "nn.Module":
    from torchvision.models import VisionTransformer

    network: nn.Module = VisionTransformer(64, 16, 6, 3, 192, 768)
    return network


_SMALL_SWIN: dict[str, Any] = {"embed_dim": 48, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16), "window_size": 4}

# VGG takes images as large as published: others need an average pooling that torch's TorchScript exporter has not.
NETWORKS = (
    _torchvision("ResNet", "resnet18"),
    _timm("ResNet", "resnet10t", zero_init_last=False),
    _torchvision("DenseNet", "densenet121"),
    _timm("DenseNet", "densenet121"),
    Network("VGG", "torchvision", "vgg11, narrow", 224, _vgg),
    Network("VGG", "timm", "vgg11, narrow", 224, _timm_vgg),
    _torchvision("Inception", "inception_v3", 96, init_weights=False),
    _timm("Inception", "inception_v3", 96),
    _torchvision("ShuffleNet", "shufflenet_v2_x0_5"),
    _torchvision("MobileNetV2", "mobilenet_v2"),
    _timm("MobileNetV2", "mobilenetv2_035"),
    _torchvision("MobileNetV3", "mobilenet_v3_small"),
    _timm("MobileNetV3", "mobilenetv3_small_050"),
    _torchvision("EfficientNet", "efficientnet_b0"),
    _timm("EfficientNet", "efficientnet_b0"),
    _torchvision("RegNet", "regnet_y_400mf"),
    _timm("RegNet", "regnety_002"),
    Network("ConvNeXt", "torchvision", "ConvNeXt, atto", 64, _convnext),
    _timm("ConvNeXt", "convnext_atto"),
    Network("Swin", "torchvision", "SwinTransformer, small", 64, _swin, attention=True),
    _timm("Swin", "swin_tiny_patch4_window7_224", 64, True, ", small", img_size=64, **_SMALL_SWIN),
    Network("ViT", "torchvision", "VisionTransformer, small", 64, _vit, attention=True, cut="encoder"),
    _timm("ViT", "vit_tiny_patch16_224", 64, True, ", 6 blocks", "norm", img_size=64, depth=6),
)
"""timm has no ShuffleNet."""

FAMILIES = tuple(dict.fromkeys(network.family for network in NETWORKS))


def random_module(network: Network, pixels: np.ndarray, seed: int = 0) -> "nn.Module":
    """Build a network with random weights, in inference mode.

    Published initial values hide layers: residual branches begin at 0, layer scales at 1e-6, and a head of zeros has
    the same output for all images. Here every parameter is drawn, and batch norms have the statistics of images. They
    shift by half a standard deviation: around 0, each ReLU would amplify rounding, as it does in no trained network.

    Parameters
    ----------
    network : Network
    pixels : uint8 array of shape (n, size, size, 3)
    seed : int
    """
    import torch
    from torch import nn

    from ....engine.backbones.torch_export import set_batch_norm_statistics

    module = network.make().eval()
    random = torch.Generator().manual_seed(seed)
    norms = [name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, values in module.named_parameters():
            layer, _, kind = name.rpartition(".")
            if kind.endswith("weight") and values.dim() > 1:
                values.normal_(0, (2 / values[0].numel()) ** 0.5, generator=random)
            elif kind.endswith("weight"):
                values.uniform_(0.5, 1.5, generator=random)
            elif kind.endswith("bias"):
                values.normal_(0.5 if layer in norms else 0, 0.1, generator=random)
            else:
                values.normal_(0, 0.3, generator=random)
    set_batch_norm_statistics(module, normalised(pixels))
    return module


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Return images as the networks take them: float32 of shape (n, 3, height, width)."""
    values = (pixels / np.float32(255) - np.array(IMAGENET_MEAN, "float32")) / np.array(IMAGENET_STD, "float32")
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype="float32")
