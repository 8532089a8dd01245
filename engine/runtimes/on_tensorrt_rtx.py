"""NVIDIA TensorRT-RTX: TensorRT for GeForce and workstation GPUs, with ahead-of-time builds on any machine."""

from .on_tensorrt import NvidiaRuntime

PACKAGE = "tensorrt_rtx_bindings"
INSTALL = "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"

_nvidia = NvidiaRuntime("tensorrt-rtx", PACKAGE, INSTALL, ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"))
version, precisions, devices, why_not = _nvidia.version, _nvidia.precisions, _nvidia.devices, _nvidia.why_not
buildable, targets, build = _nvidia.buildable, _nvidia.targets, _nvidia.build
load, layers, layer_times = _nvidia.load, _nvidia.layers, _nvidia.layer_times
