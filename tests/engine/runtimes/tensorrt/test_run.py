"""Plans run on a fake TensorRT: batches, threads, memory, CUDA graphs, and images that are on the GPU already."""

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gpu_fake import Foreign
from tensorrt_fake import MOST, fake_tensorrt

from aurevoir.engine import engine as engines
from aurevoir.engine import runtimes
from aurevoir.engine.assemble import assemble
from aurevoir.engine.layer_times import profile_engine
from aurevoir.engine.runtimes import gpu_run, on_tensorrt
from aurevoir.engine.runtimes.base import WARM_RUNS
from aurevoir.engine.runtimes.gpu_run import MAX_GRAPHS
from aurevoir.engine.runtimes.tensorrt_run import PlanRunner
from aurevoir.errors import AurevoirError, UsageError


def _check(outputs, features):
    kinds = {"features": "float32", "bits": "uint8", "pooled": "float32"}
    assert {name: value.dtype.name for name, value in outputs.items()} == kinds
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs["bits"], np.packbits(outputs["features"] > 0, axis=1))
    np.testing.assert_allclose(
        outputs["pooled"], np.maximum(outputs["features"], 0).reshape(-1, 4, 49).mean(2), atol=1e-4
    )


def _on_gpu(trt, images):
    array = trt.device.empty(images.shape, "uint8", trt.device.new_stream())
    array[...] = images
    return array


def test_batches_of_every_size(runner, many, wanted):
    sizes = [1, 3, 0, 2, MOST, MOST + 1, 2 * MOST, 3 * MOST + 5, 40, 7]
    results = [runner(many[:size]) for size in sizes]
    for size, outputs in zip(sizes, results):
        _check(outputs, wanted[:size])
    _check(runner(many[::-2]), wanted[::-2])
    assert runner.max_batch == MOST
    assert runner.input_shape == many.shape[1:]


def test_the_next_part_is_brought_in_while_the_last_is_computed(runner, trt, many):
    runner.captures = False
    runner(many[: 3 * MOST])
    # A part: up to the GPU; there to where the network reads it; the network; three outputs down.
    up, compute = ["copy"], ["copy", "run", "copy", "copy", "copy"]
    assert trt.device.events == up + up + compute + up + compute + compute


@pytest.mark.parametrize("kind", ["10.0", "11", "rtx"])
def test_threads_share_a_runner(graphs, many, wanted, kind):
    trt = fake_tensorrt(kind)
    runner, ready = PlanRunner(trt, graphs["fp32"], trt.device), threading.Barrier(4)

    def work(number):
        ready.wait()
        for size in (1, 5, 2 * MOST + number, 3, MOST) * 3:
            start = (number * 7 + size) % 20
            _check(runner(many[start : start + size]), wanted[start : start + size])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    if kind == "11":
        assert trt.device.replayed > 0
    else:
        assert (runner.engine.made, trt.device.captured) == (4, 0)
    assert not runner.engine.contexts


def test_graphs_are_captured_once_a_size_and_again_after_buffers_grow(runner, trt, many, wanted):
    for place in range(5):
        _check(runner(many[place : place + 3]), wanted[place : place + 3])
    assert (trt.device.captured, trt.device.replayed) == (1, 4)
    # Larger than the buffers: their addresses change.
    _check(runner(many[:7]), wanted[:7])
    _check(runner(many[9:12]), wanted[9:12])
    _check(runner(many[20:23]), wanted[20:23])
    assert (trt.device.captured, trt.device.replayed) == (3, 5)


def test_few_graphs_are_kept(graphs, many, wanted, monkeypatch):
    monkeypatch.setattr(gpu_run, "MAX_GRAPHS", 2)
    trt = fake_tensorrt()
    runner = PlanRunner(trt, graphs["fp32"], trt.device)
    for size in (8, 7, 6, 5, 8, 7, 6, 5):
        _check(runner(many[:size]), wanted[:size])
    assert (trt.device.captured, trt.device.replayed, MAX_GRAPHS) == (2, 2, 8)


def test_a_capture_that_fails_falls_back_with_one_warning(runner, trt, many, wanted, caplog):
    trt.device.fails = True
    for size in (3, 3, 4, 3, 20):
        _check(runner(many[:size]), wanted[:size])
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "stream is not capturable" in warnings[0].message
    # One that was to be captured, and one for everything from then on.
    assert (trt.device.replayed, runner.engine.made) == (0, 2)


def test_contexts_do_not_grow_over_a_thousand_calls(runner, many, wanted):
    for number in range(20):
        runner(many[: number % MOST + 1])
    before = runner.engine.made
    for number in range(1000):
        runner(many[: number % MOST + 1])
    assert runner.engine.made == before
    assert len(runner.engine.contexts) <= MOST
    _check(runner(many[:5]), wanted[:5])


def test_rtx_captures_by_itself(graphs, many, wanted):
    trt = fake_tensorrt("rtx")
    runner = PlanRunner(trt, graphs["fp32"], trt.device)
    for size in (3, 3, 20):
        _check(runner(many[:size]), wanted[:size])
    (context,) = runner.engine.contexts
    assert context.settings.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert context.settings.memory == trt.ExecutionContextAllocationStrategy.USER_MANAGED


@pytest.mark.parametrize("size", [0, 1, MOST, 2 * MOST + 3])
def test_arrays_on_the_gpu_stay_there_on_the_callers_stream(runner, trt, many, wanted, size):
    images = _on_gpu(trt, many)
    outputs = runner(Foreign(images[:size]))
    assert "run" not in trt.device.events
    trt.device.synchronize(trt.device.stream())
    _check({name: output.array for name, output in outputs.items()}, wanted[:size])
    # Of an aligned array that fits, nothing is copied.
    assert size > MOST or "copy" not in trt.device.events
    assert trt.device.captured == 0


def test_views_that_are_not_aligned_are_copied(runner, trt, many, wanted):
    images = _on_gpu(trt, many[[0, *range(len(many))]])
    assert images[1:].ctypes.data % 256
    outputs = runner(Foreign(images[1:]))
    trt.device.synchronize(trt.device.stream())
    _check({name: output.array for name, output in outputs.items()}, wanted)


def test_host_and_gpu_images_take_turns_in_the_same_memory(runner, trt, many, wanted):
    images = _on_gpu(trt, many)
    first = runner(Foreign(images[:4]))
    _check(runner(many[4:8]), wanted[4:8])
    _check({name: output.array for name, output in first.items()}, wanted[:4])
    second = runner(Foreign(images[:5]))
    trt.device.local.stream = trt.device.new_stream()
    third = runner(Foreign(images[:6]))
    _check({name: output.array for name, output in second.items()}, wanted[:5])
    trt.device.synchronize(trt.device.stream())
    _check({name: output.array for name, output in third.items()}, wanted[:6])


def test_a_thread_waits_for_its_work_before_it_ends(runner, trt, many):
    images = _on_gpu(trt, many)
    thread = threading.Thread(target=lambda: runner(Foreign(images[:4])))
    thread.start()
    thread.join()
    assert trt.device.events == ["run"]


def test_gpu_memory_goes_with_the_runner(trt, graphs, many):
    runner = PlanRunner(trt, graphs["fp32"], trt.device)
    runner(many[:3])
    engine = runner.engine
    assert engine.contexts
    gc.disable()
    try:
        del runner
        assert not engine.contexts
    finally:
        gc.enable()


def test_failures_hold_nvidias_words(runner, trt, many, wanted):
    with pytest.raises(AurevoirError, match="does not load on a fake GPU: .*build it again incompatible device"):
        PlanRunner(trt, b"of another GPU", trt.device)
    trt.refuses = True
    with pytest.raises(AurevoirError, match="did not run a batch of 2 images: CUDA error 700"):
        runner(many[:2])
    trt.refuses, trt.full = False, True
    with pytest.raises(AurevoirError, match="no execution context"):
        runner(many[:2])
    trt.full = False
    _check(runner(many[:2]), wanted[:2])


def test_other_shapes_and_dtypes_are_refused(runner, trt, many):
    for images in (many[:, 1:], many[0], many.astype("float32")):
        for given in (images, Foreign(images)):
            with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
                runner(given)


def test_a_plan_is_built_for_the_gpu_here_and_run(trt, graphs, many, wanted, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "import_module", lambda name: trt)
    monkeypatch.setattr(on_tensorrt, "open_device", lambda name="cuda": trt.device)
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(on_tensorrt, "build_plan", lambda library, graph, **options: graph)
    run = on_tensorrt.load(on_tensorrt.build(graphs["fp32"], "fp32"))
    _check(run(many), wanted)
    assert set(run(many, ["bits"])) == {"bits"}
    np.testing.assert_array_equal(run(many, ["bits"])["bits"], run(many)["bits"])
    assert on_tensorrt.precisions() == ("fp32", "fp16", "int8")
    assert (on_tensorrt.targets(), on_tensorrt.buildable()) == ((), ())


def _addresses(trt, runner, images, count, shift=0):
    """A caller's memory on the fake GPU: addresses by name, and what lies there."""
    stream = trt.device.new_stream()
    arrays = {"images": trt.device.empty((count * images[0].size + shift,), "uint8", stream)[shift:]}
    arrays["images"][...] = images[:count].reshape(-1)
    for name, (shape, dtype) in runner.outputs.items():
        whole = trt.device.empty((int(np.prod((count, *shape))) + shift,), dtype, stream)
        arrays[name] = whole[shift:].reshape(count, *shape)
    return {name: array.ctypes.data for name, array in arrays.items()}, arrays


@pytest.mark.parametrize("count", [1, MOST, 2 * MOST + 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_memory_of_the_caller_is_read_and_written_on_the_callers_stream(runner, trt, many, wanted, count, shift):
    addresses, arrays = _addresses(trt, runner, many, count, shift)
    stream = trt.device.new_stream()
    runner.run_pointers(addresses, count, trt.device.handle(stream))
    assert "run" not in trt.device.events
    trt.device.synchronize(stream)
    _check({name: arrays[name] for name in runner.outputs}, wanted[:count])
    # Of aligned memory that fits nothing is copied.
    assert ("copy" in trt.device.events) == (shift > 0 or count > MOST)


def test_one_output_is_enough_and_the_current_stream_the_default(runner, trt, many, wanted):
    addresses, arrays = _addresses(trt, runner, many, 5)
    del addresses["features"]
    runner.run_pointers(addresses, 5)
    trt.device.synchronize(trt.device.stream())
    np.testing.assert_array_equal(arrays["bits"], np.packbits(wanted[:5] > 0, axis=1))
    assert set(arrays["features"].view("uint8").reshape(-1)) == {0x5A}


def test_memory_of_the_host_is_refused(runner, trt, many):
    addresses, _ = _addresses(trt, runner, many, 2)
    with pytest.raises(UsageError, match="is no address of memory on a fake GPU"):
        runner.run_pointers(addresses | {"images": many.ctypes.data}, 2)


@pytest.mark.parametrize("kind", ["11", "rtx"])
def test_layers_are_timed_by_nvidias_profiler(graphs, many, kind):
    trt = fake_tensorrt(kind)
    runner = PlanRunner(trt, graphs["fp32"], trt.device)
    times = runner.layer_times(many[:4], 5)
    assert [(each.name, each.type, each.precision) for each in times] == [
        ("a + b", "CaskConvolution", "Float"),
        ("tail", None, None),
    ]
    assert [each.seconds for each in times] == pytest.approx([0.002, 0.0005])
    assert [each.nodes for each in times] == [("conv", "relu"), ("tail",)]
    assert trt.device.events.count("run") == 5 + WARM_RUNS
    with pytest.raises(UsageError, match=f"batch {MOST + 1} is more than {MOST}, the plan's maximum"):
        runner.layer_times(many[: MOST + 1], 5)


def test_an_engine_on_a_gpu_is_profiled_and_runs_on_the_callers_memory(trt, exported, many, wanted, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "import_module", lambda name: trt)
    monkeypatch.setattr(on_tensorrt, "find_spec", lambda name: name)
    monkeypatch.setattr("aurevoir.engine.runtimes.find_spec", lambda name: name)
    monkeypatch.setattr(on_tensorrt, "package_version", lambda name: "11")
    for module in (on_tensorrt, runtimes, engines):
        monkeypatch.setattr(module, "open_device", lambda name="cuda": trt.device)
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(on_tensorrt, "build_plan", lambda library, graph, **options: graph)
    engine = assemble(exported, "fp32", "tensorrt")
    addresses, arrays = _addresses(trt, engine.runner(), many, 3)
    stream = trt.device.new_stream()
    engine.run_pointers(addresses, 3, stream=trt.device.handle(stream))
    trt.device.synchronize(stream)
    _check({name: arrays[name] for name in ("features", "bits", "pooled")}, wanted[:3])
    profile = profile_engine(engine, many[:2], calls=4)
    assert [(layer.name, layer.precision, layer.share) for layer in profile.layers] == [
        ("a + b", "float32", 0.8),
        ("tail", "unknown", 0.2),
    ]
