"""Let signed activations use more of their levels, at no node more.

TensorRT takes int8 with zero-point 0 only, of which the outputs of a ReLU use 0 to 127. Two changes of the float graph
use more. Its outputs stay what they are: the constants of the products around an activation take the changes up.

- Less a constant, an activation uses -128 to 127. The bias before it and its bounds take the constant off, and the next
  bias adds it back, times the sums of the next weights. Where a convolution pads, zeros would stand for the constant;
  its inputs are not shifted.
- A depthwise convolution has a scale for the weights of each channel, so that its input may have one too: its narrow
  channels are widened by the product before it, and narrowed again by its own weights (cross-layer equalization, Nagel
  et al. 2019, arXiv:1906.04721, section 4.1, here with the ranges of calibration images).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..errors import AurevoirError
from .graph.edit import constant, consumers, initializers, node_attribute, read_constant, tensor_names, unused
from .placement import weighted

_HEADROOM = 0.1
"""Share of a tensor's range that widened channels leave free, since other images reach beyond their peaks."""

_LEVELS, _BELOW_ZERO = 255, 128

_LARGEST_CONSTANT = float(np.finfo("float16").max) / 2
"""Larger constants might not fit a float16 body."""

_Site = tuple[onnx.NodeProto, onnx.NodeProto, list[onnx.NodeProto]]
"""A ReLU or Clip, the product or batch norm that it reads, and the convolutions that read it."""


@dataclass(frozen=True)
class Change:
    """A changed graph computes ``min(factors * x - shift, threshold)`` where the original computes an activation x.

    Attributes
    ----------
    factors : float64 array of shape (channels,)
        1 or more.
    shift, threshold : float
    """

    factors: np.ndarray
    shift: float
    threshold: float

    def mean(self, channels: Sequence[float] | float) -> list[float]:
        """Return the means of a changed activation's channels; another number of them is returned as it is."""
        fits = np.shape(channels) in ((), self.factors.shape)
        return list(self.factors * channels - self.shift if fits else np.array(channels))

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Return the activation, of shape (rows, channels, ...), that stands behind what a changed graph computes."""
        factors = self.factors.reshape(-1, *[1] * (values.ndim - 2)).astype("float32")
        original: np.ndarray = (values + np.float32(self.shift)) / factors
        return original


def depthwise_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the activations of which `use_more_levels` takes the channels' peaks, in graph order."""
    return [site[0].output[0] for site in _sites(model) if _depthwise(site, initializers(model))]


def use_more_levels(
    model: onnx.ModelProto, thresholds: Mapping[str, float], peaks: Mapping[str, Sequence[float]]
) -> tuple[onnx.ModelProto, dict[str, Change]]:
    """Return a float graph with the outputs of the given one, and its changed activations by name.

    Parameters
    ----------
    model : onnx.ModelProto
    thresholds : mapping of float
        The magnitude at which each quantized tensor saturates. The others are not changed, nor are those whose new
        constants might not fit float16.
    peaks : mapping of sequences of float
        The largest value of each channel of `depthwise_inputs`; no channel of other tensors is widened.

    Raises
    ------
    AurevoirError
        If a tensor has another number of channels than peaks.
    """
    model, names, changes = copy.deepcopy(model), tensor_names(model), dict[str, Change]()
    for site in list(_sites(model)):
        constants, activation = initializers(model), site[0]
        name = activation.output[0]
        change = _change(site, constants, thresholds.get(name, 0.0), peaks.get(name))
        if change is None:
            continue
        new = list(_new_constants(change, site, constants))
        if max(np.abs(value).max(initial=0) for _, _, value in new) > _LARGEST_CONSTANT:
            continue
        activation.CopyFrom(helper.make_node("Clip", [activation.input[0], "", ""], [name], name=activation.name))
        for node, index, value in new:
            inputs = [*node.input, *[""] * (index + 1 - len(node.input))]
            inputs[index] = constant(model, unused(f"{node.output[0]}_{index}", names), value.astype("float32"))
            node.input[:] = inputs
        changes[name] = change
    return model, changes


def _sites(model: onnx.ModelProto) -> Iterator[_Site]:
    """Yield the activations that can be changed, in graph order."""
    constants, readers = initializers(model), consumers(model)
    made = {name: node for node in model.graph.node for name in node.output}
    products = {node.output[0] for node in weighted(model) if node.op_type == "Conv"}
    results = {value.name for value in model.graph.output}

    def has_constants(node: onnx.NodeProto, first: int = 1) -> bool:
        return constants.keys() >= set(filter(None, node.input[first:]))

    for node in model.graph.node:
        before = made.get(node.input[0]) if node.op_type in ("Relu", "Clip") else None
        if before is None or before.op_type not in ("Conv", "BatchNormalization"):
            continue
        alone = len(readers[node.input[0]]) == 1 and results.isdisjoint([node.input[0], node.output[0]])
        after = readers[node.output[0]]
        if not (alone and after and has_constants(before) and has_constants(node)):
            continue
        if _bounds(node, constants)[0] == 0 and all(
            has_constants(each) and each.output[0] in products for each in after
        ):
            yield node, before, after


def _change(
    site: _Site, constants: dict[str, onnx.TensorProto], threshold: float, peaks: Sequence[float] | None
) -> Change | None:
    activation, before, after = site
    threshold = min(threshold, _bounds(activation, constants)[1])
    if threshold <= 0:
        return None
    channels = _channels(before, constants)
    factors = np.ones(channels)
    if peaks is not None and _depthwise(site, constants):
        if len(peaks) != channels:
            raise AurevoirError(
                f"the calibration table has {len(peaks)} peaks for the {channels} channels of {activation.output[0]}; "
                "calibrate again"
            )
        factors = 1 / (_HEADROOM + (1 - _HEADROOM) * np.clip(np.array(peaks) / threshold, 0, 1))
    shift = 0.0 if any(map(_pads, after)) else threshold * _BELOW_ZERO / _LEVELS
    return Change(factors, shift, threshold - shift) if shift or (factors > 1).any() else None


def _new_constants(
    change: Change, site: _Site, constants: dict[str, onnx.TensorProto]
) -> Iterator[tuple[onnx.NodeProto, int, np.ndarray]]:
    """Yield the nodes of a site, with the index and the new value of each input that takes a change up."""
    activation, before, after = site

    def known(node: onnx.NodeProto, index: int, absent: int) -> np.ndarray:
        given = len(node.input) > index and node.input[index]
        return read_constant(constants, node.input[index]).astype("float64") if given else np.zeros(absent)

    first = known(before, 1, 0)
    yield before, 1, first * change.factors.reshape(-1, *[1] * (first.ndim - 1))
    yield before, 2, known(before, 2, len(first)) * change.factors - change.shift
    yield activation, 1, np.array(-change.shift)
    yield activation, 2, np.array(change.threshold)
    for node in after:
        weights = known(node, 1, 0)
        # Of a depthwise convolution; the factors of the others are all 1.
        factors = np.repeat(change.factors, -(-len(weights) // len(change.factors)))[: len(weights)]
        if (change.factors > 1).any():
            weights /= factors.reshape(-1, *[1] * (weights.ndim - 1))
            yield node, 1, weights
        if change.shift:
            sums = weights.reshape(len(weights), -1).sum(axis=1)
            yield node, 2, known(node, 2, len(weights)) + change.shift * sums


def _bounds(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> tuple[float, float]:
    """Return the least and the largest value of a ReLU or a Clip."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = [*node.input[1:], "", ""][:2]
    return (
        float(read_constant(constants, low).min()) if low else -np.inf,
        float(read_constant(constants, high).max()) if high else np.inf,
    )


def _channels(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    return int(constants[node.input[1]].dims[0])


def _depthwise(site: _Site, constants: dict[str, onnx.TensorProto]) -> bool:
    """Return whether all that reads an activation is depthwise."""
    channels = _channels(site[1], constants)
    return all(node_attribute(node, "group", 1) == channels for node in site[2])


def _pads(node: onnx.NodeProto) -> bool:
    """Return whether a convolution pads its input; ``VALID`` does not."""
    return any(node_attribute(node, "pads", ())) or node_attribute(node, "auto_pad", b"").startswith(b"SAME")
