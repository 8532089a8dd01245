"""Where convolutions and pools read: ONNX's rules for padding and for the number of windows, made explicit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .edit import constant, initializers, node_attribute, replace_nodes, tensor_names, tensor_shapes, unused

POOLS = ("AveragePool", "LpPool", "MaxPool")

Lengths = list[int]


@dataclass(frozen=True)
class Windows:
    """Steps, padding as ONNX means it, number of windows and the padding that fits them, for each spatial axis."""

    strides: Lengths
    dilations: Lengths
    before: Lengths
    after: Lengths
    counts: Lengths
    ends: Lengths
    """Padding behind that the last window needs; negative where it leaves values out."""


def windows(attributes: dict[str, Any], lengths: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return where a convolution or pool reads.

    Parameters
    ----------
    attributes : dict
        ``strides``, ``dilations``, ``pads``, ``auto_pad`` and ``ceil_mode``, each of which may be None or absent.
    lengths : sequence of int
        The input's spatial lengths.
    kernel : sequence of int
    """
    rank = len(lengths)
    strides, dilations = (list(attributes.get(name) or [1] * rank) for name in ("strides", "dilations"))
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    auto, pads = attributes.get("auto_pad") or "NOTSET", list(attributes.get("pads") or [0] * 2 * rank)
    before, after = (pads[:rank], pads[rank:]) if auto == "NOTSET" else ([0] * rank, [0] * rank)
    if auto.startswith("SAME"):
        each = zip(lengths, strides, spans, strict=True)
        before, after = halves([max((-(-n // step) - 1) * step + span - n, 0) for n, step, span in each], auto)
    counts, ends = [], []
    for n, step, span, low, high in zip(lengths, strides, spans, before, after, strict=True):
        free = n + low + high - span
        count = (-(-free // step) if attributes.get("ceil_mode") else free // step) + 1
        # A window that would begin in the padding behind is left out.
        count -= bool(attributes.get("ceil_mode")) and (count - 1) * step >= n + low
        counts.append(count)
        ends.append((count - 1) * step + span - n - low)
    return Windows(strides, dilations, before, after, counts, ends)


def halves(totals: Lengths, auto: str) -> tuple[Lengths, Lengths]:
    """Return padding before and after; an odd value goes behind for ``SAME_UPPER`` and else before."""
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def transposed_padding(
    attributes: dict[str, Any], lengths: Sequence[int], kernel: Sequence[int]
) -> tuple[Lengths, Lengths]:
    """Return what a ConvTranspose cuts off before and after; negative where ``output_shape`` asks for more."""
    rank, auto = len(lengths), attributes.get("auto_pad") or "NOTSET"
    shape, pads = attributes.get("output_shape"), list(attributes.get("pads") or [0] * 2 * rank)
    if not shape and not auto.startswith("SAME"):
        return (pads[:rank], pads[rank:]) if auto == "NOTSET" else ([0] * rank, [0] * rank)
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    extra = attributes.get("output_padding") or [0] * rank
    wanted = list(shape)[-rank:] if shape else [n * step for n, step in zip(lengths, strides, strict=True)]
    each = zip(lengths, strides, dilations, kernel, extra, wanted, strict=True)
    totals = [step * (n - 1) + add + (size - 1) * wide + 1 - want for n, step, wide, size, add, want in each]
    return halves(totals, auto)


def make_windows_explicit(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write ``auto_pad``, ``ceil_mode`` and ``output_shape`` as explicit padding, in place, where shapes are known.

    Runtimes differ in them: OpenVINO (seen in 2026.4) adds windows that begin in the padding and pads transposed
    convolutions otherwise, and ONNX Runtime (seen in 1.32) ignores dilations where pools pad by themselves.
    Zeros or, for a maximum, nothing at all stands in the padding, so that longer padding adds windows only; an
    AveragePool that counts its padding gets it from a Pad before it.

    Returns
    -------
    onnx.ModelProto
        The same model.
    """
    implicit = [node for node in model.graph.node if _is_implicit(node)]
    if not implicit:
        return model
    shapes, tensors, taken = tensor_shapes(model), initializers(model), tensor_names(model)
    nodes = {node.name for node in model.graph.node}
    replaced = {}
    for node in implicit:
        lengths = shapes.get(node.input[0], [])[2:]
        weight = tensors.get(node.input[1]) if len(node.input) > 1 else None
        kernel = node_attribute(node, "kernel_shape", None) or (list(weight.dims[2:]) if weight is not None else None)
        if lengths and kernel and None not in lengths:
            replaced[node.output[0]] = _explicit(model, node, [length or 0 for length in lengths], kernel, taken, nodes)
    replace_nodes(model, replaced)
    return model


def is_undecided(node: onnx.NodeProto) -> bool:
    """Return whether a ConvTranspose is left with padding of its own: beyond its windows, or of an unknown size."""
    own = node_attribute(node, "auto_pad", b"NOTSET").startswith(b"SAME") or node_attribute(node, "output_shape", ())
    return node.op_type == "ConvTranspose" and bool(own)


def _is_implicit(node: onnx.NodeProto) -> bool:
    if node.op_type not in ("Conv", "ConvTranspose", *POOLS) or node.domain not in ("", "ai.onnx"):
        return False
    own = node_attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
    return bool(own or node_attribute(node, "ceil_mode", 0) or node_attribute(node, "output_shape", ()))


def _explicit(
    model: onnx.ModelProto, node: onnx.NodeProto, lengths: Lengths, kernel: Lengths, taken: set[str], nodes: set[str]
) -> list[onnx.NodeProto]:
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    given["auto_pad"] = given.get("auto_pad", b"NOTSET").decode()
    name, before = node.input[0], []
    if node.op_type == "ConvTranspose":
        low, high = transposed_padding(given, lengths, kernel)
        if min(*low, *high) < 0:
            return [node]
    else:
        found = windows(given, lengths, kernel)
        low, high = found.before, found.after
        if min(found.counts) < 1:
            return [node]
    if given.get("ceil_mode"):
        if given.get("count_include_pad") and any(low + high):
            name = unused(f"{node.output[0]}_padded", taken)
            pads = constant(model, unused(f"{name}_by", taken), np.array([0, 0, *low, 0, 0, *high]))
            # ONNX Runtime refuses two nodes of one name.
            before = [helper.make_node("Pad", [node.input[0], pads], [name], name=unused(f"{node.name}_pad", nodes))]
            low, high = [0] * len(low), [end - side for end, side in zip(found.ends, high, strict=True)]
        else:
            high = found.ends
        high = [max(side, 0) for side in high]
        given.pop("count_include_pad", None)
    kept = {key: value for key, value in given.items() if key not in ("auto_pad", "ceil_mode", "output_shape", "pads")}
    inputs = [name, *node.input[1:]]
    made = helper.make_node(node.op_type, inputs, list(node.output), name=node.name, pads=[*low, *high], **kept)
    return [*before, made]
