"""``aurevoir evaluate``."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .label_scores import describe_label_scores, label_scores
from .options import DATA, MIN_ACCURACY, add_cluster_options, add_rebuild, cluster_of, fraction, skipped_lines
from .outputs import check_outputs, refuse_inside, save
from .text import name

if TYPE_CHECKING:
    from ..transfer.evaluate import Evaluating

_COLUMNS = ("path", "label", "predicted", "probability", "error")
_TELLING = 1024
"""Bits of an image from which on they tell it from all others but its copies."""
_OUTPUTS = {"csv": "a table of evaluated images", "confusion": "a confusion matrix"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "The interval is Wilson's: in 95 of 100 such samples of images it holds the accuracy on all of them."
    )
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    parser.add_argument("data", help=DATA)
    parser.add_argument(
        "--min-accuracy", type=fraction, metavar="A", help=f"exit with code 4 below this accuracy{MIN_ACCURACY}"
    )
    parser.add_argument("--csv", metavar="F", help="write a row an image: path, label, predicted label, probability")
    parser.add_argument(
        "--confusion", metavar="F", help="draw the confusion matrix into this file: .png, .svg, .pdf or .html"
    )
    add_rebuild(parser)
    add_cluster_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the model on every readable image."""
    from ..errors import UsageError
    from ..images.labelled import labelled_images
    from ..images.sources import warn
    from ..saving import write_atomically
    from ..transfer.classifier import load
    from ..transfer.confusion import plot_confusion
    from ..transfer.evaluate import Evaluating
    from ..transfer.multilabel import LabelEvaluation

    check_outputs(args, _OUTPUTS, (args.data,))
    outputs: dict[str, Any] = {each: path for each in _OUTPUTS if (path := getattr(args, each)) is not None}
    for each, path in outputs.items():
        refuse_inside(f"--{each}", path, args.model)
    cluster = cluster_of(args)
    classifier = load(args.model, rebuild=args.rebuild)
    classifier.cluster = cluster
    if args.confusion is not None and classifier.multilabel_:
        raise UsageError("--confusion: images with several labels each have no confusion matrix; leave it out")
    data = labelled_images(args.data, "test")
    knows = classifier.keeps_training and classifier.n_bits_ >= _TELLING
    training = classifier.training_.bits if knows else None
    evaluating = Evaluating(classifier, data, training=training)
    rows = _rows(evaluating, len(data.paths))
    if args.csv is not None:
        save(outputs, args.csv, lambda: write_atomically(args.csv, rows), _OUTPUTS["csv"], "csv")
    # Where the file could not be written, the evaluation goes on.
    for _ in rows:
        pass
    tested = evaluating.result()
    if evaluating.trained:
        warn(
            f"{evaluating.trained} of {len(data.paths)} images are among the training images of the model, or copies "
            "of them: the figures are too good; leave these out"
        )
    outputs["training_images"] = None if training is None else evaluating.trained
    classes = classifier.classes_.tolist()
    if isinstance(tested, LabelEvaluation):
        return label_scores(tested, classes) | outputs
    result = {
        "accuracy": tested.accuracy,
        "accuracy_interval": list(tested.interval),
        "per_class": dict(zip(classes, tested.per_class, strict=True)),
        "confusion": tested.confusion.tolist(),
        "classes": classes,
        "images": int(tested.confusion.sum()),
        "skipped": tested.skipped,
    }
    if args.confusion is not None:
        low, high = tested.interval
        title = f"accuracy {tested.accuracy:.3f} ({low:.3f} to {high:.3f}) on {result['images']} images"
        names = list(map(str, classes))
        save(
            outputs,
            args.confusion,
            lambda: plot_confusion(tested.confusion, names, args.confusion, title),
            _OUTPUTS["confusion"],
            "confusion",
        )
    # The matrix has that name.
    outputs |= {"picture": outputs.pop("confusion")} if "confusion" in outputs else {}
    return {**result, **outputs}


def _rows(evaluating: "Evaluating", images: int) -> Iterator[bytes]:
    """Yield the CSV rows of images as they are evaluated."""
    from ..progress import progress_bar
    from ..transfer.csv_rows import csv_line, encoded, label_text, number_text

    yield encoded(csv_line(_COLUMNS))
    with progress_bar(total=images, desc="evaluate", unit="img") as bar:
        for records in evaluating:
            lines = (
                (
                    each["path"],
                    label_text(each["label"]),
                    label_text(each.get("predicted", "")),
                    number_text(each.get("probability")),
                    each.get("error", ""),
                )
                for each in records
            )
            yield encoded("".join(map(csv_line, lines)))
            bar.update(len(records))


def describe(result: dict[str, Any]) -> str:
    """Format the accuracy of each class and the confusion matrix: true classes in rows, predicted ones in columns."""
    if "mean_average_precision" in result:
        return describe_label_scores(result)
    low, high = result["accuracy_interval"]
    names = [name(each) for each in result["classes"]]
    counts = [[str(count) for count in row] for row in result["confusion"]]
    heads = [str(number) for number in range(1, len(names) + 1)]
    first = max(map(len, ["class", *(f"{number} {each}" for number, each in zip(heads, names, strict=True))]))
    cell = 1 + max(len(text) for row in [heads, *counts] for text in row)
    lines = [
        *skipped_lines(result["skipped"]),
        f"accuracy {result['accuracy']:.4f} on {result['images']} images, 95 % interval {low:.4f} to {high:.4f}",
        f"{'class':{first}s} accuracy | predicted as",
        f"{'':{first}s}          |" + "".join(f"{head:>{cell}s}" for head in heads),
    ]
    for number, each, accuracy, row in zip(heads, names, result["per_class"].values(), counts, strict=True):
        share = "-" if accuracy is None else f"{accuracy:.3f}"
        lines.append(f"{f'{number} {each}':{first}s} {share:>8s} |" + "".join(f"{count:>{cell}s}" for count in row))
    lines += [f"{each}: {result[each]}" for each in ("csv", "picture") if result.get(each)]
    return "\n".join(lines)
