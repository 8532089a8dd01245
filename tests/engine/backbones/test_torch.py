"""torchvision's networks and torch modules as backbones."""

import shutil
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone, structure
from aurevoir.engine.backbones.torch import TorchBackbone
from aurevoir.engine.backbones.torch_export import set_batch_norm_statistics
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _images(n=2, size=64):
    return np.random.default_rng(0).integers(0, 256, size=(n, size, size, 3), dtype="uint8")


def _normalised(images):
    return torch.from_numpy(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype("float32"))


def test_densenet169_has_all_its_layers_transitions_and_pools_as_cuts():
    cuts = {cut.name: cut for cut in structure("densenet169").cuts()}
    assert sum(".denselayer" in name for name in cuts) == 82
    assert {f"transition{i}" for i in (1, 2, 3)} | {f"transition{i}.pool" for i in (1, 2, 3)} | {"pool0"} <= set(cuts)
    assert cuts["denseblock4.denselayer12"].features == 50_176


def test_measured_cuts_equal_the_real_network():
    model = torchvision.models.densenet121(weights=None)
    last = TorchBackbone.from_module(model, 224).cuts()[-1]
    assert last.parameters == sum(parameter.numel() for parameter in model.parameters())
    # 2.834 GMACs: torchvision's own figure in the metadata of its weights.
    assert last.macs / 1e9 == pytest.approx(torchvision.models.DenseNet121_Weights.DEFAULT.meta["_ops"], abs=0.03)


@pytest.mark.parametrize(
    ("name", "cut", "shape"),
    [
        ("densenet121", "denseblock1.denselayer2", (64 + 2 * 32, 16, 16)),
        ("densenet121", "features.denseblock1.denselayer6", (256, 16, 16)),
        ("densenet121", "transition1.pool", (128, 8, 8)),
        ("resnet18", "layer2.1", (128, 8, 8)),
        ("squeezenet1_1", "features.7", (256, 7, 7)),
        ("mobilenet_v3_small", "features.3", (24, 8, 8)),
    ],
)
def test_a_cut_network_gives_the_features_of_the_whole_one(name, cut, shape):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    backbone = TorchBackbone.from_module(model, 64)
    images = _images()
    exported = export_backbone(backbone, cut)
    features = assemble(exported, "fp32", "onnxruntime")(images)
    seen = {}
    path = backbone.resolve(cut)
    layer = model.get_submodule(path)
    dense = "denselayer" in path
    layer.register_forward_hook(
        lambda _, inputs, out: seen.update(out=torch.cat([*inputs[0], out], 1) if dense else out)
    )
    with torch.inference_mode():
        model(_normalised(images))
    expected = seen["out"].flatten(1).numpy()
    assert tuple(seen["out"].shape[1:]) == shape
    np.testing.assert_allclose(features, expected, atol=1e-3 * np.abs(expected).max())


def test_what_lies_behind_the_cut_is_gone():
    exported = export_backbone(
        TorchBackbone.from_module(torchvision.models.densenet121(weights=None), 64), "denseblock1"
    )
    cut = next(cut for cut in structure("densenet121", 64).cuts() if cut.name == "denseblock1")
    sizes = sum(int(np.prod(tensor.dims)) for tensor in exported.graph.graph.initializer)
    assert sizes < 1.1 * cut.parameters


def test_the_callers_module_is_left_as_it_was():
    model = torchvision.models.densenet121(weights=None).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_backbone(TorchBackbone.from_module(model, 64), "denseblock1.denselayer2")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(list(model.features.denseblock1.children())) == 6


def test_batch_norm_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    images = np.random.default_rng(0).normal(2, 3, size=(32, 3, 16, 16)).astype("float32")
    set_batch_norm_statistics(net, images)
    with torch.inference_mode():
        out = net(torch.from_numpy(images))
    np.testing.assert_allclose(out.mean(dim=(0, 2, 3)), 0, atol=1e-2)
    np.testing.assert_allclose(out.std(dim=(0, 2, 3)), 1, atol=1e-2)
    assert not net.training


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    digests = [
        export_backbone(open_backbone("squeezenet1_0", "random", 64, seed), "features.3", _images(4)).graph
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(state, torch.get_rng_state())


def test_random_weights_need_images():
    with pytest.raises(UsageError, match="batch-norm statistics"):
        export_backbone(open_backbone("squeezenet1_0", "random", 64), "features.3")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_loaded_from_a_file(tmp_path, suffix):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else lambda state, path: save_file(dict(state), path))(model.state_dict(), path)
    images = _images()
    features = assemble(export_backbone(open_backbone("squeezenet1_1", path, 64), "features.5"), "fp32")(images)
    with torch.inference_mode():
        expected = model.features[:6](_normalised(images)).flatten(1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(AurevoirError, match=r"resnet18.pth does not hold the weights of squeezenet1_1"):
        open_backbone("squeezenet1_1", tmp_path / "resnet18.pth")


def test_a_weights_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(AurevoirError, match="cannot be read safely|can be read safely") as caught:
        open_backbone("squeezenet1_1", tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)
    assert "give a state dict" in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), [("w.pth", "safely; give a state dict"), ("w.safetensors", "header")])
def test_a_weights_file_that_is_none_is_told_apart_from_one_of_another_network(tmp_path, name, reason):
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(AurevoirError, match=f"{name} does not hold weights that can be read safely") as caught:
        open_backbone("squeezenet1_1", tmp_path / name)
    assert reason in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_an_onnx_file_as_weights_is_told_to_be_the_backbone(tiny_onnx, tmp_path, exists):
    path = tiny_onnx if exists else tmp_path / "x.onnx"
    with pytest.raises(UsageError, match=r"is an ONNX file, .* give it as the backbone instead of squeezenet1_1, or"):
        open_backbone("squeezenet1_1", path)


@pytest.mark.parametrize("name", ["x.onn", "models/tiny", "tiny.onnx.bak", "resnet-50"])
@pytest.mark.parametrize("look", [open_backbone, structure])
def test_a_mistyped_file_name_is_no_missing_package(monkeypatch, name, look):
    monkeypatch.setitem(sys.modules, "aurevoir.engine.backbones.torch", None)
    with pytest.raises(UsageError, match=f"backbone '{name}' is neither a torchvision name nor an existing file"):
        look(name)


def test_a_name_without_torch_says_what_to_install(monkeypatch):
    for module in ("torch", "aurevoir.engine.backbones.torch"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"need torch .* give an ONNX file, .*'aurevoir\[torch\]'$"):
        open_backbone("densenet169")


def test_an_onnx_file_of_any_name_is_a_backbone(tiny_onnx, tmp_path):
    shutil.copy(tiny_onnx, tmp_path / "tiny.onnx.bak")
    assert open_backbone(tmp_path / "tiny.onnx.bak").resolve(None) == open_backbone(tiny_onnx).resolve(None)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("densenet168", "default", r"backbone 'densenet168' is not a torchvision model.*densenet169"),
        ("squeezenet1_1", "none.pth", "neither 'default', 'random' nor an existing file"),
        (3, "default", "neither a name, a path nor a torch.nn.Module"),
    ],
)
def test_unknown_backbones_and_weights_are_named(backbone, weights, message):
    with pytest.raises(UsageError, match=message):
        open_backbone(backbone, weights)


def test_unknown_cut_is_named():
    with pytest.raises(UsageError, match=r"cut 'denseblock4.denselayer33' is not in densenet169; nearest: denseblock4"):
        structure("densenet169").resolve("denseblock4.denselayer33")


@pytest.mark.parametrize(
    "name", ["vgg11", "resnet50", "inception_v3", "googlenet", "efficientnet_b0", "regnet_y_400mf"]
)
def test_networks_of_the_zoo_have_a_late_default_cut(name):
    backbone = structure(name)
    cuts = {cut.name: cut for cut in backbone.cuts()}
    default = cuts.get(backbone.resolve(None)) or cuts[backbone.resolve(None).removeprefix("features.")]
    assert default.macs > 0.9 * backbone.cuts()[-1].macs


def test_a_transformer_has_no_default_cut():
    with pytest.raises(UsageError, match="no late feature map"):
        structure("vit_b_16").resolve(None)
