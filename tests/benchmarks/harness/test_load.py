"""Load: how many calls, when, and from when their latency counts."""

import threading
import time

import numpy as np
import pytest

from aurevoir.benchmarks.harness.load import closed_load, open_load, percentiles, poisson_arrivals


@pytest.mark.parametrize("callers", [1, 3])
def test_each_caller_calls_again_as_soon_as_its_call_has_ended(callers):
    inside, most, lock = set(), [], threading.Lock()

    def run():
        with lock:
            inside.add(threading.get_ident())
            most.append(len(inside))
        time.sleep(0.01)
        with lock:
            inside.discard(threading.get_ident())

    load = closed_load(run, callers, 0.3)
    assert max(most) == callers
    # A machine that is busy makes fewer, never more.
    assert callers <= len(load.latencies) <= callers * 31
    assert min(load.latencies) >= 0.01
    assert load.rate == len(load.latencies) / load.seconds
    assert load.seconds >= 0.3


def test_arrivals_are_those_of_a_poisson_process():
    times = poisson_arrivals(500, 20, seed=3)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times[-1] < 20
    # Exponential: the standard deviation is the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    np.testing.assert_array_equal(times, poisson_arrivals(500, 20, seed=3))
    assert list(poisson_arrivals(0.001, 0.01, seed=0)) == [0.0]


def test_latency_counts_from_the_arrival_so_that_a_slow_call_is_not_hidden():
    """One call of 0.3 s among quick ones: all that arrive meanwhile wait for it, and say so."""
    numbers = iter(range(10**6))

    def run():
        # The first is the warm-up.
        if next(numbers) == 3:
            time.sleep(0.3)

    load = open_load(run, 1, rate=200, seconds=0.6)
    late = [each for each in load.latencies if each > 0.05]
    assert len(load.latencies) == len(poisson_arrivals(200, 0.6, 0))
    assert len(late) > 20
    assert max(late) > 0.25
    # A loop that sends the next call after the last sees one slow call.
    numbers = iter(range(10**6))
    assert sum(each > 0.05 for each in closed_load(lambda: (run(), time.sleep(0.002)), 1, 0.6).latencies) < 20


def test_a_call_that_fails_is_the_error():
    def run():
        if threading.current_thread() is not first[0]:
            first[0] = threading.current_thread()
            raise ValueError("no kernel")
        time.sleep(0.01)

    first = [None]
    for load in (lambda: closed_load(run, 3, 0.1), lambda: open_load(run, 3, 100, 0.1)):
        with pytest.raises(ValueError, match="no kernel"):
            load()


def test_percentiles_that_few_calls_do_not_have_are_left_out():
    found = percentiles([each / 1000 for each in range(1, 1001)])
    assert found == pytest.approx({"p50": 500.5, "p90": 900.1, "p99": 990.01, "p99.9": 999.001})
    assert [name for name, value in percentiles([0.1] * 99).items() if value is None] == ["p99", "p99.9"]
    assert [name for name, value in percentiles([0.1] * 999).items() if value is None] == ["p99.9"]
    assert list(percentiles([0.1]).values()) == [None] * 4
