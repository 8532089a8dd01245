"""The Triton kernels: interpreted in a child process, on a GPU where there is one, and compiled for three."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from ahead import INTEGER_TENSOR_CORES, compiled  # noqa: E402

from aurevoir.errors import UsageError  # noqa: E402
from aurevoir.kernels.backends import get_backend, reference  # noqa: E402
from aurevoir.kernels.backends.triton import dense, draw, hadamard, interop, products, tiles, widen  # noqa: E402
from aurevoir.kernels.random_matrix import gaussian_levels, hadamard_length, hadamard_signs  # noqa: E402

# Set before the kernels are decorated, or never.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
numerics = (lambda test: test) if INTERPRETED else pytest.mark.gpu
TILES = (
    {
        "pointers": tiles.Tile(16, 32, 32, warps=4, stages=2, tma=False),
        "descriptors": tiles.Tile(32, 16, 64, warps=4, stages=2, tma=True),
    }
    if INTERPRETED
    else {"chosen": None, "small": tiles.SMALL._replace(tma=tiles.chosen_tile().tma)}
)
SEEDS = [0, 1, 2**31 + 5, 2**63 + 3, 2**64 - 1]


@pytest.fixture
def xp():
    return np if INTERPRETED else pytest.importorskip("cupy")


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    chosen = TILES[request.param] or tiles.chosen_tile()
    monkeypatch.setattr(tiles, "chosen_tile", lambda: chosen)


def equal(array, expected):
    host = array.get() if hasattr(array, "get") else array
    assert host.dtype == expected.dtype
    np.testing.assert_array_equal(host, expected)


def random_bytes(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype="uint8")


def packed(n, m, seed=0):
    return np.packbits(np.random.default_rng(seed).integers(0, 2, size=(n, m), dtype="uint8"), axis=1)


def packed_signs(m, k):
    return np.packbits(hadamard_signs(m, k, 3) > 0, axis=-1, bitorder="little")


def unpacked(bits):
    return np.unpackbits(bits, axis=1).astype("int64")


def signed(speckle):
    return speckle.astype("int64") - 128


def philox(counter, key):
    """Return the four words, on a last axis, of Philox4x32-10 for four words of counter and a key of 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    words = np.broadcast_arrays(*(np.asarray(word, dtype="uint64") for word in counter))
    first, second = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * words[0], np.uint64(0xCD9E8D57) * words[2]
        words = [(right >> 32) ^ words[1] ^ first, right & low, (left >> 32) ^ words[3] ^ second, left & low]
        first, second = (first + np.uint64(0x9E3779B9)) & low, (second + np.uint64(0xBB67AE85)) & low
    return np.stack(words, axis=-1).astype("<u4")


def matrix_of(m, k, seed, entries):
    """Return R as int8 of shape (k, 2, m)."""
    signs = entries == "signs"
    counter = np.arange(-(-m // (128 if signs else 16))), np.arange(k)[:, None, None], np.arange(2)[:, None], signs
    drawn = philox(counter, seed).view("uint8").reshape(k, 2, -1)
    values = 2 * np.unpackbits(drawn, axis=2).astype("int8") - 1 if signs else gaussian_levels()[drawn]
    return values[:, :, :m]


def intensities_of(x, matrix):
    real, imaginary = ((x @ matrix[:, part].T.astype("int64")).astype("float32") for part in (0, 1))
    return real * real + imaginary * imaginary


def speckle_of(intensities, gain):
    return np.minimum(np.rint(intensities * np.float32(gain)), 255).astype("uint8")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_reference_is_philox(counter, key, words):
    assert " ".join(f"{word:08x}" for word in philox(counter, key)) == words


@pytest.mark.skipif(INTERPRETED, reason="is the parent")
def test_numerics_in_the_interpreter():
    options = ["-q", "-p", "no:cacheprovider", "-k", "not compiled and not interpreter and not library"]
    files = [str(Path(__file__).with_name(name)) for name in ("test_triton.py", "test_backends.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60
    assert "skipped" not in done.stdout


@numerics
@pytest.mark.parametrize(("n", "length"), [(1, 1), (2, 16), (5, 3), (33, 17), (70, 128), (40, 1100)])
def test_shared_ones_counts_the_shared_ones(xp, tile, n, length):
    bits = random_bytes((n, length))
    equal(products.shared_ones(xp.asarray(bits)), unpacked(bits) @ unpacked(bits).T)


@numerics
@pytest.mark.parametrize(("n", "others_n", "length"), [(1, 40, 5), (40, 1, 16), (35, 17, 130)])
def test_products_with_other_rows(xp, tile, n, others_n, length):
    left, right = random_bytes((n, length)), random_bytes((others_n, length), seed=1)
    equal(products.shared_ones(xp.asarray(left), xp.asarray(right)), unpacked(left) @ unpacked(right).T)
    equal(products.gram(xp.asarray(left), xp.asarray(right)), signed(left) @ signed(right).T)


@numerics
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 127), (33, 128), (70, 300)])
def test_gram_is_the_integer_product(xp, tile, n, k):
    speckle = random_bytes((n, k))
    equal(products.gram(xp.asarray(speckle)), signed(speckle) @ signed(speckle).T)


@numerics
def test_products_of_slices_and_of_columns_first(xp):
    speckle = random_bytes((40, 300))
    part = xp.asarray(speckle)[3:, 5:250]
    equal(products.gram(part), signed(speckle[3:, 5:250]) @ signed(speckle[3:, 5:250]).T)
    equal(products.shared_ones(part), unpacked(speckle[3:, 5:250]) @ unpacked(speckle[3:, 5:250]).T)
    equal(products.shared_ones(xp.asarray(speckle.T)), unpacked(speckle.T) @ unpacked(speckle.T).T)


@numerics
def test_sums_of_many_stretches_add_up(xp, tile, monkeypatch):
    monkeypatch.setattr(products, "_MOST_TERMS", 128)
    speckle = random_bytes((70, 300))
    equal(products.gram(xp.asarray(speckle)), signed(speckle) @ signed(speckle).T)
    equal(products.shared_ones(xp.asarray(speckle)), unpacked(speckle) @ unpacked(speckle).T)


@numerics
def test_sums_past_int32_are_exact(xp, monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(tiles, "chosen_tile", lambda: tiles.Tile(16, 16, 4096, warps=4, stages=2, tma=False))
    speckle = np.zeros((2, 2**17 + 4096), dtype="uint8")
    equal(products.gram(xp.asarray(speckle)), np.full((2, 2), speckle.shape[1] * 2**14))


@numerics
def test_the_tiles_that_gpus_use(xp, monkeypatch):
    speckle = random_bytes((300, 140))
    for chosen in (tiles.LARGE, tiles.SMALL) if INTERPRETED else (tiles.chosen_tile(),):
        monkeypatch.setattr(tiles, "chosen_tile", lambda chosen=chosen: chosen)
        equal(products.gram(xp.asarray(speckle)), signed(speckle) @ signed(speckle).T)


@numerics
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("entries", ["gaussian", "signs"])
def test_r_is_philox(xp, entries, seed):
    drawn = draw.draw_rows(xp, slice(3, 5), 128 * 66, seed, entries)
    equal(drawn.reshape(2, 2, -1), matrix_of(128 * 66, 5, seed, entries)[3:])


@numerics
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (3, 13, 1), (17, 130, 20), (35, 503, 33)])
@pytest.mark.parametrize("entries", ["gaussian", "signs"])
def test_dense_is_the_squared_modulus_and_its_speckle(xp, tile, n, m, k, entries):
    bits = packed(n, m)
    expected = intensities_of(unpacked(bits)[:, :m], matrix_of(m, k, 9, entries))
    equal(dense.dense(xp.asarray(bits), m, k, 9, entries), expected)
    for gain in (0.1, 255 / max(1, np.quantile(expected, 0.9))):
        equal(dense.dense(xp.asarray(bits), m, k, 9, entries, gain), speckle_of(expected, gain))


def exposed(xp, rows, matrix, gain=None):
    """Expose the products of int8 rows with any int8 for R."""
    outputs = xp.zeros((len(rows), len(matrix) // 2), dtype="float32" if gain is None else "uint8")
    with interop.stream_of(outputs):
        operands = xp.asarray(rows), xp.asarray(matrix)
        tiles.launch(dense._expose, *operands, outputs, outputs.shape[1], gain or 0.0, CAMERA=gain is not None)
    return outputs


@numerics
@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_the_camera_rounds_halves_to_even(xp, tile, gain):
    # Squares of 0 to 15 summed in twos: halves below even numbers at one gain, below odd ones at the other.
    rows, matrix = np.eye(1, 128, dtype="int8"), np.zeros((512, 128), dtype="int8")
    matrix[:, 0] = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).ravel()
    expected = intensities_of(rows.astype("int64"), matrix.reshape(256, 2, 128))
    equal(exposed(xp, rows, matrix, gain), speckle_of(expected, gain))


@numerics
def test_each_operation_on_intensities_is_rounded(xp, tile):
    random = np.random.default_rng(0)
    rows = random.integers(-128, 128, size=(20, 256), dtype="int8")
    matrix = random.integers(-128, 128, size=(2 * 15, 256), dtype="int8")
    expected = intensities_of(rows.astype("int64"), matrix.reshape(15, 2, 256))
    equal(exposed(xp, rows, matrix), expected)
    gain = float(255 / expected.max())
    equal(exposed(xp, rows, matrix, gain), speckle_of(expected, gain))


@numerics
@pytest.mark.parametrize(
    ("n", "m", "k"),
    [(3, 1000, 700), (1, 1500, 5000), (2, 50176, 25088), (1, 66000, 131072), (1, 3000 if INTERPRETED else 2**20, 9)],
)
def test_hadamard_is_the_processors_bit_for_bit(xp, n, m, k):
    # On a GPU rows make more than one block.
    n = n if INTERPRETED else hadamard._BLOCK // hadamard_length(m) + n
    bits, signs = packed(n, m), packed_signs(m, k)
    processor = get_backend("numba")
    expected = processor.hadamard(bits, m, k, signs)
    equal(hadamard.hadamard(xp.asarray(bits), m, k, signs), expected)
    for gain in (0.1, 255 / float(np.quantile(expected, 0.99))):
        equal(hadamard.hadamard(xp.asarray(bits), m, k, signs, gain), processor.hadamard(bits, m, k, signs, gain))


@numerics
def test_hadamard_works_in_blocks_and_on_slices_and_short_transforms_are_the_references(xp, monkeypatch):
    monkeypatch.setattr(hadamard, "_BLOCK", 2 * 1024)
    bits, signs = packed(5, 8 * 200), packed_signs(1000, 2100)
    expected = get_backend("numba").hadamard(bits[:, 50:175], 1000, 2100, signs, 2.0)
    equal(hadamard.hadamard(xp.asarray(bits)[:, 50:175], 1000, 2100, signs, 2.0), expected)
    columns_first = xp.asarray(bits[:, 50:175].T.copy()).T
    equal(hadamard.hadamard(columns_first, 1000, 2100, signs, 2.0), expected)
    equal(hadamard.hadamard(xp.asarray(bits[:0, 50:175]), 1000, 2100, signs), np.zeros((0, 2100), dtype="float32"))
    short = packed_signs(500, 30)
    equal(
        hadamard.hadamard(xp.asarray(bits[:, :63]), 500, 30, short),
        reference.hadamard(bits[:, :63], 500, 30, short)
        if INTERPRETED
        else reference.hadamard(xp.asarray(bits[:, :63]), 500, 30, short).get(),
    )


@numerics
def test_the_budget_does_not_change_results(xp):
    bits = packed(140, 300)
    equal(products.shared_ones(xp.asarray(bits), budget=1), unpacked(bits) @ unpacked(bits).T)
    speckle = dense.dense(xp.asarray(bits), 300, 140, 2, gain=1e-4, budget=1)
    equal(speckle, speckle_of(intensities_of(unpacked(bits)[:, :300], matrix_of(300, 140, 2, "gaussian")), 1e-4))


@numerics
def test_nothing_in_nothing_out(xp):
    none, some = xp.zeros((0, 3), dtype="uint8"), xp.zeros((2, 3), dtype="uint8")
    for product in (products.shared_ones, products.gram):
        equal(product(none), np.zeros((0, 0), dtype="int64"))
        equal(product(some, none), np.zeros((2, 0), dtype="int64"))
        equal(product(some[:, :0]), np.zeros((2, 2), dtype="int64"))
    equal(dense.dense(none, 24, 4, 0, gain=1.0), np.zeros((0, 4), dtype="uint8"))
    equal(dense.dense(some, 24, 0, 0), np.zeros((2, 0), dtype="float32"))


@pytest.mark.parametrize(("change", "words"), [({"entries": "ternary"}, "ternary"), ({"seed": 2**64}, "2\\^64 - 1")])
def test_unusable_arguments_are_named(change, words):
    with pytest.raises(UsageError, match=words):
        dense.dense(np.zeros((1, 1), dtype="uint8"), **{"m": 8, "k": 1, "seed": 0, **change})


@pytest.mark.parametrize(("k", "change"), [(2049, lambda signs: signs), (9, lambda signs: signs[..., 1:])])
def test_signs_of_other_transforms_are_refused(k, change):
    with pytest.raises(UsageError, match=f"k = {k:,d} outputs: uint8 of shape"):
        hadamard.hadamard(packed(2, 1500), 1500, k, change(packed_signs(1500, 9)))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="has no streams")
def test_the_callers_stream_is_used_and_not_the_interpreters(xp):
    bits = packed(3000, 4000)
    with xp.cuda.Stream(non_blocking=True):
        equal(products.shared_ones(xp.asarray(bits)), unpacked(bits) @ unpacked(bits).T)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


PRODUCTS = {
    "multiply": (products._multiply, {"products": "*i32"}, {"SYMMETRIC": True}),
    "expose": (dense._expose, {"outputs": "*u8", "stride": "i32", "gain": "fp32"}, {"CAMERA": True}),
}


@pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted")
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("capability", INTEGER_TENSOR_CORES)
def test_compiled_products_use_integer_tensor_cores(name, capability, fresh_cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.get_device_capability", lambda: divmod(capability, 10))
        tile = tiles.chosen_tile()
    kernel, types, constants = PRODUCTS[name]
    first, second, _, others_n, *_ = kernel.arg_names
    operands = ("*i8", "*i8")
    if tile.tma:
        operands = (f"tensordesc<i8[{tile.rows},{tile.depth}]>", f"tensordesc<i8[{tile.columns},{tile.depth}]>")
    types = {**dict(zip((first, second), operands)), "n": "i32", others_n: "i32", "width": "i32", **types}
    aligned = ["width"] if tile.tma else ["width", first, second]
    done = compiled(kernel, capability, types, {**constants, **tile.constants()}, tile.options(), aligned)
    code = done.asm["ptx"]
    assert re.search(INTEGER_TENSOR_CORES[capability], code)
    # Rows come 16 bytes at a time, or by the tensor memory accelerator.
    assert ("cp.async.bulk.tensor.2d" if tile.tma else "cp.async.cg.shared.global") in code
    assert not re.search(r"fma\.rn\S*\.f32", code)
    assert "ld.local" not in code
    assert done.metadata.shared <= (227 if tile is tiles.LARGE else 99) * 1024
    # Nobody sets the allocator that a kernel with memory of its own would ask.
    assert done.metadata.global_scratch_size == 0


@pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted")
@pytest.mark.parametrize("signs", [0, 1])
def test_compiled_drawing_stores_16_bytes_at_a_time(signs, fresh_cache):
    types = {"matrix": "*i8", "levels": "*i8", "seed": "i64", "first": "i32", "width": "i32"}
    constants = {"SIGNS": signs, "COUNTERS": widen.CHUNK // (128 if signs else 16)}
    code = compiled(draw._draw_kernel, 90, types, constants, tiles.UNFUSED, ["matrix", "width"]).asm["ptx"]
    assert "st.global.v4.b32" in code


@pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted")
@pytest.mark.parametrize(("capability", "p"), [(each, 2**16) for each in INTEGER_TENSOR_CORES] + [(120, 2**20)])
def test_compiled_transforms_stay_in_registers(capability, p, fresh_cache, monkeypatch, tmp_path):
    launched = []
    for name in ("open", "turn", "close"):
        kernel = getattr(hadamard, f"_{name}_kernel")
        monkeypatch.setattr(hadamard, f"_{name}_kernel", _Launches(kernel, launched))
    bits, outputs = np.zeros((1, p // 8), dtype="uint8"), np.zeros((1, p), dtype="uint8")
    halves, values = (np.zeros((2, p), dtype=dtype) for dtype in ("float16", "float32"))
    hadamard._project(bits, np.zeros(6 * p // 32, dtype="int32"), halves, values, outputs, p, 1.0)
    assert [kernel.arg_names[0] for kernel, *_ in launched] == ["bits", "source", "source", "values"]
    for kernel, types, constants, options, aligned in launched:
        done = compiled(kernel, capability, types, constants, options, aligned)
        code = done.asm["ptx"]
        assert not re.search(r"fma\.rn\S*\.f32", code)
        assert done.metadata.shared <= 99 * 1024
        assert done.metadata.global_scratch_size == 0
        (tmp_path / "kernel.cubin").write_bytes(done.asm["cubin"])
        tool = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(tmp_path / "kernel.cubin")]
        used = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
        assert "STACK:0 " in used
        assert "LOCAL:0 " in used


def test_grids_of_many_short_rows_are_what_a_gpu_takes(monkeypatch):
    rows = []
    monkeypatch.setattr(hadamard, "_project", lambda bits, *others: rows.append(len(bits)))
    hadamard.hadamard(np.zeros((40_000, 125), dtype="uint8"), 1000, 512, packed_signs(1000, 512), 1.0)
    # Two chains a row, and at most 65,535 programs along the second axis.
    assert sum(rows) == 40_000
    assert 2 * max(rows) <= 65_535


class _Launches:
    """A kernel whose launches are noted: what `compiled` takes of them."""

    _TYPES: ClassVar = {
        torch.uint8: "*u8", torch.int32: "*i32", torch.float16: "*fp16", torch.float32: "*fp32", int: "i32",
        float: "fp32",
    }  # fmt: skip

    def __init__(self, kernel, noted):
        self.kernel, self.noted = kernel, noted

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *values, **options):
        arguments = dict(zip(self.kernel.arg_names, values, strict=True))
        constants = {each.name: arguments.pop(each.name) for each in self.kernel.params if each.is_constexpr}
        types = {name: self._TYPES[getattr(value, "dtype", type(value))] for name, value in arguments.items()}
        # As Triton does: pointers of arrays, and what numbers are divisible by 16.
        aligned = [name for name, value in arguments.items() if "*" in types[name] or value % 16 == 0]
        aligned = [name for name in aligned if types[name] != "fp32"]
        self.noted.append((self.kernel, types, constants, options, aligned))
