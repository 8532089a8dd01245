"""Export: the float graph of an engine equals the network it came from."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.graph.batch_norm import fold_batch_norms
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.normal_form import prepare
from aurevoir.engine.onnx_file import read_onnx


def _run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def test_folding_batch_norms_changes_the_graph_but_not_the_outputs(tiny_onnx):
    original = onnx.load(tiny_onnx)
    folded = prepare(original)
    counts = [collections.Counter(node.op_type for node in model.graph.node) for model in (original, folded)]
    assert counts[0]["BatchNormalization"] == 2
    assert "BatchNormalization" not in counts[1]
    image = np.random.default_rng(0).normal(size=(3, 3, 28, 28)).astype("float32")
    name = original.graph.input[0].name
    np.testing.assert_allclose(_run(folded, {name: image})[0], _run(original, {name: image})[0], atol=2e-5)


def test_a_batch_norm_after_a_shared_convolution_stays():
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), "float32"), "w")
    stats = [numpy_helper.from_array(np.full(3, value, "float32"), name) for name, value in zip("sbmv", (2, 1, 0, 1))]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Add", ["c", "n"], ["y"]),
    ]
    shape = ["batch", 3, 4, 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight, *stats],
    )
    folded = fold_batch_norms(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "BatchNormalization", "Add"]


def test_the_graph_normalises_flattens_and_packs(tiny_onnx, pixels):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    exported = export_backbone(open_backbone(tiny_onnx), normalization=(mean, std))
    features, bits, pooled = _run(exported.graph, {"images": pixels})
    images = ((pixels / 255 - mean) / std).astype("float32").transpose(0, 3, 1, 2)
    model = onnx.load(tiny_onnx)
    expected = _run(model, {model.graph.input[0].name: images})[0]
    np.testing.assert_allclose(features, expected.reshape(len(pixels), -1), atol=2e-4)
    np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    assert exported.features == features.shape[1] == 4 * 7 * 7
    np.testing.assert_allclose(pooled, np.maximum(features, 0).reshape(-1, 4, 49).mean(2, dtype="float64"), atol=1e-6)
    assert exported.pooled == 4


def test_bits_are_padded_where_m_is_no_multiple_of_eight(tiny_onnx, written_by, pixels):
    for tensor in (written_by("Relu"), open_backbone(tiny_onnx).resolve(None)):
        exported = export_backbone(open_backbone(tiny_onnx), tensor)
        features, bits, _ = _run(exported.graph, {"images": pixels[:3]})
        np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    assert exported.features % 8 == 4


def test_one_graph_takes_any_batch_size(tiny_onnx, pixels):
    graph = export_backbone(open_backbone(tiny_onnx)).graph
    whole = _run(graph, {"images": pixels})[0]
    np.testing.assert_allclose(_run(graph, {"images": pixels[:1]})[0], whole[:1], atol=1e-5)


def test_the_graph_holds_no_path_and_no_stack_trace(tiny_onnx):
    text = export_backbone(open_backbone(tiny_onnx)).graph.SerializeToString()
    assert b"site-packages" not in text
    assert b"/tmp" not in text


def test_constants_that_are_nodes_are_quantizable_like_others(tiny_onnx):
    model = onnx.load(tiny_onnx)
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        model.graph.initializer.remove(tensor)
    lifted = prepare(model)
    assert {node.op_type for node in lifted.graph.node} == {
        node.op_type for node in prepare(onnx.load(tiny_onnx)).graph.node
    }
    assert len(lifted.graph.initializer) > 0


@pytest.mark.parametrize("opset", [9, 11])
def test_an_old_opset_is_upgraded(tmp_path, tiny_onnx, opset, pixels):
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("float32"), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 28, 28])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    onnx.save(model, tmp_path / "old.onnx")
    exported = export_backbone(open_backbone(tmp_path / "old.onnx"))
    assert _run(exported.graph, {"images": pixels})[0].shape == (len(pixels), 4 * 28 * 28)


def test_external_weights_are_read(tmp_path, tiny_onnx):
    onnx.save(onnx.load(tiny_onnx), tmp_path / "outside.onnx", save_as_external_data=True, size_threshold=0)
    outside, inside = read_onnx(tmp_path / "outside.onnx"), read_onnx(tiny_onnx)
    feeds = {inside.graph.input[0].name: np.ones((1, 3, 28, 28), "float32")}
    np.testing.assert_array_equal(_run(outside, feeds), _run(inside, feeds))
