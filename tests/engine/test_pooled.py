"""The output of channel means: equal to the means of positive features in every runtime and precision."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aurevoir import load_engine
from aurevoir.archive import pack, unpack_bytes
from aurevoir.calibration.graph.edit import digest
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.engine import Engine
from aurevoir.engine.export import channel_axis
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.runtimes import on_openvino, runtime
from aurevoir.engine.sample import sample_images
from aurevoir.engine.smoke import first_inference
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.kernels.backends.numba.features import has_int8_dot_product

# Largest |pooled - means| / |means|: sums of float32, or where OpenVINO keeps the last layers in float32 for the
# features alone, those of features that are rounded to bf16.
TOLERANCES = {"fp32": 1e-6, "bf16": 3e-3, "int8": 3e-3}
RUNS = [
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("torch", "fp32"),
    ("torch", "bf16"),
]


def _error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _engine(exported, precision, name, table):
    if not runtime_has(name, precision):
        pytest.skip(f"{precision} of {name} is not for this processor")
    return assemble(exported, precision, name, table if precision == "int8" else None, device="cpu")


def runtime_has(name, precision):
    return precision in (on_openvino.precisions() if name == "openvino" else runtime(name).precisions())


def _check(engine, images, means):
    """Compare the output with the means of the features, alone and together with the bits, which do not change."""
    features, bits, limit = engine(images), engine.bits(images), TOLERANCES[engine.precision]
    found = engine.run(images, ["pooled", "bits"])
    assert list(found) == ["bits", "pooled"]
    np.testing.assert_array_equal(found["bits"], bits)
    for pooled in (found["pooled"], engine.pooled(images)):
        assert pooled.dtype == "float32"
        assert pooled.shape == (len(images), engine.manifest.pooled)
        assert _error(pooled, means(np.maximum(features, 0).astype("float64"))) < limit
    together = engine.run(images)
    assert _error(together["pooled"], means(np.maximum(together["features"], 0).astype("float64"))) < limit
    np.testing.assert_array_equal(engine.run(images[:1], ["bits", "pooled"])["bits"], engine.bits(images[:1]))


@pytest.fixture(scope="module")
def photographs(data):
    return sample_images(data("calibration500"), (224, 224), 6)


@pytest.fixture(scope="module", params=["mobilenetv2.onnx", "resnet50v2_stage3.onnx", "squeezenet1_1.pth"])
def real(request, data, photographs):
    path = data(f"backbones/{request.param}")
    network = ("squeezenet1_1", path) if path.suffix == ".pth" else (path,)
    exported = export_backbone(open_backbone(*network))
    return exported, calibrate(exported, photographs[:4], "max")


@pytest.mark.parametrize(("name", "precision"), RUNS)
def test_it_is_the_mean_of_every_channel_of_real_networks(real, photographs, name, precision):
    exported, table = real
    images = photographs if name == "openvino" else photographs[:2]
    engine = _engine(exported, precision, name, table)
    _check(engine, images, lambda features: features.reshape(len(features), exported.pooled, -1).mean(2))


@pytest.fixture(
    scope="module", params=[("mobilenet_v3_small", "classifier.0", 1024, 1), ("swin_t", "features.1", 96, 256)]
)
def unusual(request, pixels):
    """Features without places, and those whose channels are last, with images for them."""
    network, cut, channels, places = request.param
    images = np.pad(pixels[:4], ((0, 0), (0, 36), (0, 36), (0, 0)), "wrap")
    exported = export_backbone(open_backbone(network, "random", 64), cut, images)
    assert (exported.pooled, exported.features) == (channels, channels * places)
    return exported, calibrate(exported, images, "max"), images


@pytest.mark.parametrize(("name", "precision"), RUNS)
def test_features_without_places_and_channels_that_are_last(unusual, name, precision):
    exported, table, images = unusual
    engine = _engine(exported, precision, name, table)
    if (name, precision) == ("openvino", "int8") and not has_int8_dot_product():
        # There OpenVINO's means of several images in one request are wrong, where features have no places.
        try:
            first_inference(engine, exported.graph)
        except AurevoirError as error:
            assert "the channel means are not those of the features" in str(error)
            return
    _check(engine, images, lambda features: features.reshape(len(features), -1, exported.pooled).mean(1))


@pytest.mark.parametrize(
    ("shape", "size", "axis"),
    [
        ([0, 8], (224, 224), 1),
        ([0, 8, 7, 7], (224, 224), 1),
        ([0, 7, 7, 8], (224, 224), 3),
        ([0, 7, 7, 7], (224, 224), 1),
        ([0, 8, 1, 1], (224, 224), 1),
        ([0, 1, 1, 8], (224, 224), 3),
        ([0, 7, 14, 96], (224, 448), 3),
        ([0, 96, 7, 14], (224, 448), 1),
        ([0, 5, 6, 7, 7], (224, 224), 1),
        ([0, 197, 768], (224, 224), 2),
    ],
)
def test_the_axis_of_channels(shape, size, axis):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    assert channel_axis(helper.make_model(graph), "y", {"x": shape, "y": shape}, size) == axis


def test_pixels_in_a_row_leave_the_channels_where_they_were():
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 7, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 49])],
    )
    assert channel_axis(helper.make_model(graph), "y", {"x": [0, 8, 7, 7], "y": [0, 8, 49]}, (224, 224)) == 1


def test_the_digest_is_that_of_the_graph_without_it(exported, table):
    older = onnx.ModelProto()
    older.CopyFrom(exported.graph)
    graph = older.graph
    # Appended last: the rest is byte for byte what it was.
    assert [node.name for node in graph.node][-5:] == [
        f"pooled/{name}" for name in ("float", "positive", "places", "sum", "mean")
    ]
    del graph.node[-5:], graph.output[-1], graph.initializer[-3:]
    assert digest(older) == digest(exported.graph) == table.graph
    graph.node[-1].name = "another"
    assert digest(older) != table.graph


def _of_before(engine):
    """Return the engine file of a version that did not have the output."""
    model = onnx.load_from_string(engine.graph)
    del model.graph.node[-5:], model.graph.output[-1], model.graph.initializer[-3:]
    old = Engine(engine.manifest, model.SerializeToString(), engine.table)
    parts = dict(unpack_bytes(old.to_bytes(), "the engine"))
    manifest = json.loads(parts["manifest.json"])
    del manifest["pooled"]
    return pack({**parts, "manifest.json": json.dumps(manifest).encode()})


def test_engine_files_of_before_run_and_say_that_they_have_none(exported, pixels, tmp_path):
    engine, path = assemble(exported, "fp32", "openvino"), tmp_path / "old.engine"
    path.write_bytes(_of_before(engine))
    old = load_engine(path)
    assert (old.outputs, old.manifest.pooled) == (("features", "bits"), 0)
    np.testing.assert_array_equal(old.bits(pixels), engine.bits(pixels))
    for call in (old.pooled, lambda images: old.run(images, ["bits", "pooled"])):
        with pytest.raises(UsageError, match=r"and no pooled; its file is of an earlier version.*: build it again"):
            call(pixels)


def test_a_file_has_it(exported, pixels, tmp_path):
    engine, path = assemble(exported, "fp32", "openvino"), tmp_path / "new.engine"
    engine.save(path)
    loaded, out = load_engine(path), np.empty((len(pixels), 4), "float32")
    assert loaded.pooled(pixels, out=out) is out
    np.testing.assert_array_equal(out, engine.pooled(pixels))
    assert (loaded.outputs, loaded.usual_outputs) == (("features", "bits", "pooled"), ("bits",))


@pytest.mark.parametrize(
    ("pooled", "message"),
    [(5, r"pooled 5 does not divide 196 features"), (-1, "pooled -1 is not"), (7, r"its manifest says float.*7")],
)
def test_a_manifest_that_says_otherwise_is_refused(exported, pooled, message):
    engine = assemble(exported, "fp32", "openvino")
    parts = dict(unpack_bytes(engine.to_bytes(), "the engine"))
    manifest = json.loads(parts["manifest.json"]) | {"pooled": pooled}
    with pytest.raises(AurevoirError, match=message):
        Engine.from_parts({**parts, "manifest.json": json.dumps(manifest).encode()}, "the engine")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_plans_are_built_ahead_of_time(exported, table, precision):
    pytest.importorskip("tensorrt_rtx_bindings")
    engine = assemble(exported, precision, "tensorrt-rtx", table if precision == "int8" else None, target="sm89")
    engine.build_plan()
    assert engine.plan
    outputs = onnx.load_from_string(engine.graph).graph.output
    assert [value.name for value in outputs] == list(engine.outputs) == ["features", "bits", "pooled"]
    assert outputs[-1].type.tensor_type.elem_type == TensorProto.FLOAT
