"""Accuracy by precision and projection of the bits over several splits of real photographs.

Each image passes each engine once; every split and projection then works on the same bits.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...engine.engine import Engine
from ...engine.sample import sample_images
from ...kernels.bits import agreement
from ..contract import Benchmark, Cells, Json, Result, Row, Spread
from ..harness.engines import Engines, open_network
from ..harness.labelled_bits import embed_folder, fit_splits
from ..harness.splits import paired
from ..reporting.text import aligned, markdown_table, plus_minus

PRECISIONS = ("fp32", "bf16", "int8")
CALIBRATED = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument("data", nargs="+", help="folders of class folders, one a data set")
    parser.add_argument("--backbone", required=True, help="a torchvision name or an ONNX file")
    parser.add_argument("--calibration", required=True, help="a folder of other images to calibrate int8 on")
    parser.add_argument("--splits", type=int, default=5, help="80:20 splits, seeds from 0 (default: 5)")
    parser.add_argument(
        "--projections", nargs="+", default=["auto", "none", "exact"], help="(default: auto none exact)"
    )


def run(args: argparse.Namespace) -> Result:
    """Measure every precision and projection on every split."""
    exported = Engines.export(open_network(args.backbone, "default"))
    others = replace(exported, pixels=sample_images(args.calibration, exported.exported.size, CALIBRATED))
    thresholds = others.calibrate()
    engines = [others.build(precision, table=thresholds) for precision in PRECISIONS]
    rows = [row for data in args.data for row in _measure(data, engines, args)]
    return Result(
        "accuracy",
        rows,
        {"backbone": Path(args.backbone).name, "features": exported.exported.features},
        {"together": _together(rows, args.projections)},
    )


def _measure(folder: str, engines: Sequence[Engine], args: argparse.Namespace) -> list[Row]:
    rows, reference = [], None
    for engine in engines:
        data = embed_folder(engine, folder, args.splits)
        reference = data.bits if reference is None else reference
        common = {
            "data": data.name,
            "images": len(data.labels),
            "precision": engine.precision,
            "sign_agreement": agreement(data.bits, reference, engine.features),
        }
        for projection in args.projections:
            rows.append(Row({**common, "projection": projection, **fit_splits(data, projection)}))
    return rows


def _together(rows: Sequence[Row], projections: Sequence[str]) -> list[Cells]:
    """Return accuracy less fp32's over every split of every data set, paired, with its standard error.

    Splits of one data set share images: the error is that of independent splits, and so too small.
    """
    found = []
    for projection in projections:
        accuracies: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for row in rows:
            if row["projection"] == projection:
                accuracies[row["precision"]] += row["accuracies"]
        for precision in PRECISIONS[1:]:
            less = paired(accuracies[precision], accuracies["fp32"])
            found.append(
                {
                    "precision": precision,
                    "projection": projection,
                    "splits": len(accuracies[precision]),
                    "less_fp32": less["mean"],
                    "standard_error": less["standard_error"],
                }
            )
    return found


def describe(result: Json) -> str:
    """Lay the rows out as a table."""
    header = ["", "precision", "projection", "accuracy", "leave-one-out", "sign agreement with fp32"]
    rows = [
        [
            row["data"],
            row["precision"],
            row["projection"],
            plus_minus(row["accuracy"], row["standard_error"], 4),
            f"{row['loo_accuracy']:.4f}",
            f"{row['sign_agreement']:.4f}",
        ]
        for row in result["rows"]
    ]
    less = [
        f"{row['precision']} less fp32, {row['projection']}: "
        f"{plus_minus(row['less_fp32'], row['standard_error'], 4, '+')} over {row['splits']} splits"
        for row in result["together"]
    ]
    return "\n".join([f"{result['backbone']}: {result['features']:,d} features", *aligned(header, rows), *less])


def markdown(result: Json) -> list[str]:
    """Return a row a data set, precisions across, for the first projection."""
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
    caption = f"Mean and standard error over {splits} splits, projection `{projection}` of the bits alone:"
    return [
        caption,
        "",
        *markdown_table(["backbone", "data (images)", *PRECISIONS, "int8 sign agreement with fp32"], rows),
    ]


BENCHMARK = Benchmark(
    "accuracy",
    add_arguments,
    run,
    describe,
    markdown,
    keys=("data", "precision", "projection"),
    spreads={"accuracy": Spread("splits", "accuracies")},
)
