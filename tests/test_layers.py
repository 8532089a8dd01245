"""Imports go down the layers only, and nothing heavy loads early."""

import ast
import fnmatch
import json
import subprocess
import sys

import pytest

from aurevoir.cli.main import COMMANDS

# Each subpackage may import from those before it, and from itself.
LAYERS = [
    "printable",
    "errors",
    "sizes",
    "files",
    "schema",
    "archive",
    "saving",
    "children",
    "limits",
    "kept",
    "work",
    "cache",
    "signing",
    "progress",
    "page",
    "kernels",
    "images",
    "calibration",
    "engine",
    "cluster",
    "transfer",
    "benchmarks",
    "cli",
]
HEAVY = {
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "openvino",
    "cupy",
    "ray",
    "triton",
    "sklearn",
    "scipy",
    "numpy",
}
CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _names(node, package):
    """Return the dotted names that a statement imports; "*" in one stands for what is known only at run time."""
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        return [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
        parts = getattr(node.args[0], "values", node.args[:1])
        name = "".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts)
        rest = name.lstrip(".")
        level = len(name) - len(rest)
        return [".".join([*package[: len(package) - level + 1], rest])] if level else [name]
    return []


def _imports(path, root, types=True):
    """Yield (line, dotted name) for each import of the package in a source file, those for type checkers if asked."""
    package = ["aurevoir", *path.relative_to(root).parts[:-1]]
    nodes = [ast.parse(path.read_text())]
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) in CHECKING and not types:
            nodes.extend(node.orelse)
        else:
            nodes.extend(ast.iter_child_nodes(node))
        for name in _names(node, package):
            if name.startswith("aurevoir."):
                yield getattr(node, "lineno", 0), name.removeprefix("aurevoir.")


def _sources(root):
    for layer in LAYERS[1:]:
        yield from (root / layer).rglob("*.py")


def test_imports_go_down_the_floors_only(root):
    upward = []
    for path in _sources(root):
        own = LAYERS.index(path.relative_to(root).parts[0])
        for line, name in _imports(path, root):
            package = name.split(".")[0]
            if package != "__version__" and LAYERS.index(package) > own:
                upward.append(f"{path.relative_to(root)}:{line} imports {package}")
    assert not upward


def test_the_floor_test_sees_an_upward_import(root, tmp_path):
    (tmp_path / "kernels").mkdir()
    source = tmp_path / "kernels" / "bad.py"
    source.write_text("from ..engine.build import assemble\nfrom . import bits\nfrom .. import cli\n")
    assert [name.split(".")[0] for _, name in _imports(source, tmp_path)] == ["engine", "kernels", "cli"]


def _module(path, root):
    return ".".join(part for part in path.relative_to(root).with_suffix("").parts if part != "__init__")


def _circles(root):
    """Return the sets of modules, each of one subpackage, that import each other, directly or through one another."""
    paths = {_module(path, root): path for path in _sources(root)}
    reached = {}
    for module, path in paths.items():
        names = [name for _, name in _imports(path, root, types=False)]
        found = {each for name in names for each in fnmatch.filter(paths, name) or [name.rpartition(".")[0]]}
        package = [each for each in paths if each.split(".")[0] == module.split(".")[0] and each != module]
        reached[module] = found.intersection(package)
    for through in paths:
        for module, known in reached.items():
            if through in known:
                reached[module] = known | reached[through]
    circles = [{other for other in known if module in reached[other]} for module, known in reached.items()]
    return [circle for place, circle in enumerate(circles) if circle and circle not in circles[:place]]


def test_no_modules_of_a_room_import_each_other_in_a_circle(root):
    assert not _circles(root)


def test_the_circle_test_sees_circles(tmp_path):
    sources = {
        "kernels/a.py": "def f():\n from .b import g\n",
        "kernels/b.py": "from . import c\n",
        "kernels/c.py": "from aurevoir.kernels.a import f\nfrom .d import x\n",
        "kernels/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from .a import f\nelse:\n import math\n",
        "engine/runtimes/__init__.py": "def f(name):\n return import_module(f'.on_{name}', __name__)\n",
        "engine/runtimes/on_x.py": "from . import f\n",
        "engine/runtimes/other.py": "from . import f\nfrom ...kernels.a import f\n",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert sorted(map(sorted, _circles(tmp_path))) == [
        ["engine.runtimes", "engine.runtimes.on_x"],
        ["kernels.a", "kernels.b", "kernels.c"],
    ]


def _shadows(root):
    """Return the files of modules and packages that are named as a module of the standard library is."""
    paths = [*root.glob("*.py"), *_sources(root)]
    names = {path.relative_to(root): _module(path, root).rpartition(".")[2] for path in paths}
    return {path.as_posix() for path, name in names.items() if name in sys.stdlib_module_names}


def test_no_module_is_named_as_one_of_the_standard_library(root):
    assert not _shadows(root)


def test_the_test_of_names_sees_a_shadow(tmp_path):
    for name in ("kernels/queue.py", "kernels/queues.py", "engine/json/__init__.py", "glob.py", "__main__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _shadows(tmp_path) == {"kernels/queue.py", "engine/json/__init__.py", "glob.py"}


def test_every_room_is_on_a_floor_and_in_the_wheel(root):
    import tomllib

    packages = {path.parent.relative_to(root).parts[0] for path in root.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(LAYERS)
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {path.parent for package in packages for path in (root / package).rglob("__init__.py")}
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


def test_help_does_without_the_cache():
    code = "from aurevoir.cli.main import parser_for; parser_for('fit').format_help()"
    script = f"{code}\nimport sys; sys.exit('aurevoir.cache' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_classifier_and_openvino_engines_load_no_torch(tiny_onnx):
    code = (
        "import aurevoir; aurevoir.OpticalClassifier; aurevoir.load;"
        f"import numpy as np; engine = aurevoir.build_engine({str(tiny_onnx)!r}, runtime='openvino');"
        "engine.bits(np.zeros((1, 28, 28, 3), 'uint8'))"
    )
    assert not _loaded_by(code) & {"torch", "torchvision", "onnxruntime"}


def test_a_fit_of_photographs_loads_no_scikit_learn(tiny_onnx, class_folder, tmp_path):
    fit = ["fit", str(class_folder), "--backbone", str(tiny_onnx), "--out", str(tmp_path / "model"), "--quiet"]
    code = f"from aurevoir.cli.main import main; assert main({fit}) == 0"
    assert not _loaded_by(code) & {"sklearn", "pandas", "torch"}


def test_public_names_resolve():
    import aurevoir

    assert all(getattr(aurevoir, name) is not None for name in aurevoir.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        aurevoir.nothing  # noqa: B018


def test_the_startup_benchmark_covers_every_command():
    from aurevoir.benchmarks.suites.startup import COMMANDS as TIMED

    assert set(TIMED) == set(COMMANDS)
