"""``aurevoir bench ridge``: its four parts."""

import pytest
from PIL import Image

from aurevoir.benchmarks.suites.ridge import full as ridge_full
from aurevoir.benchmarks.suites.ridge import gpu as ridge_gpu
from aurevoir.engine.runtimes import has_nvidia_driver

SMALL = ["--sizes", "40", "80", "--rows", "120", "--features", "256", "--components", "200", "--repeats", "1"]


def test_growth_peers_and_choice_have_their_rows(bench, few_digits, tmp_path, monkeypatch):
    pytest.importorskip("torch")

    def broken(products, goal, alphas):
        raise RuntimeError("no LAPACK")

    monkeypatch.setattr("aurevoir.benchmarks.rivals.ridge_peers._by_spectrum", broken)
    figure = tmp_path / "r.png"
    code, result, err = bench("ridge", *SMALL, "--splits", "2", "--min-speedup", "1e9", "--plot", figure)
    assert code == 4
    assert "is below --min-speedup" in err
    assert Image.open(figure).width > 500
    parts = {name: [row for row in result["rows"] if row["part"] == name] for name in ("growth", "peers", "choice")}
    assert all(row["seconds"] > 0 for row in parts["growth"])
    assert {row["k"] for row in parts["growth"] if row["over"] == "k"} == {8, 16, 32, 64, 128}
    assert result["exponents"].keys() >= {"15 alphas, all over n", "Gram of bits over m", "Gram of speckle over k"}
    peers = {row["name"]: row for row in parts["peers"]}
    for name in ("aurevoir all", "aurevoir halving", "RidgeClassifierCV accuracy", "RidgeClassifierCV default"):
        assert peers[name]["same_labels"] == 1
        assert peers[name]["score_difference"] < 1e-4
        assert peers[name]["times_RidgeClassifierCV_accuracy"]["median"] > 0
    best = [peers[name]["loo_accuracy"] for name in ("aurevoir all", "RidgeClassifierCV accuracy")]
    assert best[0] == pytest.approx(best[1])
    assert "chooses no alpha" in peers["15 RidgeClassifier"]["remark"]
    assert peers["torch eigh float64"]["error"] == "RuntimeError: no LAPACK"
    assert {(row["data"], row["projection"]) for row in parts["choice"]} == {
        (data, kind) for data in ("digits", "generated") for kind in ("none", "exact", "hadamard")
    }
    for row in parts["choice"]:
        # The exhaustive search is the best by leave-one-out.
        assert row["loo_accuracy"]["halving_less_all"] <= 0
        assert row["splits"] == 2


def test_what_is_too_large_says_so(bench, few_digits):
    code, result, err = bench("ridge", *SMALL, "--splits", "1", "--memory", "100KiB")
    assert code == 0, err
    refused = [row for row in result["rows"] if "error" in row]
    assert {row["part"] for row in refused} == {"growth"}
    assert all("the memory budget is 100.0 KiB" in row["error"] for row in refused)


def test_the_full_size_is_timed_stage_by_stage(bench, tmp_path):
    figure = tmp_path / "f.png"
    code, result, err = bench("ridge", "--full", "--full-size", "300", "512", "256", "--plot", figure)
    assert code == 0, err
    exact, hadamard = result["rows"]
    assert (exact["projection"], hadamard["projection"]) == ("exact", "hadamard")
    for row in result["rows"]:
        assert set(row["seconds"]) == {"generate", "upload", "project", "gram", "solve", "predict"}
        assert 0.2 < row["test_accuracy"] <= 1
        assert 0 < row["peak_resident_gib"] < 4
        assert "times_post" not in row
    assert hadamard["seconds"]["project"] > 0
    assert Image.open(figure).width > 500
    code, result, err = bench("ridge", "--full", "--full-size", "3000", "64", "8", "--memory", "1MiB")
    assert code == 0, err
    assert result["rows"][0]["error"].startswith(
        "BudgetError: the ridge of 3000 rows and 10 classes on 32 landmarks needs"
    )


def test_the_full_size_on_a_gpu_is_measured_twice_with_its_parts_and_how_right_it_is(cupy):
    runs = [("exact", "auto"), ("dense", "all"), ("ternary", "all")]
    rows = [row.to_json() for row in ridge_gpu.measure_on_gpu(runs, (300, 128, 350), None)]
    exact, dense, unknown, *solver, check = rows
    for row in (exact, dense):
        assert set(row["seconds"]) == {"upload", "project", "gram", "solve", "predict"}
        assert row["alphas_on_all_rows"] == row["alphas"] == 15
        assert row["total"] >= row["seconds"]["solve"] > 0
        assert row["first_total"] > 0
        assert row["peak_gpu_gib"] == 1
        assert 0.2 < row["test_accuracy"] <= 1
    assert unknown["error"].startswith("UsageError: projection 'ternary' is not known")
    assert [row["name"] for row in solver] == [
        "Gram of bits",
        "Cholesky and inverse, float32",
        "diagonal, float32",
        "Cholesky and inverse, float64",
        "diagonal, float64",
    ]
    assert min(row["seconds"] for row in solver) > 0
    assert (check["rows"], check["same_gram"], check["same_alpha"], check["loo_accuracies"]) == (300, True, True, 0)
    assert check["coefficients"] < 1e-9
    written = ridge_full.describe(rows)
    assert written[0].startswith("n=300, m=128, k=infinite, exact on a GPU, auto:")
    assert "1.0 GiB of the GPU; the first time" in written[0]
    assert written[-1].startswith("against NumPy, 300 rows: same Gram True, same alpha True")


def test_a_gpu_is_for_the_full_size_and_must_be_here(bench):
    code, _, err = bench("ridge", "--device", "cuda")
    assert code == 2
    assert "give --full" in err
    if not has_nvidia_driver():
        code, _, err = bench("ridge", "--full", "--full-size", "30", "16", "8", "--device", "cuda")
        assert code != 0
        assert "device 'cuda'" in err


def test_a_process_that_is_killed_leaves_its_row(monkeypatch):
    from subprocess import CompletedProcess

    monkeypatch.setattr(ridge_full, "run_child", lambda *_, **__: CompletedProcess((), -9, ""))
    rows = ridge_full.measure_full((10, 8, 4), None)
    assert [row.error for row in rows] == ["exit status -9; killed, and memory is the likeliest reason"] * 2


def test_photographs_need_a_backbone(bench, class_folder):
    assert bench("ridge", "--data", class_folder)[0] == 2
