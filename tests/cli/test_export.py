"""``aurevoir export`` says what it wrote, and replaces nothing foreign."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest

from aurevoir import build_engine
from aurevoir.transfer.estimator import OpticalClassifier


@pytest.fixture(scope="module")
def engine(tiny_onnx, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    build_engine(tiny_onnx, smoke=False, out=path)
    return path


@pytest.fixture
def call(call):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    return partial(call, "export")


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_files_are_listed_with_their_digests(call, engine, tmp_path, form):
    out = tmp_path / "out"
    code, printed, err = call(engine, "--to", form, "--out", out, "--json")
    assert (code, err) == (0, "")
    result = json.loads(printed)
    assert (result["engine"], result["to"], result["out"]) == (str(engine), form, str(out))
    for each in result["files"]:
        data = Path(each["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (each["bytes"], each["sha256"])
    assert len(result["files"]) == (1 if form == "onnx" else 3)
    assert result["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["batch", 28, 28, 3]}]
    assert [each["name"] for each in result["outputs"]] == ["features", "bits", "pooled"]
    assert result["metadata"]["precision"] == "fp32"


def test_the_text_says_what_a_program_needs(call, engine, tmp_path):
    code, printed, _ = call(engine, "--to", "openvino", "--out", tmp_path / "ir", "--outputs", "bits")
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'ir'}: fp32 for openvino ")
    assert [line.split(maxsplit=1) for line in lines[1:5]] == [
        ["input", "images         uint8 (batch, 28, 28, 3)"],
        ["output", "bits           uint8 (batch, 25)"],
        ["images", "RGB, resized by stretch"],
        ["hint", "INFERENCE_PRECISION_HINT=f32"],
    ]
    assert len(lines) == 8


def test_targets_are_checked_before_the_work(call, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.load.read_engine", lambda path: pytest.fail("it works"))
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(b"\x08\x0a\x12\x07pytorch")
    for words, message in (
        (["--to", "onnx", "--out", mine], "exists and is not an exported ONNX file of aurevoir's"),
        (["--to", "onnx", "--out", engine], "is the input"),
        (["--to", "onnx", "--out", tmp_path], "is a folder"),
        (["--to", "openvino", "--out", mine], "ends in .onnx, and openvino is a folder of"),
        (["--to", "openvino", "--out", tmp_path], "exists and is not a folder of an exported engine"),
        (["--to", "tflite", "--out", tmp_path / "x"], "form 'tflite' is not known; choose one of onnx, openvino, plan"),
    ):
        code, printed, err = call(engine, *words)
        assert (code, printed, err.count("\n")) == (2, "", 1)
        assert message in err
    assert mine.read_bytes() == b"\x08\x0a\x12\x07pytorch"


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_one_s_own_is_replaced_with_a_note(call, engine, tmp_path, form):
    words = [engine, "--to", form, "--out", tmp_path / "out"]
    assert call(*words)[::2] == (0, "")
    code, _, err = call(*words)
    assert (code, err) == (0, f"aurevoir export: note: {tmp_path / 'out'} was there before, and has been replaced\n")


def test_an_engine_without_a_plan_names_the_way_to_one(call, engine, tmp_path):
    code, _, err = call(engine, "--to", "plan", "--out", tmp_path / "plan")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no plan; build one with `aurevoir build --target`" in err


def test_an_engine_from_elsewhere_runs_in_another_process_first(call, engine, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr("aurevoir.engine.first_load.check_first_load", lambda engine, path: checked.append(path))
    assert call(engine, "--to", "onnx", "--out", tmp_path / "e.onnx")[0] == 0
    assert checked == []
    assert call(engine, "--to", "openvino", "--out", tmp_path / "ir")[0] == 0
    assert checked == [str(engine)]


@pytest.mark.skipif(not hasattr(OpticalClassifier, "to_engine"), reason="classifiers are not engines yet")
def test_a_model_folder_is_exported_as_one_classifier(call, class_folder, tiny_onnx, tmp_path):
    OpticalClassifier(str(tiny_onnx)).fit(class_folder).save(tmp_path / "model")
    code, printed, err = call(tmp_path / "model", "--to", "openvino", "--out", tmp_path / "ir", "--json")
    assert code == 0, err
    result = json.loads(printed)
    assert result["metadata"]["labels"] == ["blue", "green", "red"]
    assert [each["name"] for each in result["outputs"]] == ["scores", "probabilities", "label"]
