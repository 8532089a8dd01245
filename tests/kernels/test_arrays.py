import numpy as np
import pytest

from aurevoir.engine.runtimes import has_nvidia_driver
from aurevoir.errors import MissingPackageError, UsageError
from aurevoir.kernels.arrays import namespace, on_device, on_host


def test_the_namespace_of_a_numpy_array_is_numpy():
    assert namespace(np.zeros(1)) is np


def test_a_device_that_is_none_or_not_here_is_refused():
    with pytest.raises(UsageError, match="device 'tpu' is not known"):
        on_device(np.zeros(2), "tpu")
    if not has_nvidia_driver():
        with pytest.raises((UsageError, MissingPackageError), match="device 'cuda'"):
            on_device(np.zeros(2), "cuda")


def test_the_cpu_takes_numpy_s_arrays_as_they_are():
    array = np.arange(3)
    assert on_device(array, "cpu") is array
    assert on_host(array) is array
