"""A network's tensors in the dictionaries and under the names that frameworks write."""

import numpy as np
import pytest
import torch
from torch import nn

from aurevoir.engine.backbones.state_dict import find

OWN = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 5, 3))).state_dict()
STATE = {name: torch.rand_like(value) if value.is_floating_point() else value + 7 for name, value in OWN.items()}


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("checkpoint", "place"),
    [
        (STATE, ""),
        (under("module."), "module"),
        (under("model.backbone.encoder.net."), "model.backbone.encoder.net"),
        (under("_orig_mod."), ""),
        ({name.replace("2.", "2._orig_mod."): value for name, value in STATE.items()}, ""),
        (under("module._fsdp_wrapped_module."), "module"),
        (
            {"epoch": 3, "network": under("module."), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
            "network.module",
        ),
        ({"state_dict": {**under("model."), "criterion.weight": torch.ones(9)}}, "state_dict.model"),
        ([STATE, 3], "0"),
        ({"module": {"model": {"student": STATE}}}, "module.model.student"),
        ({**under("module."), "n_averaged": torch.tensor(3)}, "module"),
        ({name: value.numpy() for name, value in STATE.items()}, ""),
        ({name: nn.Parameter(value) for name, value in STATE.items() if "num_batches" not in name}, ""),
    ],
)
def test_the_tensors_are_found(checkpoint, place):
    found = find(OWN, checkpoint)
    assert found.place == place
    assert not (found.missing or found.misfits or found.extra)
    assert {"0.weight", "1.running_var", "2.0.bias"} <= set(found.tensors)
    assert all(torch.equal(value, STATE[name]) for name, value in found.tensors.items())


@pytest.mark.parametrize("key", ["model_ema", "ema", "ema_state_dict", "state_dict_ema"])
@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_come_first(key, first):
    other = {"model": {name: value + 1 for name, value in STATE.items()}}
    averaged = {key: under("module.")}
    found = find(OWN, averaged | other if first else other | averaged)
    assert torch.equal(found.tensors["0.weight"], STATE["0.weight"])


OTHER = {name: value + 1 for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("checkpoint", "place", "rivals"),
    [
        ({"student": STATE, "teacher": OTHER}, "student", ["teacher"]),
        ({"student": STATE, "teacher": under("", STATE)}, "student", []),
        ([STATE, OTHER, OTHER], "0", ["1", "2"]),
        ({**under("encoder_q."), **under("encoder_k.", OTHER)}, "encoder_q", ["encoder_k"]),
        ({"state_dict": {**under("q.net."), **under("k.net.", OTHER)}}, "state_dict.q.net", ["state_dict.k.net"]),
        ({"model": STATE, "model_ema": OTHER}, "model_ema", ["model"]),
        ({**STATE, **under("copy.", OTHER)}, "", ["copy"]),
        ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(4, 3, 3, 3)}}}}, "model", []),
        ({"model": STATE, "small": {"0.weight": OTHER["0.weight"]}}, "model", []),
    ],
)
def test_other_weights_that_fit_as_well_are_named(checkpoint, place, rivals):
    found = find(OWN, checkpoint)
    assert (found.place, found.rivals) == (place, rivals)


def test_a_copy_without_its_head_fits_as_well():
    own = nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(9)], nn.Linear(2, 2)).state_dict()
    teacher = {name: value + 1 for name, value in own.items() if not name.startswith("9.")}
    found = find(own, {"teacher": teacher, "student": own})
    assert (found.place, found.rivals) == ("student", ["teacher"])


def test_an_average_of_another_network_does_not():
    found = find(OWN, {"ema": under("", {"0.weight": torch.ones(4, 3, 3, 3)}), "model": STATE})
    assert found.place == "model"


def test_differences_are_told_apart():
    state = {name: value for name, value in STATE.items() if name not in ("0.bias", "1.num_batches_tracked")}
    state |= {"0.weight": torch.ones(4, 1, 3, 3), "2.0.weight": torch.ones(5, 4, 3, 3, dtype=torch.int8)}
    found = find(OWN, {"model": under("net.", state | {"9.weight": torch.ones(2), "1.total_ops": torch.ones(1)})})
    assert found.missing == ["0.bias"]
    assert found.misfits == {
        "0.weight": "(4, 1, 3, 3) instead of (4, 3, 3, 3)",
        "2.0.weight": "int8 instead of float32",
    }
    assert found.extra == ["9.weight"]


def test_half_precision_fits():
    found = find(OWN, {name: value.to(torch.bfloat16) for name, value in STATE.items()})
    assert set(found.tensors) == set(OWN)


@pytest.mark.parametrize(
    "checkpoint", [{}, None, 3, {"a": {"b": 1}}, {0: torch.ones(3)}, {"x": torch.ones(3)}, np.ones(3)]
)
def test_nothing_is_found_in_what_holds_nothing(checkpoint):
    found = find(OWN, checkpoint)
    assert not found.tensors
    assert "0.weight" in found.missing


def test_old_densenets_and_transformers_resnets_have_other_names():
    own = {
        "denseblock1.denselayer2.norm1.weight": torch.ones(2),
        "denseblock1.denselayer2.conv2.weight": torch.ones(3),
        "layer2.1.conv3.weight": torch.ones(4),
        "layer2.1.bn1.bias": torch.ones(5),
        "layer4.0.downsample.0.weight": torch.ones(6),
        "layer4.0.downsample.1.weight": torch.ones(7),
        "conv1.weight": torch.ones(8),
        "bn1.running_mean": torch.ones(9),
    }
    names = [
        "denseblock1.denselayer2.norm.1.weight",
        "denseblock1.denselayer2.conv.2.weight",
        "encoder.stages.1.layers.1.layer.2.convolution.weight",
        "encoder.stages.1.layers.1.layer.0.normalization.bias",
        "encoder.stages.3.layers.0.shortcut.convolution.weight",
        "encoder.stages.3.layers.0.shortcut.normalization.weight",
        "embedder.embedder.convolution.weight",
        "embedder.embedder.normalization.running_mean",
    ]
    state = {f"resnet.{name}": torch.full_like(value, 3) for name, value in zip(names, own.values())}
    found = find(own, state)
    assert set(found.tensors) == set(own) and not found.extra and not found.missing


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda tensor: tensor.to("meta"), "without values"),
        (lambda tensor: tensor.to_sparse(), "sparse instead of dense"),
    ],
)
def test_tensors_that_hold_no_dense_values_do_not_fit(broken, reason):
    own = {"a.weight": torch.ones(3, 2), "b.weight": torch.ones(2, 2)}
    found = find(own, own | {"b.weight": broken(own["b.weight"])})
    assert found.misfits == {"b.weight": reason}
    assert list(found.tensors) == ["a.weight"]
