"""Torch networks on a GPU: batches, graphs and buffers, on a fake GPU of host tensors."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_gpu_fake import Device, OnGpu  # noqa: E402

from aurevoir.calibration.graph.edit import prune  # noqa: E402
from aurevoir.engine.assemble import assemble  # noqa: E402
from aurevoir.engine.runtimes.torch_graph import TorchGraph  # noqa: E402
from aurevoir.engine.runtimes.torch_run import TorchRunner, exact_float32  # noqa: E402
from aurevoir.errors import UsageError  # noqa: E402


@pytest.fixture(scope="module")
def wanted(exported, many):
    """Features and bits of many images, in fp32 on the host."""
    engine = assemble(exported, "fp32", "torch", device="cpu")
    return {"features": engine(many), "bits": engine.bits(many)}


@pytest.fixture
def runner(exported):
    graph = TorchGraph(exported.graph, torch.float32)
    return TorchRunner(graph, (28, 28, 3), Device())


# Batches of other sizes may be computed by other kernels, which round otherwise.
ROUNDING = 1e-5


def check_bits(bits, wanted, which):
    differ = np.unpackbits(np.asarray(bits) ^ wanted["bits"][which], axis=1)[:, : wanted["features"].shape[1]]
    assert not differ[np.abs(wanted["features"][which]) > ROUNDING].any()


def check(outputs, wanted, which):
    np.testing.assert_allclose(np.asarray(outputs["features"]), wanted["features"][which], atol=ROUNDING)
    check_bits(outputs["bits"], wanted, which)


@pytest.mark.parametrize("count", [0, 1, 3, 64, 65, 256, 257, 600])
def test_batches_of_every_size_from_the_host_and_from_the_gpu(runner, many, wanted, count):
    for images in (many[:count], OnGpu(many[:count]), many[:count]):
        check(runner(images), wanted, slice(count))


def test_few_sizes_are_computed_and_each_is_a_graph(runner, many, wanted):
    sizes = {runner.padded_batch(length) for length in range(1, runner.max_batch + 1)}
    assert sizes == {1, 2, 4, 8, 16, 32, 64, 128, 192, 256}
    assert all(0 <= runner.padded_batch(length) - length < max(64, length) for length in range(1, 257))
    for count in (5, 6, 7, 8, 250):
        check(runner(many[:count]), wanted, slice(count))
    # Buffers grew from 8 to 256 images: their addresses changed, and the first graph went.
    assert (len(runner.device.captured), runner.device.replayed) == (2, 3)
    check(runner(OnGpu(many[3:253])), wanted, slice(3, 253))
    assert runner.device.replayed == 4


def test_a_capture_that_fails_leaves_the_results_and_says_so_once(runner, many, wanted, caplog):
    runner.device.fails = True
    for count in (3, 3, 300):
        check(runner(many[:count]), wanted, slice(count))
    assert [record.message.count("not capturable") for record in caplog.records] == [1]


def test_threads_share_a_runner(runner, many, wanted):
    def work(start):
        for count in (3, 70, 1):
            check(runner(many[start : start + count]), wanted, slice(start, start + count))
        done.append(start)

    done = []
    threads = [threading.Thread(target=work, args=[start]) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 100, 200]


def test_threads_have_streams_of_their_own_which_are_used_again(runner, many, wanted):
    def work(turn):
        check(runner(many[:3]), wanted, slice(3))
        met.wait(60)

    for _ in range(2):
        met = threading.Barrier(20)
        threads = [threading.Thread(target=work, args=[turn]) for turn in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not met.broken
        assert len(set(runner.device.captured[-20:])) == 20
    assert sorted(runner.device.spare) == list(range(1, 41))


def test_float32_is_computed_as_such_whatever_the_process_has_set(runner, many, monkeypatch):
    seen = []

    def network(pixels):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()))
        return original(pixels)

    original, runner.network = runner.network, network
    network.outputs = original.outputs
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        runner(many[:3])
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert seen == [(False, False, False)]
    with pytest.raises(ZeroDivisionError), exact_float32():
        raise ZeroDivisionError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_an_engine_hands_its_images_over_whole(exported, many, wanted, runner):
    engine = assemble(exported, "fp32", "torch", device="cpu")
    bits = prune(exported.graph, ["bits"])
    engine._compiled["bits",] = TorchRunner(TorchGraph(bits, torch.float32), (28, 28, 3), Device())
    check_bits(engine.bits(many), wanted, slice(None))
    check_bits(engine.bits(OnGpu(many)), wanted, slice(None))
    with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
        engine.bits(many.astype("float32"))
    with pytest.raises(UsageError, match="this engine runs on 'cpu' by 'torch'"):
        engine(OnGpu(many))


def test_torch_computes_a_padded_batch_no_differently(runner, many, wanted):
    """Rows that are not asked for may hold anything."""
    runner(np.full_like(many[:200], 255))
    check(runner(many[:130]), wanted, slice(130))


@pytest.mark.parametrize("count", [1, 5, 300])
def test_memory_of_the_caller_is_read_and_written(runner, many, wanted, count):
    features, bits = np.full((count, 196), np.nan, "float32"), np.zeros((count, 25), "uint8")
    images = many[:count].copy()
    addresses = {"images": images.ctypes.data, "features": features.ctypes.data, "bits": bits.ctypes.data}
    for stream in (None, 3):
        features[...], bits[...] = np.nan, 0
        runner.run_pointers(addresses, count, stream)
        check({"features": features, "bits": bits}, wanted, slice(count))


def test_an_engine_on_a_gpu_takes_addresses_and_a_stream_and_no_out(exported, many, wanted, runner):
    engine = assemble(exported, "fp32", "torch", device="cpu")
    engine._device = "cuda"
    engine._compiled["bits",] = runner
    images, bits = many[:3].copy(), np.zeros((3, 25), "uint8")
    engine.run_pointers({"images": images.ctypes.data, "bits": bits.ctypes.data}, 3, stream=7)
    check_bits(bits, wanted, slice(3))
    with pytest.raises(UsageError, match="stream 'x' is none of torch, CuPy or PyCUDA"):
        engine.run_pointers({"images": images.ctypes.data, "bits": bits.ctypes.data}, 3, stream="x")
    with pytest.raises(UsageError, match="out is for engines that run on the host, and this one runs on 'cuda'"):
        engine.bits(many[:3], out=bits)
    with pytest.raises(UsageError, match="threads 2 has no effect with runtime 'torch' on device 'cuda'"):
        engine.with_threads(threads=2)
