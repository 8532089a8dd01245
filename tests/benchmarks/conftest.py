"""Result files, the project's own and made ones."""

import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a result file and return its path."""

    def run(result, name="r.json"):
        path = tmp_path / name
        path.write_text(json.dumps(result))
        return path

    return run


@pytest.fixture
def committed(root):
    """A function from a name to the project's own result of that name."""
    return lambda name: json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text())
