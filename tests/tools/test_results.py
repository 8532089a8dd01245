"""The documentation holds what the result files hold."""

import copy
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.errors import DataError

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "results.py"
MARKS = "a\n<!-- results: {} -->\nold\n<!-- /results -->\nb\n"


@pytest.fixture(scope="module")
def tool():
    """The script as a module: it is no part of the package."""
    spec = importlib.util.spec_from_file_location("results_tool", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fill(tool):
    return lambda text, results, folder: tool.fill(text, results, folder, tool.names_in([text]))


@pytest.fixture
def results(root):
    return {path: read_result(path) for path in sorted((root / "benchmarks" / "results").glob("*.json"))}


def test_the_documentation_is_as_the_results():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: make results\n{done.stderr}"
    assert "unchanged" in done.stdout


def test_a_file_that_differs_is_found_and_corrected(tool, root, tmp_path, capsys):
    folder = tmp_path / "benchmarks" / "results"
    shutil.copytree(root / "benchmarks" / "results", folder)
    path = tmp_path / "a.md"
    path.write_text(MARKS.format("accuracy"))
    options = [str(path), "--results", str(folder)]
    assert tool.main(options) == 0
    text = path.read_text()
    path.write_text(text.replace("± 0.005", "± 0.001", 1))
    assert tool.main([*options, "--check"]) == 1
    assert "write them with: make results" in capsys.readouterr().err
    assert path.read_text() != text
    assert tool.main(options) == 0
    assert "a.md: written" in capsys.readouterr().out
    assert path.read_text() == text


def test_links_are_relative_to_each_file_and_others_are_what_no_file_names(tool, root, tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    shutil.copytree(root / "benchmarks" / "results", folder)
    (tmp_path / "docs").mkdir()
    kinds = ["accuracy", "engines", "calibration", "threads", "projection", "ridge", "gpu", "table1", "depth", "rivals"]
    kinds += ["families", "time-to-model", "cluster", "scale"]
    # Its table is on a page of its own, once it has been run.
    kinds += [path.stem for path in folder.glob("reliability.json")]
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "results.md"
    readme.write_text("".join(MARKS.format(name) for name in kinds))
    page.write_text(MARKS.format("patches") + MARKS.format("others"))
    assert tool.update([readme, page], folder) == [readme, page]
    assert "[engines-cpu.json](benchmarks/results/engines-cpu.json)" in readme.read_text()
    assert "[patches.json](../benchmarks/results/patches.json)" in page.read_text()
    assert (
        page.read_text().count("(`aurevoir bench ")
        == page.read_text().count("**startup** (`aurevoir bench startup`)")
        == 1
    )


def test_numbers_come_from_the_files_and_prose_stays(fill, results):
    changed = {path: copy.deepcopy(result) for path, result in results.items()}
    path = next(path for path in changed if path.stem == "accuracy-resnet50v2")
    changed[path]["rows"][0]["accuracy"] = 0.12345
    text = fill(MARKS.format("accuracy"), changed, Path("/"))
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")
    assert "\nold\n" not in text
    assert "| resnet50v2_stage3 | caltech10 (940) | 0.123 ± " in text
    # Both files' rows stand in one table.
    assert text.count("| backbone |") == 1
    assert fill(text, changed, Path("/")) == text


def test_failed_rows_are_named(fill, results):
    assert "| NNCF | failed | - |" in fill(MARKS.format("calibration"), results, Path("/"))


def test_a_benchmark_that_no_mark_names_gets_a_table_of_all_its_rows(fill, results, tmp_path):
    rows = [{"method": "a|b", "k": 25088, "seconds": 0.123456, "runs": [1, 2]}, {"method": "c", "error": "<boom>\nlog"}]
    own = {tmp_path / "new.json": {"benchmark": "new", "rows": rows, "machine": {"processor": "P", "cores": 3}}}
    text = fill(MARKS.format("others"), own, tmp_path)
    assert "**new** (`aurevoir bench new`)" in text
    assert "| method | k | seconds | error |\n|---|---|---|---|\n" in text
    assert "| a\\|b | 25,088 | 0.1235 |  |" in text
    assert "| c |  |  | &lt;boom> log |" in text
    assert "From [new.json](new.json)." in text
    machines = fill(MARKS.format("machines"), results | own, tmp_path)
    assert "- P, 3 cores: new\n" in machines
    named = fill(MARKS.format("new") + MARKS.format("others"), own, tmp_path)
    assert named.count("25,088") == 1


def test_the_summary_follows_the_files(fill, results):
    text = fill(MARKS.format("summary"), results, Path("/"))
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == 12
    assert all(re.match(r"- \*\*\[[\w' ]+\]\([\w.]*(#[\w-]+)?\)", line) for line in lines)
    changed = {path.stem: copy.deepcopy(result) for path, result in results.items()}
    ours = next(row for row in changed["engines-cpu"]["rows"] if row["name"] == "openvino int8")
    ours["sign_agreement"] = 0.12345
    changed["post-size"]["rows"][0]["total"] = 4321.0
    changed["reliability"]["rows"][0]["hangs"] = 3
    best = next(row for row in changed["rivals-caltech10"]["rows"] if row["rival"] == "backprop frozen")
    best["accuracy"] = 0.999
    other = fill(MARKS.format("summary"), {Path(f"/{name}.json"): each for name, each in changed.items()}, Path("/"))
    differing = [new for old, new in zip(text.splitlines(), other.splitlines(), strict=True) if old != new]
    parts = ("agreement 0.123;", "takes 4321 s on", "caltech10, 0.999 ±", ": 3 faults.")
    for line, part in zip(differing, parts, strict=True):
        assert part in line


def test_a_summary_of_what_is_not_there_is_refused(fill, results):
    few = {path: result for path, result in results.items() if path.stem != "threads"}
    assert "Reliability" in fill(MARKS.format("summary"), few, Path("/"))
    few = {path: result for path, result in results.items() if path.stem != "post-size"}
    with pytest.raises(DataError, match="post-size.json, and there is no such result file"):
        fill(MARKS.format("summary"), few, Path("/"))
    failed = {path: copy.deepcopy(result) for path, result in results.items()}
    for row in next(result for path, result in failed.items() if path.stem == "post-size")["rows"]:
        row["error"] = "killed"
    with pytest.raises(DataError, match="a row .* of post-size.json, and there is none"):
        fill(MARKS.format("summary"), failed, Path("/"))


@pytest.mark.parametrize("text", ["no marks", "<!-- results: accuracy -->\nnever closed", MARKS.format("nothing")])
def test_marks_that_cannot_be_filled_are_refused(fill, results, text):
    with pytest.raises(DataError, match="marks|no such result file"):
        fill(text, results, Path("/"))


def test_a_missing_file_is_one_line(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path / "none.md")]) == 2
    assert "none.md does not exist; name Markdown files with marked sections" in capsys.readouterr().err
