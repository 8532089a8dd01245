import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba.core import config

from aurevoir.errors import UsageError
from aurevoir.kernels.backends import get_backend
from aurevoir.kernels.backends.numba import magnitudes
from aurevoir.kernels.backends.numba.dense import dense
from aurevoir.kernels.backends.numba.features import numba_features
from aurevoir.kernels.backends.numba.hadamard import hadamard
from aurevoir.kernels.backends.numba.magnitudes import count_magnitudes
from aurevoir.kernels.backends.numba.products import shared_ones
from aurevoir.kernels.backends.reference import real


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


BITS = np.zeros((3, 8), dtype="uint8")
SIGNS = np.zeros((1, 2, 3, 8), dtype="uint8")
LEVELS = np.zeros(256, dtype="int8")


@pytest.mark.parametrize(
    "call",
    [
        # More bits than the transform is long, as where a model's number of features is not that of its engine.
        lambda: hadamard(np.zeros((3, 7840), dtype="uint8"), SIGNS, 64),
        lambda: hadamard(BITS, SIGNS, 65),
        lambda: hadamard(BITS, SIGNS, 0),
        lambda: hadamard(BITS, SIGNS[0], 64),
        lambda: hadamard(BITS[:, :1], np.zeros((1, 2, 3, 1), dtype="uint8"), 8),
        lambda: hadamard(BITS[:, :1], np.zeros((1, 2, 3, 3), dtype="uint8"), 8),
        # Transforms longer than the features need.
        lambda: hadamard(BITS[:, :1], np.zeros((1, 2, 3, 2), dtype="uint8"), 8),
        lambda: hadamard(BITS[:, :0], SIGNS, 64),
        lambda: hadamard(BITS.astype("int64"), SIGNS, 64),
        lambda: hadamard(BITS[0], SIGNS, 64),
        lambda: hadamard(BITS, SIGNS.astype("float32"), 64),
        lambda: dense(BITS[:, :0], 16, 0, LEVELS),
        lambda: dense(BITS.astype("int64"), 16, 0, LEVELS),
        lambda: dense(BITS, 16, 0, LEVELS[:255]),
        lambda: dense(BITS, 0, 0, LEVELS),
        lambda: shared_ones(BITS, BITS[:, :7]),
        lambda: shared_ones(BITS, BITS.astype("int64")),
        lambda: shared_ones(BITS[0]),
        lambda: count_magnitudes(np.zeros(3, dtype="float32"), 1.0, 0),
        lambda: count_magnitudes(np.zeros(3, dtype="float32"), float("nan"), 8),
    ],
)
def test_what_does_not_belong_together_never_reaches_compiled_code(call):
    with pytest.raises(UsageError):
        call()


def test_signs_that_are_not_contiguous_are_read_as_they_are():
    rng = np.random.default_rng(0)
    bits, signs = (rng.integers(0, 256, shape, dtype="uint8") for shape in ((3, 8), (2, 2, 3, 8)))
    np.testing.assert_array_equal(
        hadamard(bits, np.asfortranarray(signs), 100), hadamard(bits, np.ascontiguousarray(signs), 100)
    )


DOUBLE = """
import numpy as np
import pytest
from aurevoir.kernels.backends.numba import compiled
FAULT
double = compiled.compiled()(DEFINED)
assert double(np.ones(3)).tolist() == [2, 2, 2]
print(len(double.stats.cache_hits), double.stats.cache_path)
"""


@pytest.fixture
def run_double(tmp_path):
    (tmp_path / "source.py").write_text("def double(values):\n    return 2 * values\n")
    (tmp_path / "cache").mkdir()

    def run(fault=""):
        code = DOUBLE.replace("FAULT", fault).replace("DEFINED", "__import__('source').double")
        paths = [str(tmp_path), *filter(None, sys.path)]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def test_a_cache_is_used_again_and_a_damaged_one_made_anew(run_double, tmp_path):
    assert run_double()[0] == "0"
    assert run_double()[0] == "1"
    for ending in ("nbi", "nbc"):
        (path,) = (tmp_path / "cache").rglob(f"*.{ending}")
        path.write_bytes(path.read_bytes()[:-20])
        assert run_double()[0] == "0"
        assert run_double()[0] == "1"


def test_functions_compile_where_no_cache_can_be_written(run_double):
    assert run_double("compiled._Cache._impl_class._locator_classes.clear()") == ["0", "None"]
    full = "compiled._FunctionCache.save_overload = FULL"
    raising = "def FULL(*_):\n    raise OSError(28, 'No space left on device')\n"
    assert run_double(raising + full)[0] == "0"
    assert run_double()[0] == "0"


@pytest.mark.parametrize("top", [1e-40, 2.0**-149, 1e-38])
def test_zeros_under_a_tiny_top_fall_into_the_first_bin(top):
    """Bins divided by such a top are infinite in float32, and infinity times 0 is no index."""
    values = np.zeros(1000, "float32")
    for name in ("numba", "reference"):
        counts, largest = get_backend(name).count_magnitudes(values, top, 128)
        assert (counts[0], counts.sum(), largest) == (1000, 1000, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda backend, bits: backend.gram(bits[0]),
        lambda backend, bits: backend.gram(bits.astype("int16")),
        lambda backend, bits: backend.dense(bits, 16, -1, 0),
        lambda backend, bits: backend.dense(bits, 16, 0, 0, "signs"),
        lambda backend, bits: backend.dense(bits, 17, 4, 0),
        lambda backend, bits: backend.dense(bits, 0, 4, 0),
        lambda backend, bits: backend.hadamard(bits, 16, 1, np.zeros((0, 2, 3, 2), "uint8")),
        lambda backend, bits: backend.hadamard(bits, 16, 16, np.zeros((1, 0, 3, 2), "uint8")),
        lambda backend, bits: backend.hadamard(bits, 16, 17, np.zeros((1, 2, 3, 2), "uint8")),
        lambda backend, bits: backend.hadamard(bits, 16, 16, np.zeros((1, 2, 3, 1), "uint8")),
        lambda backend, bits: backend.hadamard(bits, 16, 16, np.zeros((1, 2, 3, 3), "uint8")),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(call):
    bits = np.zeros((4, 2), "uint8")
    # The suite checks the types of arrays before, and says so in a TypeError of its own.
    with pytest.raises((UsageError, TypeError), match="shape|Type-check|outputs"):
        call(get_backend("numba"), bits)


def test_magnitudes_of_other_numbers_are_those_of_their_float32_and_complex_ones_are_refused():
    assert magnitudes.largest_magnitude(np.array([-128, 5], dtype="int8")) == 128
    assert magnitudes.count_magnitudes(np.array([-128, 5], dtype="int8"), 256.0, 2)[0].tolist() == [1, 1]
    with pytest.raises(UsageError, match="complex64 have no float32 magnitudes"):
        magnitudes.largest_magnitude(np.ones(2, dtype="complex64"))
    with pytest.raises(UsageError, match="complex64 have no float32 magnitudes"):
        real(np.ones(2, dtype="complex64"))
    assert real(np.array([-128], dtype="int8")).dtype == np.float32


def test_rows_of_no_bytes_share_nothing():
    np.testing.assert_array_equal(shared_ones(np.zeros((3, 0), dtype="uint8")), np.zeros((3, 3)))
