import pytest

from aurevoir.benchmarks.harness.scaling import exponent


def test_the_exponent_of_a_power_is_found():
    sizes = [3, 7, 20, 100]
    assert exponent(sizes, [5 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert exponent([4, 4], [1, 2]) is None
