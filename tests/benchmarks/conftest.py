"""Result files, the project's own and made ones; and benchmarks on little data."""

import json

import pytest

from aurevoir.benchmarks.harness.labelled_bits import LabelledBits
from aurevoir.benchmarks.harness.synthetic_bits import digits
from aurevoir.benchmarks.suites.projection import accuracy as projection_accuracy
from aurevoir.benchmarks.suites.ridge import benchmark as ridge


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


@pytest.fixture
def few_digits(monkeypatch):
    """The digits cut short: a ridge of all of them takes seconds."""

    def cut(splits):
        data = digits(splits)
        parts = [(train[:300], test[:150]) for train, test in data.parts]
        return LabelledBits(data.name, data.m, data.bits, data.labels, parts)

    for module in (ridge, projection_accuracy):
        monkeypatch.setattr(module, "digits", cut)
