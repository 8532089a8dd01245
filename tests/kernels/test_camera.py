import numpy as np
import pytest

from aurevoir.errors import UsageError
from aurevoir.kernels.camera import Camera, NoisyCamera


def test_a_brighter_intensity_is_never_a_darker_byte():
    intensities = np.linspace(0, 3000, 5001, dtype="float32")
    speckle = Camera(0.2).expose(intensities).astype("int64")
    assert np.all(np.diff(speckle) >= 0)
    assert set(speckle) == set(range(256))


def test_camera_rounds_to_the_nearest_byte_and_saturates():
    speckle = Camera(0.5).expose(np.array([[0, 0.9, 1.1, 2.0, 509, 510, 511, 520, 1e30]], dtype="float32"))
    np.testing.assert_array_equal(speckle, [[0, 0, 1, 1, 254, 255, 255, 255, 255]])
    assert speckle.dtype == np.uint8


def test_exposure_follows_the_brightness():
    intensities = np.random.default_rng(1).exponential(size=(20, 500)).astype("float32")
    dim, bright = Camera.exposed(intensities), Camera.exposed(intensities * 64)
    assert dim.gain == pytest.approx(64 * bright.gain)
    np.testing.assert_array_equal(dim.expose(intensities), bright.expose(intensities * 64))


@pytest.mark.parametrize("shape", [(4, 5), (0, 5)])
def test_exposure_of_darkness_or_of_nothing_keeps_zero_at_zero(shape):
    dark = np.zeros(shape, dtype="float32")
    camera = Camera.exposed(dark)
    assert np.isfinite(camera.gain)
    np.testing.assert_array_equal(camera.expose(dark), np.zeros(shape))


def test_a_noisy_camera_varies_as_its_photons_and_its_readout_do():
    light = np.full(200_000, 100, dtype="float32")
    random = np.random.default_rng(0)
    shot = NoisyCamera(1.0, full_well=2550, random=random).expose(light).astype("float64")
    read = NoisyCamera(1.0, full_well=1e9, readout=5e7, random=random).expose(light).astype("float64")
    # 1000 electrons at ten a grey value; rounding to whole grey values adds 1/12.
    assert shot.mean() == pytest.approx(100, abs=0.1)
    assert shot.var() == pytest.approx(10 + 1 / 12, rel=0.02)
    assert read.std() == pytest.approx(5e7 * 255 / 1e9, rel=0.02)


def test_without_photons_lost_a_noisy_camera_is_a_camera():
    light = np.linspace(0, 300, 1001, dtype="float32")
    noisy = NoisyCamera(1.0, full_well=1e13, random=np.random.default_rng(0)).expose(light)
    np.testing.assert_array_equal(noisy[light % 1 != 0.5], Camera(1.0).expose(light)[light % 1 != 0.5])


@pytest.mark.parametrize("gain", [0.0, -1.0, np.nan, np.inf, 1e39])
def test_a_gain_that_is_no_positive_number_is_refused(gain):
    with pytest.raises(UsageError, match="of a camera is not a positive number"):
        Camera(gain)


def test_the_darkest_light_is_exposed():
    assert Camera.exposed(np.full(9, 1e-40, dtype="float32")).gain <= np.finfo("float32").max
