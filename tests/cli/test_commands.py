"""The commands: results on stdout, progress and errors on stderr, exit codes."""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import onnx
import pytest
from PIL import Image

from aurevoir import OpticalClassifier
from aurevoir.cli.main import COMMANDS, main
from aurevoir.engine.engine import Engine
from aurevoir.images.sources import class_folders


@pytest.fixture
def call(call):
    """Run a command in this process; return (exit code, parsed stdout or None, stderr)."""

    def run(*arguments):
        code, out, err = call(*arguments)
        return code, json.loads(out) if out.startswith("{") else None, err

    return run


@pytest.fixture
def text(capsys):
    """Run a command that succeeds; return what it prints for people on stdout."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


def _message(err):
    """The one line that is not a progress bar."""
    lines = [
        line
        for line in err.replace("\r", "\n").splitlines()
        if line.strip() and "img/s" not in line and "?it" not in line
    ]
    assert len(lines) == 1, lines
    return lines[0]


def test_cuts(call, text, tiny_onnx, written_by):
    code, result, err = call("cuts", tiny_onnx, "--json")
    assert (code, err) == (0, "")
    assert {"name", "features", "parameters", "macs", "megabytes", "default"} <= set(result["cuts"][0])
    assert [cut["default"] for cut in result["cuts"]] == [False] * (len(result["cuts"]) - 1) + [True]
    lines = text("cuts", tiny_onnx).splitlines()
    assert any(line.lstrip("* ").startswith(written_by("Relu")) for line in lines)
    assert [line.startswith("* ") for line in lines[1:-1]] == [cut["default"] for cut in result["cuts"]]
    code, result, _ = call("cuts", "densenet169", "--json")
    assert {cut["name"]: cut["features"] for cut in result["cuts"]}["denseblock4.denselayer12"] == 50_176
    assert [cut["name"] for cut in result["cuts"] if cut["default"]] == ["denseblock4.denselayer12"]


def test_build_and_embed(call, tiny_onnx, class_folder, tmp_path):
    engine = tmp_path / "e.engine"
    (class_folder / "red" / "0.png").write_bytes(b"broken")
    code, built, err = call(
        "build", tiny_onnx, "--precision", "int8", "--calibration", class_folder, "--out", engine, "--json"
    )
    assert code == 0, err
    keys = {"engine", "runtime", "precision", "features", "megabytes", "sign_agreement", "relative_error", "seconds"}
    assert keys <= set(built)
    assert (built["features"], built["precision"]) == (196, "int8")
    code, embedded, _ = call("embed", engine, class_folder, "--out", tmp_path / "bits.npz", "--json")
    assert code == 0
    assert (embedded["images"], embedded["features"]) == (29, 196)
    assert list(embedded["skipped"]) == [str(class_folder / "red" / "0.png")]
    _, _, _ = call("embed", engine, class_folder, "--out", tmp_path / "features.npz", "--features")
    bits, features = (np.load(tmp_path / name, allow_pickle=False) for name in ("bits.npz", "features.npz"))
    assert bits["paths"].tolist() == features["paths"].tolist()
    signs = np.packbits(features["features"] > 0, axis=1)
    assert np.bitwise_count(bits["bits"] ^ signs).sum() < 0.01 * signs.size * 8


@pytest.mark.parametrize(
    ("given", "said", "mean"),
    [
        ("none", "none", 0),
        ("0.5,0.5,0.5/0.5,0.5,0.5", "symmetric", 0.5),
        ("((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))", "symmetric", 0.5),
        ("caffe", "caffe", 103.939 / 255),
        ("unit:bgr", "unit:bgr", 0),
    ],
)
def test_build_takes_any_normalization_and_says_it(call, tiny_onnx, tmp_path, given, said, mean, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.build.first_inference", lambda *rest: None)
    code, result, _ = call("build", tiny_onnx, "--out", tmp_path / "x.engine", "--normalization", given, "--json")
    assert (code, result["normalization"]) == (0, said)
    told = call("inspect", tmp_path / "x.engine", "--json")[1]
    assert told["mean"][0] == pytest.approx(mean)
    assert told["normalization"] == said


def test_fit_build_and_inspect_name_the_normalization_in_the_same_words(text, call, tiny_onnx, class_folder, tmp_path):
    engine, model, given = tmp_path / "e.engine", tmp_path / "model", ["--normalization", "symmetric:bgr"]
    said = "normalization: symmetric:bgr"
    assert said in text("build", tiny_onnx, "--out", engine, *given).splitlines()
    assert said in text("fit", class_folder, "--backbone", tiny_onnx, "--out", model, *given).splitlines()
    assert call("fit", class_folder, "--engine", engine, "--json")[1]["normalization"] == "symmetric:bgr"
    for path in (engine, model):
        assert re.search(r"^normalization +symmetric:bgr$", text("inspect", path), re.MULTILINE)
    told = call("inspect", model, "--json")[1]
    assert (told["model"], told["classes"]) == (str(model), ["blue", "green", "red"])
    assert told["engine"] == str(model / "engine.aurevoir")
    code, _, err = call("embed", model, class_folder, "--out", tmp_path / "b.npz")
    assert (code, f"is a model folder; give the engine file in it, {model}/engine.aurevoir" in _message(err)) == (
        2,
        True,
    )


def test_a_grayscale_network_is_fitted_on_a_folder(call, class_folder, tmp_path):
    weight = np.random.default_rng(0).normal(size=(8, 1, 3, 3)).astype("float32")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]), onnx.helper.make_node("Relu", ["c"], ["y"])],
        "gray",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 1, 28, 28])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 8, 7, 7])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "gray.onnx")
    code, _, stderr = call("fit", class_folder, "--backbone", tmp_path / "gray.onnx", "--out", tmp_path / "model")
    assert code == 0, stderr
    image = next(class_folder.rglob("*.png"))
    assert call("predict", tmp_path / "model", image)[0] == 0


def test_calibrate_then_build_without_images(call, tiny_onnx, class_folder, tmp_path):
    table, cache = tmp_path / "t.json", tmp_path / "t.cache"
    given = ["--calibration", class_folder, "--method", "mse", "--out", table, "--cache", cache]
    code, result, err = call("calibrate", tiny_onnx, *given, "--json")
    assert code == 0, err
    assert [tensor["name"] for tensor in result["tensors"]][-1] == "features"
    assert result["sign_agreement"] == result["tensors"][-1]["sign_agreement"] > 0.9
    assert cache.read_bytes().startswith(b"TRT-8601-EntropyCalibration2\n")
    for path in (table, cache):
        options = ["--precision", "int8", "--calibration", path, "--out", tmp_path / "e.engine"]
        code, built, err = call("build", tiny_onnx, *options, "--json")
        assert code == 0, err
        assert (built["precision"], built["in_float"]) == ("int8", [])
    code, _, err = call("build", tiny_onnx, *options, "--cut", "none")
    assert (code, "cut 'none' is not in" in _message(err)) == (2, True)


def test_calibrate_writes_the_graph_for_tensorrt_and_a_figure(call, tiny_onnx, class_folder, tmp_path):
    given = [
        "--calibration",
        class_folder,
        "--placement",
        "shared-concat",
        "--body",
        "fp16",
        "--out",
        tmp_path / "t.json",
    ]
    written = {name: tmp_path / f"t.{name}" for name in ("onnx", "png")}
    code, result, err = call(
        "calibrate", tiny_onnx, *given, "--onnx", written["onnx"], "--plot", written["png"], "--json"
    )
    assert code == 0, err
    assert (result["onnx"], result["plot"]) == (str(written["onnx"]), str(written["png"]))
    tensors = onnx.load(written["onnx"]).graph.initializer
    kinds = {tensor.data_type for tensor in tensors if not tensor.name.startswith("pooled/")}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    assert Image.open(written["png"]).width > 500


def test_what_calibrate_cannot_write_is_refused_before_the_work(call, tiny_onnx, class_folder, tmp_path, monkeypatch):
    given = ["--calibration", class_folder, "--out", tmp_path / "t.json"]
    code, _, err = call("calibrate", tiny_onnx, *given, "--body", "bf16")
    assert (code, "body 'bf16' is not known; choose one of fp32, fp16" in _message(err)) == (2, True)
    code, _, err = call("calibrate", tiny_onnx, *given, "--placement", "all")
    assert (code, "placement 'all' is not known" in _message(err)) == (2, True)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((class_folder / "red").iterdir())[:3]:
        path.rename(few / path.name)
    three = ["--calibration", few, "--out", tmp_path / "t.json", "--plot", tmp_path / "t.png"]
    code, _, err = call("calibrate", tiny_onnx, *three)
    assert (code, "--plot needs 4 or more images to measure on, and there are 3" in _message(err)) == (2, True)
    monkeypatch.setattr("aurevoir.calibration.fidelity.find_spec", lambda name: None)
    code, _, err = call("calibrate", tiny_onnx, *given, "--plot", tmp_path / "t.png")
    assert (code, "pip install 'aurevoir[plot]'" in _message(err)) == (3, True)
    assert not (tmp_path / "t.json").exists()


def test_build_reports_speed_and_the_price_of_float_layers(call, text, tiny_onnx, class_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.calibrate.sign_agreement", lambda features, reference: 0.5)
    options = ["--precision", "int8", "--calibration", class_folder, "--out", tmp_path / "e.engine"]
    code, built, err = call("build", tiny_onnx, *options, "--min-sign-agreement", "0.6", "--json")
    assert code == 0, err
    assert {"int8", "int8 throughout"} < set(built["images_per_second"])
    assert (built["quantized_layers"], built["layers"]) == (1, 2)
    assert built["megabytes"] == (tmp_path / "e.engine").stat().st_size / 1e6
    assert set(built["timings"]) == {"decode", "calibrate", "build", "total"}
    out = text("build", tiny_onnx, *options, "--min-sign-agreement", "0.6")
    assert "int8: 1 of 2 convolutions" in out
    assert "int8 on this machine: " in out
    assert re.search(r"throughput \w+ from [\d.]+ to [\d.]+ images/s \([+-]\d+%\) because 1 tensor stays in float", out)
    assert re.search(r"sign agreement with fp32: [\d.]+%", out)


def test_build_says_the_one_reason_why_the_sign_agreement_was_not_measured(text, tiny_onnx, class_folder, tmp_path):
    out = ["--out", tmp_path / "e.engine"]
    images = ["--calibration", class_folder]
    assert "sign agreement" not in text("build", tiny_onnx, *out)
    assert "was not measured: no images were given" in text("build", tiny_onnx, "--precision", "bf16", *out)
    few = text("build", tiny_onnx, "--precision", "int8", *images, "--calibration-images", "2", *out)
    assert "was not measured: it needs 4 or more images" in few
    text("calibrate", tiny_onnx, *images, "--out", tmp_path / "t.json")
    table = text("build", tiny_onnx, "--precision", "int8", "--calibration", tmp_path / "t.json", *out)
    assert "was not measured: a calibration table holds no images" in table


def test_a_sign_agreement_out_of_reach_says_its_ceiling_before_the_search(
    call, tiny_onnx, class_folder, tmp_path, monkeypatch
):
    def never(*arguments):
        raise AssertionError("searched")

    monkeypatch.setattr("aurevoir.engine.build.reach_sign_agreement", never)
    monkeypatch.setattr("aurevoir.engine.assemble.sign_agreement", lambda features, reference: 0.97)
    options = ["--precision", "int8", "--calibration", class_folder, "--out", tmp_path / "e.engine"]
    code, _, err = call("build", tiny_onnx, *options, "--min-sign-agreement", "0.98")
    assert code == 4
    assert "min_sign_agreement 0.98 is out of reach: with every layer in " in err
    assert "the sign agreement with fp32 is 0.9700; give at most that, or precision fp32" in err
    assert not (tmp_path / "e.engine").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "mse"], "--method has no effect with precision fp32; omit it"),
        (["--precision", "bf16", "--placement", "shared-concat"], "--placement has no effect with precision bf16"),
        (["--prefer-faster"], "--prefer-faster has no effect with precision fp32"),
        (["--activation-dtype", "uint8"], "--activation-dtype has no effect with precision fp32"),
        (["--min-sign-agreement", "0.9"], "min_sign_agreement compares with fp32, and this engine is fp32"),
    ],
)
def test_an_option_without_effect_is_refused(call, tiny_onnx, class_folder, tmp_path, options, message):
    for command in (["build", tiny_onnx, "--out", tmp_path / "e"], ["fit", class_folder, "--backbone", tiny_onnx]):
        code, _, err = call(*command, *options)
        assert (code, message in _message(err)) == (2, True), err
    assert not (tmp_path / "e").exists()


def test_fit_refuses_options_of_an_engine_that_is_built(call, tiny_onnx, class_folder, tmp_path):
    built = ["--precision", "int8", "--calibration", class_folder, "--out", tmp_path / "e.engine"]
    assert call("build", tiny_onnx, *built)[0] == 0
    for option in (["--cut", "x"], ["--precision", "int8"], ["--backbone", tiny_onnx], ["--device", "cpu"]):
        code, _, err = call("fit", class_folder, "--engine", tmp_path / "e.engine", *option)
        assert (code, f"{option[0]} has no effect with a built engine" in _message(err)) == (2, True), err
    code, fitted, err = call("fit", class_folder, "--engine", tmp_path / "e.engine", "--json")
    assert (code, fitted["images_per_second"]) == (0, {}), err
    code, _, err = call("fit", class_folder, "--backbone", tiny_onnx, "--projection", "exact", "--components", "9")
    assert (code, "--components has no effect with projection exact" in _message(err)) == (2, True)


def test_fit_takes_every_engine_option_and_has_builds_guards(call, tiny_onnx, class_folder, monkeypatch):
    seen = []
    monkeypatch.setattr("aurevoir.engine.build.first_inference", lambda engine, *rest: seen.append(engine))
    options = ["--precision", "int8", "--placement", "concat-inputs", "--activation-dtype", "int8", "--device", "cpu"]
    code, fitted, err = call("fit", class_folder, "--backbone", tiny_onnx, *options, "--json")
    assert code == 0, err
    assert [engine.manifest.placement for engine in seen] == ["concat-inputs"]
    assert fitted["images_per_second"] == fitted["images_per_second_by_turn"] == {}
    assert fitted["sign_agreement"] > 0.9


def test_what_nvidias_builder_logs_is_shown_on_request_only(tiny_onnx, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    command = [sys.executable, "-m", "aurevoir", "build", tiny_onnx, "--target", "sm89", "--out", tmp_path / "e.engine"]
    logged = [subprocess.run([*command, *more], capture_output=True, check=True).stderr for more in ([], ["--verbose"])]
    assert logged[0] == b""
    assert len(logged[1].splitlines()) > 3


def test_bench_writes_its_rows_and_its_figure(call, tiny_onnx, class_folder, tmp_path):
    out, figure = tmp_path / "c.json", tmp_path / "c.png"
    images = ["--calibration", class_folder, "--test", class_folder, "--calibration-images", "8", "--test-images", "8"]
    options = ["--data", class_folder, "--splits", "2", "--rounds", "1", "--no-peers", "--out", out, "--plot", figure]
    code, result, err = call("bench", "calibration", "--backbones", tiny_onnx, *images, *options, "--json")
    assert code == 0, err
    assert json.loads(out.read_text()) == result
    names = [row["name"] for row in result["rows"]]
    assert {"fp32", "aurevoir entropy", "aurevoir percentile"} <= set(names)
    assert all(0.8 < row["sign_agreement"] <= 1 and 0 <= row["accuracy"] <= 1 for row in result["rows"])
    default = next(row for row in result["rows"] if row["name"] == "aurevoir percentile")
    assert default["behind_default"] == {"mean": 0, "standard_error": 0}
    assert Image.open(figure).width > 500


def test_bench_engines_keeps_failed_rows_and_checks_the_speedup(call, tiny_onnx, tmp_path, monkeypatch):
    def broken(exported, precision, device):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("aurevoir.benchmarks.suites.engines.in_torch", broken)
    monkeypatch.setattr("aurevoir.benchmarks.suites.engines.PEER_NAMES", ())
    options = ["--backbone", tiny_onnx, "--batches", "4", "20", "--rounds", "2", "--latency-calls", "2"]
    figure = tmp_path / "e.png"
    code, result, err = call("bench", "engines", *options, "--min-speedup", "1000", "--plot", figure, "--json")
    assert code == 4
    assert "is below --min-speedup 1000.0" in err
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["torch.compile fp32"]["error"] == "RuntimeError: no compiler"
    assert [entry["batch"] for entry in rows["openvino int8"]["throughput"]] == [4, 20]
    assert set(rows["onnxruntime fp32"]["latency_ms"]) == {"p50", "p90", "p99"}
    assert rows["onnxruntime fp32"]["throughput"][0]["times_onnxruntime_fp32"]["median"] == 1
    assert rows["onnxruntime fp32"]["sign_agreement"] == 1
    assert all(0.8 < row["sign_agreement"] <= 1 for row in rows.values() if "error" not in row)
    assert {"openvino int8, concat-inputs", "openvino int8, shared-concat"} <= set(rows)
    assert result["speedup"] == max(
        row["throughput"][-1]["times_onnxruntime_fp32"]["median"]
        for row in rows.values()
        if row["group"] == "aurevoir" and row["precision"] == "int8"
    )
    assert Image.open(figure).width > 500


def test_bench_threads_counts_other_outputs(call, tiny_onnx, tmp_path, monkeypatch):
    options = ["--backbone", tiny_onnx, "--threads", "3", "--calls", "30", "--precision", "fp32"]
    code, result, err = call("bench", "threads", *options, "--plot", tmp_path / "t.png", "--json")
    assert code == 0, err
    assert (result["calls_with_other_outputs"], result["calls"]) == (0, 30)
    assert len(result["resident_megabytes"]) == 31
    run = Engine.__call__
    calls = itertools.count(1)
    monkeypatch.setattr(Engine, "__call__", lambda self, images: run(self, images) + (next(calls) > 20))
    code, result, _ = call("bench", "threads", *options, "--json")
    assert (code, result["calls_with_other_outputs"]) == (0, 19)


def test_two_builds_are_identical_and_speeds_are_kept_on_request(call, tiny_onnx, class_folder, tmp_path):
    options = ["--precision", "int8", "--calibration", class_folder, "--runtime", "openvino", "--json"]
    digests = []
    for name, more in (("a", []), ("b", []), ("c", ["--keep-speeds"])):
        code, built, err = call("build", tiny_onnx, "--out", tmp_path / name, *options, *more)
        assert code == 0, err
        told = call("inspect", tmp_path / name, "--json")[1]
        assert told["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert told["images_per_second"] == (built["images_per_second"] if more else {})
        digests.append(told["sha256"])
    assert digests[0] == digests[1] != digests[2]
    code, _, err = call("build", tiny_onnx, "--out", tmp_path / "d", "--keep-speeds")
    assert (code, "--keep-speeds has no effect" in _message(err), (tmp_path / "d").exists()) == (2, True, False)


def test_inspect_gives_the_digest_of_every_file_of_a_model(call, tiny_onnx, class_folder, tmp_path):
    assert call("fit", class_folder, "--backbone", tiny_onnx, "--out", tmp_path / "m", "--json")[0] == 0
    told = call("inspect", tmp_path / "m", "--json")[1]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "m").iterdir()}
    assert told["files"] == files
    assert (told["model_sha256"], told["sha256"]) == (files["model.json"], files["engine.aurevoir"])
    (tmp_path / "m" / "secret").symlink_to(tmp_path / "m" / "model.json")
    os.mkfifo(tmp_path / "m" / "pipe")
    assert call("inspect", tmp_path / "m", "--json")[1]["files"] == files


def test_a_pipe_in_an_output_folder_is_not_read(call, tiny_onnx, class_folder, tmp_path):
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / "model.json")
    code, _, err = call("fit", class_folder, "--backbone", tiny_onnx, "--out", tmp_path / "m", "--json")
    assert (code, "exists and is not a model folder" in err) == (2, True), err


def test_inspect_tells_all_about_an_engine(call, tiny_onnx, class_folder, tmp_path, monkeypatch):
    engine = tmp_path / "e.engine"
    options = ["--precision", "int8", "--calibration", class_folder, "--out", engine]
    code, built, err = call("build", tiny_onnx, *options, "--runtime", "openvino", "--json")
    assert code == 0, err
    code, told, err = call("inspect", engine, "--layers", "--json")
    assert code == 0, err
    assert (told["precision"], told["runtime"], told["features"]) == ("int8", "openvino", 196)
    assert told["sign_agreement"] == built["sign_agreement"]
    assert told["calibration"]["tensors"] == told["operators"]["QuantizeLinear"] == 2
    assert [part["name"] for part in told["parts"]] == ["model.onnx", "calibration.json"]
    assert sum(layer["type"] == "Convolution" for layer in told["layers"]) == 2
    assert sum(told["layer_precisions"].values()) == len(told["layers"])
    monkeypatch.setattr("aurevoir.engine.runtimes.find_spec", lambda name: None)
    code, told, err = call("inspect", engine, "--json")
    assert code == 0, err
    assert (told["layers"], told["layer_precisions"]) == (None, {})
    assert "pip install openvino" in told["layers_unknown"]
    code, _, err = call("inspect", tiny_onnx)
    assert (code, "is not an engine file but an ONNX file" in _message(err)) == (1, True)


def test_bench_accuracy_pairs_precisions_over_all_data_sets(call, tiny_onnx, class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "again")
    options = ["--backbone", tiny_onnx, "--calibration", class_folder, "--splits", "2", "--projections", "none"]
    code, result, err = call("bench", "accuracy", class_folder, tmp_path / "again", *options, "--json")
    assert code == 0, err
    assert [row["data"] for row in result["rows"]].count("again") == 3
    int8 = next(row for row in result["together"] if row["precision"] == "int8")
    pairs = [(row["precision"], value) for row in result["rows"] for value in row["accuracies"]]
    means = {name: np.mean([value for each, value in pairs if each == name]) for name in ("fp32", "int8")}
    assert int8["splits"] == 4
    assert int8["less_fp32"] == pytest.approx(means["int8"] - means["fp32"])


def test_bench_needs_the_name_of_a_benchmark(call):
    code, _, err = call("bench", "nothing")
    assert (code, "invalid choice: 'nothing'" in _message(err)) == (2, True)


def test_a_table_of_another_graph_is_refused(call, tiny_onnx, written_by, class_folder, tmp_path):
    table = tmp_path / "t.json"
    given = ["--cut", written_by("Relu"), "--calibration", class_folder, "--out", table]
    assert call("calibrate", tiny_onnx, *given)[0] == 0
    options = ["--precision", "int8", "--calibration", table, "--out", tmp_path / "e.engine"]
    code, _, err = call("build", tiny_onnx, *options)
    assert code == 1
    reason = "the tensors have the same names: another cut, weights, normalisation, or pooled layers"
    assert f"{reason}; calibrate again" in _message(err)


def test_calibrate_needs_images(call, tiny_onnx, tmp_path):
    code, _, err = call("calibrate", tiny_onnx, "--out", tmp_path / "t.json")
    assert code == 2
    assert "no images to calibrate on; give a folder" in _message(err)


def test_fit_predict_evaluate(call, text, tiny_onnx, class_folder, tmp_path):
    model = tmp_path / "model"
    code, fitted, err = call("fit", class_folder, "--backbone", tiny_onnx, "--out", model, "--json")
    assert code == 0, err
    keys = {"accuracy", "loo_accuracy", "alpha", "classes", "train_images", "test_images", "skipped", "timings"}
    assert keys <= set(fitted)
    assert (fitted["train_images"], fitted["test_images"]) == (24, 6)
    assert fitted["accuracy"] > 0.8
    stages = {"decode", "calibrate", "build", "engine", "project", "gram", "solve", "total"}
    assert set(fitted["timings"]) == stages
    code, evaluated, err = call("evaluate", model, class_folder, "--json")
    assert code == 0, err
    assert np.array(evaluated["confusion"]).sum() == 30
    assert evaluated["accuracy"] == np.trace(evaluated["confusion"]) / 30
    assert set(evaluated["per_class"]) == {"blue", "green", "red"}
    code, predicted, err = call("predict", model, class_folder / "red", class_folder / "blue" / "0.png", "--json")
    assert code == 0, err
    labels = [item["label"] for item in predicted["predictions"]]
    assert len(labels) == 11
    assert labels.count("red") >= 9
    keys = {"path", "label", "score", "probability", "familiarity", "unfamiliar", "nearest"}
    assert keys == set(predicted["predictions"][0])
    out = text("predict", model, class_folder / "red")
    assert "red/0.png: red" in out.replace(str(class_folder) + "/", "")


def test_a_test_folder_is_used_as_given(call, tiny_onnx, class_folder):
    code, fitted, err = call("fit", class_folder, "--test", class_folder, "--backbone", tiny_onnx, "--json")
    assert code == 0, err
    assert (fitted["train_images"], fitted["test_images"]) == (30, 30)


def test_five_per_cent_of_broken_files_are_listed_and_no_others(call, text, tiny_onnx, class_folder):
    """Ten kinds of files that are no images, and two odd ones that are."""
    red = class_folder / "red"
    whole = (red / "0.png").read_bytes()
    Image.fromarray(np.zeros((60, 60, 3), "uint8")).save(red / "j.jpg")
    jpeg = (red / "j.jpg").read_bytes()
    broken = {
        "zero.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"hello",
        "page.png": b"<html></html>",
        "pdf.jpg": b"%PDF-1.4",
        "nul.gif": bytes(100),
        "head.png": whole[:30],
    }
    for name, data in broken.items():
        (red / name).write_bytes(data)
    Image.fromarray(np.full((9, 9), 40000, "uint16")).save(red / "sixteen.png")
    Image.new("CMYK", (30, 30)).save(red / "cmyk.jpg")
    code, fitted, err = call("fit", class_folder, "--backbone", tiny_onnx, "--json")
    assert code == 0, err
    assert set(fitted["skipped"]) == {str(red / name) for name in broken}
    assert all(fitted["skipped"].values())
    out = text("fit", class_folder, "--backbone", tiny_onnx)
    assert all(f"skipped: {path} ({reason})" in out for path, reason in fitted["skipped"].items())


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _one_class(folder):
    shutil.rmtree(folder / "red")
    shutil.rmtree(folder / "blue")


def _one_image(folder):
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "options", "code", "message"),
    [
        (_empty, [], 1, "contains no class folders"),
        (_one_class, [], 1, "contains only one class, 'green'"),
        (_one_image, [], 1, "class 'red' has only one image"),
        (lambda folder: _empty(folder / "red"), [], 1, "the class folder .*red is empty"),
        (shutil.rmtree, [], 2, "photos does not exist"),
        (None, ["--backbone", "resnet51"], 2, "backbone 'resnet51' is not a torchvision model .* resnet50"),
        (None, ["--backbone", "none.onnx"], 2, "backbone none.onnx does not exist"),
        (None, ["--cut", "layer9"], 2, "cut 'layer9' is not in tiny.onnx; nearest"),
        (None, ["--precision", "fp8"], 2, "precision 'fp8' is not known; choose one of fp32"),
        (None, ["--runtime", "tvm"], 2, "runtime 'tvm' is not known; choose one of auto"),
        (
            None,
            ["--runtime", "torch", "--precision", "int8"],
            2,
            "runtime 'torch' runs fp32, bf16 .*int8 runs on openvino",
        ),
        (None, ["--projection", "lens"], 2, "projection 'lens' is not known"),
        (None, ["--projection", "opu"], 3, "need.* lightonml|needs LightOn's hardware"),
        (None, ["--components", "0"], 2, "0 is less than 1"),
        (None, ["--test", "nowhere"], 2, "nowhere does not exist"),
        (None, ["--engine", "nowhere"], 2, "engine nowhere does not exist"),
        (None, ["--seed", "x"], 2, "invalid int value: 'x'"),
    ],
)
def test_bad_input_gives_one_line_and_its_exit_code(call, tiny_onnx, class_folder, harm, options, code, message):
    if harm:
        harm(class_folder)
    given = [] if "--backbone" in options else ["--backbone", tiny_onnx]
    found, result, err = call("fit", class_folder, *given, *options, "--json")
    assert (found, result) == (code, None)
    assert re.search(message, _message(err)), err
    assert _message(err).startswith("aurevoir fit: error: ")


def test_weights_of_another_network_give_one_line(call, class_folder, tmp_path):
    import torch

    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    code, _, err = call("fit", class_folder, "--backbone", "squeezenet1_1", "--weights", tmp_path / "other.pth")
    assert code == 1
    assert "other.pth does not hold the weights of squeezenet1_1: 52 of its 52 tensors are missing" in _message(err)


def test_weights_that_cannot_be_fetched_give_one_line_and_are_not_replaced(call, class_folder, monkeypatch):
    import torch.hub

    def fail(*args, **kwargs):
        sys.stdout.write("Downloading\n")
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    code, _, err = call("fit", class_folder, "--backbone", "squeezenet1_1")
    assert code == 1
    noted, message = err.splitlines()
    assert noted == "Downloading"
    assert "the pretrained weights of squeezenet1_1 could not be fetched (OSError: no route to host)" in message


def test_fit_refuses_weights_of_a_training_that_diverged(call, class_folder, tmp_path, caplog):
    torch = pytest.importorskip("torch")
    from torchvision.models import squeezenet1_1

    state = {name: value * np.nan for name, value in squeezenet1_1(weights=None).state_dict().items()}
    torch.save(state, tmp_path / "diverged.pth")
    options = ("--backbone", "squeezenet1_1", "--weights", tmp_path / "diverged.pth", "--size", 64)
    code, _, err = call("fit", class_folder, *options)
    assert code == 1
    assert "diverged.pth: 52 of the 52 tensors of squeezenet1_1" in caplog.text
    assert "nan or inf" in _message(err) and "features.0.weight" in _message(err)


def test_cuts_of_timms_networks(call):
    pytest.importorskip("timm")
    code, result, _ = call("cuts", "timm:test_resnet", "--json")
    assert code == 0
    assert [cut["name"] for cut in result["cuts"] if cut["default"]] == ["layer4"]


def test_missed_thresholds_exit_with_four(call, tiny_onnx, class_folder, tmp_path):
    code, fitted, err = call(
        "fit", class_folder, "--backbone", tiny_onnx, "--min-accuracy", "1", "--seed", "3", "--json"
    )
    assert code == (0 if fitted["accuracy"] == 1 else 4)
    options = [
        "--precision",
        "int8",
        "--calibration",
        class_folder,
        "--out",
        tmp_path / "e",
        "--min-sign-agreement",
        "1",
    ]
    code, built, err = call("build", tiny_onnx, *options, "--json")
    # Either no float precision here reaches it, which is said before anything is written, or int8 may or may not.
    assert code == (0 if built and built["sign_agreement"] == 1 else 4)
    assert built or "min_sign_agreement 1.0 is out of reach" in err


def test_predict_and_evaluate_refuse_what_is_no_model(call, class_folder):
    for command in ("predict", "evaluate"):
        code, _, err = call(command, class_folder, class_folder)
        assert code == 2
        assert "is not a model folder" in _message(err)


def test_doctor(call):
    code, result, _ = call("doctor", "--json")
    assert code == 0
    rows = {row["name"]: row for row in result["runtimes"]}
    assert set(result["processor"]) == {"instruction_sets", "onednn_limit", "int8"}
    assert set(result["processor"]["int8"]) == {"openvino", "onnxruntime"}
    keys = {"name", "available", "version", "precisions", "devices", "targets", "why_not", "install"}
    assert all(set(row) == keys for row in rows.values())
    assert rows["openvino"]["available"]
    assert {"fp32", "int8"} <= set(rows["openvino"]["precisions"])
    assert rows["openvino"]["devices"][0] == "cpu"
    if rows["tensorrt-rtx"]["version"]:
        assert "sm89" in rows["tensorrt-rtx"]["targets"]


def test_doctor_tells_a_placeholder_from_a_library(call, text, monkeypatch):
    versions = {"tensorrt-cu13": "11.4.0", "openvino": "1", "onnxruntime": "1", "torch": "1"}

    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("aurevoir.engine.runtimes.on_tensorrt.package_version", version)
    monkeypatch.setattr("aurevoir.engine.runtimes.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    _, result, _ = call("doctor", "--json")
    row = next(row for row in result["runtimes"] if row["name"] == "tensorrt")
    assert not row["available"]
    assert "placeholder that downloads them from NVIDIA's own package index" in row["why_not"]
    assert "placeholder" in text("doctor")


def test_doctor_names_the_install_line_of_a_missing_runtime(call, text, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.runtimes.find_spec", lambda name: None)
    _, result, _ = call("doctor", "--json")
    assert not any(row["available"] for row in result["runtimes"])
    assert "pip install openvino" in text("doctor")


@pytest.mark.parametrize("arguments", [[], ["train"], ["fit"], ["fit", "x", "--nothing"]])
def test_usage_errors_exit_with_two(call, arguments):
    code, _, err = call(*arguments)
    assert code == 2
    assert "error:" in _message(err)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_help(call, command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: aurevoir {command}")


def test_a_reader_that_leaves_ends_a_command_quietly(root):
    result = str(root / "benchmarks" / "results" / "ridge.json")
    command = [sys.executable, "-m", "aurevoir", "bench", "compare", result, result, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_classes_that_are_numbers_are_named_where_a_folder_has_others(call, tiny_onnx, class_folder, tmp_path):
    found = class_folders(class_folder)
    labels = np.unique(found.labels, return_inverse=True)[1]
    OpticalClassifier(tiny_onnx).fit(found.paths, labels).save(tmp_path / "model")
    code, _, err = call("evaluate", tmp_path / "model", class_folder)
    assert (code, "class 'blue' is not one of the model's classes: 0, 1, 2" in _message(err)) == (1, True)


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "aurevoir", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


def test_doctor_says_what_the_processor_means_for_int8(text, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.runtimes.processor.platform.machine", lambda: "x86_64")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for has, message in ((True, "cannot saturate: engines have all 127"), (False, "could saturate, so that engines")):
        monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda has=has: has)
        processor, int8, *_ = text("doctor").splitlines()
        assert processor.startswith("processor ")
        assert int8.startswith("int8 ")
        assert message in int8
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "openvino: ONEDNN_MAX_CPU_ISA or DNNL_MAX_CPU_ISA is avx2: no VNNI" in text("doctor")
