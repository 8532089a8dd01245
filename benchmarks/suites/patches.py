"""Multi-label photographs: patches at several scales compared with the whole image, on the same splits and engine.

Each image and each patch passes the engine once; every split then works on the same bits.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.build import build_engine
from ...engine.engine import Engine
from ...images.batches import ImageFiles
from ...kernels.gram import overlap
from ...kernels.ridge import dual_path
from ...kernels.stopwatch import Stopwatch
from ...progress import progress_bar
from ...transfer.embed import embed_bits
from ..contract import Benchmark, Cells, Json, Result, Row
from ..harness.datasets import folder_name
from ..harness.splits import paired, standard_error
from ..reporting.text import markdown_table, plus_minus
from ..rivals.crops import crops, decode_whole
from ..rivals.patches import PROJECTIONS, SCALES, average_precisions, fit_patches, grid_patches, label_patches
from ..rivals.yolo import BoxedImages, boxed_images

TRAIN_SHARE = 0.6
WHOLE, PATCHES = "whole image", "patches"
ROWS = (WHOLE, PATCHES, "both", "whole image, alpha by squared error")
FOLDS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's arguments."""
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="a folder of images/ and YOLO label files, labels/"
    )
    parser.add_argument("--backbone", required=True, help="a torchvision name or an ONNX file")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    parser.add_argument("--calibration", metavar="DIR", help="other images to calibrate int8 on")
    parser.add_argument(
        "--scales", type=float, nargs="+", default=SCALES, help=f"(default: {' '.join(map(str, SCALES))})"
    )
    parser.add_argument("--projection", default="none", choices=PROJECTIONS, help="of the patches (default: none)")
    parser.add_argument("--seeds", type=int, default=3, help="60:40 splits, seeds from 0 (default: 3)")


@dataclass(frozen=True)
class _Embedded:
    """The bits of n images and of their patches, what these show, and a stopwatch for each way."""

    whole: np.ndarray
    patches: list[np.ndarray]
    labels: list[np.ndarray]
    truth: np.ndarray
    watches: dict[str, Stopwatch]
    skipped: dict[str, str]


def run(args: argparse.Namespace) -> Result:
    """Embed every image and its patches, and measure both ways on every split."""
    boxed = boxed_images(args.data)
    classes = np.unique(np.concatenate([boxes.classes for boxes in boxed.boxes]))
    engine = build_engine(args.backbone, precision=args.precision, calibration=args.calibration)
    data = _embed(engine, boxed, classes, args.scales)
    splits, precisions = [], []
    for seed in progress_bar(range(args.seeds), desc="splits"):
        split, found = _measure(data, engine.features, args.projection, seed)
        splits.append(split)
        precisions.append(found)
    return Result(
        "patches",
        _rows(np.array(precisions), data.watches),
        {
            "data": folder_name(args.data),
            "engine": repr(engine),
            "images": len(data.truth),
            "skipped": data.skipped,
            "classes": len(classes),
            "patches": sum(len(bits) for bits in data.patches),
            "projection": args.projection,
        },
        {"splits": splits, "per_class": _per_class(np.array(precisions), classes)},
    )


def _embed(engine: Engine, boxed: BoxedImages, classes: np.ndarray, scales: Sequence[float]) -> _Embedded:
    watches = {name: Stopwatch() for name in (WHOLE, PATCHES)}
    size, watch = (engine.input_shape[0], engine.input_shape[1]), watches[PATCHES]
    files = ImageFiles(boxed.paths, size, description="whole images")
    kept, whole = embed_bits(engine, files, watches[WHOLE])
    truth, patches, labels = np.zeros((len(kept), len(classes)), dtype=bool), [], []
    for index, image in enumerate(progress_bar(kept, desc="patches", unit="img")):
        boxes = boxed.boxes[image]
        columns = np.searchsorted(classes, boxes.classes)
        truth[index, columns] = True
        with watch("decode"):
            pixels = decode_whole(boxed.paths[image])
            height, width = pixels.shape[:2]
            corners = grid_patches(height, width, scales)
            parts = crops(pixels, corners, size)
        labels.append(label_patches(corners, boxes.corners * [width, height, width, height], columns, len(classes)))
        with watch("engine"):
            patches.append(engine.bits(parts))
    return _Embedded(whole, patches, labels, truth, watches, files.skipped)


def _measure(data: _Embedded, m: int, projection: str, seed: int) -> tuple[Cells, list[np.ndarray]]:
    """Return what one split chose and found, and the average precisions of every class, way by way."""
    order = np.random.default_rng(seed).permutation(len(data.truth))
    train, test = np.split(order, [round(TRAIN_SHARE * len(order))])
    with data.watches[WHOLE]("fit and score"):
        alphas, (whole, usual) = _whole_scores(data.whole[train], data.truth[train], data.whole[test], seed)
    with data.watches[PATCHES]("fit"):
        bits, labels = ([part[image] for image in train] for part in (data.patches, data.labels))
        fitted = fit_patches(bits, labels, data.truth[train], m, projection, folds=FOLDS, seed=seed)
    with data.watches[PATCHES]("score"):
        scores = fitted.scores([data.patches[image] for image in test])
    truth = data.truth[test]
    both = _standard(whole) + _standard(scores)
    found = [average_precisions(truth, each) for each in (whole, scores, both, usual)]
    chosen = {
        "seed": seed,
        "train_images": len(train),
        "test_images": len(test),
        "chance": float(truth.mean(axis=0)[truth.any(axis=0)].mean()),
        "whole_alphas": alphas,
        "patches_alpha": fitted.alpha,
        "exponent": fitted.exponent,
        "train_patches": fitted.rows,
        "left_out_mean_average_precision": fitted.mean_average_precision,
    }
    return chosen, found


def _whole_scores(
    train: np.ndarray, truth: np.ndarray, test: np.ndarray, seed: int
) -> tuple[list[float], list[np.ndarray]]:
    """Return a multi-label ridge's scores at two alphas.

    The first has the best mean average precision over folds of the training images, as the patches'
    has; the second the least squared leave-one-out error. The path's own choice is by accuracy, of
    which several labels an image have none.
    """
    gram, targets = overlap(train), np.where(truth, 1.0, -1.0)
    path, across = dual_path(gram, targets), overlap(test, train)
    fold = np.random.default_rng(seed).permutation(len(train)) % FOLDS
    precisions = []
    for alpha in path.alphas:
        scores = np.empty(truth.shape)
        for out in (fold == number for number in range(FOLDS)):
            part = dual_path(gram[np.ix_(~out, ~out)], targets[~out], alpha)
            scores[out] = gram[np.ix_(out, ~out)] @ part.coefficients + part.intercept
        precisions.append(np.nanmean(average_precisions(truth, scores)))
    alphas = path.alphas[[np.argmax(precisions), np.nanargmin(path.loo_errors)]]
    fits = [dual_path(gram, targets, alpha) for alpha in alphas]
    return alphas.tolist(), [across @ fit.coefficients + fit.intercept for fit in fits]


def _standard(scores: np.ndarray) -> np.ndarray:
    """Scale each class's scores of the test images to mean 0 and deviation 1; no label is read."""
    scaled: np.ndarray = (scores - scores.mean(axis=0)) / np.maximum(scores.std(axis=0), 1e-12)
    return scaled


def _rows(precisions: np.ndarray, watches: dict[str, Stopwatch]) -> list[Row]:
    """Summarise average precisions of shape (seeds, ways, classes)."""
    means = np.nanmean(precisions, axis=2).T
    rows = []
    for name, own in zip(ROWS, means, strict=True):
        less = paired(own, means[0])
        seconds = watches[name].seconds if name in watches else {}
        rows.append(
            Row(
                {
                    "name": name,
                    "mean_average_precision": float(own.mean()),
                    "standard_error": standard_error(own),
                    "less_whole_image": less["mean"],
                    "less_whole_image_standard_error": less["standard_error"],
                    "mean_average_precisions": own.tolist(),
                    "seconds": {stage: value for stage, value in seconds.items() if value},
                }
            )
        )
    return rows


def _per_class(precisions: np.ndarray, classes: np.ndarray) -> list[Cells]:
    """Average over the splits that have test images of the class."""
    return [
        {"class": int(number), **dict(zip(ROWS, np.nanmean(precisions[:, :, column], axis=0).tolist(), strict=True))}
        for column, number in enumerate(classes)
        if np.isfinite(precisions[:, :, column]).any()
    ]


def markdown(result: Json) -> list[str]:
    """Return mean average precision of each way."""
    rows = [
        [
            row["name"],
            plus_minus(row["mean_average_precision"], row["standard_error"], 3),
            plus_minus(row["less_whole_image"], row["less_whole_image_standard_error"], 3, "+"),
        ]
        for row in result["rows"]
    ]
    return markdown_table(["", "mean average precision", "less whole image, paired"], rows)


def describe(result: Json) -> str:
    """Lay the rows out as a table."""
    chance = np.mean([split["chance"] for split in result["splits"]])
    lines = [
        f"{result['engine']}",
        f"{result['images']} images of {result['classes']} classes, {result['patches']:,d} patches; "
        f"{len(result['splits'])} splits 60:40; chance {chance:.4f}",
    ]
    for row in result["rows"]:
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in row["seconds"].items())
        precision = plus_minus(row["mean_average_precision"], row["standard_error"], 4)
        less = plus_minus(row["less_whole_image"], row["less_whole_image_standard_error"], 4, "+")
        lines.append(f"{row['name']:35s} mAP {precision}, less whole image {less}; {spent}")
    return "\n".join(lines)


BENCHMARK = Benchmark("patches", add_arguments, run, describe, markdown)
