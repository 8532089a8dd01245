"""TensorRT 10's own calibrator, on a fake."""

import ctypes

import numpy as np
import pytest
from gpu_fake import Device
from tensorrt_fake import recorded_tensorrt

from aurevoir.calibration.placement import quantizable
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.runtimes import on_tensorrt
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError


@pytest.fixture
def calibrating(exported, pixels, monkeypatch):
    """TensorRT 10 as far as a calibration needs it; `seen` is what its calibrator was given."""
    trt, _ = recorded_tensorrt()
    trt.__version__ = "10.16"
    trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    trt.seen, device = [], Device()
    names = quantizable(exported.graph)

    def build(network, config):
        calibrator = config.int8_calibrator
        assert calibrator.read_calibration_cache() is None
        size = (calibrator.get_batch_size(), *pixels.shape[1:])
        while pointers := calibrator.get_batch(["images"]):
            memory = (ctypes.c_char * int(np.prod(size))).from_address(pointers[0])
            trt.seen.append(np.frombuffer(memory, "uint8").reshape(size).copy())
        scales = "".join(f"{name}: 3c010a14\n" for name in names)
        calibrator.write_calibration_cache(memoryview(f"TRT-100000-EntropyCalibration2\n{scales}".encode()))
        return b"plan"

    trt.Builder.return_value.build_serialized_network.side_effect = build
    monkeypatch.setattr(on_tensorrt, "open_device", lambda name="cuda": device)
    monkeypatch.setattr(on_tensorrt._nvidia, "_library", lambda: trt)
    monkeypatch.setattr(on_tensorrt._nvidia, "why_not", lambda: None)
    return trt


def test_the_native_calibrator_sees_the_images_and_makes_a_table(calibrating, exported, pixels):
    table = calibrate(exported, pixels, "native")
    config = calibrating.Builder.return_value.create_builder_config.return_value
    config.set_flag.assert_called_once_with(calibrating.BuilderFlag.INT8)
    calibrating.Builder.return_value.create_network.assert_called_once_with(0)
    seen = np.concatenate(calibrating.seen)
    np.testing.assert_array_equal(seen, pixels[: len(seen)])
    assert len(pixels) - len(seen) < 16
    assert table.method == "TensorRT EntropyCalibration2"
    assert table.thresholds == pytest.approx(dict.fromkeys(quantizable(exported.graph), 1.0), rel=1e-3)
    table.check(exported.graph)


def test_a_native_calibration_that_fails_says_why(calibrating, exported, pixels):
    build = calibrating.Builder.return_value.build_serialized_network
    build.side_effect = lambda network, config: None
    with pytest.raises(AurevoirError, match="could not calibrate"):
        calibrate(exported, pixels, "native")
    del calibrating.IInt8EntropyCalibrator2
    with pytest.raises(UsageError, match="method 'native' is TensorRT 10's"):
        calibrate(exported, pixels, "native")


def test_without_tensorrt_the_native_calibrator_says_what_to_install(exported, pixels):
    with pytest.raises(MissingPackageError, match="pip install tensorrt"):
        calibrate(exported, pixels, "native")
