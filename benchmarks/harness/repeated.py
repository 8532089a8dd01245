"""Folders of as many photographs as are asked for: files of a data set in turn, repeated where there are fewer."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import UsageError
from ...images.sources import LabelledPaths
from ...transfer.evaluate import TEST_SHARE


@contextmanager
def repeated(parts: Sequence[LabelledPaths], count: int, scratch: Path) -> Iterator[Path]:
    """Yield a folder of ``train`` and ``test``, which have no file in common, with `count` images in all.

    Names are hard links, since symbolic ones to one file count once, or copies where files cannot be linked.

    Parameters
    ----------
    parts : (train, test)
        The files to take.
    count : int
        Of which a fifth are test images.
    scratch : Path
        Where the folder is made, until the end of the block.

    Raises
    ------
    UsageError
        If there is less than an image a class in either part.
    """
    tested = round(TEST_SHARE * count)
    folder = scratch / f"images-{count}"
    for part, name, images in zip(parts, ("train", "test"), (count - tested, tested), strict=True):
        if images < len(part.names):
            raise UsageError(f"--images {count} are too few for {len(part.names)} classes; give more")
        for index, row in zip(range(images), _in_turn(part), strict=False):
            source = part.paths[row]
            target = folder / name / str(part.labels[row]) / f"{index:07d}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source.resolve(), target)
            except OSError:
                shutil.copyfile(source, target)
    yield folder
    shutil.rmtree(folder)


def _in_turn(part: LabelledPaths) -> Iterator[int]:
    """Yield the rows of images without end: an image of each class in turn, in random order."""
    labels = np.array(part.labels)
    rows = [np.random.default_rng(0).permutation(np.flatnonzero(labels == name)) for name in part.names]
    turn = 0
    while True:
        yield from (int(own[turn % len(own)]) for own in rows)
        turn += 1
