"""Sizes of models and features, in units of 10^6 bytes."""

import numpy as np
import onnx

from ...kernels.bits import packed_length

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def weights_megabytes(graph: onnx.ModelProto, precision: str) -> float:
    """Return the size of a float graph's constants, all of them held in one precision."""
    values = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    return values * _BYTES[precision] / 1e6


def features_megabytes(n: int, m: int, packed: bool) -> float:
    """Return the size of the features of n images: packed sign bits, or the post's float32."""
    return n * (packed_length(m) if packed else 4 * m) / 1e6
