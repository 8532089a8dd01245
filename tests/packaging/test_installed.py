"""The wheel as a user has it: installed, in an empty folder, with no checkout in sight."""

import json
import os
import subprocess
import sys

import pytest

import aurevoir as checkout
from aurevoir.cli.main import COMMANDS

IMPORT_ALL = """
import pkgutil, sys
from importlib import import_module

import aurevoir
from aurevoir.errors import MissingPackageError

for found in pkgutil.walk_packages(aurevoir.__path__, "aurevoir."):
    if not found.name.endswith("__main__"):
        try:
            import_module(found.name)
        except MissingPackageError:
            pass
print(*(module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "aurevoir"), sep="\\n")
"""


@pytest.fixture
def environment(installed):
    return os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def run(environment, tmp_path):
    """A function that runs Python in an empty folder, where only the installed package is found."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def aurevoir(run):
    """A function that runs a command of the installed package and returns its JSON."""
    return lambda *arguments: json.loads(run("-m", "aurevoir", *arguments, "--json"))


def test_every_module_imports_and_comes_from_the_wheel(run, installed):
    files = run("-c", IMPORT_ALL).splitlines()
    assert len(files) > 100
    assert [name for name in files if not name.startswith(f"{installed}{os.sep}")] == []


def test_version_and_help(run):
    assert run("-m", "aurevoir", "--version").strip() == checkout.__version__
    for command in COMMANDS:
        assert run("-m", "aurevoir", command, "--help").startswith(f"usage: aurevoir {command}")


def test_from_photographs_to_labels(aurevoir, tiny_onnx, class_folder, tmp_path):
    assert "openvino" in {each["name"] for each in aurevoir("doctor")["runtimes"] if each["available"]}
    engine, model = tmp_path / "tiny.engine", tmp_path / "model"
    aurevoir("build", tiny_onnx, "--precision", "int8", "--calibration", class_folder, "--out", engine)
    assert aurevoir("inspect", engine)["precision"] == "int8"
    assert aurevoir("fit", class_folder, "--backbone", tiny_onnx, "--out", model)["accuracy"] >= 0.5
    assert len(aurevoir("predict", model, class_folder / "red")["predictions"]) == 10


def test_a_report_of_a_result(aurevoir, root, tmp_path):
    page = tmp_path / "page.html"
    aurevoir("bench", "report", root / "benchmarks" / "results" / "startup.json", "--out", page)
    assert "startup" in page.read_text()
