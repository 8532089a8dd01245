"""Several cuts from one inference: their bits are those of an engine of each."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone, export_cuts
from aurevoir.engine.multi_cut import join
from aurevoir.kernels.bits import unpack

CUTS = ["denseblock1.denselayer1", "transition1", "denseblock2.denselayer1", "denseblock2.denselayer3"]


@pytest.fixture(scope="module")
def densenet():
    """A small dense network's cuts, exported together and each by itself."""
    torchvision = pytest.importorskip("torchvision")
    import torch

    torch.manual_seed(0)
    network = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 3), num_init_features=8, bn_size=2)
    together = export_cuts(open_backbone(network, size=28), CUTS)
    return together, [export_backbone(open_backbone(network, size=28), cut) for cut in CUTS]


# Of the largest feature; what lies closer to zero, rounding may give either sign. Some ten layers, whose sums of up to
# a few hundred products each round by a few epsilons.
ROUNDING = 100 * np.finfo("float32").eps


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_bits_of_several_cuts_are_those_of_an_engine_of_each(densenet, pixels, runtime):
    together, each = densenet
    joined = join([assemble(exported, "fp32", runtime) for exported in together])
    computed = joined.engine.run(pixels, ["bits", "pooled"])
    for exported, where, channels in zip(each, joined.bits, joined.pooled, strict=True):
        engine = assemble(exported, "fp32", runtime)
        alone, features = engine.bits(pixels), engine(pixels)
        assert_allclose(computed["pooled"][:, channels], engine.pooled(pixels), rtol=1e-4, atol=1e-5)
        assert 0 < np.bitwise_count(alone).mean() < 8
        differ = unpack(computed["bits"][:, where] ^ alone, engine.features).astype(bool)
        assert not differ[np.abs(features) > ROUNDING * np.abs(features).max()].any()


def test_what_cuts_share_is_computed_once(tiny_onnx):
    backbone = open_backbone(tiny_onnx)
    cuts = [cut.name for cut in backbone.cuts()]
    joined = join([assemble(exported, "fp32") for exported in export_cuts(backbone, cuts)])
    kinds = [node.op_type for node in onnx.load_from_string(joined.engine.graph).graph.node]
    assert kinds.count("Conv") == 2
    assert kinds.count("Greater") == len(cuts)
