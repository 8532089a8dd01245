"""``bench engine``: engine files under load."""

import json

import numpy as np
import pytest
from gpu_fake import Device
from PIL import Image
from tensorrt_fake import fake_tensorrt

from aurevoir import build_engine
from aurevoir.benchmarks.suites.engine import transfer_milliseconds
from aurevoir.engine.load import load_engine
from aurevoir.engine.runtimes.tensorrt_run import PlanRunner

QUICK = ("--seconds", "0.05", "--rounds", "2", "--batch", "1", "4")


@pytest.fixture(scope="module")
def files(tiny_onnx, pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    for precision in ("fp32", "int8"):
        options = {"precision": precision, "runtime": "openvino", "calibration": pixels, "smoke": False}
        build_engine(tiny_onnx, **options, out=folder / f"{precision}.engine")
    return [folder / "fp32.engine", folder / "int8.engine"]


def test_engines_take_turns_under_both_loads(bench, files, tmp_path):
    out, figure = tmp_path / "e.json", tmp_path / "e.png"
    code, result, text = bench("engine", *files, *QUICK, "--callers", "2", "--out", out, "--plot", figure)
    assert code == 0, text
    assert json.loads(out.read_text()) == result
    assert (result["callers"], result["rounds"], result["batches"], result["images"]) == (2, 2, [1, 4], "drawn")
    assert [row["precision"] for row in result["rows"]] == ["fp32", "int8"]
    for row, file in zip(result["rows"], files):
        assert row["megabytes"] == file.stat().st_size / 1e6
        assert [(each["batch"], each["load"]) for each in row["loads"]] == [
            (batch, kind) for batch in (1, 4) for kind in ("closed", "open")
        ]
        for load in row["loads"]:
            assert len(load["images_per_second_by_round"]) == len(load["p50_by_round"]) == 2
            assert min(load["images_per_second_by_round"]) <= load["images_per_second"]
            assert load["spread"] >= 0
            assert load["calls"] > 0
        closed = row["loads"][0]
        assert 0 < closed["latency_ms"]["p50"] <= closed["latency_ms"]["p90"]
    # Half of what the slowest manages, in calls.
    for batch, arrivals in zip((1, 4), result["arrivals"]):
        rates = [
            load["images_per_second"] / batch
            for row in result["rows"]
            for load in row["loads"]
            if (load["batch"], load["load"]) == (batch, "closed")
        ]
        assert arrivals == {"batch": batch, "calls_per_second": pytest.approx(min(rates) / 2)}
    assert "fp32" in text
    assert "latency counts from the arrival" in text
    assert Image.open(figure).width > 1000


def test_signs_are_compared_with_the_fp32_engine_among_the_files_or_are_those_of_the_build(bench, files, class_folder):
    _, result, text = bench("engine", *files, *QUICK, "--batch", "1", "--data", class_folder)
    exact, int8 = result["rows"]
    assert (exact["sign_agreement"], exact["sign_agreement_of"]) == (1.0, "these images")
    assert 0.9 < int8["sign_agreement"] < 1
    _, result, text = bench("engine", files[1], *QUICK, "--batch", "1")
    (alone,) = result["rows"]
    built = load_engine(files[1]).manifest.sign_agreement
    assert (alone["sign_agreement"], alone["sign_agreement_of"]) == (built, "its build")
    assert f"{built:.4f}*" in text


def test_a_rate_threads_and_streams_are_given(bench, files):
    options = ("--rate", "40", "--threads", "1", "--streams", "1", "--callers", "1")
    code, result, text = bench("engine", files[0], *QUICK, "--batch", "2", *options)
    assert code == 0, text
    assert (result["threads"], result["streams"]) == (1, 1)
    assert result["arrivals"] == [{"batch": 2, "calls_per_second": 40.0}]
    assert "1 caller, 1 threads, 1 streams" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "--seconds 0.0 --rate None are not both above 0"),
        (["--rate", "-1"], "--rate -1.0 are not both above 0"),
        (["--callers", "0"], "argument --callers: 0 is less than 1"),
        (["--device", "npu9"], "npu9"),
        (["--data", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_values_are_refused(bench, files, options, message, capsys):
    try:
        code, _, text = bench("engine", files[0], *QUICK, *options)
    except SystemExit as stop:
        code, text = stop.code, capsys.readouterr().err
    assert code == 2
    assert message in text


def test_settings_without_effect_are_refused(bench, tiny_onnx, tmp_path):
    build_engine(tiny_onnx, runtime="onnxruntime", out=tmp_path / "o.engine")
    code, _, text = bench("engine", tmp_path / "o.engine", *QUICK, "--streams", "2")
    assert code == 2
    assert "streams 2 has no effect with runtime 'onnxruntime' on device 'cpu'" in text
    code, _, text = bench("engine", tmp_path / "o.engine", *QUICK, "--out", tmp_path / "o.engine")
    assert code == 2
    assert "is the input" in text


def test_files_of_one_name_are_told_apart(bench, files, tmp_path):
    other = tmp_path / "fp32.engine"
    other.write_bytes(files[0].read_bytes())
    _, result, _ = bench("engine", files[0], other, *QUICK, "--batch", "1")
    assert [row["name"] for row in result["rows"]] == [str(files[0]), str(other)]


def test_photographs_that_no_signs_are_compared_on_are_refused(bench, files, class_folder):
    code, _, text = bench("engine", files[1], *QUICK, "--batch", "1", "--data", class_folder)
    assert code == 2
    assert "has no effect: signs are compared with an fp32 engine of features" in text


def test_an_engine_that_fails_keeps_its_row(bench, files, monkeypatch):
    from aurevoir.engine.engine import Engine

    original = Engine.run

    def run(self, images, outputs=None):
        if self.precision == "int8":
            raise RuntimeError("no kernel")
        return original(self, images, outputs)

    monkeypatch.setattr(Engine, "run", run)
    code, result, text = bench("engine", *files, *QUICK, "--batch", "1")
    assert code == 0
    assert result["rows"][1]["error"] == "RuntimeError: no kernel"
    assert len(result["rows"][0]["loads"]) == 2
    assert "no kernel" in text


def test_transfers_to_a_gpu_and_back_are_timed_apart(files, pixels):
    trt = fake_tensorrt()
    assert isinstance(trt.device, Device)
    runner = PlanRunner(trt, load_engine(files[0]).graph, trt.device)
    found = transfer_milliseconds(runner, np.ascontiguousarray(pixels[:4]), "bits", repeats=3)
    assert list(found) == ["to_device_ms", "on_device_ms", "to_host_ms"]
    assert all(value > 0 for value in found.values())
    # Each step once to warm up and three times timed.
    assert trt.device.events == ["copy", "run", "copy"] * 4


def test_engines_of_a_backbone_take_ones_own_images_cut_and_weights(bench, tiny_onnx, class_folder, written_by):
    options = ("--data", class_folder, "--no-peers", "--rounds", "1", "--latency-calls", "1", "--batches", "2")
    code, result, text = bench("engines", tiny_onnx, *options, "--cut", written_by("Relu"))
    assert code == 0, text
    assert (result["network"], result["images"]) == (f"tiny.onnx to {written_by('Relu')}", "photos")
    # The whole network has 196.
    assert result["features"] == 4 * 14 * 14
    int8 = next(row for row in result["rows"] if row["name"] == "openvino int8")
    assert 0.8 < int8["sign_agreement"] <= 1
    code, _, text = bench("engines", tiny_onnx, *options[:1], class_folder / "red" / "0.png", *options[2:])
    assert code == 2
    assert "is not a folder" in text
    for file in [*class_folder.rglob("*.png")][3:]:
        file.unlink()
    code, _, text = bench("engines", tiny_onnx, *options)
    assert code == 1
    assert "has 3 readable images; give 4 or more" in text
