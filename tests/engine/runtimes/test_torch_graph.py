"""ONNX graphs as torch modules: operators, types and networks."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

torch = pytest.importorskip("torch")

from aurevoir import build_engine  # noqa: E402
from aurevoir.calibration.graph.float16 import to_float16  # noqa: E402
from aurevoir.engine.assemble import assemble  # noqa: E402
from aurevoir.engine.backbone import open_backbone  # noqa: E402
from aurevoir.engine.float_graph import export_backbone  # noqa: E402
from aurevoir.engine.runtimes import on_torch  # noqa: E402
from aurevoir.engine.runtimes.torch_graph import TorchGraph  # noqa: E402
from aurevoir.errors import AurevoirError  # noqa: E402


def test_a_float16_graph_is_computed_in_the_types_that_it_has(exported, many):
    convolutions = [node for node in exported.graph.graph.node if node.op_type == "Conv"]
    full = [convolutions[0].output[0]]
    exact = assemble(exported, "fp32", "torch", device="cpu")(many)
    for kept in ([], full):
        graph = to_float16(exported.graph, kept)
        features, bits, pooled = on_torch.compile(graph.SerializeToString(), "fp16", "cpu")(many)
        assert (features.dtype, bits.dtype, pooled.dtype) == (np.float32, np.uint8, np.float32)
        error = np.linalg.norm(features - exact) / np.linalg.norm(exact)
        assert 1e-6 < error < 5e-3
        np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    dtypes = {name: tensor.dtype for name, tensor in TorchGraph(graph, None).named_buffers()}
    assert {torch.float16, torch.float32} <= set(dtypes.values())


def test_an_overflow_of_float16_is_kept_in_float32(tiny_onnx, tmp_path, many, monkeypatch):
    """As for TensorRT: what leaves float16's range on the images stays in float32."""
    model = onnx.load(tiny_onnx)
    weights = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [4, 3, 3, 3])
    values = onnx.numpy_helper.to_array(weights) * 6e4
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = tmp_path / "large.onnx"
    onnx.save(model, path)
    monkeypatch.setattr(on_torch, "precisions", lambda: ("fp32", "fp16", "bf16"))
    engine = build_engine(path, precision="fp16", runtime="torch", calibration=many[:40], device="cpu", smoke=False)
    assert engine.manifest.in_float32
    assert np.isfinite(engine(many)).all()
    assert engine.manifest.sign_agreement > 0.98


def test_an_operator_that_torch_does_not_know_is_named(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Celu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "celu.onnx")
    with pytest.raises(AurevoirError, match="does not support the operator Celu"):
        build_engine(tmp_path / "celu.onnx", runtime="torch")(np.zeros((1, 8, 8, 3), "uint8"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_networks_of_the_zoo_run_on_torch_as_on_the_reference(name, pixels):
    big = np.stack([np.asarray(Image.fromarray(image).resize((96, 96))) for image in pixels[:8]])
    exported = export_backbone(open_backbone(name, "random", 96), None, big)
    reference = assemble(exported, "fp32", "onnxruntime")(big)
    features = assemble(exported, "fp32", "torch")(big)
    np.testing.assert_allclose(features, reference, atol=1e-3 * np.abs(reference).max())
