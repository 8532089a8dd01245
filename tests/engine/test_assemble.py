"""The int8 graph of an engine: what is quantized, and that no sum overflows."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.errors import AurevoirError


def test_int8_quantizes_every_convolution_and_no_bias(exported, table):
    nodes = onnx.load_from_string(assemble(exported, "int8", table=table).graph).graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert convolutions
    assert all({node.input[0], node.input[1]} <= dequantized for node in convolutions)
    assert all(node.input[2] not in dequantized for node in convolutions if len(node.input) > 2)


@pytest.mark.parametrize(("dot_product", "largest"), [(True, 127), (False, 63)])
def test_no_sum_of_two_products_overflows_where_16_bits_hold_it(
    exported, table, pixels, reference, monkeypatch, dot_product, largest
):
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: dot_product)
    for name in ("openvino", "onnxruntime"):
        engine = assemble(exported, "int8", name, table, activation_dtype="uint8")
        constants = map(onnx.numpy_helper.to_array, onnx.load_from_string(engine.graph).graph.initializer)
        weights = [values for values in constants if values.dtype == np.int8 and values.ndim == 4]
        assert [np.abs(values).max() for values in weights] == [largest] * 2
        if not dot_product:
            assert 2 * 255 * largest < 2**15
            assert np.linalg.norm(engine(pixels) - reference) < 5e-2 * np.linalg.norm(reference)


def test_a_table_of_another_backbone_names_a_tensor_that_is_not_there(exported, table):
    strange = replace(table, graph="0" * 64, thresholds={"stranger": 1.0, **table.thresholds})
    with pytest.raises(AurevoirError, match=r"1 of its 3 tensors are not in this graph \(first: stranger\): another"):
        assemble(exported, "int8", table=strange)
