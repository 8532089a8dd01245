import os
import subprocess
import sys

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.core import config

from aurevoir.kernels.backends.numba.dense import dense
from aurevoir.kernels.backends.numba.features import numba_features


def test_numba_s_instructions_are_those_that_it_is_set_to_use(monkeypatch):
    monkeypatch.setattr(config, "CPU_FEATURES", "")
    assert not any(numba_features().values())
    monkeypatch.setattr(config, "CPU_FEATURES", "+avx2,-avx512f")
    assert numba_features() == {"avx2": True, "avx512f": False}
    monkeypatch.setattr(config, "CPU_FEATURES", None)
    assert numba_features() == {name: bool(has) for name, has in get_host_cpu_features().items()}
    monkeypatch.setattr(config, "ENABLE_AVX", 0)
    assert not any(has for name, has in numba_features().items() if name.startswith("avx"))


def test_products_compile_to_the_plainest_instructions():
    """In a process of its own: what cannot be compiled ends it."""
    code = (
        "import numpy as np\n"
        "from aurevoir.kernels.gram import gram, overlap\n"
        "ones = np.random.default_rng(0).integers(0, 2, size=(5, 900), dtype='uint8')\n"
        "assert (overlap(np.packbits(ones, axis=1)) == ones.astype(int) @ ones.T).all()\n"
        "assert (gram(ones + 128) == ones.astype(int) @ ones.T).all()\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sums_of_the_largest_entries_do_not_overflow():
    bits = np.full((1, 7500), 255, dtype="uint8")
    intensities = dense(bits, 16, 0, np.full(256, -127, dtype="int8"))
    np.testing.assert_array_equal(intensities, 2 * np.square(np.float32(127 * 60_000)))
