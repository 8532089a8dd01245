"""Times of layers: from each runtime's profiler, by the ONNX nodes that they were made of."""

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from aurevoir.engine.assemble import assemble
from aurevoir.engine.layer_times import (
    Layer,
    Profile,
    _made_of,
    _original,
    in_words,
    plot_profile,
    profile_engine,
    write_trace,
)
from aurevoir.errors import UsageError


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_each_runtime_reports_its_layers_and_their_nodes(exported, pixels, runtime):
    engine = assemble(exported, "fp32", runtime, device="cpu")
    # So many that no convolution takes less than OpenVINO's counters tell.
    profile = profile_engine(engine, np.concatenate([pixels] * 5), calls=20)
    assert (profile.batch, profile.calls) == (100, 20)
    assert profile.layers_milliseconds > 0
    assert profile.call_milliseconds > 0
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1)
    slowest = profile.slowest()
    assert [layer.cumulative for layer in slowest] == pytest.approx(np.cumsum([layer.share for layer in slowest]))
    known = {name for node in onnx.load_from_string(engine.graph).graph.node for name in (node.name, *node.output)}
    mapped = {name for layer in profile.layers for name in layer.nodes}
    assert mapped <= known
    operators = [kind for layer in profile.layers for kind in layer.operators]
    assert operators.count("Conv") == 2
    assert {layer.precision for layer in profile.layers if "Conv" in layer.operators} == {"float32"}


def test_fused_nodes_are_named(exported, pixels):
    profile = profile_engine(assemble(exported, "fp32", "openvino"), np.concatenate([pixels] * 5), calls=3)
    fused = next(layer for layer in profile.layers if "Conv" in layer.operators)
    assert {"Conv", "Relu"} <= set(fused.operators)
    assert len(fused.nodes) == len(fused.operators)


def test_int8_layers_are_int8(exported, table, pixels):
    profile = profile_engine(assemble(exported, "int8", "openvino", table), np.concatenate([pixels] * 5), calls=3)
    precisions = {layer.precision for layer in profile.layers if "Conv" in layer.operators}
    assert precisions
    assert precisions <= {"int8", "uint8"}
    assert sum(profile.by("type").values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("f32", "float32"),
        ("u8", "uint8"),
        ("BF16", "bfloat16"),
        ("Half", "float16"),
        ("Row major linear FP32", "float32"),
        ("Int8", "int8"),
        ("float32", "float32"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
        (None, "unknown"),
    ],
)
def test_precisions_are_in_words(theirs, words):
    assert in_words(theirs) == words


def test_names_that_runtimes_make_of_nodes_lead_back_to_them():
    conv, relu = (
        onnx.helper.make_node("Conv", ["x"], ["c"], "block/conv"),
        onnx.helper.make_node("Relu", ["c"], ["out"]),
    )
    known = {"block/conv": conv, "c": conv, "out": relu}
    assert _original(["block/conv", "c", "out"], known) == [conv, relu]
    assert _original(["fused block/conv_nchwc"], known) == [conv]
    # Names of a few letters are in everything.
    assert _original(["reorder_token_0"], known) == []


def test_nodes_that_no_layer_names_are_part_of_the_layer_that_reads_them():
    make = onnx.helper.make_node
    nodes = [
        make("Pad", ["x"], ["p"], "padding"),
        make("Conv", ["p"], ["c"], "convolution"),
        make("Relu", ["c"], ["r"], "positive"),
        make("MaxPool", ["r"], ["m"], "pooling"),
        make("Split", ["m"], ["s1", "s2"], "splitting"),
        make("Neg", ["s1"], ["n"], "negation"),
        make("Abs", ["s2"], ["a"], "magnitude"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    layers = _made_of([["r"], ["pooling"], ["n"], ["a_nchwc"], ["magnitude"]], model)
    assert [[node.name for node in layer] for layer in layers] == [
        ["padding", "convolution", "positive"],
        ["pooling"],
        # What two layers read is neither's.
        ["negation"],
        [],
        ["magnitude"],
    ]


def _profile():
    layers = [
        Layer("a", "Convolution", "int8", 2.0, 0.5, 0.5, "Conv + Relu", ["n1", "n2"], ["Conv", "Relu"]),
        Layer("b", "Pooling", "float32", 0.5, 0.125, 1.0, "MaxPool", ["n3"], ["MaxPool"]),
        Layer("c" * 90, "Convolution", "int8", 1.5, 0.375, 0.875, "Convolution", [], []),
    ]
    return Profile(4, 10, layers, 4.2)


def test_a_trace_is_one_call_end_to_end(tmp_path):
    write_trace(_profile(), tmp_path / "t.json")
    trace = json.loads((tmp_path / "t.json").read_text())
    events = trace["traceEvents"]
    assert [(each["ph"], each["ts"], each["dur"]) for each in events] == [
        ("X", 0.0, 2000.0),
        ("X", 2000.0, 500.0),
        ("X", 2500.0, 1500.0),
    ]
    assert events[0]["args"] == {"precision": "int8", "share": 0.5, "nodes": ["n1", "n2"]}


def test_the_slowest_layers_are_drawn(tmp_path):
    plot_profile(_profile(), "a network", tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").width > 800


def test_nothing_to_profile_is_refused(exported, pixels):
    for images, calls in ((pixels[:0], 3), (pixels, 0)):
        with pytest.raises(UsageError, match="cannot be profiled; give at least one of each"):
            profile_engine(assemble(exported, "fp32", "openvino"), images, calls)
