"""A fake NVIDIA GPU in host memory: what ``engine.runtimes.device.open_device`` gives, with the latest of streams.

What is put on a stream is done when something waits for it, and not before: what is not waited for is seen too early,
and what is overwritten too soon is lost. New memory holds a pattern; copies and CUDA graphs are counted. It refuses two
streams that work in the same memory, and copies between different shapes; with `fails` set, it captures no graph.
"""

import ctypes
import threading
from contextlib import nullcontext
from functools import partial

import numpy as np

from aurevoir.errors import UsageError


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


class Device:
    name, capability = "a fake GPU", "sm00"

    def __init__(self):
        self.streams, self.local, self.allocated = {}, threading.local(), {}
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

    def release(self, stream):
        assert not stream.queue

    def handle(self, stream):
        return id(stream)

    def synchronize(self, stream):
        stream.run()

    def empty(self, shape, dtype, stream, align=256):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + align, 0x5A, "uint8")
        stream.kept.append(memory)
        start = -memory.ctypes.data % align
        self.allocated[memory.ctypes.data + start] = size
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

    def at(self, address, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not any(start <= address and address + size <= start + held for start, held in self.allocated.items()):
            raise UsageError(f"{address:#x} is no address of memory on {self.name}: it is the host's")
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    def external_stream(self, handle):
        return self.streams[handle]

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
