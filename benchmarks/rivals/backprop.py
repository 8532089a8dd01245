"""A network trained by one of the published recipes, as benchmarks time it."""

import time
from dataclasses import asdict

import numpy as np
import torch
from torch import nn

from ...engine import timing
from ...engine.backbones.base import Backbone
from ...engine.backbones.torch_export import set_batch_norm_statistics
from .finetune import finetune
from .network import Network, truncated_with_head
from .trained import Split, Trained


def train_truncated(
    backbone: Backbone,
    cut: str,
    split: Split,
    strategy: str,
    epochs: int | None,
    calibration_images: int,
    device: str = "cpu",
) -> Trained:
    """Train a backbone to its cut with a linear head, on flattened features where the strategy is LightOn's.

    The parameters are those of `train_network`.
    """
    head = "flatten" if strategy == "lighton" else "pool"
    network = truncated_with_head(backbone, split.classes, cut, head=head, seed=split.seed)
    encoder = network.body.get_submodule("encoder") if backbone.needs_images else None
    return train_network(network, encoder, split, strategy, epochs, calibration_images, device)


def train_network(
    network: Network,
    random_encoder: nn.Module | None,
    split: Split,
    strategy: str,
    epochs: int | None,
    calibration_images: int,
    device: str = "cpu",
) -> Trained:
    """Train a network; its seconds are those of all epochs.

    Parameters
    ----------
    network : Network
    random_encoder : torch.nn.Module, optional
        The part of it whose weights are random: its batch-norm statistics are set from as many training images as an
        engine's are.
    split : Split
    strategy : str
    epochs : int, optional
        At most; None means the strategy's own.
    calibration_images : int
    device : str
    """
    if random_encoder is not None:
        set_network_statistics(network, random_encoder, split.calibration_images(calibration_images))
    time.sleep(timing.PAUSE)
    trained = finetune(
        network, split.pixels, split.labels, strategy, epochs=epochs, seed=split.seed, device=device, verbose=True
    )
    remarks = {
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "settings": asdict(trained.strategy),
    }
    return Trained(trained.predict, {"total": trained.seconds}, remarks)


def set_network_statistics(network: Network, encoder: nn.Module, pixels: np.ndarray) -> None:
    """Set an encoder's batch-norm statistics from uint8 images as an engine's are, in place.

    Training goes on updating them at each layer's own momentum.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - network.mean) / network.std
    set_batch_norm_statistics(encoder, images.contiguous().numpy())
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
