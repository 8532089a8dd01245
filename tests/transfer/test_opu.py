"""The OPU: lightonml's simulation of it, its hardware by fakes, and what is said where either is missing."""

import json
import pickle
import sys

import lightonml_fake
import lightonopu_fake
import numpy as np
import pytest
from sklearn.datasets import load_digits

from aurevoir import OpticalClassifier, load
from aurevoir.errors import AurevoirError, BudgetError, MissingPackageError, UsageError
from aurevoir.kernels.bits import pack_signs, unpack
from aurevoir.kernels.camera import Camera
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.projection import expose_sample, project
from aurevoir.transfer.opu import Opu, SimulatedOpu


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return (X - X.mean(axis=0))[order], y[order]


@pytest.fixture
def simulated():
    """lightonml itself."""
    return pytest.importorskip("lightonml", exc_type=ImportError)


@pytest.mark.parametrize("m", [64, 61])
def test_the_simulation_is_the_squared_modulus_of_xr(simulated, digits, m):
    X = digits[0][:80, :m]
    projection = SimulatedOpu(m, 90)
    intensities = projection.intensities(pack_signs(X))
    R = projection.opu.device.random_matrix
    expected = np.abs((X > 0) @ R[:m].astype("complex128")) ** 2
    assert intensities.dtype == np.float32
    np.testing.assert_allclose(intensities, expected, rtol=1e-5, atol=1e-6)


def test_the_simulation_is_that_of_lightonml_alone(simulated, digits):
    bits = pack_signs(digits[0][:20])
    theirs = simulated.OPU(n_components=30, simulated=True, max_n_features=64)
    theirs.fit1d(n_features=64)
    np.testing.assert_array_equal(SimulatedOpu(64, 30).intensities(bits), theirs.transform(unpack(bits, 64)))
    assert np.mean(SimulatedOpu(64, 30, 1).intensities(bits) != theirs.transform(unpack(bits, 64))) > 0.9


def test_our_camera_films_the_simulation(simulated, digits):
    bits = pack_signs(digits[0])
    projection = SimulatedOpu(64, 70)
    camera = expose_sample(projection, bits)
    whole = np.abs(unpack(bits, 64) @ projection.opu.device.random_matrix) ** 2 * camera.gain
    speckle = np.concatenate([block for _, block in project(projection, camera, bits, "100KiB")])
    assert speckle.dtype == np.uint8
    assert 1 < camera.gain < 255
    assert np.abs(speckle - np.minimum(whole, 255)).max() <= 0.501


def test_the_simulation_tells_digits_apart_as_our_own_projections_do(simulated, digits):
    X, y = digits
    right = {}
    for name in ("opu-simulated", "dense", "hadamard"):
        scores = [
            OpticalClassifier(projection=name, n_components=300, random_state=seed)
            .fit(X[:900], y[:900])
            .score(X[900:], y[900:])
            for seed in range(3)
        ]
        right[name] = np.mean(scores)
    # On 897 images one accuracy's standard error is 0.008; the three share the images.
    assert right["opu-simulated"] > 0.92
    assert abs(right["opu-simulated"] - right["dense"]) < 0.02
    assert abs(right["opu-simulated"] - right["hadamard"]) < 0.02


def test_a_model_on_the_simulation_is_saved_and_loaded(simulated, digits, tmp_path):
    X, y = digits[0][:200], digits[1][:200]
    fitted = OpticalClassifier(projection="opu-simulated", n_components=50, random_state=3).fit(X, y)
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.projection_ == "opu-simulated"
    assert loaded.readout_.projection == SimulatedOpu(64, 50, 3)
    np.testing.assert_array_equal(loaded.scores(X), fitted.scores(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).scores(X), fitted.scores(X))
    assert len(pickle.dumps(fitted.readout_.projection)) < 1000


def test_a_matrix_beyond_the_budget_is_not_drawn(simulated):
    with pytest.raises(BudgetError, match="drawing the 50176 x 25088 matrix of 'opu-simulated' needs 28.1 GiB"):
        SimulatedOpu(50_176, 25_088).intensities(np.zeros((1, 6272), "uint8"))
    X, y = np.random.default_rng(0).normal(size=(40, 64)), np.arange(40) % 2
    with pytest.raises(BudgetError, match="lower n_components"):
        OpticalClassifier(projection="opu-simulated", n_components=4000, memory_budget="1MiB").fit(X, y)


def test_without_lightonml_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightonml", None)
    X, y = np.eye(4), [0, 1, 0, 1]
    for name in ("opu", "opu-simulated"):
        with pytest.raises(
            MissingPackageError, match="pip install --no-deps lightonml==1.4.3 && pip install attrs"
        ) as e:
            OpticalClassifier(projection=name).fit(X, y)
        assert e.value.exit_code == 3


def test_without_the_driver_the_error_points_to_the_simulation(simulated, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightonopu", None)
    with pytest.raises(MissingPackageError, match="projection='opu-simulated'"):
        OpticalClassifier(projection="opu").fit(np.eye(4), [0, 1, 0, 1])


@pytest.fixture
def medium(monkeypatch):
    medium = lightonml_fake.Medium()
    for name, module in lightonml_fake.modules(medium).items():
        monkeypatch.setitem(sys.modules, name, module)
    return medium


@pytest.fixture
def fitted(medium, digits):
    return OpticalClassifier(projection="opu", n_components=200).fit(digits[0][:300], digits[1][:300])


def test_the_hardware_gets_packed_bits_and_its_bytes_are_kept(medium, digits):
    bits = pack_signs(digits[0][:50, :61])
    readout, _ = fit_readout(bits, 61, digits[1][:50], 10, Opu, n_components=40, budget="1MiB")
    assert readout.camera == Camera(1.0)
    assert medium.calls[:2] == [("fit1d", 64), ("transform", 1)]
    assert sum(n for call, n in medium.calls if call == "transform") == 50
    given = readout.projection.intensities(bits)
    assert given.dtype == np.uint8
    np.testing.assert_array_equal(readout.camera.expose(np.arange(256, dtype="uint8")), np.arange(256))
    assert given.std() > 10
    assert medium.holder is None


@pytest.mark.parametrize(("n", "k"), [(0, 5), (1, 5), (1, 1), (3, 1)])
def test_one_row_or_none_keep_their_shape(medium, n, k):
    assert Opu(16, k).intensities(np.full((n, 2), 9, "uint8")).shape == (n, k)
    assert bool(medium.calls) == (n > 0)


def test_digits_are_learnt_on_the_hardware(fitted, digits):
    assert fitted.projection_ == "opu"
    assert fitted.score(digits[0][300:], digits[1][300:]) > 0.85


def test_an_error_of_the_device_is_passed_on_and_the_device_released(medium, fitted, digits):
    medium.error = RuntimeError("acquisition timed out")
    with pytest.raises(AurevoirError, match="projection 'opu' failed: acquisition timed out"):
        fitted.predict(digits[0][:5])
    assert medium.holder is None
    medium.error, medium.holder = None, "another process"
    with pytest.raises(AurevoirError, match="already reserved"):
        fitted.predict(digits[0][:5])
    with pytest.raises(UsageError, match=r"to 3000: n_components is beyond maximum \(2000\)"):
        Opu(16, 3000).intensities(np.zeros((1, 2), "uint8"))


def test_a_saved_model_knows_its_opu(medium, fitted, digits, tmp_path):
    fitted.save(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text())["readout"]
    name = "OPU Saturn-2-Paris; core type Nitro, core version 3, exposure 400 us"
    assert described.pop("saturation") > 0
    assert described == {"kind": "opu", "k": 200, "seed": 0, "device": name, "gain": 1.0}
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.scores(digits[0][300:]), fitted.scores(digits[0][300:]))
    for change in ({"name": "Vulcain"}, {"exposure_us": 800}):
        medium.config = {"name": "Saturn", "exposure_us": 400, **change}
        with pytest.raises(
            AurevoirError, match=rf"trained on {name}, and this machine has OPU .*{next(iter(change.values()))}"
        ):
            load(tmp_path / "model").predict(digits[0][:5])


def test_a_model_loads_where_there_is_no_opu_and_says_so_when_it_predicts(fitted, digits, tmp_path, monkeypatch):
    fitted.save(tmp_path / "model")
    data = pickle.dumps(fitted)
    monkeypatch.setitem(sys.modules, "lightonopu", None)
    loaded = load(tmp_path / "model")
    for model in (loaded, pickle.loads(data)):
        assert model.readout_.projection.device.startswith("OPU Saturn")
        with pytest.raises(MissingPackageError, match="LightOn's hardware"):
            model.predict(digits[0][:5])
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_bytes() == (tmp_path / "model" / "model.json").read_bytes()


@pytest.fixture
def driver(simulated, monkeypatch):
    """``lightonopu`` and an OPU's configuration, as lightonml looks for them."""
    for name, module in lightonopu_fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    times = {"input": {"frametime_us": 500}, "output": {"exposure_us": 400}}
    config = {"type": "type3", "name": "Saturn", **times, "ones_range": [0, 912 * 1140]}
    monkeypatch.setattr("lightonml.internal.config.load_config", lambda *_: config)
    monkeypatch.setattr("lightonml.opu.pkg_resources.require", lambda what: None)
    return lambda there: monkeypatch.setattr("lightonml.internal.config.host_has_opu_config", lambda: there)


def test_lightonml_itself_takes_what_we_ask_of_the_hardware(driver, digits):
    driver(True)
    bits = pack_signs(digits[0][:20, :61])
    projection = Opu(61, 30)
    speckle = projection.intensities(bits)
    assert speckle.dtype == np.uint8
    np.testing.assert_array_equal(speckle, np.bitwise_count(bits).sum(axis=1)[:, None] + np.arange(30))
    assert not projection.opu.device.active
    assert projection.identity == "OPU Saturn-NA-NA; core type NA, core version NA, exposure 400 us"
    with pytest.raises(UsageError, match="n_components is beyond maximum"):
        Opu(61, 3_000_000).intensities(bits)
    with pytest.raises(UsageError, match="number of features .* can't be greater than 1039680"):
        Opu(2**20, 30).intensities(np.zeros((2, 2**17), "uint8"))


def test_a_driver_without_an_opu_is_told_by_lightonml(driver):
    driver(False)
    with pytest.raises(AurevoirError, match="No configuration files for the OPU was found on this machine"):
        Opu(61, 30).intensities(np.zeros((2, 8), "uint8"))
