"""Every operator on every runtime, over random attributes: as ONNX means it, or refused by name."""

import warnings
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aurevoir import build_engine
from aurevoir.engine.runtimes import choose_runtime, compile_graph, installed
from aurevoir.errors import AurevoirError

RUNTIMES = [name for name in ("openvino", "onnxruntime", "torch") if installed(name)]
IMAGE = "images"

REFUSES = {
    "openvino": {
        "ConvTranspose",
        "GlobalLpPool",
        "LRN",
        "LayerNormalization",
        "MaxPool, indices",
        "Pad",
        "Resize",
        "Split",
    },
    "onnxruntime": {"AveragePool", "ConvTranspose", "LRN", "LpPool", "MaxPool", "MaxPool, indices"},
    "torch": {"Celu", "ConvTranspose", "MaxPool, indices", "Resize"},
}
"""What a runtime may refuse some of."""

# OpenVINO reads it since 2026.4; before, the refusal is OpenVINO's own, which names no node.
if installed("openvino") and tuple(map(int, version("openvino").split(".")[:2])) < (2026, 4):
    REFUSES["openvino"].add("LpPool")

POOLS = ("AveragePool", "LpPool", "MaxPool")

DISPUTED = {
    "BatchNormalization",  # the reference evaluator takes no epsilon in opset 9
    "ConvTranspose",  # ONNX Runtime clips negative padding
    "GlobalMaxPool",  # the reference evaluator drops an axis of (batch, channels, length)
    "Hardmax",  # the reference evaluator works along one axis before opset 13 too; so for the two below
    "LogSoftmax",
    "MaxPool, indices",
    "Softmax",
}
"""Where ONNX Runtime and the reference evaluator differ. Either may be wrong, but all our runtimes have to agree."""


class Draw:
    """What a case is made of, drawn by Hypothesis."""

    def __init__(self, data):
        self._draw = data.draw
        self.random = np.random.default_rng(self._draw(st.integers(0, 1000)))

    def whole(self, low, high):
        return self._draw(st.integers(low, high))

    def pick(self, *options):
        return self._draw(st.sampled_from(options))

    def flag(self):
        return self._draw(st.booleans())

    def wholes(self, count, low, high):
        return [self.whole(low, high) for _ in range(count)]

    def array(self, *shape, dtype="float32", scale=2.0):
        return (self.random.normal(size=shape) * scale).astype(dtype)

    def positive(self, *shape):
        return self.random.uniform(0.3, 3, size=shape).astype("float32")

    def some(self, **attributes):
        """Return some of these attributes."""
        return {name: value for name, value in attributes.items() if self.flag()}


def case(kind, image, *inputs, opset=18, outputs=1, before=(), **attributes):
    """A node, by default of the image alone; else of tensors by name, constants, and None where one is left out."""
    inputs = inputs or (IMAGE,)
    return SimpleNamespace(
        kind=kind, image=image, inputs=inputs, opset=opset, outputs=outputs, before=before, attributes=attributes
    )


def model_of(made):
    """The case as a model whose batch is free, from `images` to the outputs of its node."""
    names, tensors, nodes = [], [], list(made.before)
    for index, value in enumerate(made.inputs):
        if value is None or isinstance(value, str):
            names.append(value or "")
            continue
        names.append(f"constant{index}")
        tensors.append(numpy_helper.from_array(np.asarray(value), names[-1]))
    outputs = [f"y{index}" for index in range(made.outputs)]
    nodes.append(helper.make_node(made.kind, names, outputs, name="node", **made.attributes))
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    kind = helper.np_dtype_to_tensor_dtype(made.image.dtype)
    image = helper.make_tensor_value_info(IMAGE, kind, ["batch", *made.image.shape[1:]])
    graph = helper.make_graph(nodes, "g", [image], results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", made.opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, found in zip(model.graph.output, inferred.graph.output):
        value.CopyFrom(found)
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = kind
    return model


def spatial(draw, low=5, high=9, ranks=(1, 2, 2, 3)):
    """Batch, channels and one to three lengths."""
    rank = draw.pick(*ranks)
    return draw.array(2, draw.pick(1, 2, 4), *draw.wholes(rank, low, high)), rank


def places(draw, rank, kernel, dilated=True):
    """Strides, dilations, pads or auto_pad of windows."""
    found = draw.some(strides=draw.wholes(rank, 1, 3))
    if dilated:
        found |= draw.some(dilations=draw.wholes(rank, 1, 2))
    kind = draw.pick("pads", "even", "auto", "none")
    if kind == "pads":
        found["pads"] = [draw.whole(0, size - 1) for size in (*kernel, *kernel)]
    elif kind == "even":
        found["pads"] = [draw.whole(0, size // 2) for size in kernel] * 2
    elif kind == "auto":
        found["auto_pad"] = draw.pick("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    return found


def conv(draw):
    image, rank = spatial(draw)
    channels = image.shape[1]
    groups = draw.pick(1, 1, channels)
    kernel = draw.wholes(rank, 1, 3)
    out = groups * draw.whole(1, 2)
    bias = [draw.array(out)] if draw.flag() else []
    attributes = places(draw, rank, kernel) | draw.some(group=groups) | draw.some(kernel_shape=kernel)
    weight = draw.array(out, channels // attributes.get("group", 1), *kernel)
    return case("Conv", image, IMAGE, weight, *bias, opset=draw.pick(7, 11, 18, 22), **attributes)


def conv_transpose(draw):
    image, rank = spatial(draw, 3, 6)
    channels = image.shape[1]
    groups = draw.pick(1, 1, channels)
    kernel = draw.wholes(rank, 1, 4)
    bias = [draw.array(groups * 2)] if draw.flag() else []
    attributes = places(draw, rank, kernel) | {"group": groups}
    steps = attributes.get("strides", [1] * rank)
    spread = attributes.get("dilations", [1] * rank)
    if "auto_pad" in attributes and draw.flag():
        attributes["output_shape"] = [
            max(length * step - draw.whole(0, 1), 1) for length, step in zip(image.shape[2:], steps)
        ]
    elif draw.flag():
        attributes["output_padding"] = [draw.whole(0, max(step, wide) - 1) for step, wide in zip(steps, spread)]
    weight = draw.array(channels, 2, *kernel)
    return case("ConvTranspose", image, IMAGE, weight, *bias, opset=draw.pick(11, 18, 22), **attributes)


def pool(kind, **options):
    def make(draw):
        image, rank = spatial(draw, 7)
        kernel = draw.wholes(rank, 1, 4)
        opset = draw.pick(*options.get("opsets", (10, 11, 18, 19, 22)))
        attributes = places(draw, rank, kernel, dilated=opset >= options.get("dilated", 10))
        attributes |= {"kernel_shape": kernel} | draw.some(ceil_mode=draw.whole(0, 1))
        attributes |= draw.some(**{name: draw.pick(*values) for name, values in options.get("more", {}).items()})
        return case(kind, image, opset=opset, **attributes)

    return make


def max_pool_indices(draw):
    made = pool("MaxPool", more={"storage_order": (0, 1)})(draw)
    made.attributes.pop("auto_pad", None)  # ONNX Runtime leaves dilations out of SAME
    made.outputs = 2
    return made


def plain(kind, *opsets, low=-3.0, high=3.0, **attributes):
    """An operator of one input, with some of its attributes."""

    def make(draw):
        image = draw.random.uniform(low, high, size=(2, 3, 4, 4)).astype("float32")
        image.flat[:3] = [low, high, round(image.flat[0])]
        chosen = draw.some(**{name: draw.pick(*values) for name, values in attributes.items()})
        return case(kind, image, opset=draw.pick(*(opsets or (13, 18, 22))), **chosen)

    return make


def prelu(draw):
    image = draw.array(2, 3, 4, 5)
    slope = draw.array(*draw.pick((1,), (3, 1, 1), (1, 3, 1, 1), (3, 4, 5), (5,), (4, 1), ()))
    return case("PRelu", image, IMAGE, slope, opset=draw.pick(7, 9, 16))


def clip(draw):
    image = draw.array(1, 3, 4, 4)
    low, high = (np.float32(draw.pick(-1.5, 0, 0.5, 6)) for _ in range(2))
    if draw.whole(0, 3) == 0:
        return case(
            "Clip", image, opset=draw.pick(6, 10), **draw.some(min=float(min(low, high)), max=float(max(low, high)))
        )
    inputs, before = [], []
    for index, limit in enumerate((low, high)):
        kind = draw.pick("none", "constant", "identity", "computed", "vector")
        if kind == "computed":
            nodes, tensor = ["ReduceMin", "ReduceMax"][index], f"limit{index}"
            before += [
                helper.make_node("Flatten", [IMAGE], [f"flat{index}"], axis=0),
                helper.make_node(nodes, [f"flat{index}"], [f"far{index}"], keepdims=0),
                helper.make_node("Mul", [f"far{index}", f"far{index}"], [f"square{index}"]),
                helper.make_node("Div", [f"far{index}", f"square{index}"], [tensor]),
            ]
            inputs.append(tensor)
        elif kind == "identity":
            before += [
                helper.make_node("Constant", [], [f"held{index}"], value=numpy_helper.from_array(limit)),
                helper.make_node("Identity", [f"held{index}"], [f"limit{index}"]),
            ]
            inputs.append(f"limit{index}")
        else:
            inputs.append({"none": None, "constant": limit, "vector": limit.reshape(1)}[kind])
    return case("Clip", image, IMAGE, *inputs, opset=draw.pick(11, 13, 18), before=before)


def broadcast(kind, *opsets, positive=False, logical=False, integer=False):
    """An operator of two or more inputs that broadcast."""

    def make(draw):
        image = draw.positive(2, 3, 4, 5) if positive else draw.array(2, 3, 4, 5)
        shape = draw.pick((), (1,), (5,), (4, 1), (3, 1, 1), (1, 3, 4, 5), (1, 1, 1, 1, 5), (1, 3, 1, 1))
        image = image[:1] if len(shape) == 5 else image
        other = draw.positive(*shape) if positive else draw.array(*shape)
        before = []
        inputs = [IMAGE, other]
        if logical:
            before, inputs = [helper.make_node("Greater", [IMAGE, IMAGE], ["signs"])], ["signs", other > 0]
        if integer:
            before = [helper.make_node("Cast", [IMAGE], ["whole"], to=TensorProto.INT64)]
            image = image * 5 + 2 * np.sign(image)
            inputs = ["whole", np.where(other > 0, 3, -2).astype("int64")]
        if kind in ("Max", "Min", "Sum", "Mean"):
            inputs = [*inputs, draw.array(*draw.pick((3, 1, 1), (5,)))][: draw.whole(1, 3)]
        elif draw.flag():
            inputs = inputs[::-1]
        return case(kind, image, *inputs, opset=draw.pick(*(opsets or (9, 13, 18))), before=before)

    return make


def modulo(draw):
    if draw.flag():
        image = draw.array(2, 3, 4, 5)
        return case("Mod", image, IMAGE, draw.positive(5), opset=draw.pick(10, 13), fmod=1)
    made = broadcast("Mod", 10, 13, integer=True)(draw)
    made.attributes = draw.some(fmod=draw.whole(0, 1))
    return made


def mixed_pow(draw):
    image = draw.positive(2, 3, 4)
    power = draw.pick(np.float32(2), np.float32(0.5), np.int64(3), np.int32(2), draw.positive(4))
    return case("Pow", image, IMAGE, power, opset=draw.pick(12, 13, 15))


def reduction(kind):
    def make(draw):
        image = draw.positive(2, 3, 4, 5)
        axes = draw.pick(None, [1], [-1], [2, 3], [-2, -1], [1, 2, 3], [0], [3, 1])
        image = image[:1] if axes in (None, [0]) else image
        opset = draw.pick(11, 13, 18, 22)
        attributes = draw.some(keepdims=draw.whole(0, 1))
        if opset >= (13 if kind == "ReduceSum" else 18):
            attributes |= draw.some(noop_with_empty_axes=draw.whole(0, 1))
            given = axes if axes is None else np.array(axes, "int64")
            if axes is None and draw.flag():
                given = np.zeros(0, "int64")
            return case(kind, image, IMAGE, *([] if given is None else [given]), opset=opset, **attributes)
        return case(kind, image, opset=opset, **attributes, **({"axes": axes} if axes else {}))

    return make


def vector_after_reduction(draw):
    image, keepdims = draw.array(3, 5, draw.whole(1, 9)), draw.whole(0, 1)
    vector = draw.array(*((5, 1) if keepdims else (5,)))
    kind, axis = draw.pick("ReduceSum", "ReduceMean", "ReduceMax"), draw.pick(-1, 2)
    before = [helper.make_node(kind, [IMAGE], ["reduced"], axes=[axis], keepdims=keepdims)]
    return case(draw.pick("Add", "Mul"), image, "reduced", vector, opset=11, before=before)


def argument(kind):
    def make(draw):
        image = draw.array(2, 3, 4, scale=1).round()
        some = draw.some(axis=draw.pick(1, 2, -1), keepdims=draw.whole(0, 1), select_last_index=draw.whole(0, 1))
        return case(kind, image if "axis" in some else image[:1], opset=draw.pick(12, 13), **some)

    return make


def top_k(draw):
    image = draw.array(2, 3, 6)
    opset = draw.pick(10, 11, 18)
    attributes = draw.some(
        axis=draw.pick(-1, 1, 2), **({"largest": draw.whole(0, 1), "sorted": 1} if opset > 10 else {})
    )
    return case("TopK", image, IMAGE, np.array([draw.whole(1, 3)]), opset=opset, outputs=2, **attributes)


def matmul(draw):
    shape, other = draw.pick(
        ((2, 3, 4), (4, 5)), ((2, 4), (4, 3)), ((2, 3, 4, 5), (3, 5, 2)), ((2, 3, 4), (4,)), ((2, 1, 3, 4), (2, 4, 3))
    )
    return case("MatMul", draw.array(*shape), IMAGE, draw.array(*other), opset=draw.pick(9, 13))


def gemm(draw):
    attributes = draw.some(alpha=0.5, beta=2.0, transB=draw.whole(0, 1))
    weight = draw.array(3, 4) if attributes.get("transB") else draw.array(4, 3)
    bias = [draw.array(*draw.pick((), (1,), (3,), (1, 3)))] if draw.flag() else []
    image = draw.array(2, 4)
    if draw.whole(0, 3) == 0:
        image, attributes = draw.array(1, 4), attributes | {"transA": 1}
        weight = weight[:, :1] if attributes.get("transB") else weight[:1]
    return case("Gemm", image, IMAGE, weight, *bias, opset=draw.pick(*((7, 9) if bias else ()), 11, 13), **attributes)


def einsum(draw):
    equation, shape, other = draw.pick(
        ("bij,jk->bik", (2, 3, 4), (4, 5)),
        ("bhqd, hdk -> bhqk", (2, 3, 4, 5), (3, 5, 2)),
        ("...ij,jk->...ik", (2, 3, 4), (4, 5)),
        ("bchw,hkc->bkhw", (2, 3, 4, 5), (4, 6, 3)),
        ("bij,ij", (2, 3, 4), (3, 4)),
    )
    return case("Einsum", draw.array(*shape), IMAGE, draw.array(*other), opset=12, equation=equation)


def batch_norm(draw):
    image = draw.array(*draw.pick((2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)))
    numbers = [draw.array(3), draw.array(3), draw.array(3), draw.positive(3)]
    return case("BatchNormalization", image, IMAGE, *numbers, opset=draw.pick(7, 9, 14, 15), **draw.some(epsilon=0.1))


def instance_norm(draw):
    image = draw.array(*draw.pick((2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)))
    return case(
        "InstanceNormalization",
        image,
        IMAGE,
        draw.array(3),
        draw.array(3),
        opset=draw.pick(9, 18, 22),
        **draw.some(epsilon=0.1),
    )


def layer_norm(draw):
    image = draw.array(2, 3, 4, 5)
    axis = draw.pick(-1, 1, 2, 3, -2)
    shape = image.shape[axis:]
    scale = draw.array(*draw.pick(shape, shape, shape[-1:], [1] * len(shape)))
    shift = [draw.array(*scale.shape)] if draw.flag() else []
    attributes = {"axis": axis} | draw.some(epsilon=0.1)
    return case("LayerNormalization", image, IMAGE, scale, *shift, opset=17, **attributes)


def group_norm(draw):
    image, _ = spatial(draw)
    image = np.tile(image, (1, 4, *[1] * (image.ndim - 2)))[:, :4] + draw.array(2, 4, *[1] * (image.ndim - 2))
    opset, groups = draw.pick(18, 21), draw.pick(1, 2, 4)
    size = groups if opset == 18 else 4
    return case(
        "GroupNormalization",
        image.astype("float32"),
        IMAGE,
        draw.array(size),
        draw.array(size),
        opset=opset,
        num_groups=groups,
        **draw.some(epsilon=0.1),
    )


def lrn(draw):
    # As many images as channels: the reference evaluator takes the one number for the other.
    image = draw.array(6, 6, 3, 4)
    some = draw.some(alpha=0.5, beta=0.5, bias=2.0)
    return case("LRN", image, opset=draw.pick(9, 13), size=draw.whole(1, 6), **some)


def softmax(kind):
    def make(draw):
        image = draw.array(*draw.pick((2, 3), (2, 3, 4), (2, 3, 4, 5)))
        axis = draw.pick(1, -1, image.ndim - 1)
        return case(kind, image, opset=draw.pick(9, 11, 13, 18), **draw.some(axis=axis))

    return make


def flatten(draw):
    some = draw.some(axis=draw.pick(0, 1, 2, 3, 4, -1, -2, -3))
    image = draw.array(2 if some.get("axis", 1) == 1 else 1, 3, 4, 5)
    return case("Flatten", image, opset=draw.pick(11, 13), **some)


def reshape(draw):
    image = draw.array(2, 3, 4, 5)
    shape = draw.pick([0, -1], [0, 0, -1], [-1, 60], [0, 12, 5], [-1, 3, 20], [0, 0, 20], [-1])
    image = image[:1] if shape == [-1] else image
    opset = draw.pick(7, 13, 14, 21)
    allow = {"allowzero": 1} if opset >= 14 and 0 not in shape and draw.flag() else {}
    return case("Reshape", image, IMAGE, np.array(shape), opset=opset, **allow)


def transpose(draw):
    some = draw.some(perm=draw.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 2, 1, 3]))
    return case("Transpose", draw.array(2 if some else 1, 3, 4, 5), opset=13, **some)


def squeeze(draw):
    image = draw.array(2, 1, 4, 1)
    axes = draw.pick([1], [-1], [1, 3], [-3])
    if draw.flag():
        return case("Squeeze", image, opset=11, axes=axes)
    return case("Squeeze", image, IMAGE, np.array(axes), opset=draw.pick(13, 21))


def unsqueeze(draw):
    image = draw.array(2, 3, 4)
    axes = draw.pick([1], [-1], [1, 3], [4, 1], [-2], [1, -1])
    if draw.flag():
        return case("Unsqueeze", image, opset=11, axes=axes)
    return case("Unsqueeze", image, IMAGE, np.array(axes), opset=draw.pick(13, 21))


def concat(draw):
    axis = draw.pick(1, 2, -1, -3)
    image = draw.array(2, 3, 4, 5)
    inputs = [f"copy{index}" for index in range(draw.whole(1, 3))]
    before = [helper.make_node(draw.pick("Relu", "Neg"), [IMAGE], [name]) for name in inputs]
    return case("Concat", image, IMAGE, *inputs, opset=draw.pick(7, 11, 13), before=before, axis=axis)


def split(draw):
    axis, length = draw.pick((1, 6), (-1, 7), (2, 5))
    image = draw.array(2, 6, 5, 7)
    parts = draw.pick([length], [1, length - 1], [2, 1, length - 3])
    style = draw.pick("old", "input", "equal", "count")
    if style == "old":
        return case("Split", image, opset=11, outputs=len(parts), axis=axis, split=parts)
    if style == "input":
        return case("Split", image, IMAGE, np.array(parts), opset=draw.pick(13, 18), outputs=len(parts), axis=axis)
    if style == "equal":
        return case("Split", image, opset=draw.pick(11, 13), outputs=draw.pick(2, 3), axis=1)
    count = draw.whole(2, 4) if length != 5 else draw.whole(2, 3)
    return case("Split", image, opset=18, outputs=count, axis=axis, num_outputs=count)


def slice_(draw):
    image = draw.array(2, 5, 6, 7)
    axes = draw.pick([1], [2, 3], [-1], [3, 1], [-2, 1])
    ends_at = [-1000, -3, -1, 0, 2, 4, 1000, np.iinfo("int64").max, -np.iinfo("int64").max]
    starts, ends = [draw.pick(-1000, -4, -1, 0, 1, 3, 1000) for _ in axes], [draw.pick(*ends_at) for _ in axes]
    far = np.iinfo("int64").max
    if draw.whole(0, 3) == 0:
        some = {"axes": axes} if draw.flag() else {}
        starts, ends = ([0, 0], [9, 3]) if not some else (starts, ends)
        return case("Slice", image, opset=9, starts=starts, ends=ends, **some)
    # ONNX Runtime takes the largest integer for the beginning where it steps backwards.
    steps = [1 if end == far else draw.pick(1, 1, 2, 3, -1, -2) for end in ends]
    # The reference evaluator finds nothing backwards from before the beginning, where ONNX clamps it to the first.
    starts = [max(start, -4) if step < 0 else start for start, step in zip(starts, steps)]
    return case(
        "Slice", image, IMAGE, *(np.array(each) for each in (starts, ends, axes, steps)), opset=draw.pick(10, 13)
    )


def gather(draw):
    image = draw.array(2, 3, 4, 5)
    axis = draw.pick(1, 2, -1)
    high = image.shape[axis]
    shape = draw.pick((), (1,), (2,), (2, 3))
    indices = draw.random.integers(-high, high, size=shape)
    return case(
        "Gather", image, IMAGE, indices.astype(draw.pick("int64", "int32")), opset=draw.pick(9, 11, 13), axis=axis
    )


def gather_elements(draw):
    image = draw.array(2, 3, 4)
    axis = draw.pick(1, 2, -1)
    high = image.shape[axis]
    image = image[:1]
    size = [1, 3, 4]
    size[axis] = draw.whole(1, 4)
    indices = draw.random.integers(-high, high, size=size)
    return case("GatherElements", image, IMAGE, indices, opset=draw.pick(11, 13), axis=axis)


def gather_nd(draw):
    image = draw.array(2, 3, 4)
    if draw.flag():
        return case(
            "GatherND",
            image[:1],
            IMAGE,
            draw.random.integers(-3, 3, size=(1, draw.whole(1, 3), draw.pick(1, 2))),
            opset=12,
            batch_dims=1,
        )
    indices = draw.random.integers(-1, 1, size=(draw.whole(1, 3), draw.whole(1, 3)))
    return case("GatherND", image[:1], IMAGE, indices, opset=draw.pick(11, 13))


def pad(draw):
    image = draw.array(2, 4, 5, 6)
    mode = draw.pick("constant", "reflect", "edge", "wrap")
    opset = draw.pick(19, 21) if mode == "wrap" else draw.pick(9, 11, 13, 18, 19)
    low = draw.pick(0, 0, -1)
    axes = draw.pick([2, 3], [-1], [1, 3], [-1, -2]) if opset >= 18 and draw.flag() else None
    count = 3 if axes is None else len(axes)
    begin, end = draw.wholes(count, low, 2), draw.wholes(count, low, 2)
    pads = [0, *begin, 0, *end] if axes is None else [*begin, *end]
    value = np.float32(draw.pick(0, -1.5)) if draw.flag() else None
    if opset == 9:
        some = {} if value is None else {"value": float(value)}
        return case("Pad", image, opset=9, pads=pads, mode=mode, **some)
    inputs = [np.array(pads), value, axes if axes is None else np.array(axes)]
    while inputs[-1] is None:
        inputs.pop()
    return case("Pad", image, IMAGE, *inputs, opset=opset, **draw.some(mode=mode))


def tile(draw):
    return case(
        "Tile", draw.array(2, 3, 4), IMAGE, np.array([1, draw.whole(1, 3), draw.whole(1, 2)]), opset=draw.pick(9, 13)
    )


def expand(draw):
    shape = draw.pick([1, 3, 4], [2, 3, 4], [1], [4], [1, 1, 1], [5, 1, 1, 1], [3, 1])
    return case(
        "Expand", draw.array(1 if shape[0] in (2, 5) else 2, 3, 1), IMAGE, np.array(shape), opset=draw.pick(9, 13)
    )


def resize(draw):
    image = draw.array(1, 3, *draw.wholes(2, 3, 6))
    opset = draw.pick(11, 13, 18, 19)
    mode = draw.pick("nearest", "linear", "cubic")
    some = draw.some(
        mode=mode,
        coordinate_transformation_mode=draw.pick(
            "half_pixel",
            "asymmetric",
            "align_corners",
            "pytorch_half_pixel",
            *(["half_pixel_symmetric"] if opset >= 19 else []),
        ),
        nearest_mode=draw.pick("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"),
        cubic_coeff_a=draw.pick(-0.5, -0.75),
        exclude_outside=draw.whole(0, 1),
        **({"antialias": draw.whole(0, 1)} if opset >= 18 else {}),
    )
    if some.get("mode", "nearest") != "cubic":
        some.pop("exclude_outside", 0)
    if some.get("mode", "nearest") == "nearest":
        some.pop("antialias", 0)
    if draw.flag():
        scales = np.array([1, 1, *(draw.pick(0.5, 2, 1.5, 3, 0.75, 1) for _ in range(2))], "float32")
        return case(
            "Resize", image, IMAGE, None if opset >= 13 else np.zeros(0, "float32"), scales, opset=opset, **some
        )
    sizes = np.array([1, 3, *draw.wholes(2, 2, 9)])
    if opset >= 18 and draw.flag():
        return case("Resize", image, IMAGE, None, None, sizes[2:], opset=opset, axes=[2, 3], **some)
    nothing = None if opset >= 13 else np.zeros(0, "float32")
    return case("Resize", image, IMAGE, nothing, nothing, sizes, opset=opset, **some)


def old_resize(draw):
    image = draw.array(2, 3, *draw.wholes(2, 3, 6))
    kind, opset = draw.pick(("Upsample", 7), ("Upsample", 9), ("Resize", 10))
    scales = [1.0, 1.0, *(draw.pick(1.0, 2.0, 3.0, 1.5) for _ in range(2))]
    some = draw.some(mode=draw.pick("nearest", "linear"))
    if opset == 7:
        return case(kind, image, opset=7, scales=scales, **some)
    return case(kind, image, IMAGE, np.array(scales, "float32"), opset=opset, **some)


def depth_to_space(draw):
    opset = draw.pick(9, 11, 13)
    some = draw.some(mode=draw.pick("DCR", "CRD")) if opset >= 11 else {}
    return case("DepthToSpace", draw.array(2, 8, 2, 3), opset=opset, blocksize=2, **some)


def space_to_depth(draw):
    return case("SpaceToDepth", draw.array(2, 2, 4, 6), opset=draw.pick(9, 13), blocksize=2)


def where(draw):
    image = draw.array(2, 3, 4)
    before = [helper.make_node("Greater", [IMAGE, IMAGE + "_limit"], ["chosen"])]
    before.insert(0, helper.make_node("Neg", [IMAGE], [IMAGE + "_limit"]))
    parts = [IMAGE, draw.array(*draw.pick((), (4,), (3, 1)))]
    return case(
        "Where", image, "chosen", *(parts if draw.flag() else parts[::-1]), opset=draw.pick(9, 16), before=before
    )


def cast(draw):
    kinds = ["FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "BOOL", "INT8"]
    image = draw.array(2, 3, 4) * 10
    opset, kind = draw.pick(9, 13, 19), draw.pick(*kinds)
    # OpenVINO (2026.4) mixes up the images of requests that run at the same time where a graph computes nothing at all.
    before = [helper.make_node("Neg", [IMAGE], ["less"])]
    return case("Cast", image, "less", opset=opset, before=before, to=getattr(TensorProto, kind))


def shape(draw):
    image = draw.array(1, 3, 4, 5)
    opset = draw.pick(13, 15, 19)
    some = draw.some(start=draw.pick(0, 1, -1, -9), end=draw.pick(1, 3, -1, 9)) if opset >= 15 else {}
    return case("Shape", image, opset=opset, **some)


def constant_of_shape(draw):
    before = [helper.make_node("Shape", [IMAGE], ["lengths"])]
    value = draw.pick(None, np.array([2.5], "float32"), np.array([3], "int64"))
    some = {} if value is None else {"value": numpy_helper.from_array(value)}
    return case("ConstantOfShape", draw.array(2, 3), "lengths", opset=draw.pick(9, 20), before=before, **some)


def range_(draw):
    before = [helper.make_node("Size", [IMAGE], ["count"])]
    return case(
        "Range",
        draw.array(1, 3),
        np.int64(draw.whole(0, 2)),
        "count",
        np.int64(draw.whole(1, 2)),
        opset=11,
        before=before,
    )


def flat_shape(draw):
    """What exporters write for x.view(x.size(0), -1): a Reshape by a computed shape."""
    before = [
        helper.make_node("Shape", [IMAGE], ["lengths"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.int64(0))),
        helper.make_node("Gather", ["lengths", "zero"], ["rows"], axis=0),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["row"]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([draw.pick(-1, 12)]))),
        helper.make_node("Concat", ["row", "rest"], ["shape"], axis=0),
    ]
    return case("Reshape", draw.array(2, 3, 4), IMAGE, "shape", opset=13, before=before)


def dropout(draw):
    opset = draw.pick(7, 10, 12, 13, 22)
    if opset < 12:
        return case("Dropout", draw.array(2, 3, 4), opset=opset, **draw.some(ratio=0.4))
    inputs = [np.float32(0.4), np.array(False)][: draw.whole(0, 2)]
    return case("Dropout", draw.array(2, 3, 4), IMAGE, *inputs, opset=opset)


def trilu(draw):
    inputs = [np.int64(draw.whole(-2, 2))] if draw.flag() else []
    return case("Trilu", draw.array(2, 3, 4), IMAGE, *inputs, opset=14, **draw.some(upper=draw.whole(0, 1)))


def cumulative_sum(draw):
    some = draw.some(exclusive=draw.whole(0, 1), reverse=draw.whole(0, 1))
    return case("CumSum", draw.array(2, 3, 4), IMAGE, np.array(draw.pick(1, -1, 2)), opset=draw.pick(11, 14), **some)


def special(kind, **attributes):
    def make(draw):
        image = draw.array(2, 3, 4)
        image.flat[:3] = [np.nan, np.inf, -np.inf]
        return case(kind, image, opset=draw.pick(13, 20), **draw.some(**{k: draw.whole(0, 1) for k in attributes}))

    return make


ALPHA = {"alpha": (0.3, 1.7)}
CASES = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool("MaxPool", more={"storage_order": (0, 1)}),
    "MaxPool, indices": max_pool_indices,
    "AveragePool": pool("AveragePool", dilated=19, more={"count_include_pad": (0, 1)}),
    "LpPool": pool("LpPool", opsets=(18, 22), dilated=18, more={"p": (1, 2, 3)}),
    **{
        kind: (lambda draw, kind=kind: case(kind, spatial(draw)[0], opset=draw.pick(9, 13)))
        for kind in ("GlobalAveragePool", "GlobalMaxPool")
    },
    "GlobalLpPool": lambda draw: case(
        "GlobalLpPool", spatial(draw)[0], opset=draw.pick(9, 13), **draw.some(p=draw.whole(1, 3))
    ),
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "GroupNormalization": group_norm,
    "LRN": lrn,
    **{
        kind: plain(kind)
        for kind in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Erf",
            "Softplus",
            "Softsign",
            "Abs",
            "Neg",
            "Exp",
            "Reciprocal",
            "Floor",
            "Ceil",
            "Sign",
            "Identity",
            "Sin",
            "Cos",
        )
    },
    "Round": lambda draw: case("Round", (draw.array(2, 3, 4) * 2).round() / 2, opset=draw.pick(11, 22)),
    "Mish": plain("Mish", 18, 22),
    "HardSwish": plain("HardSwish", 14, 22),
    **{kind: plain(kind, low=0.1) for kind in ("Sqrt", "Log")},
    "LeakyRelu": plain("LeakyRelu", 7, 16, **ALPHA),
    "Elu": plain("Elu", 7, 22, **ALPHA),
    "Selu": plain("Selu", 7, 22, gamma=(0.5, 2.0), **ALPHA),
    "Celu": plain("Celu", 12, **ALPHA),
    "ThresholdedRelu": plain("ThresholdedRelu", 10, 22, **ALPHA),
    "HardSigmoid": plain("HardSigmoid", 7, 22, beta=(0.2, 0.7), alpha=(0.3, 1.7)),
    "Gelu": plain("Gelu", 20, approximate=("none", "tanh")),
    "Swish": plain("Swish", 24, **ALPHA),
    "PRelu": prelu,
    "Clip": clip,
    **{kind: broadcast(kind, 7, 13, 14) for kind in ("Add", "Sub", "Mul", "Div")},
    **{kind: broadcast(kind, 8, 13) for kind in ("Max", "Min", "Sum", "Mean")},
    "Pow": broadcast("Pow", 7, 13, positive=True),
    "Pow, mixed types": mixed_pow,
    "Div, integers": broadcast("Div", 14, integer=True),
    "Mod": modulo,
    **{kind: broadcast(kind) for kind in ("Greater", "Less")},
    "Equal": broadcast("Equal", 13, 19, integer=True),
    **{kind: broadcast(kind, 16) for kind in ("GreaterOrEqual", "LessOrEqual")},
    **{kind: broadcast(kind, logical=True) for kind in ("And", "Or", "Xor")},
    "Not": lambda draw: case(
        "Not", draw.array(2, 3), "b", opset=13, before=[helper.make_node("Cast", [IMAGE], ["b"], to=TensorProto.BOOL)]
    ),
    **{
        f"Reduce{kind}": reduction(f"Reduce{kind}")
        for kind in ("Mean", "Sum", "Max", "Min", "L1", "L2", "Prod", "LogSumExp", "LogSum", "SumSquare")
    },
    "Reduction, then a vector": vector_after_reduction,
    **{kind: softmax(kind) for kind in ("Softmax", "LogSoftmax", "Hardmax")},
    "ArgMax": argument("ArgMax"),
    "ArgMin": argument("ArgMin"),
    "TopK": top_k,
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    "Flatten": flatten,
    "Reshape": reshape,
    "Reshape, computed": flat_shape,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Tile": tile,
    "Expand": expand,
    "Resize": resize,
    "Resize and Upsample, old": old_resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Where": where,
    "Cast": cast,
    "Shape": shape,
    "Size": lambda draw: case("Size", draw.array(1, 3), opset=13),
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Dropout": dropout,
    "Trilu": trilu,
    "CumSum": cumulative_sum,
    "IsNaN": special("IsNaN"),
    "IsInf": special("IsInf", detect_negative=1, detect_positive=1),
}


def by_onnxruntime(model, image, name=IMAGE):
    """What ONNX Runtime computes of the graph as it is, or None."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {name: image})
    except Exception:  # its errors have no common base class
        return None
    finally:
        onnxruntime.set_default_logger_severity(2)


def by_reference(model, image):
    """What the reference evaluator computes, or None: it lacks some operators and attributes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, {IMAGE: image})]
    except Exception:
        return None


def by_hand(made):
    """A pool window by window, for both leave dilations out: the reference evaluator of VALID, ONNX Runtime of SAME."""
    image, given, kernel = made.image, made.attributes, made.attributes["kernel_shape"]
    auto, rank, axes = given.get("auto_pad", "NOTSET"), len(kernel), []
    pads, ceil = given.get("pads", [0] * 2 * rank), given.get("ceil_mode", 0)
    for axis, (n, size) in enumerate(zip(image.shape[2:], kernel)):
        step, wide = given.get("strides", [1] * rank)[axis], given.get("dilations", [1] * rank)[axis]
        low, high, span = pads[axis], pads[axis + rank], (size - 1) * wide + 1
        if auto.startswith("SAME"):
            total = max((-(-n // step) - 1) * step + span - n, 0)
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
            high = total - low
        starts = [start - low for start in range(0, n + low + high, step)]
        whole = [start for start in starts if start + span <= n + high]
        # A further window over what is left is only taken by ceil_mode, and where it begins in the image or before.
        left = ceil and whole[-1] + span < n + high
        more = [start for start in starts[len(whole) : len(whole) + 1] if left and start < n]
        taps = [start + wide * np.arange(size) for start in whole + more]
        axes.append([(tap[(tap >= 0) & (tap < n)], np.sum(tap < n + high)) for tap in taps])
    found = np.empty((*image.shape[:2], *map(len, axes)))
    for at in np.ndindex(*found.shape[2:]):
        each = [axes[axis][index] for axis, index in enumerate(at)]
        values = image[(slice(None), slice(None), *np.ix_(*(inside for inside, _ in each)))].astype("float64")
        values = values.reshape(*image.shape[:2], -1)
        if made.kind == "MaxPool":
            found[(..., *at)] = values.max(2)
        elif made.kind == "LpPool":
            power = given.get("p", 2)
            found[(..., *at)] = (np.abs(values) ** power).sum(2) ** (1 / power)
        else:
            counted = np.prod([count for _, count in each]) if given.get("count_include_pad") else values.shape[2]
            found[(..., *at)] = values.sum(2) / counted
    return [found]


def alike(found, expected):
    if len(found) != len(expected) or any(x.shape != np.shape(y) for x, y in zip(found, expected)):
        return False
    return all(np.allclose(x, y, rtol=1e-4, atol=2e-5 * largest(y), equal_nan=True) for x, y in zip(found, expected))


def largest(values):
    values = np.asarray(values, "float64")
    return max(1.0, np.abs(values[np.isfinite(values)]).max(initial=0))


def by_runtime(runtime, model, made, name):
    """The outputs, or None if the runtime refuses the node by name in one line and names another runtime."""
    try:
        found = compile_graph(runtime, model.SerializeToString(), "fp32")(made.image)
    except AurevoirError as error:
        message = str(error)
        assert name in REFUSES[runtime], message
        assert made.kind in message
        assert "node" in message or "operations: LpPool" in message
        assert "\n" not in message
        assert any(f"'{other}'" in message.rpartition(";")[2] for other in RUNTIMES if other != runtime)
        return None
    return [np.array(value) for value in found]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_runtime_computes_an_operator_as_onnx_means_it_or_refuses_it(name, data):
    made = CASES[name](Draw(data))
    model = model_of(made)
    expected = (
        [by_hand(made)]
        if name in POOLS
        else [found for by in (by_onnxruntime, by_reference) if (found := by(model, made.image)) is not None]
    )
    ran = {each: found for each in RUNTIMES if (found := by_runtime(each, model, made, name)) is not None}
    if name in DISPUTED:
        for first, second in zip(ran, list(ran)[1:]):
            assert alike(ran[first], ran[second]), (first, second)
        for found in ran.values():
            assert len(expected) < 2 or any(alike(found, each) for each in expected)
        return
    assert expected
    for runtime, found in ran.items():
        for each in expected:
            assert alike(found, each), runtime


def written(tmp_path, nodes, tensors=(), opset=18):
    """A file of a network for 12 x 12 images that ends in these nodes behind a convolution."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 3, 3, 3)).astype("float32")
    every = [helper.make_node("Conv", ["x", "w"], ["a"], name="first"), *nodes]
    known = [numpy_helper.from_array(weight, "w"), *(numpy_helper.from_array(value, name) for name, value in tensors)]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])
    shape = ["n", *([None] * (1 if nodes[-1].op_type == "Reshape" else 3))]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(every, "g", [image], [result], known)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=domains, ir_version=9))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx", model


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), dtype="uint8")


def node(kind, *inputs, to="y", **attributes):
    return helper.make_node(
        kind, () if kind == "Constant" else inputs or ("a",), [to], name=f"the {kind}", **attributes
    )


NETWORKS = {
    "pool whose last window begins in the padding": [node("MaxPool", kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1)],
    "pool of padding that counts": [
        node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1, count_include_pad=1)
    ],
    "padding by itself": [node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER")],
    "limits of limits": [
        node("Constant", to="c", value_float=0.5),
        node("Neg", "c", to="low"),
        node("Clip", "a", "low", "c"),
    ],
    "one limit": [node("Constant", to="c", value_float=0.5), node("Clip", "a", "", "c")],
    "reduction": [node("ReduceL1", axes=[2, 3])],
    "reshape by a shape": [
        node("Shape", to="s", start=0, end=1),
        node("Constant", to="rest", value_ints=[400]),
        node("Concat", "s", "rest", to="shape", axis=0),
        node("Reshape", "a", "shape"),
    ],
    "two halves": [
        helper.make_node("Split", ["a"], ["left", "right"], axis=1, num_outputs=2),
        node("Sub", "left", "right"),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_engines_have_the_features_and_bits_of_the_reference(tmp_path, photos, name):
    path, model = written(tmp_path, NETWORKS[name], opset=13 if name == "reduction" else 18)
    images = ((photos / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype("float32")
    (expected,) = by_onnxruntime(model, images, "x")
    expected = expected.reshape(len(images), -1)
    for runtime in RUNTIMES:
        engine = build_engine(path, runtime=runtime, smoke=False)
        features = engine(photos)
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-4, err_msg=runtime)
        np.testing.assert_array_equal(engine.bits(photos), np.packbits(features > 0, axis=1))
        if runtime == "torch":
            narrow = build_engine(path, precision="bf16", runtime="torch", smoke=False)(photos)
            assert np.linalg.norm(narrow - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("LRN", size=4)], "even size of LRN node 'the LRN'"),
        ([node("BatchNormalization", "a", "v", "v", "v", "v", training_mode=1)], "training_mode = 1"),
        ([node("Gelu", to="b", domain="com.microsoft"), node("Conv", "b", "k")], "the operator com.microsoft.Gelu"),
        ([node("Relu", to="b"), node("LayerNormalization", "b", "u", stash_type=16)], "stash_type 16"),
        ([node("Celu")], "the operator Celu"),
    ],
)
def test_what_a_runtime_does_not_honour_is_refused_with_its_name_and_value(tmp_path, nodes, message):
    tensors = [(name, np.ones(shape, "float32")) for name, shape in (("v", 4), ("u", 10), ("k", (4, 4, 1, 1)))]
    _, model = written(tmp_path, nodes, tensors)
    runtime = "openvino" if "LRN" in message else "torch"
    if runtime not in RUNTIMES:
        pytest.skip(f"no {runtime}")
    with pytest.raises(AurevoirError, match=message.replace(".", r"\.")) as caught:
        compile_graph(runtime, model.SerializeToString(), "fp32")
    assert "use runtime '" in str(caught.value)


def test_auto_takes_a_runtime_that_takes_the_graph(tmp_path, photos):
    path, _ = written(tmp_path, [node("GlobalLpPool", p=1)])
    engine = build_engine(path, device="cpu", smoke=False)
    assert engine.runtime == "onnxruntime"
    assert engine(photos).shape == (5, 4)
    assert build_engine(path, precision="int8", device="cpu", calibration=photos, smoke=False).runtime == "onnxruntime"
    even, _ = written(tmp_path, [node("LRN", size=4)])
    assert build_engine(even, device="cpu", smoke=False).runtime == "torch"
    assert choose_runtime("auto", "fp32", device="cpu") == "openvino"
