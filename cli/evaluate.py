"""``aurevoir evaluate``."""

import argparse
from typing import Any

from .options import add_rebuild, fraction, skipped_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    parser.add_argument("data", help="a folder of class folders")
    parser.add_argument("--min-accuracy", type=fraction, metavar="A", help="exit with code 4 below this accuracy")
    add_rebuild(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the model on every readable image."""
    from ..images.sources import class_folders
    from ..transfer.classifier import load
    from ..transfer.evaluate import evaluate

    classifier = load(args.model, rebuild=args.rebuild)
    tested = evaluate(classifier, class_folders(args.data))
    classes = classifier.classes_.tolist()
    return {
        "accuracy": tested.accuracy,
        "per_class": dict(zip(classes, tested.per_class, strict=True)),
        "confusion": tested.confusion.tolist(),
        "classes": classes,
        "images": int(tested.confusion.sum()),
        "skipped": tested.skipped,
    }


def describe(result: dict[str, Any]) -> str:
    """Format the accuracy of each class and the confusion matrix: true classes in rows, predicted ones in columns."""
    width = max(map(len, map(str, result["classes"])))
    lines = [
        *skipped_lines(result["skipped"]),
        f"accuracy {result['accuracy']:.4f} on {result['images']} images",
    ]
    for (name, accuracy), row in zip(result["per_class"].items(), result["confusion"], strict=True):
        share = "     -" if accuracy is None else f"{accuracy:6.3f}"
        lines.append(f"{name:>{width}s} {share} |" + "".join(f"{count:5d}" for count in row))
    return "\n".join(lines)
