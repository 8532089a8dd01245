"""Threads that share the work of compiled kernels: every part once, in order, within a limit."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aurevoir.kernels.backends.numba import threads
from aurevoir.kernels.backends.numba.magnitudes import count_magnitudes, largest_magnitude
from aurevoir.kernels.backends.numba.products import shared_ones
from aurevoir.kernels.backends.numba.threads import in_parts, limit_threads, thread_count


@pytest.fixture
def four_threads(monkeypatch):
    pool = threads._pool
    monkeypatch.setattr(threads, "most_threads", lambda: 4)
    pool.cache_clear()
    yield
    pool.cache_clear()


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
    assert set(in_parts(lambda start, stop: threading.current_thread(), 100)) == {threading.current_thread()}
    with ThreadPoolExecutor() as pool:
        assert pool.submit(thread_count).result() == 4


@pytest.mark.parametrize("fails_here", [True, False])
def test_an_error_of_any_thread_is_raised_and_ends_the_work(fails_here, four_threads):
    here, begun, failed = threading.current_thread(), [], threading.Event()

    def work(start, stop):
        begun.append(start)
        if (threading.current_thread() is here) is fails_here:
            failed.set()
            raise ValueError(f"part at {start}")
        assert failed.wait(60)
        time.sleep(0.05)

    with pytest.raises(ValueError, match="part at"):
        in_parts(work, 1600)
    assert len(begun) < 16


def test_where_no_thread_can_be_started_this_one_does_all(four_threads, monkeypatch):
    pool = ThreadPoolExecutor()
    pool.shutdown()
    monkeypatch.setattr(threads, "_pool", lambda: pool)
    assert in_parts(lambda start, stop: threading.current_thread(), 16) == [threading.current_thread()] * 16


def test_what_a_thread_that_did_not_start_leaves_is_waited_for_where_another_call_begins_it(four_threads, monkeypatch):
    start, failed = threading.Thread.start, []

    def not_the_first(self):
        if self.name.startswith("kernel") and not failed:
            failed.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", not_the_first)
    with ThreadPoolExecutor(2, thread_name_prefix="caller") as callers:
        first = callers.submit(in_parts, lambda start, stop: time.sleep(0.02) or start, 16)
        time.sleep(0.1)
        second = callers.submit(in_parts, lambda start, stop: time.sleep(0.02) or start, 16)
        assert first.result() == second.result() == list(range(16))
    assert failed


def test_an_error_of_another_thread_keeps_nothing(four_threads):
    class Arrays:
        pass

    here, arrays, failed = threading.current_thread(), Arrays(), threading.Event()
    held = weakref.ref(arrays)

    def work(start, stop, arrays=arrays):
        if threading.current_thread() is not here:
            failed.set()
            raise MemoryError
        assert failed.wait(60)

    gc.disable()
    try:
        with pytest.raises(MemoryError):
            in_parts(work, 16)
        del work, arrays
        # What threads do last may take a moment.
        limit = time.monotonic() + 10
        while held() is not None and time.monotonic() < limit:
            time.sleep(0.01)
        assert held() is None
    finally:
        gc.enable()


def test_an_interrupt_comes_between_the_parts_of_one_thread(four_threads, one_thread):
    begun = []

    def work(start, stop):
        begun.append(start)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parts(work, 100)
    assert begun == [0]


def test_what_is_not_begun_holds_nothing(four_threads):
    class Arrays:
        pass

    stop, arrays = threading.Event(), Arrays()
    held, busy = weakref.ref(arrays), [threads._pool().submit(stop.wait) for _ in range(4)]
    in_parts(lambda start, stop, arrays=arrays: arrays, 16)
    del arrays
    gc.collect()
    assert held() is None
    stop.set()
    assert all(each.result() for each in busy)


def test_kernels_that_threads_call_at_a_time_are_right(four_threads):
    rng = np.random.default_rng(0)
    ones, values = rng.integers(0, 2, (400, 200), "uint8"), rng.standard_normal(200_000, "float32")
    bits, shared = np.packbits(ones, axis=1), ones.astype(int) @ ones.T
    with ThreadPoolExecutor(6) as pool:
        counted = [pool.submit(count_magnitudes, values, 8.0, 64) for _ in range(20)]
        products = [pool.submit(shared_ones, bits) for _ in range(20)]
    expected = np.histogram(np.abs(values), 64, (0, 8))[0]
    assert all((each.result()[0] == expected).all() for each in counted)
    assert {each.result()[1] for each in counted} == {largest_magnitude(values)} == {np.abs(values).max()}
    assert all((each.result() == shared).all() for each in products)
