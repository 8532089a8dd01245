"""The README holds what the result files hold."""

import copy
import shutil
from pathlib import Path

import pytest

from aurevoir.benchmarks.reporting.readme import fill
from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.cli.main import main
from aurevoir.errors import DataError

MARKS = "a\n<!-- results: {} -->\nold\n<!-- /results -->\nb\n"


@pytest.fixture
def results(root):
    return {path: read_result(path) for path in sorted((root / "benchmarks" / "results").glob("*.json"))}


def test_the_readme_is_as_the_results(capsys):
    assert main(["bench", "readme", "--check"]) == 0, "run: aurevoir bench readme"


def test_a_readme_that_differs_is_told_and_mended(root, tmp_path, capsys):
    readme = tmp_path / "README.md"
    text = (root / "README.md").read_text()
    shutil.copytree(root / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    readme.write_text(text.replace("± 0.005", "± 0.001", 1))
    options = ["bench", "readme", "--readme", str(readme), "--results", str(tmp_path / "benchmarks" / "results")]
    assert main([*options, "--check"]) == 1
    assert "write it with: aurevoir bench readme" in capsys.readouterr().err
    assert readme.read_text() != text
    assert main(options) == 0
    assert readme.read_text() == text


def test_numbers_come_from_the_files_and_prose_stays(results):
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


def test_failed_rows_are_named(results):
    assert "| NNCF | failed | - |" in fill(MARKS.format("calibration"), results, Path("/"))


def test_a_benchmark_that_no_mark_names_gets_a_table_of_all_its_rows(results, tmp_path):
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


@pytest.mark.parametrize("text", ["no marks", "<!-- results: accuracy -->\nnever closed", MARKS.format("nothing")])
def test_marks_that_cannot_be_filled_are_refused(results, text):
    with pytest.raises(DataError, match="marks|no such result file"):
        fill(text, results, Path("/"))


def test_a_missing_readme_is_one_line(tmp_path, capsys):
    assert main(["bench", "readme", "--readme", str(tmp_path / "none.md")]) == 2
    assert "does not exist; name it by --readme" in capsys.readouterr().err
