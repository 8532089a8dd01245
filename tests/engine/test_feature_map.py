"""How an engine's features lie in the picture."""

import dataclasses

import numpy as np
import onnx
import pytest

from aurevoir import build_engine
from aurevoir.engine.engine import Engine
from aurevoir.engine.feature_map import FeatureMap, feature_map
from aurevoir.kernels.bits import agreement
from aurevoir.kernels.hamming import mirrored


def pointwise(path, channels_last):
    """Write a backbone whose filters are symmetric: a convolution of single pixels, and means of squares of four."""
    weight = np.random.default_rng(0).normal(size=(8, 3, 1, 1)).astype("float32")
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
        onnx.helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    if channels_last:
        nodes.append(onnx.helper.make_node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1]))
    shape = ["n", 7, 7, 8] if channels_last else ["n", 8, 7, 7]
    graph = onnx.helper.make_graph(
        nodes,
        "pointwise",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 28, 28])],
        [onnx.helper.make_tensor_value_info("y" if channels_last else "p", 1, shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("channels_last", [False, True])
def test_mirrored_bits_of_symmetric_filters_are_those_of_the_mirrored_image(tmp_path, pixels, channels_last):
    engine = build_engine(pointwise(tmp_path / "p.onnx", channels_last), smoke=False)
    places = feature_map(engine)
    assert places == FeatureMap(8, 7, 7, channels_last)
    turned = mirrored(engine.bits(pixels), *dataclasses.astuple(places))
    ours, others = turned, engine.bits(np.ascontiguousarray(pixels[:, :, ::-1]))
    # Means are summed in another order.
    assert agreement(ours, others, engine.features) > 0.999
    assert agreement(engine.bits(pixels), others, engine.features) < 0.99


def test_maps_of_networks(tiny_onnx, mobilenet):
    assert feature_map(build_engine(tiny_onnx, smoke=False)) == FeatureMap(4, 7, 7)
    assert feature_map(build_engine(mobilenet, smoke=False)) == FeatureMap(1280, 7, 7)


def test_features_that_are_no_map_are_none(tiny_onnx):
    engine = build_engine(tiny_onnx, smoke=False)
    for changes in ({"pooled": 0}, {"pooled": 98}, {"input_shape": (28, 30, 3)}):
        made = dataclasses.replace(engine.manifest, **changes)
        assert feature_map(Engine(made, engine.graph, None, engine.device)) is None
