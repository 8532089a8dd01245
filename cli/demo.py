"""``aurevoir demo``: a small version of the post's Table 1, on generated images."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .options import positive, seed
from .text import one_line

if TYPE_CHECKING:
    import numpy as np

    from ..engine.backbones.base import Backbone
    from ..engine.build import EngineBuilder
    from ..engine.runtimes.base import Precision, RuntimeName
    from ..engine.spec import EngineSpec

BACKBONE, CUT = "densenet169", "denseblock4.denselayer12"
LITE = "efficientnet_lite0"  # which takes images of the same size
CALIBRATION_IMAGES = 64
LEAST = 5  # images a class, of which one is a test image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--per-class", type=positive, default=60, help="images per class (default: 60)")
    parser.add_argument("--runtime", default="auto", help="runtime of the engines (default: the device's best)")
    parser.add_argument("--device", help="cpu or cuda, for engines and ridge (default: cuda if supported)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of images, split and random weights (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Generate images, then train on two networks in each precision; work that the precisions share is done once."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from ..errors import UsageError
    from ..images.batches import ImageFiles, collect
    from ..images.procedural import write_class_folders
    from ..kernels.stopwatch import Stopwatch
    from ..transfer.evaluate import split

    if args.per_class < LEAST:
        raise UsageError(f"--per-class {args.per_class} must be at least {LEAST}, of which one is a test image")
    runtime, device, precisions = _chosen(args)
    watch = Stopwatch()
    backbone, note = _backbone(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        parts = split(write_class_folders(Path(folder), args.per_class, backbone.size[0], args.seed, True), args.seed)
        with watch("decode"):
            pixels = [collect(ImageFiles(part.paths, backbone.size, description="decode"))[1] for part in parts]
    labels = [np.array(part.labels) for part in parts]
    specs, ridge = [_spec(each, runtime, device) for each in precisions], _ridge_device(device)
    first = _trained(backbone, CUT, args.seed, specs, ridge, pixels, labels)
    lite, missing = _pretrained()
    second = _trained(lite, None, args.seed, specs, ridge, pixels, labels) if lite else {"backbone": LITE, "rows": []}
    return {
        **first,
        "note": note,
        "classes": np.unique(labels[0]).tolist(),
        "train_images": len(labels[0]),
        "test_images": len(labels[1]),
        "shared": {"decode": watch.seconds["decode"], **first["shared"]},
        "total": watch.total()["total"],
        "pretrained": {**second, "note": missing},
    }


def _trained(
    backbone: "Backbone",
    cut: str | None,
    seed: int,
    specs: "list[EngineSpec]",
    ridge: str,
    pixels: "list[np.ndarray]",
    labels: "list[np.ndarray]",
) -> dict[str, Any]:
    """Train on the features of one network in each precision."""
    from ..engine.build import EngineBuilder
    from ..engine.spec import CalibrationSpec, NetworkSpec
    from ..kernels.bits import agreement
    from ..kernels.stopwatch import Stopwatch

    watch = Stopwatch()
    calibration = CalibrationSpec(data=pixels[0], images=CALIBRATION_IMAGES, held_out=0)
    network = NetworkSpec(backbone=backbone, cut=cut, seed=seed)
    builder = EngineBuilder(network, calibration, stages=watch, progress=True)
    exported = builder.exported
    if any(spec.precision == "int8" for spec in specs):
        builder.table()
    shared = {stage: watch.seconds[stage] for stage in ("build", "calibrate")}
    trained = [_train(builder, spec, ridge, pixels, labels) for spec in specs]
    reference = trained[0][1]
    return {
        "backbone": backbone.name,
        "cut": cut or backbone.resolve(None),
        "weights": backbone.weights,
        "features": exported.features,
        "shared": shared,
        "total": watch.total()["total"],
        "rows": [{**row, "sign_agreement": agreement(bits, reference, exported.features)} for row, bits in trained],
    }


def _backbone(seed: int) -> "tuple[Backbone, str | None]":
    from ..engine.backbone import open_backbone
    from ..errors import AurevoirError

    try:
        return open_backbone(BACKBONE), None
    except AurevoirError as error:
        if error.exit_code != 1:
            raise
        note = f"random weights of seed {seed}, with batch-norm statistics from the images, because {error}"
        print(f"note: {one_line(note)}", file=sys.stderr)
        return open_backbone(BACKBONE, "random", seed=seed), note


def _pretrained() -> "tuple[Backbone | None, str | None]":
    """Return the network whose pretrained weights a package holds, or why it is left out."""
    from ..engine.backbone import open_backbone
    from ..errors import AurevoirError

    try:
        return open_backbone(LITE), None
    except AurevoirError as error:
        note = f"no rows of {LITE}, with pretrained weights: {error}"
        print(f"note: {one_line(note)}", file=sys.stderr)
        return None, note


def _chosen(args: argparse.Namespace) -> "tuple[RuntimeName, str, list[Precision]]":
    """Return the runtime, the device, and the precisions supported there: fp32, the narrowest float and int8."""
    from ..engine.runtimes import check_device, choose_runtime, default_device, narrowest_float, precisions_on

    name = choose_runtime(args.runtime, "fp32", device=args.device)
    device = args.device or default_device(name)
    check_device(name, device)
    wanted = dict.fromkeys(["fp32", narrowest_float(name, device), "int8"])
    return name, device, [precision for precision in wanted if precision in precisions_on(name, device)]


def _ridge_device(device: str) -> str:
    """Return the device of the ridge: that of the engines, or with a note the CPU if CuPy is missing."""
    from ..kernels.arrays import has_cupy

    if not device.startswith("cuda"):
        return "cpu"
    if not has_cupy():
        print("the ridge runs on the CPU: CuPy is not installed (pip install 'aurevoir[gpu]')", file=sys.stderr)
        return "cpu"
    return "cuda"


def _spec(precision: "Precision", runtime: "RuntimeName", device: str) -> "EngineSpec":
    from ..engine.spec import EngineSpec

    return EngineSpec(precision=precision, runtime=runtime, device=device, smoke=False, measure=False)


def _train(
    builder: "EngineBuilder",
    spec: "EngineSpec",
    ridge: str,
    pixels: "list[np.ndarray]",
    labels: "list[np.ndarray]",
) -> "tuple[dict[str, Any], np.ndarray]":
    from ..kernels.stopwatch import Stopwatch
    from ..transfer.classifier import Classifier

    watch = Stopwatch()
    with watch("build"):
        engine = builder.build(spec)
        # The first inference builds the plan or loads the network.
        engine.bits(pixels[0][:1])
    classifier = Classifier(engine=engine, ridge_device=ridge, verbose=True).fit(pixels[0], labels[0])
    tested = engine.run(pixels[1], ["bits", "pooled"])
    predicted = classifier.labels(classifier.readout_.scores(tested["bits"], pooled=tested["pooled"]))
    row = {
        "precision": engine.precision,
        "runtime": engine.runtime,
        "device": engine.device,
        "accuracy": float((predicted == labels[1]).mean()),
        "loo_accuracy": classifier.loo_accuracy_,
        "alpha": classifier.alpha_,
        "projection": classifier.projection_,
        "megabytes": engine.megabytes,
        "timings": {**classifier.timings_, "build": watch.seconds["build"]},
    }
    return row, tested["bits"]


def describe(result: dict[str, Any]) -> str:
    """Format the rows like the post's Table 1."""
    shared, pretrained = result["shared"], result["pretrained"]
    lines = [
        f"{result['train_images']} training and {result['test_images']} test images of {len(result['classes'])} "
        f"classes, decoded in {shared['decode']:.1f} s",
        *_table(result),
        *(_table(pretrained) if pretrained["rows"] else [pretrained["note"]]),
        f"everything, seconds: {result['total']:.1f}",
    ]
    if pretrained["rows"]:
        lines[-1] += f", of which {pretrained['backbone']} {pretrained['total']:.1f}"
    return "\n".join(lines)


def _table(network: dict[str, Any]) -> list[str]:
    shared = network["shared"]
    lines = [
        f"{network['backbone']} cut at {network['cut']}, weights {network['weights']}, "
        f"{network['features']:,d} features; "
        f"shared, seconds: export {shared['build']:.1f}, calibrate {shared['calibrate']:.1f} (int8 only)",
        f"{'':9s} {'accuracy':>8s} {'leave-1-out':>11s} {'sign agr.':>9s} {'MB':>6s}   seconds: "
        f"{'engine':>7s} {'project':>7s} {'gram':>6s} {'solve':>6s} {'total':>7s}",
    ]
    for row in network["rows"]:
        spent = row["timings"]
        lines.append(
            f"{row['precision']:9s} {row['accuracy']:8.4f} {row['loo_accuracy']:11.4f} {row['sign_agreement']:9.4f} "
            f"{row['megabytes']:6.1f}            {spent['engine']:7.2f} {spent['project']:7.2f} {spent['gram']:6.2f} "
            f"{spent['solve']:6.2f} {spent['total']:7.2f}"
        )
    return lines
