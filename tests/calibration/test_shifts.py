"""Shifted activations: all signed levels are used, at no node more, and nothing else changes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.quantize import quantize
from aurevoir.calibration.shifts import shifts_of
from aurevoir.engine.runtimes import compile_graph


def _network(activation="Relu", pads=0, batch_norm=False, extra_reader=False):
    """Return a convolution, an activation and a second convolution of its outcome, over images (b, 3, 8, 8)."""
    random = np.random.default_rng(0)
    tensors = {
        # Exact in int8, so that nothing but the activation is rounded.
        "w1": random.integers(-1, 2, (6, 3, 3, 3)),
        "b1": random.normal(size=6),
        "w2": random.integers(-1, 2, (5, 6, 3 if pads else 1, 3 if pads else 1)),
        "zero": np.array(0.0),
        "six": np.array(6.0),
        **{name: random.uniform(0.5, 1.5, 6) for name in ("gamma", "beta", "mean", "var")},
    }
    limits = {"Relu": [], "Clip": ["zero", "six"]}[activation]
    nodes = [
        helper.make_node("Conv", ["x", "w1"] if batch_norm else ["x", "w1", "b1"], ["c1"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]),
        helper.make_node(activation, ["n1" if batch_norm else "c1", *limits], ["a1"]),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], pads=[pads] * 4),
    ]
    if extra_reader:
        nodes.append(helper.make_node("GlobalAveragePool", ["a1"], ["p1"]))
    read = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if batch_norm or node.op_type != "BatchNormalization"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ["c2", *["p1"] * extra_reader]]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8])],
        ends,
        [numpy_helper.from_array(value.astype("float32"), name) for name, value in tensors.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _outputs(model, images):
    return compile_graph("onnxruntime", _images(model).SerializeToString(), "fp32")(images)


def _images(model):
    """Rename the input to what runtimes feed."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    renamed.graph.input[0].name = "images"
    for node in renamed.graph.node:
        node.input[:] = ["images" if name == "x" else name for name in node.input]
    return renamed


@pytest.fixture(scope="module")
def images():
    return np.rint(16 * np.random.default_rng(1).normal(size=(4, 3, 8, 8))).astype("float32") / 16


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_a_shifted_graph_is_as_exact_as_an_unsigned_one(images, activation, batch_norm):
    model = _network(activation, batch_norm=batch_norm)
    reference = _outputs(model, images)[0]
    thresholds = {"x": 127 / 16, "a1": 6.0 if activation == "Clip" else 30.0}
    low = {kind: quantize(model, thresholds, activation_dtype=kind) for kind in ("int8", "uint8")}
    assert shifts_of(model, low["int8"], ["x", "a1"]) == pytest.approx([0, thresholds["a1"] / 2])
    assert len(low["int8"].graph.node) == len(low["uint8"].graph.node)
    zeros = [t for t in low["int8"].graph.initializer if t.name.endswith("_zero")]
    assert all(t.data_type == TensorProto.INT8 and not numpy_helper.to_array(t).any() for t in zeros)
    errors = {kind: np.linalg.norm(_outputs(each, images)[0] - reference) for kind, each in low.items()}
    plain = _outputs(quantize(_network(activation, extra_reader=True, batch_norm=batch_norm), thresholds), images)[0]
    assert errors["int8"] < 1.1 * errors["uint8"]
    assert errors["int8"] < 0.6 * np.linalg.norm(plain - reference)


def test_what_no_level_rounds_is_the_float_graph(images):
    model, pixels = _network(), np.clip(np.rint(images), -1, 1)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.arange(6, dtype="float32"), "b1"))
    found = _outputs(quantize(model, {"x": 127.0, "a1": 254.0}), pixels)[0]
    np.testing.assert_allclose(found, _outputs(model, pixels)[0], atol=1e-3)


@pytest.mark.parametrize("options", [{"pads": 1}, {"extra_reader": True}])
def test_what_padding_or_another_reader_would_see_is_not_shifted(options):
    model = _network(**options)
    low = quantize(model, {"x": 3.0, "a1": 12.0})
    assert shifts_of(model, low, ["x", "a1"]) == [0, 0]
    assert [node.op_type for node in low.graph.node].count("Relu") == 1
