"""Contestants that may fail."""

import pytest

from aurevoir.benchmarks.contract import Row
from aurevoir.benchmarks.harness import contestants as harness
from aurevoir.benchmarks.harness.contestants import Contestant, measure, prepare


def test_one_that_fails_keeps_its_row_and_a_part_is_scaled(monkeypatch):
    # Both take as long: on a loaded machine what is done in no time may take any.
    monkeypatch.setattr(harness, "_loops", lambda run: 1)
    monkeypatch.setattr(harness, "alternate", lambda turns, rounds, progress: {name: [0.1] * rounds for name in turns})

    def broken():
        raise ValueError("no\nreason")

    done = []
    contestants = [
        Contestant(Row({"name": "broken"}), broken),
        Contestant(Row({"name": "base one"}), lambda: lambda: done.append(1)),
        Contestant(Row({"name": "half"}), lambda: lambda: done.append(1), scale=2e6),
    ]
    prepare(contestants)
    assert len(done) == 2
    measure(contestants, "base one", 2, progress=False)
    failed, base, half = (each.row.to_json() for each in contestants)
    assert failed == {"name": "broken", "error": "ValueError: no"}
    assert base["times_base_one"] == {"min": 1, "median": 1, "max": 1}
    assert half["times_base_one"]["max"] == pytest.approx(1 / 2e6)
    assert half["repeats"] == 2
