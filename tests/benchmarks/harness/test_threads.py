"""How many threads libraries use."""

import pytest

from aurevoir.benchmarks.harness.threads import threads
from aurevoir.errors import UsageError
from aurevoir.kernels.backends.numba.threads import thread_count


def test_threads_are_given_and_taken_back():
    before = thread_count()
    with threads(1) as count:
        assert count == thread_count() == 1
    assert thread_count() == before
    with pytest.raises(UsageError, match="0 threads are not possible; give 1 to"), threads(0):
        pass
