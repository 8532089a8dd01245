"""Engines compute from memory that a caller owns, and into it."""

import array
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.engine.pointers import stream_handle, writable
from aurevoir.errors import AurevoirError, UsageError

HOST = ("openvino", "onnxruntime", "torch")


@pytest.fixture(scope="module", params=HOST)
def engine(request, exported):
    return assemble(exported, "fp32", request.param, device="cpu")


class Memory:
    """A C program's memory: an array between bytes that nobody may write."""

    def __init__(self, shape, dtype, guard=64):
        self.size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.whole = (ctypes.c_uint8 * (self.size + 2 * guard + 64))(*([0x5A] * (self.size + 2 * guard + 64)))
        self.address = ctypes.addressof(self.whole) + guard
        self.address += -self.address % 64
        self.start = self.address - ctypes.addressof(self.whole)
        self.array = np.frombuffer(self.whole, dtype, int(np.prod(shape)), self.start).reshape(shape)

    def is_intact(self):
        held = bytes(self.whole)
        return set(held[: self.start] + held[self.start + self.size :]) == {0x5A}


def _outputs(engine, count):
    return {name: Memory((count, *shape), dtype) for name, (shape, dtype) in engine.output_types.items()}


def _run(engine, images, outputs):
    addresses = {name: memory.address for name, memory in outputs.items()}
    engine.run_pointers({"images": images.ctypes.data, **addresses}, len(images))
    assert all(memory.is_intact() for memory in outputs.values())
    return {name: memory.array for name, memory in outputs.items()}


def test_outputs_have_the_types_of_the_graph(engine):
    assert engine.outputs == tuple(engine.output_types) == ("features", "bits", "pooled")
    assert engine.output_types == {
        "features": ((196,), "float32"),
        "bits": ((25,), "uint8"),
        "pooled": ((4,), "float32"),
    }


@pytest.mark.parametrize("count", [1, 3, 16, 20])
def test_outputs_are_written_at_their_addresses_and_nowhere_else(engine, pixels, count):
    images = pixels[:count].copy()
    found = _run(engine, images, _outputs(engine, count))
    np.testing.assert_allclose(found["features"], engine(images), atol=1e-5)
    np.testing.assert_array_equal(found["bits"], np.packbits(found["features"] > 0, axis=1))
    np.testing.assert_allclose(
        found["pooled"], np.maximum(found["features"], 0).reshape(count, 4, 49).mean(2), atol=1e-5
    )
    np.testing.assert_array_equal(images, pixels[:count])
    alone = _run(engine, images, {"bits": _outputs(engine, count)["bits"]})
    np.testing.assert_array_equal(alone["bits"], engine.bits(images))


def test_memory_of_an_earlier_call_is_not_written_again(engine, pixels):
    first, second = _outputs(engine, 4), _outputs(engine, 4)
    expected = {name: values.copy() for name, values in _run(engine, pixels[:4].copy(), first).items()}
    _run(engine, pixels[4:8].copy(), second)
    engine(pixels[8:12])
    engine(pixels[8:9])
    for name, memory in first.items():
        np.testing.assert_array_equal(memory.array, expected[name])
        assert not np.array_equal(second[name].array, expected[name])


def test_a_second_batch_may_be_of_another_size(engine, pixels):
    for count in (20, 1, 7, 2, 1, 5):
        found = _run(engine, pixels[:count].copy(), _outputs(engine, count))
        np.testing.assert_allclose(found["features"], engine(pixels[:count]), atol=1e-5)


def test_threads_write_each_into_memory_of_its_own(engine, pixels):
    expected = engine.bits(pixels)

    def work(start):
        for _ in range(10):
            found = _run(engine, pixels[start : start + 5].copy(), {"bits": _outputs(engine, 5)["bits"]})
            np.testing.assert_array_equal(found["bits"], expected[start : start + 5])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (0, 5, 10, 15)))


def test_openvino_computes_in_place(exported, pixels):
    run = assemble(exported, "fp32", "openvino").compiled("features")
    out = np.empty((1, 196), "float32")
    (found,) = run(pixels[:1], [out])
    assert found.ctypes.data == out.ctypes.data


def test_int8_is_computed_as_by_a_call(exported, table, pixels):
    engine = assemble(exported, "int8", "openvino", table)
    found = _run(engine, pixels, {"bits": _outputs(engine, len(pixels))["bits"]})
    np.testing.assert_array_equal(found["bits"], engine.bits(pixels))


def test_another_number_of_rows_is_an_error_not_a_hole(exported, pixels, of_one_row):
    for name in HOST:
        engine = assemble(exported, "fp32", name, device="cpu")
        broken = of_one_row(engine)
        for _ in range(2):
            with pytest.raises(AurevoirError, match=r"returned 1 rows for \d+ images"):
                _run(broken, pixels[:3].copy(), {"features": _outputs(engine, 3)["features"]})


GOOD = {"images": 1 << 20, "features": 1 << 30, "bits": 1 << 31}


@pytest.mark.parametrize(
    ("addresses", "batch", "message"),
    [
        ([1, 2], 1, "addresses are a list; give a dict"),
        (
            {**GOOD, "label": 1},
            1,
            "'label' is no tensor of this engine; give 'images' and any of features, bits",
        ),
        ({}, 1, "addresses of nothing are not enough; give also 'images'"),
        ({"bits": 5}, 1, "addresses of bits are not enough; give also 'images'"),
        ({"images": 5}, 1, "addresses of images are not enough; give also an output, any of features, bits"),
        (GOOD, 0, "batch is 0; give a positive integer"),
        (GOOD, True, "batch is True; give a positive integer"),
        (GOOD, 2.0, "batch is 2.0; give a positive integer"),
        ({**GOOD, "bits": 0}, 1, "the address of 'bits' is 0; give a positive integer"),
        ({**GOOD, "bits": None}, 1, "the address of 'bits' is None; give a positive integer"),
        ({**GOOD, "images": -8}, 1, "the address of 'images' is -8; give a positive integer"),
        ({**GOOD, "features": (1 << 30) + 2}, 1, "the address 0x40000002 of 'features' is not a multiple of 4"),
        ({**GOOD, "bits": (1 << 64) - 8}, 1, "1 rows of 'bits' at 0xfffffffffffffff8 lie beyond"),
        (GOOD, 10**12, "rows of 'images'|overlaps"),
        ({**GOOD, "bits": (1 << 30) + 100}, 1, "the memory of 'features', up to 0x40000310, overlaps that of 'bits'"),
        ({**GOOD, "bits": (1 << 20) + 10}, 1, "the memory of 'images', up to 0x100930, overlaps that of 'bits'"),
    ],
)
def test_what_is_given_is_checked_before_anything_is_read(exported, addresses, batch, message):
    # None of these addresses can be read.
    with pytest.raises(UsageError, match=message):
        assemble(exported, "fp32", "openvino").run_pointers(addresses, batch)


def test_a_stream_is_for_a_gpu(exported):
    with pytest.raises(UsageError, match="stream 7 has no effect: this engine runs on 'cpu'; leave it out"):
        assemble(exported, "fp32", "openvino").run_pointers(GOOD, 1, stream=7)


def test_streams_of_every_library_are_read():
    for stream in (12, SimpleNamespace(cuda_stream=12), SimpleNamespace(ptr=12), SimpleNamespace(handle=12)):
        assert stream_handle(stream) == 12
    assert stream_handle(0) == 0
    for wrong in ("12", None, -1, True, SimpleNamespace(ptr="x")):
        with pytest.raises(UsageError, match="is none of torch, CuPy or PyCUDA, and no cudaStream_t"):
            stream_handle(wrong)


def test_images_come_from_any_buffer(engine, pixels):
    expected, shape = engine.bits(pixels), pixels.shape
    nested = (ctypes.c_uint8 * 3 * 28 * 28 * len(pixels)).from_buffer_copy(pixels.tobytes())
    torch = pytest.importorskip("torch")
    buffers = {
        "memoryview": memoryview(pixels),
        "flat memoryview": memoryview(pixels.tobytes()),
        "bytes": pixels.tobytes(),
        "bytearray": bytearray(pixels.tobytes()),
        "array.array": array.array("B", pixels.tobytes()),
        "ctypes": nested,
        "flat ctypes": (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes()),
        "torch": torch.from_numpy(pixels),
        "DLPack alone": Dlpack(pixels),
        "a list of images": list(pixels),
    }
    assert shape == (20, 28, 28, 3)
    for name, images in buffers.items():
        np.testing.assert_array_equal(engine.bits(images), expected, err_msg=name)
    np.testing.assert_array_equal(torch.from_dlpack(engine.bits(pixels)), expected)


class Dlpack:
    """What has DLPack and nothing else."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_buffers_of_other_lengths_and_types_are_refused(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    shape = r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"
    for wrong in (pixels.tobytes()[1:], array.array("H", pixels.tobytes()), array.array("f", [1.0]), b"", [1, 2]):
        with pytest.raises(UsageError, match=shape):
            engine(wrong)
    for wrong in (object(), 5, None, "text"):
        with pytest.raises(UsageError, match="cannot be read"):
            engine(wrong)


def test_outputs_are_written_into_out(engine, pixels):
    out, bits = np.full((20, 196), np.nan, "float32"), np.zeros((20, 25), "uint8")
    assert engine(pixels, out=out) is out
    assert engine.bits(pixels, out=bits) is bits
    np.testing.assert_allclose(out, engine(pixels), atol=1e-5)
    np.testing.assert_array_equal(bits, engine.bits(pixels))
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((3, 25), dtype=torch.uint8)
    assert engine.bits(pixels[:3], out=tensor) is tensor
    np.testing.assert_array_equal(tensor, bits[:3])


def test_another_out_is_refused():
    good = np.empty((3, 25), "uint8")
    images = np.zeros((3, 28, 28, 3), "uint8")
    assert writable(good, (3, 25), "uint8", images) is good
    readonly = good.copy()
    readonly.flags.writeable = False
    for out, message in (
        (np.empty((3, 25), "float32"), r"out has dtype float32 and shape \(3, 25\); give uint8 of shape \(3, 25\)"),
        (np.empty((4, 25), "uint8"), r"shape \(4, 25\); give uint8 of shape \(3, 25\)"),
        (np.empty((25, 3), "uint8").T, "out is not C-contiguous; give an array such as numpy.empty"),
        (readonly, "out is read-only"),
        ([[0] * 25] * 3, "out of type list cannot be written"),
        (images.reshape(-1)[:75].reshape(3, 25), "out shares memory with the images"),
    ):
        with pytest.raises(UsageError, match=message):
            writable(out, (3, 25), "uint8", images)


def test_threads_and_streams_are_the_runtimes(exported, pixels):
    expected = assemble(exported, "fp32", "openvino")(pixels)
    for name, settings in (
        ("openvino", {"threads": 1, "streams": 1}),
        ("openvino", {"streams": 2}),
        ("onnxruntime", {"threads": 1}),
        ("torch", {}),
    ):
        engine = assemble(exported, "fp32", name, device="cpu").with_threads(**settings)
        np.testing.assert_allclose(engine(pixels), expected, atol=1e-4)
    for name, settings, message in (
        ("onnxruntime", {"streams": 2}, "streams 2 has no effect with runtime 'onnxruntime' on device 'cpu'"),
        ("torch", {"streams": 2}, "streams 2 has no effect with runtime 'torch'"),
        ("openvino", {"threads": 0}, "threads 0 is less than 1"),
    ):
        with pytest.raises(UsageError, match=message):
            assemble(exported, "fp32", name, device="cpu").with_threads(**settings)


def test_openvino_is_compiled_for_them(exported):
    from aurevoir.engine.runtimes import on_openvino

    graph = on_openvino.read(assemble(exported, "fp32", "openvino").graph)
    for hint in ("LATENCY", "THROUGHPUT"):
        compiled = on_openvino._compiled(graph, "fp32", "cpu", hint, {"threads": 1, "streams": 1})
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_no_more_threads_than_processors_that_the_process_may_use(exported, monkeypatch):
    """Of its affinity both look at none or one, and at no quota of a container."""
    from aurevoir.engine.runtimes import on_onnxruntime, on_openvino

    graph = assemble(exported, "fp32", "openvino").graph
    for module in (on_onnxruntime, on_openvino):
        monkeypatch.setattr(module, "processors", lambda: 1)
    monkeypatch.setattr(on_openvino, "affinity", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    compiled = on_openvino._compiled(on_openvino.read(graph), "fp32", "cpu", "LATENCY")
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert on_onnxruntime._session(graph).get_session_options().intra_op_num_threads == 1
    assert on_onnxruntime._session(graph, {"threads": 3}).get_session_options().intra_op_num_threads == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert on_onnxruntime._session(graph).get_session_options().intra_op_num_threads == 0


def test_torchs_threads_are_the_processs(exported, pixels):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        assemble(exported, "fp32", "torch", device="cpu").with_threads(threads=1)(pixels)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy", "pycuda"])
def test_gpu_memory_of_every_library_is_read_and_written_on_its_stream(exported, pixels, library):
    """What examples of the documentation do: allocate, give addresses and a stream, wait for the stream."""
    expected = assemble(exported, "fp32", "torch", device="cpu")(pixels)
    engine = assemble(exported, "fp32", "torch")
    images, features, stream, fetch = {"torch": _torch, "cupy": _cupy, "pycuda": _pycuda}[library](pixels)
    for _ in range(3):
        engine.run_pointers({"images": images, "features": features}, len(pixels), stream)
        np.testing.assert_allclose(fetch(), expected, atol=1e-4)
    with pytest.raises(UsageError, match="is no address of memory on"):
        engine.run_pointers({"images": pixels.ctypes.data, "features": features}, len(pixels), stream)


def _torch(pixels):
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        images, features = torch.from_numpy(pixels).cuda(), torch.full((20, 196), torch.nan, device="cuda")

    def fetch():
        stream.synchronize()
        return features.cpu().numpy()

    fetch.kept = images
    return images.data_ptr(), features.data_ptr(), stream, fetch


def _cupy(pixels):
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        images, features = cupy.asarray(pixels), cupy.full((20, 196), cupy.nan, "float32")

    def fetch():
        stream.synchronize()
        return features.get()

    fetch.kept = images
    return images.data.ptr, features.data.ptr, stream, fetch


def _pycuda(pixels):
    pytest.importorskip("pycuda")
    import pycuda.autoprimaryctx
    import pycuda.driver as cuda

    stream = cuda.Stream()
    images, features = cuda.mem_alloc(pixels.nbytes), cuda.mem_alloc(20 * 196 * 4)
    cuda.memcpy_htod(images, np.ascontiguousarray(pixels))

    def fetch():
        stream.synchronize()
        found = np.empty((20, 196), "float32")
        cuda.memcpy_dtoh(found, features)
        return found

    fetch.kept = images, pycuda.autoprimaryctx
    return int(images), int(features), stream, fetch
