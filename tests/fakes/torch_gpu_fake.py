"""A fake NVIDIA GPU for torch, on tensors of the host: what ``engine.runtimes.device.open_device`` gives torch engines.

Its streams are never late. New memory, pinned or not, holds a pattern; captured CUDA graphs, replays and streams are
counted. With `fails` set it refuses to capture a graph. `OnGpu` holds images that say that they are on a GPU.
"""

import ctypes
from contextlib import nullcontext

import numpy as np
import torch


class Device:
    """The host as a GPU whose streams are never late; what is not written holds a pattern."""

    name, capability = "the host", "sm00"

    def __init__(self):
        self.captured, self.replayed, self.fails, self.streams, self.spare = [], 0, False, 0, []

    def scope(self):
        return nullcontext()

    def stream(self):
        return "the caller's"

    def new_stream(self):
        if self.spare:
            return self.spare.pop()
        self.streams += 1
        return self.streams

    def release(self, stream):
        assert stream not in self.spare
        self.spare.append(stream)

    def on_stream(self, stream):
        return nullcontext()

    def synchronize(self, stream):
        pass

    def empty(self, shape, dtype, stream):
        return torch.full(shape, 77, dtype=getattr(torch, dtype))

    def pinned(self, shape, dtype):
        return np.full(shape, 78, dtype)

    def copy(self, target, source, stream):
        as_tensor = (torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in (target, source))
        next(as_tensor).copy_(next(as_tensor))

    def capture(self, function, stream):
        if self.fails:
            raise RuntimeError("not capturable")
        self.captured.append(stream)

        def replay(stream):
            self.replayed += 1
            function()

        return replay

    def at(self, address, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size).from_address(address)
        return torch.from_numpy(np.frombuffer(memory, dtype).reshape(shape))

    def external_stream(self, handle):
        return handle

    def from_foreign(self, array):
        return array.tensor

    def to_foreign(self, array, like):
        return array


class OnGpu:
    """Images that say that they are on a GPU."""

    __cuda_array_interface__ = ()

    def __init__(self, pixels):
        self.tensor = torch.from_numpy(pixels)
