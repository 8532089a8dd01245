"""Folders of as many photographs as are asked for: files of a data set in turn, and again where there are fewer."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...errors import UsageError
from ...images.sources import LabelledPaths
from ...transfer.evaluate import TEST_SHARE

# Of each side of a crop, drawn uniformly; the quality is that of common cameras' files.
_CROPPED, _QUALITY = (0.75, 1.0), 90


@contextmanager
def repeated(parts: Sequence[LabelledPaths], count: int, scratch: Path, crops: bool = False) -> Iterator[Path]:
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
    crops : bool
        Whether images are not the same twice: a file that was taken before is cropped at random, mirrored half of the
        time, and written as JPEG. Equal images make the kernel of a ridge singular, which photographs do not.

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
        place = partial(_place, part, folder / name, crops)
        with ThreadPoolExecutor() as pool:
            list(pool.map(place, range(images), islice(_in_turn(part), images)))
    yield folder
    shutil.rmtree(folder)


def _place(part: LabelledPaths, folder: Path, crops: bool, index: int, taken: tuple[int, bool]) -> None:
    row, again = taken
    source, target = part.paths[row], folder / str(part.labels[row]) / f"{index:07d}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if again and crops:
        # What cannot be read is passed on as it is, for each contestant to deal with.
        with suppress(OSError):
            _crop(source, target.with_suffix(".jpg"), index)
            return
    target = target.with_suffix(source.suffix)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _crop(source: Path, target: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    with Image.open(source) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    sides = [max(1, round(side * random.uniform(*_CROPPED))) for side in image.size]
    left, top = (int(random.integers(whole - side + 1)) for whole, side in zip(image.size, sides, strict=True))
    image = image.crop((left, top, left + sides[0], top + sides[1]))
    (ImageOps.mirror(image) if random.random() < 0.5 else image).save(target, quality=_QUALITY)


def _in_turn(part: LabelledPaths) -> Iterator[tuple[int, bool]]:
    """Yield rows of images without end, and whether each was taken before: of each class in turn, in random order."""
    labels = np.array(part.labels)
    rows = [np.random.default_rng(0).permutation(np.flatnonzero(labels == name)) for name in part.names]
    turn = 0
    while True:
        yield from ((int(own[turn % len(own)]), turn >= len(own)) for own in rows)
        turn += 1
