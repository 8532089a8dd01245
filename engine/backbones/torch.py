"""torchvision models and torch modules as backbones."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...errors import AurevoirError, MissingPackageError, UsageError
from ..normal_form import prepare
from .base import DEFAULT_SIZE, IMAGENET_MEAN, IMAGENET_STD, Cut, unknown_cut
from .weights import load_weights, pretrained

try:
    import torch
    import torchvision
    from torch import nn
    from torchvision.models.feature_extraction import create_feature_extractor
except ImportError as error:
    raise MissingPackageError(
        f"torchvision backbones need torch ({error}); give an ONNX file, or install both with: "
        "pip install 'aurevoir[torch]'"
    ) from None

# The cut of the blog post's model; by default, other networks are cut at their last feature map.
_DEFAULT_CUTS = {"densenet169": "denseblock4.denselayer12"}
_EXPORT_OPSET = 18


class TorchBackbone:
    """A torch module as a backbone; see `Backbone` for the attributes."""

    def __init__(self, module: "nn.Module", name: str, weights: str, size: int, seed: int = 0) -> None:
        self.name, self.weights, self.seed = name, weights, seed
        self.size = (size, size)
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.needs_images = weights == "random"
        self._module = module.eval()
        self._cuts: list[Cut] | None = None

    @classmethod
    def from_name(cls, name: str, weights: str, size: int | None, seed: int) -> "TorchBackbone":
        """Open a torchvision model by name, with ``default``, ``random`` or a file's weights."""
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            near = ", ".join(get_close_matches(name, known, n=3, cutoff=0.3)) or "densenet169"
            raise UsageError(f"backbone {name!r} is not a torchvision model nor an ONNX file; nearest: {near}")
        enum = torchvision.models.get_model_weights(name)
        native = getattr(enum.DEFAULT.transforms(), "crop_size", [DEFAULT_SIZE])[0] if len(enum) else DEFAULT_SIZE
        if weights == "default":
            return cls(pretrained(name), name, weights, size or native, seed)
        module = _random(name, seed)
        if weights != "random":
            load_weights(module, Path(weights), name)
        return cls(module, name, Path(weights).name, size or native, seed)

    @classmethod
    def structure(cls, name: str, size: int | None = None) -> "TorchBackbone":
        """Open a network without weights, only to list its cuts."""
        try:
            with torch.device("meta"):
                return cls.from_name(name, "random", size, 0)
        except NotImplementedError:  # some networks compute values during construction
            return cls.from_name(name, "random", size, 0)

    @classmethod
    def from_module(cls, module: object, size: int | None) -> "TorchBackbone":
        """Wrap a module with its own weights."""
        if not isinstance(module, nn.Module):
            raise UsageError(f"backbone {module!r} is neither a name, a path nor a torch.nn.Module")
        return cls(copy.deepcopy(module).cpu().float(), type(module).__name__, "given", size or DEFAULT_SIZE)

    def cuts(self) -> list[Cut]:
        """Return the children of the network and of its sequences and dense blocks, in execution order."""
        if self._cuts is None:
            events = _trace(self._module, self.size)
            self._cuts = [Cut(_short(e.path), e.features, e.parameters, e.macs) for e in events]
        return self._cuts

    def resolve(self, cut: str | None) -> str:
        """Return the full module path of a cut; the prefix ``features.`` may be omitted."""
        if cut is None:
            cut = _DEFAULT_CUTS.get(self.name) or self._last_feature_map()
        paths = {path for path, _ in self._module.named_modules()}
        for path in (cut, f"features.{cut}"):
            if path and path in paths:
                return path
        raise unknown_cut(cut, [item.name for item in self.cuts()], self.name)

    def _last_feature_map(self) -> str:
        events = list(_trace(self._module, self.size))
        maps = [event for event in events if event.output.dim() == 4 and event.output[0, 0].numel() > 1]
        maps = [event for event in maps if event.path.startswith("features.")] or maps
        if not maps or 2 * maps[-1].macs < events[-1].macs:
            raise UsageError(f"{self.name} has no late feature map to cut at by default; name a cut (`aurevoir cuts`)")
        return maps[-1].path

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Truncate and export; see `Backbone`."""
        return self._exported(_truncate(self._module, self.resolve(cut)), images, ("features",))

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Truncate after the last of several cuts and export; see `Backbone`."""
        names = [f"features_{index}" for index in range(len(cuts))]
        module = copy.deepcopy(self._module)
        nodes = {_node(module, self.resolve(cut)): name for cut, name in zip(cuts, names, strict=True)}
        return self._exported(_Truncated(_extract(module, nodes), names), images, names)

    def _exported(self, truncated: "nn.Module", images: np.ndarray | None, names: Sequence[str]) -> onnx.ModelProto:
        if self.needs_images:
            if images is None or len(images) == 0:
                raise UsageError(
                    "random weights need images to compute batch-norm statistics; give a folder as calibration"
                )
            set_batch_norm_statistics(truncated, images)
        return prepare(_export(truncated, self.size, names))


def _random(name: str, seed: int) -> "nn.Module":
    """Return a torchvision model with random weights, without changing torch's random state."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        module: nn.Module = torchvision.models.get_model(name, weights=None)
    return module


def _dense_block(module: "nn.Module", path: str) -> "nn.Module | None":
    """Return the dense block that contains the layer of this path, if any."""
    parent = module.get_submodule(path.rpartition(".")[0])
    return parent if isinstance(parent, torchvision.models.densenet._DenseBlock) else None


def _truncate(module: "nn.Module", path: str) -> "nn.Module":
    """Return a copy of a module truncated after a submodule.

    The output of a dense layer is the concatenation that the next layer of its block would read.
    """
    module = copy.deepcopy(module)
    block = _dense_block(module, path)
    if block is not None:
        names = list(block._modules)
        path, last = path.rpartition(".")[0], path.rpartition(".")[2]
        for name in names[names.index(last) + 1 :]:
            del block._modules[name]
    return _Truncated(_extract(module, {path: "features"}), ["features"])


def _node(module: "nn.Module", path: str) -> str:
    """Return the graph node with the same output as `_truncate`."""
    block = _dense_block(module, path)
    if block is None:
        return path
    names, (parent, _, name) = list(block._modules), path.rpartition(".")
    after = names[names.index(name) + 1 :]
    # The next layer, or after the last layer the block, begins by concatenating the outputs so far.
    return f"{parent}.{after[0]}.cat" if after else parent


def _extract(module: "nn.Module", nodes: dict[str, str]) -> "nn.Module":
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extractor: nn.Module = create_feature_extractor(module, nodes)
    except Exception as error:  # torch.fx raises errors of many types on code it cannot trace
        reason = str(error).strip().partition("\n")[0]
        raise AurevoirError(
            f"torch.fx cannot trace {type(module).__name__} to {', '.join(nodes)!r}: {reason}; export the truncated "
            "network to ONNX yourself and give that file as the backbone"
        ) from None
    return extractor


class _Truncated(nn.Module):
    """Returns the named tensors as a tuple, or a single one as itself."""

    def __init__(self, extractor: "nn.Module", names: Sequence[str]) -> None:
        super().__init__()
        self.extractor, self.names = extractor.eval(), list(names)

    def forward(self, image: "torch.Tensor") -> Any:
        found = self.extractor(image)
        return found[self.names[0]] if len(self.names) == 1 else tuple(found[name] for name in self.names)


def set_batch_norm_statistics(module: "nn.Module", images: np.ndarray, batch_size: int = 16) -> None:
    """Set the running statistics of every batch norm to their averages over images, in place.

    Parameters
    ----------
    module : torch.nn.Module
    images : float32 array of shape (n, 3, height, width)
        Normalised.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            module(torch.from_numpy(images[start : start + batch_size]))
    module.eval()


def _export(module: "nn.Module", size: tuple[int, int], names: Sequence[str]) -> onnx.ModelProto:
    sample = torch.zeros(2, 3, *size)
    with _quiet():
        program = torch.onnx.export(
            module,
            (sample,),
            dynamo=True,
            input_names=["image"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_EXPORT_OPSET,
            verbose=False,
        )
    if program is None:
        raise AurevoirError("torch.onnx.export returned no program; give an ONNX file as the backbone")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _chain_paths(module: "nn.Module", prefix: str = "") -> Iterator[str]:
    """Yield the paths of a network's children, and of those of its sequences and dense blocks."""
    chains = (nn.Sequential, torchvision.models.densenet._DenseBlock)
    for name, child in module.named_children():
        if isinstance(child, chains):
            yield from _chain_paths(child, f"{prefix}{name}.")
        yield f"{prefix}{name}"


@dataclass(frozen=True)
class _CutPoint:
    """A cut point: its output, and the parameters and multiply-accumulates so far."""

    path: str
    output: "torch.Tensor"
    features: int
    parameters: int
    macs: int


def _trace(module: "nn.Module", size: tuple[int, int]) -> list[_CutPoint]:
    """Run one image through the network on the meta device and record each cut point."""
    network = copy.deepcopy(module).to("meta").eval()
    wanted, passed = set(_chain_paths(network)), []
    parameters, macs = {}, [0]

    def note(path: str, layer: "nn.Module", inputs: Any, output: Any) -> None:
        parameters[id(layer)] = sum(p.numel() for p in layer.parameters(recurse=False))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            macs[0] += output[0].numel() * layer.weight[0].numel()
        if path in wanted and isinstance(output, torch.Tensor):
            gathered = inputs[0] if _dense_block(network, path) is not None else []
            features = sum(tensor[0].numel() for tensor in [*gathered, output])
            passed.append(_CutPoint(path, output, features, sum(parameters.values()), macs[0]))

    for path, layer in network.named_modules():
        layer.register_forward_hook(partial(note, path))
    with torch.inference_mode():
        network(torch.zeros(1, 3, *size, device="meta"))
    return passed


def _short(path: str) -> str:
    """Strip the prefix ``features.`` unless a number follows it."""
    rest = path.removeprefix("features.")
    return path if rest[:1].isdigit() else rest
