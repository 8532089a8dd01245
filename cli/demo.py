"""``aurevoir demo``: the post's Table 1 in small, on generated images."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .options import positive

if TYPE_CHECKING:
    import numpy as np

    from ..engine.assemble import Exported
    from ..engine.backbone import Backbone

BACKBONE, CUT = "densenet169", "denseblock4.denselayer12"
PRECISIONS = ("fp32", "bf16", "int8")
CALIBRATION_IMAGES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--per-class", type=positive, default=60, help="images of each class (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the images, the split and random weights (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw images, then train in each precision; what precisions can share is done once."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from ..engine.build import export_backbone
    from ..engine.calibrate import calibrate
    from ..images.batches import ImageFiles, collect
    from ..images.procedural import write_class_folders
    from ..kernels.bits import agreement
    from ..transfer.evaluate import split
    from ..transfer.timing import Stopwatch

    shared = Stopwatch()
    backbone, note = _backbone(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        parts = split(write_class_folders(Path(folder), args.per_class, backbone.size[0], args.seed, True), args.seed)
        with shared("decode"):
            pixels = [collect(ImageFiles(part.paths, backbone.size, description="decode"))[1] for part in parts]
    labels = [np.array(part.labels) for part in parts]
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(pixels[0]))[:CALIBRATION_IMAGES])
    with shared("build"):
        exported = export_backbone(backbone, CUT, pixels[0][chosen])
    with shared("calibrate"):
        table = calibrate(exported, pixels[0][chosen], progress=True)
    trained = [_train(exported, precision, table, pixels, labels) for precision in _runnable()]
    reference = trained[0][1]
    rows = [{**row, "sign_agreement": agreement(bits, reference, exported.features)} for row, bits in trained]
    seconds = shared.total()
    return {
        "backbone": BACKBONE,
        "cut": CUT,
        "weights": backbone.weights,
        "note": note,
        "classes": np.unique(labels[0]).tolist(),
        "train_images": len(labels[0]),
        "test_images": len(labels[1]),
        "features": exported.features,
        "shared": {stage: seconds[stage] for stage in ("decode", "build", "calibrate")},
        "total": seconds["total"],
        "rows": rows,
    }


def _backbone(seed: int) -> "tuple[Backbone, str | None]":
    from ..engine.backbone import open_backbone
    from ..errors import AurevoirError

    try:
        return open_backbone(BACKBONE), None
    except AurevoirError as error:
        if error.exit_code != 1:
            raise
        note = f"{error}\nthis run uses random weights of seed {seed}, batch-norm statistics set from the images"
        print(note, file=sys.stderr)
        return open_backbone(BACKBONE, "random", seed=seed), note


def _runnable() -> list[str]:
    from ..engine.runtimes import on_openvino

    return [precision for precision in PRECISIONS if precision in on_openvino.precisions()]


def _train(
    exported: "Exported", precision: str, table: Any, pixels: "list[np.ndarray]", labels: "list[np.ndarray]"
) -> "tuple[dict[str, Any], np.ndarray]":
    from ..engine.assemble import assemble
    from ..transfer.classifier import OpticalClassifier
    from ..transfer.timing import Stopwatch

    watch = Stopwatch()
    with watch("build"):
        engine = assemble(exported, precision, table=table if precision == "int8" else None)
    classifier = OpticalClassifier(engine=engine, verbose=True).fit(pixels[0], labels[0])
    bits = engine.bits(pixels[1])
    predicted = classifier.labels(classifier.readout_.scores(bits))
    row = {
        "precision": precision,
        "runtime": engine.runtime,
        "accuracy": float((predicted == labels[1]).mean()),
        "loo_accuracy": classifier.loo_accuracy_,
        "alpha": classifier.alpha_,
        "projection": classifier.projection_,
        "megabytes": engine.megabytes,
        "timings": {**classifier.timings_, "build": watch.seconds["build"]},
    }
    return row, bits


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as the post's Table 1."""
    shared = result["shared"]
    lines = [
        f"{result['train_images']} training and {result['test_images']} test images of "
        f"{len(result['classes'])} classes; {result['backbone']} cut at {result['cut']}, weights {result['weights']}, "
        f"{result['features']:,d} features",
        f"{'':9s} {'accuracy':>8s} {'leave-1-out':>11s} {'signs':>7s} {'MB':>6s}   seconds: "
        f"{'engine':>7s} {'project':>7s} {'gram':>6s} {'solve':>6s} {'total':>7s}",
    ]
    for row in result["rows"]:
        spent = row["timings"]
        lines.append(
            f"{row['precision']:9s} {row['accuracy']:8.4f} {row['loo_accuracy']:11.4f} {row['sign_agreement']:7.4f} "
            f"{row['megabytes']:6.1f}            {spent['engine']:7.2f} {spent['project']:7.2f} {spent['gram']:6.2f} "
            f"{spent['solve']:6.2f} {spent['total']:7.2f}"
        )
    lines.append(
        f"shared, seconds: decode {shared['decode']:.1f}, export {shared['build']:.1f}, calibrate "
        f"{shared['calibrate']:.1f} (int8 only); everything {result['total']:.1f}"
    )
    return "\n".join(lines)
