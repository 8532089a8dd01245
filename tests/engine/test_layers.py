"""Engines that also pool layers before the cut: the same in every runtime and precision, whatever else is asked."""

import json

import numpy as np
import pytest

from aurevoir import build_engine, load_engine
from aurevoir.archive import unpack_bytes
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.cut_candidates import cut_candidates, layers_before
from aurevoir.engine.engine import Engine
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.multi_cut import draft_cuts
from aurevoir.engine.runtimes import on_openvino, runtime
from aurevoir.engine.sample import sample_images
from aurevoir.engine.spec import EngineSpec, NetworkSpec
from aurevoir.errors import AurevoirError, UsageError

RUNS = [
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("torch", "fp32"),
    ("torch", "bf16"),
]
# Largest |pooled - means| / |means| of the layers in fp32.
TOLERANCES = {"fp32": 1e-5, "bf16": 0.1, "int8": 0.15}


def _error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def photographs(data):
    return sample_images(data("calibration500"), (224, 224), 6)


@pytest.fixture(scope="module", params=["mobilenetv2.onnx", "resnet50v2_stage3.onnx", "squeezenet1_1.pth"])
def real(request, data, photographs):
    """A backbone with layers, its table, and the means of those in fp32, one after the other."""
    path = data(f"backbones/{request.param}")
    backbone = open_backbone("squeezenet1_1", path) if path.suffix == ".pth" else open_backbone(path)
    layers = layers_before(backbone)
    exported = export_backbone(backbone, layers=layers)
    means = []
    for layer in layers:
        own = export_backbone(backbone, layer)
        values = assemble(own, "fp32", "onnxruntime")(photographs)
        means.append(values.reshape(len(photographs), own.pooled, -1).mean(axis=2, dtype="float64"))
    return exported, calibrate(exported, photographs[:4], "max"), np.concatenate(means, axis=1)


@pytest.mark.parametrize(("name", "precision"), RUNS)
def test_they_are_the_means_of_the_layers_and_bits_do_not_depend_on_what_is_asked(real, photographs, name, precision):
    exported, table, means = real
    if precision not in (on_openvino.precisions() if name == "openvino" else runtime(name).precisions()):
        pytest.skip(f"{precision} of {name} is not for this processor")
    images = photographs if name == "openvino" else photographs[:2]
    engine = assemble(exported, precision, name, table if precision == "int8" else None, device="cpu")
    everything, channels = engine.run(images), engine.manifest.channels
    assert everything["pooled"].shape == (len(images), means.shape[1] + channels)
    assert _error(everything["pooled"][:, :-channels], means[: len(images)]) < TOLERANCES[precision]
    places = everything["features"].reshape(len(images), channels, -1)
    assert _error(everything["pooled"][:, -channels:], np.maximum(places, 0).mean(axis=2, dtype="float64")) < 3e-3
    together, out = engine.run(images, ["bits", "pooled"]), np.empty_like(everything["bits"])
    assert _error(together["pooled"], everything["pooled"]) < 5e-3
    assert _error(engine.pooled(images), together["pooled"]) < 3e-3
    np.testing.assert_array_equal(engine.bits(images), together["bits"])
    np.testing.assert_array_equal(engine.bits(images, out=out), together["bits"])
    assert engine(images).shape == everything["features"].shape


def test_of_maps_whose_channels_are_last(pixels):
    images = np.pad(pixels[:2], ((0, 0), (0, 36), (0, 36), (0, 0)), "wrap")
    backbone = open_backbone("swin_t", "random", 64)
    layer, cut = "features.1.0", "features.1"
    engine = assemble(export_backbone(backbone, cut, images, layers=[layer]), "fp32", "onnxruntime")
    own = assemble(export_backbone(backbone, layer, images), "fp32", "onnxruntime")
    means = own(images).reshape(2, -1, own.manifest.pooled).mean(axis=1, dtype="float64")
    assert engine.manifest.pooled_layers == (96, 96)
    assert _error(engine.pooled(images)[:, :96], means) < TOLERANCES["fp32"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_plans_are_built_ahead_of_time(staged_onnx, pixels, precision):
    pytest.importorskip("tensorrt_rtx_bindings")
    backbone = open_backbone(staged_onnx)
    exported = export_backbone(backbone, layers=layers_before(backbone))
    table = calibrate(exported, pixels, "max") if precision == "int8" else None
    engine = assemble(exported, precision, "tensorrt-rtx", table, target="sm89")
    engine.build_plan()
    assert engine.plan and engine.outputs == ("features", "bits", "pooled")


def test_large_layers_are_left_out(data, staged_onnx):
    backbone = open_backbone(staged_onnx)
    *before, last = cut_candidates(backbone)
    assert layers_before(backbone) == [cut.name for cut in before if cut.features <= last.features]
    assert 0 < len(layers_before(backbone)) < len(before)
    assert layers_before(open_backbone(data("backbones/resnet50v2_stage3.onnx"))) == ["add_9"]


def test_an_earlier_cut_has_the_layers_before_it_and_the_first_none(staged_onnx):
    backbone = open_backbone(staged_onnx)
    cuts = [cut.name for cut in cut_candidates(backbone)]
    assert layers_before(backbone, cuts[3]) == [cuts[2]]
    assert layers_before(backbone, cuts[0]) == []


def test_a_network_without_layers_before_is_refused(tiny_onnx):
    with pytest.raises(UsageError, match=r"tiny.onnx has no layer before '.*' to pool.*leave pool_layers"):
        build_engine(tiny_onnx, pool_layers=True)


def test_a_file_has_them(staged_onnx, pixels, tmp_path):
    engine, path = build_engine(staged_onnx, pool_layers=True), tmp_path / "layers.engine"
    engine.save(path)
    loaded = load_engine(path)
    assert loaded.manifest.pooled_layers == (32, 32)
    assert (loaded.manifest.pooled, loaded.manifest.channels) == (64, 32)
    np.testing.assert_array_equal(loaded.pooled(pixels), engine.pooled(pixels))


def test_a_manifest_whose_layers_do_not_add_up_is_refused(staged_onnx):
    parts = dict(unpack_bytes(build_engine(staged_onnx, pool_layers=True).to_bytes(), "the engine"))
    manifest = json.loads(parts["manifest.json"]) | {"pooled_layers": [32, 31]}
    with pytest.raises(AurevoirError, match=r"pooled_layers \[32, 31\] do not add up to pooled 64"):
        Engine.from_parts({**parts, "manifest.json": json.dumps(manifest).encode()}, "the engine")


def test_joined_cuts_have_those_of_each(staged_onnx, pixels):
    builder = EngineBuilder(NetworkSpec(backbone=staged_onnx, pool_layers=True))
    names = [cut.name for cut in cut_candidates(builder.backbone)]
    engines, joined = draft_cuts(builder.at_cuts(names), EngineSpec(precision="fp32", measure=False))
    found = joined.engine.run(pixels, ["bits", "pooled"])
    assert joined.layers == [each.manifest.pooled_layers for each in engines]
    assert joined.layers[0] == () and joined.layers[-1] == (32, 32)
    for engine, pooled in zip(engines, joined.pooled, strict=True):
        np.testing.assert_allclose(found["pooled"][:, pooled], engine.pooled(pixels), rtol=1e-5, atol=1e-5)
