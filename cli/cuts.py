"""``aurevoir cuts``."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import pixels
from .text import name

if TYPE_CHECKING:
    from ..engine.backbones.base import Backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("backbone", help="a torchvision name, efficientnet_lite0 (or 1, 2), timm:NAME or an ONNX file")
    parser.add_argument("--size", type=pixels, help="height and width of the input (default: the backbone's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """List the cuts; no weights are downloaded."""
    from ..engine.backbone import structure

    network = structure(args.backbone, args.size)
    cuts, default = network.cuts(), _default(network)
    return {
        "backbone": args.backbone,
        "cuts": [
            {
                "name": cut.name,
                "features": cut.features,
                "parameters": cut.parameters,
                "macs": cut.macs,
                "megabytes": cut.megabytes,
                "default": network.resolve(cut.name) == default,
            }
            for cut in cuts
        ],
    }


def _default(network: "Backbone") -> str | None:
    """Return the full name of the default cut, or None if the network has none."""
    from ..errors import UsageError

    try:
        return network.resolve(None)
    except UsageError:
        return None


def describe(result: dict[str, Any]) -> str:
    """Format the cuts as a table."""
    lines = [f"  {'cut':40s} {'features':>10s} {'parameters':>12s} {'GMACs':>8s} {'MB fp32':>8s} {'MB int8':>8s}"]
    lines += [
        f"{'*' if cut['default'] else ' '} {name(cut['name']):40s} {cut['features']:10,d} {cut['parameters']:12,d} "
        f"{cut['macs'] / 1e9:8.3f} {cut['megabytes']['fp32']:8.2f} {cut['megabytes']['int8']:8.2f}"
        for cut in result["cuts"]
    ]
    return "\n".join([*lines, "* the default cut"] if any(cut["default"] for cut in result["cuts"]) else lines)
