"""``bench rivals``: optics, probes and backprop on the same splits, and the zoo."""

import json

import numpy as np
import pytest
from PIL import Image

from aurevoir.benchmarks.rivals.strategies import STRATEGIES
from aurevoir.benchmarks.suites import rivals

SMALL = ["--size", "64", "--zoo-size", "64", "--rounds", "1", "--calibration-images", "8"]
NO_OTHERS = ["--projections", "auto", "--probes", "--strategies"]


@pytest.fixture
def offline(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)


def _random(*arguments):
    return ["--weights", "random", "--epochs", "1", *SMALL, *arguments]


def test_rivals_meet_on_the_same_splits(bench, class_folder, tmp_path):
    out, figure = tmp_path / "r.json", tmp_path / "r.png"
    given = _random("--cut", "features.5", "--splits", "3", "--strategies", "frozen", "lighton")
    code, result, err = bench("rivals", class_folder, *given, "--components", "64", "--out", out, "--plot", figure)
    assert code == 0, err
    assert json.loads(out.read_text()) == result
    rows = {row["rival"]: row for row in result["rows"]}
    optical = [f"optical {name}" for name in ("none", "exact", "auto", "hadamard", "dense")]
    probes = ["logistic pooled", "logistic unpooled", "ridge pooled", "ridge unpooled"]
    assert list(rows) == [*optical, *probes, "backprop frozen", "backprop lighton"]
    for row in rows.values():
        assert len(row["accuracies"]) == len(row["totals"]) == 3
        assert row["accuracy"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["standard_error"] == pytest.approx(np.std(row["accuracies"], ddof=1) / np.sqrt(3))
        assert row["inference_ms"]["median"] > 0
        assert row["times_optical"]["min"] <= row["times_optical"]["max"]
    assert rows["optical auto"]["times_optical"] == {"min": 1, "median": 1, "max": 1}
    assert rows["backprop frozen"]["settings"]["frozen_epochs"] is None
    assert rows["backprop lighton"]["settings"]["optimizer"] == "adam"
    assert rows["optical exact"]["accuracy"] > 0.8
    assert rows["ridge pooled"]["accuracy"] > 0.8
    assert "StandardScaler" in rows["ridge unpooled"]["settings"]
    assert result["settings"]["torch_threads"] >= 1
    (decode,) = result["decode"].values()
    assert (decode["images"], result["splits"]) == (30, 3)
    assert Image.open(figure).width > 500
    lines = rivals.markdown(result)
    assert lines[0].endswith("30 images, squeezenet1_1 to features.5:")
    assert sum(line.startswith("| ") for line in lines) == 1 + len(rows)
    best = rows["optical auto"]
    start = f"| optical auto | {best['accuracy']:.3f} ± {best['standard_error']:.3f} | "
    assert any(line.startswith(f"{start}{best['seconds']['total']:.1f} | 1.0 |") for line in lines)


def test_every_strategy_takes_part_unless_some_are_named(tiny_onnx, class_folder, bench):
    given = ["--backbone", tiny_onnx, "--splits", "1", "--projections", "none", "--probes", "--rounds", "1"]
    _, result, _ = bench("rivals", class_folder, *given)
    rows = {row["rival"]: row for row in result["rows"]}
    assert list(rows) == ["optical none", *(f"backprop {name}" for name in STRATEGIES)]
    assert all("cannot be trained" in rows[f"backprop {name}"]["error"] for name in STRATEGIES)


def test_rivals_that_fail_keep_their_rows(bench, class_folder, monkeypatch):
    def broken(name, *arguments):
        raise MemoryError("too many features\nby far")

    monkeypatch.setattr(rivals, "fit_probe", broken)
    given = _random("--cut", "features.5", "--splits", "1", "--strategies", "--probes", "ridge pooled")
    code, result, err = bench("rivals", class_folder, *given, "--projections", "auto", "lens")
    assert code == 0, err
    rows = {row["rival"]: row for row in result["rows"]}
    assert rows["ridge pooled"]["error"] == "MemoryError: too many features"
    assert "projection 'lens' is not known" in rows["optical lens"]["error"]
    assert rows["optical auto"]["standard_error"] is None
    assert "too many features" in err
    assert "| ridge pooled | failed |  |  |  |  |" in rivals.markdown(result)


def test_the_zoo_is_retrained_shallow_and_deep(bench, class_folder, offline):
    given = _random("--cut", "features.5", "--splits", "1", *NO_OTHERS, "--zoo-epochs", "1")
    code, result, err = bench("rivals", class_folder, *given, "--zoo", "mobilenet_v2", "resnet51")
    assert code == 0, err
    rows = {row["rival"]: row for row in result["rows"] if row["group"] == "zoo"}
    shallow, deep = (rows[f"mobilenet_v2 {depth}"] for depth in ("shallow", "deep"))
    assert (shallow["settings"]["frozen_epochs"], deep["settings"]["frozen_epochs"]) == (None, 0)
    assert shallow["parameters"] == deep["parameters"] > 1e6
    assert shallow["weights"] == "random"
    assert "no route to host" in shallow["why_random"]
    assert "no route to host" in err
    assert "'resnet51' is not a torchvision model" in rows["resnet51 deep"]["error"]


def test_the_zoo_takes_weights_that_are_given(bench, class_folder, offline, tmp_path):
    import torch
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1.pth")
    given = _random("--cut", "features.5", "--splits", "1", *NO_OTHERS, "--zoo-epochs", "1")
    _, result, _ = bench("rivals", class_folder, *given, "--zoo", "squeezenet1_1", "--zoo-weights", tmp_path)
    assert {(row["weights"], row["why_random"]) for row in result["rows"] if row["group"] == "zoo"} == {
        ("squeezenet1_1.pth", None)
    }


def test_real_weights_beat_chance_on_real_photographs(bench, data):
    given = ["--weights", data("backbones/squeezenet1_1.pth"), "--size", "96", "--per-class", "20", "--rounds", "1"]
    given += ["--splits", "3", "--projections", "auto", "--probes", "ridge pooled", "--strategies", "frozen"]
    code, result, err = bench("rivals", data("hymenoptera/val"), *given, "--epochs", "2")
    assert code == 0, err
    assert [row["data"] for row in result["rows"]] == ["hymenoptera/val"] * 3
    assert result["rows"][0]["accuracy"] > 0.6
    assert result["rows"][1]["accuracy"] > 0.6
