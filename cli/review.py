"""``aurevoir review``."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .options import (
    add_cluster_options,
    add_engine_options,
    add_rebuild,
    cluster_of,
    engine_arguments,
    positive,
    refuse_unused,
    skipped_lines,
)
from .outputs import check_outputs, refuse_inside, save
from .text import name

if TYPE_CHECKING:
    from ..transfer.classifier import Classifier
    from ..transfer.review import Review

COLUMNS = (
    *("path", "label", "suggested", "reason", "other", "other_label", "mirrored"),
    *("probability", "suggested_probability", "distance", "difference"),
)
"""Of the table; `aurevoir refit` reads the first and the third."""
_SHOWN, _ON_PAGE = 20, 200
"""How many images of a kind are shown as text, and on the page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "A label is contradicted where a classifier that has not seen the image prefers another, by leave-one-out with "
        "several kernels; in brackets are the probabilities of both. Copies are resized, compressed or mirrored ones, "
        "found by their bits and confirmed by their pixels. Delete from the table (--csv) the rows of images that are "
        "to stay, and give it to `aurevoir refit`."
    )
    parser.add_argument(
        "data",
        metavar="MODEL",
        help="a model folder (see `aurevoir fit --out`); or a folder of class folders, or a CSV or JSON-lines file of "
        "path and label, on which a classifier is trained first",
    )
    parser.add_argument(
        "--test", metavar="DATA", help="a folder or table of test images, to find copies of training images among them"
    )
    parser.add_argument("--csv", metavar="F.csv", help="write all that was found as a table")
    parser.add_argument("--html", metavar="F.html", help="write a page with pictures, to look through")
    parser.add_argument(
        "--top",
        type=positive,
        metavar="N",
        help=f"how many of a kind to show (default: {_SHOWN}, and {_ON_PAGE} on the page)",
    )
    add_rebuild(parser)
    _add_training(parser)
    add_cluster_options(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of a classifier that is trained first."""
    parser.add_argument(
        "--backbone", default="densenet169", help="to train with, as for `aurevoir fit` (default: %(default)s)"
    )
    parser.add_argument("--engine", metavar="F", help="an engine file to train with instead of a backbone")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Review the training images of a model, and write the table and the page."""
    from ..cluster.connection import connected
    from .review_page import review_page

    outputs = {"csv": "a review", "html": "a report"}
    check_outputs(args, outputs, [args.data, args.test])
    trains = _trains(args)
    with connected(cluster_of(args)):
        classifier = _trained(args) if trains else _loaded(args)
        found = classifier.review(args.test)
    result: dict[str, Any] = {**found.lists(), "images": len(found.images), "classes": classifier.classes_.tolist()}
    result |= {"test_images": None if args.test is None else len(found.tested), "skipped": dict(found.skipped)}
    result["shown"] = args.top or _SHOWN
    contents = {"csv": lambda: _table(found), "html": lambda: review_page(found, args.data, args.top or _ON_PAGE)}
    for option, kind in outputs.items():
        result[option] = getattr(args, option)
        if result[option]:
            save(result, result[option], partial(_write, result[option], contents[option]), kind, option)
    return result


def _write(path: str, content: Callable[[], bytes]) -> None:
    from ..saving import write_atomically

    write_atomically(path, content())


def _trains(args: argparse.Namespace) -> bool:
    """Return whether a classifier is trained first; refuse options that have no effect."""
    from pathlib import Path

    from ..transfer.model_schema import MODEL

    if (Path(args.data) / MODEL).is_file():
        refuse_unused(
            args, ("backbone", "engine", "seed", *engine_arguments(args)), "a model, which is trained", _add_training
        )
        if args.test is None:
            refuse_unused(args, ["cluster"], "a model and no test images: nothing is embedded", add_cluster_options)
        for option in filter(lambda option: getattr(args, option), ("csv", "html")):
            refuse_inside(f"--{option}", getattr(args, option), args.data)
        return False
    refuse_unused(args, ["rebuild"], "images, of which the engine is built", add_rebuild)
    if args.engine is not None:
        refuse_unused(args, ("backbone", *engine_arguments(args)), "a built engine (--engine)", _add_training)
    return True


def _loaded(args: argparse.Namespace) -> "Classifier":
    from ..transfer.classifier import load

    classifier = load(args.data, rebuild=args.rebuild)
    classifier.cluster = cluster_of(args)
    return classifier


def _trained(args: argparse.Namespace) -> "Classifier":
    from ..transfer.classifier import Classifier

    options = {"engine": args.engine, "random_state": args.seed, "verbose": True, **engine_arguments(args)}
    return Classifier(args.backbone, **options, cluster=cluster_of(args)).fit(args.data)


def _table(found: "Review") -> bytes:
    from ..transfer.csv_rows import csv_line, encoded, label_text

    rows = [[row.get(column) for column in COLUMNS] for row in found.rows()]
    lines = [csv_line("" if cell is None else label_text(cell) for cell in row) for row in [COLUMNS, *rows]]
    return encoded("".join(lines))


def describe(result: dict[str, Any]) -> str:
    """Format each kind of image, the most suspicious first."""
    tested = "" if result["test_images"] is None else f"; test images: {result['test_images']}"
    lines = [
        *skipped_lines(result["skipped"]),
        f"{result['images']} training images of {len(result['classes'])} classes{tested}",
    ]
    for key, (heading, line) in _TEXTS.items():
        found = result[key]
        if key == "leaks" and result["test_images"] is None:
            continue
        lines.append(f"{heading}: {len(found)}")
        lines += [f"  {line(row)}" for row in found[: result["shown"]]]
        if more := len(found) - result["shown"]:
            lines += [f"  and {more} more (--top, --csv, --html)"] if more > 0 else []
    lines += [f"{option}: {result[option]}" for option in ("csv", "html") if result[option]]
    return "\n".join(lines)


def _named(label: Any) -> str:
    return name(", ".join(map(str, label)) or "none" if isinstance(label, list) else label)


def _label(row: Mapping[str, Any]) -> str:
    return (
        f"{name(row['path'])}: {_named(row['label'])} ({row['probability']:.3f}), rather {_named(row['suggested'])} "
        f"({row['suggested_probability']:.3f})"
    )


def _copy(row: Mapping[str, Any]) -> str:
    return f"{name(row['path'])}: of {name(row['other'])}{_mirrored(row)}"


def _conflict(row: Mapping[str, Any]) -> str:
    sides = ((row["path"], row["label"]), (row["other"], row["other_label"]))
    return " and ".join(f"{name(path)} ({_named(label)})" for path, label in sides) + _mirrored(row)


def _leak(row: Mapping[str, Any]) -> str:
    return f"{name(row['other'])}: of {name(row['path'])}{_mirrored(row)}"


def _mirrored(row: Mapping[str, Any]) -> str:
    return ", mirrored" if row["mirrored"] else ""


_TEXTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "labels": ("labels that leave-one-out contradicts", _label),
    "conflicts": ("copies under another label", _conflict),
    "leaks": ("test images that are copies of training images", _leak),
    "copies": ("copies under the same label", _copy),
}
