"""Files that are no ONNX models, or not whole: each ends in one line on the command line."""

import os

import onnx
import pytest

from aurevoir.cli.main import main


def _empty(path, whole):
    path.write_bytes(b"")


def _garbage(path, whole):
    path.write_bytes(os.urandom(3000))


def _text(path, whole):
    path.write_text("<html>404</html>\n" * 9)


def _truncated(path, whole):
    path.write_bytes(whole[: len(whole) // 2])


def _larger_than_protobuf(path, whole):
    path.touch()
    os.truncate(path, (1 << 31) + 1)


def _folder(path, whole):
    path.mkdir()


def _outside(path, whole):
    onnx.save(onnx.load_from_string(whole), path, save_as_external_data=True, size_threshold=0, location="weights.bin")


def _without_outside(path, whole):
    _outside(path, whole)
    (path.parent / "weights.bin").unlink()


def _short_outside(path, whole):
    _outside(path, whole)
    os.truncate(path.parent / "weights.bin", 100)


def _outside_elsewhere(path, whole):
    _outside(path, whole)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../etc/passwd"
    path.write_bytes(model.SerializeToString())


def _huge_outside(path, whole):
    model = onnx.load_from_string(whole)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[0] = 1 << 30
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    path.write_bytes(model.SerializeToString())


def _endless(path, whole):
    model = onnx.load_from_string(whole)
    model.graph.initializer.add(name="endless", data_type=onnx.TensorProto.FLOAT).dims.extend([1 << 62] * 300)
    path.write_bytes(model.SerializeToString())


def _endless_outside(path, whole):
    _endless(path, whole)
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[-1]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_endless, r"holds more than 2\^80 bytes, and a graph in memory 2.0 GiB at most"),
        (_endless_outside, r"holds more than 2\^80 bytes, and a graph in memory 2.0 GiB at most"),
        (_empty, "is not a valid ONNX model"),
        (_garbage, "is not a valid ONNX model"),
        (_text, "is not a valid ONNX model"),
        (_truncated, "is not a valid ONNX model"),
        (_larger_than_protobuf, "holds 2.0 GiB, and a graph in memory 2.0 GiB at most"),
        (_folder, "does not exist"),
        (_without_outside, "in files beside it cannot be read: .*weights.bin"),
        (_short_outside, "in files beside it cannot be read: .*stem.0.weight"),
        (_outside_elsewhere, "in files beside it cannot be read"),
        (_huge_outside, "GiB, and a graph in memory 2.0 GiB at most"),
    ],
)
@pytest.mark.parametrize("command", ["cuts", "build"])
def test_a_file_that_is_not_whole_is_one_line_on_stderr(damage, message, command, tmp_path, tiny_onnx, capsys):
    import re

    path = tmp_path / "backbone.onnx"
    damage(path, tiny_onnx.read_bytes())
    code = main([command, str(path), *(["--out", str(tmp_path / "x.engine")] if command == "build" else [])])
    out, err = capsys.readouterr()
    assert code in (1, 2)
    assert not out
    assert err.startswith(f"aurevoir {command}: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
