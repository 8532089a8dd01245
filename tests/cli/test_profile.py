"""``aurevoir profile``."""

import json
from functools import partial

import pytest
from PIL import Image

from aurevoir import build_engine


@pytest.fixture(scope="module")
def engine(tiny_onnx, pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels, smoke=False, out=path)
    return path


@pytest.fixture
def call(call):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    return partial(call, "profile")


def test_layers_are_printed_drawn_and_traced(call, engine, tmp_path):
    trace, figure = tmp_path / "t.json", tmp_path / "p.png"
    options = ("--batch", "8", "--calls", "5", "--trace", trace, "--plot", figure)
    code, out, err = call(engine, *options, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["engine"], result["precision"], result["batch"], result["calls"]) == (str(engine), "int8", 8, 5)
    assert sum(result["by_precision"].values()) == pytest.approx(1)
    events = json.loads(trace.read_text())["traceEvents"]
    assert [event["name"] for event in events] == [layer["name"] for layer in result["layers"]]
    assert Image.open(figure).width > 800
    code, out, err = call(engine, *options, "--top", "2")
    assert code == 0, err
    assert f"{trace} was there before, and has been replaced" in err
    # Compiled again, and a layer more or less may have been run.
    layers = len(json.loads(trace.read_text())["traceEvents"])
    head, whole, header, first, second, more, types, precisions = out.splitlines()
    assert head == "tiny.onnx to out, int8 on openvino (cpu), batch 8" or "int8 on openvino (cpu), batch 8" in head
    assert f"its {layers} layers" in whole
    assert header.split() == ["ms", "share", "sum", "precision", "type", "layer"]
    assert float(first.split()[0]) >= float(second.split()[0])
    assert more.startswith(f"{layers - 2} more layers; --top N shows more")
    assert types.startswith("by type: ")
    assert precisions.startswith("by precision: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch", "0"], 2, "argument --batch: 0 is less than 1"),
        (["--device", "npu9"], 2, "npu9"),
        (["--plot", "p.xyz"], 2, "--plot p.xyz ends in .xyz"),
        (["--trace", "."], 2, "."),
    ],
)
def test_bad_values_are_refused_before_the_work(call, engine, arguments, code, message):
    found, out, err = call(engine, *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_a_file_of_another_kind_is_not_replaced(call, engine, tmp_path):
    (tmp_path / "notes.json").write_text('{"notes": []}')
    code, _, err = call(engine, "--trace", tmp_path / "notes.json")
    assert code == 2
    assert "exists and is not a trace of aurevoir's" in err
