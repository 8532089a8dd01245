"""The tests that need a GPU are found where nothing but torch, CuPy and ONNX Runtime is installed."""

import os
import re
import subprocess
import sys

BLOCKED = ("openvino", "lightonml", "lightonopu", "tensorrt", "tensorrt_rtx_bindings", "nncf")
# What checks the code and builds its pages.
BLOCKED += ("beartype", "mypy", "sphinx", "numpydoc", "myst_parser", "furo")
SITE = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {BLOCKED} else super().find_spec(name, path, target)

Without.__name__ = PathFinder.__name__  # jaxtyping finds it by its name
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def test_gpu_tests_are_collected_without_openvino_tensorrt_and_lightonml(root, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    }
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "error" not in done.stdout.rpartition("\n\n")[2]
    assert int(re.search(r"(\d+)/\d+ tests collected", done.stdout)[1]) >= 80
