"""Histograms, thresholds, tables and the Q/DQ graph."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from aurevoir.calibration.fidelity import relative_error, sign_agreement
from aurevoir.calibration.histograms import BINS, Histogram, observe
from aurevoir.calibration.placement import quantizable
from aurevoir.calibration.quantize import _round_weights, nonnegative, quantize
from aurevoir.calibration.table import CalibrationTable, pixels_digest
from aurevoir.calibration.thresholds import METHODS, check_method, max_threshold, percentile_threshold
from aurevoir.engine.backbones import open_backbone
from aurevoir.engine.build import export_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.errors import AurevoirError, UsageError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def _filled(*batches):
    histogram = Histogram()
    for values in batches:
        histogram.add(np.asarray(values, "float32"))
    return histogram


class Reversed:
    """Shuffles by turning round."""

    def shuffle(self, items):
        items.reverse()


@settings(deadline=None, max_examples=60)
@given(arrays("float32", st.integers(1, 200), elements=FINITE), st.integers(1, 5), st.randoms())
# A maximum that is a power of two, and another after it.
@example(np.array([2, 1], "float32"), 2, Reversed())
def test_the_histogram_does_not_depend_on_batches_or_their_order(values, parts, random):
    whole = _filled(values)
    pieces = np.array_split(values, parts)
    random.shuffle(pieces)
    split = _filled(*pieces)
    np.testing.assert_array_equal(split.counts, whole.counts)
    assert (split.top, split.amax) == (whole.top, whole.amax)
    assert whole.counts.sum() == values.size
    assert whole.amax == np.abs(values).max()


@settings(deadline=None, max_examples=40)
@given(arrays("float32", st.integers(1, 300), elements=st.floats(-100, 100, width=32)))
def test_the_histogram_counts_as_numpy_does(values):
    histogram = _filled(values)
    if histogram.top:
        expected = np.histogram(np.abs(values), bins=BINS, range=(0, histogram.top))[0]
        np.testing.assert_array_equal(np.cumsum(histogram.counts), np.cumsum(expected))
        assert histogram.amax < histogram.top
        assert histogram.top <= 2 * histogram.amax or histogram.amax < 1e-30


def test_zeros_count_wherever_they_come():
    assert _filled(np.zeros(7), [1.0], np.zeros(5)).counts[0] == 12
    empty = _filled(np.zeros(7))
    assert max_threshold(empty) == percentile_threshold(empty) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_the_tensors_name(value):
    batches = [np.zeros((2, 1), "uint8")]
    with pytest.raises(AurevoirError, match="tensor conv7: an activation is nan or infinite"):
        observe(lambda _: ({"conv7": np.array([0, value], "float32")}, {}), ["conv7"], batches)


def test_no_images_are_refused():
    with pytest.raises(AurevoirError, match="no image to calibrate on"):
        observe(lambda pixels: ({}, {}), [], [])


@pytest.mark.parametrize("percentile", [50, 90, 99, 99.9])
def test_the_percentile_is_numpys_within_a_bin(percentile):
    values = np.random.default_rng(0).laplace(size=100_000)
    histogram = _filled(values)
    threshold = percentile_threshold(histogram, percentile)
    assert threshold == pytest.approx(
        np.percentile(np.abs(values), percentile, method="inverted_cdf"), abs=histogram.top / BINS
    )
    assert percentile_threshold(histogram, 100) == histogram.amax


def test_an_unknown_method_is_named():
    with pytest.raises(UsageError, match="calibration method 'mean' is not known; choose one of"):
        check_method("mean")


def _model(nodes, initializers, output="y", channels=2):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 6, 6])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None, 6, 6])],
            [numpy_helper.from_array(value, name) for name, value in initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def _run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def test_quantized_convolution_equals_integer_arithmetic():
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 2, 1, 1)).astype("float32") * np.array([1, 10, 0])[:, None, None, None].astype("f4")
    bias = random.normal(size=3).astype("float32")
    x = random.normal(size=(2, 2, 6, 6)).astype("float32")
    model = _model([helper.make_node("Conv", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias})
    quantized = quantize(model, {"x": 1.5})
    onnx.checker.check_model(quantized, full_check=True)
    scales = np.abs(weight).reshape(3, -1).max(axis=1) / 127
    scales[scales == 0] = 1
    levels = np.rint(weight[:, :, 0, 0] / scales[:, None])
    inputs = np.clip(np.rint(x / np.float32(1.5 / 127)), -128, 127)
    expected = np.einsum("oc,ncij->noij", levels, inputs) * (scales[:, None, None] * 1.5 / 127) + bias[:, None, None]
    np.testing.assert_allclose(_run(quantized, x), expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_two_convolutions_read_is_quantized_once():
    weights = {name: np.ones((2, 2, 1, 1), "float32") for name in "vw"}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c", "x"], ["y"]),
    ]
    model = _model(nodes, weights)
    assert quantizable(model) == ["x", "b"]
    quantized = quantize(model, {"x": 1.0, "b": 2.0})
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("QuantizeLinear") == 2
    assert kinds.count("DequantizeLinear") == 4
    # What is not a convolution still reads the float tensor.
    assert list(quantized.graph.node[-1].input) == ["a", "b", "c", "x"]


def test_tensors_without_threshold_stay_in_floating_point():
    weights = {"w": np.ones((2, 2, 1, 1), "float32")}
    model = _model([helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"])], weights)
    quantized = quantize(model, {"a": 1.0})
    first, last = (node for node in quantized.graph.node if node.op_type == "Conv")
    assert list(first.input) == ["x", "w"]
    assert list(last.input) == ["a_dequantized", "w_dequantized"]


def test_a_graph_without_convolutions_is_refused():
    with pytest.raises(AurevoirError, match="no convolution to quantize"):
        quantize(_model([helper.make_node("Relu", ["x"], ["y"])], {}), {"x": 1.0})


def test_all_zero_activations_give_a_sound_graph():
    weights = {"w": np.zeros((2, 2, 1, 1), "float32")}
    model = _model([helper.make_node("Conv", ["x", "w"], ["y"])], weights)
    assert not _run(quantize(model, {"x": 0.0}), np.zeros((1, 2, 6, 6), "float32")).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5))
def test_rounding_keeps_the_sum_of_every_kernel(seed, outputs, inputs, size):
    weights = np.random.default_rng(seed).normal(size=(outputs, inputs, size, size)).astype("float32")
    levels, scales = _round_weights(weights)
    exact = weights.astype("float64") / scales.reshape(-1, 1, 1, 1)
    assert np.abs((levels - exact).sum(axis=(2, 3))).max() <= 0.5 + 1e-9
    assert np.abs(levels - exact).max() < 1.5
    assert np.abs(levels).max() <= 127


def test_a_kernel_whose_rounding_cancels_is_rounded_to_the_nearest():
    weights = np.array([[[[127.0, 0.4, -0.4, 3.0]]]], "float32")
    np.testing.assert_array_equal(_round_weights(weights)[0], np.rint(weights))


@pytest.mark.parametrize("groups", [1, 2])
def test_biases_take_up_the_mean_error_of_rounded_weights(groups):
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 4 // groups, 1, 1)).astype("float32")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=groups)]
    model = _model(nodes, {"w": weight}, channels=4)
    mean = [1.0, 3.0, 2.0, 5.0]
    x = np.broadcast_to(np.array(mean, "float32")[None, :, None, None], (1, 4, 6, 6)).copy()
    plain, corrected = (_run(quantize(model, {"x": 127.0}, means), x) for means in ({}, {"x": mean}))
    expected = _run(model, x)
    assert np.abs(plain - expected).max() > 1e-3
    np.testing.assert_allclose(corrected, expected, atol=1e-5)


def test_what_cannot_be_negative_is_found_through_pools_and_sums():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["x", "b"], ["d"]),
        helper.make_node("Clip", ["x", "zero", "six"], ["e"]),
        helper.make_node("Clip", ["x", "low", "six"], ["f"]),
        helper.make_node("Clip", ["x", "", "six"], ["g"]),
        helper.make_node("Concat", ["c", "d", "e", "f", "g"], ["y"], axis=1),
    ]
    limits = {name: np.array(value, "float32") for name, value in (("zero", 0), ("six", 6), ("low", -1))}
    assert nonnegative(_model(nodes, limits)) == {"a", "b", "c", "e"}


def test_the_unsigned_dialect_halves_the_steps_of_what_cannot_be_negative():
    weights = {"w": np.ones((2, 2, 1, 1), "float32")}
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"])]
    model = _model([*nodes, helper.make_node("Conv", ["r", "w"], ["y"])], weights)
    found = {}
    for dialect in ("s8", "u8"):
        tensors = {
            item.name: numpy_helper.to_array(item)
            for item in quantize(model, {"x": 1, "r": 1}, None, dialect).graph.initializer
        }
        found[dialect] = {name: (tensors[f"{name}_zero"].dtype.name, 1 / tensors[f"{name}_scale"]) for name in "xr"}
    assert found["s8"] == {"x": ("int8", pytest.approx(127)), "r": ("int8", pytest.approx(127))}
    assert found["u8"] == {"x": ("int8", pytest.approx(127)), "r": ("uint8", pytest.approx(255))}
    with pytest.raises(UsageError, match="dialect 'u4' is not known; choose one of s8, u8"):
        quantize(model, {"x": 1}, None, "u4")


def test_a_relu_behind_its_own_batch_norm_gets_zero_point_one():
    stats = {name: np.full(2, value, "float32") for name, value in zip("sbmv", (1, 0, 0, 1))}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["q"]),
        helper.make_node("Conv", ["q", "w"], ["y"]),
    ]
    model = _model(nodes, {"w": np.ones((2, 2, 1, 1), "float32"), **stats})
    quantized = quantize(model, {"r": 1, "q": 1}, None, "u8")
    tensors = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    found = {name: (int(tensors[f"{name}_zero"]), 1 / tensors[f"{name}_scale"]) for name in "rq"}
    assert found == {"r": (1, pytest.approx(254)), "q": (0, pytest.approx(255))}
    x = np.random.default_rng(0).uniform(0, 0.5, size=(2, 2, 6, 6)).astype("float32")
    np.testing.assert_allclose(_run(quantized, x), _run(model, x), atol=0.04)


def test_the_means_are_those_of_the_tensors(tiny_onnx, pixels):
    exported = export_backbone(open_backbone(tiny_onnx))
    name = quantizable(exported.graph)[0]
    means = calibrate(exported, pixels).means
    normalised = (pixels / 255 - exported.mean) / exported.std
    np.testing.assert_allclose(means[name], normalised.mean(axis=(0, 1, 2)), rtol=1e-4)
    assert set(means) == set(quantizable(exported.graph))


def test_numba_counts_as_numpy_does():
    from aurevoir.kernels.backends.numba.magnitudes import count_magnitudes, largest_magnitude

    random = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 1000, 4097):
        values = random.normal(size=size).astype("float32")
        assert largest_magnitude(values) == np.abs(values).max(initial=0)
        expected = np.histogram(np.abs(values), bins=64, range=(0, 8))[0]
        counts, largest = count_magnitudes(values, 8.0, 64)
        np.testing.assert_array_equal(counts, expected)
        assert largest == np.abs(values).max(initial=0)
    below = np.nextafter(np.float32(8), np.float32(0))
    values = np.array([[below, -below, 8.0, 9.0, np.nan, -np.inf]], "float32")
    counts, largest = count_magnitudes(values, 8.0, 64)
    np.testing.assert_array_equal(counts, [0] * 63 + [2])
    assert largest == below
    greatest = np.finfo("float32").max
    counts, largest = count_magnitudes(np.array([greatest, np.inf], "float32"), 2.0**128, 64)
    np.testing.assert_array_equal(counts, [0] * 63 + [1])
    assert largest == greatest


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_gives_the_thresholds_of_every_convolution_input(tiny_onnx, pixels, method):
    exported = export_backbone(open_backbone(tiny_onnx))
    table = calibrate(exported, pixels, method)
    assert set(table.thresholds) == set(quantizable(exported.graph))
    assert len(table.thresholds) == 2
    assert all(value > 0 for value in table.thresholds.values())
    again = calibrate(exported, pixels[::-1], method)
    assert again.thresholds == table.thresholds
    assert all(np.allclose(again.means[name], mean, rtol=1e-4, atol=1e-6) for name, mean in table.means.items())
    assert table.images == pixels_digest(pixels)


def test_a_table_goes_through_json(tiny_onnx, pixels):
    table = calibrate(export_backbone(open_backbone(tiny_onnx)), pixels)
    assert CalibrationTable.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a calibration table"),
        ("[]", "not a calibration table"),
        ('{"schema": "aurevoir-calibration/9", "method": "", "graph": "", "images": "", "thresholds": {}}', "schema"),
        ('{"schema": "aurevoir-calibration/1", "method": "max"}', "not a calibration table"),
        (
            '{"schema": "aurevoir-calibration/1", "method": "", "graph": "", "images": "", "thresholds": [1]}',
            "must be objects, by tensor name",
        ),
        (
            '{"schema": "aurevoir-calibration/1", "method": "", "graph": "", "images": "", "thresholds": {"t": NaN}}',
            "threshold nan of t",
        ),
    ],
)
def test_a_damaged_table_is_refused(text, message):
    with pytest.raises(AurevoirError, match=message):
        CalibrationTable.from_json(text)


def test_fidelity_measures():
    reference = np.array([[1.0, -1.0, 0.0, 2.0]])
    features = np.array([[1.0, 1.0, -0.5, 2.0]])
    assert sign_agreement(features, reference) == 0.75
    assert relative_error(features, reference) == pytest.approx(np.sqrt(4.25 / 6))
    with pytest.raises(AurevoirError, match="nan or inf"):
        relative_error(np.array([np.nan]), reference[0, :1])
