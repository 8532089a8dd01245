"""ONNX files as backbones: their cuts, and which files are refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.onnx_file import read_onnx
from aurevoir.errors import AurevoirError, UsageError


def test_cutting_removes_what_lies_behind(tiny_onnx, written_by):
    backbone = open_backbone(tiny_onnx)
    whole, cut = backbone.to_onnx(None), backbone.to_onnx(written_by("Relu"))
    assert [node.op_type for node in cut.graph.node] == ["Conv", "Relu"]
    assert len(cut.graph.initializer) < len(whole.graph.initializer)


def test_cuts_of_an_onnx_file_are_its_bottlenecks(tiny_onnx, written_by):
    cuts = {cut.name: cut for cut in open_backbone(tiny_onnx).cuts()}
    inside = [node.output[0] for node in open_backbone(tiny_onnx).to_onnx(None).graph.node if node.op_type == "Conv"][1]
    assert inside not in cuts
    stem = cuts[written_by("Relu")]
    assert stem.features == 4 * 14 * 14
    assert stem.macs == 4 * 14 * 14 * 27
    assert stem.parameters == 4 * 27 + 4


def test_features_beyond_64_bits_are_counted_as_they_are(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["r"], ["y"])]
    shape = ["n", 3, 2**31 - 1, 2**31 - 1]
    ends = [[helper.make_tensor_value_info(name, 1, shape)] for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *ends)), tmp_path / "x.onnx")
    backbone = open_backbone(tmp_path / "x.onnx")
    assert [cut.features for cut in backbone.cuts()] == [3 * (2**31 - 1) ** 2] * 2
    with pytest.raises(AurevoirError, match="features an image, beyond 2\\^31|needs .* and the memory budget"):
        export_backbone(backbone)


def test_a_cut_before_the_node_that_holds_the_batch_is_taken(tmp_path):
    shape = ["n", 3, 8, 8]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "s"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=0, name="across"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, [3, 64])],
        [onnx.numpy_helper.from_array(np.array([3, 64]), "s")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "x.onnx")
    backbone = open_backbone(tmp_path / "x.onnx")
    with pytest.raises(AurevoirError, match=r"fixed batch of 1 in node 'across' \(Softmax\); export .* dynamic batch"):
        backbone.to_onnx(None)
    assert [node.op_type for node in backbone.to_onnx("r").graph.node] == ["Relu"]


def test_an_unknown_cut_names_near_ones(tiny_onnx, written_by):
    near = written_by("Relu")
    with pytest.raises(UsageError, match=rf"cut '{near}x' is not in tiny.onnx; nearest: {near}"):
        open_backbone(tiny_onnx).to_onnx(f"{near}x")
    with pytest.raises(UsageError, match="cut 'auto' is chosen on labelled images, by `aurevoir fit DATA --cut auto`"):
        open_backbone(tiny_onnx).to_onnx("auto")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(["batch", 28, 28], TensorProto.FLOAT), (["batch", 3, 28, 28], TensorProto.INT32), ([3], 1), (["n", 3, 8, 8], 99)],
)
def test_an_input_that_is_no_image_is_refused(tmp_path, shape, kind):
    value = helper.make_tensor_value_info("x", kind, shape)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", kind, shape)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "x.onnx")
    with pytest.raises(AurevoirError, match="not one float32 image"):
        read_onnx(tmp_path / "x.onnx")


def test_a_file_that_is_no_onnx_and_a_missing_one_are_named(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(AurevoirError, match="not a valid ONNX model"):
        open_backbone(tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="does not exist"):
        open_backbone(tmp_path / "none.onnx")


def test_weights_for_an_onnx_file_and_an_unfit_size_are_refused(tiny_onnx):
    with pytest.raises(UsageError, match="holds its own"):
        open_backbone(tiny_onnx, weights="random")
    with pytest.raises(UsageError, match="input size 32 does not fit"):
        open_backbone(tiny_onnx, size=32)


def _with_values(path, target, name, position, value):
    model = onnx.load(path)
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[position] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, target)
    return open_backbone(target)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["block.weight", "norm.running_mean"])
def test_weights_that_are_not_finite_are_named_if_they_lie_before_the_cut(tiny_onnx, tmp_path, written_by, name, value):
    backbone = _with_values(tiny_onnx, tmp_path / "broken.onnx", name, 3, value)
    assert backbone.resolve(written_by("Relu")) == written_by("Relu")
    with pytest.raises(AurevoirError, match=rf"broken.onnx holds nan or inf in 1 of its tensors up to .*\({name}\)"):
        backbone.to_onnx(None)
