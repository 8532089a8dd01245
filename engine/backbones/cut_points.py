"""Run a torch module once, record every call of its submodules, and list those to cut after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import UsageError

_CHAINS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Call:
    """One call of a submodule.

    Attributes
    ----------
    name : str
        Path of the submodule; from its second call on with ``_1``, ``_2`` and so on behind it.
    path : str
    index : int
        How many times the submodule had been called before.
    shape : tuple of int, or None
        Of the output for one image, without the batch; None if that is not a tensor of features.
    features : int
    parameters, macs : int
        Of the modules run so far.
    """

    name: str
    path: str
    index: int
    shape: tuple[int, ...] | None
    features: int
    parameters: int
    macs: int

    @property
    def is_map(self) -> bool:
        """Whether the output has more than one place a channel."""
        return self.shape is not None and len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1


@dataclass(frozen=True)
class Recording:
    """The calls of one run, in the order in which they ended, and which tensors each had used."""

    calls: list[Call]
    first_use: dict[str, int]

    def find(self, name: str) -> Call | None:
        """Return the call of this name, if its output can be cut at."""
        return next((call for call in self.calls if call.name == name and call.shape is not None), None)

    def used_before(self, call: Call) -> set[str]:
        """Return the names of the parameters and buffers that were used by the end of a call."""
        end = self.calls.index(call)
        return {name for name, first in self.first_use.items() if first <= end}

    def ended_before(self, call: Call, path: str) -> bool:
        """Return whether a submodule, or all that it contains, had ended by the end of a call."""
        own = [index for index, each in enumerate(self.calls) if each.path == path]
        inner = [index for index, each in enumerate(self.calls) if each.path.startswith(f"{path}.")]
        return bool(own or inner) and max(own or inner) <= self.calls.index(call)


def features_of(layer: nn.Module, inputs: Sequence[Any], output: Any) -> Any:
    """Return what the next layer reads: behind a layer of a dense block, the concatenation of all outputs so far."""
    gathers = type(layer).__name__ in ("_DenseLayer", "DenseLayer") and inputs and isinstance(inputs[0], list)
    return torch.cat([*inputs[0], output], 1) if gathers else output


def record(network: nn.Module, name: str, channels: int, size: tuple[int, int]) -> Recording:
    """Run one black image through a network, which is in evaluation mode, and record its calls.

    Raises
    ------
    UsageError
        If it does not run on one image of this size.
    """
    recorder = _Recorder(network)
    tensors = [*network.parameters(), *network.buffers()]
    image = torch.zeros(1, channels, *size, device=tensors[0].device if tensors else "cpu")
    hooks = [layer.register_forward_hook(partial(recorder.note, path)) for path, layer in network.named_modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), recorder:
            network(image)
    except Exception as error:  # whatever a module's own code raises
        raise UsageError(
            f"{name} does not run on one image of shape {tuple(image.shape)}: {first_line(error)}; give a size that it "
            "takes, or a module whose forward needs one batch of images only"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    return Recording(recorder.calls, recorder.first_use)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return str(error).strip().partition("\n")[0].rstrip(".;: ") or type(error).__name__


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes calls, through hooks, and the parameters and buffers that operators read."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.first_use: dict[str, int] = {}
        self._parameters: dict[int, int] = {}
        self._macs = 0
        self._counts: dict[str, int] = {}
        self._paths = {path for path, _ in network.named_modules()}
        self._names: dict[int, list[str]] = {}
        for named in (network.named_parameters, network.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                self._names.setdefault(id(tensor), []).append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            for name in self._names.get(id(value), []):
                self.first_use.setdefault(name, len(self.calls))
        return func(*args, **(kwargs or {}))

    def note(self, path: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._parameters[id(layer)] = sum(p.numel() for p in layer.parameters(recurse=False))
        if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(output, torch.Tensor):
            self._macs += output[0].numel() * layer.weight[0].numel()
        output = features_of(layer, inputs, output)
        usable = isinstance(output, torch.Tensor) and output.dim() > 1 and output.is_floating_point()
        shape = tuple(output.shape[1:]) if usable else None
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        features = output[0].numel() if usable else 0
        call = Call(self._name(path, index), path, index, shape, features, sum(self._parameters.values()), self._macs)
        self.calls.append(call)

    def _name(self, path: str, index: int) -> str:
        name = f"{path}_{index}" if index else path
        while index and name in self._paths:  # another module's name
            name += "_"
        return name


def listed(network: nn.Module, recording: Recording) -> list[Call]:
    """Return the calls to offer as cuts.

    They are those of the network's children, and of what is in sequences, in dense blocks, in modules that return
    no tensor, and in whole networks with a head.
    """
    paths = set(_offered(network, recording.calls))
    return [call for call in recording.calls if call.path in paths and call.shape is not None]


def _offered(module: nn.Module, calls: Sequence[Call], prefix: str = "") -> Iterator[str]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        inner = [call for call in calls if call.path.startswith(f"{path}.") and call.shape is not None]
        shapes = [call.shape for call in calls if call.path == path and call.shape is not None]
        whole = shapes and len(shapes[-1]) == 1 and any(call.is_map for call in inner)
        if isinstance(child, _CHAINS) or (inner and (whole or not shapes)):
            yield from _offered(child, inner, f"{path}.")
        yield path
