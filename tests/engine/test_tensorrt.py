"""TensorRT: real builds ahead of time through TensorRT-RTX, execution against a fake, and the API of each version.

The fake's streams are as late as they may be: what is put on one is done when something waits for
it, and not before. So what is not waited for is seen too early, and what is overwritten too soon is lost.
"""

import ast
import ctypes
import gc
import json
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from enum import IntEnum
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.graph.float16 import half_body
from aurevoir.calibration.placement import quantizable
from aurevoir.engine.assemble import quantized_graph
from aurevoir.engine.backbones import open_backbone
from aurevoir.engine.build import export_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.runtimes import device as devices
from aurevoir.engine.runtimes import gpu_run, on_tensorrt, on_tensorrt_rtx
from aurevoir.engine.runtimes.device import on_gpu, open_device
from aurevoir.engine.runtimes.gpu_run import MOST_GRAPHS
from aurevoir.engine.runtimes.tensorrt_plan import build_plan, describe_plan
from aurevoir.engine.runtimes.tensorrt_run import PlanRunner
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError

MOST = 8


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


@pytest.fixture(scope="module")
def exported(tiny_onnx, pixels):
    return export_backbone(open_backbone(tiny_onnx), None, pixels)


@pytest.fixture(scope="module")
def graphs(exported, pixels):
    """The graph of each precision that TensorRT runs."""
    table = calibrate(exported, pixels)
    return {
        "fp32": exported.graph.SerializeToString(),
        "fp16": half_body(exported.graph).SerializeToString(),
        "int8": quantized_graph(exported, table, "s8", "conv-inputs", "fp16").SerializeToString(),
    }


# ---- Builds, by NVIDIA's own parser and builder


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings")


def _network(operator="Relu", channels=3):
    """A convolution and one more operator; the convolution takes 3 channels or is broken."""
    weights = np.random.default_rng(0).normal(size=(4, channels, 3, 3)).astype("float32")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["sums"], name="stem"),
        helper.make_node(operator, ["sums"], ["last"], name="head"),
        helper.make_node("Flatten", ["last"], ["features"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 144])
    graph = helper.make_graph(nodes, "net", [images], [features], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(("precision", "target"), [("fp32", "sm89"), ("fp16", "sm120"), ("int8", "sm80")])
def test_plans_are_built_without_a_gpu(rtx, graphs, precision, target):
    assert precision in on_tensorrt_rtx.buildable()
    assert target in on_tensorrt_rtx.targets()
    plan = on_tensorrt_rtx.build(graphs[precision], precision, target=target, batches=(1, 8, 32))
    assert plan[:4] == on_tensorrt_rtx.build(_network(), "fp32", target=target)[:4]
    assert len(plan) > len(graphs[precision]) / 4


def test_a_build_differs_by_target_and_largest_batch(rtx):
    def plan(**options):
        return build_plan(rtx, _network(), **options)

    assert len({plan(target="sm89"), plan(target="sm80"), plan(target="sm89", batches=(1, 2, 3))}) == 3


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_progress_timing_cache_and_workspace(rtx, tmp_path, capsys):
    timings = tmp_path / "timings"
    options = {"target": "sm89", "workspace": 2**28, "timing_cache": timings, "progress": True}
    assert on_tensorrt_rtx.build(_network(), "fp32", **options)
    assert "Building engine" in capsys.readouterr().err
    written = timings.read_bytes()
    assert written
    timings.write_bytes(b"damaged" * 30)
    assert on_tensorrt_rtx.build(_network(), "fp32", **options | {"progress": False})
    assert timings.read_bytes() == written
    assert "Building" not in capsys.readouterr().err


def _recorded_trt():
    """Anything of TensorRT, which records what it is asked for."""
    trt = MagicMock()
    trt.ILogger = type("ILogger", (), {each.name: each for each in Severity})
    trt.Builder.return_value.build_serialized_network.return_value = b"plan"
    return trt, trt.Builder.return_value.create_builder_config.return_value


def test_options_reach_the_builder():
    trt, config = _recorded_trt()
    assert build_plan(trt, b"") == b"plan"
    config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)
    config.set_flag.assert_not_called()
    assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit.assert_not_called()
    config.create_timing_cache.assert_not_called()


@pytest.mark.parametrize("damage", ["none", "another GPU", "no cache"])
def test_the_timing_cache_is_read_and_written(tmp_path, caplog, damage):
    trt, config = _recorded_trt()
    old, new = MagicMock(), MagicMock()
    new.serialize.return_value = old.serialize.return_value = b"timings"
    config.create_timing_cache.side_effect = [None if damage == "no cache" else old, new]
    config.set_timing_cache.side_effect = lambda cache, ignore: not ignore and (damage == "none" or cache is new)
    (tmp_path / "cache").write_bytes(b"before")
    build_plan(trt, b"", timing_cache=tmp_path / "cache")
    assert config.create_timing_cache.call_args_list[0].args == (b"before",)
    assert config.set_timing_cache.call_args.args[0] is (old if damage == "none" else new)
    assert ("made anew" in caplog.text) == (damage != "none")
    assert (tmp_path / "cache").read_bytes() == b"timings"


def test_a_workspace_that_is_too_small_gives_nvidias_reason(rtx, capsys):
    with pytest.raises(AurevoirError, match=r"could not build this network:\n.*workspace"):
        build_plan(rtx, _network(), target="sm89", workspace=1, progress=True)


def test_the_log_goes_to_logging(rtx, caplog):
    caplog.set_level(logging.DEBUG, "aurevoir.tensorrt")
    build_plan(rtx, _network(), target="sm89")
    with pytest.raises(AurevoirError):
        build_plan(rtx, _network("Det"), target="sm89")
    levels = {record.levelno for record in caplog.records if record.name == "aurevoir.tensorrt"}
    assert levels >= {logging.DEBUG, logging.INFO, logging.ERROR}
    assert any("stem" in record.message for record in caplog.records)


def test_unknown_targets_and_batches_out_of_order(rtx):
    with pytest.raises(UsageError, match=r"target 'sm90' is not one .*: sm75, (?!.*(current|none)).*sm120") as caught:
        build_plan(rtx, _network(), target="sm90")
    assert "sm89" in str(caught.value)
    with pytest.raises(UsageError, match=r"batches \(1, 9, 8\)"):
        build_plan(rtx, _network(), batches=(1, 9, 8))
    with pytest.raises(UsageError, match="not 'bf16'"):
        on_tensorrt_rtx.build(_network(), "bf16", target="sm89")


def test_a_refused_network_names_the_node_and_its_operator(rtx):
    with pytest.raises(AurevoirError, match="node 'head', operator Det: UNSUPPORTED_NODE"):
        build_plan(rtx, _network("Det"), target="sm89")
    with pytest.raises(AurevoirError, match="node 'stem', operator Conv: .*failed to broadcast"):
        build_plan(rtx, _network(channels=2), target="sm89")


def test_every_refusal_is_told(rtx):
    model = onnx.load_from_string(_network("Det"))
    model.graph.node.append(helper.make_node("Compress", ["last", "mask"], ["few"], name="tail"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "mask"))
    with pytest.raises(AurevoirError) as caught:
        build_plan(rtx, model.SerializeToString(), target="sm89")
    _, *lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "node 'head', operator Det",
        "node 'tail', operator Compress",
    ]


# ---- Execution, against a fake


class Stream:
    def __init__(self, device):
        self.device, self.queue, self.recorded = device, [], None
        # Memory for use on a stream is not given away before the stream has come that far.
        self.kept = []

    def put(self, work):
        if self.recorded is not None:
            self.recorded.append(work)
            return
        others = [stream for stream in list(self.device.streams.values()) if stream is not self]
        memory = getattr(work, "memory", None)
        clash = memory and any(memory == getattr(each, "memory", None) for other in others for each in other.queue)
        assert not clash, "two streams work in the same memory"
        self.queue.append(work)

    def run(self):
        assert self.recorded is None
        while self.queue:
            self.queue.pop(0)()
        self.kept.clear()


class Work:
    """What a context has been asked for, done when its stream is."""

    def __init__(self, context):
        self.context, self.engine = weakref.ref(context), context.engine
        self.addresses, self.batch, self.memory = dict(context.addresses), context.batch, context.memory

    def __call__(self):
        assert self.context() is not None, "a context is gone while it works"
        engine = self.engine
        engine.trt.device.events.append("run")
        images = self._at("images", (self.batch, *engine.shape), "uint8")
        for name, value in zip(engine.outputs, engine.session.run(None, {"images": images})):
            self._at(name, value.shape, value.dtype)[...] = value

    def _at(self, name, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)


class Device:
    name, capability = "a fake GPU", "sm00"

    def __init__(self):
        self.streams, self.local = {}, threading.local()
        self.events, self.captured, self.replayed, self.fails = [], 0, 0, False

    def scope(self):
        return nullcontext()

    def stream(self):
        if not hasattr(self.local, "stream"):
            self.local.stream = self.new_stream()
        return self.local.stream

    def new_stream(self):
        stream = Stream(self)
        self.streams[id(stream)] = stream
        return stream

    def handle(self, stream):
        return id(stream)

    def synchronize(self, stream):
        stream.run()

    def empty(self, shape, dtype, stream, align=256):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + align, 0x5A, "uint8")
        stream.kept.append(memory)
        start = -memory.ctypes.data % align
        return memory[start : start + size].view(dtype).reshape(shape)

    def pinned(self, shape, dtype):
        return np.full(shape, 0x3C, dtype)

    def copy(self, target, source, stream):
        assert target.shape == source.shape
        stream.put(partial(self._copy, target, source))

    def _copy(self, target, source):
        self.events.append("copy")
        np.copyto(target, source)

    def pointer(self, array):
        return array.ctypes.data

    def on_stream(self, stream):
        return nullcontext()

    def capture(self, function, stream):
        if self.fails:
            raise RuntimeError("stream is not capturable")
        self.captured += 1
        stream.recorded = []
        function()
        works, stream.recorded = stream.recorded, None

        def replay(stream):
            self.replayed += 1
            for work in works:
                stream.put(work)

        return replay

    def from_foreign(self, array):
        return array.array

    def to_foreign(self, array, like):
        return Foreign(array)


class Foreign:
    """Another library's array on the fake GPU."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return self.array.__array_interface__


class Context:
    def __init__(self, engine, settings):
        self.engine, self.settings, self.memory = engine, settings, None
        self.addresses, self.batch, self.ran, self.graph = {}, None, None, False

    def set_device_memory(self, pointer, size):
        assert size == self.engine.device_memory_size_v2
        self.memory = pointer

    def set_input_shape(self, name, shape):
        assert not self.graph, "a context is changed after its graph was captured"
        self.batch = shape[0]
        return name == "images" and shape[1:] == self.engine.shape and 1 <= shape[0] <= MOST

    def set_tensor_address(self, name, pointer):
        assert not self.graph, "a context is changed after its graph was captured"
        self.addresses[name] = pointer
        return pointer % 256 == 0

    def execute_async_v3(self, handle):
        trt = self.engine.trt
        if trt.refuses:
            trt.log.log(trt.ILogger.ERROR, "CUDA error 700")
            return False
        stream = trt.device.streams[handle]
        if stream.recorded is not None:
            assert self.ran == self.batch, "no run before the capture"
            self.graph = True
        self.ran = self.batch
        stream.put(Work(self))
        return True


class Engine:
    device_memory_size_v2, made = 1000, 0

    def __init__(self, trt, plan):
        import onnxruntime

        self.trt, self.session = trt, onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.shape, self.contexts = tuple(self.session.get_inputs()[0].shape[1:]), weakref.WeakSet()
        described = [*self.session.get_outputs(), *self.session.get_inputs()]
        self.tensors = {each.name: (each.shape[1:], each.type) for each in described}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, place):
        return list(self.tensors)[place]

    def get_tensor_mode(self, name):
        return self.trt.TensorIOMode.OUTPUT if name in self.outputs else self.trt.TensorIOMode.INPUT

    def get_tensor_shape(self, name):
        return (-1, *self.tensors[name][0])

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name={"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT"}[self.tensors[name][1]])

    def get_tensor_profile_shape(self, name, profile):
        assert (name, profile) == ("images", 0)
        return [(batch, *self.shape) for batch in (1, 4, MOST)]

    def create_runtime_config(self):
        settings = SimpleNamespace()
        settings.set_execution_context_allocation_strategy = partial(setattr, settings, "memory")
        return settings

    def create_execution_context(self, settings=None):
        if self.trt.full:
            return None
        context = self.trt.IExecutionContext(self, settings)
        self.contexts.add(context)
        self.made += 1
        return context


def _fake_trt(kind="11"):
    """A fake of TensorRT 10.0 or 11, or of TensorRT-RTX, on a fake GPU of its own."""
    trt = ModuleType("fake_tensorrt")
    trt.device, trt.refuses, trt.full = Device(), False, False
    trt.__version__ = "0"
    trt.ILogger = type("ILogger", (), {each.name: each for each in Severity})
    trt.TensorIOMode = IntEnum("TensorIOMode", "NONE INPUT OUTPUT")
    trt.ExecutionContextAllocationStrategy = IntEnum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")
    trt.IExecutionContext = Context
    if kind == "10.0":
        hidden = {name: value for name, value in vars(Context).items() if name not in ("set_device_memory", "__dict__")}
        trt.IExecutionContext = type("OldContext", (), hidden)
    if kind == "rtx":
        trt.CudaGraphStrategy = IntEnum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")

    def deserialize(plan):
        if plan == b"of another GPU":
            trt.log.log(trt.ILogger.ERROR, "incompatible device")
            return None
        return Engine(trt, plan)

    def runtime(log):
        trt.log = log
        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    trt.Runtime = runtime
    return trt


@pytest.fixture
def trt():
    return _fake_trt()


@pytest.fixture
def runner(trt, graphs):
    return PlanRunner(trt, graphs["fp32"], trt.device)


@pytest.fixture(scope="module")
def many(pixels):
    """Images, and their features by ONNX Runtime."""
    random = np.random.default_rng(3)
    return random.integers(0, 256, (40, *pixels.shape[1:]), dtype="uint8")


@pytest.fixture(scope="module")
def wanted(graphs, many):
    import onnxruntime

    session = onnxruntime.InferenceSession(graphs["fp32"], providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": many})[0]


def _check(outputs, features):
    assert {name: value.dtype.name for name, value in outputs.items()} == {"features": "float32", "bits": "uint8"}
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs["bits"], np.packbits(outputs["features"] > 0, axis=1))


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
    assert runner.most == MOST
    assert runner.input_shape == many.shape[1:]


def test_the_next_part_is_brought_in_while_the_last_is_computed(runner, trt, many):
    runner.captures = False
    runner(many[: 3 * MOST])
    # A part: up to the GPU; there to where the network reads it; the network; two outputs down.
    up, compute = ["copy"], ["copy", "run", "copy", "copy"]
    assert trt.device.events == up + up + compute + up + compute + compute


@pytest.mark.parametrize("kind", ["10.0", "11", "rtx"])
def test_threads_share_a_runner(graphs, many, wanted, kind):
    trt = _fake_trt(kind)
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
    monkeypatch.setattr(gpu_run, "MOST_GRAPHS", 2)
    trt = _fake_trt()
    runner = PlanRunner(trt, graphs["fp32"], trt.device)
    for size in (8, 7, 6, 5, 8, 7, 6, 5):
        _check(runner(many[:size]), wanted[:size])
    assert (trt.device.captured, trt.device.replayed, MOST_GRAPHS) == (2, 2, 8)


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
    trt = _fake_trt("rtx")
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
    with pytest.raises(AurevoirError, match="does not load on a fake GPU: .*build it anew\nincompatible device"):
        PlanRunner(trt, b"of another GPU", trt.device)
    trt.refuses = True
    with pytest.raises(AurevoirError, match="did not run a batch of 2 images:\nCUDA error 700"):
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


# ---- The two runtimes


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


def test_without_a_driver_nothing_runs(rtx, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: False)
    assert on_tensorrt_rtx.precisions() == ()
    assert "no NVIDIA driver" in on_tensorrt_rtx.why_not()
    assert on_tensorrt_rtx.version().startswith("1.")


def test_a_gpu_that_rtx_has_no_kernels_for(rtx, trt, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(on_tensorrt, "open_device", lambda name="cuda": trt.device)
    assert "GPU here is sm00" in on_tensorrt_rtx.why_not()
    trt.device.capability = "sm89"
    assert on_tensorrt_rtx.why_not() is None


def _installed(monkeypatch, versions, problem):
    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    def load(name):
        raise problem

    monkeypatch.setattr(on_tensorrt, "package_version", version)
    monkeypatch.setattr(on_tensorrt, "import_module", load)
    monkeypatch.setattr(on_tensorrt, "find_spec", lambda name: object() if versions else None)
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: True)


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "not installed; install it with: pip install tensorrt"),
        ({"tensorrt": "11.4"}, "placeholder that fetches them from NVIDIA's own"),
        ({"tensorrt-cu12": "10.9"}, "tensorrt-cu12 is installed without its libraries"),
        ({"tensorrt": "11.4", "tensorrt-cu13-libs": "11.4"}, "does not load: libnvinfer.so.11"),
    ],
)
def test_what_is_missing_is_told(monkeypatch, graphs, versions, reason):
    _installed(monkeypatch, versions, ImportError("libnvinfer.so.11: cannot open"))
    assert reason in on_tensorrt.why_not()
    assert on_tensorrt.precisions() == ()
    assert on_tensorrt.targets() == ()
    with pytest.raises(MissingPackageError, match=reason):
        on_tensorrt.build(graphs["fp32"], "fp32")


def test_tensorrt_builds_neither_without_a_gpu_nor_for_another(trt, graphs, monkeypatch):
    monkeypatch.setattr(on_tensorrt, "import_module", lambda name: trt)
    monkeypatch.setattr(on_tensorrt, "find_spec", lambda name: object())
    monkeypatch.setattr(on_tensorrt, "has_nvidia_driver", lambda: False)
    with pytest.raises(AurevoirError, match="builds without a target for the GPU that is here: no NVIDIA driver"):
        on_tensorrt.build(graphs["fp32"], "fp32")
    with pytest.raises(UsageError, match="target 'sm89': only runtime 'tensorrt-rtx'"):
        on_tensorrt.build(graphs["fp32"], "fp32", target="sm89")


def test_the_library_that_is_in_use_gives_the_device(monkeypatch):
    here = {"torch": True, "cupy": True}
    monkeypatch.setattr(devices, "find_spec", lambda name: here[name] or None)
    monkeypatch.setattr(devices, "_TorchDevice", lambda index: ("torch", index))
    monkeypatch.setattr(devices, "_CupyDevice", lambda index: ("cupy", index))
    monkeypatch.setattr(devices, "sys", SimpleNamespace(modules={"torch": None}))
    assert open_device() == ("torch", None)
    monkeypatch.setattr(devices, "sys", SimpleNamespace(modules={}))
    assert open_device("cuda:3") == ("cupy", 3)
    here["cupy"] = False
    assert open_device("cuda:0") == ("torch", 0)

    def fail(index):
        raise RuntimeError("no GPU")

    monkeypatch.setattr(devices, "_TorchDevice", fail)
    with pytest.raises(UsageError, match=r"'cuda' cannot be used here \(torch: no GPU\)"):
        open_device()
    here["torch"] = False
    with pytest.raises(MissingPackageError, match="aurevoir\\[gpu\\]"):
        open_device()
    with pytest.raises(UsageError, match="device 'cpu'"):
        open_device("cpu")


def test_which_arrays_are_on_the_gpu(many):
    import torch

    assert not any(map(on_gpu, (many, torch.from_numpy(many), many.tolist())))
    assert on_gpu(Foreign(many))
    assert on_gpu(SimpleNamespace(__dlpack_device__=lambda: (2, 0)))


def test_layers_are_described_in_either_format():
    new = {"Name": "stem", "LayerType": "gemm", "Outputs": [{"Datatype": "Int8"}]}
    old = {"Name": "head", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major linear FP16"}]}
    report = json.dumps({"Layers": ["tail", new, old, {"Name": "end", "Outputs": []}]})
    inspector = SimpleNamespace(get_engine_information=lambda form: report if form == "json" else "")
    trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    layers = describe_plan(trt, SimpleNamespace(create_engine_inspector=lambda: inspector))
    assert [tuple(layer.values()) for layer in layers] == [
        ("tail", None, None),
        ("stem", "gemm", "Int8"),
        ("head", "Reformat", "Row major linear FP16"),
        ("end", None, None),
    ]


# ---- TensorRT 10's own calibrator, against a fake


@pytest.fixture
def calibrating(exported, pixels, monkeypatch):
    """TensorRT 10 as far as a calibration needs it; `seen` is what its calibrator was given."""
    trt, _ = _recorded_trt()
    trt.__version__ = "10.16"
    trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    trt.seen, device = [], Device()
    names = quantizable(exported.graph)

    def build(network, config):
        calibrator = config.int8_calibrator
        assert calibrator.read_calibration_cache() is None
        size = (calibrator.get_batch_size(), *pixels.shape[1:])
        while pointers := calibrator.get_batch(["images"]):
            memory = (ctypes.c_char * int(np.prod(size))).from_address(pointers[0])
            trt.seen.append(np.frombuffer(memory, "uint8").reshape(size).copy())
        scales = "".join(f"{name}: 3c010a14\n" for name in names)
        calibrator.write_calibration_cache(memoryview(f"TRT-100000-EntropyCalibration2\n{scales}".encode()))
        return b"plan"

    trt.Builder.return_value.build_serialized_network.side_effect = build
    monkeypatch.setattr(on_tensorrt, "open_device", lambda name="cuda": device)
    monkeypatch.setattr(on_tensorrt._nvidia, "_library", lambda: trt)
    monkeypatch.setattr(on_tensorrt._nvidia, "why_not", lambda: None)
    return trt


def test_the_native_calibrator_sees_the_images_and_makes_a_table(calibrating, exported, pixels):
    table = calibrate(exported, pixels, "native")
    config = calibrating.Builder.return_value.create_builder_config.return_value
    config.set_flag.assert_called_once_with(calibrating.BuilderFlag.INT8)
    calibrating.Builder.return_value.create_network.assert_called_once_with(0)
    seen = np.concatenate(calibrating.seen)
    np.testing.assert_array_equal(seen, pixels[: len(seen)])
    assert len(pixels) - len(seen) < 16
    assert table.method == "TensorRT EntropyCalibration2"
    assert table.thresholds == pytest.approx(dict.fromkeys(quantizable(exported.graph), 1.0), rel=1e-3)
    table.check(exported.graph)


def test_a_native_calibration_that_fails_says_why(calibrating, exported, pixels):
    build = calibrating.Builder.return_value.build_serialized_network
    build.side_effect = lambda network, config: None
    with pytest.raises(AurevoirError, match="could not calibrate"):
        calibrate(exported, pixels, "native")
    del calibrating.IInt8EntropyCalibrator2
    with pytest.raises(UsageError, match="method 'native' is TensorRT 10's"):
        calibrate(exported, pixels, "native")


def test_without_tensorrt_the_native_calibrator_says_what_to_install(exported, pixels):
    with pytest.raises(MissingPackageError, match="pip install tensorrt"):
        calibrate(exported, pixels, "native")


# ---- What our modules ask of NVIDIA's, in each version

API = json.loads((Path(__file__).parent / "runtimes/tensorrt/tensorrt_api.json").read_text())
SOURCES = ("tensorrt_plan", "tensorrt_run", "tensorrt_calibrator", "on_tensorrt", "on_tensorrt_rtx")
CLASS_OF = {
    "trt": "",
    "builder": "Builder",
    "capability": "ComputeCapability",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "fault": "ParserError",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "settings": "IRuntimeConfig",
    "timings": "ITimingCache",
    "_runtime": "Runtime",
}


class Asked(ast.NodeVisitor):
    """Finds what a source asks of one version that the version lacks, where it gets to in that version."""

    def __init__(self, api):
        self.api, self.missing, self.seen = api, [], 0

    def owner(self, node):
        """The class whose member a node is asked for, "" for the module, None for anything else."""
        name = getattr(node, "id", getattr(node, "attr", None))
        if isinstance(node, ast.Attribute) and self.owner(node.value) == "":
            return name
        return CLASS_OF.get(name)

    def lacks(self, owner, name):
        return owner is not None and name[0] != "_" and name not in self.api.get(owner, ())

    def visit_Attribute(self, node):
        owner = self.owner(node.value)
        self.seen += owner is not None
        if self.lacks(owner, node.attr):
            self.missing.append(f"{ast.unparse(node)} (line {node.lineno})")
        self.generic_visit(node)

    def known(self, test):
        """The truth of a test in this version, None where it is not one of hasattr alone."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.known(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            truths = [self.known(value) for value in test.values]
            ends = isinstance(test.op, ast.Or)
            return ends if ends in truths else None if None in truths else not ends
        if isinstance(test, ast.Call) and getattr(test.func, "id", None) == "hasattr":
            asked, name = test.args
            return not self.lacks(self.owner(asked), name.value)
        return None

    def block(self, statements):
        """Visit statements up to one that surely leaves."""
        for statement in statements:
            truth = self.known(statement.test) if isinstance(statement, ast.If) else None
            if truth is None:
                self.visit(statement)
                continue
            self.visit(statement.test)
            taken = statement.body if truth else statement.orelse
            self.block(taken)
            if taken and isinstance(taken[-1], ast.Return | ast.Raise):
                return

    def visit_FunctionDef(self, node):
        self.block(node.body)


def _missing(source, version):
    asked = Asked(API[version])
    asked.visit(ast.parse(source))
    return asked.missing


@pytest.mark.parametrize("version", API)
def test_our_modules_ask_for_what_each_version_has(root, version):
    assert set(API) == {"10.0.1", "10.16.1", "11.4.0", "rtx 1.7.1"}
    for name in SOURCES:
        assert not _missing((root / "engine" / "runtimes" / f"{name}.py").read_text(), version), name


def test_the_check_of_versions_finds_what_is_lacking(root):
    def missing(body, version="11.4.0"):
        return _missing(f"def f(self, trt, config):\n {body}", version)

    assert missing("config.int8_calibrator = 1") == ["config.int8_calibrator (line 2)"]
    assert not missing("config.int8_calibrator = 1", "10.16.1")
    assert missing("return trt.BuilderFlag.FP16") and missing("return self.trt.IInt8EntropyCalibrator2")
    assert not missing("if hasattr(trt, 'ComputeCapability'):\n  return trt.ComputeCapability.SM89")
    assert missing("if hasattr(trt, 'Builder'):\n  return trt.ComputeCapability")
    assert not missing("if not hasattr(trt, 'ComputeCapability'):\n  return\n trt.ComputeCapability.SM89")
    assert missing("if hasattr(trt, 'ComputeCapability'):\n  return\n trt.ComputeCapability.SM89")
    assert missing("if not config or not hasattr(trt, 'Builder'):\n  return\n trt.ComputeCapability")
    asked = Asked(API["11.4.0"])
    asked.visit(ast.parse((root / "engine" / "runtimes" / "tensorrt_plan.py").read_text()))
    assert asked.seen > 40


def test_the_written_api_is_the_installed_ones(rtx):
    known = API["rtx 1.7.1"]
    if rtx.__version__.startswith("1.7.1"):
        for name, members in known.items():
            assert set(members) <= set(dir(getattr(rtx, name) if name else rtx)), name
    assert len(known) > 20
