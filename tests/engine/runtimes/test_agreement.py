"""Every runtime and precision agrees with the reference, ONNX Runtime in fp32."""

import numpy as np
import pytest
from onnx import numpy_helper

from aurevoir.engine.assemble import assemble, quantized_graph
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.runtimes import RUNTIMES, installed, runtime
from aurevoir.engine.sample import sample_images

PAIRS = [(name, precision) for name in RUNTIMES if installed(name) for precision in runtime(name).precisions()]


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_runtime_and_precision_agrees_with_the_reference(exported, table, pixels, reference, name, precision):
    engine = assemble(exported, precision, name, table if precision == "int8" else None)
    features = engine(pixels)
    bound = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2, "int8": 5e-2}[precision]
    assert features.dtype == np.float32
    assert np.linalg.norm(features - reference) < bound * np.linalg.norm(reference)
    bits = engine.bits(pixels)
    assert bits.dtype == np.uint8
    differ = np.unpackbits(bits, axis=1)[:, : engine.features] != (features > 0)
    assert differ.mean() <= (0 if precision == "fp32" else 0.01)
    assert (engine.input_shape, engine.runtime, engine.precision) == ((28, 28, 3), name, precision)


@pytest.mark.parametrize("name", sorted({name for name, _ in PAIRS}))
def test_batches_of_any_length_give_the_same_rows(exported, pixels, name):
    engine = assemble(exported, "fp32", name)
    whole = engine(pixels)
    np.testing.assert_allclose(np.concatenate([engine(pixels[:3]), engine(pixels[3:])]), whole, atol=1e-5)
    assert engine(pixels[:0]).shape == (0, engine.features)
    assert engine.bits(pixels[:0]).shape == (0, -(-engine.features // 8))


@pytest.fixture(scope="module")
def flat(tmp_path_factory, write_onnx):
    """Two fully connected layers behind a convolution, as VGG ends."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 24)
    )
    return export_backbone(open_backbone(write_onnx(net, tmp_path_factory.mktemp("flat") / "net.onnx")))


def test_fully_connected_layers_run_in_int8_on_every_runtime(flat, pixels):
    table = calibrate(flat, pixels, "max")
    assert len(table.thresholds) == 3
    exact = assemble(flat, "fp32", "onnxruntime")(pixels)
    for name in ("openvino", "onnxruntime"):
        features = assemble(flat, "int8", name, table)(pixels)
        assert 0 < np.linalg.norm(features - exact) < 0.05 * np.linalg.norm(exact)
    graph = quantized_graph(flat, table)
    kinds = {item.name: numpy_helper.to_array(item).dtype.name for item in graph.graph.initializer}
    assert sum(kind == "int8" and name.endswith("_quantized") for name, kind in kinds.items()) == 3


@pytest.mark.parametrize("name", ["mobilenet", "resnet"])
def test_real_backbones_agree_across_runtimes(name, request, data):
    path = request.getfixturevalue(name)
    exported = export_backbone(open_backbone(path))
    images = sample_images(data("calibration500"), (224, 224), 8)
    reference = assemble(exported, "fp32", "onnxruntime")(images)
    for other in ("openvino", "torch"):
        features = assemble(exported, "fp32", other)(images)
        # Fifty layers, each a few epsilons of its sums: closer to zero, either sign is right.
        sure = np.abs(reference) > 1000 * np.finfo("float32").eps * np.sqrt(np.mean(reference**2))
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(features[sure] > 0, reference[sure] > 0)
