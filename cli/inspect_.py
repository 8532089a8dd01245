"""``aurevoir inspect``."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .text import name as plain

if TYPE_CHECKING:
    from pathlib import Path

    from ..calibration.table import CalibrationTable
    from ..engine.engine import Engine
    from ..engine.runtimes.base import Layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", metavar="PATH", help="an engine file or a model folder")
    parser.add_argument("--layers", action="store_true", help="list every layer with its precision on this machine")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read an engine file, and the layers as the runtime reports them; or a model folder, with its engine."""
    from pathlib import Path

    from ..engine.load import MODEL_ENGINE

    folder = Path(args.engine)
    if not folder.is_dir():
        return _engine(args)
    model = _model(folder)
    args.engine = str(folder / MODEL_ENGINE)
    return {**(_engine(args) if MODEL_ENGINE in model["files"] else {"parts": []}), **model}


def _model(folder: "Path") -> dict[str, Any]:
    """Return what a model folder holds; the digest of model.json, which holds those of the others, stands for all."""
    from ..files import file_digest
    from ..signing import SIGNATURE
    from ..transfer.model import KIND, read

    model = read(folder)
    own = sorted(path for path in folder.iterdir() if path.name in KIND.files)
    files = {path.name: file_digest(path) for path in own if path.is_file() and not path.is_symlink()}
    return {
        "model": str(folder),
        "model_sha256": files["model.json"],
        "classes": model.classes.tolist(),
        "multilabel": model.multilabel,
        "features": model.features,
        "projection": model.readout.kind,
        "alpha": model.path.alpha,
        "loo_accuracy": model.path.loo_accuracy,
        "seed": model.seed,
        "signed": SIGNATURE in files,
        "files": files,
    }


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    import hashlib
    from dataclasses import asdict

    from ..engine.load import read_engine
    from ..files import file_digest

    engine = read_engine(args.engine)
    layers, why = _layers(engine)
    return {
        "engine": args.engine,
        "sha256": file_digest(args.engine),
        **asdict(engine.manifest),
        "normalization": engine.manifest.normalization,
        "dialect": engine.manifest.dialect,
        "images_per_second": engine.images_per_second,
        "parts": [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in engine.parts().items()
        ],
        "operators": _operators(engine.graph),
        "calibration": _calibration(engine.table),
        "layer_precisions": _counts(layer["precision"] or "unknown" for layer in layers),
        "layers": layers if args.layers else None,
        "layers_unknown": why,
    }


def _layers(engine: "Engine") -> "tuple[list[Layer], str | None]":
    """Return the layers, or why they are not available."""
    from ..engine.first_load import check_first_load
    from ..engine.runtimes import builds_plans, check_precision, graph_runtime, plan_runtime, require_runtime
    from ..errors import AurevoirError

    try:
        require_runtime(engine.runtime, engine.precision)
        if fault := engine.plan_mismatch():
            return [], fault
        if builds_plans(engine.runtime):
            if engine.plan is None:
                return [], f"{engine.runtime} reports layers only of a plan, and this engine has no plan yet"
            return plan_runtime(engine.runtime).layers(engine.plan, engine.device), None
        layers = graph_runtime(engine.runtime).layers
        if layers is None:
            return [], f"{engine.runtime} does not report the precisions of its layers"
        check_first_load(engine, "this engine")
        return layers(engine.graph, check_precision(engine.precision), engine.device), None
    except AurevoirError as error:
        return [], str(error)


def _operators(graph: bytes) -> dict[str, int]:
    import onnx

    return _counts(node.op_type for node in onnx.load_from_string(graph).graph.node)


def _counts(items: Iterable[str]) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(items).most_common())


def _calibration(table: "CalibrationTable | None") -> dict[str, Any] | None:
    if table is None:
        return None
    return {
        "method": table.method,
        "placement": table.placement,
        "tensors": len(table.thresholds),
        "images": table.images,
    }


def describe(result: dict[str, Any]) -> str:
    """Format one field per line."""
    shown = {name: value for name, value in result.items() if name not in ("parts", "layers", "dialect") and value}
    lines = [f"{name:18s} {_text(value)}" for name, value in shown.items()]
    lines += [f"{'part':18s} {part['name']}, {part['bytes']:,d} bytes, {part['sha256']}" for part in result["parts"]]
    layers = result.get("layers") or []
    lines += [
        f"{layer['precision'] or '-':8s} {plain(layer['type'] or '-'):24s} {plain(layer['name'])}" for layer in layers
    ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)} {_text(each)}" for name, each in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else plain(value)
