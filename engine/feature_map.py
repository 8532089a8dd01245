"""How an engine's features lie in the picture."""

from dataclasses import dataclass
from math import isqrt

import onnx

from ..calibration.graph.edit import POOLED_PREFIX, read_constant
from .engine import Engine


@dataclass(frozen=True)
class FeatureMap:
    """The order of features: channels, height, width, or with `channels_last` height, width, channels."""

    channels: int
    height: int
    width: int
    channels_last: bool = False


def feature_map(engine: Engine) -> FeatureMap | None:
    """Return the feature map of an engine, or None if its features are not known to be one.

    Known are maps of the aspect ratio of the input; features that are no map are one place. An engine of a file without
    the output ``pooled`` does not tell its channels.
    """
    made = engine.manifest
    if not made.pooled:
        return None
    height, width = made.input_shape[:2]
    places = made.features // made.channels
    rows = isqrt(places * height // width)
    if rows * rows * width != places * height:
        return None
    shape = f"{POOLED_PREFIX}shape"
    tensors = {each.name: each for each in onnx.load_from_string(engine.graph).graph.initializer}
    if shape not in tensors:
        return None
    ends = read_constant(tensors, shape).tolist()
    return FeatureMap(made.channels, rows, places // rows, ends[1] != made.channels)
