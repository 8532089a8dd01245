"""A fake TensorRT (10.0 or 11, or TensorRT-RTX): ONNX Runtime computes its plans, which are ONNX graphs, on a fake GPU.

It has what loads and runs a plan, whose optimization profile takes at most `MOST` images. It refuses a plan for another
GPU, batches outside the profile, addresses that are not aligned to 256 bytes, any change to a context whose graph was
captured, and the end of a context while it works; with `refuses` or `full` set, it also runs nothing or gives no
contexts. `recorded_tensorrt` builds instead: it takes everything and records what it is asked for.
"""

import ctypes
import json
import weakref
from enum import IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
from gpu_fake import Device

MOST = 8


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


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


class Context:
    def __init__(self, engine, settings):
        self.engine, self.settings, self.memory = engine, settings, None
        self.addresses, self.batch, self.ran, self.graph, self.profiler = {}, None, None, False, None

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
        if self.profiler is not None:
            self.profiler.report_layer_time("a + b", 2.0)
            self.profiler.report_layer_time("tail", 0.5)
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

    def create_engine_inspector(self):
        conv = {"Name": "a + b", "LayerType": "CaskConvolution", "Outputs": [{"Datatype": "Float"}]}
        conv["Metadata"] = "[ONNX Layer: conv]\x1e[ONNX Layer: relu]"
        report = json.dumps({"Layers": [conv, "tail"]})
        return SimpleNamespace(get_engine_information=lambda kind: report)

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


def fake_tensorrt(kind="11"):
    """A fake of TensorRT 10.0 or 11, or of TensorRT-RTX, on a fake GPU of its own."""
    trt = ModuleType("fake_tensorrt")
    trt.device, trt.refuses, trt.full = Device(), False, False
    trt.__version__ = "0"
    trt.ILogger = type("ILogger", (), {each.name: each for each in Severity})
    trt.IProfiler = type("IProfiler", (), {})
    trt.LayerInformationFormat = IntEnum("LayerInformationFormat", "ONELINE JSON")
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


def recorded_tensorrt():
    """Anything of TensorRT, which records what it is asked for."""
    trt = MagicMock()
    trt.ILogger = type("ILogger", (), {each.name: each for each in Severity})
    trt.Builder.return_value.build_serialized_network.return_value = b"plan"
    return trt, trt.Builder.return_value.create_builder_config.return_value
