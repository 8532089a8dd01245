"""``bench families``: a tiny network through torch's exporters, what is refused, and the table."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from aurevoir.benchmarks.harness.datasets import procedural_images
from aurevoir.benchmarks.suites import families
from aurevoir.benchmarks.suites.families import benchmark, measure, table, worker
from aurevoir.benchmarks.suites.families.networks import FAMILIES, LIBRARIES, NETWORKS, Network, random_module

torch = pytest.importorskip("torch")
SIZE = 16
OURS = {"family": "Tiny", "library": "torchvision", "model": "tiny", "size": SIZE}


class Tiny(torch.nn.Module):
    """A convolution whose published initial value hides it, as residual branches do, and an operator of opset 13."""

    def __init__(self, unflatten=False):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.scale = torch.nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.maps, self.fc, self.unflatten = torch.nn.Conv2d(8, 8, 3, stride=2), torch.nn.Linear(8, 12), unflatten
        torch.nn.init.zeros_(self.norm.weight)

    def forward(self, images):
        maps = torch.relu_(self.maps(torch.relu(self.norm(self.conv(images)) * self.scale)))
        pooled = maps.mean((2, 3))
        return self.fc(pooled.unflatten(1, (2, 4)).flatten(1) if self.unflatten else pooled)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task on the tiny network, which stands among the networks."""
    tiny = Network("Tiny", "torchvision", "tiny", SIZE, Tiny)
    for module in (worker, benchmark):
        monkeypatch.setattr(module, "NETWORKS", (tiny, replace(tiny, model="odd", make=lambda: Tiny(unflatten=True))))
    return worker.Task(
        network="torchvision tiny",
        rows=str(tmp_path / "tiny.jsonl"),
        exporters=["torchscript", "dynamo", "module"],
        opsets=[11, 18],
        int8_opsets=[18],
        runtimes=["openvino", "onnxruntime", "torch"],
        data=None,
        calibration_images=8,
        test_images=4,
        seed=0,
    )


def _work(task):
    """Do a task in this process; return what its process would have told."""
    path = worker.Path(task.rows).with_suffix(".task")
    path.write_text(json.dumps(asdict(task)))
    worker.main(str(path))
    return ""


@pytest.fixture
def without_nncf(monkeypatch):
    monkeypatch.setattr(measure, "find_spec", lambda name: None)


def test_both_exporters_and_the_module_have_torchs_features(task, without_nncf, monkeypatch):
    monkeypatch.setattr(benchmark, "_run", _work)
    rows = [row.to_json() for row in benchmark._measure(task)]
    graphs = [("torchscript", 11), ("torchscript", 18), ("dynamo", 11), ("dynamo", 18), ("module", 18)]
    assert [(row["exporter"], row["opset"]) for row in rows] == graphs
    for row in rows:
        assert row.items() >= OURS.items()
        assert "error" not in row
        assert list(row["fp32"]) == task.runtimes
        assert 0 < row["torch_error"] < table.LIMIT
        assert max(row["fp32"].values()) < table.LIMIT
        assert table.equal_to_torch(row)
        assert ("int8" in row) == ((row["exporter"], row["opset"]) in (graphs[1], graphs[3]))
    for row in (rows[1], rows[3]):
        assert list(row["int8"]) == ["openvino", "onnxruntime"]
        assert 1e-4 < min(row["int8"].values()) <= max(row["int8"].values()) < 0.3
        assert "pip install" in row["nncf_not_run"]
    assert rows[0]["written_opset"] == 11
    assert rows[4]["cut"] == "maps"  # followed by a ReLU in place, which must not reach what it is compared with
    # What is done is not done again, and what is asked for besides is.
    lines = len(worker.read_lines(worker.Path(task.rows)))
    assert [row.to_json() for row in benchmark._measure(task)] == rows
    assert len(worker.read_lines(worker.Path(task.rows))) == lines
    more = replace(task, exporters=["torchscript"], opsets=[11, 12], int8_opsets=[], runtimes=task.runtimes)
    again = [row.to_json() for row in benchmark._measure(more)]
    assert again[0] == rows[0]
    assert again[1]["written_opset"] == 12


def test_every_layer_counts_under_random_weights():
    pixels = procedural_images(8, SIZE)
    module = random_module(Network("Tiny", "torchvision", "tiny", SIZE, Tiny), pixels)
    reference, own = measure.torch_features(module, pixels)
    assert reference.shape == (8, 12)
    assert own < 1e-6
    assert np.linalg.norm(reference - reference.mean(0)) > 0.05 * np.linalg.norm(reference)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.mul_(1.1)
            changed = measure.torch_features(module, pixels)[0]
            parameter.div_(1.1)
        assert np.linalg.norm(changed - reference) > 1e-3 * np.linalg.norm(reference)


def test_what_torch_does_not_export_is_torchs_refusal(task, without_nncf):
    odd = replace(task, network="torchvision odd", exporters=["torchscript"], opsets=[11], runtimes=["onnxruntime"])
    _work(odd)
    row = worker.read_lines(worker.Path(odd.rows))[-1]["row"]
    assert row["failed_in"] == "torch"
    assert "unflatten" in row["error"]
    assert table.summary([row]) | {"graphs": 1, "refused_by_torch": 1} == table.summary([row])


def test_a_process_that_dies_costs_the_row_it_was_at(task, without_nncf, monkeypatch):
    task = replace(task, exporters=["torchscript"], runtimes=["onnxruntime"], int8_opsets=[])

    def run(task):
        path = worker.Path(task.rows)
        if not worker.read_lines(path):
            worker.append_line(path, begun=task.key("torchscript", 11), stage="fp32 on onnxruntime")
            return "the process died of SIGSEGV"
        return _work(task)

    monkeypatch.setattr(benchmark, "_run", run)
    rows = [row.to_json() for row in benchmark._measure(task)]
    assert rows[0] == {
        **OURS,
        "exporter": "torchscript",
        "opset": 11,
        "error": "fp32 on onnxruntime: the process died of SIGSEGV",
    }
    assert table.equal_to_torch(rows[1])


def test_a_process_that_never_begins_costs_every_row(task):
    # The process knows the tiny network not: only this one does.
    rows = benchmark._measure(task)
    assert len(rows) == len(task.steps())
    assert all(row.error.startswith("exit status 1: StopIteration") for row in rows)


def test_an_unfinished_line_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    worker.append_line(path, key="a", row={})
    with path.open("a") as file:
        file.write('{"key": "b", "ro')
    assert worker.read_lines(path) == [{"key": "a", "row": {}}]


def test_int8_is_compared_with_nncfs_best(monkeypatch):
    errors = {"PERFORMANCE": 0.5, "MIXED": 0.25}

    def quantized(path, pixels, everything, preset="PERFORMANCE", **settings):
        if not everything:
            raise RuntimeError("no convolutions\nhere")
        return errors[preset]

    begun = []
    images = measure.Images(procedural_images(8, SIZE), procedural_images(4, SIZE))
    measurements = measure.Measurements(images, ["onnxruntime"], False, begun.append)
    builder = measurements.builder(Tiny(), SIZE)
    reference = np.random.default_rng(0).normal(size=(4, builder.exported.features))
    monkeypatch.setattr(measure, "find_spec", lambda name: True)
    monkeypatch.setattr(measure, "nncf_model", quantized)
    monkeypatch.setattr(measure, "compile_model", lambda error, _: lambda images: [reference * (1 + error)])
    cells = measurements.int8(builder, reference)
    assert cells["nncf"] == pytest.approx({"all, performance": 0.5, "all, mixed": 0.25})
    assert cells["nncf_best"] == "all, mixed"
    assert cells["refused"] == {"NNCF, convolutions, accurate bias correction": "RuntimeError: no convolutions"}
    assert begun[:2] == ["reading", "int8 on onnxruntime"]
    # The features are those of another network, far from the reference in every image.
    assert cells["behind_nncf"]["mean"] > 0.25
    assert not table.within_nncf(cells)
    assert table.within_nncf({"behind_nncf": {"mean": 0.01, "standard_error": 0.006}})


def _row(exporter, opset, written=None, **cells):
    measured = {"written_opset": written or opset, "torch_error": 1e-6, "fp32": {"openvino": 2e-6}, "refused": {}}
    return {**OURS, "exporter": exporter, "opset": opset, **measured, **cells}


def test_a_network_is_a_line_of_the_table():
    refusal = (
        "AurevoirError: the torch runtime does not support the operator Split (node 'a/b'); use runtime 'openvino'"
    )
    own = {name: OURS[name] for name in OURS}
    rows = [
        {
            **own,
            "exporter": "torchscript",
            "opset": 11,
            "failed_in": "torch",
            "error": "SymbolicValueError: no unflatten",
        },
        _row("torchscript", 12, refused={"fp32 torch": refusal}),
        _row("torchscript", 13, refused={"fp32 torch": refusal}),
        _row("torchscript", 15, fp32={"openvino": 3e-5}),
        _row(
            "torchscript",
            18,
            int8={"openvino": 0.05, "onnxruntime": 0.06},
            nncf={"all, mixed": 0.07, "all, performance": 0.08},
            nncf_best="all, mixed",
            behind_nncf={"mean": -0.02, "standard_error": 0.001},
        ),
        _row("dynamo", 11, written=18),
        _row("dynamo", 12, written=18, torch_error=2e-5, fp32={"openvino": 4e-5}),
        _row("dynamo", 18),
        _row("module", 18),
    ]
    result = {"rows": rows, "calibration_images": 8, "test_images": 4, "data": "generated"}
    result["summary"] = table.summary(rows)
    lines = table.markdown(result)
    assert lines[-1] == (
        "| torchvision tiny, 16 px | 12-13, 18 | 11-12, 18 (11-12 as 18) | yes | 4.0e-05 | 2.0e-05 | 0.060 | "
        "0.070 (all, mixed) | torchscript 11: torch: no unflatten; torchscript 12-13: fp32 torch: the torch runtime "
        "does not support the operator Split; torchscript 15: unequal to torch |"
    )
    assert "9 graphs: torch does not export 1, 7 have torch's features in fp32, 0 are refused" in lines[0]
    assert "int8 is within NNCF's error in 1 of 1" in lines[0]
    assert "12-13, 18" in table.describe(result)


def test_every_family_is_there_from_both_libraries_but_one():
    assert len(FAMILIES) == 12
    for family in FAMILIES:
        there = {network.library for network in NETWORKS if network.family == family}
        assert there == set(LIBRARIES) - ({"timm"} if family == "ShuffleNet" else set())
    assert len({network.name for network in NETWORKS}) == len(NETWORKS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--families", "AlexNet"], "family 'AlexNet' is not known"),
        (["--opsets", "9"], "opset 9 is not among those"),
        (["--test-images", "1"], "test-images 1 is below 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(bench, given, told):
    code, _, err = bench("families", *given)
    assert code == 2
    assert told in err


def test_the_command_measures_what_it_is_asked_for(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "_measure", lambda task: [benchmark.Row(_row(*step)) for step in task.steps()])
    given = ["--families", "ResNet", "--exporters", "torchscript", "--opsets", "11", "12", "--keep", tmp_path / "kept"]
    code, result, err = bench("families", *given)
    assert code == 0, err
    assert [row["opset"] for row in result["rows"]] == [11, 12, 11, 12]
    assert result["summary"]["equal_to_torch"] == 4
    assert "torchvision resnet18: 2 of 2 graphs measured" in err
    assert families.BENCHMARK.describe(result).startswith("4 graphs")
