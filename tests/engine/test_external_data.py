"""Weights in files beside an ONNX file: read from there, and from nowhere else."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.engine.external_data import load_external_data
from aurevoir.errors import AurevoirError

VALUES = np.arange(12, dtype="float32")


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "network"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "w.bin").write_bytes(bytes(8) + VALUES.tobytes())
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    return folder / "net.onnx"


def model(location, **entries):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return helper.make_model(helper.make_graph([], "g", [], [], [tensor]))


def test_weights_beside_it_are_read(path):
    made = model("data/w.bin", offset=8, length=48)
    load_external_data(made, path)
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.initializer[0]), VALUES.reshape(3, 4))
    assert not made.graph.initializer[0].external_data


def test_weights_of_attributes_are_read(path):
    made = model("data/w.bin", offset=8)
    tensor = made.graph.initializer.pop()
    made.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))
    load_external_data(made, path)
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.node[0].attribute[0].t), VALUES.reshape(3, 4))


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "data/../../secret",
        "{outside}",
        "link",
        "linked_folder/secret",
        "linked_data/w.bin",
        "/dev/zero",
        "fifo",
        "data",
        "",
        ".",
        "C:/secret",
        "..\\secret",
        "absent",
        "data/w.bin\0.txt",
        "a" * 5000,
    ],
)
def test_nothing_else_is(path, tmp_path, location):
    folder = path.parent
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked_folder").symlink_to(tmp_path)
    (folder / "linked_data").symlink_to(folder / "data")
    os.mkfifo(folder / "fifo")
    with pytest.raises(AurevoirError, match="keeps in files beside it cannot be read: tensor 'w': ") as refused:
        load_external_data(model(location.format(outside=tmp_path / "secret")), path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 2**62},
        {"offset": -8},
        {"offset": "x"},
        {"length": 2**40},
        {"length": 4},
        {"offset": 9, "length": 48},
    ],
)
def test_lengths_are_those_of_the_shape_and_of_the_file(path, entries):
    with pytest.raises(AurevoirError, match="cannot be read: tensor 'w'"):
        load_external_data(model("data/w.bin", **entries), path)


def test_a_sparse_file_of_any_size_gives_no_more_than_a_graph_holds(path):
    with (path.parent / "data" / "w.bin").open("ab") as file:
        file.truncate(2**40)
    made = model("data/w.bin")
    made.graph.initializer[0].dims[0] = 2**36
    with pytest.raises(AurevoirError, match=r"2.0 GiB at most"):
        load_external_data(made, path)


def test_strings_are_no_weights(path):
    made = model("data/w.bin")
    made.graph.initializer[0].data_type = onnx.TensorProto.STRING
    with pytest.raises(AurevoirError, match="no type that numbers have|holds strings"):
        load_external_data(made, path)
