"""``bench cluster``: whole fits on workers and alone."""

import pytest
from PIL import Image

from aurevoir.benchmarks.suites import cluster
from aurevoir.errors import AurevoirError


def test_fits_on_workers_and_alone_take_turns_and_give_one_model(bench, tiny_onnx, class_folder, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "r.png"
    given = ["--backbone", tiny_onnx, "--precision", "fp32", "--images", 40, "--workers", 1, "--repeats", 1]
    code, result, text = bench("cluster", class_folder, *given, "--plot", out)
    assert code == 0
    alone, one = result["rows"]
    assert (alone["contestant"], one["contestant"]) == ("one process", cluster._name(1, result["cores"]))
    assert alone["same_model"] is one["same_model"] is True
    assert one["seconds"] > one["stages"]["cluster"] > 0
    assert one["times_alone"]["median"] == pytest.approx(one["seconds"] / alone["seconds"])
    assert min(one["worker_own_megabytes"], one["worker_shared_megabytes"]) > 20
    assert alone["worker_own_megabytes"] == 0
    assert one["accuracy"] == alone["accuracy"]
    assert "repeated where there are fewer" in text
    assert Image.open(out).width > 800


def test_other_models_and_failures_are_told(bench, tiny_onnx, class_folder, monkeypatch):
    pytest.importorskip("ray")

    def fit(args, data, engine, workers, cores, found):
        if workers == 1:
            raise AurevoirError("no worker is left")
        printed = {"accuracy": 1.0, "precision": "fp32", "timings": {"engine": 1.0}, "test_seconds": 1.0, "refit": None}
        printed |= {"train_images": 32, "test_images": 8}
        found.processes.append(cluster.Finished(printed, 2.0, 1.0))
        found.digests.add((f"model of {workers}",))

    monkeypatch.setattr(cluster, "_fit", fit)
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: 4)
    given = ["--backbone", tiny_onnx, "--precision", "fp32", "--images", 40, "--workers", 1, 4, "--repeats", 1]
    code, result, text = bench("cluster", class_folder, *given)
    alone, one, four = result["rows"]
    assert (alone["same_model"], four["same_model"], one["error"]) == (True, False, "AurevoirError: no worker is left")
    assert four["contestant"] == "4 workers of 1 core"
    assert code == 0 and "no worker is left" in text
    code, _, text = bench("cluster", class_folder, "--backbone", tiny_onnx, "--workers", 5)
    assert code == 2 and "--workers 5 are more than the 4 processors; give fewer" in text
