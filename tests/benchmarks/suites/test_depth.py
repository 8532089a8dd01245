"""``bench depth``: cuts by precision from one inference, and backprop on the same networks."""

import numpy as np
import pytest
from PIL import Image

from aurevoir.benchmarks.suites import depth
from aurevoir.cli.main import main
from aurevoir.engine.build import EngineBuilder

CUTS = ["features.3", "features.5", "features.12"]
SMALL = ["--backbone", "squeezenet1_1", "--size", "64", "--sample", "4", "--calibration-images", "8"]


def test_depth_measures_every_cut_by_every_method(bench, class_folder, tmp_path):
    figure = tmp_path / "d.png"
    given = ["--data", class_folder, "--cuts", *reversed(CUTS), "--precisions", "fp32", "int8", "--epochs", "1"]
    code, result, err = bench("depth", *SMALL, *given, "--plot", figure)
    assert code == 0, err
    rows = {(row["cut"], row["method"]): row for row in result["rows"]}
    methods = ("optical fp32", "optical int8", "backprop")
    assert list(rows) == [(cut, method) for method in methods for cut in CUTS]
    assert all(0 <= row["accuracy"] <= 1 and row["seconds"]["total"] > 0 for row in rows.values())
    for cut in CUTS:
        whole, small, trained = (rows[cut, method] for method in methods)
        assert small["model_megabytes"] == whole["model_megabytes"] / 4 == trained["model_megabytes"] / 4
        assert whole["engine_timed"] == "this cut's own engine on 4 images, for 24"
        assert (trained["strategy"], trained["epochs"]) == ("lighton", 1)
    sizes = [rows[cut, "optical fp32"]["model_megabytes"] for cut in CUTS]
    assert sizes == sorted(sizes)
    for sweep in result["sweeps"]:
        fits = [rows[cut, sweep["method"]]["seconds"] for cut in CUTS]
        assert sweep["alone_total"] == pytest.approx(sum(seconds["total"] for seconds in fits))
        assert sweep["total"] == pytest.approx(
            sweep["engine"] + sum(seconds["total"] - seconds["engine"] for seconds in fits)
        )
    assert Image.open(figure).width > 500
    lines = depth.markdown(result)
    assert lines[2] == "| cut | features | fp32 MB | optical fp32 | optical int8 | backprop |"
    last = [rows["features.12", method] for method in methods]
    cells = [f"{row['accuracy']:.3f}, {row['seconds']['total']:.1f}" for row in last]
    assert lines[-1] == f"| features.12 | {last[0]['features']:,d} | {sizes[-1]:.1f} | {' | '.join(cells)} |"


def test_accuracy_of_a_cut_is_that_of_its_engine_alone(bench, tiny_onnx, written_by, class_folder):
    given = ["--data", class_folder, "--backbone", tiny_onnx, "--no-backprop", "--precisions", "fp32"]
    rows = bench("depth", *given, "--cuts", written_by("Relu"), written_by("Add"))[1]["rows"]
    for row in rows:
        table = bench("table1", *given[:4], "--cut", row["cut"], "--rounds", "1", "--no-post")[1]
        alone = next(each for each in table["rows"] if each["name"] == "openvino fp32")
        assert (row["accuracy"], row["loo_accuracy"]) == (alone["accuracy"], alone["loo_accuracy"])
        # Alpha follows the scale of the bits, of which rounding may turn one or another.
        assert row["alpha"] == pytest.approx(alone["alpha"], rel=1e-2)
    assert rows[0]["features"] != rows[1]["features"]


def test_what_fails_keeps_its_rows(bench, tiny_onnx, class_folder, monkeypatch):
    build = EngineBuilder.build

    def broken(self, spec):
        if spec.precision == "int8":
            raise RuntimeError("no int8\nhere")
        return build(self, spec)

    monkeypatch.setattr(EngineBuilder, "build", broken)
    given = ["--data", class_folder, "--backbone", tiny_onnx, "--count", "2", "--precisions", "fp32", "int8"]
    monkeypatch.setattr(depth, "_LEAST_FEATURES", 1)
    code, result, err = bench("depth", *given)
    assert code == 0, err
    errors = {row["method"]: row.get("error") for row in result["rows"]}
    assert errors["optical fp32"] is None
    assert errors["optical int8"] == "RuntimeError: no int8"
    assert "cannot be trained" in errors["backprop"]
    assert "one by one" in err


def test_default_cuts_lie_evenly_up_to_the_last_layer():
    from aurevoir.engine.backbone import structure

    cuts = structure("densenet169").cuts()
    chosen = depth._even_in_size([cut for cut in cuts if cut.features >= 2048], 10)
    assert len(chosen) == 10
    assert chosen[-1] == "denseblock4.denselayer32"
    sizes = {cut.name: cut.parameters for cut in cuts}
    steps = np.diff([sizes[name] for name in chosen])
    assert steps.min() > 0.4 * steps.max()


def test_a_count_below_one_is_refused(tiny_onnx, capsys):
    assert main(["bench", "depth", "--backbone", str(tiny_onnx), "--count", "0"]) == 2
    assert "count 0 is below 1" in capsys.readouterr().err
