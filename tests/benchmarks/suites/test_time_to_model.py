"""``bench time-to-model``: whole processes from a folder to a tested model."""

import json
import sys

import pytest
from PIL import Image

from aurevoir.benchmarks.harness.whole_process import run_whole
from aurevoir.benchmarks.rivals import naive
from aurevoir.benchmarks.suites import time_to_model
from aurevoir.errors import AurevoirError

ORT, TORCH = list(time_to_model.NAIVE)[:2]


def test_contestants_are_measured_as_processes(bench, tiny_onnx, class_folder, tmp_path, monkeypatch):
    # In empty caches the kernels would be compiled for seconds.
    monkeypatch.setattr(time_to_model, "run_whole", lambda command, environment=None: run_whole(command))
    out, drawn = tmp_path / "r.json", tmp_path / "r.png"
    given = [class_folder, "--backbone", tiny_onnx, "--images", 50, "--repeats", 1, "--out", out, "--plot", drawn]
    code, result, text = bench("time-to-model", *given, "--contestants", time_to_model.FIRST, ORT, TORCH)
    assert code == 0 and json.loads(out.read_text()) == result
    first, script, torch = result["rows"]
    assert (first["train_images"], first["test_images"], result["cropped"]) == (40, 10, [50])
    for row in (first, script):
        assert row["seconds"] == row["all_seconds"][0] > 0.5
        assert row["peak_megabytes"] > 50
        assert row["accuracy"] > 0.8
    assert (first["precision"], script["precision"]) == ("int8", "fp32")
    assert first["stages"]["decode"] > 0 and max(first["stages"].values()) < first["seconds"]
    assert "needs a network by name" in torch["error"] and torch["error"] in text
    assert "files are cropped at random to make 50 images" in text
    assert Image.open(drawn).width > 500


def test_first_runs_have_empty_caches_and_leave_them_to_later_ones(bench, tiny_onnx, class_folder, monkeypatch):
    runs = []

    def run(command, environment):
        runs.append(environment)
        seconds = float(len(runs))
        printed = {"accuracy": 1.0, "precision": "int8", "timings": {}, "test_seconds": 1.0, "refit": None}
        return time_to_model.Finished(printed | {"train_images": 16, "test_images": 4}, seconds, 1.0)

    monkeypatch.setattr(time_to_model, "run_whole", run)
    names = (time_to_model.FIRST, time_to_model.COMPILED, time_to_model.LATER)
    given = [class_folder, "--backbone", tiny_onnx, "--images", 20, "--repeats", 2, "--contestants", *names]
    code, result, _ = bench("time-to-model", *given)
    assert code == 0
    assert [row["all_seconds"] for row in result["rows"]] == [[1, 6], [2, 5], [3, 4]]
    assert result["rows"][0]["times_later"]["median"] == (1 / 3 + 6 / 4) / 2
    files, kernels = ([each[name] for each in runs] for name in ("AUREVOIR_CACHE", "NUMBA_CACHE_DIR"))
    # In turns, and back again: first, compiled, later, later, compiled, first.
    assert files[0] == files[2] == files[3] and len(set(files)) == 4
    assert kernels[0] == kernels[1] == kernels[2] == kernels[3] == kernels[4] != kernels[5]


def test_images_too_few_for_the_classes_are_refused(bench, tiny_onnx, class_folder):
    code, _, text = bench("time-to-model", class_folder, "--backbone", tiny_onnx, "--images", 10)
    assert code == 2 and "--images 10 are too few for 3 classes; give more" in text


def test_a_process_that_fails_says_why():
    with pytest.raises(AurevoirError, match="failed: no such thing"):
        run_whole([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_what_a_script_s_library_logs_is_not_in_its_result(monkeypatch, capsys):
    def train(way, job):
        sys.stdout.write("INFO: quantized\n")
        return {way: job}

    monkeypatch.setattr(naive, "train_and_test", train)
    monkeypatch.setattr(sys, "argv", ["naive", "nncf", '{"size": 8}'])
    naive.main()
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"nncf": {"size": 8}}, "INFO: quantized\n")
