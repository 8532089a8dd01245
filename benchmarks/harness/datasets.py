"""Labelled images to train and test on: folders, or the demo's generated images."""

import argparse
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from ...engine.backbones.base import Backbone
from ...errors import DataError
from ...images.batches import ImageFiles, collect
from ...images.decode import Resize
from ...images.procedural import PATTERNS, draw, write_class_folders
from ...images.sources import Label, LabelledPaths, list_files
from ...transfer.evaluate import split, train_and_test
from ..contract import Cells, Json
from .engines import open_network

GENERATED = "generated"
GENERATED_PER_CLASS = 60
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """Decoded images, their class numbers, and the seconds that decoding took."""

    pixels: np.ndarray
    labels: np.ndarray
    decode: float


@dataclass(frozen=True)
class Dataset:
    """Training and test images.

    Attributes
    ----------
    name : str
        The folder's, or ``generated``.
    classes : list of str
    train, test : Part
    skipped : dict
        Unreadable files, each with the reason.
    """

    name: str
    classes: list[str]
    train: Part
    test: Part
    skipped: dict[str, str]

    def describe(self) -> Cells:
        """Return what a result says of its data."""
        return {
            "data": self.name,
            "classes": self.classes,
            "train_images": len(self.train.labels),
            "test_images": len(self.test.labels),
            "skipped": self.skipped,
        }


def caption(result: Json) -> str:
    """Return the network and the images of a result in words."""
    return (
        f"{result['network']}, weights {result['weights']}, {result['size']} x {result['size']}; {result['data']}: "
        f"{result['train_images']} training and {result['test_images']} test images of {len(result['classes'])} classes"
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `load_dataset` and `network_of` read."""
    parser.add_argument("--data", metavar="DIR", help="a folder of class folders (default: generated images)")
    parser.add_argument("--test", metavar="DIR", help="another to test on (default: a fifth of the images)")
    parser.add_argument(
        "--per-class", type=int, metavar="N", help="images a class at most (default: all; 60 where they are generated)"
    )
    parser.add_argument("--backbone", default="densenet169", help="a torchvision name or ONNX file (densenet169)")
    parser.add_argument("--weights", help="default, random or a file (default: random; an ONNX file's own)")
    parser.add_argument("--size", type=int, help="height and width of the images (default: the backbone's own)")
    parser.add_argument("--seed", type=int, default=0, help="of images, split and weights (default: 0)")


def network_of(args: argparse.Namespace) -> Backbone:
    """Open the backbone that the arguments name."""
    return open_network(args.backbone, args.weights, args.size, args.seed)


def folder_name(folder: str | Path) -> str:
    """Return the name of a data set in a folder; a part, such as ``ants/train``, has its parent's name."""
    return _own_name(Path(folder).resolve())


def shown_name(name: str, names: Collection[str]) -> str:
    """Return a data set's name without the folders around it, where it is the only one of that name."""
    short = [_own_name(PurePosixPath(each)) for each in names]
    own = _own_name(PurePosixPath(name))
    return own if own and short.count(own) == 1 else name


def _own_name(path: PurePath) -> str:
    return path.parent.name if path.name in PARTS else path.name


def load_dataset(args: argparse.Namespace, size: tuple[int, int]) -> Dataset:
    """Decode training and test images, each part at once."""
    with _paths(args, size[0]) as parts:
        classes = parts[0].names
        train, test = (_decode(part, classes, size, name) for part, name in zip(parts, ("train", "test"), strict=True))
    return Dataset(
        folder_name(args.data) if args.data else GENERATED, classes, train[0], test[0], {**train[1], **test[1]}
    )


@contextmanager
def _paths(args: argparse.Namespace, size: int) -> Iterator[tuple[LabelledPaths, LabelledPaths]]:
    if args.data:
        train, test = train_and_test(args.data, args.test, args.seed)
        if train.multilabel:
            raise DataError(f"{args.data} gives images several labels, and benchmarks take one an image")
        yield at_most(train, args.per_class, args.seed), at_most(test, args.per_class, args.seed)
        return
    with generated_images(args.per_class, size, args.seed) as labelled:
        yield split(labelled, args.seed)


@contextmanager
def generated_images(per_class: int | None, size: int, seed: int) -> Iterator[LabelledPaths]:
    """Write the demo's images into class folders, which last as long as the ``with`` block."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_class_folders(Path(folder), per_class or GENERATED_PER_CLASS, size, seed, True)


def chosen_images(pixels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return up to `count` images, chosen by the seed, in their order."""
    return pixels[np.sort(np.random.default_rng(seed).permutation(len(pixels))[:count])]


def procedural_images(count: int, size: int) -> np.ndarray:
    """Return generated images as uint8 of shape (count, size, size, 3)."""
    patterns = list(PATTERNS.values())
    random = np.random.default_rng(0)
    return np.stack([draw(patterns[number % len(patterns)], size, random) for number in range(count)])


def at_most(labelled: LabelledPaths, count: int | None, seed: int) -> LabelledPaths:
    """Return up to `count` images of each class, chosen by the seed; None keeps all."""
    if count is None:
        return labelled
    order = np.random.default_rng(seed).permutation(len(labelled.paths))
    chosen: dict[Label, list[int]] = {}
    for index in order:
        kept = chosen.setdefault(labelled.labels[index], [])
        if len(kept) < count:
            kept.append(int(index))
    indices = sorted(index for kept in chosen.values() for index in kept)
    return labelled.take(indices)


def _decode(part: LabelledPaths, classes: list[str], size: tuple[int, int], name: str) -> tuple[Part, dict[str, str]]:
    kept, pixels, seconds, skipped = decode_timed(part.paths, size, name)
    return Part(pixels, np.searchsorted(classes, np.array(part.labels)[kept]), seconds), skipped


def decode_timed(
    paths: Sequence[Path], size: tuple[int, int], name: str
) -> tuple[np.ndarray, np.ndarray, float, dict[str, str]]:
    """Decode image files at once.

    Returns
    -------
    kept : int array of shape (n,)
        Indices of the files that could be read.
    pixels : uint8 array of shape (n, height, width, 3)
    seconds : float
    skipped : dict
        The other files, each with the reason.

    Raises
    ------
    DataError
        If none could be read.
    """
    files = ImageFiles(paths, size, description=f"decode {name}")
    start = time.perf_counter()
    kept, pixels = collect(files)
    seconds = time.perf_counter() - start
    if not len(kept):
        raise DataError(f"none of the {len(files)} files of {name} holds a readable image")
    return kept, pixels, seconds, dict(files.skipped)


def photographs(
    folder: str | Path, count: int, shape: tuple[int, int, int], resize: Resize = "stretch", seed: int = 0
) -> np.ndarray:
    """Return up to `count` images of a folder, chosen and ordered by the seed, as uint8 of shape (n, *shape).

    Raises
    ------
    UsageError
        If there is no such folder.
    DataError
        If none can be read.
    """
    paths, (height, width, channels) = list_files(folder), shape
    chosen = [paths[index] for index in np.random.default_rng(seed).permutation(len(paths))[:count]]
    pixels = collect(ImageFiles(chosen, (height, width), resize, description="decode", channels=channels))[1]
    if not len(pixels):
        raise DataError(
            f"none of the {len(chosen)} files in {folder} is a readable image; give a folder of photographs"
        )
    return pixels
