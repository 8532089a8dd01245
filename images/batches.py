"""Prefetching: threads decode files while the engine computes a batch.

Pillow releases the GIL while it decodes and resizes, so threads suffice and no arrays are copied
between processes.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..limits import processors
from ..progress import progress_bar
from .decode import Resize, UnreadableImageError, check_channels, check_size, decode
from .decoded import Decoder
from .remote import REQUESTS, is_remote

T = TypeVar("T")
Batch = tuple[np.ndarray, np.ndarray]
"""Image indices, int64 of shape (b,), and pixels, uint8 of shape (b, height, width, channels)."""
File = tuple[str, str | None]
"""A file's path, and why it cannot be read, or None."""


@dataclass
class ImageFiles:
    """Image files as batches of pixels.

    Parameters
    ----------
    paths : sequence of paths
    size : (height, width), or int for squares
    resize : {"stretch", "crop"}
    workers : int, optional
        Decoding threads; by default one for each processor that this process may use.
    description : str, optional
        Label of the progress bar on stderr; None disables it.
    channels : {3, 1}
        RGB or grayscale.
    decoder : callable, optional
        What decodes a file, such as a method of `DecodedImages`; by default `decode`.

    Attributes
    ----------
    skipped : dict
        Reason for each file that could not be read; filled during decoding.
    """

    paths: Sequence[Path | str]
    size: tuple[int, int]
    resize: Resize = "stretch"
    workers: int | None = None
    description: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    channels: int = 3
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        check_channels(self.channels)
        self.size = check_size(self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, batch_size: int = 16) -> Iterator[Batch]:
        """Yield batches in the order of the paths; unreadable files are skipped."""
        kept: list[tuple[int, np.ndarray]] = []
        for index, pixels in self._readable(ahead=2 * batch_size):
            kept.append((index, pixels))
            if len(kept) == batch_size:
                yield _stack(kept)
                kept = []
        if kept:
            yield _stack(kept)

    def _readable(self, ahead: int) -> Iterator[tuple[int, np.ndarray]]:
        bar = progress_bar(total=len(self), desc=self.description, unit="img", show=self.description is not None)
        found = _decoded(self.paths, self.size, self.resize, self.channels, self.workers, ahead, self.decoder)
        with bar, closing(found):
            for index, (path, pixels) in enumerate(found):
                bar.update()
                if isinstance(pixels, UnreadableImageError):
                    self.skipped[str(path)] = str(pixels)
                else:
                    yield index, pixels


LONGEST_BATCH = 1024
"""Files after which a batch of a stream ends, however few of them can be read."""


@dataclass
class ImageStream:
    """Image files of any number as batches of pixels: paths are read as they are needed, and nothing is kept.

    A batch ends with so many readable images, or with `LONGEST_BATCH` files: then it may be short, or empty. Whoever
    is done with batches says so by `finish`, and `take` then has their files; batches after them may have been read.

    Parameters
    ----------
    paths : iterable of paths
    size, resize, workers, channels
        As of `ImageFiles`.
    """

    paths: Iterable[Path | str]
    size: tuple[int, int]
    resize: Resize = "stretch"
    workers: int | None = None
    channels: int = 3
    _read: deque[list[File]] = field(default_factory=deque, init=False, repr=False)
    _finished: list[File] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_channels(self.channels)
        self.size = check_size(self.size)

    def batches(self, batch_size: int = 16) -> Iterator[Batch]:
        """Yield batches in the order of the paths; their indices count all files."""
        found = _decoded(self.paths, self.size, self.resize, self.channels, self.workers, 2 * batch_size)
        with closing(found):
            for kept in self.gathered(found, batch_size):
                yield self._stacked(kept)

    def gathered(
        self, found: Iterable[tuple[Path | str, T | UnreadableImageError]], batch_size: int
    ) -> Iterator[list[tuple[int, T]]]:
        """Yield by batches the index of each readable file, and what was made of it.

        Parameters
        ----------
        found : iterable of pairs
            Each of the paths, in their order, and what was made of the file or why it cannot be read.
        batch_size : int
        """
        kept: list[tuple[int, T]] = []
        files: list[File] = []
        for index, (path, made) in enumerate(found):
            if isinstance(made, UnreadableImageError):
                files.append((str(path), str(made) or "cannot be read"))
            else:
                files.append((str(path), None))
                kept.append((index, made))
            if len(kept) == batch_size or len(files) == LONGEST_BATCH:
                self._read.append(files)
                yield kept
                kept, files = [], []
        if files:
            self._read.append(files)
            yield kept

    def _stacked(self, kept: list[tuple[int, np.ndarray]]) -> Batch:
        return _stack(kept) if kept else (np.empty(0, "int64"), np.empty((0, *self.size, self.channels), "uint8"))

    def finish(self, batches: int = 1) -> None:
        """Note that the next so many batches are done with."""
        for _ in range(batches):
            self._finished += self._read.popleft()

    def take(self) -> list[File]:
        """Return the files of the batches finished since the last call."""
        taken, self._finished = self._finished, []
        return taken


def _decoded(
    paths: Iterable[Path | str],
    size: tuple[int, int],
    resize: Resize,
    channels: int,
    workers: int | None,
    ahead: int,
    decoder: Decoder | None = None,
) -> Generator[tuple[Path | str, np.ndarray | UnreadableImageError], None, None]:
    """Yield files in the order of the paths, decoded by threads that are at most so many files ahead.

    Of files at URLs as many as are asked for at once.
    """
    pending: deque[tuple[Path | str, Future[np.ndarray]]] = deque()
    # Neither starts a thread before it has something to do.
    with (
        ThreadPoolExecutor(workers or processors(), thread_name_prefix="decode") as here,
        ThreadPoolExecutor(REQUESTS, thread_name_prefix="remote") as waiting,
    ):
        try:
            for path in paths:
                there = is_remote(path)
                pool = waiting if there else here
                pending.append((path, pool.submit(decoder or decode, path, size, resize, channels)))
                while len(pending) > (max(ahead, REQUESTS) if there else ahead):
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()


def _finished(path: Path | str, future: "Future[np.ndarray]") -> tuple[Path | str, np.ndarray | UnreadableImageError]:
    try:
        return path, future.result()
    except UnreadableImageError as error:
        return path, error


@dataclass
class ImageArray:
    """Decoded images as batches; the in-memory counterpart of `ImageFiles`."""

    pixels: np.ndarray
    description: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def skipped(self) -> dict[str, str]:
        """Always empty."""
        return {}

    def batches(self, batch_size: int = 16) -> Iterator[Batch]:
        """Yield views of the array, batch by batch."""
        with progress_bar(total=len(self), desc=self.description, unit="img", show=self.description is not None) as bar:
            for start in range(0, len(self), batch_size):
                pixels = self.pixels[start : start + batch_size]
                yield np.arange(start, start + len(pixels)), pixels
                bar.update(len(pixels))


Images = ImageFiles | ImageArray
"""Images that can be counted, and read more than once."""


def _stack(kept: list[tuple[int, np.ndarray]]) -> Batch:
    return np.array([index for index, _ in kept]), np.stack([pixels for _, pixels in kept])


def collect(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Decode all of `images` into one array; return them as one batch (indices, pixels).

    Files that cannot be read are left out: their paths and reasons are in ``images.skipped``, and the indices say
    which are there.
    """
    parts = list(images.batches())
    if not parts:
        return np.empty(0, dtype="int64"), np.empty((0, 0, 0, 3), dtype="uint8")
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def channel_statistics(batches: Iterable[Batch]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, for pixels scaled to [0, 1]."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for _, pixels in batches:
        values = pixels.reshape(-1, pixels.shape[-1]).astype("float64") / 255
        sums = values.sum(axis=0), np.square(values).sum(axis=0)
        total, squares = (total + sums[0], squares + sums[1]) if count else sums
        count += len(values)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 1e-12))
    return tuple(mean.tolist()), tuple(std.tolist())
