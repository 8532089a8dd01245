"""The calibration table: thresholds by tensor, and the digests of the graph and images they were measured on."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx

from ..errors import AurevoirError
from .graph.edit import digest

SCHEMA = "aurevoir-calibration/1"


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
    """

    method: str
    graph: str
    images: str
    thresholds: dict[str, float]
    means: dict[str, list[float]] = field(default_factory=dict)
    placement: str = "conv-inputs"

    def to_json(self) -> str:
        """Return the table as JSON text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "CalibrationTable":
        """Read a table.

        Raises
        ------
        AurevoirError
            If the text is not a table of this schema, or a threshold is not finite and non-negative.
        """
        try:
            content = json.loads(text)
            schema = content.pop("schema")
            table = cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AurevoirError(f"not a calibration table: {error}; make one with `aurevoir calibrate`") from None
        if schema != SCHEMA:
            raise AurevoirError(
                f"calibration table of schema {schema!r}; this version reads {SCHEMA!r}; calibrate again"
            )
        if not isinstance(table.thresholds, dict) or not isinstance(table.means, dict):
            raise AurevoirError("not a calibration table: thresholds and means must be objects, by tensor name")
        for name, value in table.thresholds.items():
            if not (isinstance(value, int | float) and np.isfinite(value) and value >= 0):
                raise AurevoirError(
                    f"calibration table: threshold {value!r} of {name} is not a finite, non-negative number"
                )
        return table

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
            else "the tensors have the same names: another cut, weights or normalisation"
        )
        raise AurevoirError(
            f"the calibration table was measured on graph {self.graph[:12]}, this graph is {found[:12]}; {reason}; "
            "calibrate again"
        )


def pixels_digest(pixels: np.ndarray) -> str:
    """Return the SHA-256 of uint8 images, their shape included."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
