"""Networks that concatenate, from calibration to OpenVINO and ONNX Runtime."""

import numpy as np
import onnx
import pytest

from aurevoir.calibration.graph.edit import chain_concats
from aurevoir.calibration.graph.openvino_fixes import offset_around_concats, raise_averages
from aurevoir.calibration.placement import PLACEMENTS, concat_groups, quantizable
from aurevoir.calibration.quantize import ACTIVATION_DTYPES, quantize
from aurevoir.engine.assemble import assemble, quantized_graph
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate, reach_sign_agreement, tensor_fidelity
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.runtimes import on_openvino, runtime
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images.procedural import PATTERNS, draw


@pytest.fixture(scope="module")
def table(branching, pixels):
    return calibrate(branching, pixels, "max", placement="shared-concat")


@pytest.mark.parametrize("activation_dtype", ACTIVATION_DTYPES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_openvino_agrees_with_onnxruntime_next_to_concatenations(branching, table, pixels, placement, activation_dtype):
    features = {
        name: assemble(branching, "int8", name, table, activation_dtype=activation_dtype, placement=placement)(pixels)
        for name in ("openvino", "onnxruntime")
    }
    exact = assemble(branching, "fp32", "onnxruntime")(pixels)
    apart = np.linalg.norm(features["openvino"] - features["onnxruntime"])
    assert apart < 0.02 * np.linalg.norm(exact)
    assert 0 < np.linalg.norm(features["onnxruntime"] - exact) < 0.05 * np.linalg.norm(exact)


def test_offset_levels_are_the_same_numbers(branching, table, pixels):
    graph = quantize(branching.graph, table.thresholds, table.means, "int8", "shared-concat")
    offset = offset_around_concats(onnx.load_from_string(graph.SerializeToString()))
    assert sum("offset_zero" in node.input for node in offset.graph.node) >= 8
    run = [runtime("onnxruntime").compile(each.SerializeToString(), "int8", "cpu") for each in (graph, offset)]
    np.testing.assert_allclose(run[0](pixels)[0], run[1](pixels)[0], atol=1e-5)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory, write_onnx):
    """What an inception block does: an average pool pads what a concatenation joins, a convolution reads both."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.pool = nn.Conv2d(3, 16, 3, 2, 1), nn.AvgPool2d(3, 1, 1)
            self.one, self.two = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)
            self.left, self.right = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 8, 1)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            both = torch.cat([torch.relu(self.one(x)), torch.relu(self.two(x))], 1)
            return torch.cat([self.left(both), self.right(self.pool(both))], 1)

    torch.manual_seed(0)
    return export_backbone(open_backbone(write_onnx(Net(), tmp_path_factory.mktemp("pooling") / "net.onnx")))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_padded_levels_are_right_or_refused(pooling, pixels, placement):
    table = calibrate(pooling, pixels, "max", placement=placement)
    exact = assemble(pooling, "fp32", "onnxruntime")(pixels)
    for activation_dtype in ACTIVATION_DTYPES:
        engine = assemble(pooling, "int8", "openvino", table, activation_dtype=activation_dtype, placement=placement)
        if activation_dtype == "int8" and placement != "conv-inputs":
            with pytest.raises(AurevoirError, match="use activation dtype uint8, or placement conv-inputs"):
                engine(pixels)
        else:
            assert np.linalg.norm(engine(pixels) - exact) < 0.05 * np.linalg.norm(exact)


@pytest.fixture(scope="module")
def dense_block():
    """Images, and three layers of a dense block."""
    images = np.stack([draw(kind, 64, np.random.default_rng(seed)) for seed, kind in enumerate(PATTERNS.values())])
    cut = "features.denseblock1.denselayer3"
    return images, export_backbone(open_backbone("densenet121", "random", 64), cut, images)


@pytest.fixture(scope="module")
def transition(tmp_path_factory, write_onnx):
    """What lies between two dense blocks: an average pool whose output a layer reads and a concatenation joins."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.pool = nn.Conv2d(3, 32, 3, 2, 1), nn.AvgPool2d(2)
            self.before, self.inner = nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3, 1, 1)
            self.after, self.last = nn.BatchNorm2d(48), nn.Conv2d(48, 8, 1)

        def forward(self, x):
            x = self.pool(self.stem(x))
            x = torch.cat([x, self.inner(torch.relu(self.before(x)))], 1)
            return self.last(torch.relu(self.after(x)))

    torch.manual_seed(0)
    return export_backbone(open_backbone(write_onnx(Net(), tmp_path_factory.mktemp("transition") / "net.onnx")))


@pytest.mark.parametrize("activation_dtype", ACTIVATION_DTYPES)
def test_averages_are_raised_to_their_least_level_and_keep_their_levels(transition, pixels, activation_dtype):
    table = calibrate(transition, pixels, "max", placement="concat-inputs")
    # A narrower range, so that some averages lie below it.
    pooled = next(node.output[0] for node in transition.graph.graph.node if node.op_type == "AveragePool")
    thresholds = {**table.thresholds, pooled: table.thresholds[pooled] / 4}
    graph = quantize(transition.graph, thresholds, table.means, activation_dtype, "concat-inputs")
    raised = onnx.load_from_string(graph.SerializeToString())
    raise_averages(raised)
    assert [node.input[0] for node in raised.graph.node if node.op_type == "Max"] == [pooled]
    run = [runtime("onnxruntime").compile(each.SerializeToString(), "int8", "cpu") for each in (graph, raised)]
    np.testing.assert_array_equal(run[0](pixels)[0], run[1](pixels)[0])
    layers = [layer["name"] for layer in on_openvino.layers(graph.SerializeToString(), "int8")]
    assert f"{pooled}_quantized" not in layers


def test_levels_that_no_product_reads_from_a_concatenation_keep_their_sign(dense_block):
    images, exported = dense_block
    graph = quantized_graph(exported, calibrate(exported, images, placement="concat-inputs"), "uint8", "concat-inputs")
    before = graph.SerializeToString()
    assert offset_around_concats(graph).SerializeToString() == before


def test_concatenations_begin_with_what_earlier_ones_joined(dense_block):
    images, exported = dense_block
    chained = onnx.load_from_string(exported.graph.SerializeToString())
    chain_concats(chained)
    counts = [
        [len(node.input) for node in graph.graph.node if node.op_type == "Concat"]
        for graph in (exported.graph, chained)
    ]
    assert counts == [[2, 3, 4], [2, 2, 2]]
    read = on_openvino.read(exported.graph.SerializeToString()).get_ops()
    # OpenVINO's own join the parts of shapes.
    joins = [each for each in read if each.get_type_name() == "Concat" and len(each.get_output_partial_shape(0)) == 4]
    assert [each.get_input_size() for each in joins] == [2, 2, 2]
    run = [
        runtime("onnxruntime").compile(each.SerializeToString(), "fp32", "cpu") for each in (exported.graph, chained)
    ]
    whole, joined = (each(images)[0] for each in run)
    # The same sums; but how many channels a join has may decide which kernels read it, and in which order they sum.
    np.testing.assert_allclose(joined, whole, atol=100 * np.finfo("float32").eps * np.abs(whole).max())


def test_graphs_without_concatenations_are_not_offset(tiny_onnx, pixels):
    exported = export_backbone(open_backbone(tiny_onnx))
    graph = quantized_graph(exported, calibrate(exported, pixels))
    before = graph.SerializeToString()
    assert offset_around_concats(graph).SerializeToString() == before


def test_a_shared_table_serves_both_placements_and_a_plain_one_is_refused(branching, table, pixels):
    plain = calibrate(branching, pixels, "max")
    assert set(plain.thresholds) < set(table.thresholds) == set(quantizable(branching.graph, "shared-concat"))
    assert {name: table.thresholds[name] for name in plain.thresholds} == plain.thresholds
    assert assemble(branching, "int8", table=table).manifest.placement == "conv-inputs"
    with pytest.raises(UsageError, match=r"made for placement 'conv-inputs' and lacks the tensors"):
        assemble(branching, "int8", table=plain, placement="shared-concat")


def test_every_shared_tensor_is_measured_and_left_in_float_with_its_group(branching, table, pixels):
    measured = tensor_fidelity(branching, table, pixels, placement="shared-concat")
    assert [tensor.name for tensor in measured] == [*quantizable(branching.graph, "shared-concat"), "features"]
    assert all(tensor.sqnr > 15 for tensor in measured)
    sources = set(concat_groups(branching.graph)[0].sources)
    _, left = reach_sign_agreement(branching, table, 1.0, pixels, placement="shared-concat")
    assert sources <= set(left) or sources.isdisjoint(left)
