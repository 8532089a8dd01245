"""Batch-norm statistics of a network that backprop is to train, where its weights are random."""

import numpy as np
import torch
from torch import nn

from ...engine.backbones.torch import set_statistics
from .network import Network


def set_network_statistics(network: Network, encoder: nn.Module, pixels: np.ndarray) -> None:
    """Set an encoder's batch-norm statistics from uint8 images as an engine's are, in place.

    Training goes on updating them at each layer's own momentum.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - network.mean) / network.std
    set_statistics(encoder, images.contiguous().numpy())
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
