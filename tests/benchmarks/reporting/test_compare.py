"""What changed between two results: rows by their keys, and significance only where a spread is declared."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from aurevoir.benchmarks.contract import Spread
from aurevoir.benchmarks.reporting.compare import _judge, compare, describe
from aurevoir.benchmarks.suites import accuracy as accuracy_suite
from aurevoir.benchmarks.suites import startup as startup_suite
from aurevoir.cli.main import main


@pytest.fixture
def accuracy(committed):
    """The first five splits of a result."""
    result = committed("accuracy-mobilenetv2")
    for row in result["rows"]:
        row["accuracies"] = row["accuracies"][:5]
        row["accuracy"] = float(np.mean(row["accuracies"]))
    return result


def _changes(found):
    return {(row["table"], *row["key"].values(), row["cell"]): row for row in found["rows"]}


def _shift(row, by):
    row["accuracies"] = [value + each for value, each in zip(row["accuracies"], by, strict=True)]
    row["accuracy"] = float(np.mean(row["accuracies"]))


@pytest.mark.parametrize(
    "name", ["accuracy-resnet50v2", "calibration-densenet169", "engines-cpu", "startup", "threads"]
)
def test_a_result_does_not_differ_from_itself(committed, name):
    found = compare(committed(name), committed(name))
    assert (found["rows"], found["only_before"], found["only_after"], found["warnings"]) == ([], [], [], [])
    assert found["unchanged"] > 2


def test_the_order_of_rows_does_not_matter(accuracy):
    turned = copy.deepcopy(accuracy)
    turned["rows"].reverse()
    assert compare(accuracy, turned)["rows"] == []


def test_splits_are_compared_in_pairs_corrected_for_the_images_they_share(accuracy):
    other = copy.deepcopy(accuracy)
    by = [0.004, 0.006, 0.001, 0.003, 0.002]
    _shift(other["rows"][0], by)
    found = compare(accuracy, other)
    change = _changes(found)["rows", "caltech10", "fp32", "auto", "accuracy"]
    assert change["change"] == pytest.approx(np.mean(by))
    assert change["ratio"] == pytest.approx(other["rows"][0]["accuracy"] / accuracy["rows"][0]["accuracy"])
    plain = stats.ttest_1samp(by, 0).statistic
    corrected = plain * math.sqrt((1 / 5) / (1 / 5 + 0.2 / 0.8))
    assert change["p"] == pytest.approx(2 * stats.t.sf(corrected, 4))
    assert "paired t over 5 splits" in change["test"]
    # 18 accuracies are tested, though one changed: none passes that would not among 18.
    assert (found["tested"], change["p_holm"]) == (18, pytest.approx(min(1, 18 * change["p"])))
    assert not change["significant"]
    assert "not significant: p " in describe({**found, "files": ["a", "b"]})


def test_a_benchmark_may_split_otherwise(accuracy, monkeypatch):
    spreads = {"accuracy": Spread("splits", "accuracies", 0.4)}
    monkeypatch.setattr(accuracy_suite, "BENCHMARK", replace(accuracy_suite.BENCHMARK, spreads=spreads))
    other, by = copy.deepcopy(accuracy), [0.004, 0.006, 0.001, 0.003, 0.002]
    _shift(other["rows"][0], by)
    change = _changes(compare(accuracy, other))["rows", "caltech10", "fp32", "auto", "accuracy"]
    corrected = stats.ttest_1samp(by, 0).statistic * math.sqrt((1 / 5) / (1 / 5 + 0.4 / 0.6))
    assert change["p"] == pytest.approx(2 * stats.t.sf(corrected, 4))


def test_splits_of_other_images_or_another_number_are_not_paired(accuracy):
    for harm in (lambda row: row.update(images=939), lambda row: row["accuracies"].pop()):
        other = copy.deepcopy(accuracy)
        _shift(other["rows"][0], [0.01, 0.02, 0.01, 0.03, 0.02])
        harm(other["rows"][0])
        other["rows"][0]["accuracy"] = float(np.mean(other["rows"][0]["accuracies"]))
        change = _changes(compare(accuracy, other))["rows", "caltech10", "fp32", "auto", "accuracy"]
        assert (change["p"], change["significant"]) == (None, None)
        assert change["test"].startswith("not testable")


def test_values_that_a_number_is_not_the_mean_of_are_not_its_spread(accuracy):
    other = copy.deepcopy(accuracy)
    other["rows"][0]["accuracy"] += 0.01
    assert _changes(compare(accuracy, other))["rows", "caltech10", "fp32", "auto", "accuracy"]["p"] is None


def test_splits_that_all_differ_by_the_same_hold_no_spread(accuracy):
    other = copy.deepcopy(accuracy)
    other["rows"][0]["accuracies"] = [0.5] * 5
    accuracy["rows"][0]["accuracies"] = [0.25] * 5
    accuracy["rows"][0]["accuracy"], other["rows"][0]["accuracy"] = 0.25, 0.5
    assert _changes(compare(accuracy, other))["rows", "caltech10", "fp32", "auto", "accuracy"]["p"] is None


def test_numbers_without_a_declared_spread_are_not_testable(accuracy, committed):
    other = copy.deepcopy(accuracy)
    other["together"][0]["less_fp32"] += 0.1
    other["rows"][0]["loo_accuracy"] -= 0.1
    assert {row["p"] for row in compare(accuracy, other)["rows"]} == {None}
    engines = committed("engines-cpu")
    faster = copy.deepcopy(engines)
    next(row for row in faster["rows"] if row["name"] == "openvino int8")["throughput"][0]["images_per_second"] *= 2
    faster["speedup"] *= 2
    changes = _changes(compare(engines, faster))
    assert changes["rows", "openvino int8", 16, "throughput.images_per_second"]["ratio"] == pytest.approx(2)
    assert changes["", "speedup"]["test"].startswith("not testable")


def test_standard_errors_give_a_normal_test(committed):
    result = committed("calibration-densenet169")
    other = copy.deepcopy(result)
    row = next(row for row in other["rows"] if row["name"] == "aurevoir mse")
    row["sign_agreement"] += 0.01
    change = _changes(compare(result, other))["rows", "densenet169", "aurevoir mse", "sign_agreement"]
    assert change["p"] == pytest.approx(2 * stats.norm.sf(0.01 / (math.sqrt(2) * row["agreement_error"])))
    assert change["significant"]
    row["agreement_error"] = 0.0
    change = _changes(compare(result, other))["rows", "densenet169", "aurevoir mse", "sign_agreement"]
    assert change["p"] is None


def _runs(values, statistic):
    return {"benchmark": "startup", "rows": [{"command": "a", "seconds": float(statistic(values)), "all": values}]}


def test_runs_are_compared_by_their_mean_or_their_median(monkeypatch):
    spreads = {"seconds": Spread("runs", "all")}
    monkeypatch.setattr(startup_suite, "BENCHMARK", replace(startup_suite.BENCHMARK, spreads=spreads))
    ours, theirs = [1.0, 1.2, 1.1, 1.4, 0.9], [1.5, 1.7, 1.9, 1.3, 1.6, 2.5]
    welch = compare(_runs(ours, np.mean), _runs(theirs, np.mean))["rows"][0]
    assert welch["p"] == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    ranks = compare(_runs(ours, np.median), _runs(theirs, np.median))["rows"][0]
    assert ranks["p"] == pytest.approx(stats.mannwhitneyu(ours, theirs).pvalue)
    assert compare(_runs(ours, min), _runs(theirs, min))["rows"][0]["p"] is None


def test_significance_is_corrected_as_holm_does():
    rows = [{"p": 0.01}, {"p": 0.04}, {"p": None}, {"p": 0.03}, {"p": 0.005}]
    _judge(rows)
    assert [row.get("p_holm") for row in rows] == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        None,
        pytest.approx(0.06),
        pytest.approx(0.02),
    ]
    assert [row["significant"] for row in rows] == [True, False, None, False, True]


def test_the_null_is_rejected_as_seldom_as_is_said():
    """Splits whose differences are noise: one in twenty at most, at the level of one test."""
    random = np.random.default_rng(0)
    row = {"data": "d", "precision": "fp32", "projection": "none"}

    def result(values):
        return {
            "benchmark": "accuracy",
            "rows": [{**row, "accuracy": float(np.mean(values)), "accuracies": list(values)}],
        }

    ps = [compare(result(random.normal(size=5)), result(random.normal(size=5)))["rows"][0]["p"] for _ in range(400)]
    assert 0 < np.mean(np.array(ps) < 0.05) < 0.05


def test_rows_in_one_result_only_and_rows_that_fail_are_told(accuracy, committed):
    other = copy.deepcopy(accuracy)
    gone = other["rows"].pop(3)
    found = compare(accuracy, other)
    key = {name: gone[name] for name in ("data", "precision", "projection")}
    assert (found["only_before"], found["only_after"]) == ([{"table": "rows", "key": key}], [])
    assert compare(other, accuracy)["only_after"] == [{"table": "rows", "key": key}]
    engines = committed("engines-cpu")
    failing = copy.deepcopy(engines)
    row = next(row for row in failing["rows"] if row["name"] == "openvino int8")
    kept = {name: row[name] for name in ("name", "group")}
    row.clear()
    row.update(kept, error="RuntimeError: out of luck")
    found = compare(engines, failing)
    assert found["only_before"] == []
    assert _changes(found)["rows", "openvino int8", 16, "error"]["after"] == "RuntimeError: out of luck"
    assert "out of luck" in describe({**found, "files": ["a", "b"]})


def test_other_machines_settings_and_columns_are_warned_of(accuracy):
    other = copy.deepcopy(accuracy)
    other["machine"] |= {"cores": 64, "date": "2030-01-01"}
    other["machine"]["versions"]["numpy"] = "9.0"
    other["backbone"] = "resnet.onnx"
    other["rows"][0]["colour"] = 0.5
    text = "\n".join(compare(accuracy, other)["warnings"])
    assert "machine: cores differs: 2 / 64" in text
    assert "versions.numpy differs" in text
    assert "backbone differs: mobilenetv2.onnx / resnet.onnx" in text
    assert "only the second has the column colour of rows" in text
    assert "date" not in text


def test_rows_of_a_benchmark_unknown_here_are_told_apart_by_texts_and_then_by_whole_numbers():
    rows = [{"method": name, "k": k, "seconds": 0.5 * k} for name in ("a", "b") for k in (1, 2)]
    ours = {"benchmark": "of another day", "rows": rows}
    theirs = copy.deepcopy(ours)
    theirs["rows"][3]["seconds"] = 3.0
    (change,) = compare(ours, theirs)["rows"]
    assert change["key"] == {"method": "b", "k": 2}
    assert (change["before"], change["after"], change["change"], change["p"]) == (1.0, 3.0, 2.0, None)


def test_the_command_prints_json_and_refuses_two_benchmarks(root, capsys, write):
    results = root / "benchmarks" / "results"
    assert main(["bench", "compare", str(results / "threads.json"), str(results / "threads.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []
    assert main(["bench", "compare", str(results / "threads.json"), str(results / "threads.json")]) == 0
    assert "0 cells changed" in capsys.readouterr().out
    for other, code, message in (
        (results / "startup.json", 2, "results of threads and startup cannot be compared"),
        (results / "none.json", 2, "cannot be read"),
        (write([1]), 1, "holds a list, not a JSON object"),
    ):
        assert main(["bench", "compare", str(results / "threads.json"), str(other)]) == code
        assert message in capsys.readouterr().err
