"""int8 of every operator and operand that a float graph may have: within what the scales allow, or left in float."""

from itertools import product

import numpy as np
import onnx
import pytest
from bounds import SIZE, Net, bound, images

from aurevoir.calibration.placement import PLACEMENTS, concat_groups
from aurevoir.calibration.quantize import ACTIVATION_DTYPES
from aurevoir.engine.assemble import assemble
from aurevoir.engine.calibrate import calibrate

SLACK = {"onnxruntime": 2.0**-18, "openvino": 2.0**-6}
"""Relative rounding of what stays in floats: of float32, and in OpenVINO, where the processor has it, of bfloat16."""


def _engines(exported, pixels):
    """Assert that int8 on every runtime, dtype and placement is within the bound; return features and engines."""
    table = calibrate(exported, pixels, "max", placement="shared-concat")
    placements = PLACEMENTS if concat_groups(exported.graph) else PLACEMENTS[:1]
    engines = []
    for runtime, dtype, placement in product(SLACK, ACTIVATION_DTYPES, placements):
        engine = assemble(exported, "int8", runtime, table, activation_dtype=dtype, placement=placement)
        expected, error = bound(exported.graph, onnx.load_from_string(engine.graph), pixels, SLACK[runtime])
        off = np.abs(engine(pixels) - expected) - error
        assert off.max() <= 0, f"{runtime}, {dtype}, {placement}: {off.max():.3g} beyond a bound of {error.max():.3g}"
        engines.append(engine)
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
    return net.add("Relu", net.add("Conv", _stem(net), weights, np.array([3, 0.5, 1, -1], "float32")))


def activations_of_zeros(net):
    dead = net.add("Relu", net.add("Conv", "x", net.weights(4, 3, 1, 1) * 0, np.full(4, -1, "float32")))
    return net.add("Conv", dead, net.weights(4, 4, 3, 3), net.weights(4))


def activations_near_zero(net):
    tiny = net.add("Mul", _stem(net), np.array(1e-37, "float32"))
    return net.add("Conv", tiny, net.weights(4, 4, 3, 3), net.weights(4))


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
    dead_channels_with_biases: 2,
    activations_of_zeros: 2,
    activations_near_zero: 2,
    activations_of_one_value: 2,
    activations_below_zero: 2,
    read_twice_and_in_float: 3,
    an_output_that_is_quantized: 2,
    nested_concatenations: 3,
    names_like_ours: 2,
}


@pytest.mark.parametrize("make", INT8, ids=lambda make: make.__name__)
def test_operands_are_quantized_within_what_their_scales_allow(tmp_path, make):
    net, pixels = Net(), images()
    expected, engines = _engines(net.exported(tmp_path, make(net)), pixels)
    for engine in engines:
        assert engine.quantized_products() == (INT8[make], INT8[make])
        assert _relative(engine, pixels, expected) < 0.06, engine.runtime
