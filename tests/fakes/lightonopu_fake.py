"""A fake of lightonopu 1.4.2, the driver that lightonml calls: a device whose bytes count the ones of a frame.

It has what lightonml 1.4.3 calls of ``OpuDevice`` and of the formatter, in the shapes of an OPU's display and camera.
It refuses frames that are not whole, and to work or to tell its readout time while it is closed.
"""

from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Driver:
    """What lightonml calls of its driver's ``OpuDevice``; the bytes that come out count the ones of a frame."""

    input_shape, output_shape_max, output_roi = (912, 1140), (2040, 1088), ((0, 0), (2040, 1088))
    output_roi_strategy, output_dtype, acq_state = SimpleNamespace(value=1), np.uint8, SimpleNamespace(value=1)
    active, frametime_us, exposure_us = False, 500, 400

    def __init__(self, *_):
        self.gain_dB = 0.0
        self.acquiring = lambda n_images: nullcontext()
        self.reserve = lambda n_images: None

    def open(self):
        self.active = True

    def close(self):
        self.active = False

    @property
    def output_readout_us(self):
        if not self.active:
            raise RuntimeError("The Opu must be active to get this value")
        return 300

    def transform2(self, X, Y, _):
        assert self.active and X.shape[1] == 912 * 1140 // 8
        Y[:] = np.bitwise_count(X).sum(axis=1)[:, None] + np.arange(Y.shape[1])


class Formatter:
    """The driver's own formatter: here the bits, then darkness."""

    lined_factor = 1

    def __init__(self, shape):
        self.define_lined_mapping = lambda *_: None

    def apply_format(self, source, target, features, reverse):
        assert features == 8 * source.shape[1]
        target[:] = 0
        target[:, : source.shape[1]] = source


def modules() -> dict[str, Any]:
    """Return the driver's modules, by name, each an attribute of the one above it."""
    parts = {
        "lightonopu": {"__version__": "1.4.2"},
        "lightonopu.internal": {},
        "lightonopu.internal.device": {"OpuDevice": type("OpuDevice", (Driver,), {})},
        "lightonopu.linear_reconstruction": {"init": lambda size: None},
        "lightonopu.formatting_v2": {"Formatter": Formatter},
    }
    found = {name: ModuleType(name) for name in parts}
    for name, content in parts.items():
        vars(found[name]).update(content)
        above, _, own = name.rpartition(".")
        if above:
            setattr(found[above], own, found[name])
    return found
