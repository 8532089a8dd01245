"""Engine files whose digest is right and whose graph is hostile: refused before any runtime parses them."""

import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from aurevoir import build_engine, load_engine
from aurevoir.cli.main import main
from aurevoir.engine.engine import Engine
from aurevoir.engine.graph_check import MOST_NODES, OPERATORS, check_contents, check_graph
from aurevoir.engine.graph_cost import graph_cost
from aurevoir.errors import AurevoirError, BudgetError


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


def _inserted(model, nodes, before="features"):
    """Put a chain of nodes before what writes the features."""
    place, last = next((i, node) for i, node in enumerate(model.graph.node) if before in node.output)
    nodes[0].input[0], last.input[0] = last.input[0], nodes[-1].output[0]
    for node in reversed(nodes):
        model.graph.node.insert(place, node)


def _constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _external(model):
    tensor = next(each for each in model.graph.initializer if each.dims)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="etc/passwd")


def _external_attribute(model):
    tensor = helper.make_tensor("outside", TensorProto.FLOAT, [1], [0.0])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["outside"], value=tensor))


def _external_hidden(model):
    """An external tensor in an attribute that says to be an integer."""
    _external_attribute(model)
    model.graph.node[0].attribute[0].type = AttributeProto.INT


def _loop(model):
    trips, condition = _constant(model, "trips", np.array(2**62)), _constant(model, "condition", np.array(True))
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9), ("d", 9))]
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", ends[:2], ends[2:])
    model.graph.node.insert(0, helper.make_node("Loop", [trips, condition], [], body=body))


def _branch(model):
    condition = _constant(model, "condition", np.array(True))
    out = [helper.make_tensor_value_info("o", 1, [])]
    arm = helper.make_graph(
        [helper.make_node("Constant", [], ["o"], value=helper.make_tensor("v", 1, [], [0]))], "arm", [], out
    )
    model.graph.node.insert(0, helper.make_node("If", [condition], ["chosen"], then_branch=arm, else_branch=arm))


def _graph_in_any_node(model):
    body = helper.make_graph([], "hidden", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("hidden", body))


def _function(model):
    model.functions.append(
        helper.make_function("f", "Twice", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], model.opset_import)
    )
    model.opset_import.append(helper.make_opsetid("f", 1))
    _inserted(model, [helper.make_node("Twice", [""], ["twice"], domain="f")])


def _custom(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _inserted(model, [helper.make_node("Gelu", [""], ["gelu"], domain="com.microsoft")])


def _random(model):
    _inserted(model, [helper.make_node("RandomNormalLike", [""], ["noise"])])


def _expanded(model):
    shape = _constant(model, "huge", np.array([2**43]))
    one = _constant(model, "one", np.ones(1, "float32"))
    model.graph.node.insert(0, helper.make_node("Expand", [one, shape], ["expanded"]))


def _summed(model):
    """A sum over 64 ** 8 products of constants."""
    square = _constant(model, "square", np.ones((64, 64), "float32"))
    equation = ",".join(first + second for first, second in combinations("abcdefgh", 2)) + "->"
    model.graph.node.insert(0, helper.make_node("Einsum", [square] * 28, ["summed"], equation=equation))


def _multiplied(model):
    """A tensor of 64 ** 6000 elements."""
    square = _constant(model, "square", np.ones((64, 64), "float32"))
    model.graph.node.insert(0, helper.make_node("Einsum", [square], ["multiplied"], equation=f"ab->{'ab' * 3000}"))


def _filled(model):
    shape = _constant(model, "huge", np.array([2**20, 2**20]))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", [shape], ["filled"]))


def _computed(model):
    """A shape that is computed from constants."""
    parts = [_constant(model, name, np.array([2**21])) for name in ("a", "b")]
    nodes = [
        helper.make_node("Concat", parts, ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _tiled(model):
    times = _constant(model, "times", np.array([1, 2**18, 2**18, 1]))
    _inserted(model, [helper.make_node("Tile", ["", times], ["tiled"])])


def _doubling(model):
    nodes = [helper.make_node("Concat", ["", ""], ["d0"], axis=1)]
    nodes += [helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=1) for i in range(40)]
    place, last = next((i, node) for i, node in enumerate(model.graph.node) if "features" in node.output)
    nodes[0].input[0] = nodes[0].input[1] = last.input[0]
    for node in reversed(nodes):
        model.graph.node.insert(place, node)


def _padded(model):
    pads = _constant(model, "pads", np.array([0, 0, 10**6, 10**6, 0, 0, 10**6, 10**6]))
    _inserted(model, [helper.make_node("Pad", ["", pads], ["padded"])])


def _absurd(model):
    pads = _constant(model, "pads", np.array([0, 0, 2**62, 0, 0, 0, 2**62, 0]))
    _inserted(model, [helper.make_node("Pad", ["", pads], ["padded"])])


def _resized(model):
    scales = _constant(model, "scales", np.array([1, 1, 1e5, 1e5], "float32"))
    _inserted(model, [helper.make_node("Resize", ["", "", scales], ["resized"])])


def _large_kernel(model):
    node = helper.make_node("MaxPool", [""], ["pooled"], kernel_shape=[2**24, 2**24], pads=[2**23] * 4)
    _inserted(model, [node])


def _slow(model):
    """Small tensors and hours of work: a window of 300,000 x 300,000 at every pixel."""
    window = {"kernel_shape": [300001, 300001], "pads": [150000] * 4}
    _inserted(model, [helper.make_node("AveragePool", [""], ["slow"], **window)])


def _chained(model):
    nodes = [helper.make_node("Relu", [f"r{i}"], [f"r{i + 1}"]) for i in range(20_000)]
    _inserted(model, nodes)


def _more_data(model):
    next(each for each in model.graph.initializer if each.dims).dims[0] += 1


def _other_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _other_size(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value += 1


def _fixed_batch(model):
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def _another_output(model):
    model.graph.output.append(model.graph.output[0])


def _another_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _strides(model):
    node = next(each for each in model.graph.node if each.op_type == "Conv")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("strides", [0, 0]))


def _other_type(model):
    """A type that onnx does not know."""
    model.graph.input[0].type.tensor_type.elem_type = 99


def _far_opset(model):
    """OpenVINO goes through all opsets up to it."""
    model.opset_import[0].version = 2**31 - 1


def _bytes_name(model):
    """A name that is not UTF-8, put into the bytes by `_changed`."""
    model.graph.node[0].name = NAMELESS


NAMELESS = "nnnnnnnn"

HOSTILE = {
    _external: "weights in another file",
    _external_attribute: "weights in another file",
    _external_hidden: "weights in another file",
    _loop: "the operator Loop",
    _branch: "the operator If",
    _graph_in_any_node: "graphs inside nodes",
    _function: "the operator f.Twice",
    _custom: "the operator com.microsoft.Gelu",
    _random: "the operator RandomNormalLike",
    _expanded: "length|needs .* and the memory budget",
    _filled: "needs .* [GTP]iB and the memory budget",
    _multiplied: r"needs more than 2\^80 bytes",
    _summed: "multiply-adds an image",
    _computed: "needs .* [GTP]iB and the memory budget",
    _tiled: "needs .* [GTP]iB and the memory budget|onnx's checker",
    _doubling: "needs .* [GTP]iB and the memory budget|onnx's checker",
    _padded: "needs .* [GTP]iB and the memory budget|onnx's checker",
    _absurd: "beyond 2\\^31|onnx's checker",
    _resized: "needs .* [GTP]iB and the memory budget|onnx's checker",
    _large_kernel: "multiply-adds|onnx's checker",
    _slow: "multiply-adds|onnx's checker",
    _chained: "more than 10,000 nodes",
    _more_data: "that is no array",
    _other_input: "images of float",
    _other_type: "images of type 99",
    _bytes_name: "a name that is not UTF-8|bytes that are no ONNX graph",
    _far_opset: "operators of opset 2147483647",
    _other_size: "images of uint8",
    _fixed_batch: "features of float \\[1, ",
    _another_output: "the inputs and outputs",
    _another_input: "the inputs and outputs",
    _strides: "onnx's checker|contradict",
}


def _changed(engine, change):
    model = onnx.load_from_string(engine.graph)
    change(model)
    return Engine(engine.manifest, model.SerializeToString().replace(NAMELESS.encode(), b"nnnn\xffnnn"))


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_hostile_graph_is_refused_at_once(engine, change, tmp_path):
    hostile = _changed(engine, change)
    hostile.save(tmp_path / "e.engine")
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AurevoirError, match=HOSTILE[change]) as refused:
        load_engine(tmp_path / "e.engine")
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    assert str(tmp_path / "e.engine") in str(refused.value) and "\n" not in str(refused.value)


def test_inspect_refuses_it_in_one_line(engine, tmp_path, capsys, monkeypatch):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_bytes(bytes(10**6))
    monkeypatch.chdir(tmp_path)
    _changed(engine, _external).save(tmp_path / "e.engine")
    assert main(["inspect", "e.engine"]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "weights in another file" in err


def test_a_graph_is_the_one_of_its_manifest(engine):
    from dataclasses import replace

    for wrong in ({"features": engine.features + 1}, {"input_shape": (engine.input_shape[0], 1, 3)}):
        with pytest.raises(AurevoirError, match="and its manifest says"):
            check_graph(engine.graph, replace(engine.manifest, **wrong), "e.engine")


def test_what_does_not_fit_the_budget_is_a_budget_error(engine, monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "1KB")
    with pytest.raises(BudgetError, match=r"one image in the graph of e.engine needs .*AUREVOIR_MEMORY"):
        check_graph(engine.graph, engine.manifest, "e.engine")


def test_bytes_that_are_no_graph_are_refused(engine):
    for data in (b"", b"\x08", b"nothing", engine.graph[:-5], engine.graph[: len(engine.graph) // 2]):
        with pytest.raises(AurevoirError, match="the graph of e.engine holds"):
            check_graph(data, engine.manifest, "e.engine")


def test_the_cost_is_that_of_one_image():
    """By hand: 4 x 4 pixels of one channel, a convolution to 2 channels with 3 x 3 weights, a ReLU."""
    weights = numpy_helper.from_array(np.ones((2, 1, 3, 3), "float32"), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])]
    ends = [helper.make_tensor_value_info(name, 1, [1, size, 4, 4]) for name, size in (("x", 1), ("y", 2))]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights]))
    cost = graph_cost(model, [1, 1, 4, 4], "g")
    assert cost.memory == 4 * (32 + 32)
    assert cost.work == (32 * 9 + 32 + 16 + 18) + (32 + 32 + 32)


def test_functions_that_call_each_other_are_counted_before_they_are_unfolded():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    functions = [helper.make_function("f", "f0", ["x"], ["y"], relu, opsets)]
    for level in range(1, 7):
        calls = [
            helper.make_node(f"f{level - 1}", [f"t{i}" if i else "x"], [f"t{i + 1}"], domain="f") for i in range(9)
        ]
        calls[-1].output[0] = "y"
        functions.append(helper.make_function("f", f"f{level}", ["x"], ["y"], calls, opsets))
    ends = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("f6", ["x"], ["y"], domain="f")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    with pytest.raises(AurevoirError, match=f"more than {MOST_NODES:,d} nodes"):
        check_contents(model, "bomb.onnx")
    recursive = helper.make_function("f", "r", ["x"], ["y"], [helper.make_node("r", ["x"], ["y"], domain="f")], opsets)
    graph = helper.make_graph([helper.make_node("r", ["x"], ["y"], domain="f")], "g", ends[:1], ends[1:])
    with pytest.raises(AurevoirError, match="nested more than"):
        check_contents(helper.make_model(graph, opset_imports=opsets, functions=[recursive]), "bomb.onnx")


def test_every_operator_of_the_list_is_onnx_s_own_and_none_draws_or_repeats():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert known >= OPERATORS
    assert OPERATORS.isdisjoint(("Loop", "If", "Scan", "SequenceMap", "RandomNormal", "Bernoulli", "ImageDecoder"))


@pytest.mark.parametrize(
    ("handler", "fate"), [(signal.SIG_DFL, r"crashed \(SIGSEGV\)"), (signal.SIG_IGN, "failed: it ended early")]
)
def test_a_graph_that_crashes_a_runtime_ends_in_one_error(engine, tmp_path, monkeypatch, handler, fate):
    """What passes every check and still kills native code: here, the process that runs it first.

    To a program that ignores SIGCHLD the system gives no exit code.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif 'aurevoir.engine.first_load' in sys.orig_argv:\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    engine.save(tmp_path / "e.engine")
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "another"))
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        with pytest.raises(AurevoirError, match=f"e.engine: its first run, in a process of its own, {fate}"):
            load_engine(tmp_path / "e.engine")
    finally:
        signal.signal(signal.SIGCHLD, before)
    load_engine(tmp_path / "e.engine", trusted=True)


def test_an_engine_from_elsewhere_is_run_once_in_a_process_of_its_own(engine, tmp_path, monkeypatch):
    started = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: started.append(command) or run(command, **options)
    )
    engine.save(tmp_path / "e.engine")
    load_engine(tmp_path / "e.engine")
    assert not started
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "another"))
    for _ in range(2):
        load_engine(tmp_path / "e.engine")
    assert len(started) == 1
    record = tmp_path / "another" / "checked-engines"
    record.chmod(0o666)  # anyone could have written it
    load_engine(tmp_path / "e.engine", trusted=True)
    assert len(started) == 1
    monkeypatch.setattr("aurevoir.engine.first_load.run_limited", lambda *given: started.append(given))
    load_engine(tmp_path / "e.engine")
    assert len(started) == 2


def test_a_first_run_that_takes_too_much_memory_is_refused(engine, tmp_path, monkeypatch):
    engine.save(tmp_path / "e.engine")
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr("aurevoir.engine.first_load._memory", lambda engine: 60 << 20)
    with pytest.raises(AurevoirError, match=r"its first run, in a process of its own, (failed|crashed)"):
        load_engine(tmp_path / "e.engine")


def test_digests_do_not_help(engine, tmp_path):
    """A container whose every digest is right."""
    hostile = _changed(engine, _expanded)
    manifest = json.loads(hostile.manifest.to_json({"model.onnx": hashlib.sha256(hostile.graph).hexdigest()}))
    assert manifest["parts"]["model.onnx"] == hashlib.sha256(hostile.graph).hexdigest()
    with pytest.raises(AurevoirError):
        Engine.from_parts({"manifest.json": json.dumps(manifest).encode(), "model.onnx": hostile.graph}, "e.engine")


def test_a_value_of_no_shape_is_not_computed(engine):
    def widest(model):
        square = _constant(model, "square", np.ones((1, 1, 8, 8), "float32"))
        model.graph.node.insert(
            0, helper.make_node("MaxPool", [square], ["widest"], kernel_shape=[30000] * 2, auto_pad="SAME_UPPER")
        )

    changed = _changed(engine, widest)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_graph(changed.graph, changed.manifest, "the engine")
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19
