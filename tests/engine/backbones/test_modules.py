"""Modules as their owners have them: wrapped, compiled, in half precision, not ready; they stay as they are."""

import copy

import pytest
import torch
from torch import nn

from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.backbones.modules import broken_tensors, own_copy
from aurevoir.errors import UsageError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def compiled_inside():
    return nn.Sequential(torch.compile(net()[0]), *net()[1:])


def compiled_in_place():
    module = net()
    module.compile()
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: nn.DataParallel(net()),
        lambda: torch.compile(net()),
        lambda: torch.compile(nn.DataParallel(net())),
        lambda: torch.optim.swa_utils.AveragedModel(net()),
        compiled_inside,
        compiled_in_place,
        lambda: net().half().train(),
        lambda: net().double(),
    ],
)
def test_a_copy_is_out_of_wrappers_and_the_module_as_it_was(wrap):
    module = wrap()
    before = copy.deepcopy({name: value for name, value in module.state_dict().items()})
    mode, dtype, hooks = module.training, next(module.parameters()).dtype, dict(module._forward_hooks)
    backbone = open_backbone(module, size=8)
    assert [cut.name for cut in backbone.cuts()] == ["0", "1", "2"]
    assert backbone._module[0].weight.dtype == torch.float32 and not backbone._module.training
    torch.testing.assert_close(backbone._module.state_dict(), net().state_dict(), atol=1e-3, rtol=1e-3)
    assert (module.training, next(module.parameters()).dtype, dict(module._forward_hooks)) == (mode, dtype, hooks)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_weights_with_a_history_are_copied():
    module = net()
    nn.utils.weight_norm(module[0])
    module(torch.ones(1, 3, 8, 8))
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(own_copy(module)[0](image), net()[0](image))


def quantized():
    module = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3)).eval()
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(module, nn.Linear(2, 2)), dtype=torch.qint8)


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = (each for each in [])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "0.weight yet: it is lazy; run it on one image"),
        (lambda: torch.jit.script(net()), "is TorchScript, which cannot be cut; give the module it was made from"),
        (lambda: nn.Sequential(torch.jit.script(net())), "is TorchScript"),
        (lambda: net().to("meta"), "no values in 0.weight: it is on the meta device"),
        (quantized, "quantized already; give the float module"),
        (Uncopied, "Uncopied cannot be copied: .*generator.*; export it to ONNX"),
        (lambda: net, "neither a name, a path nor a torch.nn.Module"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_cannot_be_cut_says_why(make, why):
    with pytest.raises(UsageError, match=why) as caught:
        open_backbone(make(), size=8)
    assert "\n" not in str(caught.value)


def test_random_weights_cannot_be_drawn_for_a_module():
    with pytest.raises(UsageError, match="weights 'random' cannot be drawn for module Sequential"):
        open_backbone(net(), "random")


def test_nan_is_broken_anywhere_and_inf_in_weights_and_statistics():
    module = net()
    module.register_buffer("mask", torch.tensor([-torch.inf, 0]))
    assert not broken_tensors(module)
    module[0].bias.data[1] = torch.inf
    module[1].running_var[0] = torch.inf
    module.mask[1] = torch.nan
    assert broken_tensors(module) == ["0.bias", "mask", "1.running_var"]
