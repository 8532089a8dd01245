"""Only what lies before a cut must be the network's, and finite."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import build_engine
from aurevoir.errors import AurevoirError, AurevoirWarning


def net(classes=10, blocks=2):
    torch.manual_seed(0)
    first = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(blocks)])
    return nn.Sequential(first, nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6 * 14 * 14, classes))


def with_weights(tmp_path, state, cut):
    torch.save(state, tmp_path / "w.pth")
    return open_backbone(net(), tmp_path / "w.pth", 16).resolve(cut)


def changed(**tensors):
    """The state of `net` with tensors replaced, added, or with None left out; `__` stands for a dot, `t` begins."""
    given = {name.removeprefix("t").replace("__", "."): value for name, value in tensors.items()}
    return {name: value for name, value in {**net().state_dict(), **given}.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "good", "bad", "message"),
    [
        (changed(t3__weight=None, t3__bias=None), "1", "3", r"2 of its 16 tensors are missing \(3.weight, 3.bias\)"),
        (net(classes=37).state_dict(), "1", "3", r"3.weight: \(37, 1176\) instead of \(10, 1176\)"),
        (changed(t9__weight=torch.ones(2)), "3", None, ""),
        (changed(t3__0__weight=torch.ones(2)), "1", "3", r"1 are unknown to it \(3.0.weight\)"),
        (changed(t0__1__1__running_var=None), "0.0", "0.1", "missing"),
        (net(blocks=3).state_dict(), "0.1", "1", r"unknown to it \(0.2.0.weight, 0.2.0.bias, 0.2.1.weight, \.\.\.\)"),
        (changed(t0__0__0__se__weight=torch.ones(2)), None, "0.0", "unknown to it"),
        (changed(t1__weight=torch.full((6, 3, 3, 3), np.nan)), "0", "1", r"nan or inf .*\(1.weight\)"),
        (changed(t0__1__1__running_mean=torch.full((3,), np.inf)), "0.0", "0.1", r"\(0.1.1.running_mean\)"),
    ],
)
def test_only_what_lies_before_the_cut_must_match(tmp_path, state, good, bad, message):
    if good:
        assert with_weights(tmp_path, state, good) == good
    if bad:
        with pytest.raises(AurevoirError, match=message) as caught:
            with_weights(tmp_path, state, bad)
        assert "\n" not in str(caught.value) and "w.pth" in str(caught.value) and f"up to '{bad}'" in str(caught.value)


def test_a_choice_among_equal_weights_is_a_warning(tmp_path):
    torch.save({"student": net().state_dict(), "teacher": changed(t1__bias=torch.ones(6))}, tmp_path / "w.pth")
    said = r"w.pth holds more than one .* Sequential, .*: 'student' is taken, and 'teacher' fits as well; .* one alone$"
    with pytest.warns(AurevoirWarning, match=said):
        open_backbone(net(), tmp_path / "w.pth", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AurevoirWarning)
        with_weights(tmp_path, {"student": net().state_dict(), "teacher": net().state_dict()}, "1")


def test_the_features_are_those_of_the_file(tmp_path):
    torch.manual_seed(5)
    other, images = net(7).eval(), np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype="uint8")
    for layer in other.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    torch.save({"ema": {f"module.{name}": value for name, value in other.state_dict().items()}}, tmp_path / "ema.ckpt")
    engine = build_engine(net(), "1", weights=tmp_path / "ema.ckpt", size=16, smoke=False)
    pixels = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        expected = other[:2](torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype("float32"))).flatten(1).numpy()
    np.testing.assert_allclose(engine(images), expected, atol=1e-3 * np.abs(expected).max())
    assert engine.manifest.weights == "ema.ckpt"


def test_what_was_taken_is_logged(tmp_path, caplog):
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in net(7).state_dict().items()}}, tmp_path / "l.ckpt"
    )
    with caplog.at_level(logging.INFO, "aurevoir.weights"):
        open_backbone(net(), tmp_path / "l.ckpt", 16)
    assert "l.ckpt: 16 of the 18 tensors of Sequential, from 'state_dict.model'" in caplog.text


def test_a_module_with_nan_before_the_cut_is_refused():
    broken = net()
    broken[1].bias.data[0] = np.nan
    assert open_backbone(broken, size=16).resolve("0") == "0"
    with pytest.raises(AurevoirError, match=r"Sequential holds nan or inf in 1 of the .* \(1.bias\)"):
        build_engine(broken, "1", size=16, smoke=False)


@pytest.mark.parametrize("content", [b"junk", b"", b"PK\x03\x04" + bytes(500)])
def test_a_damaged_file_in_the_cache_of_torch_is_one_line(tmp_path, monkeypatch, content):
    from torchvision.models import SqueezeNet1_1_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    with pytest.raises(AurevoirError, match="squeezenet1_1 could not be fetched .* give a .pth") as caught:
        open_backbone("squeezenet1_1")
    assert "cache is damaged, delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
