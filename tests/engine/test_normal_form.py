"""The normal form: one network in the many disguises in which ONNX files have it computes the same in all of them."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import build_engine
from aurevoir.engine.normal_form import prepare
from aurevoir.errors import AurevoirError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _value(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def _weights():
    random = np.random.default_rng(0)
    weights = {}
    for index, shape in enumerate([(8, 3, 3, 3), (8, 1, 3, 3), (16, 8, 3, 3)]):
        weights[f"w{index}"] = random.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
        weights[f"b{index}"] = random.normal(size=shape[0]) / 4
    for name, (low, high) in {"scale": (0.5, 1.5), "shift": (-1, 1), "mean": (-1, 1), "variance": (0.5, 2)}.items():
        weights[name] = random.uniform(low, high, 8)
    weights |= {"g": random.normal(size=(24, 16)) / 4, "h": random.normal(size=24)}
    weights = {name: value.astype("float32") for name, value in weights.items()}
    return weights | {"low": np.float32(0), "high": np.float32(6)}


def _network():
    """Return a small network with a shortcut, of opset 13: all operators run on all runtimes."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", strides=[2, 2], pads=[1] * 4),
        node("BatchNormalization", ["c0", "scale", "shift", "mean", "variance"], ["n0"], name="norm"),
        node("Clip", ["n0", "low", "high"], ["r0"], name="clip"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="depthwise", group=8, pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], name="relu"),
        node("Add", ["r0", "r1"], ["s1"], name="shortcut"),
        node("MaxPool", ["s1"], ["p1"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], name="last"),
        node("GlobalAveragePool", ["c2"], ["v"], name="mean"),
        node("Flatten", ["v"], ["f"], name="flatten"),
        node("Gemm", ["f", "g", "h"], ["y"], name="head", transB=1),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in _weights().items()]
    graph = helper.make_graph(
        nodes, "network", [_value("x", shape=["n", 3, 32, 32])], [_value("y", shape=["n", 24])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _tensor(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _remove(model, *names):
    for name in names:
        model.graph.initializer.remove(_tensor(model, name))


def _add(model, **values):
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())


def _node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def _before(model, name, *nodes):
    """Insert nodes before the node of this name."""
    index = next(index for index, node in enumerate(model.graph.node) if node.name == name)
    for node in reversed(nodes):
        model.graph.node.insert(index, node)


def _behind_nodes(op, **attributes):
    """Return a disguise that puts every float weight behind a node."""

    def disguise(model):
        for tensor in list(model.graph.initializer):
            new = helper.make_node(op, [f"{tensor.name}_stored"], [tensor.name], **attributes)
            tensor.name += "_stored"
            model.graph.node.insert(0, new)

    return disguise


def _renamed(model, names):
    for node in model.graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                fields[index] = names.get(name, name)
    for item in [*model.graph.initializer, *model.graph.input, *model.graph.output]:
        item.name = names.get(item.name, item.name)


def old(opset, ir_version=3):
    """Clip with attributes, weights among the inputs."""

    def disguise(model):
        model.opset_import[0].version, model.ir_version = opset, ir_version
        if opset < 11:
            clip = _node(model, "clip")
            del clip.input[1:]
            clip.attribute.extend([helper.make_attribute("min", 0.0), helper.make_attribute("max", 6.0)])
            _remove(model, "low", "high")
        weights = [_value(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
        model.graph.input.extend(weights if ir_version == 3 else [])

    return disguise


def old_initializers_not_inputs(model):
    old(9)(model)
    del model.graph.input[1:]


def newest(model):
    model.opset_import[0].version, model.ir_version = onnx.defs.onnx_opset_version(), onnx.IR_VERSION


def constant_nodes(model):
    for tensor in list(model.graph.initializer):
        if tensor.name == "low":
            node = helper.make_node("Constant", [], ["low"], value_float=0.0)
        elif tensor.name == "h":
            node = helper.make_node("Constant", [], ["h"], value_floats=numpy_helper.to_array(tensor).tolist())
        else:
            node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
        model.graph.initializer.remove(tensor)


def computed_weights(model):
    """Weights behind Reshape, Transpose, Unsqueeze, Squeeze, arithmetic, ConstantOfShape and Concat."""
    w = {name: numpy_helper.to_array(_tensor(model, name)) for name in ("w0", "w1", "g", "b0", "b1", "h")}
    _remove(model, *w, "low")
    _add(model, flat=w["w0"].ravel(), shape=np.array([8, 3, -1, 3]), axes=np.array([1]), turned=w["g"].T)
    _add(model, thin=w["w1"][:, 0], double=w["b0"] * 2, two=np.float32(2), none=np.zeros(0, "int64"))
    _add(model, left=w["h"][:10], right=w["h"][10:], row=w["b1"][None])
    node = helper.make_node
    _before(
        model,
        "stem",
        node("Reshape", ["flat", "shape"], ["w0"]),
        node("Unsqueeze", ["thin", "axes"], ["w1"]),
        node("Transpose", ["turned"], ["g"]),
        node("Div", ["double", "two"], ["b0"]),
        node("ConstantOfShape", ["none"], ["low"]),
        node("Concat", ["left", "right"], ["h"], axis=0),
        node("Squeeze", ["row"], ["b1"]),
    )


def int8_weights(model):
    """Weights alone are int8, behind DequantizeLinear; they are exact multiples of their scales here."""
    _remove(model, "w2")
    codes, scales = _int8_weights()
    _add(model, codes=codes, scales=scales, points=np.zeros(16, "int8"))
    _before(model, "last", helper.make_node("DequantizeLinear", ["codes", "scales", "points"], ["w2"], axis=0))


def _int8_weights():
    weight = _weights()["w2"]
    scales = np.abs(weight).reshape(16, -1).max(1) / 127
    return np.round(weight / scales[:, None, None, None]).astype("int8"), scales.astype("float32")


def sparse_weights(model):
    for name, pairs in (("w0", True), ("h", False)):
        value = numpy_helper.to_array(_tensor(model, name))
        _remove(model, name)
        places = np.argwhere(value) if pairs else np.flatnonzero(value)
        values = numpy_helper.from_array(value[value != 0], name)
        indices = numpy_helper.from_array(places.astype("int64"), f"{name}_indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, value.shape))


def empty_names(model):
    _add(model, zero=np.zeros(8, "float32"))
    bias = helper.make_node("Conv", ["r1", "one", ""], ["r2"], name="one", group=8)
    _add(model, one=np.ones((8, 1, 1, 1), "float32"))
    _before(model, "shortcut", bias, helper.make_node("Dropout", ["r2", "", ""], ["r3", ""]))
    _node(model, "shortcut").input[1] = "r3"
    _node(model, "pool").output.append("")
    _node(model, "norm").output.extend([""] * 4)


def inference_dropout(model):
    _add(model, half=np.float32(0.5), no=np.array(False))
    _before(model, "shortcut", helper.make_node("Dropout", ["r1", "half", "no"], ["d1"]))
    _before(model, "shortcut", helper.make_node("Identity", ["d1"], ["i1"]))
    _node(model, "shortcut").input[1] = "i1"


def dropout_of_ratio_zero(model):
    _add(model, zero=np.float32(0), yes=np.array(True))
    _before(model, "shortcut", helper.make_node("Dropout", ["r1", "zero", "yes"], ["d1", "mask"]))
    _node(model, "shortcut").input[1] = "d1"


def scalars_of_shape_one(model):
    for name, value in (("low", 0), ("high", 6)):
        _remove(model, name)
        _add(model, **{name: np.array([value], "float32")})


def local_functions(model):
    """Conv with Clip, and inside it another function, of an older opset."""
    inner = helper.make_function(
        "own", "Limit", ["t", "low", "high"], ["u"], [helper.make_node("Clip", ["t", "low", "high"], ["u"])],
        [helper.make_opsetid("", 12)],
    )  # fmt: skip
    outer = helper.make_function(
        "own", "Block", ["t", "low", "high"], ["u"],
        [
            helper.make_node("Identity", ["t"], ["i"]),
            helper.make_node("Limit", ["i", "low", "high"], ["u"], domain="own"),
        ],
        [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    model.functions.extend([inner, outer])
    model.opset_import.append(helper.make_opsetid("own", 1))
    _node(model, "clip").op_type, _node(model, "clip").domain = "Block", "own"


def _branches(model, condition, *, wanted=True):
    """Put the last Conv into a branch of an If, the other of which negates its input; names inside are common ones."""
    last = _node(model, "last")
    then = helper.make_graph(
        [helper.make_node("Conv", ["p1", "w2", "b2"], ["t"]), helper.make_node("Identity", ["t"], ["u"])],
        "then", [], [_value("u", shape=["n", 16, None, None])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["p1"], ["t"])], "else", [], [_value("t", shape=["n", None, None, None])]
    )
    branches = {"then_branch": then, "else_branch": other}
    if not wanted:
        branches = {"then_branch": other, "else_branch": then}
    new = helper.make_node("If", [condition], ["c2"], name="if", **branches)
    index = list(model.graph.node).index(last)
    model.graph.node.remove(last)
    model.graph.node.insert(index, new)


def constant_if(model):
    _add(model, no=np.array([False]))
    _branches(model, "no", wanted=False)


def if_of_a_size(model):
    """The condition is computed from the height of a tensor, as torch's exporter writes it."""
    _add(model, two=np.array(2), six=np.array(6))
    _branches(model, "large")
    node = helper.make_node
    _before(
        model,
        "if",
        node("Shape", ["p1"], ["size"]),
        node("Gather", ["size", "two"], ["height"]),
        node("Greater", ["height", "six"], ["large"]),
    )


def nested_ifs(model):
    if_of_a_size(model)
    _add(model, yes=np.array(True))
    found = _node(model, "if")
    inner = copy.deepcopy(found)
    inner.output[0] = "inner"
    branch = helper.make_graph([inner], "outer", [], [_value("inner", shape=["n", 16, None, None])])
    other = helper.make_graph([helper.make_node("Identity", ["p1"], ["e"])], "other", [], [_value("e")])
    other.output[0].type.tensor_type.shape.SetInParent()
    new = helper.make_node("If", ["yes"], ["c2"], name="if", then_branch=branch, else_branch=other)
    found.CopyFrom(new)


def reshape_to_a_computed_shape(model):
    """Flatten as older exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    flat = _node(model, "flatten")
    flat.op_type = "Reshape"
    flat.input.append("to")
    _add(model, zero=np.array(0), axes=np.array([0]), rest=np.array([-1]))
    node = helper.make_node
    _before(
        model,
        "flatten",
        node("Shape", ["v"], ["size"]),
        node("Gather", ["size", "zero"], ["count"]),
        node("Unsqueeze", ["count", "axes"], ["counts"]),
        node("Concat", ["counts", "rest"], ["to"], axis=0),
    )


def float16(model):
    """All of it is float16, the image too."""
    _to(model, "float16", TensorProto.FLOAT16)


def bfloat16_weights(model):
    import ml_dtypes

    for tensor in list(model.graph.initializer):
        stored = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        model.graph.node.insert(0, helper.make_node("Cast", [f"{tensor.name}_stored"], [tensor.name], to=FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{tensor.name}_stored"))


def double(model):
    _to(model, "float64", TensorProto.DOUBLE)


def _to(model, dtype, kind):
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = kind


def float16_between_casts(model):
    float16(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = FLOAT
    _before(model, "stem", helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
    _node(model, "stem").input[0] = "x16"
    _before(model, "norm", helper.make_node("Cast", ["c0"], ["c32"], to=FLOAT))
    _before(model, "norm", helper.make_node("Cast", ["c32"], ["c16"], to=TensorProto.FLOAT16))
    _node(model, "norm").input[0] = "c16"
    _node(model, "head").output[0] = "y16"
    model.graph.node.append(helper.make_node("Cast", ["y16"], ["y"], to=FLOAT))


def names_of_ours(model):
    ours = "images features bits normalisation_gain normalisation_shift sign_zero bytes_shape images_float bit_places"
    theirs = [*[tensor.name for tensor in model.graph.initializer][:4], "x", "y", "c2", "r1", "s1"]
    _renamed(model, dict(zip(theirs, ours.split(), strict=True)))


def names_of_folded_tensors(model):
    _renamed(model, {"w1": "n0_folded_weight", "b1": "n0_folded_bias", "low": "high_scalar", "v": "y_shape"})
    scalars_of_shape_one_named(model)


def scalars_of_shape_one_named(model):
    _tensor(model, "high").dims.append(1)


def odd_names(model):
    names = {"r0": "层/π 'quoted\" \\", "w1": "w\n1", "c2": "x" * 5000, "s1": "a\tb", "f": " ", "b2": "::0"}
    _renamed(model, names)


def named_domain(model):
    """The standard operators' domain by its other name."""
    for item in [*model.opset_import, *model.graph.node]:
        item.domain = "ai.onnx"


def no_node_names(model):
    for node in model.graph.node:
        node.name = ""


def one_node_name(model):
    for node in model.graph.node:
        node.name = "node"


def reversed_order(model):
    nodes = copy.deepcopy(list(model.graph.node))[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def output_without_shape(model):
    model.graph.output[0].type.tensor_type.ClearField("shape")


def output_without_type(model):
    model.graph.output[0].ClearField("type")


def wrong_shapes(model):
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[0].dim_value, dims[1].dim_value = 1, 1000


def sequence_output(model):
    """A list of tensors is a second output, as some converters write it."""
    model.graph.node.append(helper.make_node("SplitToSequence", ["f"], ["parts"], axis=1))
    output = model.graph.output.add(name="parts")
    output.type.sequence_type.elem_type.tensor_type.elem_type = FLOAT


def several_outputs(model):
    """Tensors that others read are outputs too; the first is the default cut."""
    model.graph.output.extend([_value("r0", shape=["n", 8, 16, 16]), _value("f", shape=["n", 16])])


def foreign_behind_the_cut(model):
    """A custom operator, a training batch norm and a loop, which do not lead to the first output."""
    node = helper.make_node
    model.opset_import.append(helper.make_opsetid("vendor", 1))
    body = helper.make_graph(
        [node("Identity", ["go"], ["goes"]), node("Relu", ["state"], ["next"])], "body",
        [_value("i", INT64, []), _value("go", TensorProto.BOOL, []), _value("state", shape=["n", 24])],
        [_value("goes", TensorProto.BOOL, []), _value("next", shape=["n", 24])],
    )  # fmt: skip
    _add(model, times=np.array(3), yes=np.array(True))
    model.graph.node.extend(
        [
            node("Postprocess", ["y"], ["boxes"], domain="vendor"),
            node(
                "BatchNormalization",
                ["r0", "scale", "shift", "mean", "variance"],
                ["t", "m", "v1", "m1", "v2"],
                epsilon=0.1,
            ),
            node("Loop", ["times", "yes", "y"], ["last"], body=body),
        ]
    )
    model.graph.output.append(_value("boxes", shape=[None, 4]))


def other_height_and_width(model):
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "height", "width"
    if_of_a_size(model)


DISGUISES = {
    **{f"opset_{opset}": old(opset) for opset in (7, 8, 9, 10, 11, 12)},
    "opset_12_newer_ir": old(12, 7),
    "identity": _behind_nodes("Identity"),
    "cast": _behind_nodes("Cast", to=FLOAT),
    **{
        disguise.__name__: disguise
        for disguise in (
            old_initializers_not_inputs, newest, constant_nodes, computed_weights, int8_weights, sparse_weights,
            empty_names, inference_dropout, dropout_of_ratio_zero, scalars_of_shape_one, local_functions, constant_if,
            if_of_a_size, nested_ifs, reshape_to_a_computed_shape, float16, bfloat16_weights, double,
            float16_between_casts, names_of_ours, names_of_folded_tensors, odd_names, named_domain, no_node_names,
            one_node_name, reversed_order, output_without_shape, output_without_type, wrong_shapes, several_outputs,
            sequence_output, foreign_behind_the_cut, other_height_and_width,
        )
    },
}  # fmt: skip
COARSE = {"float16", "float16_between_casts", "bfloat16_weights", "int8_weights"}


@pytest.fixture(scope="module")
def photographs():
    """Smooth structured images."""
    random = np.random.default_rng(1)
    coarse = random.uniform(0, 255, (12, 5, 5, 3))
    places = np.linspace(0, 3.99, 32)
    low, part = places.astype(int), (places % 1)[:, None, None]
    rows = coarse[:, low] * (1 - part) + coarse[:, low + 1] * part
    columns = rows.transpose(0, 2, 1, 3)
    both = columns[:, low] * (1 - part) + columns[:, low + 1] * part
    return both.round().astype("uint8")


@pytest.fixture(scope="module")
def expected(photographs):
    """ONNX Runtime on the plain graph."""
    images = ((photographs / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype("float32")
    return onnxruntime.InferenceSession(_network().SerializeToString()).run(None, {"x": images})[0]


def _saved(name, folder):
    model = _network()
    DISGUISES[name](model)
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguised_network_computes_the_same_on_every_runtime(name, tmp_path, photographs, expected):
    backbone = open_backbone(_saved(name, tmp_path), size=32)
    atol = 0.03 if name in COARSE else 1e-4
    for runtime in ("openvino", "onnxruntime", "torch"):
        features = build_engine(backbone, runtime=runtime, smoke=False)(photographs)
        np.testing.assert_allclose(features, expected, atol=atol, err_msg=runtime)


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguised_network_is_quantized(name, tmp_path, photographs, expected):
    backbone = open_backbone(_saved(name, tmp_path), size=32)
    engine = build_engine(
        backbone, precision="int8", runtime="openvino", calibration=photographs, calibration_images=8, smoke=False
    )
    assert np.linalg.norm(engine(photographs) - expected) < 0.1 * np.linalg.norm(expected)
    assert engine.quantized_products() == ((5, 5) if name == "empty_names" else (4, 4))


def test_the_normal_form_is_that_of_the_plain_network(tmp_path):
    """What only looks different becomes the same nodes."""
    plain = [node.op_type for node in prepare(_network()).graph.node]
    assert "BatchNormalization" not in plain
    for name in set(DISGUISES) - {"empty_names", "reshape_to_a_computed_shape"}:
        backbone = open_backbone(_saved(name, tmp_path), size=32)
        found = [node.op_type for node in backbone.to_onnx(None).graph.node]
        assert [op_type for op_type in found if op_type != "Identity"] == plain, name


def test_a_shape_computed_from_the_batch_is_constant(tmp_path):
    graph = open_backbone(_saved("reshape_to_a_computed_shape", tmp_path)).to_onnx(None).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    assert tensors[next(node for node in graph.node if node.op_type == "Reshape").input[1]] == [0, -1]


def test_the_normal_form_of_a_normal_form_is_itself():
    once = prepare(_network())
    assert prepare(once) == once


def test_cuts_behind_identities_and_dropouts_stay(tmp_path, photographs):
    backbone = open_backbone(_saved("inference_dropout", tmp_path))
    for cut in ("d1", "i1"):
        features = build_engine(backbone, cut, runtime="onnxruntime", smoke=False)(photographs)
        np.testing.assert_array_equal(
            features, build_engine(backbone, "r1", runtime="onnxruntime", smoke=False)(photographs)
        )


def test_cuts_of_a_file_that_branches_are_before_the_branch(tmp_path):
    """A tensor that a branch reads is not done with before it."""
    cuts = [cut.name for cut in open_backbone(_saved_as(if_of_the_batch, tmp_path)).cuts()]
    assert cuts[-1] == "y"
    assert "s1" in cuts


def test_cuts_of_several_outputs_are_those_of_the_first_and_the_outputs(tmp_path):
    backbone = open_backbone(_saved_as(branching_outputs, tmp_path))
    cuts = {cut.name: cut for cut in backbone.cuts()}
    assert list(cuts) == ["n0", "r0", "s1", "p1", "side", "c2", "v", "f", "y"]
    assert backbone.resolve(None) == "y"
    assert cuts["side"].features == 8 * 16 * 16
    assert cuts["side"].macs == cuts["r0"].macs == 8 * 16 * 16 * 27


def branching_outputs(model):
    """A second output that does not lead to the first."""
    _before(model, "last", helper.make_node("Neg", ["r0"], ["side"]))
    model.graph.output.append(_value("side", shape=["n", 8, 16, 16]))


def test_constants_do_not_grow_without_bounds():
    """A graph of a few bytes that says to fill terabytes stays as it is."""
    model = _network()
    _add(model, terabytes=np.array([1 << 20, 1 << 20]), tensor=np.ones((1, 1), "float32"), times=np.array([1 << 40, 1]))
    node = helper.make_node
    model.graph.node.extend(
        [
            node("ConstantOfShape", ["terabytes"], ["a"]),
            node("Expand", ["tensor", "terabytes"], ["b"]),
            node("Tile", ["tensor", "times"], ["c"]),
        ]
    )
    model.graph.output.extend([_value("a"), _value("b"), _value("c")])
    left = [node.op_type for node in prepare(model).graph.node][-3:]
    assert left == ["ConstantOfShape", "Expand", "Tile"]


@pytest.mark.parametrize(("opset", "scale"), [(7, 1.7), (7, 2.0), (9, 1.7), (9, 2.0), (10, 0.7), (10, 1.7), (10, 2.0)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_old_resize_takes_the_same_pixels(tmp_path, opset, mode, scale):
    scales = [1.0, 1.0, scale, scale]
    if opset == 7:
        nodes, tensors = [helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=scales)], []
    else:
        nodes = [helper.make_node("Upsample" if opset == 9 else "Resize", ["x", "s"], ["y"], mode=mode)]
        tensors = [numpy_helper.from_array(np.array(scales, "float32"), "s")]
    graph = helper.make_graph(nodes, "g", [_value("x", shape=[1, 3, 9, 9])], [_value("y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    converted = open_backbone(tmp_path / "x.onnx").to_onnx(None)
    image = np.random.default_rng(0).normal(size=(1, 3, 9, 9)).astype("float32")
    np.testing.assert_allclose(_run(converted, image), _run(model, image), atol=1e-6)


def _run(model, image):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": image})[0]


def _behind(name, op, *inputs, after="r1", outputs=(), domain="", **attributes):
    """Return a disguise that puts a node between the node of a name and the tensor that it reads."""

    def disguise(model):
        new = helper.make_node(op, [after, *inputs], ["new", *outputs], domain=domain, **attributes)
        _before(model, name, new)
        node = _node(model, name)
        node.input[list(node.input).index(after)] = "new"
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return disguise


def training_norm(model):
    model.opset_import[0].version = 15
    _node(model, "norm").attribute.append(helper.make_attribute("training_mode", 1))
    _node(model, "norm").output.extend(["running_mean", "running_variance"])


def old_training_norm(model):
    old(9)(model)
    _node(model, "norm").output.extend(["m1", "v1", "m2", "v2"])


def training_dropout(model):
    _add(model, half=np.float32(0.5), yes=np.array(True))
    _behind("shortcut", "Dropout", "half", "yes")(model)


def if_of_the_batch(model):
    _add(model, zero=np.array(0), one=np.array(1))
    _branches(model, "alone")
    node = helper.make_node
    _before(
        model,
        "if",
        node("Shape", ["s1"], ["size"]),
        node("Gather", ["size", "zero"], ["count"]),
        node("Equal", ["count", "one"], ["alone"]),
    )


def loop(model):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Relu", ["state"], ["next"])], "body",
        [_value("i", INT64, []), _value("go", TensorProto.BOOL, []), _value("state", shape=["n", 8, 16, 16])],
        [_value("goes", TensorProto.BOOL, []), _value("next", shape=["n", 8, 16, 16])],
    )  # fmt: skip
    _add(model, times=np.array(3), yes=np.array(True))
    _before(model, "shortcut", helper.make_node("Loop", ["times", "yes", "r1"], ["new"], body=body))
    _node(model, "shortcut").input[1] = "new"


def quantized(model):
    _add(model, s=np.float32(0.1), z=np.int8(0))
    _before(model, "last", helper.make_node("QuantizeLinear", ["p1", "s", "z"], ["q"]))
    _before(model, "last", helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    _node(model, "last").input[0] = "d"


def too_new(model):
    model.opset_import[0].version = 999


def two_writers(model):
    _node(model, "relu").output[0] = "c0"


def no_weight(model):
    _remove(model, "w1")


def short_data(model):
    tensor = _tensor(model, "w1")
    tensor.raw_data = tensor.raw_data[:-8]


def old_hardmax(model):
    old(9)(model)
    _behind("shortcut", "Hardmax")(model)


def no_output(model):
    del model.graph.output[:]


def output_is_a_weight(model):
    model.graph.output[0].CopyFrom(_value("w0", shape=[8, 3, 3, 3]))


def nan_weight(model):
    weight = numpy_helper.to_array(_tensor(model, "w1")).copy()
    weight[3] = np.nan
    _tensor(model, "w1").CopyFrom(numpy_helper.from_array(weight, "w1"))


REFUSED = {
    no_output: "has no output",
    output_is_a_weight: "tensor 'w0' of network.onnx does not depend on the image",
    nan_weight: "network.onnx holds nan or inf in 1 of its tensors",
    training_norm: "tensor 'n0' of network.onnx is computed by the operator BatchNormalization, in training mode",
    old_training_norm: "BatchNormalization, in training mode",
    training_dropout: "Dropout, in training mode, in which it zeroes other values each time",
    if_of_the_batch: "tensor 'c2' .* If, whose condition",
    loop: "tensor 'new' .* Loop, ",
    quantized: "QuantizeLinear, which is already quantized",
    too_new: "opset 999, and the installed onnx knows",
    two_writers: "not a valid ONNX model: .*c0",
    no_weight: "not a valid ONNX model: .*w1",
    short_data: "not a valid ONNX model: .*",
    old_hardmax: "opset 9, which onnx cannot convert to 13: Hardmax",
    _behind("shortcut", "FusedAct", domain="com.microsoft"): "FusedAct of domain 'com.microsoft', which is not",
    _behind("head", "Normalizer", after="f", domain="ai.onnx.ml", norm="L2"): "Normalizer of domain 'ai.onnx.ml'",
    _behind("shortcut", "RandomNormalLike"): "RandomNormalLike, which draws random numbers",
    _behind("shortcut", "NoSuchOperator"): "not a valid ONNX model: .*NoSuchOperator",
}


def _saved_as(disguise, folder):
    model = _network()
    disguise(model)
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("disguise", "message"), REFUSED.items())
def test_what_cannot_be_a_backbone_is_refused_by_name(disguise, message, tmp_path):
    with pytest.raises(AurevoirError, match=message) as caught:
        build_engine(_saved_as(disguise, tmp_path), smoke=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("disguise", [training_dropout, if_of_the_batch, loop, old_hardmax])
def test_what_lies_before_is_read(disguise, tmp_path, photographs):
    features = build_engine(_saved_as(disguise, tmp_path), "s1" if disguise is if_of_the_batch else "r0", smoke=False)(
        photographs
    )
    assert features.shape == (12, 8 * 16 * 16)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_what_a_runtime_refuses_is_one_line_that_names_it(runtime, tmp_path, photographs):
    """A convolution whose weights are of other channels passes onnx's checker."""
    model = _network()
    _remove(model, "w2")
    _add(model, w2=np.ones((16, 5, 3, 3), "float32"))
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    says = "torch runtime does not support this: " if runtime == "torch" else f"'{runtime}' cannot .* this network: "
    with pytest.raises(AurevoirError, match=f"{says}.*channel") as caught:
        build_engine(tmp_path / "network.onnx", runtime=runtime, smoke=False)(photographs)
    assert "\n" not in str(caught.value)
    if runtime == "openvino":
        with pytest.raises(AurevoirError, match="fp32 on openvino fails in its first inference: runtime 'openvino'"):
            build_engine(tmp_path / "network.onnx", runtime=runtime)
        with pytest.raises(AurevoirError, match="^runtime 'onnxruntime' cannot run this network"):
            build_engine(tmp_path / "network.onnx", precision="int8", runtime=runtime, calibration=photographs)


@pytest.mark.parametrize(("opset", "scales"), [(18, 4), (21, 16)])
def test_group_normalization_is_read_as_it_is_defined(tmp_path, photographs, opset, scales):
    random = np.random.default_rng(0)
    weights = {"w": (16, 3, 3, 3), "scale": (scales,), "shift": (scales,), "last": (8, 16, 3, 3)}
    tensors = [numpy_helper.from_array(random.normal(size=shape).astype("f"), name) for name, shape in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("GroupNormalization", ["c", "scale", "shift"], ["n"], num_groups=4),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "last"], ["y"]),
    ]
    shapes = {"x": [3, 32, 32], "y": [8, 13, 13]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    (tmp_path / "groups.onnx").write_bytes(model.SerializeToString())
    images = ((photographs / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype("f")
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})
    expected = expected.reshape(len(images), -1)
    for runtime in ("openvino", "onnxruntime", "torch"):
        features = build_engine(tmp_path / "groups.onnx", runtime=runtime, smoke=False)(photographs)
        assert np.linalg.norm(features - expected) < 1e-4 * np.linalg.norm(expected)
