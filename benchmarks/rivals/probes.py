"""Linear probes: scikit-learn's linear classifiers on a network's float32 features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from ...calibration.graph.edit import tensor_shapes
from ...engine.engine import Engine
from ...engine.float_graph import Exported
from ...images.batches import ImageArray
from ...kernels.stopwatch import Stopwatch

PROBES = ("logistic pooled", "logistic unpooled", "ridge pooled", "ridge unpooled")
ITERATIONS = 1000


def channels(exported: Exported) -> int:
    """Return the number of channels of the feature map, over whose pixels a probe pools."""
    graph: onnx.ModelProto = exported.graph
    flatten = next(node for node in graph.graph.node if list(node.output) == ["features"])
    shape = tensor_shapes(graph)[flatten.input[0]]
    return int(shape[1] or 1)


def fit_probe(
    name: str, engine: Engine, channels: int, pixels: np.ndarray, labels: np.ndarray, watch: Stopwatch
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Train one of `PROBES` on standardized features; return what predicts, and the settings.

    Parameters
    ----------
    name : str
    engine : Engine
    channels : int
    pixels : uint8 array of shape (n, height, width, 3)
    labels : integer array of shape (n,)
    watch : Stopwatch
        Counts ``engine`` and ``solve``.
    """
    pooled = channels if name.endswith(" pooled") else None
    with watch("engine"):
        features = _features(engine, pixels, pooled)
    model = _model(name, features.shape[1])
    with watch("solve"):
        model.fit(features, labels)
    return lambda images: model.predict(_features(engine, images, pooled)), repr(model)


def _model(name: str, m: int) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name.startswith("logistic"):
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
    # Our own ridge's grid: the mean eigenvalue of standardized features is their number.
    return make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=m * np.logspace(-5, 2, 15)))


def _features(engine: Engine, pixels: np.ndarray, pooled: int | None) -> np.ndarray:
    parts = []
    for _, batch in ImageArray(pixels).batches(engine.batch_size):
        features = np.asarray(engine(batch))
        parts.append(features if pooled is None else features.reshape(len(features), pooled, -1).mean(axis=2))
    return np.concatenate(parts)
