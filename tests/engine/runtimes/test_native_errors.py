"""Errors of native libraries are one line that says what was refused, not where in their sources."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from aurevoir.cli.faults import explain
from aurevoir.engine.child import _called
from aurevoir.engine.runtimes.native_errors import native_errors, reason
from aurevoir.errors import AurevoirError


def _graph(kind, *inputs, **constants):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [2, 3, 8, 8]), ("y", None))]
    graph = helper.make_graph([helper.make_node(kind, inputs, ["y"])], "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


CHANNELS = _graph("Conv", "x", "w", w=np.ones((4, 5, 3, 3), "float32"))
SHAPES = _graph("MatMul", "x", "w", w=np.ones((5, 3), "float32"))
NO_RULE = _graph("Det", "x")


def _refused(read, graph):
    with pytest.raises(Exception) as caught:
        read(graph)
    return caught.value


def _openvino(graph):
    import openvino

    core = openvino.Core()
    core.compile_model(core.read_model(graph), "CPU")


def _onnxruntime(graph):
    import onnxruntime

    onnxruntime.InferenceSession(graph)


@pytest.mark.parametrize(
    ("read", "graph", "telling"),
    [
        (_openvino, CHANNELS, "Data batch channel count (3) does not match filter input channel count (5)"),
        (_openvino, SHAPES, "Incompatible MatMul matrix dimension"),
        (_openvino, NO_RULE, "No conversion rule found for operations: Det-17"),
        (_onnxruntime, SHAPES, "Incompatible dimensions for matrix multiplication"),
    ],
)
def test_the_telling_line_is_shown_wherever_a_library_refuses_a_graph(read, graph, telling):
    error = _refused(read, graph)
    lines = [reason(error), explain(error), _called(lambda: read(graph), [])]
    with pytest.raises(AurevoirError) as caught, native_errors("openvino", "compile"):
        read(graph)
    for line in (*lines, str(caught.value)):
        assert telling in line
        assert "\n" not in line
        assert "src/" not in line
        assert "friendly_name" not in line
        assert len(line) < 500
    assert lines[1].startswith(f"{read.__name__[1:]} failed: ")


def test_a_processor_without_avx_is_named_where_openvino_s_code_fails():
    with pytest.raises(AurevoirError) as caught, native_errors("openvino", "run"):
        raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nbad combination\n\n")
    assert str(caught.value) == (
        "runtime 'openvino' cannot run this network: OpenVINO's own machine code fails where there is no AVX, or "
        "ONEDNN_MAX_CPU_ISA or DNNL_MAX_CPU_ISA leaves it out; use runtime 'onnxruntime' or 'torch', or another cut"
    )
