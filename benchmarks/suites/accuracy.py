"""Accuracy by precision and projection over several splits of real photographs.

Each image passes each engine once; every split and projection then works on the same bits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.calibrate import calibrate
from ...engine.engine import Engine
from ...engine.float_graph import export_backbone
from ...engine.sample import sample_images
from ...images.batches import ImageFiles
from ...images.sources import class_folders
from ...kernels.bits import agreement
from ...kernels.readout import fit_readout
from ...transfer.embed import embed_bits
from ..harness.machine import describe_machine
from ..harness.splits import readable_splits, standard_error
from ..reporting.tables import markdown, plus_minus

PRECISIONS = ("fp32", "bf16", "int8")
KEYS = ("data", "precision", "projection")
SPREADS = {"accuracy": ("splits", "accuracies")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("data", nargs="+", help="folders of class folders, one a data set")
    parser.add_argument("--backbone", required=True, help="a torchvision name or an ONNX file")
    parser.add_argument("--calibration", required=True, help="a folder of other images to calibrate int8 on")
    parser.add_argument("--splits", type=int, default=5, help="80:20 splits, seeds from 0 (default: 5)")
    parser.add_argument(
        "--projections", nargs="+", default=["auto", "none", "exact"], help="(default: auto none exact)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every precision and projection on every split."""
    exported = export_backbone(open_backbone(args.backbone))
    table = calibrate(exported, sample_images(args.calibration, exported.size, 128), progress=True)
    engines = [assemble(exported, name, table=table if name == "int8" else None) for name in PRECISIONS]
    rows = [row for data in args.data for row in _measure(data, engines, args)]
    return {
        "benchmark": "accuracy",
        "backbone": Path(args.backbone).name,
        "features": exported.features,
        "rows": rows,
        "together": _together(rows, args.projections),
        "machine": describe_machine(),
    }


def _measure(data: str, engines: Sequence[Engine], args: argparse.Namespace) -> list[dict[str, Any]]:
    labelled = class_folders(data)
    rows, reference = [], None
    for engine in engines:
        size = (engine.input_shape[0], engine.input_shape[1])
        files = ImageFiles(labelled.paths, size, description=f"{data} {engine.precision}")
        kept, bits = embed_bits(engine, files)
        labels, parts = readable_splits(labelled, kept, args.splits)
        reference = bits if reference is None else reference
        common = {
            "data": Path(data).name,
            "images": len(labels),
            "precision": engine.precision,
            "sign_agreement": agreement(bits, reference, engine.features),
        }
        for projection in args.projections:
            found = [
                _accuracy(bits, engine.features, labels, part, projection) for part in tqdm(parts, desc=projection)
            ]
            rows.append({**common, "projection": projection, **_mean(found)})
    return rows


def _together(rows: list[dict[str, Any]], projections: Sequence[str]) -> list[dict[str, Any]]:
    """Return accuracy less fp32's over every split of every data set, paired, with its standard error.

    Splits of one data set share images: the error is that of independent splits, and so too small.
    """
    found = []
    for projection in projections:
        accuracies = {
            name: [
                value
                for row in rows
                if (row["precision"], row["projection"]) == (name, projection)
                for value in row["accuracies"]
            ]
            for name in PRECISIONS
        }
        for precision in PRECISIONS[1:]:
            differences = np.subtract(accuracies[precision], accuracies["fp32"])
            found.append(
                {
                    "precision": precision,
                    "projection": projection,
                    "splits": len(differences),
                    "less_fp32": float(differences.mean()),
                    "standard_error": standard_error(differences),
                }
            )
    return found


def _accuracy(
    bits: np.ndarray, m: int, labels: np.ndarray, part: tuple[np.ndarray, ...], projection: str
) -> tuple[float, float]:
    train, test = part
    readout, path = fit_readout(bits[train], m, labels[train], int(labels.max()) + 1, projection)
    return float((readout.scores(bits[test]).argmax(axis=1) == labels[test]).mean()), path.loo_accuracy


def _mean(found: list[tuple[float, float]]) -> dict[str, Any]:
    accuracies, loo = np.array(found).T
    return {
        "accuracy": float(accuracies.mean()),
        "standard_error": standard_error(accuracies),
        "accuracies": accuracies.tolist(),
        "loo_accuracy": float(loo.mean()),
    }


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table."""
    lines = [f"{result['backbone']}: {result['features']:,d} features"]
    lines += [
        f"{row['data']:12s} {row['precision']:5s} {row['projection']:9s} accuracy {row['accuracy']:.4f} "
        f"+- {row['standard_error'] or 0:.4f}, leave-one-out {row['loo_accuracy']:.4f}, "
        f"signs as fp32 {row['sign_agreement']:.4f}"
        for row in result["rows"]
    ]
    lines += [
        f"{row['precision']} less fp32, {row['projection']}: {row['less_fp32']:+.4f} "
        f"+- {row['standard_error'] or 0:.4f} over {row['splits']} splits"
        for row in result["together"]
    ]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: a row a data set, precisions across, for the first projection."""
    projection = result["rows"][0]["projection"]
    found = {(row["data"], row["precision"]): row for row in result["rows"] if row["projection"] == projection}
    together = {row["precision"]: row for row in result["together"] if row["projection"] == projection}
    splits, name = len(result["rows"][0]["accuracies"]), Path(result["backbone"]).stem
    rows = []
    for data in dict.fromkeys(data for data, _ in found):
        cells = [
            plus_minus(found[data, each]["accuracy"], found[data, each]["standard_error"], 3) for each in PRECISIONS
        ]
        int8 = found[data, "int8"]
        rows.append([name, f"{data} ({int8['images']:,d})", *cells, f"{int8['sign_agreement']:.3f}"])
    cells = [plus_minus(row["less_fp32"], row["standard_error"], 4, "+") for row in together.values()]
    rows.append([name, f"less fp32, {together['int8']['splits']} splits", "", *cells, ""])
    caption = f"Mean and standard error over {splits} splits, projection `{projection}`:"
    return [caption, "", *markdown(["backbone", "data (images)", *PRECISIONS, "int8 signs as fp32"], rows)]
