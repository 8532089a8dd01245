"""Reading and editing ONNX graphs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.graph.edit import make_room, tensor_names, tensor_shapes, type_name
from aurevoir.calibration.graph.float16 import to_float16
from aurevoir.calibration.graph.openvino_fixes import as_openvino_reads, exact_in_bf16, offset_around_concats
from aurevoir.calibration.graph.overflow import with_magnitudes


def test_a_length_below_0_is_as_unknown_as_none():
    ends = [helper.make_tensor_value_info(name, 1, ["n", 3, -7, 2**40]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    assert tensor_shapes(helper.make_model(graph))["y"] == [None, 3, None, 2**40]


def test_types_have_names_also_those_that_onnx_does_not_know():
    assert [type_name(kind) for kind in (1, 2, 99)] == ["float", "uint8", "type 99"]


def _network(*names):
    """A graph with what each pass rewrites, behind a chain of tensors and nodes of these names."""
    nodes, last = [], "x"
    for name in names:
        nodes.append(helper.make_node("Mul", [last, "unit"], [name], name=name))
        last = name
    signed = ["unit", "zero"]
    nodes += [
        helper.make_node("QuantizeLinear", [last, *signed], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *signed], ["dq"]),
        helper.make_node("Concat", ["dq", "dq"], ["joined"], axis=1),
        helper.make_node("QuantizeLinear", ["joined", *signed], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", *signed], ["dq2"]),
        helper.make_node("Conv", ["dq2", "w"], ["conv"]),
        helper.make_node(
            "AveragePool",
            ["conv"],
            ["pool"],
            kernel_shape=[3, 3],
            strides=[2, 2],
            ceil_mode=1,
            pads=[1, 1, 1, 1],
            count_include_pad=1,
            name="pool",
        ),
        helper.make_node("ReduceLogSumExp", ["pool"], ["reduced"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceL1", ["pool"], ["reduced2"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["reduced", "reduced2"], ["features"]),
        helper.make_node("Greater", ["features", "nought"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["classifier/bits"], name="classifier/bits", to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["classifier/bits", *signed], ["q3"]),
        helper.make_node("DequantizeLinear", ["q3", *signed], ["left"]),
        helper.make_node("DequantizeLinear", ["rows", *signed], ["right"]),
        helper.make_node("MatMul", ["left", "right"], ["y"], name="classifier/product"),
    ]
    random = np.random.default_rng(0)
    constants = {
        "unit": np.float32(1),
        "zero": np.int8(0),
        "nought": np.float32(-30),
        "w": random.normal(size=(8, 8, 1, 1)).astype("float32"),
        "rows": random.integers(-100, 100, (8, 3), dtype="int8"),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


PASSES = {
    "OpenVINO's windows and reductions": as_openvino_reads,
    "offsets": offset_around_concats,
    "bf16": lambda model: exact_in_bf16(model, "classifier/"),
    "float16": lambda model: to_float16(model, ["features", "reduced"]),
    "magnitudes": lambda model: with_magnitudes(model)[0],
}


@pytest.mark.parametrize("name", PASSES)
def test_a_graph_may_have_the_names_of_what_is_added(name):
    rewrite = PASSES[name]
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype("float32") * 30
    plain = _network()
    expected = _run(plain, x)
    added = sorted(tensor_names(rewrite(_network())) - tensor_names(plain))
    assert added
    again = rewrite(_network(*added))
    onnx.checker.check_model(again, full_check=name != "bf16")
    assert tensor_names(again) > {*added}
    if name != "bf16":
        found = _run(again, x)
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-3)


def test_what_is_in_the_way_is_renamed_and_computes_the_same():
    model = _network("label", "label_inner")
    make_room(model, lambda name: name in ("label", "conv", "w", "x", "y", "reduced"))
    onnx.checker.check_model(model, full_check=True)
    names = tensor_names(model)
    assert names.isdisjoint({"label", "conv", "w", "reduced"})
    assert names >= {"x", "y", "label_inner", "label_inner_"}
    assert "label" not in {node.name for node in model.graph.node}
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype("float32")
    found, expected = (_run(each, x) for each in (model, _network()))
    np.testing.assert_array_equal(found, expected)
