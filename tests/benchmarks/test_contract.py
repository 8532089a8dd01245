"""What every benchmark offers, and what a result holds."""

import json

import pytest

from aurevoir.benchmarks import registry
from aurevoir.benchmarks.contract import Result, Row, write_result
from aurevoir.benchmarks.harness.machine import Machine
from aurevoir.benchmarks.reporting import REPORTS
from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.benchmarks.reporting.text import aligned
from aurevoir.cli import bench
from aurevoir.cli.main import main


@pytest.mark.parametrize("name", [*registry.SUITES, *REPORTS])
def test_every_command_offers_what_the_contract_asks_and_prints_its_help(name, capsys):
    assert bench.load(name).name == name
    with pytest.raises(SystemExit) as done:
        main(["bench", name, "--help"])
    assert done.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_a_name_in_a_file_imports_no_other_module():
    assert registry.find("accuracy").name == "accuracy"
    assert [registry.find(name) for name in ("report", "__init__", "..contract", None, 5)] == [None] * 5


def test_every_committed_result_is_described_and_summed_up(root):
    for path in (root / "benchmarks" / "results").glob("*.json"):
        result = read_result(path)
        if result["benchmark"] == "reliability":  # of a program in tools, which tests/tools describes
            continue
        benchmark = registry.find(result["benchmark"])
        assert len(benchmark.describe(result).splitlines()) > 1, path
        assert any(benchmark.markdown(result)), path


def test_a_row_keeps_what_was_measured_before_it_failed():
    row = Row({"name": "a"})
    with row.attempt():
        row.note(seconds=1.5)
        raise ValueError("no\nluck")
    assert row.to_json() == {"name": "a", "seconds": 1.5, "error": "ValueError: no"}
    with pytest.raises(KeyboardInterrupt), row.attempt():
        raise KeyboardInterrupt


def test_a_result_is_written_with_its_machine_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["aurevoir", "bench", "x", "--out", "r.json", "--rounds", "2"])
    result = Result("x", [Row({"a": 1})], {"network": "n"}, {"speedup": None})
    write_result(result.to_json(), tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert list(read) == ["schema", "benchmark", "network", "rows", "speedup", "machine"]
    assert read["machine"]["command"] == "aurevoir bench x --rounds 2"
    assert read["machine"] == Machine.here().to_json()
    assert {"processor", "cores", "memory_gib", "system", "python", "versions", "date"} <= set(read["machine"])


def test_columns_are_aligned_and_reasons_widen_none():
    lines = aligned(["", "n", "seconds"], [["a", "1,000", "2.5"], ["bc", "a long reason"], ["d", "2", "3.25", "note"]])
    assert lines == [
        "        n  seconds",
        "a   1,000      2.5",
        "bc  a long reason",
        "d       2     3.25  note",
    ]
