"""timm's networks by name, and what timm says of the images that a network was trained on."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType
from typing import Any
from unittest import mock
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from ...errors import MissingPackageError, UsageError
from .base import TIMM

_LOG = logging.getLogger("aurevoir.weights")


def create(name: str, pretrained: bool = False) -> nn.Module:
    """Return one of timm's networks, ``timm:NAME`` or ``timm:NAME.TAG``, with random or downloaded weights.

    Raises
    ------
    MissingPackageError
        If timm is not installed.
    UsageError
        If timm has no network of this name, or no weights of this tag.
    """
    timm, own = _timm(name), name.removeprefix(TIMM)
    if not timm.is_model(own):
        near = ", ".join(TIMM + each for each in get_close_matches(own, timm.list_models(), n=3, cutoff=0.3))
        raise UsageError(f"backbone {name!r} is not a network of timm {timm.__version__}; nearest: {near or 'none'}")
    base, _, tag = own.partition(".")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise UsageError(
            f"backbone {name!r} has no weights {tag!r} in timm {timm.__version__}; it has {', '.join(tags)}"
        )
    if not pretrained:
        network: nn.Module = timm.create_model(own, pretrained=False)
        return network
    _LOG.info("fetching the weights of %s from Hugging Face, unless they are cached", name)
    with _cache_only_if_unreachable():
        network = timm.create_model(own, pretrained=True)
    return network


@contextmanager
def _cache_only_if_unreachable() -> Iterator[None]:
    """Spare the user the retries of huggingface_hub, most of a minute, where the host has no address."""
    from huggingface_hub import constants

    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            yield
    else:
        yield


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            f"backbone {name!r} needs timm ({error}); install it with: pip install 'aurevoir[timm]'"
        ) from None
    return timm


def training_images(network: nn.Module) -> dict[str, Any]:
    """Return timm's ``mean``, ``std`` and ``input_size`` of a network's training, or {} if it is not one of timm's."""
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}
    return dict(config if isinstance(config, dict) else vars(config))
