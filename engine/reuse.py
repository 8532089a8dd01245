"""What graphs and engines are made of, as parts of keys, and their entries in a work folder or the cache.

The parts are known without decoding an image or exporting a network: digests of files, and what names and versions
determine. Where that is not certain there is none, and the digest of the exported graph stands for the network.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.graph.edit import digest
from ..calibration.table import CalibrationTable, pixels_digest
from ..files import read_file
from ..images.archives import content_digests
from ..schema import array, mapping, number, parse_object, record, refusing, text, whole
from .backbone import is_file
from .backbones import lite
from .backbones.base import Backbone
from .engine import Engine
from .external_data import external_digests
from .float_graph import Exported
from .graph_check import LARGEST, check_graph, parsed
from .load import open_engine
from .manifest import Manifest, read_manifest
from .preprocessing import Normalization, Preprocessing
from .spec import NetworkSpec

_ENGINE = record(
    {"built": number(0), "by_turn": mapping(array(number(above=0), 1), "turns", names=text(100))},
)
_GRAPH = record(
    {
        "backbone": text(),
        "cut": text(1 << 16),
        "weights": text(),
        "size": array(whole(1), 2, 2),
        "features": whole(1),
        "mean": array(number(), 1),
        "std": array(number(), 1),
        "resize": text(),
        "channel_order": text(),
        "pooled": whole(0),
        "pooled_layers": array(whole(1), 0),
    }
)
_SOURCE, _REMEDY = "an entry of the cache", "it is made again"


def network_part(network: NetworkSpec, backbone: Backbone | None = None) -> list[Any] | None:
    """Return what determines a truncated network, besides images; None if nothing certain does.

    Parameters
    ----------
    network : NetworkSpec
    backbone : Backbone, optional
        The opened network, whose weights tell what a name alone does not.
    """
    source = None
    if isinstance(network.backbone, str | Path):
        try:
            source = _source(network.backbone, Path(network.weights), network.seed)
            if source is None and backbone is not None and not is_file(network.backbone):
                source = _opened(backbone)
        except Exception:  # what is wrong with it, whoever opens it says
            return None
    if source is None:
        return None
    names = Path(network.backbone).name, Path(network.weights).name  # type: ignore[arg-type]
    numbers = _numbers(network.normalization)
    return [source, names, network.cut, network.pool_layers, network.size, network.resize, numbers]


def _source(backbone: str | Path, weights: Path, seed: int) -> Any:
    if is_file(backbone):
        return None if str(weights) != "default" else _file_digests(Path(backbone))
    if str(weights) == "random":
        return [str(backbone), "random", seed]
    if str(weights) == "default":
        if backbone not in lite.SIZES:
            return None
        weights = lite.weights_file(str(backbone))
    # An index names other files.
    return None if weights.suffix == ".json" else [str(backbone), *content_digests([weights])]


def _file_digests(path: Path) -> list[str]:
    """Return the digests of an ONNX file and of those beside it that hold its weights."""
    data = read_file(path, LARGEST, "backbone", "check the path")
    return [hashlib.sha256(data).hexdigest(), *external_digests(onnx.load_from_string(data), path)]


def _opened(backbone: Backbone) -> Any:
    return [backbone.name, backbone.weights_digest()] if hasattr(backbone, "weights_digest") else None


def _numbers(normalization: Normalization) -> Any:
    """Return a normalization as JSON has it; numbers as they are, to the last bit."""
    if isinstance(normalization, str):
        return normalization
    if isinstance(normalization, Preprocessing):
        normalization = (normalization.mean, normalization.std, normalization.channel_order)
    return [each if isinstance(each, str) else [float(value) for value in each] for each in normalization]


def graph_part(exported: Exported) -> list[Any]:
    """Return what determines a truncated network, its exported graph."""
    return [digest(exported.graph), _described(exported)]


def _described(exported: Exported) -> dict[str, Any]:
    return {each.name: getattr(exported, each.name) for each in fields(Exported) if each.name != "graph"}


def images_part(images: np.ndarray | Sequence[Path] | None) -> Any:
    """Return the digest of each image file's bytes, or that of all pixels."""
    if images is None:
        return None
    return pixels_digest(images) if isinstance(images, np.ndarray) else content_digests(images)


def table_part(data: CalibrationTable | Path | str) -> str:
    """Return what determines a calibration table, as an object or a file."""
    return data.to_json() if isinstance(data, CalibrationTable) else content_digests([data])[0]


def pack_graph(exported: Exported) -> bytes:
    """Return an exported graph as an entry."""
    head = json.dumps(_described(exported)).encode()
    graph: bytes = exported.graph.SerializeToString(deterministic=True)
    return head + b"\n" + graph


def unpack_graph(entry: bytes) -> Exported:
    """Return the exported graph of an entry.

    Raises
    ------
    AurevoirError
        If it holds none.
    """
    with refusing(_SOURCE, _REMEDY):
        head, _, graph = entry.partition(b"\n")
        described = parse_object(head)
        _GRAPH(described, "")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
    }
    made = Exported(graph=parsed(graph, _SOURCE), **values)
    _manifest(made)
    return made


def check_unpacked(made: Exported) -> None:
    """Check the graph of an entry as that of an engine file, before an engine is made of it; see `check_graph`.

    Raises
    ------
    AurevoirError
        If it is refused.
    """
    check_graph(made.graph.SerializeToString(), _manifest(made), _SOURCE)


def _manifest(made: Exported) -> Manifest:
    """Return the manifest of a float graph's engine, checked."""
    about = {name: value for name, value in _described(made).items() if name != "size"}
    about |= {"graph": "0" * 64, "precision": "fp32", "runtime": "onnxruntime", "runtime_version": ""}
    given = Manifest(**about, input_shape=made.input_shape)
    return read_manifest(given.to_json({}), _SOURCE)[0]


def pack_engine(engine: Engine) -> bytes:
    """Return an engine as an entry: with its speeds, and the time at which it was built."""
    head = {"built": engine.built or time.time(), "by_turn": engine.images_per_second_by_turn}
    return json.dumps(head).encode() + b"\n" + engine.to_bytes(speeds=True)


def unpack_engine(entry: bytes, device: str | None) -> Engine:
    """Return the engine of an entry, read and checked as an engine file is.

    Raises
    ------
    AurevoirError
        If it holds none, or one that is not for this machine.
    """
    with refusing(_SOURCE, _REMEDY):
        head, _, file = entry.partition(b"\n")
        described = parse_object(head)
        _ENGINE(described, "")
    engine = open_engine(file, _SOURCE, device)
    engine.images_per_second_by_turn, engine.built = described["by_turn"], described["built"]
    return engine
