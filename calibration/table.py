"""The calibration table: thresholds by tensor, and the digests of the graph and images they were measured on."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import onnx

from ..errors import AurevoirError
from ..schema import (
    DIGEST,
    array,
    mapping,
    number,
    one_of,
    parse_object,
    record,
    refusing,
    require_version,
    text,
)
from .graph.edit import digest
from .placement import PLACEMENTS, Placement, quantizable

SCHEMA = "aurevoir-calibration/1"
_LARGEST_MEAN = 1e6
"""Times the largest threshold."""
_BY_NAME = "thresholds, means and peaks must be objects, by tensor name"
_TABLE = record(
    {
        "schema": text(),
        "method": text(),
        "thresholds": mapping(number(0, float(np.finfo("float32").max)), "threshold", _BY_NAME),
        "graph": DIGEST,
        "images": text(64, "([0-9a-f]{64})?", "the hexadecimal digits of a SHA-256, or empty"),
    },
    {
        "means": mapping(array(number(), 1, 1 << 20), "means", _BY_NAME),
        "placement": one_of(PLACEMENTS),
        "peaks": mapping(array(number(0, float(np.finfo("float32").max)), 1, 1 << 20), "peaks", _BY_NAME),
    },
)


@dataclass(frozen=True)
class CalibrationTable:
    """Thresholds of every quantized tensor.

    Attributes
    ----------
    method : str
    graph, images : str
        SHA-256 of the float graph and of the calibration pixels.
    thresholds : dict of float
        Magnitudes at which the tensors saturate.
    means : dict of lists of float
        Channel means of the tensors, for bias correction; may be empty.
    placement : str
        The placement that the table covers.
    peaks : dict of lists of float
        Largest values of the channels of activations; see `signed.use_more_levels`. May be empty.
    """

    method: str
    graph: str
    images: str
    thresholds: dict[str, float]
    means: dict[str, list[float]] = field(default_factory=dict)
    placement: str = "conv-inputs"
    peaks: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the table as JSON text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "CalibrationTable":
        """Read a table.

        Raises
        ------
        AurevoirError
            If the text is not a table of this schema, a threshold is not finite and non-negative, or a mean is
            not finite or out of all proportion to the thresholds.
        """
        with refusing("not a calibration table: it", "make one with `aurevoir calibrate`"):
            content = parse_object(text.encode() if isinstance(text, str) else text)
        with refusing("the calibration table", "calibrate again"):
            if "schema" in content:
                require_version(content["schema"], (SCHEMA,))
        with refusing("not a calibration table: it", "make one with `aurevoir calibrate`"):
            _TABLE(content, "")
            del content["schema"]
            table = cls(**content)
            bound = _LARGEST_MEAN * max([1.0, *table.thresholds.values()])
            for name, means in table.means.items():
                array(number(-bound, bound))(means, f"means of {name}")
        return table

    def of_part(self, model: onnx.ModelProto, placement: Placement = "conv-inputs") -> "CalibrationTable":
        """Return the table of a graph that is the first part of this one's: what comes later changes no threshold."""
        names = [name for name in quantizable(model, placement) if name in self.thresholds]
        means = {name: self.means[name] for name in names if name in self.means}
        return replace(
            self, graph=digest(model), thresholds={name: self.thresholds[name] for name in names}, means=means
        )

    def check(self, model: onnx.ModelProto) -> None:
        """Raise AurevoirError if the table was measured on another graph.

        Raises
        ------
        AurevoirError
            If the graph's digest is not the table's.
        """
        found = digest(model)
        if found == self.graph:
            return
        tensors = {
            *(value.name for value in model.graph.input),
            *(name for node in model.graph.node for name in node.output),
        }
        strange = [name for name in self.thresholds if name not in tensors]
        reason = (
            f"{len(strange)} of its {len(self.thresholds)} tensors are not in this graph (first: {strange[0]}): "
            "another backbone or cut"
            if strange
            else "the tensors have the same names: another cut, weights, normalisation, or pooled layers"
        )
        raise AurevoirError(
            f"the calibration table was measured on graph {self.graph[:12]}, this graph is {found[:12]}; {reason}; "
            "calibrate again"
        )


def pixels_digest(pixels: np.ndarray) -> str:
    """Return the SHA-256 of uint8 images, their shape included."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
