"""Fused networks: their plans, their kernels in Triton's interpreter in a child process, and compiled for GPUs."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from ahead import INTEGER_TENSOR_CORES, compiled  # noqa: E402

from aurevoir.cache import Cache  # noqa: E402
from aurevoir.engine.build import EngineBuilder  # noqa: E402
from aurevoir.engine.runtimes import on_triton  # noqa: E402
from aurevoir.engine.runtimes.fused import kernels  # noqa: E402
from aurevoir.engine.runtimes.fused.chain import Chain  # noqa: E402
from aurevoir.engine.runtimes.fused.network import FusedNetwork  # noqa: E402
from aurevoir.engine.runtimes.fused.plan import Step, Tail, plan  # noqa: E402
from aurevoir.engine.runtimes.fused.steps import traffic  # noqa: E402
from aurevoir.engine.runtimes.fused.tiles import Tile, Tuner, Work, take_tiles, tiles_for, tiles_on_a_gpu  # noqa: E402
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec  # noqa: E402
from aurevoir.errors import AurevoirError  # noqa: E402
from aurevoir.kernels.bits import agreement  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter")
# Each of them takes the interpreter some 20 s.
whole = pytest.mark.skipif("AUREVOIR_TEST_NETWORKS" not in os.environ, reason="AUREVOIR_TEST_NETWORKS is not set")
parent = pytest.mark.skipif(INTERPRETED, reason="is the parent")
SIZE = 32
DENSENET = ("densenet169", "denseblock4.denselayer12")


def shrunk(path, folder):
    """Return a convolutional network's file for images of `SIZE`."""
    model = onnx.load(path)
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = SIZE
    for index, axis in enumerate(model.graph.output[0].type.tensor_type.shape.dim[2:]):
        axis.dim_param = f"length{index}"
    del model.graph.value_info[:]
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    """A function from a network's name to its builder, calibrated on real photographs."""
    known = {}

    def make(name):
        if name not in known:
            photographs = CalibrationSpec(data=[data("calibration500")], images=32)
            if name == "densenet169":
                spec = NetworkSpec(backbone=DENSENET[0], cut=DENSENET[1], weights="random", size=SIZE)
            else:
                path = shrunk(data(f"backbones/{name}.onnx"), tmp_path_factory.mktemp("small"))
                spec = NetworkSpec(backbone=path, size=SIZE)
            known[name] = EngineBuilder(spec, photographs)
        return known[name]

    return make


@pytest.fixture(scope="module")
def graph(network):
    """A function to the graph of a network's engine."""

    def make(name, precision="int8", placement="conv-inputs"):
        pytest.importorskip("onnxruntime")
        spec = EngineSpec(precision=precision, runtime="onnxruntime", activation_dtype="int8", placement=placement)
        return onnx.load_from_string(network(name).draft(spec).graph)

    return make


def run_onnxruntime(model, pixels, names=()):
    """Return outputs, and tensors of these names, computed as the graph says."""
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    whole.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names).keys() - known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options)
    values = session.run(None, {session.get_inputs()[0].name: pixels})
    return dict(zip((output.name for output in session.get_outputs()), values, strict=True))


# Plans


@parent
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mobilenetv2", {"convolution": 36, "depthwise": 17, "images": 1, "map": 7}),
        pytest.param("resnet50v2_stage3", {"convolution": 43, "max pool": 1, "images": 1, "map": 2}, marks=whole),
    ],
)
def test_nothing_is_left_between_convolutions(graph, name, kinds):
    made = plan(graph(name))
    assert Counter(step.kind for step in made.fused) == kinds
    assert not made.others
    assert isinstance(made.steps[-1], Tail)
    # The one map makes levels of the images.
    assert made.fused[0].source.stored.kind == "uint8"
    residuals = [step for step in made.fused if step.epilogue.residual is not None]
    assert len(residuals) == sum(node.op_type == "Add" for node in graph(name).graph.node) - 1


class Dense(torch.nn.Module):
    """A pre-activation network whose layers are concatenated, and concatenated again."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, 2, 1)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(16 + 8 * index) for index in range(4))
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(16 + 8 * index, 8, 3, 1, 1) for index in range(4))

    def forward(self, x):
        parts = [self.first(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            parts.append(layer(torch.relu(norm(torch.cat(parts, 1)))))
        return torch.cat(parts, 1)


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype="uint8")
    network = NetworkSpec(backbone=Dense().eval(), cut="layers.3", size=SIZE)
    return EngineBuilder(network, CalibrationSpec(data=pixels)), pixels


@pytest.mark.parametrize("placement", ["conv-inputs", "shared-concat"])
def test_concatenated_tensors_are_written_side_by_side(dense, placement):
    builder, _ = dense
    spec = EngineSpec(precision="int8", runtime="onnxruntime", activation_dtype="int8", placement=placement)
    made = plan(onnx.load_from_string(builder.draft(spec).graph))
    first, *written, _ = (step.output for step in made.fused if step.kind == "convolution")
    assert {each.buffer for each in written} == {written[0].buffer}
    assert [each.first for each in written] == [16, 24, 32]
    assert {each.kind for each in written} == {"int8" if placement == "shared-concat" else "float16"}
    # Only what is read as a float besides is written twice.
    copied = [step.source.stored for step in made.fused if "Concat" in step.nodes]
    assert copied == ([first] if placement == "shared-concat" else [])


def test_a_chain_is_what_its_parts_do_one_after_the_other():
    x = np.linspace(-3, 3, 41)[:, None] * np.ones(2)
    gain, shift = np.array([1.5, -0.5]), np.array([0.2, 1.0])
    chain = Chain().scaled(gain, shift).clipped(-0.5, 2.0).clipped(0.0, 6.0).rounded(0.01)
    by_channel, constant, low, high = chain.of_levels(0.5)
    expected = np.clip(np.rint(np.clip(x * 0.5 * gain + shift, 0.0, 2.0) / 0.01), -128, 127)
    np.testing.assert_array_equal(np.rint(np.clip(x * by_channel + constant, low, high)), expected)
    assert chain.scaled(gain, shift) is None
    assert chain.clipped(0, 1) is None
    assert chain.rounded(0.02) is None
    assert Chain().is_empty


def test_unsigned_activations_are_refused_in_one_line(dense):
    builder, _ = dense
    spec = EngineSpec(precision="int8", runtime="onnxruntime", activation_dtype="uint8")
    graph = builder.draft(spec).graph
    with pytest.raises(AurevoirError, match="not signed int8 with zero-point 0; use runtime .*activation_dtype int8"):
        on_triton.check(graph)


@parent
def test_the_steps_are_listed_without_a_gpu(graph):
    model = graph("mobilenetv2")
    listed = on_triton.layers(model.SerializeToString(), "int8", "cuda")
    assert len(listed) == 62
    assert listed[1] == {
        "name": listed[1]["name"],
        "type": "convolution, Clip, QuantizeLinear",
        "precision": "int8 to int8",
    }
    assert listed[-1]["type"] == "features, sign bits, channel means"
    moved = dict(traffic(plan(model), 8))
    alone = dict(traffic(plan(model), 1))
    # Weights are read once a batch.
    assert all(moved[name] <= 8 * alone[name] for name in moved)
    assert moved["features"] == 8 * alone["features"]


@parent
def test_the_fastest_tile_is_taken_and_each_kind_is_timed_once():
    work = Work(10**6, 128, 256, 1, everywhere=True, before=True, residual=False, read="int8", stored="int8")
    tiles, tried = tiles_for(work), []

    def launch(tile):
        tried.append(tile)

    def seconds(run):
        run()
        return -len(tried)

    tuner = Tuner(seconds)
    assert tuner.tune(work, launch) == tiles[-1] == tuner.tune(work, launch)
    assert tried == list(tiles)


@parent
def test_tiles_are_timed_once_for_a_graph_and_gpu(tmp_path):
    store, timed = Cache(tmp_path), []
    work = Work(10**6, 128, 256, 1, everywhere=True, before=True, residual=False, read="int8", stored="int8")
    tile = tiles_for(work)[-1]

    def taken(of, store):
        chosen = {}

        def tune():
            timed.append(of)
            chosen[work] = tile

        take_tiles(chosen, tune, of, store)
        assert chosen == {work: tile}
        assert isinstance(chosen[work], Tile)

    for of in (["graph", "a GPU"], ["graph", "a GPU"], ["graph", "another GPU"], ["another graph", "a GPU"]):
        taken(of, store)
    taken(["graph", "a GPU"], None)
    assert timed == [["graph", "a GPU"], ["graph", "another GPU"], ["another graph", "a GPU"], ["graph", "a GPU"]]
    for strange in (
        b"[",
        b"[[[1], [2]]]",
        json.dumps([[work._replace(places=-1), tile]]).encode(),
        json.dumps([[work, tile._replace(rows=7)]]).encode(),
    ):
        for each in store.entries():
            store.put("tiles", each.path.name, strange)
        timed.clear()
        taken(["graph", "a GPU"], store)
        assert timed == [["graph", "a GPU"]]


@parent
def test_a_batch_that_was_not_timed_has_the_tile_of_the_nearest():
    tuner = Tuner(lambda run: 0.0)
    work = Work(100, 128, 256, 1, everywhere=True, before=True, residual=False, read="int8", stored="int8")
    assert tuner.nearest(work) == tiles_for(work)[0]
    tuner.chosen = {work: Tile(1, 1, 1, 1, 1), work._replace(places=10**6): Tile(2, 2, 2, 2, 2)}
    assert tuner.nearest(work._replace(places=9000)).rows == 1
    assert tuner.nearest(work._replace(places=11000)).rows == 2
    assert tuner.nearest(work._replace(places=11000, before=False)) == tiles_for(work._replace(places=11000))[0]


# Numerics


@parent
def test_numerics_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


@interpreted
@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("mobilenetv2", "conv-inputs"),
        pytest.param("resnet50v2_stage3", "conv-inputs", marks=whole),
        pytest.param("densenet169", "shared-concat", marks=whole),
    ],
)
def test_every_step_computes_what_onnxruntime_does(graph, network, name, placement):
    model = graph(name, placement=placement)
    pixels = network(name).sample[1][:2]
    run = FusedNetwork(model)
    expected = run_onnxruntime(model, pixels, [step.tensor for step in run.plan.fused])
    for step, levels, share in stepwise(run, torch.from_numpy(pixels), expected):
        # Where a value lies just between two levels, the order of floating-point operations decides, and where it was
        # stored as float16, the last of its digits.
        residual = step.epilogue.residual
        floats = "float16" in (step.source.stored.kind, residual.kind if residual else "")
        assert share < (0.1 if floats else 2e-3), step.tensor
        assert levels <= (2 if floats else 1), step.tensor


def stepwise(network, pixels, expected):
    """Yield each step, the most levels that it is off, and the share that is off, given the right inputs."""
    run = network.run(pixels)
    for step, each in zip(network.plan.steps, network.launchers, strict=True):
        each(run)
        if not isinstance(step, Step):
            continue
        target, values = run.tensor(step.output), expected[step.tensor].transpose(0, 2, 3, 1)
        if step.kind == "images":
            values = bordered(values, step)
        scale = step.output.scale if step.output.kind == "int8" and values.dtype != np.int8 else 1.0
        right = np.rint(values / scale) if step.output.kind == "int8" else values
        found = target.numpy().astype("float64")
        if step.output.kind == "int8":
            yield step, int(np.abs(found - right).max()), float((found != right).mean())
        else:
            np.testing.assert_allclose(found, right, rtol=2e-3, atol=2e-3 * np.abs(right).max())
        target.copy_(torch.from_numpy(np.ascontiguousarray(right)).to(target.dtype))


def bordered(images, step):
    """Return images with the border and the channel of zeros that a step stores around them."""
    (top, left), batch = step.places.before, len(images)
    whole = np.zeros((batch, step.output.height, step.output.width, step.output.channels), images.dtype)
    inside = whole[:, top : top + images.shape[1], left : left + images.shape[2], : images.shape[3]]
    inside[:] = images[:, : inside.shape[1], : inside.shape[2]]
    return whole


@interpreted
@whole
@pytest.mark.parametrize(
    ("name", "placement"),
    [("mobilenetv2", "conv-inputs"), ("resnet50v2_stage3", "conv-inputs"), ("densenet169", "conv-inputs")],
)
def test_a_network_keeps_as_many_signs_as_in_onnxruntime(graph, network, name, placement):
    model, pixels = graph(name, placement=placement), network(name).sample[1]
    found = dict(zip(FusedNetwork(model).outputs, FusedNetwork(model)(torch.from_numpy(pixels)), strict=True))
    int8, fp32 = run_onnxruntime(model, pixels), run_onnxruntime(graph(name, "fp32"), pixels)
    features = fp32["features"].shape[1]
    bits = found["bits"].numpy()
    kept, theirs = (agreement(each, fp32["bits"], features) for each in (bits, int8["bits"]))
    assert kept > theirs - 0.01
    np.testing.assert_array_equal(np.packbits(found["features"].numpy() > 0, axis=1), bits)
    means = np.maximum(found["features"].numpy(), 0).reshape(*found["pooled"].shape, -1).mean(axis=2)
    np.testing.assert_allclose(found["pooled"].numpy(), means, rtol=1e-5, atol=1e-6)


@interpreted
def test_a_3x3_by_rows_is_the_convolution():
    random = np.random.default_rng(0)
    (batch, height, width), channels, filters, stored = (3, 5, 7), 64, 40, 80
    x = random.integers(-128, 128, (batch, height, width, stored), dtype="int8")
    weight = random.integers(-127, 128, (filters, 9, channels), dtype="int8")
    out = torch.full((batch, height, width, 48), -7.0, dtype=torch.float32)
    ones, zeros = torch.ones(filters), torch.zeros(filters)
    places = batch * height * width
    tile = {"PARTS": 2, "ROWS": 16, "COLUMNS": 32, "DEPTH": 32}
    kernels.convolution_3x3[triton.cdiv(places, 14), 2](
        *(torch.from_numpy(x), torch.from_numpy(weight), ones, zeros, out, 0.0, out, -np.inf, np.inf),
        *(places, filters, channels, stored, 48, 48, height, width),
        **tile,
        RESIDUAL=False,
        CLIP=2,
        PAIRS=False,
    )
    image = torch.from_numpy(x[..., :channels].astype("float64").transpose(0, 3, 1, 2))
    kernel = torch.from_numpy(weight.astype("float64").reshape(filters, 3, 3, channels).transpose(0, 3, 1, 2))
    expected = torch.nn.functional.conv2d(image, kernel, padding=1).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(out[..., :filters].numpy(), expected.numpy())
    assert (out[..., filters:] == -7).all()


@interpreted
def test_float16_and_what_torch_computes_between(dense):
    builder, pixels = dense
    model = onnx.load_from_string(builder.draft(EngineSpec(precision="fp32", runtime="onnxruntime")).graph)
    # No kernel of ours: torch computes it, between steps that are fused.
    relu = next(node for node in model.graph.node if node.op_type in ("Relu", "Clip"))
    relu.op_type = "Softplus"
    del relu.input[1:]
    network = FusedNetwork(model)
    assert [other.node.op_type for other in network.plan.others] == ["Softplus"]
    found = dict(zip(network.outputs, network(torch.from_numpy(pixels)), strict=True))
    expected = run_onnxruntime(model, pixels)
    np.testing.assert_allclose(found["features"].numpy(), expected["features"], rtol=0.02, atol=0.02)
    assert agreement(found["bits"].numpy(), expected["bits"], expected["features"].shape[1]) > 0.99


@interpreted
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_means_of_earlier_layers_are_those_of_onnxruntime(precision):
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype="uint8")
    network = NetworkSpec(backbone=Layers().eval(), cut="last", size=20, pool_layers=True)
    builder = EngineBuilder(network, CalibrationSpec(data=pixels))
    spec = EngineSpec(precision=precision, runtime="onnxruntime", activation_dtype="int8")
    draft = builder.draft(spec)
    assert len(draft.manifest.pooled_layers) > 1
    model = onnx.load_from_string(draft.graph)
    fused = FusedNetwork(model)
    found = dict(zip(fused.outputs, fused(torch.from_numpy(pixels)), strict=True))
    expected = run_onnxruntime(model, pixels)
    assert found["pooled"].shape == (8, sum(draft.manifest.pooled_layers))
    np.testing.assert_allclose(found["pooled"].numpy(), expected["pooled"], rtol=0.05, atol=0.02)
    assert agreement(found["bits"].numpy(), expected["bits"], expected["features"].shape[1]) > 0.99


def of_images(kernel, height=12, limits=(), scale=1 / 64, pooled=False, **attributes):
    """Return a network of one convolution of images of height x 13, of 32 filters."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(32, 3, *kernel)).astype("float32") / 10
    nodes = [helper.make_node("Cast", ["images"], ["cast"], to=1), helper.make_node("Transpose", ["cast"], ["x"])]
    nodes[1].attribute.append(helper.make_attribute("perm", [0, 3, 1, 2]))
    nodes += [helper.make_node("Mul", ["x", "scale"], ["scaled"])]
    nodes += [helper.make_node("Clip", ["scaled", "low", "high"], ["clipped"])] if limits else []
    nodes += [helper.make_node("Conv", ["clipped" if limits else "scaled", "weight"], ["y"], **attributes)]
    nodes += [helper.make_node("Flatten", ["y"], ["features"])]
    means = [helper.make_node("Relu", ["y"], ["z"]), helper.make_node("GlobalAveragePool", ["z"], ["mean"])]
    nodes += [*means, helper.make_node("Flatten", ["mean"], ["pooled"])] if pooled else []
    values = {"scale": np.float32([scale]).reshape(1, 1, 1, 1), "weight": weight}
    values |= dict(zip(("low", "high"), np.float32(limits), strict=False))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", height, 13, 3])
    names = ["features", "pooled"] if pooled else ["features"]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", None]) for name in names]
    given = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "network", [images], outputs, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@interpreted
@pytest.mark.parametrize(
    "of",
    [
        # Read row by row, also where a filter is a part of one row.
        {"kernel": (3, 3), "pads": [0, 1, 1, 0], "strides": [2, 3]},
        {"kernel": (1, 3), "pads": [0, 1, 0, 1]},
        # Not read so: too wide, spread, of one pixel, and with a border that is not zero.
        {"kernel": (9, 9), "pads": [4] * 4, "scale": 1},
        {"kernel": (3, 3), "dilations": [2, 2], "scale": 1},
        {"kernel": (1, 1), "scale": 1},
        {"kernel": (3, 3), "pads": [1] * 4, "limits": (1, 3)},
        {"kernel": (3, 3), "pads": [1] * 4, "height": 400, "pooled": True},
    ],
    ids=str,
)
def test_a_first_convolution_of_any_kind(of):
    model = of_images(**of)
    pixels = np.random.default_rng(1).integers(0, 256, (2, of.get("height", 12), 13, 3), dtype="uint8")
    found = FusedNetwork(model)(torch.from_numpy(pixels))
    expected = run_onnxruntime(model, pixels)
    for name, value in zip(expected, found, strict=True):
        size = np.abs(expected[name]).max()
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=2e-3, atol=2e-3 * size)


class Layers(torch.nn.Module):
    """Two layers as a DenseNet has them, behind a convolution of images and before one of many filters."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 32, 7, 2, 3)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(32 * (1 + index)) for index in range(3))
        self.narrow = torch.nn.ModuleList(torch.nn.Conv2d(32 * (1 + index), 128, 1) for index in range(2))
        self.wide = torch.nn.ModuleList(torch.nn.Conv2d(128, 32, 3, 1, 1) for _ in range(2))
        self.last = torch.nn.Conv2d(96, 320, 1)

    def forward(self, x):
        x = self.first(x)
        for norm, narrow, wide in zip(self.norms, self.narrow, self.wide, strict=False):
            x = torch.cat([x, wide(torch.relu(narrow(torch.relu(norm(x)))))], 1)
        return self.last(torch.relu(self.norms[2](x)))


def every_tile(monkeypatch, precision, device, count):
    """Return the bits of a network by its first tiles, its second ones, and so on, and those of ONNX Runtime."""
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), dtype="uint8")
    network = NetworkSpec(backbone=Layers().eval(), cut="last", size=20)
    builder = EngineBuilder(network, CalibrationSpec(data=pixels))
    kind = "int8" if precision == "int8" else "fp32"
    spec = EngineSpec(precision=kind, runtime="onnxruntime", activation_dtype="int8")
    model = onnx.load_from_string(builder.draft(spec).graph)
    expected = run_onnxruntime(model, pixels)
    fused, found, kinds = FusedNetwork(model).to(device), [], set()
    for index in range(max(len(tiles_on_a_gpu(work)) for work in works(fused, pixels, device))):

        def tile_of(work, launch, index=index):
            tiles = tiles_on_a_gpu(work)
            kinds.add(tiles[index % len(tiles)].by_row)
            launch(tiles[index % len(tiles)])
            return tiles[index % len(tiles)]

        monkeypatch.setattr(fused, "tile_of", tile_of)
        outputs = dict(zip(fused.outputs, fused(torch.from_numpy(pixels).to(device)), strict=True))
        found.append(outputs["bits"].cpu().numpy())
    assert kinds == {True, False}
    return found, expected["bits"], expected["features"].shape[1]


def works(network, pixels, device):
    """Return what a network's tiles depend on."""
    seen = []

    def tile_of(work, launch):
        seen.append(work)
        return tiles_on_a_gpu(work)[0]

    network.tile_of = tile_of
    network(torch.from_numpy(pixels).to(device))
    return seen


@interpreted
def test_every_tile_computes_the_same(monkeypatch):
    found, expected, features = every_tile(monkeypatch, "int8", "cpu", 1)
    for bits in found:
        np.testing.assert_array_equal(bits, found[0])
    assert agreement(found[0], expected, features) > 0.99


@pytest.mark.gpu
@parent
@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("count", [3, 200])
def test_every_tile_computes_the_same_on_a_gpu(monkeypatch, precision, count):
    found, expected, features = every_tile(monkeypatch, precision, "cuda", count)
    for bits in found:
        # The order of float16 products differs, and how multiplications and additions are put together.
        assert agreement(bits, found[0], features) > (0.9999 if precision == "int8" else 0.995)
        assert agreement(bits, expected, features) > 0.99


# Compiled

CAPABILITIES = [
    pytest.param(each, marks=() if each in (80, 90) else whole, id=f"sm_{each}") for each in INTEGER_TENSOR_CORES
]
PRODUCT = {"BEFORE": False, "BEFORE_CLIP": 1, "RESIDUAL": False, "CLIP": 1, "WHOLE": True}
WINDOWS = {"KERNEL_W": 3, "TAPS": 9, "PIXEL": 0, "PAIRED": False, "RESIDUAL": False, "CLIP": 2}
COMPILED = {
    "a layer's 1x1 of floats": (kernels.product, "*fp16", "*i8", "*i8", PRODUCT | {"BEFORE": True}),
    "a layer's 1x1 of levels": (kernels.product, "*i8", "*i8", "*i8", PRODUCT | {"BEFORE": True}),
    "a layer's 3x3": (kernels.convolution, "*i8", "*i8", "*i8", WINDOWS),
    "with a residual": (kernels.product, "*i8", "*i8", "*fp16", PRODUCT | {"RESIDUAL": True}),
    "a layer's 3x3 by rows": (kernels.convolution_3x3, "*i8", "*i8", "*i8", {"RESIDUAL": False, "CLIP": 0}),
    "of images": (
        kernels.convolution, "*i8", "*i8", "*fp16",
        WINDOWS | {"KERNEL_W": 1, "TAPS": 7, "PIXEL": 4, "PAIRED": True},
    ),
    "of few channels": (kernels.convolution, "*i8", "*i8", "*fp16", WINDOWS | {"PARTS": 0}),
    "of floats": (kernels.convolution, "*fp16", "*fp16", "*fp16", WINDOWS),
}  # fmt: skip
TYPES = {
    **dict.fromkeys(("before_gain", "before_shift", "gain", "shift"), "*fp32"),
    **dict.fromkeys(("before_low", "before_high", "low", "high", "residual_gain"), "fp32"),
    "residual": "*fp16",
    **dict.fromkeys(("M", "N", "C", "x_ld", "residual_ld", "out_ld", "H", "W", "OUT_H", "OUT_W"), "i32"),
    **{f"{name}_{axis}": "i32" for name in ("STEP", "PAD", "SPREAD") for axis in "HW"},
}
ALIGNED = {
    *("x", "weight", "before_gain", "before_shift", "gain", "shift", "residual", "out"),
    *("C", "N", "x_ld", "residual_ld", "out_ld"),
}


@parent
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_convolutions_use_tensor_cores_and_spill_nothing(name, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, x, weight, out, constants = COMPILED[name]
    by_row = kernel is kernels.convolution_3x3
    taps, channels = 9 if by_row else constants.get("TAPS", 1), 32 if constants.get("PIXEL") else 128
    filters, before = {1: 128, 7: 64, 9: 32}[taps], constants.get("BEFORE", False)
    work = Work(10**6, filters, channels, taps, taps != 7, before, False, x[1:], out[1:])
    tile = next(each for each in tiles_for(work) if each.by_row == by_row)
    if kernel is not kernels.product:
        constants = {"PARTS": channels // tile.depth} | constants
    done = compiled(
        kernel,
        capability,
        {**TYPES, "x": x, "weight": weight, "out": out},
        {
            **constants,
            "PAIRS": capability >= 86,
            **{"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth},
        },
        {"num_warps": tile.warps, "num_stages": tile.stages},
        sorted(ALIGNED & {each for each in kernel.arg_names if not (constants.get("PIXEL") and each == "x_ld")}),
    )
    code = done.asm["ptx"]
    if weight == "*i8":
        assert re.search(INTEGER_TENSOR_CORES[capability], code)
    else:
        assert re.search(r"mma\S*\.f16|mma\S*kind::f16", code)
    assert "ld.local" not in code
    assert "cp.async" in code
    assert ("cvt.pack.sat.s8.s32" in code) == (capability >= 86 and "*i8" in (out, constants.get("BEFORE") and weight))
    assert done.metadata.shared <= 99 * 1024
    assert done.metadata.global_scratch_size == 0


@parent
def test_every_tile_that_is_tried_fits():
    for filters, channels, taps in ((32, 128, 9), (128, 1024, 1), (512, 256, 1)):
        work = Work(10**6, filters, channels, taps, True, True, False, "float16", "int8")
        for tile, other in pairwise(tiles_for(work)):
            assert tile != other
            # Blocks of both operands, two bytes each at most, in every stage.
            assert (tile.rows + tile.columns) * tile.depth * 2 * tile.stages <= 227 * 1024
