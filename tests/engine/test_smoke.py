"""The first inference in a child process."""

import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aurevoir import build_engine
from aurevoir.engine import smoke as smoking
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.checked import is_known
from aurevoir.engine.cut_candidates import cut_candidates
from aurevoir.engine.engine import Engine
from aurevoir.engine.multi_cut import draft_cuts
from aurevoir.engine.runtimes import compile_graph
from aurevoir.engine.smoke import first_inference
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from aurevoir.errors import AurevoirError


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


@pytest.fixture
def harm(own_children, monkeypatch, tmp_path):
    """Let every interpreter that starts from here on do `body` when it first infers, or calls `what`."""

    def harmed(body, what="e.Engine.run"):
        (tmp_path / "sitecustomize.py").write_text(
            f"import os, signal, sys, time\nimport aurevoir.engine.engine as e\n"
            "import aurevoir.engine.runtimes.on_openvino as openvino\n"
            f"sound = {what}\ndef harm(*arguments):\n    {body}\n{what} = harm\n"
        )
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return harmed


def test_a_sound_engine_passes(engine):
    first_inference(engine)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"fp32 on openvino crashes in its first inference \(SIGSEGV\)"),
        ("os.abort()", r"crashes in its first inference \(SIGABRT\)"),
        ("raise RuntimeError('no kernel')", "fails in its first inference: RuntimeError: no kernel"),
        ("sys.exit(7)", "fails in its first inference: exit code 7"),
    ],
)
def test_a_crash_is_an_error_that_names_it(engine, harm, body, message):
    harm(body)
    with pytest.raises(AurevoirError, match=message):
        first_inference(engine)


def test_a_hang_is_given_up(engine, monkeypatch, harm):
    harm("time.sleep(60)")
    monkeypatch.setattr(smoking, "TIMEOUT", 3)
    with pytest.raises(AurevoirError, match="no first inference within 3 s"):
        first_inference(engine)


def test_features_that_are_not_finite_are_refused(engine):
    model = onnx.load_from_string(engine.graph)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, "float32"), tensor.name))
    with pytest.raises(AurevoirError, match="fails in its first inference: .* features are nan"):
        first_inference(Engine(engine.manifest, model.SerializeToString()))


def _changed(engine, change):
    model = onnx.load_from_string(engine.graph)
    change(model)
    return Engine(engine.manifest, model.SerializeToString())


def _negated(model):
    last = next(node for node in model.graph.node if "features" in node.output)
    last.output[0] = "positive"
    model.graph.node.insert(
        list(model.graph.node).index(last) + 1, onnx.helper.make_node("Neg", ["positive"], ["features"])
    )


def _mixed(model):
    """Subtract from every image the mean of its batch."""
    last = next(node for node in model.graph.node if "features" in node.output)
    last.output[0] = "apart"
    mean = onnx.helper.make_node("ReduceMean", ["apart", "batch_axis"], ["mean"], keepdims=1)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    half = onnx.helper.make_node("Sub", ["apart", "mean_half"], ["features"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, "float32"), "half"))
    place = list(model.graph.node).index(last) + 1
    for node in (half, onnx.helper.make_node("Mul", ["mean", "half"], ["mean_half"]), mean):
        model.graph.node.insert(place, node)


def _first_only(model):
    """Return the features of the first image alone, whatever the batch."""
    last = next(node for node in model.graph.node if "features" in node.output)
    last.output[0] = "all"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    place = list(model.graph.node).index(last) + 1
    model.graph.node.insert(place, onnx.helper.make_node("Gather", ["all", "first"], ["features"], axis=0))


@pytest.mark.parametrize("given", [False, True])
def test_a_network_that_mixes_the_images_of_a_batch_is_refused(engine, pixels, given):
    with pytest.raises(AurevoirError, match=r"inside a batch of \d+ differ .* alone by [\d.]+ of their size"):
        first_inference(_changed(engine, _mixed), pixels=pixels if given else None)


def test_a_network_that_returns_one_row_is_refused(engine):
    with pytest.raises(AurevoirError, match=r"returned 1 rows for \d+ images: a batch size is fixed"):
        first_inference(_changed(engine, _first_only))


def test_an_int8_engine_far_from_its_float_graph_is_refused(tiny_onnx, pixels):
    builder = EngineBuilder(NetworkSpec(backbone=tiny_onnx), CalibrationSpec(data=pixels))
    sound = builder.build(EngineSpec(precision="int8", runtime="openvino", smoke=False, measure=False))
    first_inference(sound, builder.exported.graph, pixels)
    with pytest.raises(AurevoirError, match=r"int8 on openvino .* float graph on onnxruntime by [\d.]+ of"):
        first_inference(_changed(sound, _negated), builder.exported.graph, pixels)


def test_a_runtime_that_computes_otherwise_than_another_is_refused(engine, harm):
    harm("return {name: 1.02 * found for name, found in sound(*arguments).items()}")
    with pytest.raises(AurevoirError, match=r"fp32 on openvino .* float graph on onnxruntime by 0.02 of"):
        first_inference(engine)


def test_what_a_runtime_computes_otherwise_in_fp32_is_not_hidden_by_int8(tiny_onnx, pixels, harm):
    builder = EngineBuilder(NetworkSpec(backbone=tiny_onnx), CalibrationSpec(data=pixels))
    engine = builder.build(EngineSpec(precision="int8", runtime="openvino", smoke=False, measure=False))
    body = (
        "run = openvino.compile_model(openvino.read(arguments[0]), *arguments[1:]); "
        "return (lambda images: [1.05 * each for each in run(images)]) if arguments[1] == 'fp32' else run"
    )
    harm(body, "openvino.compile")
    with pytest.raises(AurevoirError, match=r"int8 on openvino .* in fp32 differ .* onnxruntime by 0.05 of"):
        first_inference(engine, builder.exported.graph, pixels)


@pytest.mark.parametrize(("runtime", "other"), [("openvino", "onnxruntime"), ("torch", "openvino")])
def test_resizing_with_antialias_is_refused_where_it_is_computed_otherwise(runtime, other):
    sizes = onnx.numpy_helper.from_array(np.array([1, 3, 5, 5]), "sizes")
    node = onnx.helper.make_node("Resize", ["images", "", "", "sizes"], ["y"], "small", mode="linear", antialias=1)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, side, side]) for name, side in (("images", 9), ("y", 5))]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [sizes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(AurevoirError, match=f"antialias.*'{other}'"):
        compile_graph(runtime, model.SerializeToString(), "fp32")(np.ones((1, 3, 9, 9), "float32"))


def test_images_are_drawn_for_any_shape():
    for shape in ((20, 30, 3), (30, 20, 1), (16, 16, 4)):
        drawn = smoking._images(shape, None)
        assert drawn.shape == (smoking.IMAGES, *shape)
        assert drawn.dtype == np.uint8
        assert not np.array_equal(drawn[0], drawn[1])


def test_a_build_that_crashes_leaves_no_file(tiny_onnx, tmp_path, harm):
    harm("os.abort()")
    with pytest.raises(AurevoirError, match="SIGABRT"):
        build_engine(tiny_onnx, out=tmp_path / "e.engine")
    assert not (tmp_path / "e.engine").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("openvino.compile", r"calibration on openvino crashes in its first inference \(SIGFPE\)"),
        ("e.Engine.bits", r"timing int8 on openvino and \w+ on openvino crashes in its first inference \(SIGFPE\)"),
    ],
)
def test_a_crash_in_calibration_or_timing_is_an_error(tiny_onnx, pixels, what, message, harm):
    harm("os.kill(os.getpid(), signal.SIGFPE)", what)
    with pytest.raises(AurevoirError, match=message):
        build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels)


def test_what_ran_in_a_child_process_here_is_not_run_in_one_again(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "another"))
    assert not is_known(engine.digest())
    first_inference(engine)
    assert is_known(engine.digest())


def test_a_crash_of_several_cuts_at_once_is_an_error(staged_onnx, harm, tmp_path, monkeypatch):
    builders = EngineBuilder(NetworkSpec(backbone=staged_onnx)).at_cuts(
        [cut.name for cut in cut_candidates(open_backbone(staged_onnx), 3)]
    )
    spec = EngineSpec(runtime="openvino")
    engines, joined = draft_cuts(builders, spec)
    assert len(engines) == 3
    harm("os.kill(os.getpid(), signal.SIGSEGV)", "openvino.compile")
    assert is_known(joined.engine.digest())
    draft_cuts(builders, spec)
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "another"))
    with pytest.raises(AurevoirError, match=r"fp32 at several cuts on openvino crashes .* \(SIGSEGV\)"):
        draft_cuts(builders, spec)
