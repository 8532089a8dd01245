"""How many threads libraries use."""

import numba
import pytest

from aurevoir.benchmarks.harness.threads import threads
from aurevoir.errors import UsageError


def test_threads_are_given_and_taken_back():
    before = numba.get_num_threads()
    with threads(1) as count:
        assert count == numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
    with pytest.raises(UsageError, match="0 threads are not possible; give 1 to"), threads(0):
        pass
