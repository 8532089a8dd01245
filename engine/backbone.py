"""Backbones: which network, with which weights, cut where."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union, cast

import numpy as np
import onnx

from ..calibration.graph import initializers, prune
from ..errors import UsageError
from .export import image_input, prepare, read_onnx, tensor_shapes

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
DEFAULT_SIZE = 224

BackboneLike = Union[str, Path, "torch.nn.Module", "Backbone"]


@dataclass(frozen=True)
class Cut:
    """A place where a backbone can end.

    Attributes
    ----------
    name : str
        As the network names its own children, or a tensor of an ONNX file.
    features : int
        m, the number of features of one image there.
    parameters, macs : int
        Of what lies before the cut; multiply-accumulates of convolutions and linear layers, for
        one image.
    """

    name: str
    features: int
    parameters: int
    macs: int

    @property
    def megabytes(self) -> dict[str, float]:
        """Size of the weights by precision, in units of 10^6 bytes."""
        sizes = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
        return {precision: self.parameters * size / 1e6 for precision, size in sizes.items()}


class Backbone(Protocol):
    """A network that can be cut and exported.

    Attributes
    ----------
    name : str
    weights : str
        What the weights are: ``default``, ``random``, a file's name, or ``given``.
    needs_images : bool
        Whether `to_onnx` sets batch-norm statistics from images.
    size : (height, width)
        Of the images that it takes.
    mean, std : tuples of 3 floats
        The normalisation it was trained with.
    """

    name: str
    weights: str
    needs_images: bool
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def cuts(self) -> list[Cut]:
        """Return the cut points in the order of execution."""
        ...

    def resolve(self, cut: str | None) -> str:
        """Return the full name of a cut, or of the default one; an unknown name is a UsageError."""
        ...

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the float graph up to a cut: image (batch, 3, height, width) to feature map.

        `images` are normalised float32 of the input's shape; only random weights need them.
        """
        ...

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return one float graph with an output for each of several cuts, in their order; see `to_onnx`."""
        ...


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
        from .zoo import TorchBackbone

        return TorchBackbone.named(str(backbone), str(weights), size, seed)
    if hasattr(backbone, "to_onnx"):
        return cast(Backbone, backbone)
    from .zoo import TorchBackbone

    return TorchBackbone.given(backbone, size)


def structure(backbone: BackboneLike, size: int | None = None) -> Backbone:
    """Open a backbone for its cuts alone: weights are neither fetched nor drawn."""
    if isinstance(backbone, str | Path) and not str(backbone).endswith(".onnx"):
        from .zoo import TorchBackbone

        return TorchBackbone.structure(str(backbone), size)
    return open_backbone(backbone, size=size)


def unknown_cut(name: str, known: list[str], where: str) -> UsageError:
    """Return the error for a cut that a backbone does not have, with the nearest names it has."""
    near = get_close_matches(name, known, n=3, cutoff=0.4) or known[-3:]
    return UsageError(f"cut {name!r} is not in {where}; nearest: {', '.join(near)} (`aurevoir cuts` lists all)")


class OnnxBackbone:
    """A backbone from an ONNX file; it is cut at tensors."""

    needs_images = False
    weights = "given"

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.name = path.name
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self._model = read_onnx(path)
        _, height, width = image_input(self._model)
        if size is not None and (height or size, width or size) != (size, size):
            raise UsageError(f"input size {size} does not fit {path.name}, which takes {height} x {width} images")
        self.size = (height or size or DEFAULT_SIZE, width or size or DEFAULT_SIZE)

    def cuts(self) -> list[Cut]:
        """Return the tensors through which everything passes: those that alone lead to the output."""
        constants = initializers(self._model)
        shapes = self._shapes() | {name: list(tensor.dims) for name, tensor in constants.items()}
        sizes = {name: int(np.prod(tensor.dims)) for name, tensor in constants.items()}
        found, parameters, macs = [], 0, 0
        for node, alone in _with_bottlenecks(self._model, set(constants)):
            # Constants that several nodes share are counted where they are first met.
            parameters += sum(sizes.pop(name, 0) for name in node.input)
            macs += _macs(node, shapes)
            shape = shapes.get(node.output[0], [])[1:]
            if alone and shape and None not in shape:
                found.append(Cut(node.output[0], int(np.prod([d or 0 for d in shape])), parameters, macs))
        return found

    def _shapes(self) -> dict[str, list[int | None]]:
        sized = prepare(self._model)
        dims = sized.graph.input[0].type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = self.size
        return tensor_shapes(sized)

    def resolve(self, cut: str | None) -> str:
        """Return the tensor's name; None stands for the graph's own output."""
        if cut is None:
            return self._model.graph.output[0].name
        tensors = [name for node in self._model.graph.node for name in node.output]
        if cut not in tensors:
            raise unknown_cut(cut, [item.name for item in self.cuts()], self.name)
        return cut

    def to_onnx(self, cut: str | None, images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the part of the graph that computes the tensor `cut`; see `Backbone`."""
        return prune(self._model, [self.resolve(cut)])

    def to_onnx_at(self, cuts: Sequence[str], images: np.ndarray | None = None) -> onnx.ModelProto:
        """Return the part of the graph that computes the tensors `cuts`; see `Backbone`."""
        return prune(self._model, [self.resolve(cut) for cut in cuts])


def _with_bottlenecks(model: onnx.ModelProto, constants: set[str]) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Yield each node, and whether after it one tensor alone is still to be read."""
    left: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            left[name] = left.get(name, 0) + 1
    alive = {model.graph.input[0].name}
    for node in model.graph.node:
        for name in node.input:
            left[name] -= 1
            if left[name] == 0:
                alive.discard(name)
        alive.update(name for name in node.output if left.get(name))
        yield node, alive - constants == {node.output[0]}


def _macs(node: Any, shapes: dict[str, list[int | None]]) -> int:
    output, weights = (
        shapes.get(node.output[0], []),
        shapes.get(node.input[1], []) if len(node.input) > 1 else [],
    )
    if node.op_type not in ("Conv", "Gemm", "MatMul") or None in [*output[1:], *weights]:
        return 0
    values = np.prod([d or 0 for d in output[1:]])
    inner = np.prod([d or 0 for d in weights[1:]]) if node.op_type == "Conv" else (weights[0] or 0)
    return int(values * inner)
