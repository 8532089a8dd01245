"""The manifest of an engine file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ..archive import MEMBERS
from ..calibration.graph.edit import POOLED
from ..calibration.placement import PLACEMENTS, Placement
from ..calibration.quantize import ACTIVATION_DTYPES, LEVELS, ActivationDtype
from ..images.decode import RESIZES, Resize
from ..schema import (
    BOOLEAN,
    DIGEST,
    MalformedError,
    array,
    first_repeated,
    mapping,
    nullable,
    number,
    one_of,
    parse_object,
    record,
    refusing,
    require_version,
    shown,
    text,
    whole,
)
from .preprocessing import ChannelOrder, Preprocessing
from .runtimes.base import PRECISIONS, RUNTIMES, Precision, RuntimeName

SCHEMA, EARLIER = "aurevoir-engine/3", "aurevoir-engine/2"
FEATURE_OUTPUTS = ("features", "bits")
CLASSIFIER_OUTPUTS = ("scores", "probabilities", "label")
LONGEST_LABEL = 4096
_MOST_LAYERS = 16
_REMEDY = "build it again"
_PIXELS = 1 << 28
"""Values of one image, at most."""


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
    labels : tuple of str
        Of a classifier: its classes, in the order of its scores. Of an engine that computes features: none.
    multilabel : bool
        Of a classifier: whether an image has any number of labels.
    pooled : int
        The number of channels, which the output ``pooled`` has the means of; 0 where there is no such output: in engine
        files of earlier versions, and of a classifier.
    pooled_layers : tuple of int
        Their number in each of several layers, the last of them that of the features; empty where they are of one.
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
    labels: tuple[str, ...] = ()
    multilabel: bool = False
    pooled: int = 0
    pooled_layers: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels of the features; 0 where there is no output ``pooled``."""
        return self.pooled_layers[-1] if self.pooled_layers else self.pooled

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs: of features, or of a classifier."""
        if self.labels:
            return CLASSIFIER_OUTPUTS
        return (*FEATURE_OUTPUTS, POOLED) if self.pooled else FEATURE_OUTPUTS

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


_INT8_ONLY = ("activation_dtype", "placement", "weight_levels")
_NAMES = array(text())
_FIELDS = {
    "backbone": text(),
    "cut": text(1 << 16),
    "weights": text(),
    "graph": DIGEST,
    "precision": one_of(PRECISIONS),
    "runtime": one_of(RUNTIMES),
    "runtime_version": text(100),
    "input_shape": array(whole(1, 1 << 16), 3, 3),
    "features": whole(1),
    "mean": array(number(-1e6, 1e6), 1, 1 << 16),
    "std": array(number(above=0, most=1e6), 1, 1 << 16),
    "resize": one_of(RESIZES),
    "in_float": _NAMES,
    "in_float32": _NAMES,
}
_OPTIONAL = {
    "activation_dtype": nullable(one_of(ACTIVATION_DTYPES)),
    "placement": nullable(one_of(PLACEMENTS)),
    "weight_levels": nullable(whole(1, LEVELS)),
    "target": nullable(text(20, "[a-z0-9_.]+", "a GPU architecture such as sm89")),
    "sign_agreement": nullable(number(0, 1)),
    "relative_error": nullable(number(0)),
    "channel_order": one_of(get_args(ChannelOrder)),
    "labels": array(text(LONGEST_LABEL)),
    "multilabel": BOOLEAN,
    "pooled": whole(0),
    "pooled_layers": array(whole(1), 0, _MOST_LAYERS),
}
_PARTS = mapping(
    DIGEST, "digest", names=one_of([name for name in MEMBERS if name not in ("manifest.json", "speeds.json")])
)
_MANIFEST = record({"schema": text(), **_FIELDS, "parts": _PARTS}, _OPTIONAL)
_SPEEDS = mapping(number(above=0), "", names=text(100))


def read_manifest(data: bytes, source: object) -> tuple[Manifest, dict[str, str], dict[str, Any]]:
    """Return a manifest, the digests of the other parts, and speeds, which earlier versions kept here.

    Error messages name `source`.

    Raises
    ------
    AurevoirError
        If it is not a manifest, its schema is not supported, or a value is not of its type, out of its range or
        contradicts another.
    """
    with refusing(f"the manifest of {source}", _REMEDY):
        content = parse_object(data)
    with refusing(str(source), _REMEDY):
        earlier = require_version(content.get("schema"), (SCHEMA, EARLIER)) == EARLIER
    with refusing(f"the manifest of {source}", _REMEDY):
        speeds = content.pop("images_per_second", {}) if earlier else {}
        if earlier and "dialect" in content:
            nullable(one_of(("s8", "u8")))(content["dialect"], "dialect")
            content["activation_dtype"] = {"s8": "int8", "u8": "uint8", None: None}[content.pop("dialect")]
        _MANIFEST(content, "")
        digests = content.pop("parts")
        del content["schema"]
        tuples: dict[str, Any] = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        made = Manifest(**content | tuples)
        _check(made)
    return made, digests, speeds


def _check(made: Manifest) -> None:
    """Raise MalformedError where fields contradict each other."""
    channels = made.input_shape[2]
    if not len(made.mean) == len(made.std) == channels:
        raise MalformedError(
            f"has wrong fields ({len(made.mean)} means and {len(made.std)} standard deviations for {channels} channels)"
        )
    if made.channel_order == "BGR" and channels != 3:
        raise MalformedError(f"has wrong fields (channel_order 'BGR' is for 3 channels, not {channels})")
    if math.prod(made.input_shape) > _PIXELS:
        raise MalformedError(f"has wrong fields (input_shape {made.input_shape} holds more than {_PIXELS:,d} values)")
    wrong = [name for name in _INT8_ONLY if getattr(made, name) is not None and made.precision != "int8"]
    if wrong:
        raise MalformedError(f"has wrong fields ({wrong[0]} is of int8, and the precision is {made.precision})")
    if (repeated := first_repeated(made.labels)) is not None:
        raise MalformedError(f"has wrong fields (label {shown(repeated)} is repeated)")
    if made.multilabel and not made.labels:
        raise MalformedError("has wrong fields (multilabel is of a classifier, and there are no labels)")
    if made.pooled_layers and sum(made.pooled_layers) != made.pooled:
        raise MalformedError(
            f"has wrong fields (pooled_layers {list(made.pooled_layers)} do not add up to pooled {made.pooled})"
        )
    if made.pooled and (made.labels or made.features % made.channels):
        what = "is of features, and there are labels" if made.labels else f"does not divide {made.features} features"
        raise MalformedError(f"has wrong fields (pooled {made.channels} {what})")
    if made.precision == "int8" and made.activation_dtype is None:
        raise MalformedError("has wrong fields (int8 has an activation_dtype)")


def read_speeds(data: bytes | dict[str, Any], source: object) -> dict[str, float]:
    """Return images per second by precision, of JSON or of what it holds; error messages name `source`.

    Raises
    ------
    AurevoirError
        If they are not finite, positive numbers by name.
    """
    with refusing(f"the speeds of {source}", _REMEDY):
        speeds = parse_object(data) if isinstance(data, bytes) else data
        _SPEEDS(speeds, "speeds")
    return speeds
