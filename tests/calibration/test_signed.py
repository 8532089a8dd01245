"""Signed activations use more of their levels, at no node more, and the graph computes what it did."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.graph.float16 import to_float16
from aurevoir.calibration.quantize import quantize
from aurevoir.calibration.signed import depthwise_inputs, use_more_levels

CHANNELS = 6
WIDTHS = np.array([1, 0.5, 0.25, 0.1, 0.05, 0.01])
"""How far the channels of the first activation reach, as shares of the first."""


def _network(activation="Relu", kind="dense", pads=0, batch_norm=False, low=0.0, **options):
    """Return a convolution, an activation "a", and a second convolution of its outcome, over x (b, 3, 8, 8)."""
    random = np.random.default_rng(0)
    size = 3 if pads else 1
    tensors = {
        "w1": random.normal(size=(CHANNELS, 3, 3, 3)) * WIDTHS.reshape(-1, 1, 1, 1),
        "b1": random.normal(size=CHANNELS) * WIDTHS,
        "w2": random.normal(size=(2 * CHANNELS, 1 if kind == "depthwise" else CHANNELS, size, size)),
        "low": np.array(low),
        "six": np.array(6.0),
        **{name: random.uniform(0.5, 1.5, CHANNELS) for name in ("gamma", "beta", "mean", "var")},
    }
    limits = {"Relu": [], "Clip": ["low", "six"]}[activation]
    nodes = [
        helper.make_node("Conv", ["x", "w1"] if batch_norm else ["x", "w1", "b1"], ["c1"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]),
        helper.make_node(activation, ["n1" if batch_norm else "c1", *limits], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["c2"], pads=[pads] * 4, group=CHANNELS if kind == "depthwise" else 1),
        helper.make_node("GlobalAveragePool", ["a"], ["pooled"]),
    ]
    nodes = [node for node in nodes if batch_norm or node.op_type != "BatchNormalization"]
    outputs = ["c2", *options.get("outputs", ())]
    nodes = nodes if "pooled" in outputs else nodes[:-1]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value.astype("float32"), name) for name, value in tensors.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model, x, *outputs):
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    extended.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(extended.SerializeToString(), options)
    return session.run(list(outputs) or ["c2"], {"x": x})


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype("float32")


def _ranges(model, x):
    (values,) = _run(model, x, "a")
    return {"x": float(np.abs(x).max()), "a": float(values.max())}, {"a": values.max(axis=(0, 2, 3)).tolist()}


_CHANGED = [
    ("dense", 0, {"batch_norm": False}, "shifted"),
    ("dense", 0, {"batch_norm": True}, "shifted"),
    ("depthwise", 0, {}, "both"),
    ("depthwise", 1, {}, "widened"),
]


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize(("kind", "pads", "options", "how"), _CHANGED)
def test_the_changed_graph_computes_the_same_with_more_levels(x, kind, pads, options, how, activation):
    model = _network(activation, kind, pads, **options)
    thresholds, peaks = _ranges(model, x)
    changed, changes = use_more_levels(model, thresholds, peaks)
    assert list(changes) == ["a"]
    np.testing.assert_allclose(_run(changed, x)[0], _run(model, x)[0], rtol=1e-4, atol=1e-4)
    before, after = _run(model, x, "a")[0], _run(changed, x, "a")[0]
    np.testing.assert_allclose(changes["a"].undo(after), before, atol=1e-5 * thresholds["a"])
    assert len(changed.graph.node) == len(model.graph.node)
    top = min(thresholds["a"], 6.0) if activation == "Clip" else thresholds["a"]
    least = -top * 128 / 255 if how != "widened" else 0
    assert (after.min(), after.max()) == (pytest.approx(least, abs=1e-5), pytest.approx(top + least, rel=1e-5))
    reaches = (after.max(axis=(0, 2, 3)) - least) / top
    if how == "shifted":
        np.testing.assert_allclose(changes["a"].factors, 1)
    else:
        # The widest channel is as it was; one that is 1 % as wide becomes a tenth.
        assert reaches[0] == pytest.approx(1, rel=0.2)
        np.testing.assert_allclose(reaches, np.array(peaks["a"]) / top * changes["a"].factors, rtol=1e-4)
        assert changes["a"].factors.max() == pytest.approx(1 / 0.1, rel=0.2)


@pytest.mark.parametrize(("kind", "pads", "options", "how"), _CHANGED)
def test_the_quantized_graph_is_at_least_as_exact_as_an_unsigned_one(x, kind, pads, options, how):
    model = _network("Relu", kind, pads, **options)
    thresholds, peaks = _ranges(model, x)
    reference = _run(model, x)[0]

    def error(dtype, peaks=None):
        low = quantize(model, {"a": thresholds["a"]}, activation_dtype=dtype, peaks=peaks)
        zeros = [numpy_helper.to_array(item) for item in low.graph.initializer if item.name.endswith("_zero")]
        assert dtype == "uint8" or all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
        # Of each channel by its own width, as the weights of a depthwise convolution are.
        widths = np.abs(reference).max(axis=(0, 2, 3), keepdims=True)
        return np.sqrt((((_run(low, x)[0] - reference) / widths) ** 2).mean())

    unsigned, signed = error("uint8"), error("int8", peaks)
    assert signed < 1.1 * unsigned
    if how != "shifted":
        assert signed < 0.5 * unsigned


def test_a_bias_takes_the_sums_of_the_rounded_weights(x):
    model = _network()
    thresholds, _ = _ranges(model, x)
    low = quantize(model, thresholds)
    (value,) = _run(low, np.zeros_like(x))
    biases = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}["b1"]
    silent = biases < 0
    assert silent.any() and not silent.all()
    levels = np.rint(np.maximum(biases, 0) / (thresholds["a"] / 255)) * (thresholds["a"] / 255)
    weights = {item.name: numpy_helper.to_array(item) for item in low.graph.initializer}
    rounded = weights["w2_quantized"][:, :, 0, 0] * weights["w2_scale"][:, None].astype("float64")
    np.testing.assert_allclose(value[:, :, 4, 4], [rounded @ levels] * 4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pads": 1}, "zeros that are padded would stand for the shift"),
        ({"outputs": ["pooled"]}, "what else reads it would see the shift"),
        ({"outputs": ["a"]}, "it is an output"),
        ({"outputs": ["c1"]}, "what it is computed from is an output"),
        ({"activation": "Clip", "low": -1.0}, "zero is none of its ends"),
    ],
)
def test_what_would_be_seen_is_not_changed(x, options, why):
    model = _network(**options)
    assert use_more_levels(model, {"x": 3.0, "a": 12.0}, {"a": [1.0] * CHANNELS})[1] == {}, why
    assert [node.op_type for node in quantize(model, {"x": 3.0, "a": 12.0}).graph.node].count("Relu") == (
        0 if "activation" in options else 1
    )


def test_activations_without_threshold_or_with_constants_beyond_float16_are_not_changed(x):
    model = _network(kind="depthwise")
    assert use_more_levels(model, {"x": 3.0}, {})[1] == {}
    assert use_more_levels(model, {"x": 3.0, "a": 0.0}, {})[1] == {}
    for threshold, changed in ((1e3, ["a"]), (2e5, [])):
        assert list(use_more_levels(model, {"a": threshold}, {})[1]) == changed
        to_float16(quantize(model, {"x": 3.0, "a": threshold}))


def test_peaks_are_taken_of_what_only_depthwise_convolutions_read():
    assert depthwise_inputs(_network(kind="depthwise", pads=1)) == ["a"]
    assert depthwise_inputs(_network(kind="depthwise", pads=1, outputs=["pooled"])) == []
    assert depthwise_inputs(_network()) == []


def test_unsigned_graphs_are_not_changed(x):
    model = _network(kind="depthwise")
    thresholds, peaks = _ranges(model, x)
    low = [quantize(model, thresholds, None, "uint8", peaks=each) for each in (None, peaks)]
    assert low[0].SerializeToString() == low[1].SerializeToString()
    assert "Clip" not in [node.op_type for node in low[0].graph.node]
