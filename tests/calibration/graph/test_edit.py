"""Reading and editing ONNX graphs."""

from onnx import helper

from aurevoir.calibration.graph.edit import tensor_shapes, type_name


def test_a_length_below_0_is_as_unknown_as_none():
    ends = [helper.make_tensor_value_info(name, 1, ["n", 3, -7, 2**40]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    assert tensor_shapes(helper.make_model(graph))["y"] == [None, 3, None, 2**40]


def test_types_have_names_also_those_that_onnx_does_not_know():
    assert [type_name(kind) for kind in (1, 2, 99)] == ["float", "uint8", "type 99"]
