"""What one exported network comes to: fp32 against torch in float64 on every runtime, and int8 against NNCF's."""

import copy
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ....calibration.fidelity import relative_error
from ....calibration.graph.edit import digest, prune
from ....engine.build import EngineBuilder
from ....engine.runtimes import precisions_on
from ....engine.runtimes.on_openvino import compile_model
from ....engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from ...contract import Cells, reason
from ...harness.splits import paired
from ...rivals.peers import INSTALL, named_nodes, nncf_model
from .networks import normalised

if TYPE_CHECKING:
    from torch import nn

# By what they are called: whether sums and products are quantized too, and what `nncf.quantize` is given.
_NNCF: dict[str, tuple[bool, dict[str, Any]]] = {
    "convolutions, accurate bias correction": (False, {"fast_bias_correction": False}),
    "all, performance": (True, {}),
    "all, mixed": (True, {"preset": "MIXED"}),
}
_NNCF_ATTENTION = "all, mixed, transformer"


@dataclass
class Images:
    """Images to calibrate on and others to compare on, uint8 of shape (n, size, size, 3)."""

    calibration: np.ndarray
    test: np.ndarray


def torch_features(module: "nn.Module", images: np.ndarray, path: str | None = None) -> tuple[np.ndarray, float]:
    """Return in float64 what a module, or its submodule at a path, makes of images; and torch's own error in float32.

    The float64 is that of weights and images rounded to float32, so that nothing but rounding differs.
    """
    import torch

    def features(network: "nn.Module", values: "torch.Tensor") -> np.ndarray:
        seen: list[torch.Tensor] = []
        # A copy: what comes next may work in place.
        network.get_submodule(path or "").register_forward_hook(lambda _, __, output: seen.append(output.clone()))
        with torch.inference_mode():
            network(values)
        return seen[-1].flatten(1).numpy()

    pixels = torch.from_numpy(normalised(images))
    exact = features(copy.deepcopy(module).double(), pixels.double())
    return exact, relative_error(features(copy.deepcopy(module), pixels), exact)


@dataclass
class Measurements:
    """Measures graphs of one network; a graph seen before has the figures that it had.

    Attributes
    ----------
    images : Images
    runtimes : sequence of str
    attention : bool
        Whether to try NNCF's settings for transformers too.
    begin : callable
        Told what begins, so that a process that dies leaves word of it.
    """

    images: Images
    runtimes: Sequence[str]
    attention: bool
    begin: Callable[[str], None]
    _seen: dict[tuple[str, str], Cells] = field(default_factory=dict)

    def builder(self, backbone: Any, size: int, cut: str | None = None) -> EngineBuilder:
        """Return a builder of engines of an ONNX file or a module, up to a cut or to its own default."""
        calibration = CalibrationSpec(data=self.images.calibration, images=len(self.images.calibration), held_out=0)
        # Some of timm's networks say another normalization than the one that torch's features were made with.
        network = NetworkSpec(backbone=backbone, size=size, cut=cut, normalization="imagenet")
        builder = EngineBuilder(network, calibration)
        self.begin("reading")
        assert builder.exported
        return builder

    def fp32(self, builder: EngineBuilder, reference: np.ndarray) -> Cells:
        """Return the relative error of fp32 by runtime, and what each refused."""
        return self._once("fp32", builder, lambda: self._errors("fp32", builder, reference)[0])

    def int8(self, builder: EngineBuilder, reference: np.ndarray) -> Cells:
        """Return the relative error of int8 by runtime and of NNCF's by setting, and what each refused."""
        return self._once("int8", builder, lambda: self._int8(builder, reference))

    def _once(self, precision: str, builder: EngineBuilder, measure: Callable[[], Cells]) -> Cells:
        key = (precision, digest(builder.exported.graph))
        if key not in self._seen:
            self._seen[key] = measure()
        return self._seen[key]

    def _errors(self, precision: Any, builder: EngineBuilder, reference: np.ndarray) -> tuple[Cells, list[np.ndarray]]:
        """Return the cells of a precision, and the features by runtime."""
        found, refused, features = {}, {}, []
        for runtime in self.runtimes:
            if precision not in precisions_on(runtime, None):
                continue
            self.begin(f"{precision} on {runtime}")
            try:
                engine = builder.build(
                    EngineSpec(precision=precision, runtime=runtime, smoke=False, measure=False)  # type: ignore[arg-type]
                )
                made = np.asarray(engine(self.images.test))
                found[runtime] = relative_error(made, reference)
                features.append(made)
            except Exception as error:  # What is refused, and faults, are what this benchmark looks for.
                refused[f"{precision} {runtime}"] = reason(error)
        return {precision: found, "refused": refused}, features

    def _int8(self, builder: EngineBuilder, reference: np.ndarray) -> Cells:
        cells, ours = self._errors("int8", builder, reference)
        if find_spec("nncf") is None:
            return cells | {"nncf_not_run": f"NNCF is not installed; install it with: {INSTALL}"}
        found, refused, features = self._nncf(builder.exported.graph, reference)
        cells["nncf"], cells["refused"] = found, cells["refused"] | refused
        if found and ours:
            best = min(found, key=lambda name: float(found[name]))
            errors = [_by_image(made, reference) for made in (ours[0], features[best])]
            cells |= {"nncf_best": best, "behind_nncf": paired(*errors)}
        return cells

    def _nncf(self, graph: onnx.ModelProto, reference: np.ndarray) -> tuple[Cells, Cells, dict[str, np.ndarray]]:
        """Return NNCF's relative error by its settings, what failed, and the features."""
        logging.getLogger("nncf").setLevel(logging.ERROR)
        settings = dict(_NNCF)
        if self.attention:
            import nncf

            settings[_NNCF_ATTENTION] = (True, {"preset": "MIXED", "model_type": nncf.ModelType.TRANSFORMER})
        found, refused, features = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            onnx.save(named_nodes(prune(graph, ["features"])), path)
            for name, (everything, options) in settings.items():
                self.begin(f"NNCF, {name}")
                try:
                    model = nncf_model(path, self.images.calibration, everything, **options)
                    features[name] = compile_model(model, "int8")(self.images.test)[0].copy()
                    found[name] = relative_error(features[name], reference)
                except Exception as error:  # NNCF's own; it has no common base class.
                    refused[f"NNCF, {name}"] = reason(error)
        return found, refused, features


def _by_image(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the relative error of each image."""
    errors = np.linalg.norm(features - reference, axis=1) / np.linalg.norm(reference, axis=1)
    return np.asarray(errors, dtype="float64")
