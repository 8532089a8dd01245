"""Which tensors are quantized, and what shares a scale."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.placement import PLACEMENTS, ConcatGroup, concat_groups, quantizable, units
from aurevoir.calibration.quantize import quantize
from aurevoir.errors import UsageError

W = np.random.default_rng(0).normal(size=(2, 2, 1, 1)).astype("float32")


def _model(nodes, constants, output="y", shape=("batch", 2, 6, 6)):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def _run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


@pytest.fixture
def dense():
    """Two nested concatenations as in a dense block, a max pool before the first, a convolution on the last."""
    wide = np.ones((2, 6, 1, 1), "float32")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["p", "w"], ["a"]),
        helper.make_node("Concat", ["p", "a"], ["pa"], axis=1),
        helper.make_node("Sigmoid", ["pa"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["b"]),
        helper.make_node("Concat", ["p", "a", "b"], ["pab"], axis=1),
        helper.make_node("Conv", ["pab", "u"], ["y"]),
    ]
    return _model(nodes, {"w": W, "v": np.ones((2, 4, 1, 1), "float32"), "u": wide})


def test_the_sources_of_concatenations_share_one_scale(dense):
    assert concat_groups(dense) == [ConcatGroup(("r", "a", "b"), ("r", "p", "a", "pa", "b", "pab"))]
    assert quantizable(dense) == ["p", "s", "pab"]
    assert quantizable(dense, "shared-concat") == ["r", "p", "a", "s", "b", "pab"]
    assert units(dense, "shared-concat") == [["p"], ["s"], ["pab"], ["r", "a", "b"]]
    assert units(dense) == [["p"], ["s"], ["pab"]]


def test_a_shared_scale_is_the_largest_and_signed_where_one_is(dense):
    thresholds = {"r": 1.0, "p": 1.0, "a": 4.0, "s": 1.0, "b": 2.0, "pab": 3.0}
    quantized = quantize(dense, thresholds, None, "uint8", "shared-concat")
    onnx.shape_inference.infer_shapes(quantized, strict_mode=True, check_type=True)
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    for name in ("r", "p", "a", "b", "pab"):
        assert tensors[f"{name}_scale"] == np.float32(4 / 127)
        assert tensors[f"{name}_zero"].dtype == np.int8
    assert tensors["s_zero"].dtype == np.uint8
    reads = {node.output[0]: list(node.input) for node in quantized.graph.node}
    assert reads["p"] == ["r_dequantized"]
    assert reads["pa"] == ["p", "a_dequantized"]
    assert reads["pab"] == ["p", "a_dequantized", "b_dequantized"]
    assert reads["y"][0] == "pab_dequantized"


def test_concatenations_join_levels_of_their_own_scales_and_one_sign(dense):
    assert quantizable(dense, "concat-inputs") == quantizable(dense, "shared-concat")
    assert units(dense, "concat-inputs") == units(dense, "shared-concat")
    thresholds = {"r": 1.0, "p": 1.0, "a": 4.0, "s": 1.0, "b": 2.0, "pab": 3.0}
    quantized = quantize(dense, thresholds, None, "uint8", "concat-inputs")
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    for name in ("r", "a", "b"):
        assert tensors[f"{name}_scale"] == np.float32(thresholds[name] / 127)
        assert tensors[f"{name}_zero"].dtype == np.int8
    reads = {node.output[0]: list(node.input) for node in quantized.graph.node}
    assert reads["pab"] == ["p", "a_dequantized", "b_dequantized"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_relu_behind_a_batch_norm_is_raised_whatever_that_reads(placement):
    norm = dict.fromkeys(("scale", "bias", "mean", "var"), np.ones(4, "float32"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Concat", ["x", "a"], ["xa"], axis=1),
        helper.make_node("BatchNormalization", ["xa", *norm], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "u"], ["y"]),
    ]
    model = _model(nodes, {"w": W, "u": np.ones((2, 4, 1, 1), "float32"), **norm})
    quantized = quantize(model, {"x": 1.0, "a": 1.0, "r": 1.0}, None, "uint8", placement)
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    assert tensors["r_zero"].dtype == np.uint8
    assert tensors["r_zero"] == 1
    assert tensors["r_scale"] == np.float32(1 / 254)


def test_what_passes_a_concatenation_is_on_the_shared_levels(dense):
    thresholds = {"r": 1.0, "p": 1.0, "a": 4.0, "s": 1.0, "b": 9.0, "pab": 3.0}
    quantized = quantize(dense, thresholds, None, "int8", "shared-concat")
    del quantized.graph.output[:]
    quantized.graph.output.append(helper.make_tensor_value_info("pab", TensorProto.FLOAT, None))
    x = np.random.default_rng(1).normal(size=(2, 2, 6, 6)).astype("float32")
    levels = _run(quantized, x) * np.float32(127 / 9)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    dense.graph.output[0].name = "pab"
    assert np.abs(levels * np.float32(9 / 127) - _run(dense, x)).max() < 0.1


@pytest.mark.parametrize("placement", ["concat-inputs", "shared-concat"])
def test_a_group_without_all_its_thresholds_stays_in_float(dense, placement):
    quantized = quantize(dense, {"r": 1.0, "s": 1.0, "b": 2.0}, None, "int8", placement)
    reads = {node.output[0]: list(node.input) for node in quantized.graph.node}
    assert reads["pa"] == ["p", "a"]
    assert reads["p"] == ["r"]
    assert reads["b"][0] == "s_dequantized"


def test_concatenations_of_other_axes_and_of_constants_share_nothing():
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["t"], axis=2),
        helper.make_node("Concat", ["t", "c"], ["k"], axis=1),
        helper.make_node("MaxPool", ["k"], ["y"], kernel_shape=[1, 1]),
    ]
    assert concat_groups(_model(nodes, {"c": np.zeros((1, 2, 12, 6), "float32")})) == []


def test_an_unknown_placement_is_named(dense):
    with pytest.raises(
        UsageError, match="placement 'concat' is not known; choose one of conv-inputs, concat-inputs, shared-concat"
    ):
        quantizable(dense, "concat")
    with pytest.raises(UsageError, match="placement 'concat' is not known"):
        quantize(dense, {"s": 1.0}, None, "int8", "concat")


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1), (5, 8)),
        (helper.make_node("Gemm", ["f", "w", "b"], ["y"]), (8, 5)),
        (helper.make_node("MatMul", ["f", "w"], ["y"]), (8, 5)),
    ],
)
def test_matrix_products_are_quantized_per_output(node, shape):
    random = np.random.default_rng(0)
    axis = shape.index(5)
    sizes = np.array([1, 100, 0, 0.01, 3], "float32")
    weights = (random.normal(size=shape) * np.expand_dims(sizes, 1 - axis)).astype("float32")
    model = _model(
        [helper.make_node("Flatten", ["x"], ["f"]), node],
        {"w": weights, "b": np.ones(5, "float32")},
        shape=["batch", 2, 2, 2],
    )
    assert quantizable(model) == ["f"]
    quantized = quantize(model, {"f": 4.0})
    onnx.shape_inference.infer_shapes(quantized, strict_mode=True, check_type=True)
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    assert tensors["w_quantized"].shape == shape
    largest = np.abs(weights).max(axis=1 - axis) / 127
    # Of a channel without weights: so small that the bias of 1 keeps 30 bits, or 15 where the product has none.
    smallest = 2.0 ** (-30 if len(node.input) > 2 else -15) / np.float32(4 / 127)
    np.testing.assert_allclose(tensors["w_scale"], np.where(largest > 0, largest, smallest), rtol=1e-6)
    x = random.normal(size=(3, 2, 2, 2)).astype("float32")
    expected = _run(model, x)
    error = np.abs(_run(quantized, x) - expected).max(axis=0) / np.maximum(np.abs(expected).max(axis=0), 1e-9)
    assert (error < 0.03).all()


def test_products_of_two_computed_tensors_and_transposed_ones_stay_in_float():
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "f"], ["g"], transB=1),
        helper.make_node("Gemm", ["g", "w"], ["y"], transA=1),
    ]
    assert quantizable(_model(nodes, {"w": np.ones((1, 3), "float32")})) == []


def test_what_does_not_lead_to_the_first_output_stays_in_float():
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["packed"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    assert quantizable(_model(nodes, {"w": np.ones((72, 3), "float32")})) == []


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_gates_stay_in_float_and_heads_on_the_same_averages_do_not(pool):
    inputs = ["a"] if pool == "GlobalAveragePool" else ["a", "axes"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node(pool, inputs, ["p"]),
        helper.make_node("Conv", ["p", "w"], ["squeezed"]),
        helper.make_node("Relu", ["squeezed"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["excited"]),
        helper.make_node("Sigmoid", ["excited"], ["gate"]),
        helper.make_node("Mul", ["a", "gate"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w"], ["y"]),
    ]
    assert quantizable(_model(nodes, {"w": W, "axes": np.array([2, 3])})) == ["x", "scaled", "pooled"]
