"""``bench table1``: every precision and runtime, and the post's way."""

import json

import pytest
from PIL import Image

from aurevoir.benchmarks.suites.table1 import POSTS_WAY
from aurevoir.engine.build import EngineBuilder

STAGES = ("decode", "engine", "project", "gram", "solve", "total")


def test_table1_measures_every_row(bench, tiny_onnx, class_folder, tmp_path):
    out, figure = tmp_path / "t.json", tmp_path / "t.png"
    given = ["--data", class_folder, "--backbone", tiny_onnx, "--rounds", "2", "--post-components", "64"]
    code, result, err = bench("table1", *given, "--min-speedup", "1e6", "--out", out, "--plot", figure)
    assert code == 4
    assert "is below --min-speedup" in err
    assert json.loads(out.read_text()) == result
    assert (result["train_images"], result["test_images"], result["features"]) == (24, 6, 196)
    rows = {row["name"]: row for row in result["rows"]}
    assert {"openvino fp32", "openvino int8", "torch fp32", "onnxruntime fp32", POSTS_WAY} <= set(rows)
    for name in ("openvino fp32", "openvino int8", "torch fp32", "onnxruntime fp32"):
        row = rows[name]
        train, test = row["seconds"]["train"], row["seconds"]["test"]
        assert all(train[stage] >= 0 and test[stage] >= 0 for stage in STAGES)
        assert train["total"] >= train["decode"] + train["engine"]
        assert row["alpha_by"] == "leave-one-out"
        assert row["features_megabytes"] == pytest.approx(24 * 25 / 1e6)
        assert set(row["times_posts_way"]) == {"whole", "without_drawing", "without_drawing_with_building"}
    assert rows["openvino int8"]["model_megabytes"] == rows["openvino fp32"]["model_megabytes"] / 4
    assert rows["openvino int8"]["once"]["calibrate"] > 0 == rows["openvino fp32"]["once"]["calibrate"]
    assert rows["torch fp32"]["sign_agreement"] > 0.999
    post = rows[POSTS_WAY]
    assert (post["alpha_by"], post["components"], post["loo_accuracy"]) == ("test accuracy", 64, None)
    assert len(post["alphas"]) == len(post["accuracies"]) == 15
    assert post["accuracy"] == max(post["accuracies"])
    assert post["features_megabytes"] == pytest.approx(24 * 4 * 196 / 1e6)
    assert post["times_posts_way"]["without_drawing"]["median"] <= post["times_posts_way"]["whole"]["median"] == 1
    assert result["speedup"] == rows["openvino int8"]["times_posts_way"]["whole"]["median"]
    assert Image.open(figure).width > 500


def test_rows_that_fail_stay_and_so_do_those_that_need_them(bench, tiny_onnx, class_folder, monkeypatch):
    build = EngineBuilder.build

    def broken(self, spec):
        if spec.runtime == "torch":
            raise RuntimeError("no such operator\nand more")
        return build(self, spec)

    monkeypatch.setattr(EngineBuilder, "build", broken)
    code, result, err = bench("table1", "--data", class_folder, "--backbone", tiny_onnx, "--rounds", "1")
    assert code == 0
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["torch fp32"]["error"] == "RuntimeError: no such operator"
    assert "it needs the features of torch fp32" in rows[POSTS_WAY]["error"]
    assert "accuracy" in rows["onnxruntime fp32"]
    assert (result["speedup"], "no such operator" in err) == (None, True)


def test_table1_draws_its_own_images_for_a_cut_of_random_weights(bench):
    given = ["--backbone", "squeezenet1_1", "--cut", "features.3", "--per-class", "5", "--size", "32", "--no-post"]
    code, result, err = bench("table1", *given, "--rounds", "1", "--projection", "exact")
    assert code == 0, err
    assert (result["data"], result["weights"], result["train_images"]) == ("generated", "random", 40)
    rows = {row["name"]: row for row in result["rows"]}
    assert all(rows[name]["projection"] == "exact" for name in ("openvino fp32", "openvino int8", "torch fp32"))
    assert all(row.get("projection") == "exact" for row in rows.values() if "error" not in row)
