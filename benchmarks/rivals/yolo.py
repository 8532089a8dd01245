"""YOLO label files: the boxes of an image, one a line: ``class x y width height``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError, UsageError
from ...images.sources import list_files


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Attributes
    ----------
    classes : int64 array of shape (b,)
    corners : float64 array of shape (b, 4)
        Left, top, right and bottom as shares of the image's width and height.
    """

    classes: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class BoxedImages:
    """Image files, each with its boxes, in the order of the names."""

    paths: list[Path]
    boxes: list[Boxes]


def boxed_images(folder: Path | str) -> BoxedImages:
    """List ``images/`` of a folder with the boxes in ``labels/``.

    An image without a label file has no boxes, as YOLO has it.

    Raises
    ------
    UsageError
        If the folder, or ``images`` or ``labels`` in it, does not exist.
    DataError
        If a label file is malformed, or no image has a box.
    """
    images, labels = Path(folder, "images"), Path(folder, "labels")
    paths = list_files(images)
    if not labels.is_dir():
        raise UsageError(f"{labels} is not a folder; put the label file of images/NAME.jpg at labels/NAME.txt")
    files = [(labels / path.relative_to(images)).with_suffix(".txt") for path in paths]
    boxes = [read_boxes(file) if file.exists() else _boxes([]) for file in files]
    if not any(len(each.classes) for each in boxes):
        raise DataError(
            f"none of the {len(paths)} images in {images} has a box; expected files such as {labels}/NAME.txt"
        )
    return BoxedImages(paths, boxes)


def read_boxes(path: Path | str) -> Boxes:
    """Read a label file; empty lines are passed over, and edges just outside the image moved onto its border.

    Raises
    ------
    DataError
        If a line is malformed; the message names file and line and says what is wrong.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text("utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                rows.append(_row(line.split()))
            except ValueError as fault:
                raise DataError(
                    f"{path}, line {number}: {fault}; expected `class x y width height`, all but the class in [0, 1]"
                ) from None
    return _boxes(rows)


def _row(fields: list[str]) -> list[float]:
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields instead of 5")
    if not fields[0].isdecimal() or len(fields[0]) > 9:
        raise ValueError(f"class {fields[0]!r} is not a whole number from 0 on")
    names = ("x", "y", "width", "height")
    return [int(fields[0]), *(_share(name, text) for name, text in zip(names, fields[1:], strict=True))]


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} {text!r} is not a number") from None
    if not 0 <= value <= 1 or (value == 0 and name in ("width", "height")):
        raise ValueError(f"{name} {text} is not a share of the image's size")
    return value


def _boxes(rows: list[list[float]]) -> Boxes:
    values = np.array(rows, dtype="float64").reshape(-1, 5)
    centre, half = values[:, 1:3], values[:, 3:] / 2
    return Boxes(values[:, 0].astype("int64"), np.hstack([centre - half, centre + half]).clip(0, 1))
