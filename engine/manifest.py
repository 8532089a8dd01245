"""The manifest of an engine file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..calibration.placement import Placement
from ..calibration.quantize import ActivationDtype
from ..errors import AurevoirError
from ..images.decode import Resize
from .preprocessing import ChannelOrder, Preprocessing
from .runtimes.base import Precision, RuntimeName

SCHEMA, EARLIER = "aurevoir-engine/3", "aurevoir-engine/2"


@dataclass(frozen=True)
class Manifest:
    """Description of an engine, stored in its file.

    Attributes
    ----------
    backbone, cut, weights : str
    graph : str
        SHA-256 of the float graph, weights and normalisation included.
    precision, runtime, runtime_version : str
    input_shape : (height, width, channels)
    features : int
        The number of features per image, m.
    mean, std : tuples of floats
        The normalisation inside the graph, for each channel in `channel_order`, of pixels scaled to [0, 1].
    resize : str
        How images are resized to the input shape.
    activation_dtype : str or None
        For int8: ``int8`` or ``uint8``; see `calibration.quantize`.
    placement : str or None
        For int8: ``conv-inputs``, ``concat-inputs`` or ``shared-concat``; see `calibration.placement`.
    in_float : tuple of str
        Tensors that an int8 engine keeps in floating point.
    in_float32 : tuple of str
        Tensors too large for float16, which an engine with a float16 body keeps in float32.
    weight_levels : int or None
        For int8: the largest magnitude of weights, 127 or 63; see `runtimes.weight_levels`.
    target : str or None
        The GPU architecture of the plan, such as ``sm89``.
    sign_agreement, relative_error : float or None
        Compared with fp32 on held-out images; None if not measured.
    channel_order : {"RGB", "BGR"}
        The order in which the network takes the channels of RGB images; the graph reorders them.
    """

    backbone: str
    cut: str
    weights: str
    graph: str
    precision: Precision
    runtime: RuntimeName
    runtime_version: str
    input_shape: tuple[int, int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize
    activation_dtype: ActivationDtype | None = None
    placement: Placement | None = None
    in_float: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ()
    weight_levels: int | None = None
    target: str | None = None
    sign_agreement: float | None = None
    relative_error: float | None = None
    channel_order: ChannelOrder = "RGB"

    @property
    def normalization(self) -> str:
        """`mean`, `std` and `channel_order` by their name, or as numbers, as `build_engine` takes them."""
        return Preprocessing(self.mean, self.std, self.channel_order).describe()

    @property
    def dialect(self) -> str | None:
        """The activation dtype as earlier versions and their JSON name it: ``s8`` or ``u8``."""
        return None if self.activation_dtype is None else {"int8": "s8", "uint8": "u8"}[self.activation_dtype]

    def to_json(self, digests: Mapping[str, str]) -> bytes:
        """Return the manifest as JSON, with the SHA-256 of each other part of the engine file."""
        return json.dumps({"schema": SCHEMA, **asdict(self), "parts": digests}, indent=1).encode()


def read_manifest(data: bytes, source: object) -> tuple[Manifest, dict[str, str], Any]:
    """Return a manifest, the digests of the other parts, and speeds, which earlier versions kept here.

    Error messages name `source`.

    Raises
    ------
    AurevoirError
        If it is not a manifest, or its schema is not supported.
    """
    content = _object(data, f"the manifest of {source}")
    schema, digests = content.pop("schema", None), content.pop("parts", {})
    if schema not in (SCHEMA, EARLIER):
        raise AurevoirError(
            f"{source} is an engine file of schema {schema!r}; this version reads {SCHEMA!r}; build it again"
        )
    speeds = content.pop("images_per_second", {})
    if schema == EARLIER:
        content["activation_dtype"] = {"s8": "int8", "u8": "uint8"}.get(content.pop("dialect", None))
    try:
        tuples = {name: tuple(content[name]) for name in ("input_shape", "mean", "std", "in_float", "in_float32")}
        return Manifest(**content | tuples), dict(digests), speeds
    except (KeyError, TypeError, ValueError) as error:
        raise AurevoirError(f"the manifest of {source} has wrong fields ({error}); build it again") from None


def read_speeds(data: bytes, source: object) -> dict[str, float]:
    """Return images per second by precision; error messages name `source`.

    Raises
    ------
    AurevoirError
        If they are not finite numbers by name.
    """
    speeds = _object(data, f"the speeds of {source}")
    for name, value in speeds.items():
        if not (isinstance(value, int | float) and math.isfinite(value)):
            raise AurevoirError(f"the speeds of {source}: {value!r} of {name} is not a number; build it again")
    return speeds


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise AurevoirError(f"{what} is not JSON ({error}); build it again") from None
    if not isinstance(content, dict):
        raise AurevoirError(f"{what} is a {type(content).__name__}, not a JSON object; build it again")
    return content
