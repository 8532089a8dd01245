"""The float16 body of a graph: its types, its arithmetic, and its fidelity compared with a float32 body."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aurevoir.calibration.fidelity import relative_error, sign_agreement
from aurevoir.calibration.graph.edit import prune
from aurevoir.calibration.graph.float16 import OLDEST_OPSET, to_float16
from aurevoir.calibration.graph.overflow import overflowing, with_magnitudes
from aurevoir.calibration.quantize import quantize
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.sample import sample_images
from aurevoir.errors import AurevoirError

# Neither needs to be where the tests of a GPU run.
onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")


def _model(nodes, constants, opset=18, kind=TensorProto.FLOAT, channels=2):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, ["batch", channels, 6, 6])],
            [helper.make_tensor_value_info("y", kind, ["batch", None, None, None])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def _onnxruntime(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        # Its bias scales would underflow in float16; see `to_float16`.
        model.SerializeToString(),
        options,
        disabled_optimizers=["WeightBiasQuantization"],
    )
    return session.run(None, {session.get_inputs()[0].name: images})


def _openvino(model, images):
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    outputs = compiled(images)
    return [np.array(outputs[place]) for place in range(len(model.graph.output))]


RUNTIMES = pytest.mark.parametrize("run", [_onnxruntime, _openvino])


def _graphs(path, pixels):
    exported = export_backbone(open_backbone(path))
    return exported.graph, quantize(exported.graph, calibrate(exported, pixels).thresholds)


@pytest.fixture(scope="module", params=["tiny", "mobilenetv2", "resnet50v2_stage3"])
def graphs(request, tiny_onnx, pixels, data):
    """The float and the int8 graph of a backbone, and images for them."""
    if request.param == "tiny":
        return *_graphs(tiny_onnx, pixels), pixels
    path = data(f"backbones/{request.param}.onnx")
    images = sample_images(data("calibration500"), (224, 224), 12)
    return *_graphs(path, images[:8]), images[8:]


@RUNTIMES
def test_the_float_graph_keeps_its_signs(graphs, run):
    model, _, images = graphs
    features, bits, pooled = run(to_float16(model), images)
    reference = _onnxruntime(model, images)[0]
    assert features.dtype == "float32"
    np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    means = np.maximum(features, 0).reshape(*pooled.shape, -1).mean(2, dtype="float64")
    np.testing.assert_allclose(pooled, means, rtol=0, atol=1e-6 * np.abs(features).max())
    assert sign_agreement(features, reference) > 0.99
    assert relative_error(features, reference) < 0.03


@RUNTIMES
def test_the_int8_graph_agrees_with_float_as_well_as_a_float32_body_does(graphs, run):
    model, quantized, images = graphs
    reference = _onnxruntime(model, images)[0]
    expected = run(quantized, images)[0]
    features, bits, _ = run(to_float16(quantized), images)
    np.testing.assert_array_equal(bits, np.packbits(features > 0, axis=1))
    assert sign_agreement(features, reference) > sign_agreement(expected, reference) - 0.01
    assert relative_error(features, reference) < relative_error(expected, reference) + 0.02


def test_no_float32_is_left_inside(graphs):
    _, quantized, _ = graphs
    half = to_float16(quantized)
    onnx.checker.check_model(half, full_check=True)
    assert list(half.graph.input) == list(quantized.graph.input)
    assert [value.name for value in half.graph.output] == ["features", "bits", "pooled"]
    # The channel means are of float32 throughout.
    rest = prune(half, ["features", "bits"]).graph
    inside = [value.type.tensor_type.elem_type for value in rest.value_info]
    assert TensorProto.FLOAT16 in inside
    assert TensorProto.FLOAT not in [*inside, *(tensor.data_type for tensor in rest.initializer)]


def test_the_dequantized_weights_hardly_change(graphs):
    _, quantized, _ = graphs
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (quantized, to_float16(quantized))
    )
    weights = [name for name, values in before.items() if values.dtype == np.int8 and values.ndim > 1]
    assert weights
    for name in weights:
        scale = name.replace("_quantized", "_scale")
        old, new = (
            constants[name] * constants[scale].astype("float64")[:, None, None, None] for constants in (before, after)
        )
        assert relative_error(new, old) < 0.01


def test_the_graph_given_is_left_alone(tiny_onnx):
    model = export_backbone(open_backbone(tiny_onnx)).graph
    before = model.SerializeToString()
    to_float16(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_float_inputs_and_outputs_keep_their_type(opset):
    weights = np.random.default_rng(0).normal(size=(2, 2, 1, 1)).astype("float32")
    model = quantize(_model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weights}, opset), {"x": 2.0})
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version == max(opset, OLDEST_OPSET)
    x = np.random.default_rng(1).normal(size=(2, 2, 6, 6)).astype("float32")
    result = _onnxruntime(half, x)[0]
    assert result.dtype == "float32"
    assert relative_error(result, _onnxruntime(model, x)[0]) < 0.01


def test_weights_with_scales_near_the_least_float16_are_rounded_anew():
    weights = (
        np.array([1e-2, 1e-4, 1.3e-5, 1e-9], "float32")[:, None, None, None]
        * np.array([1, 0.4], "float32")[:, None, None]
    )
    model = quantize(_model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weights}), {"x": 1.0})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in to_float16(model).graph.initializer}
    scales = constants["w_scale"].astype("float64")[:, None, None, None]
    assert scales.min() == 2.0**-24
    assert np.abs(constants["w_quantized"]).max() <= 127
    # Rounded twice, to half a level each time.
    assert (np.abs(constants["w_quantized"] * scales - weights) <= scales).all()


def test_resize_keeps_its_scales():
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["r"]), helper.make_node("Mul", ["r", "two"], ["y"])]
    model = _model(nodes, {"scales": np.array([1, 1, 2, 2], "float32"), "two": np.array(2, "float32")})
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    x = np.ones((1, 2, 6, 6), "float32")
    np.testing.assert_array_equal(_onnxruntime(half, x)[0], np.full((1, 2, 12, 12), 2))


def test_a_bound_that_bounds_nothing_becomes_infinite():
    bounds = {"low": np.array(0, "float32"), "high": np.array(np.finfo("float32").max)}
    half = to_float16(_model([helper.make_node("Clip", ["x", "low", "high"], ["y"])], bounds))
    assert numpy_helper.to_array(half.graph.initializer[1]) == np.inf


def test_constants_beyond_float16_are_refused_by_name():
    model = _model([helper.make_node("Mul", ["x", "gain"], ["y"])], {"gain": np.array(1e5, "float32")})
    with pytest.raises(AurevoirError, match="constant gain holds 100000, beyond float16's 65504"):
        to_float16(model)


def _scaled(factor):
    """x (1 x 4 x 6 x 6) -> a -> relu -> b; `a` is large, `b` undoes it; `side` reads `a` too."""
    weights = {
        "w": np.eye(4, dtype="float32")[:, :, None, None],
        "gain": np.float32(factor),
        "loss": np.float32(1 / factor),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "gain"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Mul", ["r", "loss"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["d"]),
        helper.make_node("Add", ["d", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _outputs(model, x):
    # ONNX's own reference rounds to float16 after every node; ONNX Runtime's CPU kernels do not.
    return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})


def test_tensors_beyond_float16_are_found_and_kept_in_float32():
    model = _scaled(3e4)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype("float32") * 3
    exact = _outputs(model, x)[0]
    sized, names = with_magnitudes(model)
    del sized.graph.output[:]
    sized.graph.output.extend(helper.make_tensor_value_info(f"{name}_size", TensorProto.FLOAT, []) for name in names)
    found = overflowing(lambda x: _outputs(sized, x), names, [x, x])
    assert found == ["a", "r"]
    with np.errstate(over="ignore"):
        assert not np.isfinite(_outputs(to_float16(model), x)[0]).all()
    kept = to_float16(model, found)
    onnx.checker.check_model(kept, full_check=True)
    np.testing.assert_allclose(_outputs(kept, x)[0], exact, rtol=4e-3, atol=4e-3)
    types = {value.name: value.type.tensor_type.elem_type for value in kept.graph.value_info}
    assert types["a"] == types["r"] == TensorProto.FLOAT
    assert types["c"] == types["b"] == types["d"] == TensorProto.FLOAT16


def test_an_output_that_is_kept_in_float32_is_not_cast():
    model = _scaled(1.0)
    kept = to_float16(model, ["y"])
    assert {node.op_type for node in kept.graph.node if "y" in node.output} == {"Add"}
    x = np.ones((1, 4, 6, 6), "float32")
    np.testing.assert_allclose(_outputs(kept, x)[0], _outputs(model, x)[0], rtol=1e-3)


def test_nan_counts_as_overflow():
    assert overflowing(lambda _: [np.float32(np.nan), np.float32(1)], ["a", "b"], [None]) == ["a"]
