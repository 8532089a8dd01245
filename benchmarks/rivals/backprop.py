"""A network trained by one of the published recipes, as benchmarks time it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from ...engine import timing
from .finetune import finetune
from .network import Network
from .network_statistics import set_network_statistics

Predict = Callable[[np.ndarray], np.ndarray]


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
) -> tuple[Predict, dict[str, float], dict[str, Any]]:
    """Train; return what predicts, the seconds of all epochs, and what else a row says.

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
    return trained.predict, {"total": trained.seconds}, remarks
