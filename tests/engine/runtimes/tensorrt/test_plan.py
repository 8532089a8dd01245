"""Plans built by NVIDIA's own parser and builder, as TensorRT-RTX has them: options, refusals, logs and layers."""

import json
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorrt_fake import recorded_tensorrt

from aurevoir.engine.runtimes import on_tensorrt_rtx
from aurevoir.engine.runtimes.tensorrt_plan import build_plan, describe_plan
from aurevoir.errors import AurevoirError, UsageError


def _network(operator="Relu", channels=3):
    """A convolution and one more operator; the convolution takes 3 channels or is broken."""
    weights = np.random.default_rng(0).normal(size=(4, channels, 3, 3)).astype("float32")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["sums"], name="stem"),
        helper.make_node(operator, ["sums"], ["last"], name="head"),
        helper.make_node("Flatten", ["last"], ["features"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 144])
    graph = helper.make_graph(nodes, "net", [images], [features], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(("precision", "target"), [("fp32", "sm89"), ("fp16", "sm120"), ("int8", "sm80")])
def test_plans_are_built_without_a_gpu(rtx, graphs, precision, target):
    assert precision in on_tensorrt_rtx.buildable()
    assert target in on_tensorrt_rtx.targets()
    plan = on_tensorrt_rtx.build(graphs[precision], precision, target=target, batches=(1, 8, 32))
    assert plan[:4] == on_tensorrt_rtx.build(_network(), "fp32", target=target)[:4]
    assert len(plan) > len(graphs[precision]) / 4


def test_a_build_differs_by_target_and_largest_batch(rtx):
    def plan(**options):
        return build_plan(rtx, _network(), **options)

    assert len({plan(target="sm89"), plan(target="sm80"), plan(target="sm89", batches=(1, 2, 3))}) == 3


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_progress_timing_cache_and_workspace(rtx, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    timings = tmp_path / "timings"
    options = {"target": "sm89", "workspace": 2**28, "timing_cache": timings, "progress": True}
    assert on_tensorrt_rtx.build(_network(), "fp32", **options)
    assert "Building engine" in capsys.readouterr().err
    written = timings.read_bytes()
    assert written
    timings.write_bytes(b"damaged" * 30)
    assert on_tensorrt_rtx.build(_network(), "fp32", **options | {"progress": False})
    assert timings.read_bytes() == written
    assert "Building" not in capsys.readouterr().err


def test_options_reach_the_builder():
    trt, config = recorded_tensorrt()
    assert build_plan(trt, b"") == b"plan"
    config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)
    config.set_flag.assert_not_called()
    assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit.assert_not_called()
    config.create_timing_cache.assert_not_called()


@pytest.mark.parametrize("damage", ["none", "another GPU", "no cache"])
def test_the_timing_cache_is_read_and_written(tmp_path, caplog, damage):
    trt, config = recorded_tensorrt()
    old, new = MagicMock(), MagicMock()
    new.serialize.return_value = old.serialize.return_value = b"timings"
    config.create_timing_cache.side_effect = [None if damage == "no cache" else old, new]
    config.set_timing_cache.side_effect = lambda cache, ignore: not ignore and (damage == "none" or cache is new)
    (tmp_path / "cache").write_bytes(b"before")
    build_plan(trt, b"", timing_cache=tmp_path / "cache")
    assert config.create_timing_cache.call_args_list[0].args == (b"before",)
    assert config.set_timing_cache.call_args.args[0] is (old if damage == "none" else new)
    assert ("it is rebuilt" in caplog.text) == (damage != "none")
    assert (tmp_path / "cache").read_bytes() == b"timings"


def test_a_workspace_that_is_too_small_gives_nvidias_reason(rtx, capsys):
    with pytest.raises(AurevoirError, match=r"could not build this network: .*workspace"):
        build_plan(rtx, _network(), target="sm89", workspace=1, progress=True)


def test_the_log_goes_to_logging(rtx, caplog):
    caplog.set_level(logging.DEBUG, "aurevoir.tensorrt")
    build_plan(rtx, _network(), target="sm89")
    with pytest.raises(AurevoirError):
        build_plan(rtx, _network("Det"), target="sm89")
    levels = {record.levelno for record in caplog.records if record.name == "aurevoir.tensorrt"}
    assert levels >= {logging.DEBUG, logging.INFO, logging.ERROR}
    assert any("stem" in record.message for record in caplog.records)


def test_unknown_targets_and_batches_out_of_order(rtx):
    with pytest.raises(UsageError, match=r"target 'sm90' is not one .*: sm75, (?!.*(current|none)).*sm120") as caught:
        build_plan(rtx, _network(), target="sm90")
    assert "sm89" in str(caught.value)
    with pytest.raises(UsageError, match=r"batches \(1, 9, 8\)"):
        build_plan(rtx, _network(), batches=(1, 9, 8))
    with pytest.raises(UsageError, match="not 'bf16'"):
        on_tensorrt_rtx.build(_network(), "bf16", target="sm89")


def test_a_refused_network_names_the_node_and_its_operator(rtx):
    with pytest.raises(AurevoirError, match="node 'head', operator Det: UNSUPPORTED_NODE"):
        build_plan(rtx, _network("Det"), target="sm89")
    with pytest.raises(AurevoirError, match="node 'stem', operator Conv: .*failed to broadcast"):
        build_plan(rtx, _network(channels=2), target="sm89")


def test_every_refusal_is_told(rtx):
    model = onnx.load_from_string(_network("Det"))
    model.graph.node.append(helper.make_node("Compress", ["last", "mask"], ["few"], name="tail"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "mask"))
    with pytest.raises(AurevoirError) as caught:
        build_plan(rtx, model.SerializeToString(), target="sm89")
    assert re.findall(r"node '\w+', operator \w+", str(caught.value)) == [
        "node 'head', operator Det",
        "node 'tail', operator Compress",
    ]


def test_layers_are_described_in_either_format():
    new = {"Name": "stem", "LayerType": "gemm", "Outputs": [{"Datatype": "Int8"}]}
    old = {"Name": "head", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major linear FP16"}]}
    report = json.dumps({"Layers": ["tail", new, old, {"Name": "end", "Outputs": []}]})
    inspector = SimpleNamespace(get_engine_information=lambda form: report if form == "json" else "")
    trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    layers = describe_plan(trt, SimpleNamespace(create_engine_inspector=lambda: inspector))
    assert [tuple(layer.values()) for layer in layers] == [
        ("tail", None, None),
        ("stem", "gemm", "Int8"),
        ("head", "Reformat", "Row major linear FP16"),
        ("end", None, None),
    ]


def test_the_builder_s_remarks_reach_no_program_that_has_set_up_no_logging():
    code = "from aurevoir.engine.runtimes.tensorrt_plan import LOG; LOG.warning('output label: Int64')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
