"""What weights of fewer levels cost, on processors whose int8 products would saturate with all of them."""

import numpy as np

from ..calibration.fidelity import sign_agreement
from ..calibration.graph.edit import prune
from ..calibration.quantize import LEVELS, NARROW_LEVELS
from .assemble import quantized_graph
from .engine import Engine
from .float_graph import Exported
from .runtimes import installed
from .runtimes.native_errors import native_errors

IMAGES, SIGNS = 8, 500_000
"""As many at least, where there are, tell the cost: an image takes as long node by node as dozens do in an engine."""


def cost_of_narrow_weights(
    engine: Engine, exported: Exported, pixels: np.ndarray, reference: np.ndarray
) -> tuple[float, float] | None:
    """Return the sign agreement with fp32 that an int8 engine would have with all levels of weights, and has with few.

    Both are computed node by node in float32, where nothing saturates.

    Parameters
    ----------
    engine : Engine
        Of int8.
    exported : Exported
        The float graph that it was made of.
    pixels : uint8 array of shape (n, height, width, channels)
        Where fewer have `SIGNS`, as many are taken, at equal distances.
    reference : float32 array of shape (n, m)
        Their features in fp32.

    Returns
    -------
    whole, narrow : float
        None without ONNX Runtime, which computes them.
    """
    made, table = engine.manifest, engine.table
    if not installed("onnxruntime") or table is None or made.activation_dtype is None or made.placement is None:
        return None
    count = min(len(pixels), max(IMAGES, -(-SIGNS // reference.shape[1])))
    which = np.linspace(0, len(pixels) - 1, count).astype(int)
    whole, narrow = (
        sign_agreement(_features(exported, engine, levels, pixels[which]), reference[which])
        for levels in (LEVELS, NARROW_LEVELS)
    )
    return whole, narrow


def _features(exported: Exported, engine: Engine, levels: int, pixels: np.ndarray) -> np.ndarray:
    from .runtimes.on_onnxruntime import compile_plain

    made, table = engine.manifest, engine.table
    assert table is not None and made.activation_dtype is not None and made.placement is not None
    graph = quantized_graph(exported, table, made.activation_dtype, made.placement, levels=levels)
    with native_errors("onnxruntime", "run"):
        run = compile_plain(prune(graph, ["features"]).SerializeToString())
        return np.concatenate([run(pixels[start : start + 4])[0] for start in range(0, len(pixels), 4)])
