"""Batches that exporters fix inside graphs are freed, or the node that holds one is named."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError

node = helper.make_node
random = np.random.default_rng(0)


def _i(*values):
    return np.array(values, "int64")


def _f(*shape):
    return random.normal(size=shape).astype("float32")


def _reshape(shape, after=(), **constants):
    return [node("Reshape", ["b", "s"], ["c" if after else "y"]), *after], {"s": _i(*shape), **constants}


MEAN = [node("ReduceMean", ["c"], ["d"], axes=[2], keepdims=0), node("Gemm", ["d", "v"], ["y"])]
TOKENS = [node("Reshape", ["b", "s"], ["c"]), node("Transpose", ["c"], ["d"], perm=[0, 2, 1])]
GRAPHS = {
    "Reshape (1, C, -1)": _reshape((1, 16, -1), MEAN, v=_f(16, 10)),
    "Reshape (1, -1), Gemm": _reshape((1, -1), [node("Gemm", ["c", "v"], ["y"])], v=_f(784, 10)),
    "Reshape (1, m)": _reshape((1, 784)),
    "Squeeze of every axis of 1": ([node("GlobalAveragePool", ["b"], ["c"]), node("Squeeze", ["c"], ["y"])], {}),
    "Squeeze of the batch, and back": (
        [node("Squeeze", ["b", "a"], ["c"]), node("Reshape", ["c", "s"], ["y"])],
        {"a": _i(0), "s": _i(1, 16, 49)},
    ),
    "Gather of the first": (
        [node("Gather", ["b", "z"], ["c"], axis=0), node("Unsqueeze", ["c", "a"], ["y"])],
        {"z": np.array(0), "a": _i(0)},
    ),
    "Slice of the first": ([node("Slice", ["b", "z", "o", "z"], ["y"])], {"z": _i(0), "o": _i(1)}),
    "Split of the batch": ([node("Split", ["b", "o"], ["y"], axis=0)], {"o": _i(1)}),
    "Expand": ([node("GlobalAveragePool", ["b"], ["c"]), node("Expand", ["c", "s"], ["y"])], {"s": _i(1, 16, 7, 7)}),
    "Tile": ([node("GlobalAveragePool", ["b"], ["c"]), node("Tile", ["c", "s"], ["y"])], {"s": _i(1, 1, 7, 7)}),
    "class token": ([*TOKENS, node("Concat", ["t", "d"], ["y"], axis=1)], {"s": _i(1, 16, 49), "t": _f(1, 1, 16)}),
    "class token by ConstantOfShape": (
        [*TOKENS, node("ConstantOfShape", ["o"], ["t"]), node("Concat", ["t", "d"], ["y"], axis=1)],
        {"s": _i(1, 16, 49), "o": _i(1, 1, 16)},
    ),
    "Resize to sizes": ([node("Resize", ["b", "", "", "s"], ["y"], mode="linear")], {"s": _i(1, 16, 10, 11)}),
    "pieces of shapes": (
        [
            node("Shape", ["b"], ["h"]),
            node("Gather", ["h", "o"], ["g"], axis=0),
            node("Unsqueeze", ["g", "a"], ["u"]),
            node("Concat", ["one", "u", "rest"], ["s"], axis=0),
            node("Reshape", ["b", "s"], ["y"]),
        ],
        {"o": np.array(1), "a": _i(0), "one": _i(1), "rest": _i(-1)},
    ),
    "rows of all images": (
        [
            node("Transpose", ["b"], ["t"], perm=[0, 2, 1, 3]),
            node("Reshape", ["t", "s"], ["c"]),
            node("MatMul", ["c", "q"], ["d"]),
            node("Reshape", ["d", "r"], ["y"]),
        ],
        {"s": _i(7, 112), "q": _f(112, 5), "r": _i(1, 7, 5)},
    ),
    "attention, batch second": (
        [
            node("Reshape", ["b", "s"], ["c"]),
            node("Transpose", ["c"], ["d"], perm=[2, 0, 1]),
            node("Reshape", ["d", "flat"], ["e"]),
            node("MatMul", ["e", "q"], ["f"]),
            node("Reshape", ["f", "heads"], ["g"]),
            node("Transpose", ["g"], ["h"], perm=[1, 0, 2]),
            node("Transpose", ["h"], ["k"], perm=[0, 2, 1]),
            node("MatMul", ["h", "k"], ["l"]),
            node("Softmax", ["l"], ["m"], axis=-1),
            node("MatMul", ["m", "h"], ["n"]),
            node("Transpose", ["n"], ["o"], perm=[1, 0, 2]),
            node("Reshape", ["o", "back"], ["p"]),
            node("Transpose", ["p"], ["y"], perm=[1, 0, 2]),
        ],
        {"s": _i(1, 16, 49), "flat": _i(49, 16), "q": _f(16, 16), "heads": _i(49, 4, 4), "back": _i(49, 1, 16)},
    ),
    "output with the batch second": (
        [node("Reshape", ["b", "s"], ["c"]), node("Transpose", ["c"], ["y"], perm=[2, 0, 1])],
        {"s": _i(1, 16, 49)},
    ),
}
OF_SEVERAL = {
    "Reshape (2, C, -1)": (*_reshape((2, 16, -1), MEAN, v=_f(16, 10)), 2),
    "equal rows added": (
        *_reshape((3, 784), [node("Add", ["c", "k"], ["y"])], k=np.repeat(_f(1, 784), 3, axis=0)),
        3,
    ),
}


def _saved(folder, nodes, constants, batch):
    constants = {"w": _f(16, 3, 3, 3), **constants}
    graph = helper.make_graph(
        [node("Conv", ["x", "w"], ["a0"], strides=[2, 2]), node("Relu", ["a0"], ["b"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", 1, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    feeds = {"x": np.zeros((batch if isinstance(batch, int) else 1, 3, 16, 16), "float32")}
    shape = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0].shape
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, shape))
    onnx.save(model, folder / "x.onnx")
    return folder / "x.onnx"


def _compared(path, batch):
    """Features of six images at once, and by the file in its own batches."""
    exported = export_backbone(open_backbone(path))
    pixels = random.integers(0, 256, (6, 16, 16, 3), dtype="uint8")
    images = ((pixels / 255 - exported.mean) / exported.std).transpose(0, 3, 1, 2).astype("float32")
    session = onnxruntime.InferenceSession(path)
    parts = [session.run(None, {"x": images[start : start + batch]})[0] for start in range(0, 6, batch)]
    expected = np.concatenate([part.reshape(batch, -1) for part in parts])
    return onnxruntime.InferenceSession(exported.graph.SerializeToString()).run(None, {"images": pixels})[0], expected


@pytest.mark.parametrize("fixed", [1, "n"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_batch_of_one_is_freed_wherever_it_is_written(tmp_path, name, fixed):
    features, expected = _compared(_saved(tmp_path, *GRAPHS[name], fixed), 1)
    assert features.shape == expected.shape
    assert np.linalg.norm(features - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_batch_of_several_is_freed(tmp_path, name):
    nodes, constants, batch = OF_SEVERAL[name]
    features, expected = _compared(_saved(tmp_path, nodes, constants, batch), batch)
    assert features.shape == expected.shape
    assert np.linalg.norm(features - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("nodes", "constants", "batch", "held"),
    [
        (*_reshape((16, 49), [node("Softmax", ["c"], ["y"], axis=0)]), 1, r"1 in node 'y' \(Softmax\)"),
        (*_reshape((2, 784), [node("Add", ["c", "k"], ["y"])], k=_f(2, 784)), 2, r"2 in node 'y' \(Add\)"),
    ],
)
def test_what_computes_across_images_is_named(tmp_path, nodes, constants, batch, held):
    with pytest.raises(AurevoirError, match=f"fixed batch of {held}; export the network with a dynamic batch"):
        export_backbone(open_backbone(_saved(tmp_path, nodes, constants, batch)))


def test_a_graph_with_a_free_batch_stays_as_it_is(tiny_onnx):
    model, freed = open_backbone(tiny_onnx)._model, open_backbone(tiny_onnx).to_onnx(None)
    assert list(freed.graph.node) == list(model.graph.node)
    assert [tensor.name for tensor in freed.graph.initializer] == [tensor.name for tensor in model.graph.initializer]


@pytest.mark.parametrize("name", ["Reshape (1, C, -1)", "Resize to sizes", "Expand", "output with the batch second"])
def test_a_network_may_have_the_names_of_what_is_added(name, tmp_path):
    nodes, constants = GRAPHS[name]
    ends = ("shape", "scales", "apart", "apart_shape", "images_first")
    names = [f"{each.output[0]}/{end}" for each in nodes for end in ends]
    chain = [node("Relu", [before], [after]) for before, after in zip(["b", *names], names, strict=False)]
    later = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    for each in later:
        each.input[:] = [names[-1] if one == "b" else one for one in each.input]
    features, expected = _compared(_saved(tmp_path, [*chain, *later], constants, 1), 1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
