"""Shallow against deep retraining: the last layer of whole torchvision networks, or all of them."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...engine.backbone import open_backbone
from ...engine.backbones.base import Backbone
from ...errors import AurevoirError
from ..contract import Row
from .trained import Rival, Split, Trained

MODELS = (
    "alexnet",
    "vgg11",
    "resnet18",
    "densenet121",
    "inception_v3",
    "squeezenet1_1",
    "mobilenet_v2",
    "efficientnet_b0",
)
DEPTHS = {"shallow": "frozen", "deep": "naive"}
"""How much is trained, and the strategy that does it."""


def zoo_rivals(args: argparse.Namespace) -> list[tuple[Row, Rival]]:
    """Return each network's two rows to be, and what trains them."""
    return [
        (Row({"rival": f"{name} {depth}", "group": "zoo", "model": name}), partial(_train, name, strategy, args))
        for name in args.zoo or MODELS
        for depth, strategy in DEPTHS.items()
    ]


def _train(name: str, strategy: str, args: argparse.Namespace, split: Split) -> Trained:
    from ...engine.backbones.torch import TorchBackbone
    from .backprop import train_network
    from .network import with_new_head

    opened, why_random = _open(name, args)
    if not isinstance(opened, TorchBackbone):
        raise AurevoirError(f"{name} is not a network of torchvision")
    network = with_new_head(opened._module, split.classes, seed=split.seed)
    encoder = network.body if opened.needs_images else None
    trained = train_network(network, encoder, split, strategy, args.zoo_epochs, args.calibration_images)
    parameters = sum(parameter.numel() for parameter in network.body.parameters())
    found = {"weights": opened.weights, "why_random": why_random, "parameters": parameters, **trained.remarks}
    return replace(trained, remarks=found)


def _open(name: str, args: argparse.Namespace) -> tuple[Backbone, str | None]:
    """Return a network with the weights that are found, and why these are random if they are."""
    weights = Path(args.zoo_weights, f"{name}.pth") if args.zoo_weights else None
    if weights is not None and weights.is_file():
        return open_backbone(name, weights, args.zoo_size), None
    try:
        return open_backbone(name, "default", args.zoo_size), None
    except AurevoirError as error:
        if error.exit_code != 1:
            raise
        return open_backbone(name, "random", args.zoo_size, args.seed), str(error)
