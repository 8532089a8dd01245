"""Take a torch module as its owner has it, and leave it so: a float copy on the CPU in evaluation mode."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ...errors import UsageError
from .cut_points import first_line

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.quantizable")
_OTHERWISE = "export it to ONNX and give that file"


def own_copy(module: object) -> nn.Module:
    """Return a copy of a module, out of DataParallel, torch.compile and averaging, and leave the module as it is.

    Raises
    ------
    UsageError
        If it is no module, or one that cannot be copied, cut or exported.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"backbone {module!r} is neither a name, a path nor a torch.nn.Module")
    module = _unwrapped(module)
    name, layers = type(module).__name__, list(module.modules())
    _check(module, name)
    # Tensors with a history, as weight_norm leaves them, cannot be copied as they are.
    tensors = [value for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
    try:
        for layer in layers:
            if (inner := _unwrapped(layer)) is not layer:
                memo[id(layer)] = copy.deepcopy(inner, memo)
        return copy.deepcopy(module, memo).cpu().float().eval()
    except Exception as error:  # whatever a module's attributes raise
        raise UsageError(f"backbone {name} cannot be copied: {first_line(error)}; {_OTHERWISE}") from None


def _check(module: nn.Module, name: str) -> None:
    """Refuse what cannot be cut or exported."""
    layers = list(module.modules())
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in layers):
        raise UsageError(
            f"backbone {name} is TorchScript, which cannot be cut; give the module it was made from, or {_OTHERWISE}"
        )
    if any(type(layer).__module__.startswith(_QUANTIZED) for layer in layers):
        raise UsageError(
            f"backbone {name} is quantized already; give the float module, which precision 'int8' quantizes"
        )
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for tensor_name, tensor in tensors:
        if is_lazy(tensor):
            raise UsageError(f"backbone {name} has no {tensor_name} yet: it is lazy; run it on one image first")
        if tensor.is_meta:
            raise UsageError(
                f"backbone {name} has no values in {tensor_name}: it is on the meta device; load its weights"
            )


def _unwrapped(module: nn.Module) -> nn.Module:
    while isinstance(module, _WRAPPERS) or type(module).__name__ == "OptimizedModule":
        module = module._modules["_orig_mod" if "_orig_mod" in module._modules else "module"]  # type: ignore[assignment]
    return module


def input_channels(module: nn.Module) -> int:
    """Return the input channels of a module's first convolution, or 3 if it has none."""
    convolutions = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return next((layer.in_channels for layer in convolutions), 3)


def broken_tensors(module: nn.Module) -> list[str]:
    """Return the names of parameters and batch-norm statistics that are not finite, and of buffers that hold nan."""
    broken = [name for name, tensor in module.named_parameters() if not torch.isfinite(tensor).all()]
    for name, tensor in module.named_buffers():
        statistic = name.endswith(("running_mean", "running_var"))
        if not (torch.isfinite(tensor) if statistic else ~torch.isnan(tensor)).all():
            broken.append(name)
    return broken
