"""``aurevoir bench projection``: its rows, its failures and its figures."""

import json

import numpy as np
import pytest
from PIL import Image

from aurevoir.benchmarks.suites.projection import BENCHMARK
from aurevoir.benchmarks.suites.projection.accuracy import GaussianProjection
from aurevoir.benchmarks.suites.projection.benchmark import _sgemm, _ssyrk, _torch_float32, _torch_int8
from aurevoir.kernels.bits import pack_signs
from aurevoir.kernels.gram import overlap

SMALL = ["--sizes", "64", "256", "--rows", "20", "--gram-rows", "24", "--repeats", "2", "--threads", "1"]


def test_every_projection_and_peer_has_a_row_at_every_size(bench, tmp_path):
    out, figure = tmp_path / "p.json", tmp_path / "p.png"
    code, result, err = bench("projection", *SMALL, "--out", out, "--plot", figure)
    assert code == 0, err
    assert json.loads(out.read_text()) == result
    names = {(row["task"], row["name"], row["m"]) for row in result["rows"]}
    assert {
        ("projection", name, m) for name in ("hadamard", "dense", "dense-signs", "sgemm") for m in (64, 256)
    } < names
    assert {("gram", name, 256) for name in ("popcount", "sgemm", "ssyrk", "torch int8")} < names
    sound = [row for row in result["rows"] if "error" not in row]
    assert len(sound) >= 16
    for row in sound:
        assert 0 < row["times_sgemm"]["min"] <= row["times_sgemm"]["median"] <= row["times_sgemm"]["max"]
        assert row["effective_tops"] == pytest.approx(
            (4 * row["m"] * row["k"] if row["k"] else 2 * row["m"] * row["n"]) / row["seconds_per_row"] / 1e12
        )
        assert max(row["of_peak"]["sgemm"] for row in sound if row["name"] == "sgemm") == 1
    assert result["exponents"]["projection hadamard"] is not None
    assert result["threads"] == 1
    assert Image.open(figure).width > 500


def test_a_part_of_r_is_said_and_what_does_not_fit_is_kept(bench, monkeypatch):
    def broken(x, matrix):
        raise RuntimeError("no kernel\nhere")

    monkeypatch.setattr("aurevoir.benchmarks.suites.projection.benchmark._torch_int8", broken)
    code, result, err = bench("projection", *SMALL, "--memory", "128KiB", "--min-speedup", "1e9")
    assert (code, result) == (4, result)
    assert "is below --min-speedup" in err
    rows = {(row["task"], row["name"], row["m"]): row for row in result["rows"]}
    assert rows["projection", "sgemm", 256]["remark"] == "measured on 16 of 128 columns of R, seconds scaled"
    assert "remark" not in rows["projection", "sgemm", 64]
    assert rows["projection", "torch int8", 64]["error"] == "RuntimeError: no kernel"
    assert "memory budget is 128.0 KiB" in rows["projection", "opu-simulated", 256]["error"]
    assert "seconds" in rows["projection", "hadamard", 256]


@pytest.mark.parametrize("name", ["sgemm", "ssyrk", "torch float32", "torch int8"])
def test_the_peers_do_the_same_task(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    peer = {"sgemm": _sgemm, "ssyrk": _ssyrk, "torch float32": _torch_float32, "torch int8": _torch_int8}[name]
    random = np.random.default_rng(0)
    x = (random.random((32, 64)) < 0.5).astype("float32")
    np.testing.assert_array_equal(np.asarray(peer(x, None)()), overlap(pack_signs(x)))
    if name != "ssyrk":
        matrix = random.integers(-3, 4, size=(2, 64, 16)).astype("float32")
        levels = 40**2 if name == "torch int8" else 1
        clipped = np.clip(40 * matrix, -127, 127) / 40 if name == "torch int8" else matrix
        expected = (x @ clipped[0]) ** 2 + (x @ clipped[1]) ** 2
        np.testing.assert_allclose(np.asarray(peer(x, matrix)()) / levels, expected, rtol=1e-3, atol=1)


def test_accuracy_grows_with_k_and_falls_with_noise(bench, few_digits, tmp_path):
    figure = tmp_path / "a.png"
    options = ["--components", "8", "96", "--splits", "2", "--noise-components", "96", "--plot", figure]
    code, result, err = bench("projection", "--accuracy", *options)
    assert code == 0, err
    clear = {(row["projection"], row["k"]): row for row in result["rows"] if "full_well" not in row}
    for kind in ("hadamard", "dense", "dense-signs", "dense-float32"):
        assert clear[kind, 8]["accuracy"] < clear[kind, 96]["accuracy"] < clear["exact", None]["accuracy"]
        assert len(clear[kind, 96]["accuracies"]) == 2
        assert clear[kind, 8]["standard_error"] >= 0
    assert clear["none", None]["accuracy"] > 0.9
    noisy = [row for row in result["rows"] if "full_well" in row]
    assert noisy[0]["full_well"] is None
    assert noisy[0]["accuracies"] == clear["dense", 96]["accuracies"]
    assert noisy[-1]["less_noiseless"]["mean"] < 0
    assert Image.open(figure).width > 500
    lines = BENCHMARK.markdown(result)
    assert lines[2] == "| data | projection | any k | k = 8 | k = 96 |"
    dense = [f"{clear['dense', k]['accuracy']:.3f} ± {clear['dense', k]['standard_error']:.3f}" for k in (8, 96)]
    assert f"| digits | dense |  | {' | '.join(dense)} |" in lines
    assert f"| 10 | 1 | {noisy[-1]['less_noiseless']['mean']:+.3f} ± " in lines[-1]


def test_photographs_go_through_the_backbone_once(bench, few_digits, tiny_onnx, class_folder):
    options = ["--backbone", tiny_onnx, "--components", "32", "--splits", "2", "--noise-components", "32"]
    code, result, err = bench("projection", "--accuracy", class_folder, *options, "--memory", "400MiB")
    assert code == 0, err
    own = [row for row in result["rows"] if row["data"] == class_folder.name]
    assert {row["projection"] for row in own} >= {"none", "exact", "hadamard", "dense", "dense-signs"}
    assert {row["m"] for row in own} == {196}
    code = bench("projection", "--accuracy", class_folder)[0]
    assert code == 2


def test_the_float_reference_is_the_squared_modulus_of_rx():
    reference = GaussianProjection(61, 9, 2)
    x = np.random.default_rng(0).random((7, 61)) < 0.5
    R = reference.matrix[0] + 1j * reference.matrix[1]
    np.testing.assert_allclose(reference.intensities(pack_signs(x)), np.abs(x @ R) ** 2, rtol=1e-4)
