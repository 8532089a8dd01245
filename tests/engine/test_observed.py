"""What a child process observes of a float graph is what this one would, and so is what it refuses."""

import pytest
from onnx import numpy_helper

from aurevoir.engine import observed
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError


@pytest.fixture
def exported(tiny_onnx):
    return export_backbone(open_backbone(tiny_onnx))


def test_a_child_process_makes_the_same_table(exported, pixels, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.calibrate.HOST_BATCH", 4)
    here = calibrate(exported, pixels, "percentile")
    # Nothing is compiled here.
    monkeypatch.setattr(observed, "compile_graph", None)
    assert calibrate(exported, pixels, "percentile", smoke=True).to_json() == here.to_json()


def test_activations_that_are_not_finite_are_refused_alike(exported, pixels):
    weights = next(each for each in exported.graph.graph.initializer if len(each.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(1e38 * numpy_helper.to_array(weights), weights.name))
    said = set()
    for smoke in (False, True):
        with pytest.raises(AurevoirError, match=r"^tensor .*: an activation is nan or infinite") as caught:
            calibrate(exported, pixels, smoke=smoke)
        said.add(str(caught.value))
    assert len(said) == 1
