"""Networks whose features of an image are not the same each time and in every batch are refused, and why is said."""

import random
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from aurevoir.engine.backbones import torch_export
from aurevoir.engine.backbones.torch import TorchBackbone
from aurevoir.errors import AurevoirError

RANDOM = "gives the same image other features each time, as where its forward draws random numbers"
MIXED = "gives an image other features alone than in a batch of 2: its forward mixes .* or depends on their number"
BRANCH = "for any number of images: its forward branches on the number of images; cut earlier"


class Net(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), function

    def forward(self, image):
        """Return the features."""
        return self.last(self.function(self.first(image)))


def exported(function, cut):
    torch.manual_seed(0)
    return TorchBackbone.from_module(Net(function), 16).to_onnx(cut)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: functional.dropout(x, training=True), RANDOM),
        (lambda x: functional.dropout2d(x, 0.5, training=True), RANDOM),
        (lambda x: x + torch.rand_like(x), RANDOM),
        (lambda x: x * torch.randn(()), RANDOM),
        (lambda x: x[:, torch.randperm(4)], RANDOM),
        (lambda x: x * random.random(), RANDOM),
        (lambda x: x * np.random.default_rng().random(), RANDOM),
        (lambda x: x * 2 if x.shape[0] == 1 else x, MIXED),
        (lambda x: x * len(x), MIXED),
        (lambda x: x - x.mean(0, keepdim=True), MIXED),
        (lambda x: functional.batch_norm(x, None, None, training=True), MIXED),
        (lambda x: x * 2 if x.shape[0] > 8 else x, BRANCH),
        (lambda x: x * 2 if len(x) % 3 == 0 else x, BRANCH),
    ],
)
def test_a_forward_that_is_not_repeatable_is_refused(function, message):
    with pytest.raises(AurevoirError, match=message) as caught:
        exported(function, "last")
    assert "\n" not in str(caught.value) and "Net" in str(caught.value) and "'last'" in str(caught.value)


def test_what_lies_behind_the_cut_may_be_random():
    assert [node.op_type for node in exported(lambda x: x + torch.rand_like(x), "first").graph.node] == ["Conv"]


def test_what_is_drawn_in_training_only_is_exported():
    assert exported(nn.Dropout(0.5), "last").graph.node


@pytest.mark.parametrize("function", [lambda x: x * float("nan"), lambda x: x * 0])
def test_features_without_numbers_are_left_to_the_first_inference(function):
    assert exported(function, "last").graph.node


def test_output_is_the_callers_again_after_exports_that_overlap():
    """Streams and levels of loggers are the whole process's, and the first to enter was the first to leave."""
    before, entered, left = (sys.stdout, sys.stderr), threading.Event(), threading.Event()

    def second():
        entered.wait()
        with torch_export._quiet():
            left.wait()

    thread = threading.Thread(target=second)
    thread.start()
    with torch_export._quiet():
        entered.set()
        time.sleep(0.1)
    left.set()
    thread.join()
    assert (sys.stdout, sys.stderr) == before
