"""Load weights for torchvision models: pretrained, or from a file."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import AurevoirError, UsageError

if TYPE_CHECKING:
    from torch import nn

_WANTED = "give a state dict: a .safetensors file, or a .pth file of torch.save(model.state_dict(), path)"


def pretrained(name: str) -> "nn.Module":
    """Return a torchvision model with its pretrained weights, downloaded if not cached.

    Raises
    ------
    AurevoirError
        If they cannot be downloaded.
    """
    from torchvision.models import get_model

    try:
        # torch.hub prints the address that it downloads from on stdout.
        with redirect_stdout(sys.stderr):
            module: nn.Module = get_model(name, weights="DEFAULT")
    except Exception as error:  # urllib, socket, hash and file errors share no base class
        raise AurevoirError(
            f"the pretrained weights of {name} could not be fetched ({type(error).__name__}: {error}); "
            "give a .pth or .safetensors file, or 'random', as weights"
        ) from None
    return module


def load_weights(module: "nn.Module", path: Path, name: str) -> None:
    """Load the weights of a network called `name` from a ``.pth`` or ``.safetensors`` file, without running code in it.

    Raises
    ------
    UsageError
        If the file does not exist or is an ONNX file.
    AurevoirError
        If it cannot be read, or its tensors do not match the network.
    """
    if path.suffix == ".onnx":
        raise UsageError(
            f"weights {str(path)!r} is an ONNX file, which is a network with its weights: give it as the backbone "
            f"instead of {name}, or {_WANTED}"
        )
    if not path.is_file():
        raise UsageError(f"weights {str(path)!r} is neither 'default', 'random' nor an existing file; check the path")
    state = _read(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    _check_keys(module, state, path, name)
    module.load_state_dict(state)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling, zip and safetensors errors share no base class
        # torch's message suggests unsafe loading, which would run code in the file.
        reason = f" ({error})" if path.suffix == ".safetensors" else ""
        raise AurevoirError(f"{path} does not hold weights that can be read safely{reason}; {_WANTED}") from None


def _check_keys(module: "nn.Module", state: object, path: Path, name: str) -> None:
    own = module.state_dict()
    found = state if isinstance(state, dict) else {}
    wrong = [key for key in own if key not in found or tuple(own[key].shape) != tuple(np.shape(found[key]))]
    extra = [key for key in found if key not in own]
    if wrong or extra:
        raise AurevoirError(
            f"{path} does not hold the weights of {name}: {len(wrong)} of its {len(own)} tensors are missing or of "
            f"another shape, {len(extra)} are unknown (first: {(wrong + extra)[0]}); give the network they belong to"
        )
