"""``aurevoir evaluate``."""

import argparse
from typing import Any

from .options import add_rebuild, fraction, skipped_lines
from .text import name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    parser.add_argument("data", help="a folder of class folders, or a CSV or JSON-lines file of path and label")
    parser.add_argument("--min-accuracy", type=fraction, metavar="A", help="exit with code 4 below this accuracy")
    add_rebuild(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the model on every readable image."""
    from ..images.labelled import labelled_images
    from ..transfer.classifier import load
    from ..transfer.evaluate import evaluate

    classifier = load(args.model, rebuild=args.rebuild)
    tested = evaluate(classifier, labelled_images(args.data, "test"))
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
    names = [name(each) for each in result["classes"]]
    counts = [[str(count) for count in row] for row in result["confusion"]]
    heads = [str(number) for number in range(1, len(names) + 1)]
    first = max(map(len, ["class", *(f"{number} {each}" for number, each in zip(heads, names, strict=True))]))
    cell = 1 + max(len(text) for row in [heads, *counts] for text in row)
    lines = [
        *skipped_lines(result["skipped"]),
        f"accuracy {result['accuracy']:.4f} on {result['images']} images",
        f"{'class':{first}s} accuracy | predicted as",
        f"{'':{first}s}          |" + "".join(f"{head:>{cell}s}" for head in heads),
    ]
    for number, each, accuracy, row in zip(heads, names, result["per_class"].values(), counts, strict=True):
        share = "-" if accuracy is None else f"{accuracy:.3f}"
        lines.append(f"{f'{number} {each}':{first}s} {share:>8s} |" + "".join(f"{count:>{cell}s}" for count in row))
    return "\n".join(lines)
