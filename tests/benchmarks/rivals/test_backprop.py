"""Networks of random weights that backprop trains."""

import torch
from torch import nn

from aurevoir.benchmarks.rivals.backprop import set_network_statistics
from aurevoir.benchmarks.rivals.network import truncated_with_head


def test_random_networks_start_from_the_images_statistics_and_update_them(pixels):
    torch.manual_seed(0)
    network = truncated_with_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2)), 2, "1", size=28)
    encoder = network.body.get_submodule("encoder")
    set_network_statistics(network, encoder, pixels[:16])
    norm = next(layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d))
    conv = next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    images = (torch.from_numpy(pixels[:16]).permute(0, 3, 1, 2) - network.mean) / network.std
    torch.testing.assert_close(norm.running_mean, conv(images).mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert norm.momentum == 0.2
