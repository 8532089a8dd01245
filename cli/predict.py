"""``aurevoir predict``."""

import argparse
from typing import Any

from .options import add_rebuild, none_readable, skipped_lines
from .text import name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "In brackets is the probability of the label, calibrated by leave-one-out on the training images; an image of "
        "none of the classes has one too."
    )
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    add_rebuild(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Predict the label of each image."""
    from ..images.sources import expand
    from ..transfer.classifier import load

    classifier = load(args.model, rebuild=args.rebuild)
    files = classifier.image_files(expand(args.images, keep_missing=True))
    indices, scores = classifier.score_images(files)
    if not len(indices):
        raise none_readable(len(files), files.skipped)
    labels = classifier.labels(scores).tolist()
    # A model of an earlier version has no probabilities.
    chances = [None] * len(scores) if classifier.temperature_ is None else classifier.probabilities(scores).max(axis=1)
    return {
        "predictions": [
            {
                "path": str(files.paths[index]),
                "label": label,
                "score": float(row.max()),
                "probability": None if chance is None else float(chance),
            }
            for index, label, row, chance in zip(indices, labels, scores, chances, strict=True)
        ],
        "skipped": files.skipped,
    }


def describe(result: dict[str, Any]) -> str:
    """Format one line per image."""
    found = [f"{name(item['path'])}: {name(item['label'])} ({_certainty(item)})" for item in result["predictions"]]
    return "\n".join([*found, *skipped_lines(result["skipped"])])


def _certainty(item: dict[str, Any]) -> str:
    return f"score {item['score']:+.3f}" if item["probability"] is None else f"{item['probability']:.3f}"
