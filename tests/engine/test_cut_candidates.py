"""Candidates for the cut: a few a stage, up to the default cut."""

from itertools import pairwise

import pytest

from aurevoir.engine.backbone import open_backbone, structure
from aurevoir.engine.backbones.base import Cut
from aurevoir.engine.cut_candidates import STAGES, cut_candidates
from aurevoir.errors import UsageError


def _names(backbone, *count):
    return [cut.name for cut in cut_candidates(backbone, *count)]


def test_of_a_staged_network_both_layers_of_each_stage(staged_onnx):
    backbone = open_backbone(staged_onnx)
    found = cut_candidates(backbone)
    assert [cut.shape for cut in found] == [shape for size in (28, 14, 7) for shape in [(224 // size, size, size)] * 2]
    assert found[-1].name == backbone.resolve(None)
    assert len({cut.macs for cut in found}) == 6
    assert [cut.shape[1] for cut in cut_candidates(backbone, 3)] == [28, 14, 7]


def test_of_mobilenet_only_outputs_of_blocks(mobilenet):
    found = cut_candidates(open_backbone(mobilenet))
    assert [cut.shape for cut in found] == [
        (32, 28, 28),
        (32, 28, 28),
        (96, 14, 14),
        (96, 14, 14),
        (160, 7, 7),
        (1280, 7, 7),
    ]
    assert all(first.macs < second.macs for first, second in pairwise(found))


def test_of_names_of_torchvision_and_timm():
    pytest.importorskip("torchvision")
    assert _names(structure("resnet50")) == ["layer2.1", "layer2", "layer3.2", "layer3", "layer4.0", "layer4"]
    assert _names(structure("squeezenet1_1"))[-1] == "features.12"
    # Its maps have their channels last.
    assert [cut.shape[0] for cut in cut_candidates(structure("swin_t"))] == [28, 28, 14, 14, 7, 7]
    densenet = cut_candidates(structure("densenet169"))
    assert densenet[-1].name == "denseblock4.denselayer12"
    assert len({cut.shape[1] for cut in densenet}) == STAGES
    pytest.importorskip("timm")
    assert _names(structure("timm:resnet18"))[-1] == "layer4"


def test_of_a_module():
    torch = pytest.importorskip("torch")
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 64, 1), nn.Conv2d(64, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
    )
    assert torch.is_tensor(network(torch.zeros(1, 3, 64, 64)))
    # 1 and 2 are the inside and the end of a block that expands its channels.
    assert _names(open_backbone(network, size=64)) == ["0", "2", "3"]


class _Listed:
    """A backbone of given cuts, of which the last is the default."""

    name, size = "listed", (32, 32)

    def __init__(self, *cuts):
        self._cuts = list(cuts)

    def cuts(self):
        return self._cuts

    def resolve(self, name):
        return name or self._cuts[-1].name


def test_vectors_and_maps_of_few_features_are_left_out():
    cuts = [
        Cut("map", 2048, 10, 100, (8, 16, 16)),
        Cut("few", 64, 20, 200, (1, 8, 8)),
        Cut("vector", 2000, 30, 300, (2000,)),
        Cut("end", 1024, 40, 400, (16, 8, 8)),
    ]
    assert _names(_Listed(*cuts)) == ["map", "end"]


def test_one_cut_is_nothing_to_choose(tiny_onnx):
    with pytest.raises(UsageError, match=r"has only one cut to choose, 'add.*'; leave cut 'auto' out"):
        cut_candidates(open_backbone(tiny_onnx))
