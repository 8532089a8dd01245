"""timm's networks by name and as objects."""

import sys

import numpy as np
import pytest
import torch

from aurevoir.engine.backbone import open_backbone, structure
from aurevoir.engine.build import build_engine
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "default", "mean", "size"),
    [
        ("resnet18.a1_in1k", "layer4", (0.485, 0.456, 0.406), 224),
        ("inception_v3", "Mixed_7c", (0.5, 0.5, 0.5), 299),
        ("convnext_atto", "norm_pre", (0.485, 0.456, 0.406), 224),
        ("densenet121", "features.norm5", (0.485, 0.456, 0.406), 224),
    ],
)
def test_a_name_has_cuts_and_the_normalisation_of_its_training(name, default, mean, size):
    backbone = structure(f"timm:{name}")
    assert backbone.name == f"timm:{name}"
    assert backbone.resolve(None) == default
    assert (tuple(backbone.mean), backbone.size) == (mean, (size, size))


def test_a_layer_of_a_dense_block_gives_what_the_next_reads():
    names = {cut.name: cut.features for cut in structure("timm:densenet121", 64).cuts()}
    theirs = {cut.name: cut.features for cut in structure("densenet121", 64).cuts()}
    assert names["denseblock1.denselayer2"] == theirs["denseblock1.denselayer2"] == (64 + 2 * 32) * 16 * 16


def test_weights_of_a_file_and_an_object_give_timms_features(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    images = (pixels / 255 - network.pretrained_cfg["mean"]) / network.pretrained_cfg["std"]
    with torch.inference_mode():
        expected = network.blocks[:2](network.bn1(network.conv_stem(
            torch.from_numpy(images.transpose(0, 3, 1, 2).astype("float32"))
        ))).flatten(1).numpy()  # fmt: skip
    name, path = "timm:mobilenetv3_small_050.lamb_in1k", tmp_path / "model.safetensors"
    for features in (
        build_engine(name, "blocks.1", weights=path, size=64, smoke=False)(pixels),
        build_engine(network, "blocks.1", size=64, smoke=False)(pixels),
    ):
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_an_object_brings_its_size_and_normalisation():
    backbone = open_backbone(timm.create_model("test_vit", pretrained=False))
    assert backbone.size == (160, 160) and tuple(backbone.mean) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnett18", "is not a network of timm .*; nearest: timm:resnet18,"),
        ("timm:", "is not a network of timm"),
        ("timm:resnet18.foo", "has no weights 'foo' in timm .*; it has a1_in1k"),
    ],
)
def test_unknown_names_and_tags_are_named(name, message):
    with pytest.raises(UsageError, match=message):
        structure(name)


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"'timm:resnet18' needs timm .*pip install 'aurevoir\[timm\]'"):
        open_backbone("timm:resnet18")


def test_without_a_network_it_fails_at_once_in_one_line(monkeypatch, tmp_path):
    def no_address(*args):
        raise OSError("no address")

    monkeypatch.setattr("aurevoir.engine.backbones.timm.getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", no_address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AurevoirError, match="weights of timm:test_resnet could not be fetched") as caught:
        open_backbone("timm:test_resnet")
    assert "\n" not in str(caught.value) and "'random'" in str(caught.value)
