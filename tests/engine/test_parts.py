"""Engine files of right digests whose parts contradict each other, or are damaged, are refused in one line."""

import hashlib
import json

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged_bytes, damaged_json

from aurevoir import load_engine
from aurevoir.archive import pack
from aurevoir.engine.assemble import assemble
from aurevoir.engine.engine import Engine
from aurevoir.errors import AurevoirError, UsageError


@pytest.fixture
def parts(exported, table):
    engine = assemble(exported, "int8", "openvino", table).with_speeds({"int8": 2.0})
    found = engine.parts()
    return {"manifest.json": engine.manifest.to_json({}), **found, "speeds.json": b'{"int8": 2.0}'}


def repaired(parts, /, **changes):
    """Return the parts with changed fields of the manifest, and the digests of what is there."""
    content = json.loads(parts["manifest.json"])
    others = {name: data for name, data in parts.items() if name not in ("manifest.json", "speeds.json")}
    content["parts"] = {name: hashlib.sha256(data).hexdigest() for name, data in others.items()}
    return {**parts, "manifest.json": json.dumps(content | changes).encode()}


def refused(parts, message):
    with pytest.raises(AurevoirError, match=message) as error:
        Engine.from_parts(parts, "e.engine")
    assert "\n" not in str(error.value)
    assert "e.engine" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 16}, r"features of float \['batch', \d+\], and its manifest says float \['batch', 16\]"),
        ({"features": 0}, "features 0 is not an integer"),
        ({"features": 1e9}, "features 1000000000.0 is not an integer"),
        ({"input_shape": [8, 8, 3]}, "images of uint8 .* and its manifest says uint8"),
        ({"input_shape": [8, 8]}, r"input_shape \[8, 8\] is not an array of 3 values"),
        ({"input_shape": [65536, 65536, 3]}, "holds more than 268,435,456 values"),
        ({"mean": [0.5]}, "1 means and 3 standard deviations for 3 channels"),
        ({"std": [1, 1, 0]}, r"std\[2\] 0 is not a number above 0"),
        ({"mean": [0, float("nan"), 0]}, r"mean\[1\] nan is not a number"),
        ({"precision": "int4"}, "precision 'int4' is not one of fp32, fp16, bf16, int8"),
        ({"precision": "fp32"}, "activation_dtype is of int8, and the precision is fp32"),
        ({"activation_dtype": None}, "int8 has an activation_dtype"),
        ({"runtime": "os"}, "runtime 'os' is not one of"),
        ({"placement": "zzz"}, "placement 'zzz' is not one of"),
        ({"resize": "zzz"}, "resize 'zzz' is not one of"),
        ({"channel_order": "GBR"}, "channel_order 'GBR' is not one of"),
        ({"weight_levels": 128}, "weight_levels 128 is not an integer from 1 to 127"),
        ({"sign_agreement": 2}, "sign_agreement 2 is not a number from 0 up to 1"),
        ({"target": "sm89; rm"}, "target 'sm89; rm' is not a GPU architecture"),
        ({"graph": "0" * 64}, "its calibration table is of another graph"),
        ({"graph": "x"}, "graph 'x' is not the 64"),
        ({"extra": 1}, "'extra' is not known"),
        ({"schema": "aurevoir-engine/4"}, "written by a newer version of aurevoir; upgrade"),
        ({"parts": {"../x": "0" * 64}}, "'../x' is not one of"),
        ({"parts": []}, r"parts \[\] is not an object"),
    ],
)
def test_a_manifest_that_contradicts_is_refused(parts, changes, message):
    assert Engine.from_parts(repaired(parts), "e.engine").images_per_second == {"int8": 2.0}
    refused(repaired(parts, **changes), message)


def test_parts_are_complete_and_belong_to_the_precision(parts):
    whole = repaired(parts)
    refused({name: data for name, data in whole.items() if name != "model.onnx"}, "part model.onnx is missing")
    refused({name: data for name, data in whole.items() if name != "calibration.json"}, "calibration.json is missing")
    refused(repaired({**parts, "plan.bin": b"x"}), "holds a plan, which runtime 'openvino' has not")
    refused(repaired({**parts, "model.onnx": b"x"}), "holds bytes that are no ONNX graph")
    refused(repaired({**parts, "calibration.json": b"x"}), "part calibration.json: not a calibration table")


def test_a_graph_of_other_inputs_and_outputs_is_refused(parts):
    for change in (
        lambda graph: graph.output.reverse(),
        lambda graph: graph.output.pop(),
        lambda graph: graph.input.append(graph.output[0]),
        lambda graph: graph.output[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 1),
        lambda graph: graph.output[1].type.tensor_type.shape.dim[1].__setattr__("dim_value", 1),
        lambda graph: graph.output[0].type.tensor_type.__setattr__("elem_type", onnx.TensorProto.DOUBLE),
        lambda graph: graph.input[0].__setattr__("name", "picture"),
    ):
        model = onnx.load_from_string(parts["model.onnx"])
        change(model.graph)
        refused(
            repaired({**parts, "model.onnx": model.SerializeToString()}),
            "holds .*(instead of images, features, bits|and its manifest says)",
        )


def test_a_folder_or_a_fifo_is_no_engine(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(UsageError, match="is not a file; build one"):
            load_engine(path)
    with pytest.raises(UsageError, match="does not exist"):
        load_engine(tmp_path / "nothing")
    with pytest.raises(UsageError, match="null"):
        load_engine("a\0b")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_to_any_part_ends_in_one_line(parts, data):
    name = data.draw(st.sampled_from(sorted(parts)))
    damaged = data.draw((damaged_bytes if name == "model.onnx" else damaged_json)(parts[name]))
    changed = {**repaired(parts), name: damaged}
    if name not in ("manifest.json", "speeds.json"):
        changed = repaired(changed)
    try:
        Engine.from_parts(changed, "e.engine")
    except AurevoirError as error:
        assert "\n" not in str(error)
    pack(changed)
