"""The house: imports go down the floors only, and nothing heavy loads early."""

import ast
import json
import subprocess
import sys

import pytest

from aurevoir.cli.main import COMMANDS

# Each room may import from the rooms before it, and from itself.
FLOORS = ["errors", "files", "kernels", "images", "calibration", "engine", "transfer", "benchmarks", "cli"]
HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "cupy", "triton", "sklearn", "scipy", "numpy"}


def _imports(path, root):
    """Yield (line, room) for each import of the package in a source file."""
    package = ["aurevoir", *path.relative_to(root).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")]
            yield node.lineno, target[1] if len(target) > 1 and target[1] else node.names[0].name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name and name.split(".")[0] == "aurevoir":
                    yield node.lineno, name.split(".")[1] if "." in name else ""


def _sources(root):
    for floor in FLOORS[1:]:
        yield from (root / floor).rglob("*.py")


def test_imports_go_down_the_floors_only(root):
    upward = []
    for path in _sources(root):
        own = FLOORS.index(path.relative_to(root).parts[0])
        for line, room in _imports(path, root):
            if room != "__version__" and FLOORS.index(room) > own:
                upward.append(f"{path.relative_to(root)}:{line} imports {room}")
    assert not upward


def test_the_floor_test_sees_an_upward_import(root, tmp_path):
    (tmp_path / "kernels").mkdir()
    source = tmp_path / "kernels" / "bad.py"
    source.write_text("from ..engine.build import assemble\nfrom . import bits\nfrom .. import cli\n")
    assert [room for _, room in _imports(source, tmp_path)] == ["engine", "kernels", "cli"]


def test_every_room_is_on_a_floor_and_in_the_wheel(root):
    import tomllib

    rooms = {path.parent.relative_to(root).parts[0] for path in root.glob("*/__init__.py")} - {"tests"}
    assert rooms <= set(FLOORS)
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {path.parent for room in rooms for path in (root / room).rglob("__init__.py")}
    assert {"aurevoir", *(".".join(["aurevoir", *path.relative_to(root).parts]) for path in found)} == listed


def _loaded_by(code):
    script = f"{code}\nimport sys, json; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_aurevoir_loads_nothing_heavy():
    assert not _loaded_by("import aurevoir") & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command):
    code = f"from aurevoir.cli.main import parser_for; parser_for({command!r}).format_help()"
    assert not _loaded_by(code) & HEAVY


def test_the_classifier_and_openvino_engines_load_no_torch(tiny_onnx):
    code = (
        "import aurevoir; aurevoir.OpticalClassifier; aurevoir.load;"
        f"import numpy as np; engine = aurevoir.build_engine({str(tiny_onnx)!r}, runtime='openvino');"
        "engine.bits(np.zeros((1, 28, 28, 3), 'uint8'))"
    )
    assert not _loaded_by(code) & {"torch", "torchvision", "onnxruntime"}


def test_public_names_resolve():
    import aurevoir

    assert all(getattr(aurevoir, name) is not None for name in aurevoir.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        aurevoir.nothing  # noqa: B018


def test_the_startup_benchmark_covers_every_command():
    from aurevoir.benchmarks.suites.startup import COMMANDS as TIMED

    assert set(TIMED) == set(COMMANDS)
