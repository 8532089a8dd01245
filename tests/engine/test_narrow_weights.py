"""Weights of fewer levels, for processors whose int8 products would saturate."""

import numpy as np
import pytest

from aurevoir import build_engine
from aurevoir.engine import narrow_weights
from aurevoir.engine.assemble import assemble
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.narrow_weights import cost_of_narrow_weights
from aurevoir.engine.spec import CalibrationSpec, NetworkSpec
from aurevoir.errors import AurevoirWarning


@pytest.fixture
def without_vnni(monkeypatch):
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: False)
    monkeypatch.setattr("aurevoir.engine.runtimes.processor.platform.machine", lambda: "x86_64")


def test_both_ranges_are_computed_in_exact_arithmetic(exported, table, pixels, reference):
    engine = assemble(exported, "int8", "onnxruntime", table)
    whole, narrow = cost_of_narrow_weights(engine, exported, pixels, reference)
    assert 0.9 < narrow <= 1 >= whole > 0.9
    assert whole != narrow
    if engine.manifest.weight_levels == 127:
        # Where nothing saturates the runtime's own kernels agree.
        own = np.mean((engine(pixels) > 0) == (reference > 0))
        assert own == pytest.approx(whole, abs=0.01)


def test_as_many_images_as_are_needed_are_computed(exported, table, pixels, reference, monkeypatch):
    engine, computed = assemble(exported, "int8", "onnxruntime", table), []

    def features(_exported, _engine, _levels, images):
        computed.append(len(images))
        rows = [next(row for row, each in enumerate(pixels) if (each == image).all()) for image in images]
        return reference[rows]

    monkeypatch.setattr(narrow_weights, "_features", features)
    monkeypatch.setattr(narrow_weights, "SIGNS", 9 * reference.shape[1] - 1)
    assert cost_of_narrow_weights(engine, exported, pixels, reference) == (1.0, 1.0)
    assert computed == [9, 9]


def test_a_build_says_what_few_levels_cost(tiny_onnx, pixels, without_vnni):
    with pytest.warns(
        AurevoirWarning, match=r"weights have 63 levels.*[\d.]+% of the signs.* and with 127 levels.*[\d.]+%"
    ):
        engine = build_engine(tiny_onnx, precision="int8", runtime="onnxruntime", calibration=pixels, smoke=False)
    assert engine.manifest.weight_levels == 63
    assert engine.manifest.activation_dtype == "int8"


def test_a_build_with_all_levels_says_nothing(tiny_onnx, pixels, recwarn, monkeypatch):
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: True)
    build_engine(tiny_onnx, precision="int8", runtime="onnxruntime", calibration=pixels, smoke=False)
    assert not [each for each in recwarn if "levels" in str(each.message)]


def test_without_onnx_runtime_the_cost_is_not_known(tiny_onnx, pixels, monkeypatch):
    builder = EngineBuilder(NetworkSpec(backbone=tiny_onnx), CalibrationSpec(data=pixels))
    engine = assemble(builder.exported, "int8", "openvino", builder.table())
    monkeypatch.setattr("aurevoir.engine.narrow_weights.installed", lambda name: False)
    assert cost_of_narrow_weights(engine, builder.exported, pixels, engine(pixels)) is None
