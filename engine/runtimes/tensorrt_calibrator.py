"""TensorRT 10's int8 calibrator, removed in 11, as a baseline for our thresholds."""

from typing import Any

import numpy as np

from ...errors import AurevoirError, UsageError
from ...kernels.memory import blocks
from ...progress import progress_bar
from .device import Device
from .tensorrt_plan import nvidia_errors, parsed_network, set_batches


def native_cache(trt: Any, graph: bytes, pixels: np.ndarray, device: Device, batch: int, progress: bool) -> bytes:
    """Calibrate a float32 graph with ``IInt8EntropyCalibrator2``.

    Parameters
    ----------
    trt : module
        TensorRT 10.
    graph : bytes
        ONNX with one uint8 input of shape (batch, height, width, 3).
    pixels : uint8 array of shape (n, height, width, 3)
        Only whole batches are used.
    device : Device
    batch : int
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    cache : bytes
        TensorRT's calibration cache; see `calibration.trt_cache.read_cache`.

    Raises
    ------
    UsageError
        If this version has no calibrator, or there are fewer images than a batch.
    AurevoirError
        If TensorRT cannot calibrate this graph; the message contains its errors.
    """
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise UsageError(f"method 'native' is TensorRT 10's; {trt.__version__} has no calibrator; use 'entropy'")
    if len(pixels) < batch:
        raise UsageError(f"{len(pixels)} calibration images are fewer than a batch of {batch}; give more")

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.cache: bytes | None = None
            self._stream = device.new_stream()
            self._staging = device.pinned((batch, *pixels.shape[1:]), "uint8")
            self._images = device.empty(self._staging.shape, "uint8", self._stream)
            self._left = iter(blocks(len(pixels) // batch * batch, batch))
            self._bar = progress_bar(total=len(pixels), desc="native calibrator", unit="img", show=progress)

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            which = next(self._left, None)
            if which is None:
                self._bar.close()
                return None
            self._staging[:] = pixels[which]
            device.copy(self._images, self._staging, self._stream)
            device.synchronize(self._stream)
            self._bar.update(batch)
            return [device.pointer(self._images)]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            self.cache = bytes(cache)

    with nvidia_errors(trt) as errors, device.scope():
        builder, network, parser = parsed_network(trt, graph, 0)
        config = builder.create_builder_config()
        profile = set_batches(builder, network, config, (batch, batch, batch))
        config.set_calibration_profile(profile)
        config.set_flag(trt.BuilderFlag.INT8)
        calibrator = Calibrator()
        config.int8_calibrator = calibrator
        plan = builder.build_serialized_network(network, config)
        del parser
    if plan is None or calibrator.cache is None:
        raise AurevoirError("\n".join(["TensorRT could not calibrate this network:", *errors]))
    return calibrator.cache
