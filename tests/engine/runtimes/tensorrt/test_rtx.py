"""NVIDIA's parser and builder take our graphs: TensorRT-RTX builds ahead of time, without a GPU.

It installs with ``pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings``.
"""

import re
from collections import Counter

import numpy as np
import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.sample import sample_images

pytest.importorskip("tensorrt_rtx_bindings")

TARGETS = ("sm80", "sm86", "sm89", "sm120")
NETWORKS = ("tiny", "mobilenetv2", "resnet50v2_stage3", "squeezenet1_1", "densenet169", "linear")


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tiny_onnx, pixels, data):
    """A float graph, and a table for its int8 form."""
    cut, images = None, pixels
    if request.param == "tiny":
        backbone = open_backbone(tiny_onnx)
    elif request.param == "linear":
        from torch import nn

        net = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 32), nn.ReLU())
        net.append(nn.Linear(32, 24))
        backbone, cut = open_backbone(net, size=28), "5"
    elif request.param == "densenet169":
        backbone = open_backbone("densenet169", "random")
        images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype="uint8")
    else:
        squeezed = request.param == "squeezenet1_1"
        path = data(f"backbones/{request.param}.{'pth' if squeezed else 'onnx'}")
        backbone = open_backbone(request.param, path) if squeezed else open_backbone(path)
        images = sample_images(data("calibration500"), (224, 224), 4)
    exported = export_backbone(backbone, cut, images)
    return exported, calibrate(exported, images, placement="shared-concat")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_builds_for_every_target(exported, precision, target):
    exported, table = exported
    engine = assemble(exported, precision, table=table if precision == "int8" else None, target=target)
    engine.build_plan()
    assert len(engine.plan) > 1000
    assert (engine.manifest.target, engine.manifest.runtime) == (target, "tensorrt-rtx")


def test_scales_shared_across_concatenations_build(exported):
    exported, table = exported
    engine = assemble(exported, "int8", table=table, placement="shared-concat", target="sm89")
    engine.build_plan()
    assert len(engine.plan) > 1000


def test_activations_that_use_more_levels_make_no_kernel_more(data, mobilenet, monkeypatch):
    exported = export_backbone(open_backbone(mobilenet))
    table = calibrate(exported, sample_images(data("calibration500"), (224, 224), 4))

    def kernels():
        engine = assemble(exported, "int8", table=table, target="sm89")
        engine.build_plan()
        # The plan has their sources. Their names say what each computes, and end in a digest.
        names = re.findall(rb"__global__ void (?:__launch_bounds__\([^)]*\) )?__myl_([A-Za-z]+)_", engine.plan)
        return engine.graph, Counter(names)

    changed, found = kernels()
    monkeypatch.setattr("aurevoir.calibration.quantize.use_more_levels", lambda model, *_: (model, {}))
    plain, expected = kernels()
    assert changed != plain
    assert found == expected and found.total() > 50
