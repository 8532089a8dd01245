"""int8 of every operator and operand that a float graph may have: within what the scales allow, or left in float."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import pytest
from bounds import SIZE, Net, bound, images
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from aurevoir.calibration.placement import PLACEMENTS, concat_groups, quantizable
from aurevoir.calibration.quantize import ACTIVATION_DTYPES, quantize
from aurevoir.calibration.signed import use_more_levels
from aurevoir.engine.assemble import assemble
from aurevoir.engine.calibrate import calibrate, tensor_fidelity
from aurevoir.errors import AurevoirError

SLACK = {"onnxruntime": 2.0**-18, "openvino": 2.0**-6}
"""Relative rounding of what stays in floats: of float32, and in OpenVINO, where the processor has it, of bfloat16."""


def _engines(exported, pixels):
    """Assert that int8 on every runtime, dtype and placement is within the bound; return features and engines."""
    table = calibrate(exported, pixels, "max", placement="shared-concat")
    placements = PLACEMENTS if concat_groups(exported.graph) else PLACEMENTS[:1]
    engines = []
    # What signed levels are of; its features are the same.
    changed, _ = use_more_levels(exported.graph, table.thresholds, table.peaks)
    exact = {"uint8": exported.graph, "int8": changed}
    found = []
    for runtime, dtype, placement in product(SLACK, ACTIVATION_DTYPES, placements):
        engine = assemble(exported, "int8", runtime, table, activation_dtype=dtype, placement=placement)
        expected, error = bound(exact[dtype], onnx.load_from_string(engine.graph), pixels, SLACK[runtime])
        found.append(expected)
        off = np.abs(engine(pixels) - expected) - error
        assert off.max() <= 0, f"{runtime}, {dtype}, {placement}: {off.max():.3g} beyond a bound of {error.max():.3g}"
        engines.append(engine)
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return expected, engines


def _relative(engine, pixels, expected):
    return np.linalg.norm(engine(pixels) - expected) / np.linalg.norm(expected)


def _stem(net, channels=4):
    return net.add("Relu", net.add("Conv", "x", net.weights(channels, 3, 3, 3), pads=[1] * 4))


def _scaled(net, *shape, axis=0):
    """Weights with channels of zeros, one that is huge, one tiny, and one of a single value."""
    weights = np.moveaxis(net.weights(*shape), axis, 0)
    weights[0] = 0
    weights[1] *= 1000
    weights[2] *= 1e-6
    weights[3] = 0.3
    return np.moveaxis(weights, 0, axis)


def conv_1d(net):
    line = net.reshape(_stem(net), 0, 4, SIZE * SIZE)
    return net.add("Conv", line, _scaled(net, 6, 4, 3), net.weights(6), pads=[1, 1])


def conv_1d_of_other_rows(net):
    halves = net.reshape(_stem(net), -1, 2, SIZE * SIZE)
    return net.reshape(net.add("Conv", halves, net.weights(4, 2, 1), net.weights(4)), -1, 8 * SIZE * SIZE)


def conv_3d(net):
    cube = net.reshape(_stem(net), 0, 2, 2, SIZE, SIZE)
    return net.add("Conv", cube, _scaled(net, 4, 2, 2, 3, 3), net.weights(4))


def grouped(net):
    return net.add("Conv", _stem(net), _scaled(net, 6, 2, 3, 3), net.weights(6), group=2, strides=[2, 2])


def depthwise(net):
    stem = _stem(net)
    return net.add("Conv", stem, _scaled(net, 8, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 1, 1])


def transposed(net):
    weights = _scaled(net, 4, 5, 3, 3, axis=1)
    return net.add("ConvTranspose", _stem(net), weights, net.weights(5), strides=[2, 2], output_padding=[1, 1])


def transposed_in_groups(net):
    return net.add("ConvTranspose", _stem(net), net.weights(4, 3, 2, 2), net.weights(6), group=2, strides=[2, 2])


def transposed_1d(net):
    line = net.reshape(_stem(net), 0, 4, SIZE * SIZE)
    return net.add("ConvTranspose", line, _scaled(net, 4, 5, 3, axis=1), strides=[2])


def shared_by_both_axes_of_gemm(net):
    rows = net.reshape(_stem(net), 0, 4 * SIZE * SIZE)
    rows = net.add("Gemm", rows, net.weights(4 * SIZE * SIZE, 6))
    shared = net.constant(_scaled(net, 6, 6) + 0.1)
    parts = [net.add("Gemm", rows, shared), net.add("Gemm", rows, shared, transB=1), net.add("MatMul", rows, shared)]
    return net.add("Concat", *parts, axis=1)


def shared_by_convolutions_of_both_kinds(net):
    stem, shared = _stem(net), net.constant(_scaled(net, 4, 4, 3, 3) + 0.1)
    sides = net.add("Conv", stem, shared, pads=[1] * 4), net.add("ConvTranspose", stem, shared, pads=[1] * 4)
    return net.add("Concat", *sides, axis=1)


def gemm_with_factors(net):
    rows = net.reshape(_stem(net), 0, 4 * SIZE * SIZE)
    return net.add("Gemm", rows, _scaled(net, 6, 256), net.weights(6), transB=1, alpha=0.5, beta=3.0)


def gemm_with_a_scalar_bias(net):
    rows = net.reshape(_stem(net), 0, 4 * SIZE * SIZE)
    return net.add("Gemm", rows, net.weights(256, 6), np.array([2.0], "float32"))


def matmul_of_tokens(net):
    tokens = net.add("Transpose", net.reshape(_stem(net), 0, 4, SIZE * SIZE), perm=[0, 2, 1])
    return net.add("Add", net.add("MatMul", tokens, _scaled(net, 4, 6, axis=1)), net.weights(6))


def empty_bias(net):
    return net.add("Conv", _stem(net), net.weights(4, 4, 3, 3), "")


def shared_bias(net):
    stem, bias = _stem(net), net.constant(net.weights(4))
    first = net.add("Conv", stem, net.weights(4, 4, 3, 3), bias, pads=[1] * 4)
    return net.add("Conv", net.add("Relu", first), net.weights(4, 4, 3, 3), bias)


def bias_behind_identity(net):
    return net.add("Conv", _stem(net), net.weights(4, 4, 3, 3), net.add("Identity", net.weights(4)))


def bias_that_is_computed(net):
    bias = net.add("Mul", net.add("Sigmoid", net.weights(4)), net.weights(4))
    return net.add("Conv", _stem(net), net.weights(4, 4, 3, 3), bias)


def dead_channels_with_biases(net):
    weights = net.weights(4, 4, 3, 3)
    weights[:2] *= np.array([1e-12, 1e-30], "float32").reshape(2, 1, 1, 1)
    last = net.add("Relu", net.add("Conv", _stem(net), weights, np.array([3, 0.5, 1, -1], "float32")))
    return net.add("Conv", last, net.weights(4, 4, 1, 1))


def biases_of_channels_without_weights(net):
    weights = net.weights(4, 4, 3, 3) * 100
    stem = net.add("Conv", _stem(net), weights, pads=[1] * 4)
    weights = net.weights(4, 4, 3, 3) * np.array([0, 0, 1e-3, 1e-3], "float32").reshape(4, 1, 1, 1)
    known = net.add("Conv", stem, weights, np.array([0.3, -0.4, 0, 0], "float32"), pads=[1] * 4)
    folded = net.add("ConvTranspose", stem, weights * 0, net.add("Identity", net.weights(4)), pads=[1] * 4)
    # What reads each is quantized, so that ONNX Runtime computes it, bias included, in integers.
    return net.add("Add", *(net.add("Conv", each, net.weights(4, 4, 1, 1)) for each in (known, folded)))


def activations_of_zeros(net):
    dead = net.add("Relu", net.add("Conv", "x", net.weights(4, 3, 1, 1) * 0, np.full(4, -1, "float32")))
    return net.add("Conv", dead, net.weights(4, 4, 3, 3), net.weights(4))


def activations_near_zero(net):
    tiny = net.add("Mul", _stem(net), np.array(1e-37, "float32"))
    last = net.add("Relu", net.add("Conv", tiny, net.weights(4, 4, 3, 3), net.weights(4)))
    return net.add("Conv", last, net.weights(4, 4, 1, 1))


def activations_of_one_value(net):
    same = net.add("Conv", "x", net.weights(4, 3, 1, 1) * 0, np.full(4, 2.5, "float32"))
    return net.add("Conv", same, net.weights(4, 4, 3, 3), net.weights(4))


def activations_below_zero(net):
    below = net.add("Neg", _stem(net))
    return net.add("Conv", below, net.weights(4, 4, 3, 3), net.weights(4))


def read_twice_and_in_float(net):
    first, second = (net.add("Conv", "x", net.weights(4, 3, 3, 3), pads=[1] * 4) for _ in range(2))
    total = net.add("Add", first, net.add("Sigmoid", second))
    out = net.add("Conv", total, net.weights(4, 4, 3, 3), pads=[1] * 4)
    return net.add("Mul", net.add("Add", out, total), net.add("Sigmoid", total))


def an_output_that_is_quantized(net):
    stem = _stem(net)
    net.add("Conv", stem, net.weights(4, 4, 3, 3))
    return net.add("Add", stem, net.add("Conv", stem, net.weights(4, 4, 1, 1)))


def nested_concatenations(net):
    stem = _stem(net)
    pair = net.add("Concat", stem, stem, axis=1)
    more = net.add("Concat", pair, net.add("Conv", pair, net.weights(3, 8, 3, 3), pads=[1] * 4), pair, axis=1)
    pool = net.add("MaxPool", more, kernel_shape=[3, 3])
    return net.add("Conv", net.add("Concat", pool, pool, axis=1), net.weights(4, 38, 1, 1), net.weights(4))


def concatenated_tokens(net):
    tokens = net.add("Transpose", net.reshape(_stem(net), 0, 4, SIZE * SIZE), perm=[0, 2, 1])
    tokens = net.add("MatMul", tokens, net.weights(4, 4))
    more = net.add("Concat", net.add("Neg", tokens), tokens, axis=1)
    return net.add("MatMul", more, net.weights(4, 6))


def concatenated_rows(net):
    rows = net.add("Gemm", net.reshape(_stem(net), 0, 4 * SIZE * SIZE), net.weights(256, 6))
    return net.add("Gemm", net.add("Concat", rows, net.add("Relu", rows), axis=1), net.weights(12, 5), net.weights(5))


def concatenation_before_a_transposed_convolution(net):
    signed = net.add("Conv", "x", net.weights(4, 3, 1, 1))
    return net.add("ConvTranspose", net.add("Concat", signed, signed, axis=1), net.weights(8, 4, 3, 3), strides=[2, 2])


def names_like_ours(net):
    weights, bias = net.constant(net.weights(4, 3, 3, 3), "w"), net.constant(net.weights(4), "w_scale")
    first = net.add("Conv", "x", weights, bias, name="w_dequantized", pads=[1] * 4)
    norm = [
        net.constant(np.abs(net.weights(4)) + 0.5, f"w_dequantized_{name}") for name in ("scale", "zero", "mean", "q")
    ]
    second = net.add("Add", first, net.add("BatchNormalization", first, *norm))
    return net.add("Conv", second, net.weights(4, 4, 1, 1), name="w_quantized")


INT8 = {
    conv_1d: 2,
    conv_1d_of_other_rows: 2,
    conv_3d: 2,
    grouped: 2,
    depthwise: 2,
    transposed: 2,
    transposed_in_groups: 2,
    transposed_1d: 2,
    shared_by_both_axes_of_gemm: 5,
    shared_by_convolutions_of_both_kinds: 3,
    gemm_with_factors: 2,
    gemm_with_a_scalar_bias: 2,
    matmul_of_tokens: 2,
    empty_bias: 2,
    shared_bias: 3,
    bias_behind_identity: 2,
    bias_that_is_computed: 2,
    dead_channels_with_biases: 3,
    biases_of_channels_without_weights: 6,
    activations_of_zeros: 2,
    activations_near_zero: 3,
    activations_of_one_value: 2,
    activations_below_zero: 2,
    read_twice_and_in_float: 3,
    an_output_that_is_quantized: 2,
    nested_concatenations: 3,
    concatenated_tokens: 3,
    concatenated_rows: 3,
    concatenation_before_a_transposed_convolution: 2,
    names_like_ours: 2,
}


@pytest.mark.parametrize("make", INT8, ids=lambda make: make.__name__)
def test_operands_are_quantized_within_what_their_scales_allow(tmp_path, make):
    net, pixels = Net(), images()
    expected, engines = _engines(net.exported(tmp_path, make(net)), pixels)
    for engine in engines:
        assert engine.quantized_products() == (INT8[make], INT8[make])
        assert _relative(engine, pixels, expected) < 0.06, engine.runtime


def gemm_of_a_transposed_activation(net):
    columns = net.add("Transpose", net.reshape(_stem(net), 0, 4 * SIZE * SIZE), perm=[1, 0])
    return net.add("Gemm", columns, net.weights(256, 5), transA=1)


def constant_from_the_left(net):
    return net.add("MatMul", net.weights(6, 4), net.reshape(_stem(net), 0, 4, SIZE * SIZE))


def stacked_weights(net):
    return net.add("MatMul", net.reshape(_stem(net), 0, 2, 2 * SIZE, SIZE), net.weights(2, SIZE, 5))


def attention(net):
    tokens = net.reshape(_stem(net), 0, 4, SIZE * SIZE)
    scores = net.add("MatMul", tokens, net.add("Transpose", tokens, perm=[0, 2, 1]))
    return net.add("MatMul", net.add("Sigmoid", scores), tokens)


def a_vector_from_the_right(net):
    return net.add("MatMul", net.reshape(_stem(net), 0, 4, SIZE * SIZE), net.weights(SIZE * SIZE))


FLOAT = {
    gemm_of_a_transposed_activation: 1,
    constant_from_the_left: 1,
    stacked_weights: 1,
    attention: 2,
    a_vector_from_the_right: 1,
}


@pytest.mark.parametrize("make", FLOAT, ids=lambda make: make.__name__)
def test_other_products_stay_in_float_and_are_counted(tmp_path, make):
    net, pixels = Net(), images()
    expected, engines = _engines(net.exported(tmp_path, make(net)), pixels)
    for engine in engines:
        assert engine.quantized_products() == (1, 1 + FLOAT[make])
        assert _relative(engine, pixels, expected) < 0.06


def test_weights_that_follow_from_constants_are_weights(tmp_path):
    net, pixels = Net(), images()
    weights = net.add("Mul", net.weights(4, 4, 3, 3), net.weights(4, 1, 1, 1))
    expected, engines = _engines(net.exported(tmp_path, net.add("Conv", _stem(net), weights)), pixels)
    for engine in engines:
        assert engine.quantized_products() == (2, 2)
        assert _relative(engine, pixels, expected) < 0.06


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 23])
def test_every_opset_says_the_axis_of_its_scales(tmp_path, opset):
    net = Net()
    name = shared_by_convolutions_of_both_kinds(net)
    exported = net.exported(tmp_path, name, opset)
    assert exported.graph.opset_import[0].version == opset
    expected, engines = _engines(exported, images())
    assert max(_relative(engine, images(), expected) for engine in engines) < 0.06


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["weights", "biases"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, where):
    net = Net()
    sound = {"weights": net.weights(4, 4, 3, 3), "biases": net.weights(4)}
    exported = net.exported(tmp_path, net.add("Conv", _stem(net), *(net.constant(sound[key], key) for key in sound)))
    # Files that hold such weights are refused when they are read.
    tensor = next(tensor for tensor in exported.graph.graph.initializer if tensor.name == f"backbone/{where}")
    broken = numpy_helper.to_array(tensor).copy()
    broken.flat[2] = value
    tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    for attempt in (lambda: calibrate(exported, images()), lambda: quantize(exported.graph, {"backbone/t1": 1.0})):
        with pytest.raises(AurevoirError, match=f"weights backbone/{where} are nan or infinite; give the network's"):
            attempt()


def test_an_activation_that_is_infinite_in_one_image_is_refused_by_name(tmp_path):
    net, pixels = Net(), images()
    inverse = net.add("Reciprocal", net.add("Relu", "x"), name="inverse")
    exported = net.exported(tmp_path, net.add("Conv", inverse, net.weights(4, 3, 1, 1)))
    with pytest.raises(AurevoirError, match="tensor backbone/inverse: an activation is nan or infinite"):
        calibrate(exported, np.concatenate([np.full_like(pixels, 255), pixels * 0]))


def test_an_activation_beyond_the_scales_of_int8_is_refused_by_name(tmp_path):
    net = Net()
    huge = net.add("Mul", _stem(net), np.array(1e37, "float32"), name="huge")
    exported = net.exported(tmp_path, net.add("Conv", huge, net.weights(4, 4, 1, 1) * np.float32(0.1)))
    table = calibrate(exported, images())
    with pytest.raises(AurevoirError, match=r"tensor backbone/huge reaches .*, and int8 takes 1.27e\+30 at most; use"):
        assemble(exported, "int8", "openvino", table)


def concatenation_alone(net):
    return net.add("Concat", "x", net.add("Relu", "x"), axis=1)


def attention_alone(net):
    tokens = net.reshape("x", 0, 3, SIZE * SIZE)
    return net.add("MatMul", tokens, net.add("Transpose", tokens, perm=[0, 2, 1]))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("make", [concatenation_alone, attention_alone])
def test_a_network_without_products_of_weights_is_refused(tmp_path, make, placement):
    net = Net()
    exported = net.exported(tmp_path, make(net))
    with pytest.raises(
        AurevoirError, match="no convolution to quantize and no matrix product with constant weights; use"
    ):
        calibrate(exported, images(), placement=placement)


def test_concatenations_of_integers_are_left_alone(tmp_path):
    net = Net()
    signs = net.add("Cast", net.add("Sigmoid", _stem(net)), to=TensorProto.INT32)
    both = net.add("Cast", net.add("Concat", signs, signs, axis=1), to=TensorProto.FLOAT)
    exported = net.exported(tmp_path, net.add("Conv", both, net.weights(4, 8, 1, 1)))
    assert concat_groups(exported.graph) == []


def test_a_table_without_some_tensors_leaves_them_in_float(tmp_path):
    net, pixels = Net(), images()
    exported = net.exported(tmp_path, nested_concatenations(net))
    table = calibrate(exported, pixels, "max", placement="shared-concat")
    expected = assemble(exported, "fp32", "onnxruntime")(pixels)
    for name, placement in product(table.thresholds, PLACEMENTS):
        left = replace(table, thresholds={key: value for key, value in table.thresholds.items() if key != name})
        engine = assemble(exported, "int8", "onnxruntime", left, placement=placement)
        assert engine.manifest.in_float == (name,) * (name in quantizable(exported.graph, placement))
        assert engine.quantized_products()[0] >= 2
        assert _relative(engine, pixels, expected) < 0.06
        measured = [
            tensor.name for tensor in tensor_fidelity(exported, left, pixels, "onnxruntime", placement=placement)
        ]
        assert name not in measured


def test_means_of_another_length_are_refused(tmp_path):
    net = Net()
    exported = net.exported(tmp_path, grouped(net))
    table = calibrate(exported, images())
    broken = replace(table, means={name: mean[1:] for name, mean in table.means.items()})
    with pytest.raises(
        AurevoirError, match=r"means of shape \(2,\) for the 3 channels of backbone/t0; calibrate again"
    ):
        assemble(exported, "int8", "onnxruntime", broken)


def test_peaks_of_another_length_are_refused(tmp_path):
    net = Net()
    exported = net.exported(tmp_path, depthwise(net))
    table = calibrate(exported, images())
    (name, peaks), *others = table.peaks.items()
    assert (len(peaks), others) == (4, [])
    with pytest.raises(AurevoirError, match=rf"3 peaks for the 4 channels of {name}; calibrate again"):
        assemble(exported, "int8", "onnxruntime", replace(table, peaks={name: peaks[1:]}), activation_dtype="int8")


def _drawn_convolution(net, draw, name, channels):
    groups, size = draw(st.sampled_from([1, 2, channels])), draw(st.sampled_from([1, 3]))
    outputs = groups * draw(st.integers(1, 4 // groups if groups < 4 else 1))
    weights = _drawn_weights(net, draw, outputs, channels // groups, size, size)
    pads = [size // 2] * 4
    return net.add("Conv", name, weights, *_drawn_bias(net, draw, outputs), group=groups, pads=pads), outputs


def _drawn_transposed(net, draw, name, channels):
    groups = draw(st.sampled_from([1, 2]))
    each = draw(st.integers(1, 3))
    weights = _drawn_weights(net, draw, channels, each, 3, 3, axis=1)
    bias = _drawn_bias(net, draw, groups * each)
    # OpenVINO takes an empty name for a Conv's bias only.
    bias = () if bias and isinstance(bias[0], str) and not bias[0] else bias
    return net.add("ConvTranspose", name, weights, *bias, group=groups, pads=[1] * 4), groups * each


def _drawn_line(net, draw, name, channels):
    line = net.reshape(name, 0, channels, SIZE * SIZE)
    outputs = draw(st.integers(1, 4))
    weights = _drawn_weights(net, draw, outputs, channels, 3)
    line = net.add("Conv", line, weights, *_drawn_bias(net, draw, outputs), pads=[1, 1])
    return net.reshape(line, 0, outputs, SIZE, SIZE), outputs


def _drawn_tokens(net, draw, name, channels):
    tokens = net.add("Transpose", net.reshape(name, 0, channels, SIZE * SIZE), perm=[0, 2, 1])
    outputs = draw(st.integers(1, 4))
    tokens = net.add("MatMul", tokens, _drawn_weights(net, draw, channels, outputs, axis=1))
    tokens = net.add("Add", tokens, net.weights(outputs))
    return net.reshape(net.add("Transpose", tokens, perm=[0, 2, 1]), 0, outputs, SIZE, SIZE), outputs


def _drawn_concatenation(net, draw, name, channels):
    other, more = _drawn_convolution(net, draw, name, channels)
    parts = draw(
        st.permutations([(name, channels), (other, more), draw(st.sampled_from([(name, channels), (other, more)]))])
    )
    return net.add("Concat", *(part for part, _ in parts), axis=1), sum(count for _, count in parts)


def _drawn_residual(net, draw, name, channels):
    weights = _drawn_weights(net, draw, channels, channels, 1, 1)
    return net.add("Add", name, net.add("Conv", name, weights, *_drawn_bias(net, draw, channels))), channels


def _drawn_norm(net, draw, name, channels):
    stats = [np.abs(net.weights(channels)) + 0.5, net.weights(channels), net.weights(channels), np.ones(channels, "f4")]
    return net.add("Relu", net.add("BatchNormalization", name, *stats)), channels


def _drawn_weights(net, draw, *shape, axis=0):
    weights = np.moveaxis(net.weights(*shape), axis, 0)
    for channel in range(len(weights)):
        weights[channel] *= draw(st.sampled_from([0, 1e-20, 0.01, 1, 1, 1, 50]))
    return np.moveaxis(weights, 0, axis)


def _drawn_bias(net, draw, channels):
    bias = net.weights(channels)
    return draw(st.sampled_from([(), ("",), (bias,), (net.constant(bias * 10),), (net.add("Identity", bias),)]))


_BLOCKS = [
    _drawn_convolution,
    _drawn_transposed,
    _drawn_line,
    _drawn_tokens,
    _drawn_concatenation,
    _drawn_residual,
    _drawn_norm,
]


@settings(deadline=None, max_examples=8, derandomize=True, database=None, phases=[Phase.generate])
@given(st.data())
def test_drawn_networks_are_within_what_their_scales_allow(tmp_path_factory, data):
    net, draw = Net(data.draw(st.integers(0, 99))), data.draw
    name, channels = _stem(net), 4
    for _ in range(draw(st.integers(1, 3))):
        name, channels = draw(st.sampled_from(_BLOCKS))(net, draw, name, channels)
        if draw(st.booleans()):
            name = net.add(draw(st.sampled_from(["Relu", "Sigmoid", "Neg"])), name)
        channels, name = _even(net, name, channels)
    _engines(
        net.exported(tmp_path_factory.mktemp("drawn"), net.add("Conv", name, net.weights(4, channels, 1, 1))), images()
    )


def _even(net, name, channels):
    """Concatenate a tensor of an odd number of channels with itself, so that groups of two divide it."""
    return (2 * channels, net.add("Concat", name, name, axis=1)) if channels % 2 else (channels, name)
