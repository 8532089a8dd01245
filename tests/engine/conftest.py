"""What the tests of engines share: a small backbone exported, calibrated, and computed by the reference."""

import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone


@pytest.fixture(scope="session")
def exported(tiny_onnx):
    return export_backbone(open_backbone(tiny_onnx))


@pytest.fixture(scope="session")
def table(exported, pixels):
    return calibrate(exported, pixels, "max")


@pytest.fixture(scope="session")
def reference(exported, pixels):
    return assemble(exported, "fp32", "onnxruntime")(pixels)
