"""Engines take images of any batch length, array library and thread, and nothing else."""

import copy
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from in_worker import known_and_bits
from sklearn.base import clone

from aurevoir.engine.assemble import assemble
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError


def test_other_array_libraries_are_taken(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "openvino")
    np.testing.assert_array_equal(engine.bits(torch.from_numpy(pixels)), engine.bits(pixels))
    np.testing.assert_array_equal(engine.bits(pixels[:, :, ::-1]), engine.bits(pixels[:, :, ::-1].copy()))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 28, 28, 3), "float32"), np.zeros((1, 3, 28, 28), "uint8"), np.zeros((28, 28, 3), "uint8")]
)
def test_other_dtypes_and_shapes_are_refused(exported, images):
    with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
        assemble(exported, "fp32")(images)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_another_number_of_rows_than_of_images_is_an_error_at_every_call(exported, pixels, name, of_one_row):
    engine = assemble(exported, "fp32", name, device="cpu")
    broken = of_one_row(engine)
    assert broken(pixels[:1]).shape == (1, engine.features)
    for _ in range(2):
        with pytest.raises(AurevoirError, match=r"returned 1 rows for \d+ images: a batch size is fixed"):
            broken(pixels)


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_images_on_a_gpu_are_refused_by_what_reads_host_memory(exported, pixels, monkeypatch, name):
    # No GPU is needed to see which way they go.
    monkeypatch.setattr("aurevoir.engine.engine.on_gpu", lambda images: True)
    with pytest.raises(
        UsageError, match=f"are on a GPU, and this engine runs on 'cpu' by '{name}'.*or load the engine"
    ):
        assemble(exported, "fp32", name, device="cpu")(pixels)


@pytest.mark.gpu
def test_torch_engines_read_cuda_arrays_in_place(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "torch")
    assert engine.device == "cuda"
    images = torch.from_numpy(pixels).cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        features = engine(images)
        assert features.is_cuda
        np.testing.assert_allclose(features.cpu().numpy(), engine(pixels), atol=1e-5)
    # The same from a CUDA graph, and of every size.
    many = np.concatenate([pixels] * 30)
    for count in (20, 600, 600, 130, 3):
        np.testing.assert_array_equal(
            engine.bits(many[:count]), engine.bits(torch.from_numpy(many[:count]).cuda()).cpu()
        )
        np.testing.assert_allclose(engine(many[:count]), np.resize(engine(pixels), (count, engine.features)), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_triton_engines_read_host_and_cuda_arrays_alike(exported, pixels, table, reference, precision, cache):
    import torch

    many = np.concatenate([pixels] * 30)
    # The second takes its tiles from the cache.
    for _ in range(2):
        engine = assemble(exported, precision, "triton", table if precision == "int8" else None)
        assert engine.device == "cuda"
        for count in (len(pixels), 1, 300, 300, 3):
            bits = engine.bits(many[:count])
            np.testing.assert_array_equal(bits, engine.bits(torch.from_numpy(many[:count]).cuda()).cpu())
        assert np.mean((engine(pixels) > 0) == (reference > 0)) > 0.9


@pytest.mark.gpu
def test_more_threads_than_torch_has_streams_share_an_engine(exported, pixels):
    engine = assemble(exported, "fp32", "torch")
    images = [np.roll(pixels, shift, axis=0) for shift in range(40)]
    expected = [engine(each) for each in images]
    met, wrong = threading.Barrier(len(images)), []

    def work(turn):
        met.wait(120)
        for _ in range(50):
            error = np.abs(engine(images[turn]) - expected[turn]).max()
            if not error < 1e-5:
                wrong.append((turn, error))
        met.wait(120)

    # The second turn uses the streams of the first again.
    for _ in range(2):
        threads = [threading.Thread(target=work, args=[turn]) for turn in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not met.broken
    assert not wrong


def test_threads_share_an_engine(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    expected, wrong = engine.bits(pixels), []

    def work():
        wrong.extend(1 for _ in range(20) if not np.array_equal(engine.bits(pixels), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("precision", "runtime"), [("int8", "openvino"), ("fp32", "onnxruntime"), ("fp32", "torch")])
def test_an_engine_is_pickled_as_its_file(exported, table, pixels, precision, runtime):
    engine = assemble(exported, precision, runtime, table if precision == "int8" else None, device="cpu")
    engine = engine.with_speeds({precision: 2.0})
    expected = engine.bits(pixels)  # compiled: what is compiled is not pickled
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(engine, protocol)
        other = pickle.loads(data)
        assert other is not engine
        assert (other.device, other.manifest, other.table) == ("cpu", engine.manifest, engine.table)
        assert other.images_per_second == {precision: 2.0}
        assert other.to_bytes() == engine.to_bytes()
        np.testing.assert_array_equal(other.bits(pixels), expected)
    assert pickle.loads(data) is other


def test_a_pickle_is_checked_before_native_code(exported, monkeypatch):
    restore, (file, device) = assemble(exported, "fp32", "openvino").__reduce__()
    for place in (0.1, 0.5, 0.9, 0.9999):
        changed = bytearray(file)
        changed[int(place * len(file))] ^= 1
        with pytest.raises(AurevoirError, match="the pickled engine is not an engine file, or a byte"):
            restore(bytes(changed), device)
    with pytest.raises(UsageError, match="runtime 'openvino' has no device 'GPU.7' on this machine; choose one of"):
        restore(file, "GPU.7")
    monkeypatch.setattr("aurevoir.engine.runtimes.installed", lambda name: False)
    with pytest.raises(MissingPackageError, match="runtime 'openvino' is not installed"):
        restore(file, device)


def test_copies_of_an_engine_are_the_engine(exported):
    engine = assemble(exported, "fp32", "openvino")
    assert copy.copy(engine) is engine
    assert copy.deepcopy({"engine": [engine]})["engine"][0] is engine
    assert clone(engine, safe=False) is engine


def test_a_worker_process_keeps_the_engine_of_its_last_task(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = [pool.submit(known_and_bits, engine, pixels).result() for _ in range(3)]
    assert [compiled for compiled, _ in found] == [[], [("bits",)], [("bits",)]]
    for _, bits in found:
        np.testing.assert_array_equal(bits, engine.bits(pixels))


def test_an_engine_is_pickled_by_threads_that_use_it(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    expected = engine.bits(pixels)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: pickle.loads(pickle.dumps(engine)).bits(pixels), range(16)))
    assert all(np.array_equal(result, expected) for result in results)
