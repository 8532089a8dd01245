"""``aurevoir predict``."""

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_cluster_options, add_rebuild, cluster_of, fraction, none_readable, positive, skipped_lines
from .text import name, shown

if TYPE_CHECKING:
    from ..transfer.classifier import Classifier
    from ..transfer.predictions import Details, Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "In brackets is the probability of the label, calibrated by leave-one-out on the training images; an image of "
        "none of the classes has one too, and is called unfamiliar where no training image is near: so are at most 1 % "
        "of images like those. Images are labelled as they are read, and what cannot be read is reported in its place."
    )
    parser.add_argument("model", help="a model folder (see `aurevoir fit --out`)")
    images = parser.add_argument(
        "images",
        nargs="+",
        default=[],
        help="image files; folders, tables of paths and tar files of them; or - for a path a line on stdin",
    )
    # With nargs="*" argparse takes none where an option comes before them.
    images.required = False
    parser.add_argument("--from", metavar="FILE", help="a file of such paths, one a line")
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="the K likeliest labels (default: 1)")
    parser.add_argument(
        "--coverage",
        type=fraction,
        metavar="C",
        help="list the labels that cannot be ruled out: for a share C of images like the training images the true one "
        "is among them",
    )
    parser.add_argument("--by-class", action="store_true", help="let --coverage hold for the images of each class")
    parser.add_argument(
        "--no-familiarity",
        action="store_true",
        help="do not compare images with the training images, of which a model keeps the bits",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print a CSV row an image")
    form.add_argument("--json-lines", action="store_true", help="print a JSON object a line, for each image")
    form.add_argument("--out", metavar="F.csv", help="write the CSV rows to this file as they come")
    form.add_argument("--resume", metavar="F.csv", help="the same, after the rows that an interrupted run has written")
    add_rebuild(parser)
    add_cluster_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | Iterator[str]:
    """Predict the label of each image: return all, or yield lines as they come, or write them to a file."""
    from ..cluster.connection import connected
    from ..errors import UsageError
    from ..images.listing import image_paths, open_list
    from ..transfer.classifier import load

    target = args.out or args.resume
    _check(args, target)
    if args.by_class and args.coverage is None:
        raise UsageError("--by-class is of prediction sets; give --coverage too")
    given = getattr(args, "from")
    listed = None if given is None else open_list(given)
    cluster = cluster_of(args)
    classifier = load(args.model, rebuild=args.rebuild)
    classifier.cluster = cluster
    if args.top > 1 and classifier.multilabel_:
        raise UsageError("--top is of labels that exclude each other; of several an image, all that it has are printed")
    paths = image_paths(args.images, listed)
    if target is None and not args.json:
        return _lines(args, classifier, paths)
    with connected(cluster):
        return _collected(args, classifier, paths) if target is None else _written(args, classifier, paths, target)


def _details(args: argparse.Namespace, classifier: "Classifier") -> "Details":
    from ..transfer.predictions import Details

    return Details(
        top=args.top,
        coverage=args.coverage,
        by_class=args.by_class,
        familiarity=classifier.keeps_training and not args.no_familiarity,
    )


def _check(args: argparse.Namespace, target: str | None) -> None:
    from ..errors import UsageError
    from ..saving import require_file_target
    from .outputs import refuse_inside

    if not args.images and getattr(args, "from") is None:
        raise UsageError("there are no images; give files, folders, - for a path a line on stdin, or --from FILE")
    if args.json and (args.csv or args.json_lines):
        raise UsageError(f"--json and {'--csv' if args.csv else '--json-lines'} are two forms of one result; give one")
    if target is not None:
        option = "--out" if args.out else "--resume"
        if Path(target).suffix.lower() != ".csv":
            raise UsageError(f"{option} {target} must end in .csv, the format that is written; give {target}.csv")
        refuse_inside(option, target, args.model)
        require_file_target(target)


class _Count:
    """What was read and what was not, with a progress bar where no results are seen."""

    def __init__(self, show: bool) -> None:
        from ..progress import progress_bar

        self.images = self.unreadable = 0
        self.first: dict[str, str] = {}
        self._bar = progress_bar(desc="predict", unit="img", show=show)

    def __enter__(self) -> "_Count":
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()

    def add(self, records: "list[Record]") -> None:
        bad = [each for each in records if "error" in each]
        if bad and not self.first:
            self.first = {bad[0]["path"]: bad[0]["error"]}
        self.images, self.unreadable = self.images + len(records), self.unreadable + len(bad)
        self._bar.update(len(records))

    def require_readable(self) -> None:
        if self.unreadable == self.images:
            raise none_readable(self.images, self.first)


def _collected(args: argparse.Namespace, classifier: "Classifier", paths: Iterator[Path]) -> dict[str, Any]:
    """Return all predictions as one object."""
    from ..transfer.predictions import predictions

    found: list[Record] = []
    with _Count(show=True) as count:
        for records in predictions(classifier, paths, _details(args, classifier)):
            found += records
            count.add(records)
    count.require_readable()
    return {
        "predictions": [each for each in found if "error" not in each],
        "skipped": {each["path"]: each["error"] for each in found if "error" in each},
    }


def _lines(args: argparse.Namespace, classifier: "Classifier", paths: Iterator[Path]) -> Iterator[str]:
    """Yield the lines of blocks of images as they come; none if no image at all can be read."""
    from ..cluster.connection import connected
    from ..transfer.csv_rows import csv_line, encoded
    from ..transfer.model import model_digest
    from ..transfer.prediction_file import columns, csv_lines, same_cells
    from ..transfer.predictions import predictions

    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    if args.csv and not on_terminal and isinstance(sys.stdout, io.TextIOWrapper):
        # As in a file of --out: names that are not UTF-8 keep their bytes.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    details = _details(args, classifier)
    names, same = columns(details), same_cells(model_digest(args.model), details)
    head = csv_line(names) if args.csv else ""

    def text(records: "list[Record]") -> str:
        if args.json_lines:
            return "".join(f"{json.dumps(each)}\n" for each in records)
        if args.csv:
            lines = csv_lines(records, names, same)
            return shown(lines) if on_terminal else encoded(lines).decode("utf-8", "surrogateescape")
        return "".join(f"{line(each)}\n" for each in records)

    with connected(cluster_of(args)), _Count(show=not on_terminal) as count:
        held: list[Record] = []
        for records in predictions(classifier, paths, details):
            count.add(records)
            if held or count.unreadable < count.images:
                yield head + text(held) + text(records)
                head, held = "", []
            else:
                held = records
    count.require_readable()


def _written(args: argparse.Namespace, classifier: "Classifier", paths: Iterator[Path], target: str) -> dict[str, Any]:
    """Write the predictions to a file as they come."""
    from ..images.sources import warn
    from ..transfer.model import model_digest
    from ..transfer.prediction_file import PredictionFile

    start = time.perf_counter()
    model, resume = model_digest(args.model), args.resume is not None
    details = _details(args, classifier)
    with PredictionFile(target, classifier, model, details, resume) as file, _Count(show=True) as count:
        try:
            for records in file.write(paths):
                count.add(records)
        except KeyboardInterrupt:
            warn(f"{file.rows} images are in {target}; go on with --resume {target}")
            raise
    if file.unreadable == file.rows:
        raise none_readable(file.rows, file.first_unreadable)
    return {
        "out": target,
        "images": file.rows,
        "new": count.images,
        "unreadable": count.unreadable,
        "images_per_second": count.images / (time.perf_counter() - start),
    }


def describe(result: dict[str, Any]) -> str:
    """Format one line per image, or where they were written what was."""
    if "out" in result:
        unread = f", {result['unreadable']} of them unreadable" if result["unreadable"] else ""
        return (
            f"{result['out']}: {result['images']} images; {result['new']} new ones{unread}, "
            f"{result['images_per_second']:.1f} images/s"
        )
    return "\n".join([*map(line, result["predictions"]), *skipped_lines(result["skipped"])])


def line(record: "Record") -> str:
    """Format the line of an image."""
    if "error" in record:
        return skipped_lines({record["path"]: record["error"]})[0]
    from ..transfer.csv_rows import label_text

    shown: list[Any] = record["top"] if "top" in record else record.get("labels", [record])
    labels = (f"{name(label_text(each['label']))} ({_certainty(each)})" for each in shown)
    parts = [", ".join(labels) or "no label"]
    if "set" in record:
        left = ", ".join(name(label_text(each)) for each in record["set"])
        parts.append(f"not ruled out: {left or 'none'}")
    if record.get("unfamiliar"):
        parts.append("unfamiliar")
    return f"{name(record['path'])}: {'; '.join(parts)}"


def _certainty(item: dict[str, Any]) -> str:
    return f"score {item['score']:+.3f}" if item["probability"] is None else f"{item['probability']:.3f}"
