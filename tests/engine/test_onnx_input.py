"""Image inputs as exporters write them, and the preprocessing that files carry."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir import build_engine
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError, UsageError

F, U = TensorProto.FLOAT, TensorProto.UINT8
node = helper.make_node
TO_CHANNELS_FIRST = node("Transpose", ["t"], ["c"], perm=[0, 3, 1, 2])


def _saved(path, nodes, kind, shape, constants=None, channels=3, metadata=None, more=()):
    weight = np.random.default_rng(0).normal(size=(8, channels, 3, 3)).astype("float32")
    graph = helper.make_graph(
        [*nodes, node("Conv", ["c", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, shape), *more],
        [helper.make_tensor_value_info("y", F, ["n", 8, None, None])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"w": weight, **(constants or {})}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path / "x.onnx")
    return path / "x.onnx"


def _floats(*values):
    return np.array(values, "float32")


PLAIN = [node("Identity", ["x"], ["c"])]
KINDS = {
    "channels first": (PLAIN, F, ["n", 3, 16, 16], {}, "imagenet"),
    "free channels": (PLAIN, F, ["n", "c", "h", "w"], {}, "imagenet"),
    "channels last": ([node("Transpose", ["x"], ["c"], perm=[0, 3, 1, 2])], F, ["n", 16, 16, 3], {}, "imagenet"),
    "channels last, free": ([node("Transpose", ["x"], ["c"], perm=[0, 3, 1, 2])], F, [None] * 4, {}, "imagenet"),
    "channels last, Caffe's means": (
        [node("Sub", ["x", "m"], ["t"]), TO_CHANNELS_FIRST],
        F,
        ["n", 16, 16, 3],
        {"m": _floats(103.939, 116.779, 123.68)},
        "none:bgr",
    ),
    "divided by 255": ([node("Div", ["x", "k"], ["c"])], F, [1, 3, 16, 16], {"k": _floats(255)}, "none"),
    "ImageNet's, inside": (
        [node("Sub", ["x", "m"], ["a"]), node("Div", ["a", "s"], ["c"])],
        F,
        ["n", 3, 16, 16],
        {"m": _floats(0.485, 0.456, 0.406).reshape(3, 1, 1), "s": _floats(0.229, 0.224, 0.225).reshape(1, 3, 1, 1)},
        "unit",
    ),
    "ImageNet's to Inception's": (
        [node("Mul", ["x", "a"], ["m"]), node("Add", ["m", "b"], ["c"])],
        F,
        ["n", 3, 16, 16],
        {"a": _floats(0.458, 0.448, 0.45).reshape(3, 1, 1), "b": _floats(-0.03, -0.088, -0.188).reshape(3, 1, 1)},
        "imagenet",
    ),
    "uint8": ([node("Cast", ["x"], ["c"], to=1)], U, ["n", 3, 16, 16], {}, "none"),
    "uint8, channels last": (
        [node("Cast", ["x"], ["f"], to=1), node("Div", ["f", "k"], ["t"]), TO_CHANNELS_FIRST],
        U,
        ["n", 16, 16, 3],
        {"k": _floats(255)},
        "none",
    ),
    "uint8, dequantized": (
        [node("DequantizeLinear", ["x", "s", "z"], ["c"])],
        U,
        ["n", 3, 16, 16],
        {"s": np.float32(0.02), "z": np.uint8(128)},
        "none",
    ),
    "float64": ([node("Cast", ["x"], ["c"], to=1)], TensorProto.DOUBLE, ["n", 3, 16, 16], {}, "imagenet"),
}


def _features(path, exported, pixels, last):
    """The file itself on the images as it takes them."""
    images = pixels[..., ::-1] if exported.channel_order == "BGR" else pixels
    images = (images / 255 - np.array(exported.mean)) / np.array(exported.std)
    session = onnxruntime.InferenceSession(path)
    kind = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(double)": "float64"}[
        session.get_inputs()[0].type
    ]
    images = np.rint(images) if kind == "uint8" else images
    images = (images if last else images.transpose(0, 3, 1, 2)).astype(kind)
    return np.concatenate([session.run(None, {"x": image[None]})[0] for image in images]).reshape(len(pixels), -1)


@pytest.mark.parametrize("name", KINDS)
def test_every_input_gives_the_files_own_features(tmp_path, name):
    nodes, kind, shape, constants, normalization = KINDS[name]
    path = _saved(tmp_path, nodes, kind, shape, constants)
    exported = export_backbone(open_backbone(path, size=16))
    found = export_backbone(open_backbone(path, size=16), normalization=normalization)
    assert (exported.mean, exported.std, exported.channel_order) == (found.mean, found.std, found.channel_order)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype="uint8")
    expected = _features(path, exported, pixels, "last" in name)
    for runtime in ("openvino", "onnxruntime", "torch"):
        try:
            engine = build_engine(path, size=16, runtime=runtime, smoke=False)
            features = engine(pixels)
        except AurevoirError as error:
            assert runtime == "torch" and "does not support the operator" in str(error)
            continue
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_one_and_many_channels_are_carried_through(tmp_path, channels):
    path = _saved(tmp_path, PLAIN, F, ["n", channels, 16, 16], channels=channels)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 16, 16, channels), dtype="uint8")
    engine = build_engine(path, precision="int8", calibration=pixels)
    assert engine.input_shape == (16, 16, channels)
    exported = export_backbone(open_backbone(path))
    expected = _features(path, exported, pixels, last=False)
    assert np.linalg.norm(engine(pixels) - expected) < 0.1 * np.linalg.norm(expected)
    with pytest.raises(UsageError, match=rf"takes uint8 of shape \(batch, 16, 16, {channels}\)"):
        engine(np.zeros((1, 16, 16, 2), "uint8"))


def test_files_of_images_are_not_decoded_to_four_channels(tmp_path, class_folder):
    path = _saved(tmp_path, PLAIN, F, ["n", 4, 16, 16], channels=4)
    with pytest.raises(UsageError, match=r"4 channels.*give uint8 arrays of shape \(n, height, width, 4\)"):
        build_engine(path, precision="int8", calibration=class_folder)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}, "none:bgr"),
        ({"Image.BitmapPixelFormat": "Bgr8"}, "imagenet:bgr"),
        ({"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_1_1"}, "symmetric"),
        ({"Image.NominalPixelRange": "Normalized_0_1"}, "unit"),
    ],
)
def test_what_the_metadata_says_is_obeyed_and_not_kept(tmp_path, metadata, expected):
    path = _saved(tmp_path, PLAIN, F, ["n", 3, 16, 16], metadata=metadata)
    own, same = (export_backbone(open_backbone(path), normalization=each) for each in ("auto", expected))
    assert (own.mean, own.std, own.channel_order) == (same.mean, same.std, same.channel_order)
    assert not own.graph.metadata_props


def test_uint8_files_normalise_themselves(tmp_path):
    path = _saved(tmp_path, [node("Cast", ["x"], ["c"], to=1)], U, ["n", 3, 16, 16])
    with pytest.raises(UsageError, match="takes uint8 pixels, so that no normalization 'imagenet'"):
        build_engine(path, normalization="imagenet", smoke=False)
    assert build_engine(path, normalization="none:bgr", smoke=False).manifest.channel_order == "BGR"


def test_inputs_that_nothing_reads_are_dropped_and_others_named(tmp_path):
    more = [helper.make_tensor_value_info("training", TensorProto.BOOL, [])]
    assert open_backbone(_saved(tmp_path, PLAIN, F, ["n", 3, 16, 16], more=more)).size == (16, 16)
    scaled = [node("Mul", ["x", "scale"], ["c"])]
    more = [helper.make_tensor_value_info("scale", F, [])]
    with pytest.raises(AurevoirError, match=r"\(x: float \(n, 3, 16, 16\); scale: float \(\)\) are not one"):
        open_backbone(_saved(tmp_path, scaled, F, ["n", 3, 16, 16], more=more))


def test_an_input_whose_channels_nothing_tells_is_refused(tmp_path):
    graph = helper.make_graph(
        [node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", F, ["n", "c", "h", "w"])],
        [helper.make_tensor_value_info("y", F, ["n", "c", "h", "w"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "x.onnx")
    with pytest.raises(AurevoirError, match="does not say which axis holds the channels"):
        open_backbone(tmp_path / "x.onnx")
