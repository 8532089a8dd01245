"""A network trained by one of the published recipes, as benchmarks time it."""

import time
from dataclasses import asdict

import numpy as np
from torch import nn

from ...engine import timing
from ...engine.backbones.base import Backbone
from .finetune import finetune
from .network import Network, truncated_with_head
from .network_statistics import set_network_statistics
from .trained import Trained


def train_network(
    network: Network,
    random_encoder: nn.Module | None,
    sample: np.ndarray,
    pixels: np.ndarray,
    labels: np.ndarray,
    strategy: str,
    epochs: int | None,
    seed: int,
    device: str = "cpu",
) -> Trained:
    """Train a network.

    Parameters
    ----------
    network : Network
    random_encoder : torch.nn.Module, optional
        The part of it whose weights are random: its batch-norm statistics are set from `sample`, as an engine's are.
    sample, pixels : uint8 arrays of shape (n, height, width, 3)
    labels : integer array of shape (n,)
    strategy : str
    epochs : int, optional
    seed : int
    device : str

    Returns
    -------
    Trained
        Its seconds are those of all epochs.
    """
    if random_encoder is not None:
        set_network_statistics(network, random_encoder, sample)
    time.sleep(timing.PAUSE)
    trained = finetune(network, pixels, labels, strategy, epochs=epochs, seed=seed, device=device, verbose=True)
    remarks = {
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "settings": asdict(trained.strategy),
    }
    return Trained(trained.predict, {"total": trained.seconds}, remarks)


def train_truncated(
    backbone: Backbone,
    cut: str,
    sample: np.ndarray,
    pixels: np.ndarray,
    labels: np.ndarray,
    strategy: str,
    epochs: int | None,
    seed: int,
    device: str = "cpu",
) -> Trained:
    """Train a backbone to its cut with a linear head, on flattened features where the strategy is LightOn's."""
    head = "flatten" if strategy == "lighton" else "pool"
    network = truncated_with_head(backbone, int(labels.max()) + 1, cut, head=head, seed=seed)
    encoder = network.body.get_submodule("encoder") if backbone.needs_images else None
    return train_network(network, encoder, sample, pixels, labels, strategy, epochs, seed, device)
