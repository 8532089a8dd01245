"""The Q/DQ graph: scales, rounding, bias correction and zero-points."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.placement import quantizable
from aurevoir.calibration.quantize import _round_weights, lower_bounds, quantize
from aurevoir.errors import AurevoirError, UsageError


def _model(nodes, initializers, output="y", channels=2):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 6, 6])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None, 6, 6])],
            [numpy_helper.from_array(value, name) for name, value in initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def _run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def test_quantized_convolution_equals_integer_arithmetic():
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 2, 1, 1)).astype("float32") * np.array([1, 10, 0])[:, None, None, None].astype("f4")
    bias = random.normal(size=3).astype("float32")
    x = random.normal(size=(2, 2, 6, 6)).astype("float32")
    model = _model([helper.make_node("Conv", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias})
    quantized = quantize(model, {"x": 1.5})
    onnx.checker.check_model(quantized, full_check=True)
    scales = np.abs(weight).reshape(3, -1).max(axis=1) / 127
    scales[scales == 0] = 1
    levels = np.rint(weight[:, :, 0, 0] / scales[:, None])
    inputs = np.clip(np.rint(x / np.float32(1.5 / 127)), -128, 127)
    expected = np.einsum("oc,ncij->noij", levels, inputs) * (scales[:, None, None] * 1.5 / 127) + bias[:, None, None]
    np.testing.assert_allclose(_run(quantized, x), expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_two_convolutions_read_is_quantized_once():
    weights = {name: np.ones((2, 2, 1, 1), "float32") for name in "vw"}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c", "x"], ["y"]),
    ]
    model = _model(nodes, weights)
    assert quantizable(model) == ["x", "b"]
    quantized = quantize(model, {"x": 1.0, "b": 2.0})
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("QuantizeLinear") == 2
    assert kinds.count("DequantizeLinear") == 4
    # What is not a convolution still reads the float tensor.
    assert list(quantized.graph.node[-1].input) == ["a", "b", "c", "x"]


def test_tensors_without_threshold_stay_in_floating_point():
    weights = {"w": np.ones((2, 2, 1, 1), "float32")}
    model = _model([helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"])], weights)
    quantized = quantize(model, {"a": 1.0})
    first, last = (node for node in quantized.graph.node if node.op_type == "Conv")
    assert list(first.input) == ["x", "w"]
    assert list(last.input) == ["a_dequantized", "w_dequantized"]


def test_a_graph_without_convolutions_is_refused():
    with pytest.raises(AurevoirError, match="no convolution to quantize"):
        quantize(_model([helper.make_node("Relu", ["x"], ["y"])], {}), {"x": 1.0})


def test_all_zero_activations_give_a_sound_graph():
    weights = {"w": np.zeros((2, 2, 1, 1), "float32")}
    model = _model([helper.make_node("Conv", ["x", "w"], ["y"])], weights)
    assert not _run(quantize(model, {"x": 0.0}), np.zeros((1, 2, 6, 6), "float32")).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5))
def test_rounding_keeps_the_sum_of_every_kernel(seed, outputs, inputs, size):
    weights = np.random.default_rng(seed).normal(size=(outputs, inputs, size, size)).astype("float32")
    levels, scales = _round_weights(weights)
    exact = weights.astype("float64") / scales.reshape(-1, 1, 1, 1)
    assert np.abs((levels - exact).sum(axis=(2, 3))).max() <= 0.5 + 1e-9
    assert np.abs(levels - exact).max() < 1.5
    assert np.abs(levels).max() <= 127


def test_a_kernel_whose_rounding_cancels_is_rounded_to_the_nearest():
    weights = np.array([[[[127.0, 0.4, -0.4, 3.0]]]], "float32")
    np.testing.assert_array_equal(_round_weights(weights)[0], np.rint(weights))


@pytest.mark.parametrize("groups", [1, 2])
def test_biases_take_up_the_mean_error_of_rounded_weights(groups):
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 4 // groups, 1, 1)).astype("float32")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=groups)]
    model = _model(nodes, {"w": weight}, channels=4)
    mean = [1.0, 3.0, 2.0, 5.0]
    x = np.broadcast_to(np.array(mean, "float32")[None, :, None, None], (1, 4, 6, 6)).copy()
    plain, corrected = (_run(quantize(model, {"x": 127.0}, means), x) for means in ({}, {"x": mean}))
    expected = _run(model, x)
    assert np.abs(plain - expected).max() > 1e-3
    np.testing.assert_allclose(corrected, expected, atol=1e-5)


def test_lower_bounds_are_found_through_pools_and_sums():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["x", "b"], ["d"]),
        helper.make_node("Clip", ["x", "zero", "six"], ["e"]),
        helper.make_node("Clip", ["x", "low", "six"], ["f"]),
        helper.make_node("Clip", ["x", "", "six"], ["g"]),
        helper.make_node("Concat", ["c", "d", "e", "f", "g"], ["y"], axis=1),
    ]
    limits = {name: np.array(value, "float32") for name, value in (("zero", 0), ("six", 6), ("low", -1))}
    assert lower_bounds(_model(nodes, limits)) == {"a": 0, "b": 0, "c": 0, "e": 0, "f": -1}


_GATES = {"sigmoid": ("Sigmoid", {}), "hard swish": ("HardSigmoid", {"alpha": 1 / 6}), "default": ("HardSigmoid", {})}


@pytest.mark.parametrize("kind", [*_GATES, "HardSwish", "Gelu"])
def test_lower_bounds_of_what_is_nearly_a_relu_are_reached_but_not_passed(kind):
    if kind in _GATES:
        name, options = _GATES[kind]
        nodes = [helper.make_node(name, ["x"], ["g"], **options), helper.make_node("Mul", ["g", "x"], ["y"])]
    else:
        nodes = [helper.make_node(kind, ["x"], ["y"])]
    model = _model(nodes, {})
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 20))
    x = np.linspace(-10, 10, 72 * 500, dtype="float32").reshape(500, 2, 6, 6)
    least = float(_run(model, x).min())
    bound = lower_bounds(model)["y"]
    assert bound - 1e-6 < least + 1e-6 and least - bound < 2e-4


@pytest.mark.parametrize("slope", [0.0, -0.2])
def test_a_hard_sigmoid_that_does_not_rise_gives_no_bound(slope):
    nodes = [helper.make_node("HardSigmoid", ["x"], ["g"], alpha=slope), helper.make_node("Mul", ["g", "x"], ["y"])]
    assert "y" not in lower_bounds(_model(nodes, {}))


def test_a_gate_keeps_bounds_and_another_factor_does_not():
    nodes = [
        helper.make_node("HardSwish", ["x"], ["a"]),
        helper.make_node("Softmax", ["x"], ["gate"]),
        helper.make_node("Mul", ["gate", "a"], ["b"]),
        helper.make_node("Mul", ["a", "a"], ["c"]),
        helper.make_node("Mul", ["a", "x"], ["d"]),
        helper.make_node("Mul", ["gate", "gate"], ["e"]),
        helper.make_node("Concat", ["b", "c", "d", "e"], ["y"], axis=1),
    ]
    assert lower_bounds(_model(nodes, {})) == {"a": -0.375, "gate": 0, "b": -0.375, "e": 0}


def test_unsigned_levels_begin_at_the_lower_bound_and_padding_stays_zero():
    weights = {"w": np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype("float32")}
    conv = helper.make_node("Conv", ["a", "w"], ["y"], pads=[1, 1, 1, 1])
    model = _model([helper.make_node("HardSwish", ["x"], ["a"]), conv], weights)
    x = np.random.default_rng(1).normal(scale=2, size=(4, 2, 6, 6)).astype("float32")
    expected = _run(model, x)
    threshold = float(x.max())
    signed, unsigned = (quantize(model, {"a": threshold}, activation_dtype=kind) for kind in ("int8", "uint8"))
    constants = {item.name: numpy_helper.to_array(item) for item in unsigned.graph.initializer}
    assert constants["a_zero"] == round(0.375 / (threshold + 0.375) * 255) and constants["a_zero"].dtype == np.uint8
    np.testing.assert_allclose(constants["a_scale"], (threshold + 0.375) / 255, rtol=1e-6)
    errors = [np.abs(_run(each, x) - expected).mean() for each in (signed, unsigned)]
    assert errors[1] < 0.75 * errors[0]
    narrow = quantize(model, {"a": 0.3}, activation_dtype="uint8")
    assert {item.name: item for item in narrow.graph.initializer}["a_zero"].data_type == onnx.TensorProto.INT8


def test_the_unsigned_dialect_halves_the_steps_of_what_cannot_be_negative():
    weights = {"w": np.ones((2, 2, 1, 1), "float32")}
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"])]
    # Padded, so that the signed levels are not shifted.
    model = _model([*nodes, helper.make_node("Conv", ["r", "w"], ["y"], pads=[1] * 4)], weights)
    found = {}
    for activation_dtype in ("int8", "uint8"):
        tensors = {
            item.name: numpy_helper.to_array(item)
            for item in quantize(model, {"x": 1, "r": 1}, None, activation_dtype).graph.initializer
        }
        found[activation_dtype] = {
            name: (tensors[f"{name}_zero"].dtype.name, 1 / tensors[f"{name}_scale"]) for name in "xr"
        }
    assert found["int8"] == {"x": ("int8", pytest.approx(127)), "r": ("int8", pytest.approx(127))}
    assert found["uint8"] == {"x": ("int8", pytest.approx(127)), "r": ("uint8", pytest.approx(255))}
    with pytest.raises(UsageError, match="activation dtype 'u4' is not known; choose one of int8, uint8"):
        quantize(model, {"x": 1}, None, "u4")


def test_a_relu_behind_its_own_batch_norm_gets_zero_point_one():
    stats = {name: np.full(2, value, "float32") for name, value in zip("sbmv", (1, 0, 0, 1))}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["q"]),
        helper.make_node("Conv", ["q", "w"], ["y"]),
    ]
    model = _model(nodes, {"w": np.ones((2, 2, 1, 1), "float32"), **stats})
    quantized = quantize(model, {"r": 1, "q": 1}, None, "uint8")
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    found = {name: (int(tensors[f"{name}_zero"]), 1 / tensors[f"{name}_scale"]) for name in "rq"}
    assert found == {"r": (1, pytest.approx(254)), "q": (0, pytest.approx(255))}
    x = np.random.default_rng(0).uniform(0, 0.5, size=(2, 2, 6, 6)).astype("float32")
    np.testing.assert_allclose(_run(quantized, x), _run(model, x), atol=0.04)
