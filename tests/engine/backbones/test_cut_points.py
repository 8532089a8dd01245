"""Cuts of modules as people have them: called twice, shared, within others, with outputs of all kinds."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import build_engine
from aurevoir.engine.float_graph import export_cuts
from aurevoir.errors import AurevoirError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype="uint8")
IMAGES = torch.from_numpy(
    ((PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype("float32")
)
MAPS = ["conv1", "act", "conv2", "act_1"]
INNER = [f"inner.{name}" for name in MAPS]


class Net(nn.Module):
    """Calls its activation, which works in place, twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(3, 6, 5), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3)
        self.fc = nn.Linear(8, 3)

    def maps(self, x):
        return self.act(self.conv2(self.act(self.conv1(x))))

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


class Outputs(Net):
    def forward(self, x, mask=None, *, verbose=False):
        if mask is not None:
            raise ValueError(mask)
        maps = self.maps(x)
        return {"maps": maps, "scores": self.fc(maps.mean((2, 3)))}


class Around(nn.Module):
    def __init__(self, inner, direct=False):
        super().__init__()
        self.inner, self.direct = inner, direct

    def forward(self, x):
        found = self.inner.maps(x) if self.direct else self.inner(x)
        return found["scores"] if isinstance(found, dict) else found


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.a_1 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.b = self.a

    def forward(self, x):
        return self.a_1(self.b(self.a(x)))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.layers = torch.tensor(0.5), nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)])

    def forward(self, x):
        x = x - self.mean
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def features(network, cut):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_engine(network, cut, size=16, smoke=False)(PIXELS)


def expected(function):
    with torch.inference_mode():
        return function(IMAGES).flatten(1).numpy()


def test_calls_of_one_module_are_cuts_of_their_own(net):
    backbone = open_backbone(net, size=16)
    assert [(cut.name, cut.features) for cut in backbone.cuts()] == [
        ("conv1", 864), ("act", 864), ("conv2", 800), ("act_1", 800), ("fc", 3)
    ]  # fmt: skip
    assert backbone.resolve(None) == "act_1"
    assert [cut.parameters for cut in backbone.cuts()] == [456, 456, 896, 896, 923]


@pytest.mark.parametrize(
    ("cut", "function"),
    [
        ("conv1", lambda net, x: net.conv1(x)),
        ("act", lambda net, x: net.conv1(x).relu()),
        (None, lambda net, x: net.maps(x)),
    ],
)
def test_an_engine_ends_at_the_call_that_it_is_cut_at(net, cut, function):
    np.testing.assert_allclose(features(net, cut), expected(lambda x: function(net, x)), atol=1e-5)


def test_several_cuts_are_as_each_alone(net):
    """The activation between them works in place."""
    import onnx.reference

    parts = export_cuts(open_backbone(net, size=16), ["conv1", "act", "act_1"])
    found = [onnx.reference.ReferenceEvaluator(part.graph).run(["features"], {"images": PIXELS})[0] for part in parts]
    for each, function in zip(found, [net.conv1, lambda x: net.conv1(x).relu(), net.maps]):
        np.testing.assert_allclose(each, expected(function), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "names", "default"),
    [
        (Outputs, [*MAPS, "fc"], "act_1"),
        (lambda: Around(Net()), [*INNER, "inner.fc", "inner"], "inner.act_1"),
        (lambda: Around(Outputs()), [*INNER, "inner.fc"], "inner.act_1"),
        (lambda: Around(Net(), direct=True), INNER, "inner.act_1"),
        (Shared, ["a", "a_1_", "a_1"], "a_1"),
        (Listed, ["layers.0", "layers.1"], "layers.1"),
        (lambda: nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2))), ["pool"], "pool"),
    ],
)  # fmt: skip
def test_what_only_groups_layers_is_opened(kind, names, default):
    backbone = open_backbone(kind(), size=16)
    assert [cut.name for cut in backbone.cuts()] == names
    assert backbone.resolve(None) == default


def test_an_engine_of_a_module_with_a_dictionary_of_outputs():
    torch.manual_seed(0)
    net = Outputs()
    np.testing.assert_allclose(features(net, None), expected(net.maps), atol=1e-5)


def test_the_second_call_of_a_shared_module():
    torch.manual_seed(0)
    net = Shared()
    np.testing.assert_allclose(features(net, "a_1_"), expected(lambda x: net.a(net.a(x))), atol=1e-5)


class Forks(Net):
    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(2 * x if x.sum() > 0 else x)


class OneImage(Net):
    def forward(self, x):
        return self.conv2(self.conv1(x).reshape(1, 6, 12, 12)).reshape(1, -1)


@pytest.mark.parametrize("kind", [Forks, OneImage])
def test_what_cannot_be_exported_is_one_line_and_matters_before_the_cut_only(kind, capfd):
    torch.manual_seed(0)
    net = kind()
    np.testing.assert_allclose(features(net, "conv1"), expected(net.conv1), atol=1e-5)
    if kind is OneImage and torch.__version__.startswith("2.9."):  # which follows it, for each image
        alone = torch.cat([net(image[None]) for image in IMAGES]).detach()
        np.testing.assert_allclose(features(net, "conv2"), alone, atol=1e-5)
        return
    with pytest.raises(AurevoirError, match=f"cannot follow {kind.__name__} to 'conv2' for any number of") as caught:
        features(net, "conv2")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


class TwoInputs(Net):
    def forward(self, x, y):
        return self.maps(x + y)


class Checks(Net):
    def forward(self, x):
        assert x.shape[-1] == 32, "images must be 32 wide\nby 32 high"
        return self.maps(x)


@pytest.mark.parametrize(
    ("kind", "why"), [(TwoInputs, "missing 1 required positional argument: 'y'"), (Checks, "32 wide")]
)
def test_a_module_that_does_not_take_the_image_says_why(kind, why):
    start = rf"{kind.__name__} does not run on one image of shape \(1, 3, 16, 16\): "
    with pytest.raises(UsageError, match=f"{start}.*{why}") as caught:
        open_backbone(kind(), size=16).cuts()
    assert "\n" not in str(caught.value)


def test_the_first_convolution_says_how_many_channels():
    backbone = open_backbone(nn.Sequential(nn.Conv2d(4, 2, 3)), size=8)
    assert backbone.channels == 4 and backbone.cuts()[0].features == 72
