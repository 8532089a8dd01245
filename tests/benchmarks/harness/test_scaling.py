import numba
import numpy as np
import pytest

from aurevoir.benchmarks.contract import Row
from aurevoir.benchmarks.harness import contestants as harness
from aurevoir.benchmarks.harness.contestants import Contestant, measure, prepare
from aurevoir.benchmarks.harness.scaling import exponent
from aurevoir.benchmarks.harness.synthetic_bits import digits, generated_bits
from aurevoir.benchmarks.harness.threads import threads
from aurevoir.errors import UsageError
from aurevoir.kernels.bits import popcount


def test_the_exponent_of_a_power_is_found():
    sizes = [3, 7, 20, 100]
    assert exponent(sizes, [5 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert exponent([4, 4], [1, 2]) is None


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


def test_threads_are_given_and_taken_back():
    before = numba.get_num_threads()
    with threads(1) as count:
        assert count == numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
    with pytest.raises(UsageError, match="0 threads are not possible; give 1 to"), threads(0):
        pass


def test_generated_bits_are_the_same_every_time_and_no_class_is_lost():
    bits, labels = generated_bits(300, 100)
    assert bits.shape == (300, 13)
    assert 0.2 < popcount(bits).mean() / 100 < 0.5
    assert set(labels) == set(range(10))
    np.testing.assert_array_equal(bits, generated_bits(300, 100)[0])


def test_the_splits_of_digits_hold_every_class_alike():
    data = digits(2)
    assert len(data.parts) == 2
    train, test = data.parts[0]
    assert sorted([*train, *test]) == list(range(len(data.labels)))
    shares = np.bincount(data.labels[test]) / np.bincount(data.labels)
    assert np.abs(shares - 0.2).max() < 0.01
