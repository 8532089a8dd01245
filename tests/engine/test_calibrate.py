"""Calibrating a graph on images, to a table, its search for signs and the fidelity of every tensor."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aurevoir import build_engine
from aurevoir.calibration.fidelity import sign_agreement
from aurevoir.calibration.placement import quantizable
from aurevoir.calibration.signed import use_more_levels
from aurevoir.calibration.table import pixels_digest
from aurevoir.calibration.thresholds import METHODS
from aurevoir.calibration.trt_cache import write_cache
from aurevoir.engine.assemble import assemble, with_fidelity
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate, reach_sign_agreement, read_table, tensor_fidelity
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.sample import hold_out, sample_images
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.kernels.backends.numba.features import has_int8_dot_product
from aurevoir.kernels.bits import agreement


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_gives_the_thresholds_of_every_convolution_input(tiny_onnx, pixels, method):
    exported = export_backbone(open_backbone(tiny_onnx))
    table = calibrate(exported, pixels, method)
    assert set(table.thresholds) == set(quantizable(exported.graph))
    assert len(table.thresholds) == 2
    assert all(value > 0 for value in table.thresholds.values())
    again = calibrate(exported, pixels[::-1], method)
    assert again.thresholds == table.thresholds
    assert all(np.allclose(again.means[name], mean, rtol=1e-4, atol=1e-6) for name, mean in table.means.items())
    assert table.images == pixels_digest(pixels)


def test_the_means_are_those_of_the_tensors(tiny_onnx, pixels):
    exported = export_backbone(open_backbone(tiny_onnx))
    name = quantizable(exported.graph)[0]
    means = calibrate(exported, pixels).means
    normalised = (pixels / 255 - exported.mean) / exported.std
    np.testing.assert_allclose(means[name], normalised.mean(axis=(0, 1, 2)), rtol=1e-4)
    assert set(means) == set(quantizable(exported.graph))


def test_convolutions_are_left_in_float_until_the_signs_agree(tiny_onnx, pixels):
    plain = build_engine(tiny_onnx, precision="int8", calibration=pixels, method="max", activation_dtype="int8")
    coarse = replace(plain.table, thresholds={name: 40 * value for name, value in plain.table.thresholds.items()})
    exported = export_backbone(open_backbone(tiny_onnx))
    worst = with_fidelity(assemble(exported, "int8", "openvino", coarse), exported, pixels).manifest.sign_agreement
    target = worst + (1 - worst) / 4

    def make(table):
        return assemble(exported, "int8", "openvino", table)

    table, left = reach_sign_agreement(exported, coarse, target, pixels, make)
    reached = with_fidelity(assemble(exported, "int8", "openvino", table), exported, pixels)
    assert worst < target <= reached.manifest.sign_agreement
    assert list(reached.manifest.in_float) == left
    assert len(left) == 1


def test_the_sign_method_keeps_at_least_the_signs_of_the_others(tiny_onnx, pixels):
    exported = export_backbone(open_backbone(tiny_onnx))
    used, kept_back = hold_out(pixels)
    reference = assemble(exported, "fp32").bits(kept_back)
    found = {}
    for method in ("sign", "entropy", "mse", "percentile", "max"):
        table = calibrate(exported, pixels if method == "sign" else used, method)
        bits = assemble(exported, "int8", table=table).bits(kept_back)
        found[method] = agreement(bits, reference, exported.features)
    assert found["sign"] == max(found.values())
    with pytest.raises(UsageError, match="needs at least 4 calibration images, not 3"):
        calibrate(exported, pixels[:3], "sign")


def test_every_quantized_tensor_is_measured(exported, table, pixels):
    measured = {tensor.name: tensor for tensor in tensor_fidelity(exported, table, pixels)}
    assert list(measured) == [*table.thresholds, "features"]
    assert all(20 < tensor.sqnr < 80 and tensor.sign_agreement > 0.9 for tensor in measured.values())
    engine = assemble(exported, "int8", "onnxruntime", table)
    expected = sign_agreement(engine(pixels), assemble(exported, "fp32", "onnxruntime")(pixels))
    assert measured["features"].sign_agreement == pytest.approx(expected, abs=2e-3)


def test_signed_levels_of_a_real_network_keep_nearly_the_signs_of_unsigned_ones(data, mobilenet, monkeypatch):
    exported = export_backbone(open_backbone(mobilenet))
    table = calibrate(exported, sample_images(data("calibration500"), exported.size, 64))
    photos = sample_images(data("caltech10"), exported.size, 16)
    reference = assemble(exported, "fp32", "onnxruntime")(photos)

    def kept(dtype, table=table):
        engine = assemble(exported, "int8", "openvino", table, activation_dtype=dtype)
        return sign_agreement(engine(photos), reference)

    unsigned, signed, shifted = kept("uint8"), kept("int8"), kept("int8", replace(table, peaks={}))
    monkeypatch.setattr("aurevoir.engine.calibrate.resolve_activation_dtype", lambda *_: "int8")
    measured = {each.name: each for each in tensor_fidelity(exported, table, photos, "openvino")}
    changes = use_more_levels(exported.graph, table.thresholds, table.peaks)[1]
    assert (len(table.peaks), len(changes)) == (17, 35)
    # As they are, signed levels keep 0.91.
    assert (
        signed > (0.93 if has_int8_dot_product() else 0.925)
        and unsigned - 0.02 < shifted + 0.01 < signed < unsigned + 0.01
    )
    assert measured["features"].sign_agreement == pytest.approx(signed, abs=2e-3)
    assert min(measured[name].sqnr for name in changes) > 15
    assert min(measured[name].sign_agreement for name in changes) > 0.8


def test_tables_are_read_from_files_and_foreign_ones_refused(exported, table, tmp_path):
    (tmp_path / "t.json").write_text(table.to_json())
    assert read_table(tmp_path / "t.json", exported) == table
    (tmp_path / "t.cache").write_bytes(write_cache(table.thresholds))
    found = read_table(tmp_path / "t.cache", exported).thresholds
    assert found == {name: pytest.approx(value, rel=1e-6) for name, value in table.thresholds.items()}
    (tmp_path / "t.cache").write_bytes(write_cache({"stranger": 1.0}))
    with pytest.raises(AurevoirError, match=r"t.cache lacks 2 of the 2 tensors that are quantized"):
        read_table(tmp_path / "t.cache", exported)


def _ends(exported, pixels):
    """Calibrate by every method and return the sign agreements of the int8 engines."""
    reference = assemble(exported, "fp32")(pixels)
    found = []
    for method in ("entropy", "mse", "percentile", "max"):
        table = calibrate(exported, pixels, method)
        features = assemble(exported, "int8", table=table)(pixels)
        assert np.isfinite(features).all()
        found.append(((features > 0) == (reference > 0)).mean())
    return found


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_calibrate(tiny_onnx, value):
    images = np.full((3, 28, 28, 3), value, "uint8")
    assert min(_ends(export_backbone(open_backbone(tiny_onnx)), images)) > 0.9


def test_one_image_calibrates(tiny_onnx, pixels):
    assert min(_ends(export_backbone(open_backbone(tiny_onnx)), pixels[:1])) > 0.9


def test_tensors_that_are_all_zero_calibrate(tmp_path, tiny_onnx, pixels):
    model = onnx.load(tiny_onnx)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, "float32"), tensor.name))
    onnx.save(model, tmp_path / "zero.onnx")
    assert min(_ends(export_backbone(open_backbone(tmp_path / "zero.onnx")), pixels)) > 0.9


def test_a_network_that_overflows_is_refused_by_the_tensors_name(tmp_path, pixels, write_onnx):
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    for layer in net:
        nn.init.constant_(layer.weight, 1e30)
    exported = export_backbone(open_backbone(write_onnx(net, tmp_path / "huge.onnx")))
    with pytest.raises(AurevoirError, match=r"tensor backbone/.*: an activation is nan or infinite"):
        calibrate(exported, pixels)
