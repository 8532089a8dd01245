"""``bench gpu``: without a GPU, in small on the CPU, and what its parts do when they fail."""

import json
import shutil

import onnx
import pytest
from PIL import Image

from aurevoir.benchmarks.suites.gpu import BENCHMARK
from aurevoir.benchmarks.suites.gpu import benchmark as gpu
from aurevoir.benchmarks.suites.gpu import data as gpu_data
from aurevoir.benchmarks.suites.gpu import parts as gpu_parts
from aurevoir.engine.runtimes import has_nvidia_driver


@pytest.fixture
def data(tiny_onnx, class_folder, tmp_path):
    """A folder as --prepare makes it, of a small network."""
    folder = tmp_path / "gpu-data"
    shutil.copytree(class_folder, folder / gpu_data.PHOTOGRAPHS)
    shutil.copy(tiny_onnx, folder / gpu_data.NETWORK)
    return folder


@pytest.mark.skipif(has_nvidia_driver(), reason="there is a GPU")
def test_without_a_gpu_every_part_says_so_and_the_exit_code_is_3(bench, tmp_path):
    out = tmp_path / "r.json"
    code, result, err = bench("gpu", "--data", tmp_path, "--out", out)
    assert (code, result, out.exists()) == (3, None, False)
    assert [f"{name}: no GPU" in err for name in gpu_parts.PARTS] == [True] * 9
    assert "nothing was measured: device 'cuda'" in err


def test_everything_is_rehearsed_on_the_cpu(bench, data, tmp_path, monkeypatch):
    # Its limits are a GPU's; a processor may be busy.
    unhurried = {name: (part, 500) for name, (part, _) in gpu_parts.PARTS.items()}
    monkeypatch.setattr(gpu, "parts_of", lambda names: {name: unhurried[name] for name in names})
    out, figure = tmp_path / "r.json", tmp_path / "r.png"
    small = ["--device", "cpu", "--full-size", 60, 64, 30, "--batches", 1, 3, "--images", 5, "--memory", "1GiB"]
    parts = ["--parts", "ridge", "projection", "post", "network", "fused", "engine", "table1"]
    code, result, err = bench("gpu", "--data", data, *small, *parts, "--out", out, "--plot", figure)
    assert code == 0, err
    assert json.loads(out.read_text())["rows"] == result["rows"]
    rows = {}
    for row in result["rows"]:
        rows.setdefault(row["part"], []).append(row)
    assert set(rows) == {"ridge", "projection", "post", "network", "fused", "engine", "table1"}
    assert [row["largest_difference"] for row in rows["projection"]] == [0, 0]
    assert all(row["image_us"] > 0 for row in rows["projection"])
    threads, hardware, torch, triton = rows["post"]
    assert threads["images_per_second"] > 0
    assert "nvJPEG" in hardware["error"] or "torchvision" in hardware["error"]
    assert "runtime 'triton' cannot run" in triton["error"]
    # Of 24 photographs each is trained on more than once.
    assert (torch["images"], torch["distinct"], torch["alphas"]) == (60, 24, 15)
    assert torch["accuracy"] > 0.5
    assert torch["total"] >= sum(torch["seconds"].values())
    assert rows["fused"][0]["error"] == "its kernels need a GPU"
    fits = [row["name"] for row in rows["ridge"] if "total" in row]
    assert fits == [
        f"{kind} {how}" for kind in ("exact", "hadamard", "dense", "dense-signs") for how in ("auto", "all")
    ]
    assert rows["ridge"][-1]["same_gram"]
    network = [(row["name"], row["batch"]) for row in rows["network"]]
    assert network == [(kind, batch) for kind in ("fp32", "tf32", "fp16", "bf16") for batch in (1, 3)]
    assert all(row["images_per_second_eager"] > 0 for row in rows["network"])
    kept = {row["name"]: row["sign_agreement"] for row in rows["network"]}
    assert kept["fp32"] == 1 >= kept["fp16"] >= kept["bf16"] > 0.9
    assert {row["name"] for row in rows["engine"] if "error" not in row} == {
        "engine fp32, torch, host memory",
        "engine bf16, torch, host memory",
    }
    assert any(row["name"] == "densenet169, torch fp32" and row["accuracy"] > 0.5 for row in rows["table1"])
    assert Image.open(figure).width > 500
    lines = "\n".join(BENCHMARK.markdown(result))
    assert "| exact | 15, searched |" in lines
    assert "| fp16 |" in lines
    assert "| torch bf16 | 60 |" in lines
    assert "Decoding alone, images/s: decode, threads of the CPU " in lines
    assert "microseconds an image: hadamard, array code " in lines


def test_a_part_that_fails_or_takes_too_long_says_so_and_the_others_stand(bench, data, monkeypatch):
    quick = {"network": (gpu_parts.measure_network, 30), "engine": (gpu_parts.measure_engine, 0.01)}
    monkeypatch.setattr(gpu, "parts_of", lambda names: quick)
    (data / gpu_data.NETWORK).unlink()
    code, result, err = bench("gpu", "--device", "cpu", "--data", data)
    assert code == 0, err
    network, engine = result["rows"]
    assert network["error"].startswith("exit status 1: aurevoir.errors.AurevoirError")
    assert "make the folder with: aurevoir bench gpu --prepare" in network["error"]
    assert engine["error"] == "stopped after 0.01 s"


def test_photographs_are_needed_to_prepare(bench, tmp_path):
    code, _, err = bench("gpu", "--prepare", tmp_path / "d", "--photographs", tmp_path / "none")
    assert code == 2
    assert "give --photographs" in err
    code, _, err = bench(
        "gpu", "--prepare", tmp_path / "d", "--photographs", tmp_path, "--networks", tmp_path / "x.onnx"
    )
    assert code == 2
    assert "x.onnx does not exist" in err
    assert not (tmp_path / "d").exists()
    code, _, err = bench("gpu", "--device", "cpu", "--batches", "0")
    assert code == 2
    assert "0 is below 1" in err


def test_the_folder_of_data_is_prepared_again_over_one_that_may_not_be_written(
    bench, data, class_folder, tmp_path, monkeypatch
):
    class Exported:
        name, weights, size = "tiny", "random", (28, 28)
        mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)

        def to_onnx(self, cut, images):
            seen.append((cut, images.shape, images.dtype))
            return onnx.load(data / gpu_data.NETWORK)

    seen = []
    monkeypatch.setattr(gpu_data, "open_network", lambda name, weights: Exported())
    for path in [class_folder, *class_folder.iterdir()]:
        path.chmod(0o555)
    folder = tmp_path / "prepared"
    for _ in range(2):
        code, result, err = bench("gpu", "--prepare", folder, "--photographs", class_folder)
        assert code == 0, err
        assert result["prepared"] == str(folder)
        assert f"{folder} is ready" in err
    assert seen[0] == (gpu_data.CUT, (30, 3, 28, 28), "float32")
    assert len(list((folder / gpu_data.PHOTOGRAPHS).rglob("*.png"))) == 30
    assert (folder / gpu_data.PHOTOGRAPHS).stat().st_mode & 0o200


@pytest.mark.skipif(has_nvidia_driver(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["table1", "depth", "engines"])
def test_benchmarks_of_engines_refuse_a_device_that_is_not_here(bench, tiny_onnx, name):
    code, result, err = bench(name, "--device", "cuda", "--backbone", tiny_onnx)
    assert code in (2, 3)
    assert result is None
    assert "aurevoir bench: error: device 'cuda' " in err


def test_an_installed_package_says_that_it_has_no_tests(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_parts, "TESTS", tmp_path / "tests")
    (row,) = gpu_parts.check_kernels(None)
    assert row.to_json()["summary"].startswith("not run: no checkout of the repository")
    assert row.error is None
