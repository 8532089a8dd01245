"""``aurevoir refit``."""

import argparse
import csv
import io
import os
from typing import TYPE_CHECKING, Any

from .options import add_rebuild, skipped_lines
from .outputs import note_training, refuse_inside, save
from .text import name

if TYPE_CHECKING:
    from ..transfer.classifier import Classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "The result is what a fit with the same engine would give on the images and labels that remain: kernel, alpha "
        "and exposure are chosen again, and no image that was there is read or embedded. The lists are tables with a "
        "column path, such as `aurevoir review --csv` writes, or of a path a line."
    )
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    parser.add_argument("--out", required=True, metavar="MODEL", help="the model folder to write")
    parser.add_argument("--remove", metavar="FILE", help="a list of training images to leave out")
    parser.add_argument(
        "--relabel",
        metavar="FILE",
        help="a table of training images and the labels that they get, in its column suggested, or without one label",
    )
    parser.add_argument(
        "--add", metavar="DATA", help="images to add: a folder of class folders, or a CSV or JSON-lines file"
    )
    add_rebuild(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Refit the model on the changed images, and write it."""
    from ..errors import UsageError
    from ..images.labelled import labelled_images
    from ..images.sources import warn
    from ..transfer.classifier import load
    from ..transfer.model import check_target

    if not (args.remove or args.relabel or args.add):
        raise UsageError("there is nothing to change; give --remove, --relabel or --add")
    check_target(args.out)
    if os.path.realpath(args.out) != os.path.realpath(args.model):
        refuse_inside("--out", args.out, args.model)
    classifier = load(args.model, rebuild=args.rebuild)
    training, before = classifier.training_, classifier.loo_accuracy_
    absent: list[str] = []
    removed = {index for index, _ in _listed(classifier, args.remove, "--remove", absent)} if args.remove else set()
    relabelled = _relabelled(classifier, args.relabel, absent) if args.relabel else {}
    labels = {row: label for row, label in relabelled.items() if row not in removed}
    added = labelled_images(args.add) if args.add else None
    classifier.refit(
        None if added is None else added.paths,
        None if added is None else added.labels,
        None if added is None else added.weights,
        remove=sorted(removed),
        relabel=labels,
    )
    result: dict[str, Any] = {
        "images": len(classifier.training_),
        "removed": len(removed),
        "relabelled": len(labels),
        "added": len(classifier.training_) - len(training) + len(removed),
        "absent": absent,
        "skipped": dict(classifier.skipped_),
        "loo_accuracy": classifier.loo_accuracy_,
        "loo_accuracy_before": before,
        "projection": classifier.projection_,
        "alpha": classifier.alpha_,
        "timings": classifier.timings_,
        "out": args.out,
    }
    save(result, args.out, lambda: classifier.save(args.out), key="out")
    note_training(args.out)
    if removed or labels:
        warn(
            "where leave-one-out has suggested what to remove or relabel, as in a review, its accuracy is too high "
            "now; test on other images: aurevoir evaluate"
        )
    return result


def _listed(classifier: "Classifier", path: str, option: str, absent: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of the training images that a list names, with what it says of each."""
    from ..errors import DataError, UsageError
    from ..transfer.training import find

    rows = _read(path)
    if not rows:
        raise DataError(f"{option} {path} names no image; give a path a line")
    training = classifier.training_
    if training.paths is None:
        raise UsageError("the model was not trained on files; use OpticalClassifier.refit with the images' indices")
    found, missing = find(training, [row["path"] for row in rows])
    if len(missing) == len(rows):
        raise DataError(
            f"none of the {len(rows)} images in {option} {path} is one of the {len(training)} training images, such as "
            f"{rows[0]['path']}; give paths as `aurevoir review --csv` writes them"
        )
    absent += map(str, missing)
    return [(int(index), row) for indices, row in zip(found, rows, strict=True) for index in indices]


def _relabelled(classifier: "Classifier", path: str, absent: list[str]) -> dict[int, Any]:
    """Return the labels that differ from those that the training images have, by index."""
    from ..errors import DataError
    from ..transfer.review import named

    classes, labels, found = classifier.classes_.tolist(), classifier.training_.labels, dict[int, Any]()
    for index, row in _listed(classifier, path, "--relabel", absent):
        given = row.get("suggested", row.get("label"))
        if given is None:
            raise DataError(f"--relabel {path} has no column suggested or label; give a table with a header")
        # No other label is suggested of a copy: its cell is empty.
        if (label := _label(classifier, given, path)) is None:
            continue
        if found.setdefault(index, label) != label:
            raise DataError(f"--relabel {path} gives {row['path']} the labels {found[index]} and {label}; give it one")
    own = {
        index: tuple(sorted(named(labels[index], classes))) if classifier.multilabel_ else classes[labels[index]]
        for index in found
    }
    return {index: label for index, label in found.items() if label != own[index]}


def _label(classifier: "Classifier", given: str, path: str) -> Any:
    """Return a label of a table, or of several an image a tuple of them; None of an empty cell."""
    from ..errors import DataError
    from ..images.labelled import several

    known = {str(label): label for label in classifier.classes_.tolist()}
    given_names = several(given) if classifier.multilabel_ else [given]
    names = [each if each in known else each.strip() for each in given_names if each.strip()]
    if new := [each for each in names if each not in known]:
        raise DataError(f"label {new[0]!r} in --relabel {path} is not one of the classes: {', '.join(known)}")
    found = tuple(sorted(known[each] for each in names))
    return (found if classifier.multilabel_ else found[0]) if found else None


def _read(path: str) -> list[dict[str, str]]:
    """Return the rows of a table with a column path, or of a file of a path a line."""
    from ..errors import DataError
    from ..images.tables import read_text

    text = read_text(path, "the list", "give a path a line")
    try:
        header = next(csv.reader(io.StringIO(text, newline="")), [])
        if "path" in header:
            rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
            return [{key: value for key, value in row.items() if isinstance(value, str)} for row in rows if row["path"]]
    except csv.Error as error:
        raise DataError(f"the list {path} is not a table: {error}; give a path a line") from None
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [{"path": line} for line in lines if line.strip()]


def describe(result: dict[str, Any]) -> str:
    """Say what changed, and what leave-one-out says of it."""
    changes = [f"{result[key]} {key}" for key in ("removed", "relabelled", "added") if result[key]]
    lines = [
        *skipped_lines(result["skipped"]),
        *(f"not a training image: {name(path)}" for path in result["absent"]),
        f"{result['images']} training images: {', '.join(changes) or 'no change'}",
        f"leave-one-out accuracy {result['loo_accuracy']:.4f}, before {result['loo_accuracy_before']:.4f}; projection "
        f"{result['projection']}, alpha {result['alpha']:.4g}",
        f"seconds: {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in result['timings'].items())}",
    ]
    return "\n".join([*lines, *([f"model: {result['out']}"] if result["out"] else [])])
