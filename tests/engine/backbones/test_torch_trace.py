"""Graphs that are written from one call of a module give its features; torch's exporter writes the others."""

from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.convnext import CNBlockConfig

from aurevoir.engine.backbones.torch import TorchBackbone
from aurevoir.engine.backbones.torch_export import Truncated, export
from aurevoir.engine.backbones.torch_nodes import UnsupportedError
from aurevoir.engine.backbones.torch_trace import trace

SHAPE = (3, 16, 16)


class Net(nn.Module):
    """A convolution, and a function of its output and of a buffer."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function, self.table = nn.Conv2d(3, 6, 3, padding=1), function, torch.rand(6, 1, 1)
        self.register_buffer("gain", torch.rand(6))

    def forward(self, image):
        """Return the features."""
        return self.function(self, self.conv(image))


def network(function):
    torch.manual_seed(0)
    return Net(function).eval()


def check(module, graph, shape, tolerance=1e-5):
    """Assert that a graph gives a module's features of three images, and of one."""
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(images)
    expected = [each.numpy() for each in (expected if isinstance(expected, tuple) else (expected,))]
    for count in (3, 1):
        found = session.run(None, {"image": images[:count].numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other[:count], atol=tolerance * np.abs(other).max())


OPERATORS = {
    "relu in place": lambda net, x: functional.relu_(x) + x,
    "activations": lambda net, x: torch.cat([f(x) for f in (
        torch.sigmoid, torch.tanh, functional.silu, functional.gelu, functional.hardswish, functional.hardsigmoid,
        functional.relu6, functional.leaky_relu, lambda x: x.clamp(-0.1, 0.3), lambda x: x.clamp(min=0.1),
    )], 1),
    "arithmetic": lambda net, x: (2 - x) * x / 3 + (x - 0.5) * net.gain[:, None, None] + 1,
    "in place": lambda net, x: x.mul_(2).add_(x).sub_(net.table),
    "constants of constants": lambda net, x: x * (net.gain.reshape(1, -1, 1, 1).exp() + net.table),
    "a parameter twice": lambda net, x: x * net.table + net.table,
    "max pools": lambda net, x: torch.cat([
        functional.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1), functional.max_pool2d(x, 2).flatten(1),
        functional.max_pool2d(x, 3, 1, 1, ceil_mode=True).flatten(1),
        functional.max_pool2d(x, (3, 2), (2, 3), 1, 2).flatten(1),
    ], 1),
    "average pools": lambda net, x: torch.cat([functional.avg_pool2d(x, 2), functional.adaptive_avg_pool2d(x, 8),
        functional.adaptive_avg_pool2d(x, (8, None))[..., :8]], 1),
    "padded average pools": lambda net, x: functional.avg_pool2d(x, 4, 2, 1) - functional.avg_pool2d(
        x, 4, 2, 1, count_include_pad=False),
    "means": lambda net, x: x.mean((2, 3), keepdim=True) * x.mean(-1, keepdim=True) + x.mean((2, 3))[:, :, None, None],
    "a global pool": lambda net, x: functional.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2),
    "shuffled channels": lambda net, x: x.view(x.shape[0], 2, 3, 16, 16).transpose(1, 2).reshape(x.size(0), -1, 16, 16),
    "parts": lambda net, x: torch.cat([*x.chunk(3, 1)[::-1], *x.split(4, 1), *x.split([1, 5], 1), x[:, 1:5:2]], 1),
    "pixels": lambda net, x: x[:, :, 2:-1, ::3],
    "channels last": lambda net, x: functional.layer_norm(x.permute(0, 2, 3, 1), (6,), net.gain).swapaxes(1, -1),
    "pads": lambda net, x: functional.pad(functional.pad(x, (1, 2, 0, 3)), (0, 0, 1, 1), value=-2.0),
    "a linear layer of places": lambda net, x: functional.linear(x.flatten(2).transpose(1, 2), net.gain[None]),
    "a dropout": lambda net, x: functional.dropout(x, 0.5, net.training, True).contiguous() + x.clone(),
    "several outputs": lambda net, x: (x.relu(), x, x, x.relu().flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("function", OPERATORS.values(), ids=OPERATORS)
def test_an_operator_computes_what_torch_does(function):
    module = network(function)
    outputs = [f"features_{index}" for index in range(4 if function is OPERATORS["several outputs"] else 1)]
    graph = trace(module, SHAPE, outputs)
    assert [value.name for value in graph.graph.output] == outputs
    check(module, graph, SHAPE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, (5, 2), (2, 1), (2, 0), groups=3),
        nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2), bias=False),
        nn.Conv2d(3, 4, 3, padding="valid"),
        nn.BatchNorm2d(3, eps=0.1),
        nn.BatchNorm2d(3, affine=False),
        nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU(), nn.Unflatten(1, (5, 1))),
        nn.Sequential(nn.Flatten(2), nn.Linear(256, 4, bias=False)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.Identity(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_computes_what_torch_does(layer):
    layer.eval()
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean.copy_(torch.tensor([0.5, -1, 2]))
        layer.running_var.copy_(torch.tensor([0.5, 1, 2]))
    check(layer, trace(layer, SHAPE, ["features"]), SHAPE)


def convnext():
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return torchvision.models.ConvNeXt(stages, num_classes=5)


NETWORKS = {
    "convnext": convnext,
    "densenet": partial(torchvision.models.DenseNet, 4, (2, 3), 8, 2),
    "mobilenet": torchvision.models.mobilenet_v3_small,
    "regnet": torchvision.models.regnet_y_400mf,
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_whole_networks_are_written_without_torch_s_exporter(make):
    torch.manual_seed(0)
    backbone = TorchBackbone.from_module(make(), 64)
    truncated = backbone.truncated(backbone.cuts()[-1].name)
    graph = trace(truncated, (3, 64, 64), ["features"])
    check(truncated, graph, (3, 64, 64), 1e-3)
    names = {tensor.name for tensor in graph.graph.initializer}
    assert {f"network.{name}" for name, _ in truncated.network.named_parameters()} <= names


def test_several_cuts_share_their_tensors():
    backbone = TorchBackbone.from_module(torchvision.models.squeezenet1_1(weights=None), 64)
    truncated = Truncated(backbone._module, [backbone._call(name) for name in ("features.4", "features.7")])
    graph = trace(truncated, (3, 64, 64), ["features_0", "features_1"])
    check(truncated, graph, (3, 64, 64))
    assert sum(node.op_type == "Conv" for node in graph.graph.node) == 1 + 4 * 3


def shared_memory(net, x):
    """A view that a later change in place changes too."""
    flat = x.flatten(1)
    x.relu_()
    return flat


def changed_constant(net, x):
    mask = torch.ones_like(net.gain)
    mask.mul_(2)
    return x * mask[:, None, None]


REFUSED = {
    "another operator": lambda net, x: x.cumsum(1),
    "images of a batch": lambda net, x: x - x.mean(0, keepdim=True),
    "images in one": lambda net, x: x.reshape(1, -1),
    "images in rows": lambda net, x: x.flatten(0, 1),
    "images behind each other": lambda net, x: torch.cat([x, x]),
    "a batch that is read": lambda net, x: x * x.shape[0],
    "a branch on the batch": lambda net, x: x * 2 if x.shape[0] > 8 else x,
    "a branch on values": lambda net, x: x * 2 if x.sum() > 0 else x,
    "a loop over images": lambda net, x: torch.stack([each * 2 for each in x]),
    "shared memory": shared_memory,
    "a part that is set": lambda net, x: x[:, 1:].zero_() + x[:, :1],
    "a changed constant": changed_constant,
    "another type": lambda net, x: x.double() * 2,
    "no image": lambda net, x: net.gain * 2,
    "training": lambda net, x: functional.batch_norm(x, None, None, training=True),
    "dropout": lambda net, x: functional.dropout(x, training=True),
    "a sum of multiples": lambda net, x: torch.add(x, x, alpha=2),
    "a pool of two sizes": lambda net, x: functional.adaptive_avg_pool2d(x, 7),
    "a padded pool, rounded up": lambda net, x: functional.max_pool2d(x, 2, 3, 1, ceil_mode=True),
    "an average, rounded up": lambda net, x: functional.avg_pool2d(x, 3, 2, ceil_mode=True),
    "reflected pixels": lambda net, x: functional.pad(x, (1, 1), mode="reflect"),
    "another gelu": lambda net, x: functional.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("function", REFUSED.values(), ids=REFUSED)
def test_what_may_not_be_the_same_for_every_image_is_refused(function):
    with pytest.raises((UnsupportedError, RuntimeError)):
        trace(network(function), SHAPE, ["features"])


def test_what_is_refused_is_left_to_torch_s_exporter(capfd):
    module = network(lambda net, x: x.cumsum(1))
    truncated = TorchBackbone.from_module(nn.Sequential(module, nn.ReLU()), 16).truncated("1")
    check(truncated, export(truncated, SHAPE, "Net", ["features"]), SHAPE)
    assert capfd.readouterr() == ("", "")
