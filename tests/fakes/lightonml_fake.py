"""A fake of lightonml 1.4.3 with an OPU behind it: what is used of ``lightonml.OPU``; what comes out are bytes.

It computes a squared projection whose matrix goes with the device's name, and scales it by the exposure. It refuses
more than 2000 components, bits that are not packed, the online mode, to work on a device that is not open, and to open
one that another object holds; `Medium.error` is what its next work raises.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Medium:
    """What `Opu` sees of an OPU: one medium, which at most one object holds open at a time."""

    def __init__(self):
        self.config = {"name": "Saturn", "exposure_us": 400}
        self.calls, self.holder, self.error = [], None, None

    def opu(self, **given):
        return Opu(self, **given)


class Opu:
    """The part of ``lightonml.OPU`` that is used, as 1.4.3 has it; what comes out are bytes."""

    def __init__(self, medium, n_components, open_at_init, disable_pbar):
        if n_components > 2000:
            raise IndexError("n_components is beyond maximum (2000)")
        assert not open_at_init
        self._medium, self._k = medium, n_components
        self.device = SimpleNamespace(exposure_us=medium.config["exposure_us"])

    def version(self):
        return f"OPU {self._medium.config['name']}-2-Paris; core type Nitro, core version 3\nlightonml version 1.4.3"

    def __enter__(self):
        if self._medium.holder is not None:
            raise Exception("already reserved by another OPU or OPUMap object")
        self._medium.holder = self

    def __exit__(self, *_):
        self._medium.holder = None

    def fit1d(self, X=None, n_features=None, packed=False, online=False):
        assert self._medium.holder is self
        assert X is None and packed and not online
        self._medium.calls.append(("fit1d", n_features))
        self._features = n_features

    def transform(self, X):
        assert self._medium.holder is self
        assert X.dtype == np.uint8 and 8 * X.shape[1] == self._features
        self._medium.calls.append(("transform", len(X)))
        if self._medium.error:
            raise self._medium.error
        R = np.random.default_rng(len(self._medium.config["name"])).normal(size=(2, self._features, self._k))
        bright = sum((np.unpackbits(X, axis=1) @ part) ** 2 for part in R) * self._medium.config["exposure_us"] / 400
        speckle = np.minimum(bright, 255).astype("uint8")
        return speckle[0] if len(X) == 1 and self._k == 1 else speckle


def modules(medium: Medium) -> dict[str, Any]:
    """Return lightonml's and its driver's modules, by name."""
    lightonml = ModuleType("lightonml")
    lightonml.__dict__["OPU"] = medium.opu
    return {"lightonml": lightonml, "lightonopu": ModuleType("lightonopu")}
