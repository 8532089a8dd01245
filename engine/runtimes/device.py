"""GPU memory, streams and CUDA graphs, through torch or CuPy, whichever is installed.

Streams and arrays are those of the library: all work is asynchronous in stream order, and only
`Device.synchronize` waits for the GPU.
"""

import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from ...errors import MissingPackageError, UsageError

Shape = tuple[int, ...]
_DLPACK_CUDA, _DLPACK_CUDA_MANAGED = 2, 13
_CU_STREAM_NON_BLOCKING = 1
_CU_MEMORY_TYPE, _CU_DEVICE_ORDINAL = 2, 9
_CU_MEMORY_TYPE_DEVICE = 2


class Device(Protocol):
    """A GPU with its ``name`` and ``capability``, such as ``sm90``."""

    name: str
    capability: str

    def scope(self) -> AbstractContextManager[Any]:
        """Make it the current GPU of this thread."""

    def stream(self) -> Any:
        """Return the caller's current stream."""

    def new_stream(self) -> Any:
        """Return a stream that does not synchronize with the default stream, and that nothing else uses."""

    def release(self, stream: Any) -> None:
        """Take back a stream of `new_stream` that is no longer used."""

    def handle(self, stream: Any) -> int:
        """Return the ``cudaStream_t`` of a stream."""

    def synchronize(self, stream: Any) -> None:
        """Wait until all work on a stream is done."""

    def empty(self, shape: Shape, dtype: str, stream: Any) -> Any:
        """Return an array on the GPU, aligned to 256 bytes, for use on a stream."""

    def pinned(self, shape: Shape, dtype: str) -> np.ndarray:
        """Return an array in page-locked host memory."""

    def copy(self, target: Any, source: Any, stream: Any) -> None:
        """Copy between arrays of one shape on the GPU, or pinned, on a stream."""

    def pointer(self, array: Any) -> int:
        """Return the address of an array on the GPU."""

    def at(self, address: int, shape: Shape, dtype: str) -> Any:
        """Return a caller's memory on the GPU as an array, without a copy.

        Raises
        ------
        UsageError
            If it is not memory of this GPU.
        """

    def external_stream(self, handle: int) -> Any:
        """Return the stream of a ``cudaStream_t``; 0 is the default stream."""

    def on_stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Make a stream the library's current stream."""

    def capture(self, function: Callable[[], None], stream: Any) -> Callable[[Any], None]:
        """Capture the work that `function` enqueues as a CUDA graph; return a function that replays it on a stream.

        Graphs captured on the same stream share memory and must not run at the same time.
        """

    def from_foreign(self, array: Any) -> Any:
        """Convert any library's GPU array to a contiguous one of this device's library, without a copy if possible."""

    def to_foreign(self, array: Any, like: Any) -> Any:
        """Convert an array to torch's if `like` is torch's, or else to CuPy's if installed."""


def on_gpu(array: Any) -> bool:
    """Return whether an array of any library is on an NVIDIA GPU."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    device_of = getattr(array, "__dlpack_device__", None)
    return device_of is not None and device_of()[0] in (_DLPACK_CUDA, _DLPACK_CUDA_MANAGED)


def has_nvidia_driver() -> bool:
    """Return whether NVIDIA's driver is installed, without initializing it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def open_device(name: str = "cuda", libraries: Sequence[str] = ("torch", "cupy")) -> Device:
    """Open a GPU through torch if it is already imported, or else through CuPy, or else torch.

    Parameters
    ----------
    name : str
        ``cuda`` for the current GPU, or ``cuda:1`` and so on.
    libraries : sequence of str
        Acceptable libraries.

    Raises
    ------
    UsageError
        If the GPU is not available; the message contains the library's error.
    MissingPackageError
        If neither torch nor CuPy is installed.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"device {name!r}: NVIDIA's runtimes run on 'cuda', or 'cuda:1' and so on")
    index = None if match[1] is None else int(match[1])
    reasons = []
    for library in ("torch", "cupy") if "torch" in sys.modules else ("cupy", "torch"):
        if library not in libraries or find_spec(library) is None:
            continue
        try:
            return (_TorchDevice if library == "torch" else _CupyDevice)(index)
        except Exception as problem:  # Each library has its own error types.
            reasons.append(f"{library}: {problem}")
    if not reasons:
        raise MissingPackageError("GPU memory needs torch or CuPy; install them with: pip install 'aurevoir[gpu]'")
    raise UsageError(f"device {name!r} cannot be used here ({'; '.join(reasons)})")


class _Interface:
    """What has the CUDA array interface and nothing else."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = described


def _not_here(address: int, gpu: str, reason: object) -> UsageError:
    return UsageError(f"{address:#x} is no address of memory on {gpu}: {reason}; give memory of this GPU")


def _owner(address: int) -> int | None:
    """Return the GPU whose memory is at an address; None for the host's."""
    cuda, found = ctypes.CDLL("libcuda.so.1"), []
    for attribute in (_CU_MEMORY_TYPE, _CU_DEVICE_ORDINAL):
        value = ctypes.c_int()
        if cuda.cuPointerGetAttribute(ctypes.byref(value), attribute, ctypes.c_uint64(address)):
            return None
        found.append(value.value)
    return found[1] if found[0] == _CU_MEMORY_TYPE_DEVICE else None


class _TorchDevice:
    def __init__(self, index: int | None) -> None:
        import torch

        self._torch: Any = torch
        self._pools: dict[Any, Any] = {}
        self._spare: list[Any] = []
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        self.name = torch.cuda.get_device_name(self._device)
        self.capability = "sm{}{}".format(*torch.cuda.get_device_capability(self._device))

    @contextmanager
    def scope(self) -> Iterator[None]:
        # Buffers outlive a call and must not be inference tensors.
        with self._torch.cuda.device(self._device), self._torch.inference_mode(False):
            yield

    def stream(self) -> Any:
        return self._torch.cuda.current_stream(self._device)

    def new_stream(self) -> Any:
        # torch.cuda.Stream gives 32 streams in turn, so that a 33rd is the first again.
        try:
            stream = self._spare.pop()
        except IndexError:
            return self._torch.cuda.ExternalStream(self._created_stream(), self._device)
        stream.synchronize()
        return stream

    def _created_stream(self) -> int:
        # The driver needs a current context, which the first call of the CUDA runtime in a thread makes.
        self._torch.cuda.mem_get_info(self._device)
        stream = ctypes.c_void_p()
        code = ctypes.CDLL("libcuda.so.1").cuStreamCreate(ctypes.byref(stream), _CU_STREAM_NON_BLOCKING)
        if code or stream.value is None:
            raise RuntimeError(f"cuStreamCreate failed with CUDA error {code}")
        return stream.value

    def release(self, stream: Any) -> None:
        # torch's allocator keeps the memory of a stream for that stream, so streams are used again.
        self._spare.append(stream)

    def handle(self, stream: Any) -> int:
        return stream.cuda_stream

    def synchronize(self, stream: Any) -> None:
        stream.synchronize()

    def empty(self, shape: Shape, dtype: str, stream: Any) -> Any:
        with self._torch.cuda.stream(stream):
            return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self._device)

    def pinned(self, shape: Shape, dtype: str) -> np.ndarray:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device="cpu", pin_memory=True).numpy()

    def copy(self, target: Any, source: Any, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            self._tensor(target).copy_(self._tensor(source), non_blocking=True)

    def _tensor(self, array: Any) -> Any:
        return self._torch.from_numpy(array) if isinstance(array, np.ndarray) else array

    def pointer(self, array: Any) -> int:
        return array.data_ptr()

    def at(self, address: int, shape: Shape, dtype: str) -> Any:
        # torch takes addresses of the host's memory as well, and then fails when it copies.
        if _owner(address) != self._device.index:
            raise _not_here(address, self.name, "it is the host's or another GPU's")
        described = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 2}
        return self._torch.as_tensor(_Interface(described), device=self._device)

    def external_stream(self, handle: int) -> Any:
        if not handle:
            return self._torch.cuda.default_stream(self._device)
        return self._torch.cuda.ExternalStream(handle, self._device)

    def on_stream(self, stream: Any) -> AbstractContextManager[Any]:
        return self._torch.cuda.stream(stream)

    def capture(self, function: Callable[[], None], stream: Any) -> Callable[[Any], None]:
        graph = self._torch.cuda.CUDAGraph()
        pool = self._pools.setdefault(stream, self._torch.cuda.graph_pool_handle())
        # torch does not restore the current stream if ending the capture fails.
        with (
            self._torch.cuda.stream(self.stream()),
            self._torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            function()

        def replay(stream: Any) -> None:
            with self._torch.cuda.stream(stream):
                graph.replay()

        return replay

    def from_foreign(self, array: Any) -> Any:
        if hasattr(array, "__dlpack__") and not isinstance(array, self._torch.Tensor):
            array = self._torch.utils.dlpack.from_dlpack(array)
        elif not isinstance(array, self._torch.Tensor):
            ready = array.__cuda_array_interface__.get("stream")
            if ready is not None:
                self.stream().wait_stream(self._torch.cuda.ExternalStream(ready))
            array = self._torch.as_tensor(array, device=self._device)
        return array.to(self._device).contiguous()

    def to_foreign(self, array: Any, like: Any) -> Any:
        if isinstance(like, self._torch.Tensor) or find_spec("cupy") is None:
            return array
        import cupy

        return cupy.from_dlpack(array)


class _CupyDevice:
    def __init__(self, index: int | None) -> None:
        import cupy
        import cupyx

        self._cupy: Any = cupy
        self._cupyx: Any = cupyx
        self._device = cupy.cuda.Device(index)
        self.name = cupy.cuda.runtime.getDeviceProperties(self._device.id)["name"].decode()
        self.capability = f"sm{self._device.compute_capability}"

    def scope(self) -> AbstractContextManager[Any]:
        return self._cupy.cuda.Device(self._device.id)

    def stream(self) -> Any:
        return self._cupy.cuda.get_current_stream()

    def new_stream(self) -> Any:
        return self._cupy.cuda.Stream(non_blocking=True)

    def release(self, stream: Any) -> None:
        """Do nothing: CuPy destroys a stream with its last reference."""

    def handle(self, stream: Any) -> int:
        return stream.ptr

    def synchronize(self, stream: Any) -> None:
        stream.synchronize()

    def empty(self, shape: Shape, dtype: str, stream: Any) -> Any:
        with stream:
            return self._cupy.empty(shape, dtype)

    def pinned(self, shape: Shape, dtype: str) -> np.ndarray:
        return self._cupyx.empty_pinned(shape, dtype)

    def copy(self, target: Any, source: Any, stream: Any) -> None:
        if isinstance(target, np.ndarray):
            source.get(stream=stream, out=target, blocking=False)
        elif isinstance(source, np.ndarray):
            target.set(source, stream=stream)
        else:
            with stream:
                target[...] = source

    def pointer(self, array: Any) -> int:
        return array.data.ptr

    def at(self, address: int, shape: Shape, dtype: str) -> Any:
        cuda, kind = self._cupy.cuda, np.dtype(dtype)
        # The host's memory has no device, or a negative one.
        if cuda.runtime.pointerGetAttributes(address).device != self._device.id:
            raise _not_here(address, self.name, "it is the host's or another GPU's")
        memory = cuda.UnownedMemory(address, math.prod(shape) * kind.itemsize, None, self._device.id)
        return self._cupy.ndarray(shape, kind, cuda.MemoryPointer(memory, 0))

    def external_stream(self, handle: int) -> Any:
        cuda = self._cupy.cuda
        return cuda.ExternalStream(handle, self._device.id) if handle else cuda.Stream.null

    def on_stream(self, stream: Any) -> AbstractContextManager[Any]:
        return stream

    def capture(self, function: Callable[[], None], stream: Any) -> Callable[[Any], None]:
        with stream:
            stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                function()
            finally:
                graph = stream.end_capture()
        return graph.launch

    def from_foreign(self, array: Any) -> Any:
        convert = self._cupy.from_dlpack if hasattr(array, "__dlpack__") else self._cupy.asarray
        return self._cupy.ascontiguousarray(convert(array))

    def to_foreign(self, array: Any, like: Any) -> Any:
        if not type(like).__module__.startswith("torch"):
            return array
        from torch.utils.dlpack import from_dlpack

        return from_dlpack(array)
