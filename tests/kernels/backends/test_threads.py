"""Threads that share the work of compiled kernels: every part once, in order, within a limit."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aurevoir.kernels.backends.numba import threads
from aurevoir.kernels.backends.numba.magnitudes import count_magnitudes
from aurevoir.kernels.backends.numba.products import shared_ones
from aurevoir.kernels.backends.numba.threads import in_parts, limit_threads, thread_count


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(threads, "most_threads", lambda: 4)
    threads._pool.cache_clear()
    yield
    threads._pool.cache_clear()


@pytest.fixture
def one_thread():
    limit_threads(1)
    yield
    limit_threads(None)


@pytest.mark.parametrize(("count", "least", "most", "parts"), [(1000, 1, None, 16), (1000, 300, None, 3), (5, 9, 2, 3)])
def test_parts_cover_the_range_once_and_in_order(count, least, most, parts, four_threads):
    found = in_parts(lambda start, stop: list(range(start, stop)), count, least, most)
    assert [index for part in found for index in part] == list(range(count))
    assert len(found) == parts


def test_nothing_is_one_empty_part(four_threads):
    assert in_parts(lambda start, stop: (start, stop), 0) == [(0, 0)]


def test_several_threads_work_at_a_time(four_threads):
    together = threading.Barrier(4, timeout=60)
    in_parts(lambda start, stop: together.wait(), 16)


def test_one_thread_is_the_one_that_calls(four_threads, one_thread):
    assert thread_count() == 1
    assert in_parts(lambda start, stop: threading.current_thread(), 100) == [threading.current_thread()]
    with ThreadPoolExecutor() as pool:
        assert pool.submit(thread_count).result() == 4


def test_an_error_of_any_part_is_raised(four_threads):
    def work(start, stop):
        time.sleep(0.01)
        if start >= 8:
            raise ValueError(f"part at {start}")

    with pytest.raises(ValueError, match="part at"):
        in_parts(work, 16)


def test_kernels_that_threads_call_at_a_time_are_right(four_threads):
    rng = np.random.default_rng(0)
    ones, values = rng.integers(0, 2, (400, 200), "uint8"), rng.standard_normal(200_000, "float32")
    bits, shared = np.packbits(ones, axis=1), ones.astype(int) @ ones.T
    with ThreadPoolExecutor(6) as pool:
        counted = [pool.submit(count_magnitudes, values, 8.0, 64) for _ in range(20)]
        products = [pool.submit(shared_ones, bits) for _ in range(20)]
    expected = np.histogram(np.abs(values), 64, (0, 8))[0]
    assert all((each.result()[0] == expected).all() for each in counted)
    assert all((each.result() == shared).all() for each in products)
